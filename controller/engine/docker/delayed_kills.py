"""Kills that are due when a grace has passed: one thread for all of them."""

from __future__ import annotations

import threading
from collections.abc import Callable

import structlog

from controller.clock import Clock
from controller.engine.base import EngineUnavailable

log = structlog.get_logger(__name__)


class DelayedKills:
    """Calls `kill` with a key once its time has come, and again while the engine does not answer.

    Nothing is kept beyond this process: who leads next sends the stop again, and so sets the time anew.
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
        """Let the kill of `key` come no later than in so many seconds; False when none is due."""
        with self._changed:
            if key not in self._due:
                return False
            self._due[key] = min(self._due[key], self._clock.boottime() + seconds)
            self._changed.notify()
            return True

    def add(self, key: str, seconds: float) -> None:
        """Kill `key` in so many seconds."""
        with self._changed:
            self._due[key] = self._clock.boottime() + seconds
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()
            self._changed.notify()

    def close(self) -> None:
        """Drop what is due, and end the thread. Idempotent."""
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
        """The keys whose time has come, taken out; None when closed."""
        with self._changed:
            while not self._closed:
                now = self._clock.boottime()
                if due := [key for key, at in self._due.items() if at <= now]:
                    for key in due:
                        del self._due[key]
                    return due
                self._changed.wait(min(self._due.values()) - now if self._due else None)
            return None
