"""Timers: when time alone gives a task something to do (its back-off, a deadline, its retention).

Each task has at most one timer.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping

from controller.core.model.lifecycle import FINISHED
from controller.core.model.records import Task


class _Due(float):
    """When a task's timer rings: one object, where each ended task has a timer for as long as it is kept."""

    __slots__ = ("task_id",)

    task_id: str


class Timers:
    """The timers of these tasks.

    `Task.due` says when the timer of a task rings next (seconds since the Unix epoch); None for never.
    """

    def __init__(self, tasks: Mapping[str, Task]) -> None:
        self._tasks = tasks
        self._heap: list[_Due] = []
        self.keeps_finished = False  # a look ahead removes nothing

    def schedule(self, task: Task, due: float | None) -> None:
        """Set the task's timer to `due` (None: never), in place of its earlier time."""
        if self.keeps_finished and task.state in FINISHED:
            due = None
        if task.due == due:
            return
        if due is None:
            task.due = None
        else:
            task.due = entry = _Due(due)
            entry.task_id = task.id
            heapq.heappush(self._heap, entry)
            if len(self._heap) > 64 + 4 * len(self._tasks):  # mostly rescheduled timers: drop those
                self._heap = sorted(each for each in self._heap if self._rings(each))
        self._drop_rescheduled()

    def ring(self, now: float) -> Iterator[Task]:
        """The tasks whose timer is due, each once. A timer rings again only if it is scheduled again."""
        while self._heap and self._heap[0] <= now:
            task = self._tasks[heapq.heappop(self._heap).task_id]
            task.due = None
            self._drop_rescheduled()
            yield task

    def next_due(self) -> float | None:
        """When the next timer rings; None if there is none."""
        return self._heap[0] if self._heap else None

    def _drop_rescheduled(self) -> None:
        """Invariant: the first of the heap is a timer that will ring."""
        while self._heap and not self._rings(self._heap[0]):
            heapq.heappop(self._heap)

    def _rings(self, due: _Due) -> bool:
        task = self._tasks.get(due.task_id)
        return task is not None and task.due is due
