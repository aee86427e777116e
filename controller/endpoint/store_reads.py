"""What the handlers ask the store for: it is not in the model. A few at a time, in threads of their own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from typing import TypeVar

from controller.core.model.kept_log import KeptLog
from controller.endpoint.problems import Problem

THREADS = 2
MAX_ASKED = 16  # concurrent requests that ask the store

ReadLog = Callable[[str], KeptLog | None]
"""Reads a task's kept log from the store, within seconds. Raises TallyError if the store does not answer."""

HasComeTo = Callable[[int], bool]
"""Whether the store has this revision, linearizable; it may, if the store does not answer within seconds."""

T = TypeVar("T")


def no_log(_: str) -> None:
    """Of an endpoint that has no store: nothing is kept."""


def has_all(_: int) -> bool:
    """Of an endpoint that has no store: every revision may be there."""
    return True


class StoreReads:
    """See the module's docstring. For one event loop."""

    def __init__(self, kept_log: ReadLog, has_come_to: HasComeTo) -> None:
        self._kept_log = kept_log
        self._has_come_to = has_come_to
        # of its own: these threads wait for the store, and must not delay those that read the model
        self._threads = ThreadPoolExecutor(THREADS, "tally-status-store")
        self._asked = 0

    def close(self) -> None:
        """Shut down the threads, without waiting for their current work."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def kept_log(self, task_id: str) -> KeptLog | None:
        """A task's kept log; None if there is none. Raises Problem (503), TallyError."""
        return await self._ask(lambda: self._kept_log(task_id))

    async def has_come_to(self, revision: int) -> bool:
        """See HasComeTo. Raises Problem (503)."""
        return await self._ask(lambda: self._has_come_to(revision))

    async def _ask(self, what: Callable[[], T]) -> T:
        if self._asked >= MAX_ASKED:
            detail = f"{MAX_ASKED} requests are already asking the store: try again"
            raise Problem(HTTPStatus.SERVICE_UNAVAILABLE, detail, headers={"Retry-After": "1"})
        self._asked += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, what)
        finally:
            self._asked -= 1
