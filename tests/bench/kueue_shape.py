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
second measurement: the same tasks, all submitted before, with run times of a twentieth, shows what Tally
itself can do.
"""

from __future__ import annotations

import heapq
import statistics
import threading
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from controller.client import Client, TaskView
from controller.dev.cluster import LocalCluster, ReplicaProcess
from tests.bench.measure import Aim, Figure
from tests.bench.sizes import Sizes
from tests.bench.stage import CLOCK, PATIENCE_SECONDS, cluster, cpu_seconds, pool_counts, resident_bytes
from tests.support.waiting import wait_until

COHORTS, QUEUES, QUOTA = 5, 6, 20
QUICKENED = 20
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


def kueue_shape(sizes: Sizes) -> list[Figure]:
    """The load of Kueue's baseline: 5 cohorts of 6 queues, small, medium and large tasks; null engine."""
    total = COHORTS * QUEUES * sum(each.count // sizes.shape_divisor for each in CLASSES)
    with cluster() as running:
        views, seconds, cores = _run(running, sizes.shape_divisor)
        memory = resident_bytes(running.replicas[0]) / 1e6
    bound = limit(sizes.shape_divisor, 1)
    note = (
        f"the quota and the run times allow {bound:.0f} tasks/s at most, in whatever order, if nothing that"
        " was begun is stopped for another"
    )
    figures = [
        Figure(
            "B3",
            f"{total:,} tasks in the sizes and at the pace of Kueue's baseline",
            "tasks/s",
            [total / seconds],
            baseline=bound,
            against="the quota's limit",
            aims=(Aim("ratio", least=0.95),),
            note=note,
        )
    ]
    # how long tasks wait grows with their number: fewer are not to be compared
    whole = sizes.shape_divisor == 1

    def beside(value: float) -> dict[str, Any]:
        return {"baseline": value, "against": "Kueue's"} if whole else {}

    for each in CLASSES:
        waits = [_wait_seconds(view) for view in views if view.id.startswith(each.name)]
        mean, what = [statistics.fmean(waits)], f"mean time to admission, {each.name}"
        figures.append(
            Figure("B3", what, "s", mean, **beside(each.kueue_seconds), details={"tasks": len(waits)})
        )
    figures.append(Figure("B3", "cpu of the leader meanwhile", "cores", [cores], **beside(KUEUE_CORES)))
    figures.append(Figure("B3", "memory of the leader at the end", "MB", [memory], **beside(KUEUE_MEGABYTES)))
    with cluster() as running:
        _, seconds, cores = _run(running, sizes.shape_divisor, QUICKENED)
    what = f"the same tasks, waiting from the start, run times ÷ {QUICKENED}"
    bound = limit(sizes.shape_divisor, QUICKENED)
    aims = (Aim("median", least=300.0),)
    figures.append(
        Figure(
            "B3", what, "tasks/s", [total / seconds], baseline=bound, against="the quota's limit", aims=aims
        )
    )
    figures.append(_large_scale(sizes.shape_divisor))
    return figures


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


def _run(running: LocalCluster, divisor: int, quickened: int = 0) -> tuple[list[TaskView], float, float]:
    """All tasks, the seconds from the first creation to the last end, and the cores that the leader used
    meanwhile.
    """
    leader, count = running.replicas[0], COHORTS * QUEUES * sum(each.count // divisor for each in CLASSES)
    with running.client() as client:
        _apply_pools(client, paused=bool(quickened))
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
        views = [view for view in client.tasks() if view.pool != "warm"]
        return views, seconds, (cpu_seconds(leader) - used) / seconds


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


def _apply_pools(client: Client, *, paused: bool = False) -> None:
    for pool in _pools():
        whole = {"cpu": QUEUES * QUOTA}
        owners = {f"cq-{n}": {"guarantee": {"cpu": QUOTA}, "limit": whole} for n in range(QUEUES)}
        client.apply_pool(
            {
                "name": pool,
                "capacity": whole,
                "policy": "backfill",
                "paused": paused,
                "sharing": {"owners": owners},
                "preemption": {"reclaim": True, "by_priority": True, "min_run": 0, "per_minute": 1_000_000},
            }
        )


def _wait_seconds(view: TaskView) -> float:
    """From the submission to the admission, by the machine's one clock."""
    assert view.status is not None
    assert view.status.admitted_at is not None
    return max(0.0, view.status.admitted_at - view.submitted_at)
