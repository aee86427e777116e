"""Refuses tasks of an owner whose tasks wait in as great a number as its pool allows (`max_queued`).

The limit is soft: the leader fails no task for it, and clients that submit at the same time may exceed it
together. The stored tasks are counted once in a run, and only if a task's owner has such a limit.
"""

from __future__ import annotations

from collections.abc import Callable

from controller.core.model.task import Pool, Spec
from controller.errors import InvalidField

StoredAndWaiting = tuple[frozenset[str], dict[tuple[str, str], dict[str, bool]]]


class QueueRoom:
    """See the module's docstring. `load` reads all specs and statuses, as `stored_and_waiting` has them."""

    def __init__(self, load: Callable[[], StoredAndWaiting]) -> None:
        self._load = load
        self._stored: frozenset[str] | None = None
        # pool and owner → the tasks that wait, and whether each is on hold
        self._waiting: dict[tuple[str, str], dict[str, bool]] = {}

    def check(self, spec: Spec, pool: Pool) -> None:
        """Count the task. Raise InvalidField if its owner has no room for it; a stored task has room."""
        most = pool.sharing.of(spec.owner).max_queued if pool.sharing is not None else None
        if most is None:
            return
        if self._stored is None:
            self._stored, self._waiting = self._load()
        waiting = self._waiting.setdefault((spec.pool, spec.owner), {})
        if spec.id in self._stored or spec.id in waiting:
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
