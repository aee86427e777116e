"""What clients do for shared pools: the limit of waiting tasks, and what new pools reserve."""

from __future__ import annotations

from typing import Any

import pytest

from controller.client import Client
from controller.core.model.lifecycle import State
from controller.core.model.op import Op
from controller.core.model.shares import Share, encode_share
from controller.core.model.task import Reserve
from controller.store.base import StoreUnavailable
from tests.client.conftest import POOL, PutRaw, PutStatus
from tests.support.meddling import MeddledStore


@pytest.fixture
def shared(client: Client, put_raw: PutRaw) -> Client:
    """A client whose pool lets an owner have two waiting tasks."""
    put_raw("engine", b'{"engine":{"name":"null","id":"e"},"installation":"abc"}')
    owners = {"vision": {"max_queued": 2}}
    client.apply_pool({**POOL, "sharing": {"owners": owners}})
    return client


def submit(client: Client, *names: str, owner: str = "vision", dry_run: bool = False) -> list[str]:
    tasks = [{"id": name, "command": ["true"], "owner": owner} for name in names]
    return [result.outcome for result in client.submit_many(tasks, dry_run=dry_run)]


def test_an_owner_has_at_most_so_many_waiting_tasks(shared: Client, put_status: PutStatus) -> None:
    assert submit(shared, "a", "b", "c") == ["invalid", "created", "created"]
    [refused] = shared.submit_many([{"id": "c", "command": ["true"], "owner": "vision"}])
    assert refused.field == "owner"
    assert (
        "vision has 2 tasks waiting in pool default, and may have at most 2 (max_queued)" in refused.message
    )
    assert submit(shared, "c", dry_run=True) == ["invalid"]
    assert submit(shared, "a", "b") == ["unchanged", "unchanged"], "what is stored has its place"
    assert submit(shared, "d", owner="nlp") == ["created"], "a limit of others is none"
    put_status("a", State.WAITING_RETRY, owner="vision", on_hold=True)
    [refused] = shared.submit_many([{"id": "c", "command": ["true"], "owner": "vision"}])
    assert "vision has 2 tasks waiting in pool default (1 of them on hold), and may have" in refused.message
    put_status("a", State.RUNNING, owner="vision")
    assert submit(shared, "c") == ["created"]


def notes(client: Client, *owners: str, dry_run: bool = False) -> list[str]:
    tasks = [{"id": f"t{n}", "command": ["true"], "owner": owner} for n, owner in enumerate(owners)]
    return [result.message for result in client.submit_many(tasks, dry_run=dry_run) if result.message]


def test_an_owner_that_a_pool_neither_names_nor_has_seen_is_noted(client: Client, put_raw: PutRaw) -> None:
    """Once, and before anything is stored of it; it may be misspelt. Nothing is refused."""
    put_raw("engine", b'{"engine":{"name":"null","id":"e"},"installation":"abc"}')
    client.apply_pool({**POOL, "sharing": {"owners": {"*": {"weight": 2}}}})
    other = Client.of_store(client.store, cluster=client.keys.cluster)
    assert notes(other, "visoin", dry_run=True) == [], "a pool that names nobody"
    client.apply_pool({**POOL, "sharing": {"owners": {"vision": {}, "speech": {}, "*": {"weight": 2}}}})
    put_raw("shares/default/seen", encode_share(Share(), Op("share")))
    said = "owner visoin is new in pool default (the pool names: speech, vision)"
    assert notes(other, "vision", "seen", "visoin", "visoin", dry_run=True) == [said]
    assert notes(other, "visoin", dry_run=True) == [], "once"
    assert notes(client, "vision", "seen", "visoin", "visoin") == [said]
    assert [view.owner for view in client.tasks()] == ["vision", "seen", "visoin", "visoin"]


def test_a_hint_is_no_reason_to_fail(client: Client, put_raw: PutRaw) -> None:
    put_raw("engine", b'{"engine":{"name":"null","id":"e"},"installation":"abc"}')
    client.apply_pool({**POOL, "sharing": {"owners": {"vision": {}}}})
    store = MeddledStore(client.store)

    def fail(real: Any, key: str, **options: Any) -> Any:
        if "/shares/" in key:
            raise StoreUnavailable("etcd restarts")
        return real(key, **options)

    store.on["get"] = fail
    assert notes(Client.of_store(store, cluster=client.keys.cluster), "visoin") == []
    assert client.get("t0").owner == "visoin"


def test_a_new_pool_reserves_what_its_head_lacks_and_an_old_one_what_it_did(client: Client) -> None:
    """`default` was made without the field; applying it again says nothing of it either."""
    client.apply_pool({"name": "new", "capacity": {"cpu": 1}})
    client.apply_pool({"name": "asked", "capacity": {"cpu": 1}, "reserve": "asked"})
    client.apply_pool({"name": "asked", "capacity": {"cpu": 2}})
    client.apply_pool({"name": "new", "capacity": {"cpu": 2}})
    found = {pool.name: pool.definition for pool in client.pools()}
    assert {name: pool.reserve for name, pool in found.items() if pool} == {
        "asked": Reserve.ASKED,
        "default": Reserve.LACKING,
        "new": Reserve.LACKING,
    }
