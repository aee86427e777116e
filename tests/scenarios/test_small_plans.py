"""What one pool, or one large record, cannot have is no reason to keep others waiting."""

from __future__ import annotations

import pytest

from controller.core.model.op import Op
from controller.core.model.queue import Queue
from controller.core.model.requests import RequestKind
from controller.core.model.schedules import KIND, encode_schedule, parse_schedule
from controller.core.model.task import Phase
from controller.core.planning.accounts import AGAIN_SECONDS, Accounts
from controller.store.base import Committed, Refused, RequestTooLarge, Transaction
from controller.store.memory import MemoryPending, MemoryStore
from tests.support.bench import HandClock, Stage, observation, starts

LIMIT = 512 * 1024
BEFORE_MIDNIGHT = 1_796_083_200.0 - 100


class SmallStore(MemoryStore):
    """An etcd with a --max-request-bytes below the default."""

    def begin(self, transaction: Transaction, *, deadline: float) -> MemoryPending:
        _check(transaction)
        return super().begin(transaction, deadline=deadline)

    def commit(self, transaction: Transaction, *, deadline: float) -> Committed | Refused:
        _check(transaction)
        return super().commit(transaction, deadline=deadline)


def _check(transaction: Transaction) -> None:
    if transaction.size() > LIMIT:
        raise RequestTooLarge(f"etcdserver: request is too large ({transaction.size()})")


def test_records_that_are_too_large_together_are_written_one_by_one() -> None:
    """Eight schedules that are due at once, each with a large task."""
    clock = HandClock(1_700_000_000.0)
    stage = Stage(SmallStore(clock), clock)
    stage.turn_on_all()
    stage.pool()
    for number in range(8):
        task = {"command": ["true"], "env": {"BIG": 120_000 * "x"}}
        schedule = parse_schedule({"name": f"s{number}", "cron": "* * * * *", "task": task})
        key = stage.keys.of(KIND, (f"s{number}",))
        stage.put(key, encode_schedule(schedule, Op(f"u/s{number}")))
    leader = stage.leader()
    leader.run()
    clock.move(90)
    leader.sync()
    leader.run()
    assert len({name.partition("-")[0] for name in stage.model().tasks}) == 8


def test_a_pool_whose_day_cannot_be_closed_keeps_no_other_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor itself for longer than a minute, nor does the leader run in circles meanwhile."""
    clock = HandClock(BEFORE_MIDNIGHT)
    stage = Stage(clock=clock)
    stage.pool("a", capacity={"cpu": 50}, sharing={"owners": {}})
    stage.pool("b", capacity={"cpu": 50})
    names = [f"{pool}{number}" for pool in "ab" for number in range(5)]
    for name in names:
        stage.submit(name, pool=name[0])
    leader = stage.leader()
    leader.acknowledge(leader.run())
    leader.see(*(observation((name, 1), Phase.RUNNING) for name in names))
    leader.run()

    def fails(*_: object, **__: object) -> None:
        raise ZeroDivisionError("for a while")

    with monkeypatch.context() as patch:
        patch.setattr(Accounts, "_close", fails)
        clock.move(200)
        leader.run()
        leader.see(*(observation((name, 1), Phase.SUCCEEDED, exit_code=0) for name in names))
        leader.run()
        assert {name: stage.state(name) for name in names} == {
            name: "Running" if name[0] == "a" else "Succeeded" for name in names
        }
        wakes_in = leader.reconciler.next_wake_seconds()
        assert wakes_in is not None
        assert 0 < wakes_in <= AGAIN_SECONDS
    clock.move(AGAIN_SECONDS + 1)
    leader.run()
    assert {stage.state(name) for name in names} == {"Succeeded"}
    stage.check()


def test_an_error_of_an_admission_holds_nothing_that_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is the pool's ledger said to be unreadable; admissions go on a minute later."""
    stage = Stage()
    stage.pool()
    stage.submit("runs")
    leader = stage.leader()
    leader.run_to("runs", Phase.RUNNING)

    def fails(*_: object, **__: object) -> None:
        raise ZeroDivisionError("for a while")

    with monkeypatch.context() as patch:
        patch.setattr(Queue, "admissible", fails)
        stage.submit("next")
        leader.sync()
        leader.run()
        leader.see(observation(("runs", 1), Phase.SUCCEEDED, exit_code=0))
        leader.run()
        assert stage.state("runs") == "Succeeded"
        assert leader.model.quarantine == {}
    wakes_in = leader.reconciler.next_wake_seconds()
    assert wakes_in is not None
    assert 0 < wakes_in <= AGAIN_SECONDS
    stage.clock.move(AGAIN_SECONDS + 1)
    assert starts(leader.run()) == ["next-1"]


def test_what_is_set_aside_or_served_by_nobody_stops_no_planning_ahead() -> None:
    """A task that is set aside, and a gang whose retry waits for its end, may stay so for days."""
    stage = Stage()
    stage.turn_on_all()
    stage.pool()
    stage.submit("g", array={"size": 2, "gang": True})
    leader = stage.leader()
    leader.acknowledge(leader.run())
    stage.request("g", RequestKind.RETRY)
    leader.sync()
    leader.run()
    assert not leader.planner.mending.is_due(stage.clock.now())
    stage.submit("aside")
    leader.sync()
    now = stage.clock.now()
    leader.planner.set_aside("aside", "planning", ZeroDivisionError("once"), now)
    assert leader.planner.mending.is_due(now)
    leader.run()
    assert "aside" in stage.model().asides
    assert not leader.planner.mending.is_due(now)


@pytest.mark.parametrize("cancelled", [33, 38])
def test_what_finds_no_room_while_a_ledger_cannot_be_written_comes_into_the_next_plan(cancelled: int) -> None:
    """It changes no hold: its refusal compares 30 parents, beside what is cancelled in the same plan."""
    stage = Stage()
    stage.pool()
    leader = stage.leader()
    stage.put(stage.keys.ledger("default"), b"{")
    parents, others = [f"p{n}" for n in range(30)], [f"w{n}" for n in range(cancelled)]
    for names in (parents, others):
        for name in names:
            stage.submit(name)
        leader.sync()
        leader.run()
        for name in names:
            stage.request(name, RequestKind.CANCEL)
        if names is others:
            stage.submit("child", after=parents)
        leader.sync()
        leader.run()
    assert {stage.state(name) for name in (*parents, *others)} == {"Cancelled"}
    assert stage.state("child") == "Failed"
