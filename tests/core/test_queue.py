"""Admission order: strict and backfill against a model that looks at every task, and what a pass costs."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.core.model.places import Place
from controller.core.model.queue import Queue
from controller.core.model.resources import Vector
from controller.core.model.task import Policy, Pool

CPU = st.integers(1, 12).map(lambda n: Vector({"cpu": n * 1000}))
requests = st.one_of(
    CPU,
    st.just(Vector()),
    st.builds(lambda c, m: Vector({"cpu": c, "mem": m}), st.integers(0, 9), st.integers(0, 9)),
)
waiting = st.lists(st.tuples(st.integers(-2, 2), requests, st.booleans()), max_size=14)
policies = st.sampled_from(list(Policy))
frees = st.builds(lambda c, m: Vector({"cpu": c, "mem": m}), st.integers(0, 10_000), st.integers(0, 12))
POOL = Pool(name="p", capacity=Vector({"cpu": 10_000, "mem": 10}), backfill_seconds=100.0)


def pool(policy: Policy) -> Pool:
    return Pool(name="p", capacity=POOL.capacity, policy=policy, backfill_seconds=POOL.backfill_seconds)


def queue_of(*entries: tuple[str, int, Vector]) -> Queue:
    """(id, priority, request) in the order of submission."""
    queue = Queue()
    for submission, (task_id, priority, request) in enumerate(entries, 1):
        queue.add(Place(-priority, submission, 0.0, task_id), request)
    return queue


def admitted(
    queue: Queue, pool: Pool, free: Vector, waited: Callable[[str], float] = lambda _: 0.0
) -> list[str]:
    return list(queue.admissible(pool, free, waited, lambda _: True))


def expected(entries: list[tuple[str, int, Vector]], pool: Pool, free: Vector, old: set[str]) -> list[str]:
    """The policy in its plainest form: one look at each task, in order.

    Of those that ask for the same with the same priority, the first stands for the rest.
    """
    taken, passed_over = [], set()
    # stable: submission order among equals
    for task_id, priority, request in sorted(entries, key=lambda entry: -entry[1]):
        if not request.fits(pool.capacity) or (request, priority) in passed_over:
            continue
        if request.fits(free):
            free = free - request
            taken.append(task_id)
            continue
        passed_over.add((request, priority))
        if pool.policy is Policy.STRICT:
            break
        if task_id in old:  # set aside what it asks for: nothing is left of what it lacks
            names = free.keys() | request.keys()
            free = Vector(
                {
                    n: max(0, free.get(n, 0) - request.get(n, 0)) if n in request else free.get(n, 0)
                    for n in names
                }
            )
    return taken


@given(waiting, policies, frees)
def test_admission_is_that_of_a_look_at_every_task(raw: list[Any], policy: Policy, free: Vector) -> None:
    entries = [(f"t{n}", priority, request) for n, (priority, request, _) in enumerate(raw)]
    old = {f"t{n}" for n, (_, _, is_old) in enumerate(raw) if is_old}
    queue = queue_of(*entries)
    got = admitted(queue, pool(policy), free, lambda task_id: 100.0 if task_id in old else 99.0)
    assert got == expected(entries, pool(policy), free, old)


@given(waiting, st.data())
def test_a_queue_that_was_changed_is_one_that_was_built_so(raw: list[Any], data: st.DataObject) -> None:
    """Additions, moves and removals in any order leave nothing behind."""
    queue, kept = Queue(), {}
    for n, (priority, request, _) in enumerate(raw):
        task_id = data.draw(st.sampled_from([f"t{n}", "t0", "t1"]))
        kept[task_id] = (Place(-priority, n, 0.0, task_id), request)
        queue.add(*kept[task_id])
        if data.draw(st.booleans()):
            victim = data.draw(st.sampled_from(sorted(kept)))
            queue.discard(victim)
            del kept[victim]
    fresh = Queue()
    for place, request in kept.values():
        fresh.add(place, request)
    assert len(queue) == len(kept)
    assert all((task_id in queue) == (task_id in kept) for task_id in ("t0", "t1", "t2"))
    assert admitted(queue, POOL, POOL.capacity) == admitted(fresh, POOL, POOL.capacity)
    assert {task_id: queue.place(task_id) for task_id in kept} == {
        task_id: place for task_id, (place, _) in kept.items()
    }


def test_priority_comes_first_then_submission() -> None:
    one = Vector({"cpu": 1000})
    queue = queue_of(("late-low", 0, one), ("first", 5, one), ("second", 5, one), ("urgent", 9, one))
    assert admitted(queue, POOL, POOL.capacity) == ["urgent", "first", "second", "late-low"]


def test_strict_is_blocked_by_its_head() -> None:
    queue = queue_of(("big", 0, Vector({"cpu": 8000})), ("small", 0, Vector({"cpu": 1000})))
    assert admitted(queue, POOL, Vector({"cpu": 4000})) == []


def test_backfill_passes_a_head_until_it_has_waited_long_enough() -> None:
    queue = queue_of(("big", 0, Vector({"cpu": 8000})), ("small", 0, Vector({"cpu": 1000})))
    free = Vector({"cpu": 4000})
    assert admitted(queue, pool(Policy.BACKFILL), free, lambda _: 99.9) == ["small"]
    assert admitted(queue, pool(Policy.BACKFILL), free, lambda _: 100.0) == []


def test_a_head_that_lacks_one_resource_leaves_the_others_to_those_behind_it() -> None:
    """A head waits for GPUs: a task without any starts on idle CPUs, as long as enough of them are left
    for the head.
    """
    head = Vector({"cpu": 2000, "gpu": 4})
    queue = queue_of(
        ("head", 0, head),
        ("gpu", 0, Vector({"cpu": 1000, "gpu": 1})),
        ("a", 0, Vector({"cpu": 5000})),
        ("b", 0, Vector({"cpu": 3001})),
        ("c", 0, Vector({"cpu": 3000})),
    )
    large = Pool(
        name="p", capacity=Vector({"cpu": 10_000, "gpu": 4}), policy=Policy.BACKFILL, backfill_seconds=100.0
    )
    free = Vector({"cpu": 10_000, "gpu": 3})
    waited = {"head": 100.0}
    assert admitted(queue, large, free, lambda task_id: waited.get(task_id, 0.0)) == ["a", "c"]
    left = free - Vector({"cpu": 8000})
    assert admitted(queue, large, left + Vector({"gpu": 1}), lambda _: 100.0)[0] == "head", (
        "as soon as the GPU is there"
    )


def test_each_head_that_has_waited_has_its_share_set_aside() -> None:
    """The second cannot be starved by small ones while the first waits for something else."""
    queue = queue_of(
        ("gpus", 0, Vector({"gpu": 4})),
        ("cpus", 0, Vector({"cpu": 8000})),
        ("small", 0, Vector({"cpu": 1000})),
        ("mem", 0, Vector({"mem": 1})),
    )
    large = Pool(
        name="p",
        capacity=Vector({"cpu": 10_000, "gpu": 4, "mem": 1}),
        policy=Policy.BACKFILL,
        backfill_seconds=100.0,
    )
    assert admitted(queue, large, Vector({"cpu": 4000, "gpu": 3, "mem": 1}), lambda _: 100.0) == ["mem"]


@pytest.mark.parametrize("policy", list(Policy))
def test_what_the_pool_can_never_hold_blocks_nobody(policy: Policy) -> None:
    queue = queue_of(
        ("oversize", 9, Vector({"cpu": 11_000})),
        ("strange", 9, Vector({"gpu": 1})),
        ("small", 0, Vector({"cpu": 1000})),
    )
    assert admitted(queue, pool(policy), POOL.capacity, lambda _: 1e9) == ["small"]
    assert queue.ahead_of("small", POOL) == []


@pytest.mark.parametrize("policy", list(Policy))
def test_a_task_that_may_not_start_yet_takes_nothing_and_blocks_nobody(policy: Policy) -> None:
    """One that waits for an earlier attempt's end, or is about to be cancelled, is left out as if it were
    not there.
    """
    queue = queue_of(("held-back", 5, Vector({"cpu": 10_000})), ("next", 0, Vector({"cpu": 10_000})))
    assert list(
        queue.admissible(pool(policy), POOL.capacity, lambda _: 1e9, lambda task_id: task_id != "held-back")
    ) == ["next"]


def test_nobody_passes_one_that_has_waited_behind_a_younger_of_higher_priority() -> None:
    """The young head is passed over, but not the old one behind it, although both ask for the same."""
    big, small = Vector({"cpu": 8000}), Vector({"cpu": 1000})
    queue = queue_of(("old", 0, big), ("young", 9, big), ("small", 0, small))
    waited = {"old": 1e9}
    assert (
        admitted(
            queue, pool(Policy.BACKFILL), Vector({"cpu": 2000}), lambda task_id: waited.get(task_id, 0.0)
        )
        == []
    )


def test_who_is_ahead_is_told_in_order() -> None:
    queue = queue_of(
        ("a", 0, Vector({"cpu": 1})),
        ("b", 3, Vector({"cpu": 2})),
        ("me", 0, Vector({"cpu": 1})),
        ("c", 0, Vector()),
    )
    assert queue.ahead_of("me", POOL) == ["b", "a"]
    assert queue.ahead_of("stranger", POOL) == []


def test_the_caller_may_stop_taking_and_the_queue_is_unchanged() -> None:
    queue = queue_of(*((f"t{n}", 0, Vector({"cpu": 1000})) for n in range(5)))
    passing = queue.admissible(POOL, POOL.capacity, lambda _: 0.0, lambda _: True)
    assert isinstance(passing, Generator)
    assert next(passing) == "t0"
    passing.close()
    assert admitted(queue, POOL, POOL.capacity) == [f"t{n}" for n in range(5)]


def test_the_tasks_of_an_owner_come_in_order_each_with_its_own_request() -> None:
    """Groups of several requests are merged."""
    queue = Queue()
    for n in range(6):
        queue.add(Place(-(n % 2), n, 0.0, f"t{n}"), Vector({"cpu": 1000 * (1 + n % 3)}), "vision")
    queue.add(Place(-9, 9, 0.0, "another"), Vector({"cpu": 1}), "speech")
    found = [(place.task_id, request["cpu"]) for place, request in queue.of_owner("vision")]
    assert found == [("t1", 2000), ("t3", 1000), ("t5", 3000), ("t0", 1000), ("t2", 3000), ("t4", 2000)]


class CountedVector(Vector):
    """Counts how often a request is held against something."""

    looks = 0

    def fits(self, free: Any) -> bool:
        CountedVector.looks += 1
        return super().fits(free)


@pytest.mark.parametrize("policy", list(Policy))
def test_a_pass_costs_what_it_admits_and_not_what_waits(policy: Policy) -> None:
    """Twenty times as many waiting tasks, the same number of looks."""
    looks = []
    for waiting_tasks in (500, 10_000):
        queue = Queue()
        for n in range(waiting_tasks):
            queue.add(Place(0, n, 0.0, f"t{n}"), CountedVector({"cpu": 1000 * (1 + n % 4)}))
        CountedVector.looks = 0
        assert admitted(queue, pool(policy), Vector({"cpu": 5000}))
        looks.append(CountedVector.looks)
    assert looks[0] == looks[1]
    assert looks[0] <= 20
