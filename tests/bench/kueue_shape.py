"""B3: the load of Kueue's own baseline test, as it really is: cohorts as pools, queues as owners.

The shape is that of
https://github.com/kubernetes-sigs/kueue/blob/main/test/performance/scheduler/configs/baseline/generator.yaml:
5 cohorts of 6 queues with a quota of 20 each, of which a queue may borrow 100, so all of its cohort's 120.
For each queue 350 small (1 unit, 200 ms), 100 medium (5 units, 500 ms) and 50 large ones (20 units, 1000 ms),
of priorities 50, 100 and 200, created every 100, 500 and 1200 ms. Kueue's results are the averages of five
runs that its range specification tells: 351,116 ms for 15,000 workloads, and the mean times to admission
below. As there, a queue (owner) has its quota as a guarantee, may borrow up to its cohort's 120 (its limit),
reclaims what others borrowed of it, whatever its priority (`reclaimWithinCohort: Any`), and preempts lower
priorities of its own (`withinClusterQueue: LowerPriority`). Kueue's workloads are not run by anything: its
test marks them as finished after their time. Tally's are attempts of the null engine, which ends them after
theirs; a preempted one begins anew.

The quota sets a limit that no scheduler passes: 6 × (350 × 1 × 0.2 + 100 × 5 × 0.5 + 50 × 20 × 1.0) = 7,920
unit-seconds for 120 units are 66 s, so 15,000 tasks in 66 s, 227 a second; the creation takes 60 s. Hence the
third measurement: the same tasks, all submitted before, with run times of a twentieth, shows what Tally
itself can do.

Preemption sets another one. The large tasks of all queues are created at the same moment, and fill the cohort
for 1.0 of each 1.2 s. A medium one does not end in the 0.2 s that are left, so if large ones are admitted at
once, none of the medium ones (12.5 s of all units) ends before the last large one does, at 59.8 s: 15,000 in
72.3 s, 207 a second, even for one who knew to begin small ones alone in each gap. One who begins medium ones
first, as their priority says, takes 75.8 s: 198 a second. Hence the second measurement, with a `min_run` of
1 s and heads that reserve at once: a large one waits for a medium one that has begun.
"""

from __future__ import annotations

import heapq
import statistics
import threading
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any, NamedTuple

from controller.client import Client, TaskView
from controller.dev.cluster import LocalCluster, ReplicaProcess
from tests.bench.held_time import HeldTime
from tests.bench.measure import Aim, Figure
from tests.bench.sizes import Sizes
from tests.bench.stage import (
    CLOCK,
    KEYS,
    PATIENCE_SECONDS,
    cluster,
    cpu_seconds,
    history,
    pool_counts,
    resident_bytes,
    store_on,
)
from tests.support.waiting import wait_until

COHORTS, QUEUES, QUOTA = 5, 6, 20
QUICKENED = 20
SPARED_SECONDS = 1.0
LARGE_TASKS, LARGE_OWNERS = 50_000, 1_000
KUEUE_LARGE = 42.4  # a second, of its large-scale configuration
BATCH_SECONDS = 0.05


@dataclass(frozen=True)
class Class:
    """One of Kueue's workload classes; `kueue_seconds` is its published mean time to admission."""

    name: str
    count: int
    interval_seconds: float
    run_seconds: float
    priority: int
    units: int
    kueue_seconds: float


CLASSES = (
    Class("small", 350, 0.1, 0.2, 50, 1, 215.468),
    Class("medium", 100, 0.5, 0.5, 100, 5, 76.768),
    Class("large", 50, 1.2, 1.0, 200, 20, 16.5),
)
KUEUE_CORES, KUEUE_MEGABYTES = 0.396, 445.0


def limit(divisor: int, quickened: float) -> float:
    """Tasks a second that the quota allows, were it always in use."""
    counts = [(each, each.count // divisor) for each in CLASSES]
    unit_seconds = sum(count * each.units * each.run_seconds / quickened for each, count in counts) / QUOTA
    return COHORTS * QUEUES * sum(count for _, count in counts) / unit_seconds


def limit_at_once(divisor: int) -> float:
    """Tasks a second that are possible if large ones are admitted at once: see above."""
    (_, medium, large), total = CLASSES, sum(each.count // divisor for each in CLASSES)
    seconds = (large.count // divisor - 1) * large.interval_seconds + large.run_seconds
    seconds += medium.count // divisor * medium.units * medium.run_seconds / QUOTA
    return COHORTS * QUEUES * total / seconds


def kueue_shape(sizes: Sizes) -> list[Figure]:
    """The load of Kueue's baseline: 5 cohorts of 6 queues, small, medium and large tasks; null engine."""
    divisor = sizes.shape_divisor
    total = COHORTS * QUEUES * sum(each.count // divisor for each in CLASSES)
    figures = []
    for what, spared, bound, against, least in (
        (
            f"{total:,} tasks in the sizes and at the pace of Kueue's baseline",
            False,
            limit_at_once(divisor),
            "the limit if large ones are admitted at once",
            0.9,
        ),
        ("the same, none stopped in its first second", True, limit(divisor, 1), "the quota's limit", 0.95),
    ):
        with cluster() as running:
            ran = _run(running, divisor, spared=spared)
            memory = resident_bytes(running.replicas[0]) / 1e6
        figures.append(
            Figure(
                "B3",
                what,
                "tasks/s",
                [total / ran.seconds],
                baseline=bound,
                against=against,
                aims=(Aim("ratio", least=least),),
                note=f"{what}: {_told(ran)}; the quota allows {limit(divisor, 1):.0f} tasks/s",
                details={"unit_seconds": ran.held.totals(), "preempted": ran.held.preempted},
            )
        )
        figures += _about(ran, memory, what="the same" if spared else "", whole=divisor == 1)
    with cluster() as running:
        seconds = _run(running, divisor, QUICKENED).seconds
    what = f"the same tasks, waiting from the start, run times ÷ {QUICKENED}"
    bound = limit(divisor, QUICKENED)
    aims = (Aim("median", least=300.0),)
    figures.append(
        Figure(
            "B3", what, "tasks/s", [total / seconds], baseline=bound, against="the quota's limit", aims=aims
        )
    )
    figures.append(_large_scale(divisor))
    return figures


def _about(ran: Ran, memory: float, what: str, *, whole: bool) -> Iterator[Figure]:
    """How long tasks of each class waited, and what the leader used.

    Waits grow with the number of tasks: they are compared only if these are as many as Kueue's (`whole`).
    """

    def beside(value: float) -> dict[str, Any]:
        return {"baseline": value, "against": "Kueue's"} if whole else {}

    also = f"{what}, " if what else ""
    for each in CLASSES:
        waits = [_wait_seconds(view) for view in ran.views if view.id.startswith(each.name)]
        mean, details = [statistics.fmean(waits)], {"tasks": len(waits), "longest": max(waits)}
        aims = (Aim("ratio", most=1.0),) if whole else ()
        told = f"{also}mean time to admission, {each.name}"
        yield Figure("B3", told, "s", mean, **beside(each.kueue_seconds), aims=aims, details=details)
    yield Figure("B3", f"{also}cpu of the leader meanwhile", "cores", [ran.cores], **beside(KUEUE_CORES))
    yield Figure("B3", f"{also}memory of the leader at the end", "MB", [memory], **beside(KUEUE_MEGABYTES))


def _told(ran: Ran) -> str:
    """What became of the capacity, in seconds of all units."""
    units = COHORTS * QUEUES * QUOTA
    parts = (f"{part} {amount / units:.1f}" for part, amount in ran.held.totals().items())
    return (
        f"of {ran.seconds:.1f} s of all units: {', '.join(parts)} ({ran.held.preempted:,} attempts preempted)"
    )


def _large_scale(divisor: int) -> Figure:
    """Kueue's large-scale shape: many queues, of which each has a few workloads."""
    total, owners = LARGE_TASKS // divisor, LARGE_OWNERS // divisor
    capacity = {"cpu": owners}
    sharing = {"owners": {f"cq-{n}": {"guarantee": {"cpu": 1}, "limit": capacity} for n in range(owners)}}
    with cluster() as running, running.client() as client:
        leader, pool = running.replicas[0], {"name": "large", "capacity": capacity, "sharing": sharing}
        client.apply_pool({**pool, "paused": True})
        client.submit_many(
            {
                "id": f"t-{n}",
                "pool": "large",
                "owner": f"cq-{n % owners}",
                "command": ["true"],
                "resources": {"cpu": 1},
                "env": {"TALLY_NULL_SECONDS": "0.1"},
            }
            for n in range(total)
        )

        def wait(state: str) -> None:
            reached = lambda: pool_counts(leader, "large").get(state, 0) >= total  # noqa: E731
            wait_until(reached, f"all to be {state}", timeout=PATIENCE_SECONDS, poll=0.1)

        wait("Created")
        began = CLOCK.boottime()
        client.apply_pool(pool)
        wait("Succeeded")
        rate = total / (CLOCK.boottime() - began)
    whole: dict[str, Any] = {"baseline": KUEUE_LARGE, "against": "Kueue's"} if divisor == 1 else {}
    aims = (Aim("median", least=10 * KUEUE_LARGE),)
    return Figure("B3", f"{total:,} tasks of {owners:,} owners", "tasks/s", [rate], aims=aims, **whole)


class Ran(NamedTuple):
    """All tasks, the seconds from the first creation to the last end, the cores that the leader used
    meanwhile, and what became of the capacity.
    """

    views: list[TaskView]
    seconds: float
    cores: float
    held: HeldTime


def _run(running: LocalCluster, divisor: int, quickened: int = 0, *, spared: bool = False) -> Ran:
    leader, count = running.replicas[0], COHORTS * QUEUES * sum(each.count // divisor for each in CLASSES)
    with running.client() as client:
        _apply_pools(client, paused=bool(quickened), spared=spared)
        _warm_up(client, leader)
        began, used = CLOCK.boottime(), cpu_seconds(leader)
        if quickened:
            client.submit_many([task for _, task in _schedule(divisor, quickened)])
            wait_until(
                lambda: _count(leader, "Created") >= count,
                "the leader to know all",
                timeout=PATIENCE_SECONDS,
                poll=0.1,
            )
            began, used = CLOCK.boottime(), cpu_seconds(leader)
            _apply_pools(client)
        else:
            _create(client, divisor, began)
        wait_until(
            lambda: _count(leader, "Succeeded") >= count, "the end of all", timeout=PATIENCE_SECONDS, poll=0.1
        )
        seconds = CLOCK.boottime() - began
        cores = (cpu_seconds(leader) - used) / seconds
        views = [view for view in client.tasks() if view.pool in _pools()]
    held = HeldTime(KEYS, "cpu", dict.fromkeys(_pools(), QUEUES * QUOTA))
    with store_on(running.endpoint) as store:
        held.take(history(store))
    return Ran(views, seconds, cores, held)


def _warm_up(client: Client, leader: ReplicaProcess) -> None:
    """Wait until a task has run, in a pool of its own: a new installation's first leader is elected twice."""
    client.apply_pool({"name": "warm", "capacity": {"cpu": 1}})
    client.submit_many([{"id": "warm", "pool": "warm", "command": ["true"], "resources": {"cpu": 1}}])
    wait_until(
        lambda: pool_counts(leader, "warm").get("Succeeded", 0) > 0, "a first task", timeout=PATIENCE_SECONDS
    )


def _count(leader: ReplicaProcess, state: str) -> int:
    return sum(pool_counts(leader, pool).get(state, 0) for pool in _pools())


def _create(client: Client, divisor: int, began: float) -> None:
    """Submit each task when it is due, those of a twentieth of a second together."""
    pause, due = threading.Event(), list[dict[str, object]]()
    with closing(_schedule(divisor, 1)) as schedule:
        for at, task in schedule:
            if began + at > CLOCK.boottime():
                client.submit_many(due)
                due = []
                pause.wait(max(BATCH_SECONDS, began + at - CLOCK.boottime()))
            due.append(task)
    client.submit_many(due)


def _schedule(divisor: int, quickened: int) -> Generator[tuple[float, dict[str, object]], None, None]:
    """When (seconds from the begin) each task is created, in that order."""
    streams = [
        _stream(each, cohort, queue, each.count // divisor, quickened)
        for cohort in range(COHORTS)
        for queue in range(QUEUES)
        for each in CLASSES
    ]
    yield from heapq.merge(*streams, key=lambda entry: entry[0])


def _stream(
    each: Class, cohort: int, queue: int, count: int, quickened: int
) -> Iterator[tuple[float, dict[str, object]]]:
    for number in range(count):
        yield (
            number * each.interval_seconds,
            {
                "id": f"{each.name}-{cohort}-{queue}-{number}",
                "pool": f"cohort-{cohort}",
                "owner": f"cq-{queue}",
                "command": ["true"],
                "resources": {"cpu": each.units},
                "priority": each.priority,
                "env": {"TALLY_NULL_SECONDS": f"{each.run_seconds / (quickened or 1):g}"},
            },
        )


def _pools() -> list[str]:
    return [f"cohort-{cohort}" for cohort in range(COHORTS)]


def _apply_pools(client: Client, *, paused: bool = False, spared: bool = False) -> None:
    for pool in _pools():
        whole = {"cpu": QUEUES * QUOTA}
        owners = {f"cq-{n}": {"guarantee": {"cpu": QUOTA}, "limit": whole} for n in range(QUEUES)}
        client.apply_pool(
            {
                "name": pool,
                "capacity": whole,
                "policy": "backfill",
                "paused": paused,
                **({"backfill_seconds": 0} if spared else {}),
                "sharing": {"owners": owners},
                "preemption": {
                    "reclaim": True,
                    "by_priority": True,
                    "min_run": SPARED_SECONDS if spared else 0,
                    "per_minute": 1_000_000,
                },
            }
        )


def _wait_seconds(view: TaskView) -> float:
    """From the submission to the admission, by the machine's one clock."""
    assert view.status is not None
    assert view.status.admitted_at is not None
    return max(0.0, view.status.admitted_at - view.submitted_at)
