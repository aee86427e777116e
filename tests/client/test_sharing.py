"""What clients do for shared pools: the limit of waiting tasks, and what new pools reserve."""

from __future__ import annotations

import pytest

from controller.client import Client
from controller.core.model.lifecycle import State
from controller.core.model.task import Reserve
from tests.client.conftest import POOL, PutRaw, PutStatus


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
