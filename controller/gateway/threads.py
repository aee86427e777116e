"""Threads for what callers ask for. One caller keeps only some of them busy, so others have their turn."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from weakref import WeakValueDictionary

from controller.gateway.caller import Caller


class Threads:
    """See the module's docstring. `run` is for one event loop."""

    def __init__(self, name: str, of_all: int, of_one: int) -> None:
        self.pool = ThreadPoolExecutor(of_all, name)
        self._of_one = of_one
        self._turns = WeakValueDictionary[str, asyncio.Semaphore]()

    def close(self) -> None:
        """Shut them down, without waiting for their current work."""
        self.pool.shutdown(wait=False, cancel_futures=True)

    async def run(self, what: Callable[[], Any], caller: Caller) -> Any:
        """What it returns, from a thread, when it is the caller's turn."""
        name = caller.identity.name
        turn = self._turns.get(name)
        if turn is None:
            turn = self._turns[name] = asyncio.Semaphore(self._of_one)
        async with turn:
            return await asyncio.get_running_loop().run_in_executor(self.pool, what)
