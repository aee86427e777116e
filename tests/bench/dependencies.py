"""B17: tasks that wait for others, against as many that do not.

A diamond: one task, many after it, some that wait for up to a thousand of these each, and a last one. A
fan-in of a thousand. And the end of a chain whose first task fails: all others end without running.
"""

from __future__ import annotations

from controller.client import Client
from controller.clock import SystemClock
from controller.core.model.after import MAX_PARENTS
from controller.core.model.features import DEPENDENCIES
from controller.dev.cluster import LocalCluster
from tests.bench.measure import Figure
from tests.bench.sizes import Sizes
from tests.bench.stage import PATIENCE_SECONDS, POOL, burn, cluster

CLOCK = SystemClock()


def dependencies(sizes: Sizes) -> list[Figure]:
    """From the moment the pool is resumed until the last task has succeeded; one replica, null engine."""
    count, chain = sizes.waiting, max(10, sizes.waiting // 10)
    fan = min(MAX_PARENTS, count // 2)
    plain, shaped, joined, failed = list[float](), list[float](), list[float](), list[float]()
    submitted: dict[str, list[float]] = {"plain": [], "diamond": []}
    with cluster() as running, running.client() as client:
        client.features.enable(DEPENDENCIES)
        burn(running, max(10, count // 10), "warm")
        for turn in range(sizes.repeat):
            plain.append(count / burn(running, count, f"plain{turn}").seconds)
            tasks = diamond(f"diamond{turn}", count)
            shaped.append(count / burn(running, count, f"diamond{turn}", tasks=tasks).seconds)
            tasks = fan_in(f"fan{turn}", fan)
            joined.append(burn(running, fan + 1, f"fan{turn}", tasks=tasks).seconds)
            failed.append(chain / _fail(running, client, f"chain{turn}", chain))
            for kind, tasks in (
                ("plain", _plain(f"p{turn}", chain)),
                ("diamond", diamond(f"d{turn}", chain)),
            ):
                submitted[kind].append(chain / _submit(client, tasks))
    base = Figure("B17", f"burn-down of {count:,} tasks, one replica", "tasks/s", plain)
    alone = Figure("B17", f"submission of {chain:,} tasks", "tasks/s", submitted["plain"])
    return [
        base,
        Figure(
            "B17", "the same as a diamond", "tasks/s", shaped, baseline=base.median, against="plain, in turns"
        ),
        Figure("B17", f"a task after {fan:,} others: all of them, end to end", "s", joined),
        Figure("B17", f"the end of a chain of {chain:,} tasks whose first one fails", "tasks/s", failed),
        alone,
        Figure(
            "B17",
            "the same as a diamond",
            "tasks/s",
            submitted["diamond"],
            baseline=alone.median,
            against="plain",
        ),
    ]


def _task(name: str, after: list[str] | None = None, **fields: object) -> dict[str, object]:
    wait = {"after": after} if after else {}
    return {"id": name, "command": ["true"], "resources": {"cpu": 1}, **wait, **fields}


def _plain(name: str, count: int) -> list[dict[str, object]]:
    return [_task(f"{name}-{n}") for n in range(count)]


def diamond(name: str, count: int) -> list[dict[str, object]]:
    """So many tasks: a first one, those after it, those that join up to MAX_PARENTS of them, a last one."""
    joins = -(-count // MAX_PARENTS)
    middle = [f"{name}-m{n}" for n in range(count - joins - 2)]
    first, last = f"{name}-first", f"{name}-last"
    parts = [middle[n::joins] for n in range(joins)]
    joined = [_task(f"{name}-j{n}", part) for n, part in enumerate(parts) if part]
    return [
        _task(first),
        *(_task(each, [first]) for each in middle),
        *joined,
        _task(last, [str(each["id"]) for each in joined]),
    ]


def fan_in(name: str, count: int) -> list[dict[str, object]]:
    """A task that waits for so many others, after them."""
    parents = [f"{name}-{n}" for n in range(count)]
    return [*map(_task, parents), _task(f"{name}-last", parents)]


def _fail(running: LocalCluster, client: Client, name: str, count: int) -> float:
    """Seconds until the last task of a chain has ended, from the moment when its first one is cancelled."""
    client.apply_pool({**POOL, "paused": True})
    client.submit_many(
        [_task(f"{name}-0"), *(_task(f"{name}-{n}", [f"{name}-{n - 1}"]) for n in range(1, count))]
    )
    client.wait([f"{name}-0"], for_="created", timeout_seconds=PATIENCE_SECONDS)
    began = CLOCK.boottime()
    client.cancel(f"{name}-0")
    client.wait([f"{name}-{count - 1}"], timeout_seconds=PATIENCE_SECONDS)
    client.apply_pool(POOL)
    return CLOCK.boottime() - began


def _submit(client: Client, tasks: list[dict[str, object]]) -> float:
    began = CLOCK.boottime()
    assert all(result.accepted for result in client.submit_many(tasks))
    return CLOCK.boottime() - began
