"""`StopEvent`: an event that also wakes whoever waits for something else."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class StopEvent(threading.Event):
    """An event. `set` also closes what is open within `closing`, such as a connection that is read."""

    def __init__(self) -> None:
        super().__init__()
        self._guard = threading.Lock()
        self._open: list[Callable[[], None]] = []

    def set(self) -> None:
        """See Event. Idempotent."""
        super().set()
        with self._guard:
            for close in self._open:
                close()

    @contextmanager
    def closing(self, close: Callable[[], None]) -> Iterator[None]:
        """Call `close`, which may be called again and from any thread, if the event is set meanwhile."""
        with self._guard:
            self._open.append(close)
        try:
            if self.is_set():
                close()
            yield
        finally:
            with self._guard:
                self._open.remove(close)
