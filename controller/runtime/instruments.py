"""What the runtime reports of its work, so that it can be counted. The runtime itself knows no metrics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from controller.core.model.schedules import TickOutcome
from controller.core.model.task import Status, Step


class Taken(NamedTuple):
    """The steps that a task has taken: `after` is its status now, `before` the one before (None: none)."""

    before: Status | None
    after: Status
    steps: Sequence[Step]


class Instruments(Protocol):
    """Called from the control loop's thread, after the fact. The methods return at once and never raise."""

    def entered(self, phase: str) -> None:
        """The replica entered a phase (see `phase`)."""
        ...

    def turned(self) -> None:
        """The control loop begins a turn: at least once in `IDLE_SECONDS`, unless it is stuck."""
        ...

    def took_over(self, seconds: float) -> None:
        """A term of this replica acts, so many seconds after its election."""
        ...

    def transitioned(self, taken: Sequence[Taken]) -> None:
        """Statuses were committed."""
        ...

    def unnoticed(self, ends: int) -> None:
        """So many ends of tasks were committed without their notices, for which there was no room."""
        ...

    def ticked(self, outcome: TickOutcome) -> None:
        """What became of a tick of a schedule, or of several, was committed."""
        ...


class Uncounted:
    """Instruments that record nothing."""

    def entered(self, phase: str) -> None:
        """See Instruments."""

    def turned(self) -> None:
        """See Instruments."""

    def took_over(self, seconds: float) -> None:
        """See Instruments."""

    def transitioned(self, taken: Sequence[Taken]) -> None:
        """See Instruments."""

    def unnoticed(self, ends: int) -> None:
        """See Instruments."""

    def ticked(self, outcome: TickOutcome) -> None:
        """See Instruments."""


UNCOUNTED = Uncounted()
