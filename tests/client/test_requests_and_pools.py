"""Requests reach the store once each; pools are replaced under a guard; leadership can be taken away."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest

from controller.client import Client, NotFound
from controller.clock import SystemClock
from controller.core.model import codec
from controller.core.model.lifecycle import State
from controller.core.model.op import Op
from controller.core.model.requests import RequestKind
from controller.core.model.resources import Vector
from controller.engine.process.engine import ProcessEngine
from controller.errors import InvalidField, UserError
from controller.store.base import Delete, Transaction
from tests.client.conftest import POOL, PutRaw, PutStatus
from tests.support.etcd import in_seconds
from tests.support.meddling import MeddledStore


@pytest.fixture(autouse=True)
def _task_a(client: Client) -> None:
    client.submit({"id": "a", "command": ["true"]})


def stored_request(client: Client, kind: str) -> dict[str, object]:
    item, _ = client.store.get(client.keys.request("a", kind), deadline=in_seconds())
    assert item is not None
    assert codec.decode_request(kind, item.value).kind == kind
    return codec.decode_mapping(item.value)


def test_nothing_is_asked_of_a_task_that_was_removed_since_it_was_read(client: Client) -> None:
    """Its name may be used again, and the request would be for the next task of that name."""

    def remove_first(real: Any, transaction: Transaction, **options: Any) -> Any:
        removal = Transaction((), (Delete(client.keys.task("a")),), Op("removal"))
        client.store.commit(removal, deadline=in_seconds())
        return real(transaction, **options)

    store = MeddledStore(client.store)
    store.on["commit"] = remove_first
    with pytest.raises(NotFound):
        Client.of_store(store, cluster=client.keys.cluster).cancel("a")
    assert client.store.get(client.keys.request("a", "cancel"), deadline=in_seconds())[0] is None


def test_cancel_is_stored_once(client: Client) -> None:
    """Who, why and when stand in it; the second finds it pending and keeps the first's reason."""
    assert client.cancel("a", reason="enough").outcome == "requested"
    first = stored_request(client, "cancel")
    assert client.cancel("a", reason="again").outcome == "already requested"
    assert stored_request(client, "cancel") == first
    assert first["reason"] == "enough"
    assert "@" in str(first["by"])
    assert client.get("a").requests == ("cancel",)


@pytest.mark.parametrize("value", [b"rubbish", b'{"kind":"retry","by":"x","at":1}'])
def test_what_is_no_request_does_not_keep_a_request_out(
    client: Client, put_raw: PutRaw, value: bytes
) -> None:
    """The leader leaves such a value alone, so it would be in the way for ever."""
    put_raw("requests/a/cancel", value)
    assert client.cancel("a", reason="enough").outcome == "requested"
    assert stored_request(client, "cancel")["reason"] == "enough"
    assert client.cancel("a").outcome == "already requested"


def test_racing_cancels_make_one_request(client: Client) -> None:
    """Fault 36: exactly one of them is the one that is stored."""
    found: list[str] = []
    threads = [
        threading.Thread(target=lambda: found.append(client.cancel("a").outcome), name=f"canceller-{n}")
        for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == ["already requested"] * 7 + ["requested"]


@pytest.mark.parametrize("state", [State.SUCCEEDED, State.FAILED, State.CANCELLED])
def test_cancel_of_a_finished_task_changes_nothing(
    client: Client, put_status: PutStatus, state: State
) -> None:
    """It is told, and no request is left behind for the leader to ignore."""
    put_status("a", state, finished_at=2.0)
    answer = client.cancel("a")
    assert (answer.outcome, answer.message) == ("already finished", f"a is already {state}")
    assert client.get("a").requests == ()


def test_retry_only_of_what_can_be_retried(client: Client, put_status: PutStatus) -> None:
    """Failed and Cancelled, or one that is being cancelled; never what has succeeded."""
    with pytest.raises(UserError, match="a is Created: only a Failed or Cancelled task can be retried"):
        client.retry("a")
    put_status("a", State.RUNNING)
    with pytest.raises(UserError, match="a is Running"):
        client.retry("a")
    put_status("a", State.SUCCEEDED, finished_at=2.0)
    with pytest.raises(UserError, match="cannot be retried"):
        client.retry("a")
    assert client.get("a").requests == ()
    put_status("a", State.RUNNING, stopping="cancel")
    assert client.retry("a").outcome == "requested"
    put_status("a", State.FAILED, finished_at=2.0)
    assert client.retry("a").outcome == "already requested"


def test_confirm_stopped_needs_a_lost_attempt_and_names_it(client: Client, put_status: PutStatus) -> None:
    """The operator's word is about one attempt."""
    put_status("a", State.RUNNING, attempt=3)
    with pytest.raises(UserError, match="neither lost nor being stopped"):
        client.confirm_stopped("a")
    put_status("a", State.RUNNING, attempt=3, lost_since=2.0)
    assert client.confirm_stopped("a").outcome == "requested"
    assert stored_request(client, RequestKind.CONFIRM_STOPPED)["attempt"] == 3


@pytest.mark.parametrize("verb", ["get", "cancel", "retry", "confirm_stopped", "explain"])
def test_what_is_not_there_is_not_found(client: Client, verb: str) -> None:
    """Every verb says so in the same way, and leaves nothing behind; a name that starts another's does not
    match it.
    """
    client.submit({"id": "a-long", "command": ["true"]})
    with pytest.raises(NotFound, match="there is no task 'a-lon'"):
        getattr(client, verb)("a-lon")
    with pytest.raises(InvalidField, match="id:"):
        client.get("../leader")


def test_apply_creates_configures_and_leaves_alone(client: Client) -> None:
    """The same content is `unchanged`, and writes nothing."""
    assert client.apply_pool({"name": "p", "capacity": {"cpu": 1}}).outcome == "created"
    before = client.store.get(client.keys.pool("p"), deadline=in_seconds())[0]
    assert (
        client.apply_pool({"name": "p", "capacity": {"cpu": "1000m"}, "policy": "strict"}).outcome
        == "unchanged"
    )
    assert client.store.get(client.keys.pool("p"), deadline=in_seconds())[0] == before
    assert client.apply_pool({"name": "p", "capacity": {"cpu": 2}}).outcome == "configured"
    with pytest.raises(InvalidField, match="capacity"):
        client.apply_pool({"name": "p"})


def test_apply_keeps_a_newer_versions_fields(client: Client, put_raw: PutRaw) -> None:
    """Fault 7: an older command line does not drop what it does not know."""
    put_raw(
        "pools/p", msgspec.json.encode({"name": "p", "capacity": {"cpu": "1"}, "borrowing": {"from": "q"}})
    )
    assert client.apply_pool({"name": "p", "capacity": {"cpu": 3}}).outcome == "configured"
    item, _ = client.store.get(client.keys.pool("p"), deadline=in_seconds())
    assert item is not None
    assert codec.decode_mapping(item.value)["borrowing"] == {"from": "q"}


def test_apply_loses_nothing_that_was_written_since_it_read(client: Client, put_raw: PutRaw) -> None:
    """What it writes is made from a copy, and is made anew if that is no longer what is stored."""
    put_raw("pools/p", msgspec.json.encode({"name": "p", "capacity": {"cpu": "1"}}))
    newer = msgspec.json.encode({"name": "p", "capacity": {"cpu": "2"}, "borrowing": {"from": "q"}})
    store = MeddledStore(client.store)

    def write_first(real: Any, *args: Any, **options: Any) -> Any:
        del store.on["commit"]
        put_raw("pools/p", newer)
        return real(*args, **options)

    store.on["commit"] = write_first
    other: Any = store
    Client.of_store(other, cluster=client.keys.cluster).apply_pool({"name": "p", "capacity": {"cpu": 3}})
    item, _ = client.store.get(client.keys.pool("p"), deadline=in_seconds())
    assert item is not None
    stored = codec.decode_mapping(item.value)
    assert (stored["capacity"], stored.get("borrowing")) == ({"cpu": "3"}, {"from": "q"})


def test_apply_replaces_what_cannot_be_read(client: Client, put_raw: PutRaw) -> None:
    """An admin's way to repair a quarantined pool."""
    put_raw("pools/p", b"broken")
    view = next(view for view in client.pools() if view.name == "p")
    assert "not a JSON object" in view.problem
    assert client.apply_pool({"name": "p", "capacity": {"cpu": 3}}).outcome == "configured"
    assert next(view for view in client.pools() if view.name == "p").problem == ""


def test_racing_applies_end_with_one_of_the_definitions(client: Client) -> None:
    """Each is written under the guard of what it replaced, and none is refused."""
    threads = [
        threading.Thread(
            target=client.apply_pool, args=({"name": "p", "capacity": {"cpu": n}},), name=f"admin-{n}"
        )
        for n in range(1, 6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    item, _ = client.store.get(client.keys.pool("p"), deadline=in_seconds())
    assert item is not None
    assert item.version == 5


def test_lowering_a_capacity_below_what_is_held_warns(client: Client, put_raw: PutRaw) -> None:
    """Fault 38: nothing is killed, the overcommit is told."""
    put_raw("ledgers/default", codec.encode_ledger(Vector.parse({"cpu": 6}), Op("op"), {}))
    assert client.apply_pool(POOL).message == ""
    assert (
        "tasks hold more than this capacity (cpu: cpu 6 held)"
        in client.apply_pool({**POOL, "capacity": {"cpu": 4}}).message
    )
    (view,) = client.pools(counts=True)
    assert (view.overcommitted, view.free, view.counts) == (["cpu"], Vector({"cpu": -2000}), {"Created": 1})


def test_what_require_attested_does_to_waiting_tasks_is_told(client: Client, put_raw: PutRaw) -> None:
    """When it is turned on; and that it is gone, which a definition without it does without a word."""
    put_raw(
        "engine", b'{"engine":{"name":"null","id":"e","parts":{"feature/attested":""}},"installation":"abc"}'
    )
    client.apply_pool({"name": "gpu", "capacity": {"cpu": 4}})
    for name in ("x", "y"):
        client.submit({"id": name, "pool": "gpu", "command": ["true"]})
    guarded = {"name": "gpu", "capacity": {"cpu": 4}, "require_attested": True}
    told = client.apply_pool(guarded).message
    assert told == "2 waiting tasks that no gateway has attested will be rejected"
    assert client.apply_pool({**guarded, "capacity": {"cpu": 5}}).message == ""
    open_again = client.apply_pool({"name": "gpu", "capacity": {"cpu": 5}}).message
    assert (
        open_again == "it had require_attested, and has not any more: who may write to etcd may submit to it"
    )
    assert client.apply_pool({"name": "gpu", "capacity": {"cpu": 5}}).message == ""


def test_delete_pool(client: Client) -> None:
    """Gone, and gone only once."""
    client.delete_pool("default")
    assert client.pools() == []
    with pytest.raises(NotFound, match="there is no pool 'default'"):
        client.delete_pool("default")
    assert "its pool default does not exist (existing pools: none)" in client.explain("a")


def test_step_down_takes_that_terms_leadership(client: Client, put_raw: PutRaw) -> None:
    """The leader's key is gone; who led is told; without a leader there is nobody to step down."""
    with pytest.raises(NotFound, match="no replica leads"):
        client.replicas.step_down()
    value = {
        "id": "r1",
        "instance": "i1",
        "status_url": "http://x",
        "version": "1",
        "epoch": 4,
        "since": 5.0,
        "new": [1],
    }
    put_raw(
        "replicas/r1",
        msgspec.json.encode({**value, "engine": {"name": "process"}, "pid": 7, "started_at": 1.0}),
    )
    put_raw("replicas/r2", msgspec.json.encode({"id": "r2", "instance": "i2", "pid": "not a number"}))
    put_raw("replicas/r3", b"broken")
    term = put_raw("leader", msgspec.json.encode(value))
    leader = client.replicas.leader()
    assert leader is not None
    assert (leader.id, leader.epoch, leader.term) == ("r1", 4, term)
    assert [(view.id, view.role, view.pid) for view in client.replicas.all()] == [
        ("r1", "leader", 7),
        ("r2", "follower", 0),
        ("r3", "follower", 0),
    ]
    assert client.replicas.step_down() == leader
    assert client.replicas.leader() is None


def test_the_engine_is_the_leaders(client: Client, put_raw: PutRaw, tmp_path: Path) -> None:
    """A replica that has just begun does not say yet that its engine is another one than the recorded one."""
    for name, folder in (("a-new", "another"), ("b-leads", "recorded"), ("c", "third")):
        engine = {"name": "process", "state_dir": str(tmp_path / folder)}
        # as each replica makes its own
        ProcessEngine(tmp_path / folder, client.keys.cluster, SystemClock()).close()
        put_raw(f"replicas/{name}", codec.encode({"id": name, "instance": name, "engine": engine}))
    put_raw("leader", codec.encode({"id": "b-leads", "instance": "b-leads", "epoch": 1}))
    engine_of_leader = client.outputs.engine()
    assert engine_of_leader is not None
    assert engine_of_leader.identity().details["folder"] == str(tmp_path / "recorded" / client.keys.cluster)
    engine_of_leader.close()


@pytest.mark.parametrize("reason", ["x" * 2001, "a\0b", "\ud800"])
def test_a_reason_is_a_sentence(client: Client, reason: str) -> None:
    """It is shown in sentences, and kept in the history: what is too long, or no text, is refused."""
    client.submit({"id": "a", "command": ["true"]})
    with pytest.raises(InvalidField, match="reason"):
        client.cancel("a", reason=reason)
    assert client.get("a").requests == ()
