"""What the planner looks at next: in a pass, what something happened to; and later, what time alone brings.

The pass costs what is in here, never the number of tasks stored. What the model's own timers bring (back-
offs, deadlines, retentions) stays with the model: a follower keeps it ready for a term of its own.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict

from controller.core.model.task import AttemptId
from controller.core.model.touched import Touched


class Agenda:
    """One planner's. Names in order of arrival; times are seconds since the epoch by the leader's clock."""

    def __init__(self) -> None:
        # whose first is taken in constant time, unlike a dict's
        self.tasks: OrderedDict[str, None] = OrderedDict()
        self.pools: dict[str, None] = {}
        self.attempts: dict[AttemptId, None] = {}
        self._wakes: list[tuple[float, AttemptId]] = []

    def note(self, touched: Touched) -> None:
        """The model changed: what that touched is looked at."""
        self.tasks.update(touched.tasks)
        self.pools.update(touched.pools)

    def look_at(self, attempt_id: AttemptId) -> None:
        """Something happened to an attempt: its task and it are looked at."""
        self.tasks[attempt_id.task_id] = None
        self.attempts[attempt_id] = None

    def wake(self, at: float, attempt_id: AttemptId) -> None:
        """Look at an attempt then."""
        heapq.heappush(self._wakes, (at, attempt_id))

    def ring(self, now: float) -> None:
        """What was to be looked at by `now` is looked at."""
        while self._wakes and self._wakes[0][0] <= now:
            self.look_at(heapq.heappop(self._wakes)[1])

    def next_wake(self) -> float | None:
        """When `ring` next has something to do, None for never."""
        return self._wakes[0][0] if self._wakes else None
