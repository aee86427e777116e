"""The part of the model that confines an error to one change, or to one task that is set aside."""

from __future__ import annotations

from abc import ABC, abstractmethod

from controller.core.model import quarantine
from controller.core.model.indexes import Indexes
from controller.core.model.records import Change, PoolRecord, Task
from controller.core.model.touched import Touched
from controller.errors import CorruptValue

OF_TASKS = ("tasks", "states", "requests")


class Compartments(ABC):
    """See the module's docstring. `Model` is the whole."""

    def __init__(self) -> None:
        self.revision = 0  # every change up to here has been applied
        self.tasks: dict[str, Task] = {}
        self.quarantine: dict[tuple[str, tuple[str, ...]], str] = {}  # record → why it does not parse
        # tasks that are set aside, and whether that is stored
        self.asides: dict[str, tuple[quarantine.Aside, bool]] = {}
        # errors that the owner of the model has not counted yet
        self.caught: list[quarantine.Caught] = []
        self.pools: dict[str, PoolRecord] = {}
        # for records that belong to no task
        self._mods: dict[tuple[str, tuple[str, ...]], int] = {}
        self.indexes = Indexes(self.tasks, self.pools)

    def apply_one(self, change: Change) -> bool:
        """As `apply`, for several changes whose `take_touched` is one. False: the change was known."""
        if change.mod <= self._known(change.kind, change.names):
            return False
        task = self._take_in(change)
        if task is not None:
            self._index(task)
        return True

    def _take_in(self, change: Change) -> Task | None:
        """As `_take`. A change that raises any error is quarantined."""
        try:
            return self._take(change)
        except Exception as error:  # noqa: BLE001  # counted and shown
            self._keep_out(change, error)
            return self.tasks.get(change.names[0]) if change.kind in OF_TASKS else None

    def _index(self, task: Task) -> None:
        try:
            self.indexes.reindex(task)
        except Exception as error:  # noqa: BLE001  # counted and shown
            self._keep_out(Change("states", (task.id,), None, task.status_mod), error)
            self.indexes.reindex(task)  # as an unreadable one

    def _keep_out(self, change: Change, error: Exception) -> None:
        self.caught.append(quarantine.Caught("model", "/".join((change.kind, *change.names)), error))
        self._quarantine(change, quarantine.describe("it cannot be applied", error))
        if change.kind in ("tasks", "states"):
            task = self.tasks.get(change.names[0]) or self._new_task(change.names[0])
            task.frozen = task.frozen | {change.kind}

    def set_aside(self, task_id: str, where: str, error: Exception, at: float, epoch: int) -> Touched:
        """Do nothing more with a task that raised `error`; see `quarantine`."""
        self.caught.append(quarantine.Caught(where, task_id, error))
        task = self.tasks.get(task_id)
        if task is not None:
            self.asides[task_id] = self.aside_of(task, where, error, at, epoch), False
            self._settle_aside(task)
            self._index(task)
        return self.indexes.take_touched()

    def aside_of(self, task: Task, where: str, error: Exception, at: float, epoch: int) -> quarantine.Aside:
        """The aside of a task that raised `error`, as the task and its pool are now."""
        return quarantine.Aside.of(task, self._mods.get(("pools", (task.pool,)), 0), where, error, at, epoch)

    def forget_unstored(self) -> None:
        """The term has ended: what it set aside, and had not stored, is for the next one to judge."""
        for task_id in [task_id for task_id, (_, is_stored) in self.asides.items() if not is_stored]:
            if (quarantine.KIND, (task_id,)) not in self._mods:
                del self.asides[task_id]
                task = self._settle_aside(self.tasks.get(task_id))
                if task is not None:
                    self._index(task)

    def is_set_aside_unstored(self, task_id: str) -> bool:
        """Whether the task is set aside, and etcd does not say so yet."""
        task, (_, is_stored) = self.tasks.get(task_id), self.asides.get(task_id, (None, True))
        return not is_stored and task is not None and quarantine.KIND in task.frozen

    def _settle_aside(self, task: Task | None) -> Task | None:
        """Freeze a task that is set aside, and free it once its records have changed."""
        if task is not None and task.id in self.asides and self.asides[task.id][0].holds_for(task):
            task.frozen = task.frozen | {quarantine.KIND}
            self.quarantine[quarantine.KIND, (task.id,)] = self.asides[task.id][0].reason
        elif task is not None and quarantine.KIND in task.frozen:
            task.frozen = task.frozen - {quarantine.KIND}
            self.quarantine.pop((quarantine.KIND, (task.id,)), None)
        return task

    def _apply_aside(self, change: Change) -> Task | None:
        task_id = change.names[0]
        self._note_mod(change)
        self.asides.pop(task_id, None)
        if change.value is not None:
            try:
                self.asides[task_id] = quarantine.decode(change.value), True
            except CorruptValue as error:
                self._quarantine(change, str(error))
        return self._settle_aside(self.tasks.get(task_id))

    @abstractmethod
    def _take(self, change: Change) -> Task | None: ...

    @abstractmethod
    def _known(self, kind: str, names: tuple[str, ...]) -> int: ...

    def _note_mod(self, change: Change) -> None:
        if change.value is None:
            self._mods.pop((change.kind, change.names), None)
        else:
            self._mods[change.kind, change.names] = change.mod

    def _quarantine(self, change: Change, reason: str) -> None:
        self.quarantine[change.kind, change.names] = reason[: quarantine.REASON_LIMIT]
        if change.kind not in ("tasks", "states"):
            self._mods[change.kind, change.names] = change.mod

    def _new_task(self, task_id: str) -> Task:
        task = self.tasks[task_id] = Task(task_id)
        return task
