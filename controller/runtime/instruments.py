"""What the runtime tells of its work, so that somebody may count it: the runtime itself knows nothing of
metrics.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from controller.core.model.task import Status, Step


class Instruments(Protocol):
    """Called from the control loop's thread, after the fact; the methods return at once and never raise."""

    def entered(self, phase: str) -> None:
        """The replica entered a phase (see `replica`)."""
        ...

    def turned(self) -> None:
        """The control loop begins a turn: at least once in `IDLE_SECONDS`, unless it is stuck."""
        ...

    def took_over(self, seconds: float) -> None:
        """A term of this replica acts, so many seconds after its election."""
        ...

    def transitioned(self, before: Status | None, after: Status, steps: Sequence[Step]) -> None:
        """A task's status was committed; `steps` are those that it is ahead of `before` (None: there was
        no status).
        """
        ...


class Uncounted:
    """Instruments that nobody reads."""

    def entered(self, phase: str) -> None:
        """See Instruments."""

    def turned(self) -> None:
        """See Instruments."""

    def took_over(self, seconds: float) -> None:
        """See Instruments."""

    def transitioned(self, before: Status | None, after: Status, steps: Sequence[Step]) -> None:
        """See Instruments."""


UNCOUNTED = Uncounted()
