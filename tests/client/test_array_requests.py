"""No range of members is forgotten, whatever the leader has yet to carry out."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from controller.client import Client
from controller.client.errors import Conflict
from controller.core.model.lifecycle import State
from controller.core.model.op import Op
from controller.core.model.requests import RequestKind
from controller.dev.etcd import EtcdProcess
from controller.errors import UserError
from controller.store.base import Committed, Delete, Guard, Transaction
from tests.client.conftest import PutRaw, PutStatus
from tests.client.test_features import release
from tests.support.array_records import ENDED, begin_array, put_block, submit_array
from tests.support.etcd import in_seconds
from tests.support.waiting import wait_until


@pytest.fixture(autouse=True)
def _feature(client: Client, put_raw: PutRaw) -> None:
    put_raw("engine", b'{"engine":{"name":"null","id":"e"},"installation":"abc"}')
    put_raw("leader", release("r1", knows=["arrays"]))
    client.features.enable("arrays")


@pytest.fixture
def hasty(etcd: EtcdProcess, client: Client) -> Iterator[Client]:
    """A client that does not wait long."""
    with Client(etcd.url, cluster=client.cluster, timeout_seconds=1.0) as made:
        yield made


def pending(client: Client, kind: RequestKind = RequestKind.CANCEL) -> str | None:
    found = client._reading.tasks("render").tasks["render"].requests.get(kind)
    return found[0].members if found is not None else None


def consume(client: Client, kind: RequestKind = RequestKind.CANCEL) -> None:
    """As a leader that has carried it out."""
    key = client.keys.request("render", kind)
    item, _ = client.store.get(key, deadline=in_seconds())
    assert item is not None
    transaction = Transaction((Guard(key, item.mod),), (Delete(key),), Op(f"consume-{item.mod}"))
    assert isinstance(client.store.commit(transaction, deadline=in_seconds()), Committed)


def test_another_range_waits_for_the_first(client: Client) -> None:
    submit_array(client, "render", 100)
    assert client.cancel("render", members="1-5").outcome == "requested"
    with ThreadPoolExecutor(1) as one:
        second = one.submit(client.cancel, "render", members="20-30")
        consume(client)
        assert second.result().outcome == "requested"
    assert pending(client) == "20-30"


def test_it_does_not_wait_for_ever(hasty: Client) -> None:
    submit_array(hasty, "render", 100)
    hasty.cancel("render", members="1-5")
    with pytest.raises(UserError, match="has yet to cancel members 1-5 of render"):
        hasty.cancel("render", members="20-30")
    with pytest.raises(UserError, match="has yet to cancel members 1-5 of render"):
        hasty.cancel("render")
    assert pending(hasty) == "1-5"


def test_what_is_asked_for_already_is_not_asked_again(client: Client) -> None:
    submit_array(client, "render", 100)
    client.cancel("render")
    assert client.cancel("render", members="7").outcome == "already requested"
    assert client.cancel("render-i7").outcome == "already requested"
    assert pending(client) == ""


def test_a_wait_for_a_member_ends_with_its_block(client: Client, put_raw: PutRaw) -> None:
    """A member that is cancelled before it begins never has a status."""
    submit_array(client, "render", 10)
    with ThreadPoolExecutor(1) as one:
        seen = list[State | None]()
        waiting = one.submit(
            client.wait, ["render-i2"], timeout_seconds=30, on_change=lambda view: seen.append(view.state)
        )
        wait_until(lambda: bool(seen), "the first look")
        put_block(client, put_raw, "render", *ENDED)
        assert waiting.result()["render-i2"].state is State.CANCELLED
    assert seen == [State.CREATED, State.CANCELLED]


def test_progress_of_a_wait(client: Client, put_raw: PutRaw, put_status: PutStatus) -> None:
    submit_array(client, "render", 10)
    begin_array(client, put_raw, put_status, "render")
    seen = list[int]()
    with ThreadPoolExecutor(1) as one:
        note = lambda view: seen.append(view.progress.ended)  # noqa: E731
        waiting = one.submit(client.wait, ["render"], timeout_seconds=30, on_change=note)
        wait_until(lambda: seen == [3], "the first look")
        put_status("render-i3", State.SUCCEEDED, array="render", index=3)
        wait_until(lambda: seen == [3, 4], "the progress")
        put_status("render", State.FAILED, attempt=0)
        assert waiting.result()["render"].finished


def test_the_name_of_a_member_under_way_is_refused_as_that(client: Client, put_status: PutStatus) -> None:
    submit_array(client, "render", 2)
    put_status("render-i1", State.RUNNING, array="render", index=1)
    with pytest.raises(Conflict, match="is the name of a member of "):
        client.submit({"id": "render-i1", "command": ["true"]})


def test_nobody_takes_the_name_of_a_member_of_a_stored_array(client: Client) -> None:
    """That member would fail, and by `fail_fast` the array: whoever knows its name could do that."""
    client.submit({"id": "wide", "command": ["true"], "array": {"size": 3}})
    client.submit({"id": "plain", "command": ["true"]})
    for dry_run in (True, False):
        taken, beyond, beside = client.submit_many(
            [{"id": name, "command": ["true"]} for name in ("wide-i2", "wide-i3", "plain-i0")],
            dry_run=dry_run,
        )
        assert (taken.outcome, taken.message) == (
            "conflict",
            "wide-i2 is the name of a member of the array wide: use another name",
        )
        assert (beyond.outcome, beside.outcome) == ("created", "created")
    both = client.submit_many(
        [
            {"id": "new", "command": ["true"], "array": {"size": 2}},
            {"id": "new-i1", "command": ["true"]},
            {"id": "new-i2", "command": ["true"]},
        ]
    )
    assert [each.outcome for each in both] == ["created", "conflict", "created"]
    again = client.submit_many([{"id": "wide-i3", "command": ["true"]}])
    assert [each.outcome for each in again] == ["unchanged"]


def test_an_array_that_is_submitted_meanwhile_is_seen(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look at its name and the creation."""
    commit, met = client.store.commit, list[bool]()

    def late(transaction: Any, **more: Any) -> Any:
        if not met:
            met.append(True)
            client.submit({"id": "wide", "command": ["true"], "array": {"size": 3}})
        return commit(transaction, **more)

    monkeypatch.setattr(client.store, "commit", late)
    with pytest.raises(Conflict, match="is the name of a member of the array wide"):
        client.submit({"id": "wide-i1", "command": ["true"]})
