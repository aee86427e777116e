"""A wait for tasks that are removed while it goes on."""

from __future__ import annotations

import threading

import pytest

from controller.client import Client, NotFound
from controller.core.model.lifecycle import State
from controller.core.model.op import Op
from controller.store.base import Delete, Transaction
from tests.client.conftest import PutStatus
from tests.support.etcd import in_seconds as soon


def test_who_is_removed_with_its_spec_is_not_waited_for(client: Client, put_status: PutStatus) -> None:
    """Its end and its removal may come in one message: then only the spec, which nobody watches, is left."""
    list(client.submit_many({"id": name, "command": ["true"]} for name in ("a", "b")))
    put_status("a", State.RUNNING, attempt=1)
    seen, errors = threading.Event(), list[Exception]()

    def wait() -> None:
        try:
            client.wait(["a", "b"], timeout_seconds=30, on_change=lambda _: seen.set())
        except Exception as error:  # noqa: BLE001  # what the test looks at
            errors.append(error)

    waiting = threading.Thread(target=wait, daemon=True)
    waiting.start()
    assert seen.wait(10)
    keys = client.keys
    removal = Transaction((), (Delete(keys.state("a")), Delete(keys.task("a"))), Op("x"))
    client.store.commit(removal, deadline=soon())
    waiting.join(20)
    assert [type(error) for error in errors] == [NotFound]
    with pytest.raises(NotFound):
        client.get("a")
