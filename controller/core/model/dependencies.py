"""The index of dependencies: which tasks wait for which, and whether they may run (`Spec.after`).

A task names its parents. A parent is older: its spec has a smaller create revision, or the same one and an
earlier place in that transaction. So stored tasks can wait for each other in no cycle, whoever wrote them. A
task of the same name that was submitted later is not the parent.

A task with a gate waits, and has not begun since it was submitted, or since a user asked for a retry. Its
gate is open when each parent has ended as the task wants it. That it never runs is decided only when all
parents have ended: until then, a user may retry one that failed. So a task's end follows the ends of all
before it.

Whoever submits a child puts `awaits/<parent>/<child>` in the transaction that creates it. A removal of the
parent compares that no such key is new, so no parent is removed while a child is created. The leader deletes
the key when the child has begun, or ended.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

from controller.core.model.after import Dependency
from controller.core.model.gates import Gate, Parent
from controller.core.model.lifecycle import State
from controller.core.model.records import Task
from controller.core.model.requests import RequestKind

V = TypeVar("V")

AWAITS = "awaits"
"""The kind of the records that keep a parent."""

_RETRYABLE = frozenset({State.FAILED, State.CANCELLED})


def parent_of(task: Task | None) -> Parent | None:
    """The task as those see it that wait for it; None if there is none, or it is a member of an array."""
    if task is None or task.member_of or not (task.spec_mod or task.status_mod):
        return None
    status = task.status
    if task.frozen & {"tasks", "states"} or status is None or not status.is_finished:
        return Parent(task.spec_create, task.submitted_at)
    runs_again = (
        RequestKind.RETRY in task.requests
        and status.state in _RETRYABLE
        and task.spec is not None
        and not task.spec_error
    )
    if runs_again:
        return Parent(task.spec_create, task.submitted_at)
    return Parent(task.spec_create, task.submitted_at, status.state, status.finished_at or 0.0)


def gate_of(task: Task, find: Callable[[str], Parent | None]) -> Gate | None:
    """The gate of a task whose parents `find` finds; None if it has none."""
    if task.spec is None or not task.is_gated:
        return None
    gate = Gate()
    for dependency in task.spec.after:
        _note(gate, task, dependency, find(dependency.task))
    return gate


def _note(gate: Gate, task: Task, dependency: Dependency, parent: Parent | None) -> None:
    name = dependency.task
    is_older = parent is not None and parent.is_before(name, (task.spec_create, task.submitted_at, task.id))
    if not is_older and task.attempt:
        gate.forget(name)  # the task has begun once, so this one had ended as it should
    else:
        gate.note(name, dependency.when, parent if is_older else None)


class Dependencies:
    """See the module's docstring. `touch` is called with tasks to look at because of others."""

    def __init__(self, tasks: Mapping[str, Task], touch: Callable[[str], None]) -> None:
        self._tasks = tasks
        self._touch = touch
        self._children: dict[str, dict[str, Dependency]] = {}  # parent → tasks whose specs name it
        self._after: dict[str, tuple[Dependency, ...]] = {}  # task → its parents, as in `_children`
        self._parents: dict[str, Parent | None] = {}  # as the gates of their children have them
        self._waiting: dict[str, dict[str, None]] = {}  # task with a gate → its parents
        self._kept: dict[str, int] = {}  # parent → tasks with a gate that name it; never 0
        self.closed: dict[str, int] = {}  # pool → tasks whose gates are not open
        self._closed: dict[str, str] = {}  # such a task → the pool for which it is counted
        self._awaits: dict[str, dict[str, int]] = {}  # parent → child → mod of the record
        self._awaiting: dict[str, dict[str, None]] = {}  # child → parents in such records
        self.stale: dict[tuple[str, str], None] = {}  # of these records, those that keep nothing any more
        # those of children that are not stored, and may be on their way; in order of arrival
        self.early: dict[tuple[str, str], None] = {}

    def __bool__(self) -> bool:
        """Whether any task waits for another one, or may be about to."""
        return bool(self._after or self._awaits)

    # -- reading

    def children(self, task_id: str) -> Iterator[str]:
        """The tasks that name this one."""
        return iter(self._children.get(task_id, ()))

    def has_children(self, task_id: str) -> bool:
        """Whether a task names this one."""
        return task_id in self._children

    def parent(self, task_id: str) -> Parent | None:
        """A task as those see it that wait for it; None if there is none."""
        if task_id in self._parents:
            return self._parents[task_id]
        return parent_of(self._tasks.get(task_id))

    def keeps(self, task_id: str) -> bool:
        """Whether the task must not be removed: another one waits for it, or is being created to.

        Nor is it removed before the records that keep its own parents, which would be taken for early ones.
        """
        if task_id in self._kept or task_id in self._awaiting:
            return True
        return any((task_id, child) in self.early for child in self._awaits.get(task_id, ()))

    def newest_await(self, task_id: str) -> int:
        """The highest mod of the records that keep the task; 0 if there are none."""
        return max(self._awaits.get(task_id, {}).values(), default=0)

    # -- changes

    def place(self, task: Task) -> list[Task]:
        """Bring the index up to date with a task's records. Returns the tasks whose gates have turned."""
        after = task.spec.after if task.spec is not None else ()
        if not after and not self:
            return []
        if after != self._after.get(task.id, ()):
            self._name(task.id, after)
        self._set_gate(task)
        for parent in self._awaiting.get(task.id, ()):
            self._sort((parent, task.id))
        return self._pass_on(task) if task.id in self._children else []

    def put_await(self, parent: str, child: str, mod: int) -> None:
        """The record that keeps a parent for a child was put at revision `mod`; 0: it was deleted."""
        if mod:
            self._awaits.setdefault(parent, {})[child] = mod
            self._awaiting.setdefault(child, {})[parent] = None
            self._sort((parent, child))
            return
        self.stale.pop((parent, child), None)
        self.early.pop((parent, child), None)
        _discard(self._awaits, parent, child)
        _discard(self._awaiting, child, parent)
        for task_id in (parent, child):
            self._touch(task_id)  # it may be time to remove it

    # -- details

    def _name(self, task_id: str, after: tuple[Dependency, ...]) -> None:
        for dependency in self._after.pop(task_id, ()):
            _discard(self._children, dependency.task, task_id)
            if dependency.task not in self._children:
                self._parents.pop(dependency.task, None)
        for dependency in after:
            self._children.setdefault(dependency.task, {})[task_id] = dependency
            self._parents[dependency.task] = self.parent(dependency.task)
        if after:
            self._after[task_id] = after

    def _set_gate(self, task: Task) -> None:
        task.gate = gate_of(task, self.parent)
        before, after = self._waiting.pop(task.id, {}), {}
        if task.gate is not None and task.spec is not None:
            after = self._waiting[task.id] = dict.fromkeys(each.task for each in task.spec.after)
        if after != before:
            for parent in after:
                self._kept[parent] = self._kept.get(parent, 0) + 1
            for parent in before:
                self._kept[parent] -= 1
                if not self._kept[parent]:
                    del self._kept[parent]
                    self._touch(parent)  # it may be time to remove it
        if (pool := self._closed.pop(task.id, None)) is not None:
            self.closed[pool] -= 1
        if task.gate is not None and not task.gate.is_open:
            self._closed[task.id] = task.pool
            self.closed[task.pool] = self.closed.get(task.pool, 0) + 1

    def _sort(self, pair: tuple[str, str]) -> None:
        parent, child = pair
        task = self._tasks.get(child)
        self.stale.pop(pair, None)
        if task is None or not (task.spec_mod or task.status_mod):
            self.early[pair] = None
            return
        self.early.pop(pair, None)
        if not task.frozen & {"tasks", "states"} and parent not in self._waiting.get(child, ()):
            self.stale[pair] = None

    def _pass_on(self, task: Task) -> list[Task]:
        """Tell the task's children what has become of it."""
        parent = parent_of(task)
        if parent == self._parents.get(task.id):
            return []
        self._parents[task.id] = parent
        turned = []
        for child_id, dependency in self._children[task.id].items():
            child = self._tasks.get(child_id)
            if child is None or child.gate is None or not child.exists:  # it is about to be placed itself
                continue
            before = child.gate.is_open, child.gate.is_decided
            _note(child.gate, child, dependency, parent)
            if before != (child.gate.is_open, child.gate.is_decided):
                turned.append(child)
        return turned


def _discard(table: dict[str, dict[str, V]], first: str, second: str) -> None:
    """Remove an entry, and its row with the last one."""
    row = table.get(first, {})
    row.pop(second, None)
    if not row:
        table.pop(first, None)
