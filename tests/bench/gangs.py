"""B19: a gang of a thousand members, against an array of as many; what its admission and its end take."""

from __future__ import annotations

from typing import NamedTuple

from controller.client import Client
from controller.clock import SystemClock
from controller.core.model import codec
from controller.core.model.features import ARRAYS, GANGS
from controller.core.model.lifecycle import State
from controller.dev.cluster import LocalCluster
from tests.bench.measure import Figure
from tests.bench.sizes import Sizes
from tests.bench.stage import KEYS, PATIENCE_SECONDS, POOL, burn, cluster, history, store_on

CLOCK = SystemClock()
RUN_SECONDS = "3"  # of each member, so that all run at once
LEDGER = KEYS.ledger(str(POOL["name"]))


class Life(NamedTuple):
    """Of a gang whose members run for a while: seconds until all run, and from the last end to its own.

    `ending` is in milliseconds. `admitting` are the transactions that took hold of the pool until all ran.
    """

    starting: float
    ending: float
    admitting: int


def gangs(sizes: Sizes) -> list[Figure]:
    """From the submission of a gang until it has succeeded; one replica, null engine."""
    count = min(1000, sizes.waiting)
    array, gang, lives = list[float](), list[float](), list[Life]()
    with cluster() as running, running.client() as client:
        client.features.enable(ARRAYS)
        client.features.enable(GANGS)
        burn(running, max(10, count // 10), "warm")
        for turn in range(sizes.repeat):
            array.append(_run(client, f"array{turn}", count, gang=False))
            gang.append(_run(client, f"gang{turn}", count, gang=True))
            lives.append(_live(running, client, f"long{turn}", count))
    base = Figure("B19", f"an array of {count:,}, from its submission to its end", "s", array)
    return [
        base,
        Figure(
            "B19",
            "the same as a gang",
            "s",
            gang,
            baseline=base.median,
            against="an array of as many, in turns",
        ),
        Figure("B19", "from its submission until all run", "s", [life.starting for life in lives]),
        Figure("B19", "from the end of the last member to its own", "ms", [life.ending for life in lives]),
        Figure(
            "B19", "commits that take hold of the pool for it", "", [float(life.admitting) for life in lives]
        ),
    ]


def _run(client: Client, name: str, size: int, *, gang: bool, env: dict[str, str] | None = None) -> float:
    began = CLOCK.boottime()
    array = {"size": size, "gang": gang}
    client.submit(
        {"id": name, "command": ["true"], "resources": {"cpu": 1}, "array": array, "env": env or {}}
    )
    (view,) = client.wait([name], timeout_seconds=PATIENCE_SECONDS).values()
    assert view.state == State.SUCCEEDED
    return CLOCK.boottime() - began


def _live(running: LocalCluster, client: Client, name: str, size: int) -> Life:
    with store_on(running.endpoint) as store:
        _, first = store.get(KEYS.leader, deadline=CLOCK.boottime() + 10)
        _run(client, name, size, gang=True, env={"TALLY_NULL_SECONDS": RUN_SECONDS})
        view, last, admitting, held = client.get(name), 0.0, 0, 0
        for event in history(store, first):
            if event.key == LEDGER and event.item is not None:
                now = codec.decode_ledger(event.item.value)[0].get("cpu")
                admitting += now > held
                held = now
            elif event.key.startswith(KEYS.state(f"{name}-i")) and event.item is not None:
                status, _ = codec.decode_status(event.item.value)
                last = max(last, status.finished_at or 0.0)
    assert view.status is not None
    assert view.status.started_at is not None
    assert view.status.finished_at is not None
    return Life(
        view.status.started_at - view.submitted_at,
        (view.status.finished_at - last) * 1000,
        admitting,
    )
