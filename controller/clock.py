"""The only reader of time.

`boottime` is CLOCK_BOOTTIME: it never jumps, and it counts the time for which the machine was suspended. All
deadlines use it (fault 5). `now` is wall time for what is stored and shown: it is read once, and then
advances with boottime. A jump of the wall clock changes no deadline, and does not reorder the times that one
tenure records. `wall` shows a jump: it is for what compares this machine with others, and for times that a
calendar names, such as the ticks of schedules, and the dates on credentials and signatures.
"""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """The time source of every part of Tally that needs one."""

    def boottime(self) -> float:
        """Seconds of CLOCK_BOOTTIME."""
        ...

    def now(self) -> float:
        """Seconds since the Unix epoch, advancing with boottime since the last `anchor`."""
        ...

    def wall(self) -> float:
        """Seconds since the Unix epoch as the machine tells them now: it may have jumped."""
        ...

    def anchor(self) -> None:
        """Read the wall clock again. Called when a tenure begins."""
        ...


# CLOCK_MONOTONIC where the system has no CLOCK_BOOTTIME: on macOS, it counts suspension too
_BOOTTIME = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class SystemClock:
    """The machine's clocks."""

    def __init__(self) -> None:
        self._offset = 0.0
        self.anchor()

    def boottime(self) -> float:
        """See Clock."""
        return time.clock_gettime(_BOOTTIME)

    def now(self) -> float:
        """See Clock."""
        return self._offset + self.boottime()

    def wall(self) -> float:
        """See Clock."""
        return time.time()

    def anchor(self) -> None:
        """See Clock."""
        self._offset = self.wall() - self.boottime()


class WallClock(SystemClock):
    """Of whoever never leads. No tenure anchors its `now`, so that is what the machine tells: else a clock
    that was wrong when a process began would be wrong in it for months.
    """

    def now(self) -> float:
        """See Clock."""
        return self.wall()
