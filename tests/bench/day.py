"""B21: a day in minutes: as many tasks as a busy installation has in 24 hours, through one leader.

A batch is submitted whenever the one before has nearly ended, for as long as it takes; each task is removed
soon after its end. Whatever grew with the number of tasks that have been, and not with those that are there,
would show: the first and the last quarter are compared, once as many are removed as come.

One thing does grow here, as no hour passes: the name of each ended attempt is kept for an hour, by the leader
and by the null engine in its memory. So the memory is told for each task that has ended meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import psutil

from controller.client import Client
from tests.bench.measure import Aim, Figure
from tests.bench.sizes import Sizes
from tests.bench.stage import CLOCK, PATIENCE_SECONDS, POOL, ask, cluster, pool_counts, specs
from tests.support.local import pid_of
from tests.support.waiting import wait_until

RETENTION_SECONDS = 60.0
ROOM_PERCENT = 5.0
BYTES_OF_A_NAME = 700.0
"""What an engine in memory and its leader may keep, for an hour, of an attempt that has ended."""

OPEN = ("Created", "Pending", "Running")


class Sample(NamedTuple):
    """At one moment: tasks that have ended by then, and what the leader and etcd use."""

    seconds: float
    ended: int
    stored: int
    resident_mb: float
    threads: int
    descriptors: int
    etcd_mb: float


def day(sizes: Sizes) -> list[Figure]:
    """Tasks without end through one leader, each removed soon after its end; null engine."""
    with cluster() as running, running.client() as client:
        leader = running.replicas[0]
        process = psutil.Process(pid_of(leader))
        client.apply_pool(POOL)
        began, submitted, samples = CLOCK.boottime(), 0, list[Sample]()
        while submitted < sizes.a_day:
            batch = min(sizes.a_batch, sizes.a_day - submitted)
            _submit(client, submitted, batch)
            submitted += batch
            wait_until(
                lambda: sum(pool_counts(leader).get(state, 0) for state in OPEN) <= sizes.a_batch // 2,
                "half of a batch to have ended",
                timeout=PATIENCE_SECONDS,
                poll=0.05,
            )
            counts = pool_counts(leader)
            samples.append(
                Sample(
                    CLOCK.boottime() - began,
                    submitted - sum(counts.get(state, 0) for state in OPEN),
                    sum(counts.values()),
                    process.memory_info().rss / 1e6,
                    process.num_threads(),
                    process.num_fds(),
                    _in_use(ask(leader, "/metrics")[1].decode()),
                )
            )
    return _figures(sizes, samples)


def _submit(client: Client, first: int, count: int) -> None:
    results = client.submit_many(specs(count, f"day-{first}", retention_seconds=RETENTION_SECONDS))
    assert all(result.accepted for result in results)


def _in_use(metrics: str) -> float:
    """MB that etcd has in use, by the leader's metrics: the part of its file that is not free."""
    name = "tally_store_size_in_use_bytes"
    return sum(float(line.rsplit(" ", 1)[1]) / 1e6 for line in metrics.splitlines() if line.startswith(name))


def _figures(sizes: Sizes, samples: list[Sample]) -> list[Figure]:
    """Of the time when as many are removed as come: what lies before is the way up to that."""
    steady = [each for each in samples if each.seconds > 1.5 * RETENTION_SECONDS] or samples
    quarter = max(1, len(steady) // 4)
    first, last = steady[: quarter + 1], steady[-quarter - 1 :]
    details = {"samples": [each._asdict() for each in samples]}
    grown = 1e6 * (last[-1].resident_mb - first[0].resident_mb) / max(1, last[-1].ended - first[0].ended)
    figures = [
        Figure(
            "B21",
            f"{sizes.a_day:,} tasks, each removed {RETENTION_SECONDS:g} s after its end: the last quarter",
            "tasks/s",
            [_rate(last)],
            baseline=_rate(first),
            against="the first quarter",
            aims=(Aim("ratio", least=1 - ROOM_PERCENT / 100),),
            details=details,
        ),
        Figure("B21", "tasks stored meanwhile", "tasks", [float(each.stored) for each in steady]),
        Figure(
            "B21",
            "memory of the leader more for each that has ended, whose name is kept for an hour",
            "bytes",
            [grown],
            aims=(Aim("median", most=BYTES_OF_A_NAME),),
        ),
    ]
    told: tuple[tuple[str, str, Callable[[Sample], float]], ...] = (
        ("threads of the leader", "threads", lambda each: float(each.threads)),
        ("its open descriptors", "descriptors", lambda each: float(each.descriptors)),
        ("in use of etcd's file", "MB", lambda each: each.etcd_mb),
    )
    for what, unit, of in told:
        base = Figure("", "", "", [of(each) for each in first]).median
        flat = (Aim("ratio", most=1 + ROOM_PERCENT / 100),)
        what = f"{what}, the last quarter"
        samples_of = [of(each) for each in last]
        figures.append(
            Figure("B21", what, unit, samples_of, baseline=base, against="the first quarter", aims=flat)
        )
    return figures


def _rate(samples: list[Sample]) -> float:
    if len(samples) < 2:
        return samples[0].ended / samples[0].seconds
    return (samples[-1].ended - samples[0].ended) / (samples[-1].seconds - samples[0].seconds)
