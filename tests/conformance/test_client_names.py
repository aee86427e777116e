"""Both ways to Tally, asked about names: none is taken for another, and no task for one that had its name."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from controller.client import Client
from controller.client.by_gateway import NeedsEtcd
from controller.core.model.lifecycle import State
from controller.core.model.op import Op
from controller.store.base import Committed, Delete, Guard, Put, Transaction
from tests.client.conftest import PutStatus
from tests.client.conftest import client as client
from tests.client.conftest import put_raw as put_raw
from tests.client.conftest import put_status as put_status
from tests.conformance.test_client import Ways, outcome, task
from tests.conformance.test_client import ways as ways
from tests.gateway.conftest import _features as _features
from tests.gateway.conftest import served as served
from tests.support.etcd import in_seconds


@pytest.mark.parametrize("name", ["A B", "a/b", "x" * 300, "ä"])
def test_what_is_no_name_is_refused_as_such(ways: Ways, name: str) -> None:
    assert "id: " in ways.both(lambda client: client.wait([name], timeout_seconds=1))
    assert "id: " in ways.both(lambda client: list(next(client.watch_tasks(task_id=name))))


OF_TASKS: dict[str, Callable[[Client, Any], object]] = {
    "get": lambda client, name: client.get(name),
    "explain": lambda client, name: client.explain(name),
    "cancel": lambda client, name: client.cancel(name),
    "retry": lambda client, name: client.retry(name),
    "hold": lambda client, name: client.hold(name),
    "set_priority": lambda client, name: client.set_priority(name, 3),
    "confirm_stopped": lambda client, name: client.confirm_stopped(name),
    "neighbours": lambda client, name: client.neighbours(name),
    "members": lambda client, name: list(client.members(name)),
    "kept_log": lambda client, name: client.outputs.kept_log(name),
    "last_attempt": lambda client, name: client.outputs.last_attempt(name),
    "forecast": lambda client, name: client.forecasts.of(name),
}
OF_POOLS: dict[str, Callable[[Client, Any], object]] = {
    "apply": lambda client, name: client.apply_pool({"name": name, "capacity": {"cpu": 1}}),
    "delete": lambda client, name: client.delete_pool(name),
    "pause": lambda client, name: client.admission.pause(name),
    "drain": lambda client, name: client.maintenance.drain(name, 4e9, 5e9),
    "undrain": lambda client, name: client.maintenance.undrain(name),
    "sharing": lambda client, name: client.owners.sharing(name),
}


def _swapped(what: Callable[[Client, Any], object], given: object, client: Client) -> object:
    return what(client, given)


NO_NAMES = ["", ".", "a/b", "A B", "x" * 300, "%2e", "?x=1", None, 7]


def test_no_verb_takes_what_is_no_name(ways: Ways) -> None:
    """Nor is it a part of another path of a gateway: both say the same, and before anything is asked."""
    for field, verbs in (("id", OF_TASKS), ("name", OF_POOLS)):
        for verb, what in verbs.items():
            for name in NO_NAMES:
                told = ways.both(partial(_swapped, what, name))
                assert told.startswith(f"{field}: "), f"{verb} of {name!r}: {told}"


def test_what_use_is_not_summed_by_is_refused(ways: Ways) -> None:
    for by in ("", "team", "label="):
        assert "by: " in ways.both(partial(_swapped, lambda client, by: client.usage(by=by), by))


def test_notices_need_etcd(ways: Ways) -> None:
    with pytest.raises(NeedsEtcd):
        ways.gateway.notices.all()
    assert ways.direct.notices.all() == []


def test_who_waits_for_a_task_does_not_wait_for_one_that_took_its_name(
    ways: Ways, put_status: PutStatus
) -> None:
    """Also if the caller may know that one, too."""
    ways.gateway.submit(task("a"))
    put_status("a", State.RUNNING)
    found: dict[bool, Any] = {}

    def wait(client: Client, seen: threading.Event) -> None:
        wait = lambda client: client.wait(["a"], timeout_seconds=30, on_change=lambda _: seen.set())  # noqa: E731
        found[client is ways.direct] = outcome(client, wait)

    threads = []
    for way in (ways.direct, ways.gateway):
        seen = threading.Event()
        threads.append(threading.Thread(target=wait, args=(way, seen), daemon=True))
        threads[-1].start()
        assert seen.wait(10)
    store, keys = ways.direct.store, ways.direct.keys
    spec, _ = store.get(keys.task("a"), deadline=in_seconds())
    assert spec is not None
    removal = Transaction((), (Delete(keys.state("a")), Delete(keys.task("a"))), Op("removal"))
    assert isinstance(store.commit(removal, deadline=in_seconds()), Committed)
    again = Transaction((Guard(spec.key, 0),), (Put(spec.key, spec.value),), Op("again"))
    assert isinstance(store.commit(again, deadline=in_seconds()), Committed)
    for thread in threads:
        thread.join(20)
    assert set(found) == {True, False}
    for told in found.values():  # whoever looks between the two finds none
        assert "gone: another one of its name" in told or "there is no task 'a'" in told
