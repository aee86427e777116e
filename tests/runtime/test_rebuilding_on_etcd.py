"""10,000 running tasks get their shares on a real etcd, and each leader is cut off in the midst of it."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest

from controller.client import Client
from controller.core.model.lifecycle import State
from controller.core.model.model import Model
from controller.core.promise.invariants import check_model
from controller.store.base import KeyEvent, Put, Transaction
from controller.store.etcd.store import EtcdStore
from controller.store.etcd.transaction import PendingTransaction
from controller.store.records import changes_of
from tests.support.etcd import CLOCK, EtcdFactory, in_seconds
from tests.support.proxy import Proxy
from tests.support.running import RecordingEngine, RunningReplica
from tests.support.share_auditor import audit
from tests.support.share_records import read
from tests.support.waiting import wait_until
from tests.support.watching import WatchReader

CLUSTER = "rebuilding"
REPLICAS = 3


def ledgers(reader: WatchReader, key: str) -> list[dict[str, Any]]:
    """The pool's ledgers that the watch has brought, in order."""
    return [json.loads(event.item.value) for event in reader.events if event.key == key and event.item]


class Cuts:
    """Cuts so many leaders off from etcd, each as it sends its second part of a rebuild."""

    def __init__(self, most: int) -> None:
        self.left = most

    def arm(self, store: EtcdStore, proxy: Proxy) -> EtcdStore:
        """The same store, by way of that proxy, which falls silent."""
        begin, parts = store.begin, itertools.count(1)

        def cut(transaction: Transaction, *, deadline: float) -> PendingTransaction:
            if self.left and is_part(transaction) and next(parts) == 2:
                self.left -= 1
                proxy.black_hole()
            return begin(transaction, deadline=deadline)

        store.begin = cut  # type: ignore[method-assign]
        return store


def is_part(transaction: Transaction) -> bool:
    """Whether it writes a part of a rebuild that is not the last one."""
    ledgers = [put.value for put in transaction.writes if isinstance(put, Put) and "/ledgers/" in put.key]
    return any(str(json.loads(value).get("shares_op", "")).startswith("rebuilding") for value in ledgers)


def submit(client: Client, tasks: int, owners: int) -> None:
    endless = {"TALLY_NULL_SECONDS": "86400"}
    specs = [
        {"id": f"t{n}", "owner": f"o{n % owners}", "command": ["x"], "resources": {"cpu": 1}, "env": endless}
        for n in range(tasks)
    ]
    assert all(result.outcome == "created" for result in client.submit_many(specs))


@pytest.mark.parametrize(
    ("tasks", "owners"),
    [
        (500, 500),
        pytest.param(10_000, 300, marks=pytest.mark.slow),
        pytest.param(10_000, 2000, marks=pytest.mark.slow),
    ],
)
def test_a_pool_gets_its_shares_while_leaders_are_cut_off(
    etcd_factory: EtcdFactory, proxy_to: Callable[[int], Proxy], tasks: int, owners: int
) -> None:
    """Two leaders are cut off once they have written a part. The third completes it; another pool is served
    all the time, and no hold has changed.
    """
    etcd, engine = etcd_factory.start(), RecordingEngine(CLOCK)
    store = etcd_factory.store(etcd.url)
    with Client(etcd.url, cluster=CLUSTER) as client, ExitStack() as stack:
        cuts, proxies = Cuts(REPLICAS - 1), [proxy_to(etcd.config.client_port) for _ in range(REPLICAS)]
        replicas = [
            stack.enter_context(
                RunningReplica(
                    cuts.arm(etcd_factory.store(proxy.url), proxy), f"r{n}", cluster=CLUSTER, engine=engine
                )
            )
            for n, proxy in enumerate(proxies)
        ]
        wait_until(lambda: any(replica.leads for replica in replicas), "a leader")
        assert client.features.enable("owners")
        client.apply_pool({"name": "default", "capacity": {"cpu": tasks}})
        client.apply_pool({"name": "other", "capacity": {"cpu": 1}})
        submit(client, tasks, owners)
        wait_until(
            lambda: client.pools(counts=True)[0].counts.get(State.RUNNING) == tasks,
            "all running",
            timeout=120,
            poll=0.5,
        )

        ledger = client.keys.ledger("default")
        _, before = store.get(ledger, deadline=in_seconds())
        reader = WatchReader(store.watch(client.keys.prefix, after=before))
        client.apply_pool({"name": "default", "capacity": {"cpu": tasks}, "sharing": {}})
        wait_until(lambda: is_whole(ledgers(reader, ledger)), "the shares being whole", timeout=120)
        assert cuts.left == 0
        for proxy in proxies:
            proxy.heal()
        client.submit({"id": "later", "pool": "other", "command": ["x"], "owner": "o1"})
        client.wait(["later"], timeout_seconds=30)
        reader.close()
    assert [replica.fatal for replica in replicas] == [[]] * REPLICAS
    assert changed(reader.events, client.keys.state("")) == {"later"}
    snapshot = store.load(client.keys.prefix, deadline=in_seconds())
    model = Model()
    model.load(changes_of(client.keys, snapshot.items), snapshot.revision)
    assert check_model(model) == []
    assert len(model.shares["default"]) == owners
    auditor = audit(read(etcd.url), CLUSTER)
    assert auditor.findings == []
    assert auditor.rebuilds == 1


def is_whole(told: list[dict[str, Any]]) -> bool:
    return bool(told) and told[-1].get("shares_op") == told[-1]["op"]


def changed(events: list[KeyEvent], prefix: str) -> set[str]:
    """The names of the keys under this prefix that changed."""
    return {event.key.removeprefix(prefix) for event in events if event.key.startswith(prefix)}
