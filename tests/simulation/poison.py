"""Errors of Tally's own, planted on tasks (fault 47): where one is looked at, or where its plan is about to
be committed.

The first is kept to its task at once; the second ends the term, and the term after it sets the task aside as
a last resort.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from controller.core.model import quarantine
from controller.core.model.requests import RequestKind
from tests.simulation.oracle import Violation
from tests.simulation.scheduler import Scheduler

if TYPE_CHECKING:
    from tests.simulation.oracle import Oracle
    from tests.simulation.simulation import Simulation

POINTS = ("plan-task", "before-commit")


class Poison(Exception):
    """An error that nobody expects."""

    is_planted = True


class Poisons:
    """Which tasks raise an error, and where. Stands for `runtime.failpoints.hit`."""

    def __init__(self, scheduler: Scheduler, oracle: Oracle) -> None:
        self._scheduler = scheduler
        self._oracle = oracle
        self._points: dict[str, str] = {}  # task → where it raises
        self._raised: dict[str, None] = {}  # tasks that have ever raised
        self._given_back: set[tuple[str, int]] = set()  # records of what was set aside, by key and revision
        oracle.check_aside = self._check_aside

    def plant(self, task_id: str, point: str) -> None:
        """From now on the task raises an error whenever a leader passes this point with it."""
        self._scheduler.note(f"{task_id} raises an error at {point}")
        self._points[task_id] = point

    def draw(self, task_id: str) -> None:
        """It no longer does."""
        self._points.pop(task_id, None)

    def hit(self, point: str, *tasks: str) -> None:
        """A leader passes a point. Raises Poison."""
        for task_id in tasks:
            if point == "plan-task":
                self._check_look(task_id)
            if self._points.get(task_id) == point:
                self._raised[task_id] = None
                self._scheduler.note(f"{task_id} raises its error")
                raise Poison(f"planted on {task_id}")

    def _check_aside(self, task_id: str) -> None:
        """A leader sets a task aside: one that has raised an error."""
        if task_id not in self._raised:
            raise Violation("bulkhead", f"{task_id} was set aside, and it has raised no error", task_id)

    @property
    def most_aside(self) -> int:
        """How many tasks may be set aside at once, and hold what they hold."""
        return len({*self._raised, *self._points})

    def lift(self, simulation: Simulation) -> None:
        """All errors are mended, and an operator, or a user who asks for something, has what was set aside
        looked at again.
        """
        self._points.clear()
        for key in self._aside():
            item, task_id = self._oracle.etcd.get(key), key.rpartition("/")[2]
            if item is None or (key, item.mod) in self._given_back:
                continue
            self._given_back.add((key, item.mod))
            if self._scheduler.rng.random() < 0.5 and task_id in self._oracle.unfinished():
                simulation.users.request(task_id, RequestKind.CANCEL)
            else:
                simulation.users.delete(key)

    def is_aside(self, task_id: str) -> bool:
        """Whether it is recorded that nothing is done with it."""
        return self._oracle.keys.quarantined(task_id) in self._oracle.values

    def unsettled(self, *, lifted: bool) -> list[str]:
        """What is set aside is the only thing that may be left, and not even that once the errors are
        mended.
        """
        return [f"{key} is left" for key in self._aside()] if lifted else []

    def _aside(self) -> list[str]:
        return [key for key in self._oracle.values if key.startswith(self._oracle.keys.quarantined(""))]

    def _check_look(self, task_id: str) -> None:
        """What stands as set aside, since when nothing has changed, is looked at by no leader that can
        know of it.
        """
        keys, etcd = self._oracle.keys, self._oracle.etcd
        key = keys.quarantined(task_id)
        if key not in self._oracle.values:
            return
        record = etcd.get(key)
        assert record is not None
        assert self._scheduler.current is not None
        process = self._scheduler.current.process.name
        if record.mod > self._oracle.revision_of(process):
            return
        mods = [
            item.mod if (item := etcd.get(each)) is not None else 0
            for each in (keys.task(task_id), keys.state(task_id))
        ]
        asked = max((item.mod for item in etcd.load(keys.request(task_id, "")).items), default=0)
        if quarantine.decode(record.value).seen == (*mods, asked):
            raise Violation("bulkhead", f"{process} looks at {task_id}, which is set aside", task_id)
