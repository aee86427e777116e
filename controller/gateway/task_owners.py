"""Whose each task is: kept beside the model, since the record of a task that is removed is gone when its
readers are told.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from controller.core.model.arrays import MemberName
from controller.core.model.model import Model
from controller.core.model.records import Change
from controller.views.tasks import owner_of

Reading = Callable[[], AbstractContextManager[Model]]


class TaskOwners:
    """See the module's docstring. The first Listener of the standby's model; the others ask it."""

    def __init__(self, reading: Reading) -> None:
        self._reading = reading
        self._lock = threading.Lock()
        self._owners: dict[str, str] = {}
        self._gone: list[str] = []  # with the changes that the listeners hear of now

    def of(self, task_id: str) -> str | None:
        """The owner of a task, or a member's array, that is there or has just gone; None: it is not known."""
        with self._lock:
            owner = self._owners.get(task_id)
            if owner is None and (member := MemberName.parse(task_id)) is not None:
                owner = self._owners.get(member.array)
            return owner

    def reloaded(self, revision: int) -> None:  # noqa: ARG002  # of Listener
        """See Listener."""
        with self._reading() as model:
            owners = {task_id: owner_of(task) for task_id, task in model.tasks.items()}
        with self._lock:
            self._owners, self._gone = owners, []

    def changed(self, changes: Sequence[Change], revision: int) -> None:  # noqa: ARG002  # of Listener
        """See Listener."""
        ids = {change.names[0] for change in changes if change.kind in ("tasks", "states") and change.names}
        with self._reading() as model:
            found = {task_id: owner_of(model.tasks[task_id]) for task_id in ids if task_id in model.tasks}
        with self._lock:
            for task_id in self._gone:
                if task_id not in found:
                    self._owners.pop(task_id, None)
            self._owners |= found
            self._gone = sorted(ids - found.keys())
