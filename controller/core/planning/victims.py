"""Attempts that may be stopped for others, and which of them can help.

Many owners may ask in one pass, and many attempts may hold nothing of what they lack: what has been looked
through for one is not looked through again for the next.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

from controller.core.model.records import Task
from controller.core.model.resources import Vector


class Victim(NamedTuple):
    """An attempt that may be stopped. The smallest is stopped first."""

    runs: bool
    priority: int
    older: float
    task: Task
    hold: Vector  # what comes free if it is stopped


class Candidates:
    """Attempts that may be stopped, in order, and for what they were not enough."""

    def __init__(self, victims: Iterable[Victim]) -> None:
        self.victims = [*victims]
        self.owners = {victim.task.owner for victim in self.victims}
        self._by_name: dict[str, list[Victim]] = {}
        for victim in self.victims:
            for name in victim.hold:
                self._by_name.setdefault(name, []).append(victim)
        self._failed: dict[Vector, float] = {}  # short → the highest priority for which it has failed

    def that_help(self, short: Vector) -> list[Victim]:
        """Those that hold something of it; none if something of it is held by none."""
        if not all(name in self._by_name for name in short):
            return []
        if len(short) == 1:
            return self._by_name[next(iter(short))]
        return [victim for victim in self.victims if any(name in short for name in victim.hold)]

    def has_failed(self, short: Vector, priority: float) -> bool:
        """Whether they were not enough for this before, for an owner of none of them."""
        return self._failed.get(short, -math.inf) >= priority

    def note_failure(self, short: Vector, priority: float) -> None:
        """See has_failed. For a higher priority there may be more of them."""
        self._failed[short] = max(priority, self._failed.get(short, -math.inf))
