"""Asks the store for its size periodically, so that a scrape never waits for it."""

from __future__ import annotations

import threading
from collections.abc import Callable

import structlog

from controller import bulkhead
from controller.clock import Clock
from controller.store.base import StoreError, StoreSize

INTERVAL_SECONDS = 30.0
ASK_SECONDS = 5.0

log = structlog.get_logger(__name__)


class StoreSizePoll:
    """Runs in a thread of its own between `start` and `close`.

    If the store does not answer, its last answer is shown.
    """

    def __init__(
        self,
        ask: Callable[[float], StoreSize],
        tell: Callable[[StoreSize], None],
        clock: Clock,
        interval: float = INTERVAL_SECONDS,
    ) -> None:
        """`ask` takes a deadline in boottime seconds, and raises StoreError."""
        self._ask = ask
        self._tell = tell
        self._clock = clock
        self._interval = interval
        self._closed = threading.Event()
        self._denied = False
        self._thread = threading.Thread(target=self._run, name="store-size", daemon=True)

    def start(self) -> None:
        """Ask at once, and then every `interval` seconds."""
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._closed.set()
        self._thread.join(ASK_SECONDS + 1.0)

    def _run(self) -> None:
        while not self._closed.is_set():
            try:
                self._tell(self._ask(self._clock.boottime() + ASK_SECONDS))
                self._denied = False
            except StoreError as error:
                if not self._denied:  # logged once: the other parts log that etcd does not answer
                    log.info("the store does not report its size", error=str(error))
                self._denied = True
            except Exception as error:  # noqa: BLE001  # a size is only shown
                bulkhead.caught("store-size", error)
            self._closed.wait(self._interval)
