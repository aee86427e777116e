"""A request whose answer is lost is sent again, perhaps when the leader has acted on it: it still takes
effect once.
"""

from __future__ import annotations

from typing import Any

import pytest

from controller.client import Client
from controller.core.model.lifecycle import State
from controller.store.base import Put
from controller.store.memory import MemoryStore
from tests.runtime.conftest import CLOCK, CLUSTER, Start
from tests.support.history import replay_store
from tests.support.meddling import Call, MeddledStore
from tests.support.running import RecordingEngine, submit
from tests.support.waiting import wait_until


@pytest.fixture
def unlucky(memory: MemoryStore, client: Client) -> Client:
    """Its transactions are carried out, and sent once more when the leader has acted on them."""

    def commit_twice(real: Call, transaction: Any, **options: Any) -> Any:
        real(transaction, **options)
        (put,) = (write for write in transaction.writes if isinstance(write, Put))
        wait_until(
            lambda: client.store.get(put.key, deadline=CLOCK.boottime() + 5)[0] is None, "the leader's act"
        )
        return real(transaction, **options)

    store = MeddledStore(memory.client())
    store.on["commit"] = commit_twice
    return Client.of_store(store, cluster=CLUSTER)


def test_cancel_and_retry_take_effect_once(start: Start, client: Client, unlucky: Client) -> None:
    """And the answer is true: the leader has acted on it."""
    start(engine=RecordingEngine(CLOCK, run_seconds=600)).until_leading()
    (task,) = submit(client, "task")
    for round_number in (1, 2):
        client.wait([task], for_="running", timeout_seconds=30)
        assert unlucky.cancel(task).outcome == "already requested"
        assert client.wait([task], timeout_seconds=30)[task].state is State.CANCELLED
        assert unlucky.retry(task).outcome == "already requested"
        client.wait([task], for_="running", timeout_seconds=30)
        assert client.get(task).attempt == round_number + 1
    assert [step.event for step in client.get(task).history() if step.reason == "RequestIgnored"] == []
    history = replay_store(client.store, CLUSTER, CLOCK.boottime() + 10)
    assert history.findings == []
    assert history.consumed == {"cancel": 2, "retry": 2}
