"""Whole replicas against the faults of their leader key, their store and their engine; the records are
judged at the end.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest

from controller.client import Client
from controller.core.model import codec
from controller.core.model.lifecycle import State
from controller.core.model.model import Model
from controller.core.model.op import Op
from controller.core.model.resources import Vector
from controller.core.model.task import Status
from controller.core.model.validation import parse_spec
from controller.core.promise.finding import FindingSeverity
from controller.core.promise.invariants import check_model
from controller.engine.base import EngineError, EngineUnavailable
from controller.runtime.registrations import describe
from controller.store.base import Batch, Delete, Guard, Put, StoreUnavailable, Transaction
from controller.store.memory import MemoryStore
from controller.store.mirror import Changed
from controller.store.records import changes_of
from controller.views import freshness
from controller.views.replica import Check
from tests.runtime.conftest import CLOCK, CLUSTER, Start
from tests.support.history import replay_store
from tests.support.meddling import MeddledStore, answer_lost
from tests.support.running import RecordingEngine, RunningReplica, submit
from tests.support.waiting import wait_until


def check_records(client: Client, engine: RecordingEngine) -> None:
    """The invariants at every revision, and each attempt started once."""
    history = replay_store(client.store, CLUSTER, CLOCK.boottime() + 10)
    assert history.findings == []
    assert history.held() == {}
    model = Model()
    snapshot = client.store.load(client.keys.prefix, deadline=CLOCK.boottime() + 10)
    model.load(changes_of(client.keys, snapshot.items), snapshot.revision)
    assert [finding for finding in check_model(model) if finding.severity is not FindingSeverity.NOTICE] == []
    assert len(history.submitted) > 0


def finished(client: Client, ids: list[str], state: State = State.SUCCEEDED) -> None:
    """Wait until all tasks are in that state."""
    views = client.wait(ids, timeout_seconds=30)
    assert {view.state for view in views.values()} == {state}


def write(client: Client, key: str, value: bytes | None, lease: int = 0) -> None:
    """By hand."""
    change = Put(key, value, lease) if value is not None else Delete(key)
    current, _ = client.store.get(key, deadline=0)
    client.store.commit(
        Transaction((Guard(key, current.mod if current else 0),), (change,), Op("hand")),
        deadline=CLOCK.boottime() + 5,
    )


# -- the leader key
# --------------------------------------------------------------------------------------------------


def overwrite(client: Client) -> None:
    write(client, client.keys.leader, b'{"id": "impostor", "instance": "x"}')


def overwrite_with_a_lease(client: Client) -> None:
    client.store.grant(42, 2, deadline=CLOCK.boottime() + 5)
    write(client, client.keys.leader, b"\xff\xfe", lease=42)


def delete(client: Client) -> None:
    write(client, client.keys.leader, None)


def revoke(client: Client) -> None:
    leader, _ = client.store.get(client.keys.leader, deadline=0)
    assert leader is not None
    client.store.revoke(leader.lease, deadline=CLOCK.boottime() + 5)


def step_down(client: Client) -> None:
    client.replicas.step_down()


@pytest.mark.parametrize("harm", [overwrite, overwrite_with_a_lease, delete, revoke, step_down])
def test_a_leader_whose_key_is_no_longer_its_own_steps_down(
    start: Start, client: Client, harm: Callable[[Client], None]
) -> None:
    """Whatever was done to the key by hand: that term ends, another follows, and the work goes on."""
    engine = RecordingEngine(CLOCK)
    replicas = [start(name="r1", engine=engine), start(name="r2", engine=engine)]
    first = wait_until(lambda: max(replica.epoch for replica in replicas), "a leader")
    ids = submit(client, "a", "b", env={"TALLY_NULL_SECONDS": "600"})
    wait_until(lambda: len(engine.started) == 2, "attempts")
    harm(client)
    wait_until(lambda: max(replica.epoch for replica in replicas) > first, "the next term")
    for attempt, _ in engine.started:
        engine.end(attempt)
    finished(client, [*ids, *submit(client, "c", "d")])
    assert not any(replica.fatal for replica in replicas)
    assert sorted(str(attempt) for attempt, _ in engine.started) == ["a-1", "b-1", "c-1", "d-1"]
    if harm in (delete, revoke, step_down):
        check_records(client, engine)


def test_what_the_next_leader_admits_between_two_plans_is_not_started(
    start: Start, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Effects alone meet no fence.

    The news of the next leader and of its admission arrive together, as the old one plans on.
    """
    replica = start()
    replica.until_leading()
    tenure, inbox, engine = replica.replica._office.tenure, replica.replica._inbox, replica.engine
    assert tenure is not None
    assert isinstance(engine, RecordingEngine)
    step, told = tenure.step, threading.Event()

    def step_and_be_deposed() -> bool:
        has_more = step()
        if has_more and not told.is_set():
            overwrite(client)
            admitted = Status(
                state=State.PENDING, pool="default", created_at=1.0, attempt=1, hold=Vector({"cpu": 100})
            )
            spec = parse_spec({"id": "theirs", "command": ["x"], "resources": {"cpu": "100m"}})
            write(client, client.keys.task("theirs"), codec.encode_spec(spec, 1.0, Op("hand")))
            write(client, client.keys.state("theirs"), codec.encode_status(admitted, {}))
            item, _ = client.store.get(client.keys.state("theirs"), deadline=0)
            assert item is not None
            messages: list[Any] = []
            while not any(
                isinstance(message, Changed) and message.revision >= item.mod for message in messages
            ):
                messages += inbox.take(10)
            for message in messages:
                inbox.put(message)
            told.set()
        return has_more

    monkeypatch.setattr(tenure, "step", step_and_be_deposed)
    submit(client, "ours")
    assert told.wait(20)
    wait_until(lambda: replica.replica._office.tenure is not tenure, "the end of its term")
    assert "theirs-1" not in [str(attempt) for attempt, _ in engine.started]


# -- commits
# ---------------------------------------------------------------------------------------------------------


def test_an_unknown_outcome_ends_the_term_and_the_next_finds_what_was_written(
    start: Start, memory: MemoryStore, client: Client
) -> None:
    """The admission is applied, nobody hears of it: the next term starts that very attempt, and no other."""
    store = MeddledStore(memory.client())
    replica = start(store)
    first = replica.until_leading()
    store.on["commit"] = lambda real, transaction, **kwargs: (
        answer_lost(real, transaction, **kwargs)
        if any("/states/" in w.key for w in transaction.writes) and store.on.pop("commit", None) is not None
        else real(transaction, **kwargs)
    )
    ids = submit(client, "a")
    finished(client, ids)
    assert replica.epoch > first
    engine = replica.engine
    assert isinstance(engine, RecordingEngine)
    assert [str(attempt) for attempt, _ in engine.started] == ["a-1"]
    check_records(client, engine)


def test_what_was_written_since_an_answer_was_lost_does_not_tell_when_it_was_applied(
    start: Start, memory: MemoryStore, client: Client
) -> None:
    """The admission is applied, its answer is lost, and a hand writes the same ledger again.

    The value carries the plan's `op`, and is younger than its other keys.
    """
    store = MeddledStore(memory.client())
    replica = start(store)
    first = replica.until_leading()

    def lose(real: Callable[..., Any], transaction: Transaction, **kwargs: Any) -> Any:
        ledger = next((w for w in transaction.writes if "/ledgers/" in w.key), None)
        if ledger is None or store.on.pop("commit", None) is None:
            return real(transaction, **kwargs)
        real(transaction, **kwargs)
        write(client, ledger.key, cast("Put", ledger).value)
        answer = real(transaction, **kwargs)
        assert answer.recovered
        return answer

    store.on["commit"] = lose
    ids = submit(client, "a")
    finished(client, ids)
    assert replica.epoch == first
    engine = replica.engine
    assert isinstance(engine, RecordingEngine)
    assert [str(attempt) for attempt, _ in engine.started] == ["a-1"]
    history = replay_store(client.store, CLUSTER, CLOCK.boottime() + 10)
    (copy,) = history.findings
    assert "once: the transaction" in copy  # the hand's
    assert history.held() == {}


def test_a_store_that_does_not_answer_ends_the_term_and_no_hold(
    start: Start, memory: MemoryStore, client: Client
) -> None:
    store = MeddledStore(memory.client())
    replica = start(store)
    first = replica.until_leading()
    ids = submit(client, "a", env={"TALLY_NULL_SECONDS": "600"})
    engine = replica.engine
    assert isinstance(engine, RecordingEngine)
    wait_until(lambda: engine.started, "the attempt")
    cut_off(store, True)
    wait_until(lambda: not replica.leads, "the end of its term")
    assert client.get("a").state in (State.PENDING, State.RUNNING)
    cut_off(store, False)
    replica.until_leading(after=first)
    engine.end(engine.started[0][0])
    finished(client, ids)
    check_records(client, engine)


def cut_off(store: MeddledStore, cut: bool) -> None:
    """No call is answered any more, or all are again."""

    def unanswered(_real: Any, *_args: Any, **_kwargs: Any) -> Any:
        raise StoreUnavailable("no answer (the test's doing)")

    store.on = (
        dict.fromkeys(("get", "load", "pages", "commit", "grant", "keep_alive", "revoke"), unanswered)
        if cut
        else {}
    )


# -- the watch
# -------------------------------------------------------------------------------------------------------


class DeadWatch:
    """Connected, and silent for ever."""

    def __init__(self) -> None:
        self._closed = threading.Event()

    def __iter__(self) -> Iterator[Batch]:
        self._closed.wait()
        return iter(())

    def close(self) -> None:
        self._closed.set()


class Severable:
    """Passes a watch on until it is severed; from then on it is silent."""

    def __init__(self, watch: Any, severed: threading.Event) -> None:
        self._watch = watch
        self._severed = severed

    def __iter__(self) -> Iterator[Batch]:
        for batch in self._watch:
            if self._severed.is_set():
                return
            yield batch

    def close(self) -> None:
        self._watch.close()


def test_a_leader_whose_watch_is_dead_does_not_stay(
    start: Start, memory: MemoryStore, client: Client
) -> None:
    """Its lease is renewed, its commits would pass; but it hears of no submission."""
    store, severed = MeddledStore(memory.client()), threading.Event()

    def watch(real: Any, *args: Any, **kwargs: Any) -> Any:
        return DeadWatch() if severed.is_set() else Severable(real(*args, **kwargs), severed)

    store.on["watch"] = watch
    store.on["pages"] = lambda real, *args, **kwargs: cut_load(real, severed, *args, **kwargs)
    deaf = start(store, "deaf", silence_seconds=0.5)
    first = deaf.until_leading()
    other = start(name="other", engine=deaf.engine)
    severed.set()
    wait_until(lambda: not deaf.leads, "the end of its term")
    finished(client, submit(client, "a"))
    assert other.until_leading(after=first)


def cut_load(real: Any, severed: threading.Event, *args: Any, **kwargs: Any) -> Any:
    if severed.is_set():
        raise StoreUnavailable("no answer (the test's doing)")
    return real(*args, **kwargs)


def test_a_candidate_whose_model_does_not_reach_its_term_lets_go(
    start: Start, memory: MemoryStore, client: Client
) -> None:
    """Its watch was dead from the beginning: it is elected, hears nothing, and resigns, again and again;
    another leads.
    """
    store = MeddledStore(memory.client())
    store.on["watch"] = lambda _real, *_args, **_kwargs: DeadWatch()
    deaf = start(store, "deaf", silence_seconds=0.3)
    wait_until(lambda: client.store.get(client.keys.epoch, deadline=0)[0], "its election")
    other = start(name="other", engine=deaf.engine)
    finished(client, submit(client, "a"))
    assert other.leads
    assert deaf.replica.facts().phase in ("starting", "following")


def test_compaction_during_the_watch_means_a_reload(
    start: Start, memory: MemoryStore, client: Client
) -> None:
    """What was deleted meanwhile is gone from the model too."""
    replica = start()
    replica.until_leading()
    ids = submit(client, *(f"t{n}" for n in range(20)), retention_seconds=0.1)
    for _ in range(20):
        memory.compact(memory.get(client.keys.epoch, deadline=0)[1])
    wait_until(lambda: not any(view.id in ids for view in client.tasks()), "the end of their retention")
    with replica.replica.reading() as model:
        wait_until(lambda: not model.tasks, "the model's forgetting")
    assert replica.leads


# -- the engine
# ------------------------------------------------------------------------------------------------------


def unavailable() -> None:
    raise EngineUnavailable("no answer (the test's doing)", retry_after=0.05)


def test_while_the_engine_is_silent_nothing_is_concluded(start: Start, client: Client) -> None:
    """No hold is freed, nothing is admitted, the reason is shown; when it answers again, all goes on."""
    engine = RecordingEngine(CLOCK)
    replica = start(engine=engine)
    replica.until_leading()
    ids = submit(client, "running", env={"TALLY_NULL_SECONDS": "600"})
    wait_until(lambda: client.get("running").state is State.RUNNING, "the attempt")
    engine.on = dict.fromkeys(("attempts", "watch", "start", "stop"), unavailable)
    with engine._changed:
        engine._news.clear()
    wait_until(
        lambda: any(not c.ok and c.name == "engine" for c in replica.replica.facts().ready),
        "the engine's silence, shown",
    )
    ids += submit(client, "waiting")
    client.cancel("running")
    wait_until(
        lambda: (status := client.get("running").status) and status.stopping, "the cancellation, recorded"
    )
    assert client.get("running").state is State.RUNNING
    assert client.get("waiting").state is State.CREATED
    engine.on = {}
    finished(client, ["waiting"])
    finished(client, ["running"], State.CANCELLED)
    assert [str(attempt) for attempt in engine.stopped] == ["running-1"]
    check_records(client, engine)


def test_an_engine_whose_calls_hang_is_known_as_silent_by_its_age(
    start: Start, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A list that neither answers nor fails says nothing: readiness goes by the age of the last answer
    (fault 46).
    """
    monkeypatch.setattr(freshness, "LIST_SECONDS", 0.3)
    engine, released = RecordingEngine(CLOCK), threading.Event()
    replica = start(engine=engine)
    replica.until_leading()

    def shown() -> Check:
        return next(check for check in replica.replica.facts().ready if check.name == "engine")

    wait_until(lambda: shown().ok and " answered " in shown().detail, "the engine's answer, shown")
    engine.on["attempts"] = lambda: cast(None, released.wait(30))
    wait_until(lambda: not shown().ok, "the engine's silence, shown")
    assert "does not answer, and answered last" in shown().detail
    assert describe(replica.replica.facts(), 0.0)["engine_answers"] is False
    engine.on = {}
    released.set()
    wait_until(lambda: shown().ok, "the engine's answer again")


_SILENT = EngineUnavailable("no answer", retry_after=0.05)


@pytest.mark.parametrize(
    ("call", "error"), [("start", _SILENT), ("stop", _SILENT), ("start", EngineError("odd"))]
)
def test_effects_that_fail_are_tried_again(
    start: Start, client: Client, call: str, error: EngineError
) -> None:
    engine, failures = RecordingEngine(CLOCK), iter(range(2 if isinstance(error, EngineUnavailable) else 1))

    def fail() -> None:
        if next(failures, None) is not None:
            raise error

    engine.on[call] = fail
    start(engine=engine).until_leading()
    ids = submit(client, "a", env={"TALLY_NULL_SECONDS": "0" if call == "start" else "600"})
    if call == "stop":
        wait_until(lambda: client.get("a").state is State.RUNNING, "the attempt")
        client.cancel("a")
    finished(client, ids, State.SUCCEEDED if call == "start" else State.CANCELLED)
    assert next(failures, None) is None
    check_records(client, engine)


def test_an_effect_that_does_not_end_costs_the_process(
    start: Start, memory: MemoryStore, client: Client
) -> None:
    """Within a second of the loss of leadership; and of what was queued behind it nothing begins."""
    entered, release = threading.Event(), threading.Event()
    engine = RecordingEngine(CLOCK)

    def block() -> None:
        entered.set()
        release.wait(30)

    engine.on["start"] = block
    replica = start(engine=engine, workers=1)
    replica.until_leading()
    submit(client, "a", "b", "c")
    assert entered.wait(10)
    client.replicas.step_down()
    wait_until(lambda: replica.fatal, "the end of the process", timeout=5)
    assert replica.fatal == ["an effect did not end within a second of the loss of leadership"]
    replica.close()
    engine.on = {}
    release.set()
    wait_until(
        lambda: not any(t.name.startswith("actuator") for t in threading.enumerate()), "the actuator's end"
    )
    assert [str(attempt) for attempt, _ in engine.started] in ([], ["a-1"])


# -- coming and going
# ------------------------------------------------------------------------------------------------


def test_a_stop_hands_over_without_waiting_for_the_lease(
    start: Start, memory: MemoryStore, client: Client
) -> None:
    engine = RecordingEngine(CLOCK)
    first, second = start(name="r1", engine=engine), start(name="r2", engine=engine)
    leader = wait_until(lambda: next((r for r in (first, second) if r.leads), None), "a leader")
    follower = second if leader is first else first
    epoch = leader.epoch
    ids = submit(client, *(f"t{n}" for n in range(50)), env={"TALLY_NULL_SECONDS": "0.01"})
    leader.close()
    follower.until_leading(after=epoch)
    finished(client, ids)
    item, _ = client.store.get(client.keys.term(epoch), deadline=0)
    assert item is not None
    assert codec.decode_mapping(item.value)["why"] == "the replica stops"
    assert [r.id for r in client.replicas.all()] == [follower.name]
    check_records(client, engine)


def test_a_replica_ends_all_its_threads(memory: MemoryStore, client: Client) -> None:
    before = set(threading.enumerate())
    with RunningReplica(memory.client(), cluster=CLUSTER) as replica:
        replica.until_leading()
        finished(client, submit(client, "a"))
    wait_until(lambda: set(threading.enumerate()) <= before, "the end of all threads")


def test_two_replicas_of_one_name_are_both_registered(start: Start, client: Client) -> None:
    """The second under a name of its own, until the first is free; each led by its instance, not by its
    name.
    """
    first, second = start(name="twin"), start(name="twin")
    wait_until(lambda: len(client.replicas.all()) == 2, "both registrations")
    assert sum(replica.leads for replica in (first, second)) <= 1
    assert {r.id == "twin" or r.id.startswith("twin-twin") for r in client.replicas.all()} == {True}
    registered_first = next(r for r in (first, second) if r.replica._registration._registered_as == "twin")
    other = second if registered_first is first else first
    registered_first.close()
    wait_until(lambda: other.replica._registration._registered_as == "twin", "the name, free again")
    wait_until(lambda: [r.id for r in client.replicas.all()] == ["twin"], "one registration")


def test_foreign_damaged_and_newer_values_are_left_alone_and_the_rest_goes_on(
    start: Start, client: Client
) -> None:
    """Also fields that a newer version has added: they survive what this one writes."""
    keys, prefix = client.keys, client.keys.prefix
    junk = {
        prefix + "tasks/junk": b"\xff",
        prefix + "tasks/Not_A_Name": b"{}",
        prefix + "states/junk2": b"[1]",
        prefix + "pools/junk": b"{}",
        prefix + "ledgers/broken": b"no",
        prefix + "requests/a/odd": b"{}",
        prefix + "requests/a/cancel": b"not json",
        prefix + "unheard/of": b"x",
        prefix + "leader/x": b"x",
        prefix + "terms/odd": b"?",
    }
    for key, value in junk.items():
        write(client, key, value)
    engine = RecordingEngine(CLOCK)
    start(engine=engine).until_leading()
    finished(client, submit(client, "b", "c"))
    ids = submit(client, "newer", env={"TALLY_NULL_SECONDS": "600"})
    wait_until(lambda: client.get("newer").state is State.RUNNING, "the attempt")
    item, _ = client.store.get(keys.state("newer"), deadline=0)
    assert item is not None
    write(
        client,
        keys.state("newer"),
        codec.encode({**codec.decode_mapping(item.value), "newer_field": {"kept": [1]}}),
    )
    client.cancel("newer")
    finished(client, ids, State.CANCELLED)
    item, _ = client.store.get(keys.state("newer"), deadline=0)
    assert item is not None
    assert codec.decode_mapping(item.value)["newer_field"] == {"kept": [1]}
    for key, value in junk.items():
        found, _ = client.store.get(key, deadline=0)
        assert found is not None, key
        assert found.value == value, f"{key} was touched"


def test_an_engine_that_is_back_is_asked_soon_and_its_silence_is_explained(
    start: Start, client: Client
) -> None:
    """Not only at the turn of the next full list, an hour later; until then a task that waits says what
    the engine said.
    """
    engine = RecordingEngine(CLOCK, run_seconds=0.0)
    replica = start(engine=engine, relist_seconds=3600.0)
    replica.until_leading()
    engine.on["attempts"] = unavailable
    tenure = replica.replica._office.tenure
    assert tenure is not None
    tenure._observer.relist()
    wait_until(lambda: tenure.engine_silence is not None, "the engine being silent")
    (task,) = submit(client, "waits")
    wait_until(lambda: "no answer (the test's doing)" in client.explain(task), "the silence being explained")
    assert "nothing is admitted" in client.explain(task)
    del engine.on["attempts"]
    assert client.wait([task], timeout_seconds=60)[task].state is State.SUCCEEDED
