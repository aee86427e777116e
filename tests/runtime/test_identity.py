"""Whole replicas whose engine is another one, becomes another one, or does not tell (fault 40)."""

from __future__ import annotations

from controller.client import Client
from controller.core.model.installation import EngineIdentity, EngineRecord, encode
from controller.core.model.lifecycle import State
from controller.core.model.op import Op
from controller.engine.base import EngineUnavailable
from controller.store.base import Guard, Put, Transaction
from tests.runtime.conftest import CLOCK, Start
from tests.support.running import RecordingEngine, RunningReplica, submit
from tests.support.waiting import wait_until


class IdentifiedEngine(RecordingEngine):
    """A null engine that says of itself what the test wants."""

    id = "e1"

    def identity(self) -> EngineIdentity:
        self._meddle("identity")
        return EngineIdentity(name=self.name, id=self.id)


def why_unready(replica: RunningReplica) -> str:
    checks = {check.name: check for check in replica.replica.facts().ready}
    check = checks["engine-identity"]
    return "" if check.ok else check.detail


def running(client: Client, task_id: str) -> None:
    submit(client, task_id, env={"TALLY_NULL_SECONDS": "600"})
    wait_until(lambda: client.get(task_id).state is State.RUNNING, "the attempt")


def unreachable() -> None:
    raise EngineUnavailable("unreachable")


def test_an_engine_that_never_told_keeps_its_replica_from_leading(start: Start, client: Client) -> None:
    engine = IdentifiedEngine(CLOCK)
    engine.on["identity"] = unreachable
    replica = start(engine=engine)
    wait_until(lambda: "unreachable" in why_unready(replica), "the reason")
    wait_until(
        lambda: any("unreachable" in each.engine_problem for each in client.replicas.all()),
        "the registration",
    )
    assert not replica.leads


def test_an_engine_that_falls_silent_ends_no_term(start: Start, client: Client) -> None:
    """Silence is no evidence: nothing is given up, and the one that led goes on when it is heard of again."""
    engine = IdentifiedEngine(CLOCK)
    replica = start(engine=engine)
    epoch = replica.until_leading()
    running(client, "a")
    for call in ("identity", "attempts", "watch"):
        engine.on[call] = unreachable
    wait_until(lambda: not all(check.ok for check in replica.replica.facts().ready), "the silence to show")
    assert why_unready(replica) == ""
    engine.on.clear()
    wait_until(lambda: all(check.ok for check in replica.replica.facts().ready), "its return")
    assert replica.epoch == epoch
    assert client.get("a").state is State.RUNNING


def test_a_leader_whose_engine_becomes_another_one_ends_its_term_before_it_believes_it(
    start: Start, client: Client
) -> None:
    engine, other = IdentifiedEngine(CLOCK), IdentifiedEngine(CLOCK)
    replica = start(engine=engine)
    replica.until_leading()
    running(client, "a")
    attempts, engine.id = engine._attempts, "e2"
    engine._attempts = other._attempts  # empty
    wait_until(lambda: "the recorded engine is null e1" in why_unready(replica), "the reason")
    wait_until(lambda: not replica.leads, "the end of its term")
    assert client.get("a").state is State.RUNNING
    assert client.get("a").attempt == 1
    engine._attempts, engine.id = attempts, "e1"
    replica.until_leading()
    assert client.get("a").state is State.RUNNING


def test_a_list_between_two_identities_proves_nothing(start: Start, client: Client) -> None:
    """The engine is exchanged between the question who it is and the list: what that lacks is not gone."""
    engine = IdentifiedEngine(CLOCK)
    replica = start(engine=engine)
    epoch = replica.until_leading()
    running(client, "a")
    attempts = engine._attempts

    def exchange() -> None:
        engine.on.clear()
        engine._attempts, engine.id = {}, "e2"

    engine.on["attempts"] = exchange
    wait_until(lambda: not replica.leads, "the end of its term")
    assert client.get("a").state is State.RUNNING
    engine._attempts, engine.id = attempts, "e1"
    replica.until_leading(after=epoch)
    assert client.get("a").state is State.RUNNING
    assert [str(attempt) for attempt, _ in engine.started] == ["a-1"]


def test_a_leader_whose_record_is_changed_ends_its_term(start: Start, client: Client) -> None:
    """And another replica, whose engine is the one that is recorded now, leads."""
    engine, other = IdentifiedEngine(CLOCK), IdentifiedEngine(CLOCK)
    other.id = "e2"
    first = start(engine=engine)
    first.until_leading()
    second = start(name="r2", engine=other)
    wait_until(lambda: "the recorded engine is null e1" in why_unready(second), "the second to follow")
    keys, store = client.keys, client.store
    item, _ = store.get(keys.engine, deadline=CLOCK.boottime() + 5)
    known, _ = store.get(keys.installation, deadline=CLOCK.boottime() + 5)
    assert item is not None
    assert known is not None
    installation = first.replica._mirror.model.installation
    assert installation is not None
    record = EngineRecord(engine=other.identity(), installation=installation.id)
    store.commit(
        Transaction((Guard(keys.engine, item.mod),), (Put(keys.engine, encode(record, Op("x"))),), Op("x")),
        deadline=CLOCK.boottime() + 5,
    )
    second.until_leading()
    wait_until(lambda: "the recorded engine is null e2" in why_unready(first), "the first to follow")
