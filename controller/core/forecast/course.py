"""What a pool is expected to hold over time, while one looks ahead: what runs already, what is to begin."""

from __future__ import annotations

from typing import NamedTuple

from controller.core.model.model import Model
from controller.core.model.resources import Vector

FINEST = 1.0  # seconds
COARSEST = 0.05  # of the time ahead: a week has at most 460 points


class PoolPoint(NamedTuple):
    """A pool from the time `at` on: what the attempts hold that have begun before, and the others."""

    at: float
    running: Vector
    planned: Vector
    waiting: int  # tasks in the queue


class PoolCourse:
    """The points of all pools that are defined. Their distance grows with the time ahead.

    What lasts is a point: what is over before the next point is due is left out.
    """

    def __init__(self, model: Model, now: float) -> None:
        self._model = model
        self._began_at = now
        self._next = now
        self._old = {
            task.id: task.status.attempt for task in model.holding.values() if task.status is not None
        }
        self.points: dict[str, list[PoolPoint]] = {name: [] for name in model.pools}

    def note(self, now: float, until: float) -> None:
        """What the pools hold from now on, until then."""
        if until < self._next:
            return
        self._next = now + max(FINEST, COARSEST * (now - self._began_at))
        running, planned = self._held()
        for name, points in self.points.items():
            held = Vector(running.get(name)), Vector(planned.get(name))
            points.append(PoolPoint(now, *held, len(self._model.queue(name))))

    def _held(self) -> tuple[_Sums, _Sums]:
        """What those hold that held at the beginning and still do, and all others, by pool."""
        running, planned = _Sums(), _Sums()
        for task in self._model.holding.values():
            status = task.status
            assert status is not None
            is_old = self._old.get(task.id) == status.attempt
            amounts = (running if is_old else planned).setdefault(task.pool, {})
            for resource, amount in status.hold.items():
                amounts[resource] = amounts.get(resource, 0) + amount
        return running, planned


_Sums = dict[str, dict[str, int]]  # pool → resource → amount
