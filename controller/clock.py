"""The only reader of time.

`boottime` is CLOCK_BOOTTIME: it never jumps, and it counts time during which the machine was suspended; all
deadlines use it (fault 5). `now` is wall time that was read once and moves on with boottime, for what is
stored and shown: a jump of the wall clock changes neither a deadline nor the order of recorded times within
one tenure.
"""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """What parts of Tally that need time are given."""

    def boottime(self) -> float:
        """Seconds of CLOCK_BOOTTIME."""
        ...

    def now(self) -> float:
        """Seconds since the Unix epoch, moving on with boottime since the last `anchor`."""
        ...

    def anchor(self) -> None:
        """Read the wall clock afresh; done when a tenure begins."""
        ...


class SystemClock:
    """The machine's clocks."""

    def __init__(self) -> None:
        self._offset = 0.0
        self.anchor()

    def boottime(self) -> float:
        """Seconds of CLOCK_BOOTTIME (CLOCK_MONOTONIC where the system has none, as macOS, where it counts
        suspension too).
        """
        return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))

    def now(self) -> float:
        """See Clock."""
        return self._offset + self.boottime()

    def anchor(self) -> None:
        """See Clock."""
        self._offset = time.time() - self.boottime()
