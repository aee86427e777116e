"""The output of attempts, streamed from their engine to callers who have no access to it.

A caller takes the output at its own pace: the next part is read from the engine when the one before has been
taken, so that a slow caller costs one thread and one buffer. A caller that leaves ends its reading.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import structlog

from controller.client import Client
from controller.client.errors import NotFound
from controller.client.views import TaskView
from controller.engine.base import Engine, EngineError, EngineUnavailable, LogOptions, without_first
from controller.errors import UserError
from controller.gateway.openings import LIMITS, BrokenOff, Opening
from controller.store.base import StoreError

FindEngine = Callable[[Client], Engine | None]
"""Opens the engine that the replicas have registered, for reading; None if there is none here.

Raises UserError if it cannot be read from this machine, and EngineError if it cannot be reached.
"""

PAUSE_SECONDS = 1.0  # after an attempt to open it: callers who waited for that learn the same

T = TypeVar("T")
_log = structlog.get_logger(__name__)


class AttemptLogs:
    """See the module's docstring."""

    def __init__(self, client: Client, find_engine: FindEngine) -> None:
        self._client = client
        self._find_engine = find_engine
        self._engine: Engine | None = None
        self._unopened = ""  # why there is none
        self._again_at = 0.0  # boottime from which it is tried again
        self._opening = threading.Lock()  # held while etcd and the engine are asked: never by the event loop
        self._lock = threading.Lock()
        self._threads = ThreadPoolExecutor(LIMITS[Opening.LOGS].of_all, "tally-gateway-logs")
        self._readings: set[threading.Event] = set()

    def close(self) -> None:
        """End all readings. Idempotent."""
        with self._lock:
            for stop in self._readings:
                stop.set()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def open(
        self, task: TaskView, attempt: int | None, options: LogOptions, *, follow: bool, skip: int = 0
    ) -> tuple[int, AsyncGenerator[bytes, None]]:
        """The output of an attempt (None: of the last one), in parts; `follow`: until the attempt has ended.

        Without its first `skip` bytes.
        `task` is what may be read: not another one that has its name. Returns also the attempt's number.
        Raises NotFound if there is none, UserError, and EngineError.
        """
        stop = threading.Event()
        with self._lock:
            self._readings.add(stop)
        try:
            number, whole = await self._call(partial(self._begin, task, attempt, options, follow, stop))
            parts = without_first(skip, whole)
            # what is wrong shows with the first part; a follower may have to wait for that
            first = b"" if follow else await self._call(partial(next, parts, None))
        except BaseException:
            self._end(stop)
            raise
        return number, self._parts(parts, first, stop)

    async def _parts(
        self, parts: Iterator[bytes], first: bytes | None, stop: threading.Event
    ) -> AsyncGenerator[bytes, None]:
        try:
            part = first
            while part is not None and not stop.is_set():
                if part:
                    yield part
                part = await self._call(partial(next, parts, None))
            if stop.is_set():  # the gateway ends, and the attempt may go on
                raise BrokenOff
        except EngineError as error:
            _log.warning("the output of an attempt broke off", error=str(error))
            raise BrokenOff from error
        finally:
            self._end(stop)

    def _begin(
        self, task: TaskView, attempt: int | None, options: LogOptions, follow: bool, stop: threading.Event
    ) -> tuple[int, Iterator[bytes]]:
        engine = self._opened()
        number = attempt or self._client.outputs.last_attempt(task.id)
        parts = self._client.outputs.logs(
            task.id, attempt=number or None, follow=follow, stop=stop, engine=engine, options=options
        )
        # the model that showed the task may be behind: what is stored after the output was found decides
        stored = self._client.get(task.id)
        if (stored.create_revision, stored.owner) != (task.create_revision, task.owner):
            raise NotFound(f"the task {task.id!r} that was asked for is gone: another one has its name")
        return number, parts

    def _opened(self) -> Engine:
        with self._opening:
            if self._engine is None and self._client.clock.boottime() >= self._again_at:
                self._unopened = "no registered replica has an engine whose output can be read here"
                try:
                    self._engine = self._find_engine(self._client)
                except (UserError, EngineError, StoreError) as error:
                    self._unopened = f"this gateway cannot read outputs: {error}"
                self._again_at = self._client.clock.boottime() + PAUSE_SECONDS
            if self._engine is None:
                raise EngineUnavailable(self._unopened)
            return self._engine

    def _end(self, stop: threading.Event) -> None:
        stop.set()
        with self._lock:
            self._readings.discard(stop)

    async def _call(self, what: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, what)
