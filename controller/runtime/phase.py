"""The phases of a replica, as a table of what may follow what.

    starting ──► following ──► taking-over ──► leading
                     ▲              │             │
                     └──── stepping-down ◄────────┘        any ──► stopping ──► stopped

A replica that stops while it leads steps down on its way.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import structlog

from controller.runtime.instruments import Instruments

log = structlog.get_logger(__name__)


class ReplicaPhase(StrEnum):
    """What a replica is doing. See the module's docstring."""

    STARTING = "starting"
    FOLLOWING = "following"
    TAKING_OVER = "taking-over"
    LEADING = "leading"
    STEPPING_DOWN = "stepping-down"
    STOPPING = "stopping"
    STOPPED = "stopped"


TABLE: Mapping[ReplicaPhase, frozenset[ReplicaPhase]] = {
    ReplicaPhase.STARTING: frozenset({ReplicaPhase.FOLLOWING, ReplicaPhase.STOPPING}),
    ReplicaPhase.FOLLOWING: frozenset({ReplicaPhase.TAKING_OVER, ReplicaPhase.STOPPING}),
    ReplicaPhase.TAKING_OVER: frozenset(
        {ReplicaPhase.LEADING, ReplicaPhase.STEPPING_DOWN, ReplicaPhase.STOPPING}
    ),
    ReplicaPhase.LEADING: frozenset({ReplicaPhase.STEPPING_DOWN, ReplicaPhase.STOPPING}),
    ReplicaPhase.STEPPING_DOWN: frozenset(
        {ReplicaPhase.FOLLOWING, ReplicaPhase.STOPPING, ReplicaPhase.STOPPED}
    ),
    ReplicaPhase.STOPPING: frozenset({ReplicaPhase.STEPPING_DOWN, ReplicaPhase.STOPPED}),
    ReplicaPhase.STOPPED: frozenset(),
}


class Phases:
    """The phase of a replica. For any thread."""

    def __init__(self, instruments: Instruments) -> None:
        self._instruments = instruments
        self._lock = threading.Lock()
        self._stops = False
        self.now = ReplicaPhase.STARTING
        self._tell(ReplicaPhase.STARTING, "")

    def enter(self, phase: ReplicaPhase, **facts: Any) -> None:
        """Enter the next phase; `facts` are logged with it.

        Raises ValueError for a move that the table lacks. While the replica stops, such a move is ignored,
        since its caller may not know of the stop.
        """
        with self._lock:
            before = self.now
            if phase is before:
                return
            if phase not in TABLE[before]:
                if self._stops:
                    return
                raise ValueError(f"a replica that is {before} cannot be {phase} next")
            self._stops = self._stops or phase is ReplicaPhase.STOPPING
            if self._stops and phase is ReplicaPhase.FOLLOWING:
                return
            self.now = phase
        self._tell(phase, before, **facts)

    def _tell(self, phase: ReplicaPhase, before: str, **facts: Any) -> None:
        log.info("phase", phase=phase.value, before=str(before), **facts)
        self._instruments.entered(phase.value)
