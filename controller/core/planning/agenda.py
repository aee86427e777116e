"""The agenda: what the planner looks at in its next pass, and what it must look at later.

A pass costs what is on the agenda, never the number of tasks stored. The timers of the model (back-offs,
deadlines, retentions) are not here: a follower keeps them, too, so that they are ready when it leads.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict

from controller.core.model.model import Model
from controller.core.model.task import AttemptId
from controller.core.model.touched import Touched


class Agenda:
    """The agenda of one planner.

    Names are in order of arrival. Times are seconds since the epoch by the leader's clock.
    """

    def __init__(self) -> None:
        # an OrderedDict, since it takes its first key in constant time; a dict does not
        self.tasks: OrderedDict[str, None] = OrderedDict()
        self.pools: dict[str, None] = {}
        self.attempts: dict[AttemptId, None] = {}
        self._wakes: list[tuple[float, AttemptId]] = []
        self._pool_wakes: list[tuple[float, str]] = []

    def __bool__(self) -> bool:
        """Whether there is something to look at."""
        return bool(self.tasks or self.pools or self.attempts)

    def note(self, touched: Touched) -> None:
        """Put on the agenda what a change of the model touched."""
        # an OrderedDict's update takes four times as long, for the one task that most changes touch
        for task_id in touched.tasks:
            self.tasks[task_id] = None
        for pool in touched.pools:
            self.pools[pool] = None

    def look_at(self, attempt_id: AttemptId) -> None:
        """Put an attempt and its task on the agenda, since something happened to the attempt."""
        self.tasks[attempt_id.task_id] = None
        self.attempts[attempt_id] = None

    def wake(self, at: float, attempt_id: AttemptId) -> None:
        """Look at an attempt at that time."""
        heapq.heappush(self._wakes, (at, attempt_id))

    def wake_pool(self, at: float, pool: str) -> None:
        """Look at a pool at that time."""
        if (at, pool) not in self._pool_wakes:
            heapq.heappush(self._pool_wakes, (at, pool))

    def ring(self, now: float, model: Model) -> None:
        """Put on the agenda all that time alone has made ready by `now`: of the model, and of its own."""
        model.sight(now)
        self.note(model.advance(now))
        while self._pool_wakes and self._pool_wakes[0][0] <= now:
            self.pools[heapq.heappop(self._pool_wakes)[1]] = None
        while self._wakes and self._wakes[0][0] <= now:
            self.look_at(heapq.heappop(self._wakes)[1])

    def next_wake(self) -> float | None:
        """The next time at which `ring` has something to do; None for never."""
        return min((heap[0][0] for heap in (self._wakes, self._pool_wakes) if heap), default=None)
