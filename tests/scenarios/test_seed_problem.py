"""Why Tally exists, as tests: what several replicas do to one balance, and what guards it.

The first part lets backends run as they are written at first (`controller.dev.demo.backend`). They give back
what they never took, lose what they had, and let two tasks run on one unit. No luck is needed for that: a
replica that has read is held up until others have written. A busy system does the same, sooner or later.

The second part lets Tally's replicas run through the same. They even take themselves all to be the leader.
Each unit is held once and released once.

All of it runs on a store in memory and on a real etcd, so it is etcd that judges the guards.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import TypeVar

import pytest
from structlog.testing import capture_logs

from controller.core.model.lifecycle import State
from controller.core.model.task import Phase
from controller.dev.demo.backend import RUNNING, Backend
from controller.election.term import LeadershipLost
from controller.store.base import Committed, Delete, Guard, KeyValue, Put, Store, Transaction, new_op
from controller.store.etcd.gateway import GatewayOptions
from controller.store.etcd.store import EtcdStore
from controller.store.memory import MemoryStore
from tests.support.bench import HandClock, Stage, StagedReplica, observation, starts

T = TypeVar("T")


@pytest.fixture
def clock() -> HandClock:
    """It stands still: nothing here is a matter of time."""
    return HandClock()


@pytest.fixture(params=["memory", "etcd"])
def store(request: pytest.FixtureRequest, clock: HandClock) -> Iterator[Store]:
    """One in memory, and a real etcd."""
    if request.param == "memory":
        yield MemoryStore(clock)
        return
    etcd = request.getfixturevalue("etcd")
    with closing(EtcdStore(GatewayOptions((etcd.url,)), clock)) as real:
        yield real


# -- The problem: backends as they are written at first -----------------------------------------------------


class Naive:
    """Three replicas of such a backend, and a pool of 4 units."""

    def __init__(self, store: Store, prefix: str, clock: HandClock) -> None:
        self.replicas = [Backend(store, prefix, clock) for _ in range(3)]
        self._store = store
        self._prefix = prefix
        self._deadline = clock.boottime() + 5

    def run(self, *tasks: int) -> None:
        """These tasks run, and nobody has interfered so far."""
        self.replicas[0].set_free(4)
        assert all(self.replicas[0].acquire(task) for task in tasks)

    def together(self, act: Callable[[Backend, int], T], *tasks: int) -> list[T]:
        """The nth replica acts on the nth task. All of them read, and only then do they write."""
        actors = list(zip(self.replicas, tasks, strict=False))
        answers: dict[Backend, T] = {}

        def act_from(number: int) -> None:
            if number < len(actors):
                replica, task = actors[number]
                held_up(replica, lambda: act_from(number + 1))
                answers[replica] = act(replica, task)

        act_from(0)
        return [answers[replica] for replica, _ in actors]

    def elect(self) -> Guard:
        """A new leader; returns what its fence compares."""
        leader = f"{self._prefix}leader"
        self._commit(Delete(leader))
        return Guard(leader, self._commit(Put(leader, b"somebody")), on_create=True)

    @property
    def free(self) -> int:
        """What the records show as free."""
        return self.replicas[0].free()

    @property
    def running(self) -> int:
        """How many tasks the records show as running."""
        tasks = self._store.load(f"{self._prefix}tasks/", deadline=self._deadline).items
        return sum(task.value == RUNNING for task in tasks)

    @property
    def refused(self) -> int:
        """How many transactions the store has refused."""
        return sum(replica.refused for replica in self.replicas)

    def _commit(self, write: Put | Delete) -> int:
        outcome = self._store.commit(Transaction((), (write,), new_op()), deadline=self._deadline)
        assert isinstance(outcome, Committed)
        return outcome.revision


def held_up(replica: Backend, others: Callable[[], object]) -> None:
    """Once, the others act after this replica has read, and before it writes."""

    def pause() -> None:
        replica.pause = lambda: None
        others()

    replica.pause = pause


@pytest.fixture
def naive(store: Store, prefix: str, clock: HandClock) -> Naive:
    return Naive(store, prefix, clock)


def test_each_replica_releases(naive: Naive) -> None:
    """Three replicas hear of one end, one after the other: more is free than there is."""
    naive.run(1)
    for replica in naive.replicas:
        replica.release(1)
    assert naive.free == 6, "3 + 3 releases; 4 would be right"


def test_a_release_is_lost(naive: Naive) -> None:
    """Two tasks end, and each end is heard by one replica. Both compute from the same balance."""
    naive.run(1, 2)
    naive.together(Backend.release, 1, 2)
    assert naive.free == 3, "2 + 2 releases, one of them lost; 4 would be right"


def test_a_version_of_the_balance_loses_nothing_and_still_releases_thrice(naive: Naive) -> None:
    """The refused replicas read again, and release again: it is the end that they should have compared."""
    naive.run(1)
    naive.together(Backend.release_by_balance, 1, 1, 1)
    assert naive.free == 6, "3 + 3 releases; 4 would be right"
    assert naive.refused == 2


def test_versions_of_both_are_right_and_all_but_one_write_in_vain(naive: Naive) -> None:
    """The price of having no leader: each end costs a refused transaction for each other replica."""
    naive.run(1)
    naive.together(Backend.release_by_both, 1, 1, 1)
    assert naive.free == 4
    assert naive.refused == 2


def test_a_leader_alone_is_no_cure(naive: Naive) -> None:
    """It is suspended, and another one leads meanwhile. It does not know that, and writes an old balance."""
    naive.run(1, 2, 3)
    old, new, _ = naive.replicas
    held_up(old, lambda: [new.release_as_leader(task, None) for task in (1, 2, 3)])
    old.release_as_leader(1, None)
    assert naive.free == 2, "it had read 1; 4 would be right"


def test_a_leader_with_a_fence_is_refused(naive: Naive) -> None:
    """The same, and each transaction compares the term: the late one is refused, and nothing else is."""
    naive.run(1, 2, 3)
    old, new, _ = naive.replicas
    term = naive.elect()

    def another_leads() -> None:
        new_term = naive.elect()
        for task in (1, 2, 3):
            new.release_as_leader(task, new_term)

    held_up(old, another_leads)
    old.release_as_leader(1, term)
    assert naive.free == 4
    assert (old.refused, new.refused) == (1, 0)


def test_all_find_room_for_one(naive: Naive) -> None:
    """Acquisition is the same problem: three tasks run on one unit, and the balance shows nothing of it."""
    naive.replicas[0].set_free(1)
    assert naive.together(Backend.acquire, 1, 2, 3) == [True, True, True]
    assert (naive.running, naive.free) == (3, 0)


def test_a_version_of_the_balance_gives_room_for_one_to_one(naive: Naive) -> None:
    """The last one that has read writes first. The others are refused, find no room, and wait."""
    naive.replicas[0].set_free(1)
    assert naive.together(Backend.acquire_by_balance, 1, 2, 3) == [False, False, True]
    assert (naive.running, naive.free) == (1, 0)
    assert naive.refused == 2


def test_a_version_of_the_balance_lets_one_task_take_three_units(naive: Naive) -> None:
    """Where there is room, the refused replicas take a unit again, for the task that has one already."""
    naive.replicas[0].set_free(4)
    assert naive.together(Backend.acquire_by_balance, 1, 1, 1) == [True, True, True]
    assert (naive.running, naive.free) == (1, 1), "3 would be free if it were right"


@pytest.mark.parametrize("is_fenced", [False, True], ids=["no fence", "fence"])
def test_a_leader_that_was_suspended_finds_room(naive: Naive, is_fenced: bool) -> None:
    """Another one has led meanwhile, and has given the unit away. Only the fence keeps it from two tasks."""
    naive.replicas[0].set_free(1)
    old, new, _ = naive.replicas
    term = naive.elect()
    held_up(old, lambda: new.acquire_as_leader(2, naive.elect() if is_fenced else None))
    assert old.acquire_as_leader(1, term if is_fenced else None) is not is_fenced
    assert naive.running == (1 if is_fenced else 2)
    assert naive.free == 0
    assert naive.refused == is_fenced


# -- The promise: Tally's replicas, which all take themselves to be the leader ------------------------------

ORDERS = list(itertools.permutations(range(3)))
DOUBLED = sorted(set(itertools.permutations([0, 0, 1, 1, 2, 2])))
each_order = pytest.mark.parametrize("order", ORDERS, ids=lambda order: "".join(map(str, order)))
each_doubled_order = pytest.mark.parametrize(
    ("store", "order"),
    [
        pytest.param(where, order, id=f"{where}-{''.join(map(str, order))}")
        for where, orders in (("memory", DOUBLED), ("etcd", DOUBLED[::18]))
        for order in orders
    ],
    indirect=["store"],
)


@pytest.fixture
def stage(store: Store, clock: HandClock, cluster_name: str) -> Stage:
    """An empty cluster."""
    return Stage(store, clock, cluster_name)


def records(stage: Stage) -> dict[str, KeyValue]:
    """All that is stored, by its key."""
    items = stage.store.load(stage.keys.prefix, deadline=stage.clock.boottime() + 5).items
    return {item.key: item for item in items}


def running_task(stage: Stage) -> StagedReplica:
    """One task runs, and holds 1 of 4 cpus; returns the replica that leads."""
    stage.pool()
    stage.submit("job")
    leader = stage.leader()
    leader.run_to("job", Phase.RUNNING)
    assert stage.state("job") == State.RUNNING
    assert stage.held() == {"cpu": "1"}
    return leader


def run_each(replicas: list[StagedReplica], order: tuple[int, ...]) -> int:
    """They plan and write in this order; returns how many transactions were refused, and planned again."""
    with capture_logs() as lines:
        for index in order:
            replicas[index].run()
    return sum(line["event"] == "plan refused, planning again" for line in lines)


@each_doubled_order
def test_each_end_is_written_once(stage: Stage, order: tuple[int, ...]) -> None:
    """Three replicas, all of the same term even, hear the end twice each: one write, one release."""
    first = running_task(stage)
    replicas = [first, stage.replica(), stage.replica()]
    for replica in replicas[1:]:
        replica.list_engine(observation(("job", 1), Phase.RUNNING))
        replica.run()
    before = records(stage)[stage.keys.state("job")]
    for index in order:
        replicas[index].see(observation(("job", 1), Phase.SUCCEEDED))
        replicas[index].run()
    after = records(stage)[stage.keys.state("job")]
    ledger = records(stage)[stage.keys.ledger("default")]
    assert after.version == before.version + 1, "the state was written once"
    assert ledger.mod == after.mod, "the ledger was written last in the same transaction"
    assert stage.state("job") == State.SUCCEEDED
    assert stage.held() == {}
    stage.check()


@each_order
def test_no_release_is_lost(stage: Stage, order: tuple[int, ...]) -> None:
    """Three tasks end, and each replica hears of another end: all compute from the same ledger."""
    stage.pool()
    for index in range(3):
        stage.submit(f"job{index}")
    running = [observation((f"job{index}", 1), Phase.RUNNING) for index in range(3)]
    first = stage.leader()
    first.acknowledge(first.run())
    first.see(*running)
    first.run()
    assert stage.held() == {"cpu": "3"}
    replicas = [stage.leader(*running) for _ in range(3)]
    for index, replica in enumerate(replicas):
        replica.see(observation((f"job{index}", 1), Phase.SUCCEEDED))
    assert run_each(replicas, order) == 2, "all but the first were refused, and released from what is there"
    assert [stage.state(f"job{index}") for index in range(3)] == 3 * [State.SUCCEEDED]
    assert stage.held() == {}
    stage.check()


@each_order
def test_room_for_one_is_given_to_one(stage: Stage, order: tuple[int, ...]) -> None:
    """Three tasks wait. The watch of each replica has come as far as another one, which it would admit. So
    nothing but the ledger is written by all of them.
    """
    stage.pool(capacity={"cpu": 1})
    replicas = []
    for index in range(3):
        stage.submit(f"job{index}", priority=index)  # the last one goes first
        replicas.append(stage.leader())
    assert run_each(replicas, order) == 2, "all but the first were refused"
    winner = order[0]
    ledger = records(stage)[stage.keys.ledger("default")]
    assert [stage.state(f"job{index}") for index in range(3)] == [
        State.PENDING if index == winner else State.CREATED for index in range(3)
    ]
    assert stage.held() == {"cpu": "1"}
    assert ledger.version == 1, "the ledger was written once"
    assert ledger.mod == records(stage)[stage.keys.state(f"job{winner}")].mod, "with the state"
    for index, replica in enumerate(replicas):
        assert starts(replica.effects) == ([f"job{index}-1"] if index == winner else [])
        assert replica.model.ledger("default").held.format() == {"cpu": "1"}, "the refusal told it why"
    stage.check()


@each_order
def test_one_task_is_admitted_once(stage: Stage, order: tuple[int, ...]) -> None:
    """There is room for all, and all admit the same task. It holds one unit. Whoever was refused learns that
    it is admitted, and starts the same attempt, as a successor would: the engine takes its name once.
    """
    stage.pool()
    stage.submit("job")
    replicas = [stage.leader() for _ in range(3)]
    assert run_each(replicas, order) == 2, "all but the first were refused"
    assert stage.held() == {"cpu": "1"}
    assert records(stage)[stage.keys.state("job")].version == 1, "the state was written once"
    assert [starts(replica.effects) for replica in replicas] == 3 * [["job-1"]]
    stage.check()


def test_a_deposed_leader_releases_nothing(stage: Stage) -> None:
    """It hears of the end before its successor has written anything: only the fence can refuse it."""
    old = running_task(stage)
    stage.elect()
    before = records(stage)
    old.see(observation(("job", 1), Phase.FAILED, exit_code=1))
    with pytest.raises(LeadershipLost, match="fenced: another replica leads"):
        old.run()
    assert records(stage) == before, "nothing was written"
    stage.leader(observation(("job", 1), Phase.SUCCEEDED)).run()
    assert stage.state("job") == State.SUCCEEDED
    assert stage.held() == {}
    stage.check()


def test_a_deposed_leader_admits_nothing(stage: Stage) -> None:
    """It finds room, and its successor has not taken any of it: only the fence can refuse it."""
    stage.pool(capacity={"cpu": 1})
    stage.submit("job")
    old = stage.leader()
    stage.elect()
    before = records(stage)
    with pytest.raises(LeadershipLost, match="fenced: another replica leads"):
        old.run()
    assert records(stage) == before, "nothing was written"
    assert old.effects == [], "and nothing was started"
    assert starts(stage.leader().run()) == ["job-1"]
    assert stage.held() == {"cpu": "1"}
    stage.check()


def test_a_crash_between_hold_and_start_holds_once(stage: Stage) -> None:
    """The leader dies with the start in its hands. Its successor starts what is held, and holds no more."""
    stage.pool()
    stage.submit("job")
    assert starts(stage.leader().run()) == ["job-1"], "the engine has never heard of it"
    stage.elect()
    new = stage.leader()
    effects = new.run()
    assert starts(effects) == ["job-1"], "the same attempt"
    assert stage.held() == {"cpu": "1"}
    assert records(stage)[stage.keys.ledger("default")].version == 1, "the ledger was written once"
    new.acknowledge(effects)
    new.see(observation(("job", 1), Phase.SUCCEEDED))
    new.run()
    assert stage.state("job") == State.SUCCEEDED
    assert stage.held() == {}
    stage.check()
