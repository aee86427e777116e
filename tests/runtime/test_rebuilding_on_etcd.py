"""10,000 running tasks get their shares on a real etcd, and each leader is cut off in the midst of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest

from controller.client import Client
from controller.core.model.lifecycle import State
from controller.core.model.model import Model
from controller.core.promise.invariants import check_model
from controller.store.base import KeyEvent
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


def is_amid(ledger: dict[str, Any]) -> bool:
    """Whether a rebuild has begun and has not come to its end."""
    return str(ledger.get("shares_op", "")).startswith("rebuilding")


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
        proxies = {f"r{n}": proxy_to(etcd.config.client_port) for n in range(REPLICAS)}
        replicas = {
            name: stack.enter_context(
                RunningReplica(etcd_factory.store(proxy.url), name, cluster=CLUSTER, engine=engine)
            )
            for name, proxy in proxies.items()
        }
        wait_until(lambda: any(replica.leads for replica in replicas.values()), "a leader")
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
        cut: list[str] = []
        for _ in range(REPLICAS - 1):
            writer = wait_until(
                lambda: amid(reader, ledger, cut), "another leader amid the rebuild", poll=0.0005
            )
            proxies[writer].black_hole()
            cut.append(writer)
        wait_until(lambda: is_whole(ledgers(reader, ledger)), "the shares being whole", timeout=60)
        for proxy in proxies.values():
            proxy.heal()
        client.submit({"id": "later", "pool": "other", "command": ["x"], "owner": "o1"})
        client.wait(["later"], timeout_seconds=30)
        reader.close()
    assert [replica.fatal for replica in replicas.values()] == [[]] * REPLICAS
    assert changed(reader.events, client.keys.state("")) == {"later"}
    snapshot = store.load(client.keys.prefix, deadline=in_seconds())
    model = Model()
    model.load(changes_of(client.keys, snapshot.items), snapshot.revision)
    assert check_model(model) == []
    assert len(model.shares["default"]) == owners
    auditor = audit(read(etcd.url), CLUSTER)
    assert auditor.findings == []
    assert auditor.rebuilds == 1


def amid(reader: WatchReader, key: str, cut: list[str]) -> str:
    """The leader that wrote last, if it is amid the rebuild and was not cut off."""
    told = ledgers(reader, key)
    writer: str = told[-1]["op"].partition("-")[0] if told and is_amid(told[-1]) else ""
    return writer if writer not in cut else ""


def is_whole(told: list[dict[str, Any]]) -> bool:
    return bool(told) and told[-1].get("shares_op") == told[-1]["op"]


def changed(events: list[KeyEvent], prefix: str) -> set[str]:
    """The names of the keys under this prefix that changed."""
    return {event.key.removeprefix(prefix) for event in events if event.key.startswith(prefix)}
