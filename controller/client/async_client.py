"""`AsyncClient`: the verbs of a client for programs that use asyncio.

    async with AsyncClient(connect()) as tally:
        await tally.submit({"id": "hello", "command": ["echo", "hello"]})
        views = await tally.wait(["hello"])

Each call runs in one of THREADS threads, so the event loop never waits. A wait for many tasks is one call:
give all of them to one `wait`. A call that is cancelled ends within LOOK_SECONDS; what it asked for may have
been done.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Self, TypeVar

from controller.client.calls import parse_timeout
from controller.client.client import Client
from controller.client.errors import Still
from controller.client.prepared import SubmitResult
from controller.client.stop_event import StopEvent
from controller.client.views import ApplyResult, PoolView, RequestResult, TasksLook, TaskView
from controller.core.model.task import Pool, Spec
from controller.engine.base import ALL_LOGS, Engine, LogOptions
from controller.errors import Closed
from controller.views.arrays import MemberView

THREADS = 64
LOOK_SECONDS = 2.0

T = TypeVar("T")


class AsyncClient:
    """See the module's docstring. It owns the client that it is given, and closes it."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self._threads = ThreadPoolExecutor(THREADS, "tally-async")
        self._is_closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections: calls that go on, and any later one, raise Closed. Idempotent."""
        self._is_closed = True
        self._threads.shutdown(wait=False)
        await asyncio.to_thread(self.client.close)

    async def submit(self, task: Mapping[str, Any] | Spec, *, dry_run: bool = False) -> SubmitResult:
        """See Client."""
        return await self.call(partial(self.client.submit, task, dry_run=dry_run))

    async def submit_many(
        self, tasks: Iterable[Mapping[str, Any] | Spec], *, dry_run: bool = False
    ) -> list[SubmitResult]:
        """See Client."""
        return await self.call(partial(self.client.submit_many, tasks, dry_run=dry_run))

    async def get(self, task_id: str) -> TaskView:
        """See Client."""
        return await self.call(partial(self.client.get, task_id))

    async def tasks(
        self, *, pool: str = "", state: str = "", selector: str = "", owner: str = ""
    ) -> list[TaskView]:
        """See Client."""
        return await self.call(
            partial(self.client.tasks, pool=pool, state=state, selector=selector, owner=owner)
        )

    async def explain(self, task_id: str) -> str:
        """See Client."""
        return await self.call(partial(self.client.explain, task_id))

    async def pools(self, *, counts: bool = False) -> list[PoolView]:
        """See Client."""
        return await self.call(partial(self.client.pools, counts=counts))

    async def wait(
        self, task_ids: Iterable[str], *, for_: str = "finished", timeout_seconds: float | None = None
    ) -> dict[str, TaskView]:
        """See Client."""
        ids, loop = list(task_ids), asyncio.get_running_loop()
        seconds = parse_timeout(timeout_seconds)
        until = None if seconds is None else loop.time() + seconds
        while True:
            left = LOOK_SECONDS if until is None else max(0.0, min(LOOK_SECONDS, until - loop.time()))
            try:
                return await self.call(partial(self.client.wait, ids, for_=for_, timeout_seconds=left))
            except Still:
                if until is not None and loop.time() >= until:
                    raise

    async def watch_tasks(
        self, *, pool: str = "", state: str = "", selector: str = "", owner: str = ""
    ) -> AsyncIterator[TasksLook]:
        """See Client."""
        stop = StopEvent()
        looks = self.client.watch_tasks(pool=pool, state=state, selector=selector, owner=owner, stop=stop)
        try:
            async for views in _each(self, looks):
                yield views
        finally:
            stop.set()

    async def logs(
        self,
        task_id: str,
        *,
        attempt: int | None = None,
        follow: bool = False,
        engine: Engine | None = None,
        options: LogOptions = ALL_LOGS,
    ) -> AsyncIterator[bytes]:
        """See Outputs.logs."""
        stop = StopEvent()
        begin = partial(
            self.client.outputs.logs,
            task_id,
            attempt=attempt,
            follow=follow,
            stop=stop,
            engine=engine,
            options=options,
        )
        try:
            async for part in _each(self, await self.call(begin)):
                yield part
        finally:
            stop.set()

    async def members(self, array: str, *, state: str = "", members: str = "") -> AsyncIterator[MemberView]:
        """See ArrayMembers."""
        begin = partial(self.client.members, array, state=state, members=members)
        async for member in _each(self, await self.call(begin)):
            yield member

    async def cancel(
        self, task_id: str, *, members: str = "", reason: str = "", of: TaskView | None = None
    ) -> RequestResult:
        """See Client."""
        return await self.call(partial(self.client.cancel, task_id, members=members, reason=reason, of=of))

    async def retry(
        self,
        task_id: str,
        *,
        members: str = "",
        only_failed: bool = False,
        reason: str = "",
        of: TaskView | None = None,
    ) -> RequestResult:
        """See Client."""
        asked = partial(self.client.retry, members=members, only_failed=only_failed, reason=reason, of=of)
        return await self.call(partial(asked, task_id))

    async def hold(self, task_id: str, *, reason: str = "", of: TaskView | None = None) -> RequestResult:
        """See Client."""
        return await self.call(partial(self.client.hold, task_id, reason=reason, of=of))

    async def release(self, task_id: str, *, reason: str = "", of: TaskView | None = None) -> RequestResult:
        """See Client."""
        return await self.call(partial(self.client.release, task_id, reason=reason, of=of))

    async def apply_pool(self, definition: Mapping[str, Any] | Pool) -> ApplyResult:
        """See Client."""
        return await self.call(partial(self.client.apply_pool, definition))

    async def call(self, what: Callable[[], T]) -> T:
        """Any other call, in a thread: `await tally.call(lambda: tally.client.owners.all())`.

        Raises Closed.
        """
        if self._is_closed:
            raise Closed
        return await asyncio.get_running_loop().run_in_executor(self._threads, what)


async def _each(client: AsyncClient, items: Iterator[T]) -> AsyncIterator[T]:
    end: Any = object()
    while (item := await client.call(partial(next, items, end))) is not end:
        yield item
