"""Refuses tasks of an owner whose tasks wait in as great a number as its pool allows (`max_queued`).

The limit is soft: the leader fails no task for it, and clients that submit at the same time may exceed it
together. The stored tasks are counted once in a run, and only if a task's owner has such a limit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from controller.core.model.task import Pool, Spec
from controller.errors import InvalidField


class QueuedTasks(Protocol):
    """What is stored; StoredTasks is one."""

    def has(self, task_id: str) -> bool:
        """Whether the task is stored."""

    def waiting(self, pool: str, owner: str) -> dict[str, bool]:
        """The owner's tasks that wait in the pool, and whether each is on hold."""


class QueueRoom:
    """See the module's docstring. `load` tells what is stored."""

    def __init__(self, load: Callable[[], QueuedTasks]) -> None:
        self._load = load
        self._stored: QueuedTasks | None = None
        # pool and owner → the tasks that wait, with those of this run, and whether each is on hold
        self._waiting: dict[tuple[str, str], dict[str, bool]] = {}

    def check(self, spec: Spec, pool: Pool) -> None:
        """Count the task. Raise InvalidField if its owner has no room for it; a stored task has room."""
        most = pool.sharing.of(spec.owner).max_queued if pool.sharing is not None else None
        if most is None:
            return
        stored = self._stored = self._stored or self._load()
        at = spec.pool, spec.owner
        waiting = self._waiting[at] if at in self._waiting else stored.waiting(*at)
        self._waiting[at] = waiting
        if spec.id in waiting or stored.has(spec.id):
            return
        if len(waiting) >= most:
            on_hold = sum(waiting.values())
            held = f" ({on_hold} of them on hold)" if on_hold else ""
            raise InvalidField(
                "owner",
                f"{spec.owner} has {len(waiting)} tasks waiting in pool {spec.pool}{held}, and may have at"
                f" most {most} (max_queued): submit the task again when some of them have begun",
            )
        waiting[spec.id] = False
