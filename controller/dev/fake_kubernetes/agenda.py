"""Runs the steps of the fake scheduler, kubelets and controllers at their times, in one thread.

Steps run one at a time and hold the storage's lock, so each is atomic for the API's clients. Delays are given
in seconds of the cluster, each of which takes `scale` seconds of the clock: at 0.01 a minute passes in 0.6 s.
"""

from __future__ import annotations

import heapq
import itertools
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager

from controller.clock import Clock

Step = Callable[[], None]


class TimedCalls:
    """See the module's docstring. `stop` ends the thread; steps that are still due are dropped."""

    def __init__(self, clock: Clock, lock: AbstractContextManager[object], *, scale: float) -> None:
        self.clock = clock
        self.scale = scale
        self._lock = lock
        self._due = threading.Condition()
        self._steps: list[tuple[float, int, Step]] = []
        self._numbers = itertools.count()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="fake-kubernetes-agenda", daemon=True)

    def start(self) -> None:
        """Begin to run steps."""
        self._thread.start()

    def after(self, seconds: float, step: Step) -> None:
        """Run `step` in `seconds` of the cluster; those of one moment in the order given."""
        due = self.clock.boottime() + seconds * self.scale
        with self._due:
            heapq.heappush(self._steps, (due, next(self._numbers), step))
            if self._steps[0][2] is step:
                self._due.notify()

    def stop(self) -> None:
        """End the thread; idempotent."""
        with self._due:
            self._stopping = True
            self._due.notify()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while (step := self._next()) is not None:
            with self._lock:
                step()

    def _next(self) -> Step | None:
        with self._due:
            while not self._stopping:
                wait = self._steps[0][0] - self.clock.boottime() if self._steps else None
                if wait is not None and wait <= 0:
                    return heapq.heappop(self._steps)[2]
                self._due.wait(wait)
        return None
