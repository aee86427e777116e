"""B21: a day in minutes: as many tasks as a busy installation has in 24 hours, through one leader.

A batch is submitted whenever the one before has nearly ended, for as long as it takes; each task is removed
soon after its end. Whatever grew with the number of tasks that have been, and not with those that are there,
would show: the first and the last quarter are compared, once as many are removed as come.

One thing does grow here, as no hour passes: the name of each ended attempt is kept for an hour, by the leader
and by the null engine in its memory. So the memory is told for each task that has ended meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

import psutil

from controller.store.etcd.gateway import RpcError
from tests.bench.measure import Aim, Figure
from tests.bench.sizes import Sizes
from tests.bench.stage import CLOCK, KEYS, PATIENCE_SECONDS, POOL, cluster, pool_counts, specs, store_on
from tests.support.etcd import compact
from tests.support.local import pid_of
from tests.support.waiting import wait_until

ROOM_PERCENT = 5.0
COMPACTED_AFTER = 5  # batches
JUDGED_FROM = 1_000_000  # tasks: a quarter of fewer is as long as a few compactions
MORE = 2.0  # descriptors and threads that come and go
BYTES_OF_A_NAME = 700.0
"""What an engine in memory and its leader may keep, for an hour, of an attempt that has ended."""

OPEN = ("Created", "Pending", "Running")


class Sample(NamedTuple):
    """At one moment: tasks that have ended by then, and what the leader and etcd use."""

    seconds: float
    ended: int
    stored: int
    cpu_seconds: float
    resident_mb: float
    threads: int
    descriptors: int
    etcd_mb: float


def day(sizes: Sizes) -> list[Figure]:
    """Tasks without end through one leader, each removed soon after its end; null engine."""
    with cluster() as running, running.client() as client, store_on(running.endpoint) as store:
        leader = running.replicas[0]
        process = psutil.Process(pid_of(leader))
        client.apply_pool(POOL)
        began, submitted, samples = CLOCK.boottime(), 0, list[Sample]()
        _, seen = store.get(KEYS.leader, deadline=CLOCK.boottime() + 10)
        while submitted < sizes.a_day:
            if len(samples) % COMPACTED_AFTER == COMPACTED_AFTER - 1:  # as etcd does by itself, by the hour
                with suppress(RpcError):  # it has just done so
                    compact(store, seen)
                _, seen = store.get(KEYS.leader, deadline=CLOCK.boottime() + 10)
            batch = min(sizes.a_batch, sizes.a_day - submitted)
            fields = {"retention_seconds": sizes.retention_seconds}
            results = client.submit_many(specs(batch, f"day-{submitted}", **fields))
            assert all(result.accepted for result in results)
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
                    sum(process.cpu_times()[:2]),
                    process.memory_info().rss / 1e6,
                    process.num_threads(),
                    process.num_fds(),
                    store.size(deadline=CLOCK.boottime() + 10).in_use / 1e6,
                )
            )
    return _figures(sizes, samples)


def _figures(sizes: Sizes, samples: list[Sample]) -> list[Figure]:
    """Of the time when as many are removed as come: what lies before is the way up to that."""
    steady = [each for each in samples if each.seconds > 1.5 * sizes.retention_seconds] or samples
    quarter = max(1, len(steady) // 4)
    first, last = steady[: quarter + 1], steady[-quarter - 1 :]
    judged = sizes.a_day >= JUDGED_FROM
    details = {"samples": [each._asdict() for each in samples]}
    grown = 1e6 * (last[-1].resident_mb - first[0].resident_mb) / max(1, last[-1].ended - first[0].ended)
    figures = [
        Figure(
            "B21",
            f"the last quarter of {sizes.a_day:,} tasks, removed {sizes.retention_seconds:g} s after an end",
            "tasks/s",
            [_rate(last)],
            baseline=_rate(first),
            against="the first quarter",
            aims=(Aim("ratio", least=1 - ROOM_PERCENT / 100),) if judged else (),
            details=details,
        ),
        Figure(
            "B21",
            "the leader's processor time for each task of the last quarter",
            "µs",
            [_cpu(last)],
            baseline=_cpu(first),
            against="the first quarter",
        ),
        Figure("B21", "tasks stored meanwhile", "tasks", [float(each.stored) for each in steady]),
        Figure(
            "B21",
            "memory of the leader more for each that has ended, whose name is kept for an hour",
            "bytes",
            [grown],
            aims=(Aim("median", most=BYTES_OF_A_NAME),) if judged else (),
        ),
    ]
    told: tuple[tuple[str, str, Callable[[Sample], float], float], ...] = (
        ("threads of the leader", "threads", lambda each: float(each.threads), MORE),
        ("open descriptors of the leader", "descriptors", lambda each: float(each.descriptors), MORE),
        ("in use of etcd's file", "MB", lambda each: each.etcd_mb, ROOM_PERCENT * _median(first) / 100),
    )
    for what, unit, of, room in told:
        before = Figure("", "", "", [of(each) for each in first]).median
        more = [of(each) - before for each in last]
        what = f"{what}: more in the last quarter than the {before:,.3g} of the first"
        figures.append(Figure("B21", what, unit, more, aims=(Aim("median", most=room),) if judged else ()))
    return figures


def _median(samples: list[Sample]) -> float:
    return Figure("", "", "", [each.etcd_mb for each in samples]).median


def _cpu(samples: list[Sample]) -> float:
    first, last = samples[0], samples[-1]
    return 1e6 * (last.cpu_seconds - first.cpu_seconds) / max(1, last.ended - first.ended)


def _rate(samples: list[Sample]) -> float:
    if len(samples) < 2:
        return samples[0].ended / samples[0].seconds
    return (samples[-1].ended - samples[0].ended) / (samples[-1].seconds - samples[0].seconds)
