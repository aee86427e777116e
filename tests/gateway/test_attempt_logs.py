"""Outputs that are read from an engine which answers slowly, or cannot be opened."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from controller.client import Client
from controller.client.views import TaskView
from controller.clock import SystemClock
from controller.core.model import kept_log
from controller.core.model.kept_log import KeptLog
from controller.core.model.lifecycle import State
from controller.core.model.op import Op
from controller.core.model.task import AttemptId
from controller.engine.base import ALL_LOGS, EngineUnavailable
from controller.engine.null import NullEngine
from controller.errors import UserError
from controller.gateway.attempt_logs import AttemptLogs
from controller.store.base import Committed, Delete, Transaction, new_op
from controller.store.memory import MemoryStore
from tests.client.conftest import PutRaw, PutStatus
from tests.client.conftest import put_status as put_status
from tests.gateway.conftest import As, Served
from tests.gateway.test_gateway import task
from tests.support.etcd import in_seconds

NOWHERE = TaskView(id="t", pool="default", state=State.RUNNING)


async def opened(logs: AttemptLogs) -> str:
    """Why no output can be read."""
    with pytest.raises(EngineUnavailable) as refused:
        await logs.open(NOWHERE, None, ALL_LOGS, follow=False)
    return str(refused.value)


def test_the_event_loop_never_waits_for_an_engine_that_is_being_opened() -> None:
    """Nor do callers ask one after the other: who waited learns what the first has learnt."""
    asked, go_on = [], threading.Event()

    def find(_: Client) -> None:
        asked.append(1)
        assert go_on.wait(30)
        raise UserError("no kubeconfig")

    async def use() -> None:
        logs = AttemptLogs(Client.of_store(MemoryStore(SystemClock())), find)
        callers = [asyncio.create_task(opened(logs)) for _ in range(5)]
        while not asked:
            await asyncio.sleep(0.01)
        for _ in range(50):  # the loop goes on, and takes in another caller
            await asyncio.sleep(0.001)
        callers.append(asyncio.create_task(opened(logs)))
        await asyncio.sleep(0.01)
        go_on.set()
        assert set(await asyncio.gather(*callers)) == {"this gateway cannot read outputs: no kubeconfig"}
        logs.close()

    asyncio.run(asyncio.wait_for(use(), 20))
    assert len(asked) == 1


class Printing(NullEngine):
    """An engine that has an output for whatever it is asked for."""

    def logs(self, attempt: AttemptId, **_: Any) -> Iterator[bytes]:
        return iter([f"printed by {attempt}".encode()])


def test_outputs_are_of_the_task_that_one_may_read(
    served: Served, as_: As, client: Client, put_raw: PutRaw, put_status: PutStatus
) -> None:
    """Not of another owner's that has its name by now, of which a gateway that is behind has not heard."""
    served.gateway._api.logs._find_engine = lambda _: Printing(SystemClock())
    alice, bob = as_("alice"), as_("bob")
    paths = "/v1/tasks/x/log", "/v1/tasks/x/logs"

    def read(caller: httpx.Client, *paths: str) -> list[tuple[int, bool]]:
        return [(answer.status_code, "printed" in answer.text) for answer in map(caller.get, paths)]

    def put(owner: str) -> None:
        client.submit(task("x", owner=owner))
        put_status("x", State.SUCCEEDED, owner=owner)

    def keep() -> int:
        return put_raw("logs/x", kept_log.encode(KeptLog(attempt=1, text="printed"), Op("log")))

    put("vision")
    reached = f"/v1/tasks/x?min_revision={keep()}&wait=20"
    assert alice.get(reached).status_code == 200
    assert read(alice, *paths) == [(200, True)] * 2
    served.gateway._standby._follower.close()  # it hears no more
    keys = [client.keys.task("x"), client.keys.state("x")]
    remove(client, *keys)
    put("speech")
    assert read(alice, *paths) == [(404, False)] * 2
    keep()
    assert read(alice, *paths) == [(404, False)] * 2
    remove(client, *keys)
    put("vision")
    assert read(alice, "/v1/tasks/x/log") == [(404, False)]  # it is hers, and the log is of the one before
    assert bob.get("/v1/tasks/x").status_code == 404


def remove(client: Client, *keys: str) -> None:
    transaction = Transaction((), tuple(Delete(key) for key in keys), new_op())
    assert isinstance(client.store.commit(transaction, deadline=in_seconds()), Committed)
