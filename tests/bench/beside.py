"""B16: what records beside tasks cost a leader: attestations, and notices for receivers.

The same burn-down in turns: in a plain pool; in one that takes only what a gateway has attested; and in one
with `notify`, whose notices stay in the outbox, since no notifier runs.
"""

from __future__ import annotations

from controller.client import Client
from controller.client.connecting import connect_to_gateway
from controller.core.model.features import ATTESTED, OWNERS
from controller.dev.cluster import LocalCluster
from tests.bench.gateway import running_gateway
from tests.bench.measure import Figure
from tests.bench.sizes import Sizes
from tests.bench.stage import PATIENCE_SECONDS, POOL, burn, cluster, disk
from tests.support.waiting import wait_until

MOST = 4_000  # tasks: whoever has more notices than that leaves none out only while the outbox is empty
NOTIFY = [{"url": "https://hooks.example.org/", "on": ["succeeded"]}]


def beside(sizes: Sizes) -> list[Figure]:
    """From the moment the pool is resumed until the last task has succeeded; one replica, null engine."""
    count = min(MOST, sizes.burned)
    rates: dict[str, list[float]] = {"plain": [], "attested": [], "told": []}
    with cluster() as running, disk() as folder, running.client() as client:
        for feature in (OWNERS, ATTESTED):
            client.features.enable(feature)
        with (
            running_gateway(running.endpoint, folder) as gateway,
            connect_to_gateway(gateway.url, token=gateway.token) as by_gateway,
        ):
            burn(running, max(10, count // 10), "warm")
            for turn in range(sizes.repeat):
                rates["plain"].append(_rate(running, count, f"plain{turn}"))
                guarded = {**POOL, "require_attested": True}
                rates["attested"].append(_rate(running, count, f"attested{turn}", guarded, by_gateway))
                rates["told"].append(_rate(running, count, f"told{turn}", {**POOL, "notify": NOTIFY}))
                _empty_outbox(client)
    plain = Figure("B16", f"burn-down of {count:,} tasks, one replica", "tasks/s", rates["plain"])
    return [
        plain,
        *(
            Figure("B16", what, "tasks/s", rates[kind], baseline=plain.median, against="plain, in turns")
            for kind, what in (
                ("attested", "the same, each task attested, and removed with its attestation later"),
                ("told", "the same, a notice for each end"),
            )
        ),
    ]


def _rate(
    running: LocalCluster,
    count: int,
    name: str,
    pool: dict[str, object] = POOL,
    submitter: Client | None = None,
) -> float:
    return count / burn(running, count, name, pool, submitter).seconds


def _empty_outbox(client: Client) -> None:
    for view in client.notices.all():
        client.notices.drop(view)
    wait_until(lambda: not client.notices.all(), "an empty outbox", timeout=PATIENCE_SECONDS)
