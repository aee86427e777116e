"""Outputs that are read from an engine which answers slowly, or cannot be opened."""

from __future__ import annotations

import asyncio
import threading

import pytest

from controller.client import Client
from controller.clock import SystemClock
from controller.engine.base import ALL_LOGS, EngineUnavailable
from controller.errors import UserError
from controller.gateway.attempt_logs import AttemptLogs
from controller.store.memory import MemoryStore


async def opened(logs: AttemptLogs) -> str:
    """Why no output can be read."""
    with pytest.raises(EngineUnavailable) as refused:
        await logs.open("t", None, ALL_LOGS, follow=False)
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
