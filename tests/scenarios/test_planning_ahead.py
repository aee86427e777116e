"""The next plan is begun while the one before it is being persisted; what that must never cost."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from structlog.testing import capture_logs

from controller import lines
from controller.core.model import codec
from controller.core.model.op import Op
from controller.core.model.requests import RequestKind
from controller.core.model.resources import Vector
from controller.core.model.task import Phase
from controller.store.base import Committed, Refused, RequestTooLarge, Transaction
from controller.store.memory import MemoryPending, MemoryStore
from tests.support.bench import HandClock, Stage, StagedReplica, observation, starts

TASKS = 150  # several transactions' worth


class SlowStore(MemoryStore):
    """Lets the test act while a commit of the leader is in flight: once it was `sent`, `before` it is
    applied, and `after`.
    """

    def __init__(self, clock: HandClock) -> None:
        super().__init__(clock)
        self.sent: Callable[[], None] = nothing
        self.before: Callable[[], None] = nothing
        self.after: Callable[[], None] = nothing

    def begin(self, transaction: Transaction, *, deadline: float) -> MemoryPending:
        self.sent()

        def result() -> Committed | Refused:
            self.before()
            outcome = self.commit(transaction, deadline=deadline)
            self.after()
            return outcome

        return MemoryPending(result)


def nothing() -> None:
    """Nothing happens."""


@pytest.fixture
def store() -> SlowStore:
    return SlowStore(HandClock())


@pytest.fixture
def stage(store: SlowStore) -> Stage:
    """A pool that has room for all, and TASKS that wait for it."""
    clock = store._clock
    assert isinstance(clock, HandClock)
    stage = Stage(store, clock)
    stage.pool(capacity={"cpu": TASKS})
    for number in range(TASKS):
        stage.submit(f"t{number:03}")
    return stage


@pytest.fixture
def leader(stage: Stage) -> StagedReplica:
    """A leader that has listed an empty engine."""
    leader = stage.replica()
    leader.list_engine()
    return leader


def all_started_once(stage: Stage, leader: StagedReplica) -> None:
    """Every task holds what it asked for, and was started once."""
    stage.check()
    assert stage.held() == {"cpu": str(TASKS)}
    assert sorted(starts(leader.effects)) == [f"t{number:03}-1" for number in range(TASKS)]


def test_the_next_plan_is_begun_while_one_is_in_flight(
    stage: Stage, store: SlowStore, leader: StagedReplica
) -> None:
    """It counts what that one changes: nothing is admitted twice, and the ledger is the sum of all."""
    begun = []
    store.before = lambda: begun.append(leader.planner.is_ahead)
    leader.run()
    assert begun[0]
    assert not begun[-1]
    committed = {task.status_mod for task in stage.model().tasks.values()}
    assert len(committed) == len(begun)  # none was refused
    all_started_once(stage, leader)


def test_the_next_plan_goes_before_the_model_shows_the_last_one(
    stage: Stage, store: SlowStore, leader: StagedReplica
) -> None:
    """The model shows it while the next one is in flight: what is planned then counts it."""
    shown, persisted = [], []
    store.sent = lambda: shown.append(leader.model.ledger("default").held)
    store.before = lambda: persisted.append(stage.model().ledger("default").held)
    leader.run()
    assert shown == [Vector(), *persisted[:-1]]  # what the commit before the last one has left
    assert len(set(persisted)) == len(persisted) > 2
    all_started_once(stage, leader)


def test_what_cannot_be_sent_is_planned_again_on_top_of_what_was_committed(
    stage: Stage, store: SlowStore, leader: StagedReplica
) -> None:
    """An etcd that was set up again takes smaller transactions only: the second is refused unsent."""
    sent = 0

    def grow_narrow() -> None:
        nonlocal sent
        sent += 1
        if sent == 2:
            assert leader.reconciler.following is None
            raise RequestTooLarge("too large")

    store.sent = grow_narrow
    leader.run()
    assert sent > 3
    all_started_once(stage, leader)


def test_what_is_committed_is_shown_when_the_term_ends(
    stage: Stage, store: SlowStore, leader: StagedReplica
) -> None:
    leader.reconciler.step()
    assert leader.model.tasks["t000"].status is None
    leader.leadership.end("test")
    leader.reconciler.close()
    assert leader.model.tasks["t000"].status == stage.model().tasks["t000"].status is not None
    assert leader.effects == []


def test_nothing_goes_first_while_other_messages_wait(
    stage: Stage, store: SlowStore, leader: StagedReplica
) -> None:
    """A leader without end of work takes in a new load of the store, and its own end."""
    leader.reconciler._receive = lambda _: True
    shown, persisted = [], []
    store.sent = lambda: shown.append(leader.model.ledger("default").held)
    store.before = lambda: persisted.append(stage.model().ledger("default").held)
    leader.run()
    assert shown == persisted
    all_started_once(stage, leader)


def test_effects_follow_the_commit_while_the_next_one_is_in_flight(
    stage: Stage, store: SlowStore, leader: StagedReplica
) -> None:
    """Neither before their own commit, nor only after the next one's answer."""
    committed: list[int] = []
    started: list[int] = []
    store.before = lambda: started.append(len(starts(leader.effects)))
    store.after = lambda: committed.append(
        sum(task.status is not None for task in stage.model().tasks.values())
    )
    leader.run()
    assert started == [0, *committed[:-1]]
    all_started_once(stage, leader)


def test_a_refused_plan_takes_the_next_one_with_it(
    stage: Stage, store: SlowStore, leader: StagedReplica
) -> None:
    """The task that somebody cancelled meanwhile is not admitted; of the others each is, once."""

    def cancel() -> None:
        store.before = nothing
        assert leader.planner.is_ahead
        stage.delete(stage.keys.task("t000"))

    store.before = cancel
    leader.sync()
    leader.run()
    stage.check()
    assert stage.held() == {"cpu": str(TASKS - 1)}
    assert len(starts(leader.effects)) == len(set(starts(leader.effects))) == TASKS - 1


def test_an_end_that_was_planned_with_it_is_planned_again(
    stage: Stage, store: SlowStore, leader: StagedReplica
) -> None:
    """The engine says it once; it is not lost with the plan that was begun."""
    leader.acknowledge(leader.run())
    leader.run()
    stage.request("t000", RequestKind.CANCEL)
    leader.sync()

    def end_another() -> None:
        store.sent = nothing
        leader.see(observation(("t001", 1), Phase.SUCCEEDED))

    def cancel_again() -> None:
        store.before = nothing
        assert leader.planner.is_ahead
        stage.request("t000", RequestKind.CANCEL)

    store.sent, store.before = end_another, cancel_again
    leader.run()
    stage.check()
    assert stage.state("t001") == "Succeeded"
    assert stage.held() == {"cpu": str(TASKS - 1)}


def test_a_ledger_that_changed_after_the_commit_is_not_written_over(
    stage: Stage, store: SlowStore, leader: StagedReplica
) -> None:
    """What the next plan was made from is what its plan before left, not what stands there when it is
    sent.
    """

    def raise_ledger() -> None:
        store.after = nothing
        held = stage.model().ledger("default").held + Vector.parse({"memory": "1"}, "")
        stage.put(stage.keys.ledger("default"), codec.encode_ledger(held, Op("by hand"), {}))

    store.after = raise_ledger
    leader.reconciler.step()
    leader.sync()  # the watch brings it before the next plan is sent
    leader.run()
    assert stage.held() == {"cpu": str(TASKS), "memory": "1"}
    assert len(starts(leader.effects)) == TASKS


def test_what_the_engine_says_of_a_task_in_flight_is_taken_after_the_commit(
    stage: Stage, store: SlowStore, leader: StagedReplica
) -> None:
    """A cancel is in flight; the end that is observed meanwhile is looked at after it, and counts once."""
    leader.acknowledge(leader.run())
    leader.run()
    stage.request("t000", RequestKind.CANCEL)
    leader.sync()
    ahead = []

    def end() -> None:
        store.sent = nothing
        leader.see(observation(("t000", 1), Phase.SUCCEEDED))

    store.sent = end
    store.before = lambda: ahead.append(leader.planner.is_ahead)
    leader.run()
    assert ahead == [False, False]
    stage.check()
    assert stage.state("t000") == "Succeeded"
    assert stage.held() == {"cpu": str(TASKS - 1)}


def test_what_was_persisted_is_told_although_the_term_ends(
    stage: Stage, store: SlowStore, leader: StagedReplica
) -> None:
    """The log has each transition; nothing is started any more."""
    with capture_logs() as logs:
        leader.reconciler.step()
        assert leader.reconciler.following is not None
        leader.leadership.end("test")
        leader.reconciler.close()
        leader.reconciler.close()
    persisted = sorted(task.id for task in stage.model().tasks.values() if task.status is not None)
    told = [one for entry in logs if entry["event"] == "transition" for one in entry[lines.EACH]]
    assert sorted(one["task"] for one in told) == persisted
    assert len(persisted) < TASKS
    assert leader.effects == []


def test_a_pool_that_becomes_shared_while_a_plan_is_begun_gets_its_shares_anew(store: SlowStore) -> None:
    """One end is planned while the pool is not shared, and an admission of that plan after it is again."""
    clock = store._clock
    assert isinstance(clock, HandClock)
    stage = Stage(store, clock)
    stage.pool(capacity={"cpu": 2}, sharing={})
    for name in ("a", "b"):
        stage.submit(name, owner=name)
    leader = stage.leader()
    leader.acknowledge(leader.run())
    stage.pool(capacity={"cpu": 2})
    stage.submit("c", owner="c")
    stage.submit("d", owner="d")
    stage.request("d", RequestKind.CANCEL)
    leader.sync()

    def ends() -> None:
        store.sent = nothing
        leader.see(observation(("a", 1), Phase.SUCCEEDED))

    def is_shared_again() -> None:
        store.after = nothing
        assert leader.planner.is_ahead
        stage.pool(capacity={"cpu": 2}, sharing={})
        leader.sync()

    leader.reconciler._receive = lambda _: True  # more has come: the plan that was begun takes it in
    store.sent, store.after = ends, is_shared_again
    leader.run()
    assert not stage.model().ledger("default").shares_are_whole
    leader.sync()
    leader.run()
    shares = stage.model().shares["default"]
    assert {owner: share.held for owner, share in shares.items() if share.held} == {
        owner: Vector({"cpu": 1000}) for owner in ("b", "c")
    }
    stage.check()
