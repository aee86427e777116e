"""Whose each task is: kept beside the model, since the record of a task that is removed is gone when its
readers are told.

In one batch of changes a task may be removed and its name used again, by another owner: each change is of the
task that had the name at its time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import msgspec
from msgspec import Struct

from controller.core.model.arrays import MemberName
from controller.core.model.model import Model
from controller.core.model.records import Change
from controller.core.model.task import DEFAULT_OWNER
from controller.views.tasks import owner_of

Reading = Callable[[], AbstractContextManager[Model]]


class _Spec(Struct, frozen=True):
    owner: str = DEFAULT_OWNER


class TaskOwners:
    """See the module's docstring. The first Listener of the standby's model; the others ask it."""

    def __init__(self, reading: Reading) -> None:
        self._reading = reading
        self._lock = threading.Lock()
        self._owners: dict[str, str] = {}
        self._gone: list[str] = []  # with the changes that the listeners hear of now
        # of the names that these changes give to new tasks: the owners, and from which change on
        self._new: dict[str, list[tuple[int, str | None]]] = {}

    def of(self, task_id: str, at: int | None = None) -> str | None:
        """The owner of a task, or a member's array, that is there or has just gone; None: it is not known.

        `at`: whose it was at this one, by its index, of the changes that the listeners hear of now.
        """
        with self._lock:
            owner = self._of(task_id, at)
            if owner is None and (member := MemberName.parse(task_id)) is not None:
                owner = self._of(member.array, at)
            return owner

    def reloaded(self, revision: int) -> None:  # noqa: ARG002  # of Listener
        """See Listener."""
        with self._reading() as model:
            owners = {task_id: owner_of(task) for task_id, task in model.tasks.items()}
        with self._lock:
            self._owners, self._gone, self._new = owners, [], {}

    def changed(self, changes: Sequence[Change], revision: int) -> None:  # noqa: ARG002  # of Listener
        """See Listener."""
        ids = {change.names[0] for change in changes if change.kind in ("tasks", "states") and change.names}
        with self._reading() as model:
            found = {task_id: owner_of(model.tasks[task_id]) for task_id in ids if task_id in model.tasks}
            created = {task_id: model.tasks[task_id].spec_create for task_id in found}
        with self._lock:
            self._new = {}
            for index, change in enumerate(changes):
                if change.kind == "tasks" and change.value is not None and change.create == change.mod:
                    name = change.names[0]
                    is_there = created.get(name) == change.mod
                    owner = found[name] if is_there else _owner_in(change.value)
                    before = [(0, self._owners.get(name))]
                    self._new.setdefault(name, before).append((index, owner))
            for task_id in self._gone:
                if task_id not in found:
                    self._owners.pop(task_id, None)
            for name, owners in self._new.items():
                if (last := owners[-1][1]) is not None:
                    self._owners[name] = last
            self._owners |= found
            self._gone = sorted(ids - found.keys())

    def _of(self, task_id: str, at: int | None) -> str | None:
        if at is not None and task_id in self._new:
            return next(owner for index, owner in reversed(self._new[task_id]) if index <= at)
        return self._owners.get(task_id)


def _owner_in(spec: bytes) -> str | None:
    """The owner that a stored spec names; None if it cannot be read."""
    try:
        return msgspec.json.decode(spec, type=_Spec).owner
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
