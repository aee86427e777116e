"""What a pool is expected to hold over time, while one looks ahead: what runs already, what is to begin."""

from __future__ import annotations

import math
from typing import NamedTuple

from controller.core.model.model import Model
from controller.core.model.resources import ZERO, Vector
from controller.core.planning.plan import Plan

FINEST = 1.0  # seconds
COARSEST = 0.05  # of the time ahead: a week has at most 460 points


class PoolPoint(NamedTuple):
    """A pool from the time `at` until the next point: what the attempts hold that have begun before the
    forecast, and the others.

    Where more than one change falls between two points, amounts are means over that time, rounded up.
    """

    at: float
    running: Vector
    planned: Vector
    waiting: int  # tasks in the queue


class _Area:
    """What a pool has held since the last point: amounts times seconds, up to `since`."""

    def __init__(self, since: float) -> None:
        self.since = since
        self.running: dict[str, float] = {}
        self.planned: dict[str, float] = {}


class PoolCourse:
    """The points of all pools that are defined. Their distance grows with the time ahead."""

    def __init__(self, model: Model, now: float) -> None:
        self._model = model
        self._began_at = self._start = now
        # what has begun before, by task: its attempt, its pool and its hold; and the sums of these holds
        self._old: dict[str, tuple[int, str, Vector]] = {}
        self._running: dict[str, Vector] = {}
        for task in model.holding.values():
            if task.status is not None:
                self._old[task.id] = task.status.attempt, task.pool, task.status.hold
                self._running[task.pool] = self._running.get(task.pool, ZERO) + task.status.hold
        self._areas = {name: _Area(now) for name in model.pools}
        self.points: dict[str, list[PoolPoint]] = {name: [] for name in model.pools}

    def before(self, plan: Plan, now: float) -> None:
        """The model is about to change by this plan."""
        for change in plan.ledgers:
            self._add(change.pool, now)
        for task in plan.changes if self._old else ():  # of a gang, members take over what it holds
            if task.task_id in self._old:
                self._add(self._old[task.task_id][1], now)

    def after(self, plan: Plan) -> None:
        """The model has changed by this plan."""
        for change in plan.changes if self._old else ():
            old = self._old.get(change.task_id)
            if old is None:
                continue
            attempt, pool, hold = old
            status = change.status
            if status is not None and status.is_holding and status.attempt == attempt:
                self._old[change.task_id] = attempt, pool, status.hold
                self._running[pool] = self._running[pool] - hold + status.hold
            else:
                del self._old[change.task_id]
                self._running[pool] = self._running[pool] - hold

    def note(self, now: float, until: float) -> None:
        """Nothing changes from now on until then."""
        while now < until:
            due = self._start
            if due > self._began_at:  # what is held now is told as it is
                due += max(FINEST, COARSEST * (self._start - self._began_at))
            if until < due:
                return
            if now == self._start:  # nothing has changed since the last point
                due = until
            for name in self.points:
                self._add(name, due if due < math.inf else now)
                self._point(name, due)
            self._start = now = due

    def _add(self, pool: str, now: float) -> None:
        """Count what the pool has held up to now."""
        area = self._areas.get(pool)
        if area is None or now <= area.since:
            return
        seconds, area.since = now - area.since, now
        running = self._running.get(pool, ZERO)
        for name, amount in running.items():
            area.running[name] = area.running.get(name, 0.0) + amount * seconds
        for name, amount in (self._model.holds.get(pool, ZERO) - running).items():
            area.planned[name] = area.planned.get(name, 0.0) + amount * seconds

    def _point(self, pool: str, until: float) -> None:
        points, area, start = self.points[pool], self._areas[pool], self._start
        if until == math.inf:
            running = self._running.get(pool, ZERO)
            held = running, self._model.holds.get(pool, ZERO) - running
        else:
            held = _mean(area.running, until - start), _mean(area.planned, until - start)
            self._areas[pool] = _Area(until)
        waiting = len(self._model.queue(pool))
        if not points or (*held, waiting) != points[-1][1:]:
            points.append(PoolPoint(start, *held, waiting))


def _mean(areas: dict[str, float], seconds: float) -> Vector:
    return Vector({name: math.ceil(round(area / seconds, 6)) for name, area in areas.items()})
