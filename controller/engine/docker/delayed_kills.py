"""Kills containers when their grace has passed, in one thread."""

from __future__ import annotations

import threading
from collections.abc import Callable

import structlog

from controller.clock import Clock
from controller.engine.base import EngineUnavailable

log = structlog.get_logger(__name__)


class DelayedKills:
    """Calls `kill` with a key when it is due, and again while the engine does not answer.

    Due kills do not survive this process: the next leader requests the stop again, which sets a new time.
    """

    def __init__(self, kill: Callable[[str], None], clock: Clock, name: str) -> None:
        self._kill = kill
        self._clock = clock
        self._due: dict[str, float] = {}
        self._changed = threading.Condition()
        self._name = name
        self._thread: threading.Thread | None = None
        self._closed = False

    def shorten(self, key: str, seconds: float) -> bool:
        """Make the kill of `key` due in `seconds` at the latest; False if there is none."""
        with self._changed:
            if key not in self._due:
                return False
            self._due[key] = min(self._due[key], self._clock.boottime() + seconds)
            self._changed.notify()
            return True

    def add(self, key: str, seconds: float) -> None:
        """Kill `key` after `seconds`."""
        with self._changed:
            self._due[key] = self._clock.boottime() + seconds
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()
            self._changed.notify()

    def close(self) -> None:
        """Drop all kills, and end the thread. Idempotent."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while (due := self._wait()) is not None:
            for key in due:
                try:
                    self._kill(key)
                except EngineUnavailable as error:
                    log.warning("kill after the grace failed, trying again", container=key, error=str(error))
                    self.add(key, error.retry_after)

    def _wait(self) -> list[str] | None:
        """Wait for due keys, remove and return them; None when closed."""
        with self._changed:
            while not self._closed:
                now = self._clock.boottime()
                if due := [key for key, at in self._due.items() if at <= now]:
                    for key in due:
                        del self._due[key]
                    return due
                self._changed.wait(min(self._due.values()) - now if self._due else None)
            return None
