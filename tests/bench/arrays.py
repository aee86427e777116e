"""B18: arrays, against as many tasks of their own; the submission of a million members; what is left."""

from __future__ import annotations

import statistics

from controller.client import Client
from controller.clock import SystemClock
from controller.core.model.arrays import MAX_SIZE
from controller.core.model.blocks import KIND
from controller.core.model.features import ARRAYS, DEPENDENCIES
from controller.dev.cluster import LocalCluster
from tests.bench.measure import Figure
from tests.bench.sizes import Sizes
from tests.bench.stage import KEYS, PATIENCE_SECONDS, POOL, burn, cluster, store_on

CLOCK = SystemClock()


def arrays(sizes: Sizes) -> list[Figure]:
    """From the submission of an array until it has succeeded; one replica, null engine."""
    count = sizes.waiting
    plain, alike, thousand, submitted = list[float](), list[float](), list[float](), list[float]()
    pairs = list[float]()
    with cluster() as running, running.client() as client:
        client.features.enable(ARRAYS, DEPENDENCIES)
        burn(running, max(10, count // 10), "warm")
        for turn in range(sizes.repeat):
            plain.append(count / burn(running, count, f"plain{turn}").seconds)
            alike.append(count / _run(client, f"array{turn}", count))
            pairs.append(count / _run_pair(client, f"pair{turn}", count // 2))
            thousand.append(_run(client, f"thousand{turn}", min(1000, count)))
            client.apply_pool({**POOL, "paused": True})
            began = CLOCK.boottime()
            client.submit(_array(f"million{turn}", MAX_SIZE))
            submitted.append((CLOCK.boottime() - began) * 1000)
            client.cancel(f"million{turn}")
            client.apply_pool(POOL)
        left = _stored(running, "array0") / count
    base = Figure("B18", f"burn-down of {count:,} tasks, one replica", "tasks/s", plain)
    return [
        base,
        Figure(
            "B18",
            "the same as members of one array",
            "tasks/s",
            alike,
            baseline=base.median,
            against="tasks of their own, in turns",
        ),
        Figure(
            "B18",
            "the same as two arrays, one after the other member by member",
            "tasks/s",
            pairs,
            baseline=statistics.median(alike),
            against="one array, in turns",
        ),
        Figure("B18", f"an array of {min(1000, count):,}, from its submission to its end", "s", thousand),
        Figure("B18", f"submission of an array of {MAX_SIZE:,}", "ms", submitted),
        Figure("B18", "left in etcd of a member that has succeeded", "bytes", [left]),
    ]


def _array(name: str, size: int) -> dict[str, object]:
    return {"id": name, "command": ["true"], "resources": {"cpu": 1}, "array": {"size": size}}


def _run(client: Client, name: str, size: int) -> float:
    began = CLOCK.boottime()
    client.submit(_array(name, size))
    (view,) = client.wait([name], timeout_seconds=PATIENCE_SECONDS).values()
    assert view.state == "Succeeded"
    return CLOCK.boottime() - began


def _run_pair(client: Client, name: str, size: int) -> float:
    """Two arrays: each member of the second one waits for the member of its index (`index: same`)."""
    began = CLOCK.boottime()
    client.submit(_array(f"{name}-a", size))
    client.submit({**_array(f"{name}-b", size), "after": [{"task": f"{name}-a", "index": "same"}]})
    (view,) = client.wait([f"{name}-b"], timeout_seconds=PATIENCE_SECONDS).values()
    assert view.state == "Succeeded"
    return CLOCK.boottime() - began


def _stored(running: LocalCluster, name: str) -> float:
    """Bytes of the keys and values of an array's blocks."""
    with store_on(running.endpoint) as store:
        items = store.load(f"{KEYS.prefix}{KIND}/{name}/", deadline=CLOCK.boottime() + 10).items
    return float(sum(len(item.key) + len(item.value) for item in items))
