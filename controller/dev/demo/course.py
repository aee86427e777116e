"""What the run of one design yields, and what is claimed of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise
from typing import NamedTuple

REPLICAS = 3
TASKS = 60
"""Tasks of one unit that end, and rounds in which one unit is free."""
SUSPENDED_AT = 31
"""The task at whose end a naive leader is suspended, and Tally's is killed."""
TALLY_SUSPENDED_AT = 46
"""The task at whose end Tally's next leader is suspended."""
LATE_EVERY = 10
"""With `AT_ONCE`, one replica hears of each end with this step only after the others have written."""


class Design(StrEnum):
    """Who writes, and what is compared: in `RELEASE` to give units back, in `ACQUISITION` to take them."""

    IN_TURN = "in-turn"
    AT_ONCE = "at-once"
    BALANCE = "balance"
    BOTH = "both"
    LEADER = "leader"
    FENCED = "fenced"
    ACQUIRE = "acquire"
    ACQUIRE_BALANCE = "acquire-balance"
    TALLY = "tally"
    TALLY_ACQUIRE = "tally-acquire"


RELEASE = (
    Design.IN_TURN,
    Design.AT_ONCE,
    Design.BALANCE,
    Design.BOTH,
    Design.LEADER,
    Design.FENCED,
    Design.TALLY,
)
ACQUISITION = (Design.ACQUIRE, Design.ACQUIRE_BALANCE, Design.TALLY_ACQUIRE)


class CoursePoint(NamedTuple):
    """The records against the truth, in units.

    `truth` is the number of tasks that have ended, or of units that there were to give out. `recorded` is
    what the records show as free, or what was given out.
    """

    truth: int
    recorded: int


@dataclass(slots=True)
class Course:
    """One design's run, as far as it has come."""

    design: Design
    points: list[CoursePoint] = field(default_factory=list)
    refused: int = 0  # transactions
    seconds: float = 0.0

    @property
    def recorded(self) -> int:
        """What the records show at last."""
        return self.points[-1].recorded if self.points else 0

    @property
    def excess(self) -> int:
        """Units that do not exist and are free or given out; below 0: units that are lost."""
        return self.recorded - self.points[-1].truth if self.points else 0

    @property
    def is_right(self) -> bool:
        """Whether the records are right at last, and no round gave out too much."""
        return self.excess == 0 and not (self.design in ACQUISITION and self.rounds_too_much)

    @property
    def rounds_too_much(self) -> int:
        """Rounds of an acquisition in which more was given out than there was."""
        steps = pairwise([CoursePoint(0, 0), *self.points])
        return sum(after.recorded - before.recorded > after.truth - before.truth for before, after in steps)

    def at(self, truth: int) -> CoursePoint | None:
        """The first point with this truth; None if it has not come so far."""
        return next((point for point in self.points if point.truth >= truth), None)

    @property
    def is_whole(self) -> bool:
        """Whether it has come to its end. A suspended leader goes on after the last task's end."""
        points = TASKS + (self.design in (Design.LEADER, Design.FENCED))
        return len(self.points) >= points and self.points[-1].truth == TASKS

    @property
    def is_as_claimed(self) -> bool:
        """Whether it has come to its end, and was right or wrong in the way that is claimed of its design."""
        return self.is_whole and CLAIMS[self.design](self)


CLAIMS: dict[Design, Callable[[Course], bool]] = {
    Design.IN_TURN: lambda run: run.recorded == REPLICAS * TASKS,
    Design.AT_ONCE: lambda run: TASKS + TASKS // LATE_EVERY <= run.recorded <= REPLICAS * TASKS,
    Design.BALANCE: lambda run: run.recorded == REPLICAS * TASKS,
    Design.BOTH: lambda run: run.recorded == TASKS and run.refused >= REPLICAS - 1,
    Design.LEADER: lambda run: run.recorded == SUSPENDED_AT,
    Design.FENCED: lambda run: run.recorded == TASKS and run.refused == 1,
    Design.ACQUIRE: lambda run: run.rounds_too_much == TASKS,
    Design.ACQUIRE_BALANCE: lambda run: run.rounds_too_much == 0 and run.recorded == TASKS,
    Design.TALLY: lambda run: all(point.recorded == point.truth for point in run.points),
    Design.TALLY_ACQUIRE: lambda run: run.rounds_too_much == 0 and run.recorded == TASKS,
}
"""The reasons stand in deploy/consistency.md."""
