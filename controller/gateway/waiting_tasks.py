"""The tasks that wait, by pool and owner: kept beside the model, so no submission looks at every task."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager

from controller.core.model import blocks
from controller.core.model.model import Model
from controller.core.model.records import Change
from controller.views.array_changes import names_of, placed_among
from controller.views.tasks import waits_in

KINDS = frozenset(("tasks", "states", blocks.KIND))


class WaitingTasks:
    """See the module's docstring. A Listener of the standby's model; any thread may ask. See QueueRoom."""

    def __init__(self, reading: Callable[[], AbstractContextManager[Model]]) -> None:
        self._reading = reading
        self._lock = threading.Lock()
        self._places: dict[str, tuple[str, str]] = {}
        self._waiting: dict[tuple[str, str], dict[str, bool]] = {}

    def has(self, task_id: str) -> bool:
        """Whether the task is stored."""
        with self._reading() as model:
            return task_id in model.tasks

    def waiting(self, pool: str, owner: str) -> dict[str, bool]:
        """The owner's tasks that wait in the pool, and whether each is on hold."""
        with self._lock:
            return dict(self._waiting.get((pool, owner), {}))

    def reloaded(self, revision: int) -> None:  # noqa: ARG002  # of Listener
        """See Listener."""
        with self._reading() as model, self._lock:
            self._places, self._waiting = {}, {}
            self._place(model, model.tasks)

    def changed(self, changes: Sequence[Change], revision: int) -> None:  # noqa: ARG002  # of Listener
        """See Listener."""
        told = (change for change in changes if change.kind in KINDS)
        names = dict.fromkeys(name for change in told for name in names_of(change))
        with self._reading() as model, self._lock:
            self._place(model, placed_among(model, names))

    def _place(self, model: Model, task_ids: Iterable[str]) -> None:
        for task_id in task_ids:
            if (stood := self._places.pop(task_id, None)) is not None:
                del self._waiting[stood][task_id]
                if not self._waiting[stood]:
                    del self._waiting[stood]
            task = model.tasks.get(task_id)
            place = waits_in(task) if task is not None else None
            if task is not None and place is not None:
                self._places[task_id] = place
                self._waiting.setdefault(place, {})[task_id] = task.on_hold
