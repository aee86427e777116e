"""B15: changes of waiting tasks: how fast a leader puts them on hold, and releases them with a new priority.

The requests are stored by one client that does nothing else, many in a transaction. The floor is measured in
turns with it, as for B2. Each change is two keys that the leader writes: the request is deleted, and the
status put.
"""

from __future__ import annotations

import json
from http import HTTPStatus

from controller.core.model import codec
from controller.core.model.features import CHANGES
from controller.core.model.requests import Request, RequestKind
from controller.dev.cluster import LocalCluster, ReplicaProcess
from controller.store.base import Put, Transaction, new_op
from tests.bench.floor import own_transactions, replay
from tests.bench.measure import Figure
from tests.bench.sizes import Sizes
from tests.bench.stage import CLOCK, KEYS, PATIENCE_SECONDS, POOL, ask, cluster, pool_counts, specs, store_on
from tests.support.waiting import wait_until

REQUESTS_A_TRANSACTION = 100
KEYS_A_CHANGE = 2


def changes(sizes: Sizes) -> list[Figure]:
    """From the first request until the leader has applied the last of N; one replica, null engine."""
    recording, count = own_transactions(sizes).recording, sizes.changed
    floors, held, released = [], [], []
    with cluster() as running:
        leader = running.replicas[0]
        with running.client() as client:
            client.features.enable(CHANGES)
            client.apply_pool({**POOL, "paused": True})
            client.submit_many(specs(count, "change"))
        wait_until(lambda: pool_counts(leader).get("Created", 0) >= count, "all", timeout=PATIENCE_SECONDS)
        for number in range(sizes.repeat):
            floors.append(recording.writes / replay(recording))
            held.append(count / _seconds(running, count, Request(kind=RequestKind.CHANGE, on_hold=True)))
            release = Request(kind=RequestKind.CHANGE, on_hold=False, priority=number + 1)
            released.append(count / _seconds(running, count, release))
    floor = Figure("B1", "", "", floors).median
    figures = []
    for what, samples in (("puts on hold", held), ("releases, each with another priority", released)):
        keys = [KEYS_A_CHANGE * rate for rate in samples]
        figures += [
            Figure("B15", f"{count:,} {what}, one replica", "tasks/s", samples, details={"floors": floors}),
            Figure(
                "B15",
                f"{what}, in keys written",
                "keys/s",
                keys,
                baseline=floor,
                against="B1 floor, in turns",
            ),
        ]
    return figures


def _seconds(running: LocalCluster, count: int, request: Request) -> float:
    """Seconds for one such request for each of the tasks."""
    leader, value, wanted = running.replicas[0], codec.encode(request), count if request.on_hold else 0
    keys = (KEYS.request(str(spec["id"]), request.kind) for spec in specs(count, "change"))
    puts = tuple(Put(key, value) for key in keys)
    with store_on(running.endpoint) as store:
        store.get(KEYS.leader, deadline=CLOCK.boottime() + 10)  # it is connected
        began = CLOCK.boottime()
        for first in range(0, count, REQUESTS_A_TRANSACTION):
            some = puts[first : first + REQUESTS_A_TRANSACTION]
            store.commit(Transaction((), some, new_op()), deadline=CLOCK.boottime() + 60)
        wait_until(lambda: _on_hold(leader) == wanted, "all changes", timeout=PATIENCE_SECONDS, poll=0.03)
        return CLOCK.boottime() - began


def _on_hold(replica: ReplicaProcess) -> int:
    status, body = ask(replica, f"/v1/pools/{POOL['name']}")
    assert status == HTTPStatus.OK, body
    return int(json.loads(body)["on_hold"])
