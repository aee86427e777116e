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

With `index: same`, each member of an array waits for one of another array, and goes on to do so when others
have begun: see `paired`. That array is kept until the one that waits has ended.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from typing import NamedTuple, TypeVar

from controller.core.model.after import Dependency
from controller.core.model.array import ArrayOf, has_run
from controller.core.model.gates import UNREADABLE, Gate, Parent
from controller.core.model.lifecycle import WAITING, State
from controller.core.model.paired import Former, Paired
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
        return parent_with(task, None)
    runs_again = (
        RequestKind.RETRY in task.requests
        and status.state in _RETRYABLE
        and task.spec is not None
        and not task.spec_error
    )
    return parent_with(task, None if runs_again else status.state, status.finished_at or 0.0)


def parent_with(task: Task, ending: State | None, ended_at: float = 0.0) -> Parent:
    """The task as those see it that wait for it, if it has ended so; None: it has not."""
    ended_at = ended_at if ending is not None else 0.0
    told, array = (task.spec_create, task.submitted_at, ending, ended_at), task.array
    if array is None:
        return Parent(*told, size=UNREADABLE if "tasks" in task.frozen else 0)
    if array.is_gang:
        return Parent(*told)
    has_begun = ending is not None and array.has_begun
    return Parent(*told, array.size, array.of, has_begun, RequestKind.RETRY in task.requests)


def _if_older(task: Task, name: str, parent: Parent | None) -> Parent | None:
    is_older = parent is not None and parent.is_before(name, (task.spec_create, task.submitted_at, task.id))
    return parent if is_older else None


def gate_of(task: Task, find: Callable[[str], Parent | None]) -> Gate | None:
    """The gate of a task whose parents `find` finds; None if it has none."""
    if task.spec is None or not task.is_gated:
        return None
    gate, has_begun = Gate(), _has_begun(task)
    for dependency in task.spec.after:
        _note(gate, task, dependency, find(dependency.task), has_begun=has_begun)
    return gate


def gate_after(task: Task, gate: Gate, changes: Iterable[tuple[Dependency, Parent | None]]) -> Gate | None:
    """The task's gate, which is `gate` so far, once these parents are so; the others are not looked at."""
    if not task.is_gated:
        return None
    gate, has_begun = gate.copy(), _has_begun(task)
    for dependency, parent in changes:
        _note(gate, task, dependency, parent, has_begun=has_begun)
    return gate


def _has_begun(task: Task) -> bool:
    """Whether the task, or a member of this array, has ever begun, so that its parents were there."""
    return bool(task.attempt) or (task.array is not None and has_run(task.array))


def gate_for(task: Task, dependency: Dependency, parent: Parent | None) -> Gate:
    """What one parent alone comes to, for a task whether it waits or not, as if it had never begun."""
    gate, array = Gate(), task.array
    parent = _if_older(task, dependency.task, parent)
    if dependency.is_paired and array is not None:
        gate.note_array(dependency.task, dependency.when, parent, array.size, is_turned=array.has_begun)
    else:
        gate.note(dependency.task, dependency.when, parent)
    return gate


def _note(gate: Gate, task: Task, dependency: Dependency, parent: Parent | None, *, has_begun: bool) -> None:
    name, array = dependency.task, task.array
    parent = _if_older(task, name, parent)
    if parent is None and has_begun:
        gate.forget(name)  # the task has begun once, so this one had ended as it should
    elif dependency.is_paired and array is not None and array.has_begun:
        gate.note_members(name, parent)
    elif dependency.is_paired and array is not None:
        is_turned = array.paired is not None and any(array.paired.is_turned)
        gate.note_array(name, dependency.when, parent, array.size, is_turned=is_turned)
    else:
        gate.note(name, dependency.when, parent)


class _Pair(NamedTuple):
    """What the members of an array wait for, each for one alone, and the array as it was then."""

    array: ArrayOf[Task]
    of: str
    size: int
    named: tuple[Dependency, ...]


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
        self._pairs: dict[str, _Pair] = {}  # array → what its members wait for
        self._paired: dict[str, dict[str, None]] = {}  # array → those whose members wait for its own
        self.never: dict[str, None] = {}  # arrays of which members are to end that never run
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

    def named_by(self, child: str, names: Iterable[str]) -> list[Dependency]:
        """How the task names those of these that it does name."""
        found = (self._children.get(name, {}).get(child) for name in names)
        return [dependency for dependency in found if dependency is not None]

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
        self._pair(task)
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
        if task.gate is not None:
            after = self._waiting[task.id] = dict.fromkeys(task.follows)
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
        self.never.pop(task.id, None)
        array, gate = task.array, task.gate
        if array is None or array.is_gang or task.state not in WAITING or task.requests or task.frozen:
            return
        if gate is not None and gate.never_opens:  # if no member has begun, the array ends as a whole
            is_never = array.has_begun and array.waiting > 0 and not array.unreadable
        else:
            is_never = array.paired is not None and bool(array.paired.never)
            is_never = is_never and (gate is None or gate.is_open)
        if is_never:
            self.never[task.id] = None

    def _pair(self, task: Task) -> None:
        array, spec = task.array, task.spec
        named = spec.after if array is not None and spec is not None else ()
        named = tuple(each for each in named if each.is_paired)
        if (known := self._pairs.get(task.id)) is not None:
            if array is known.array and (array.of, array.size, named) == known[1:]:
                return
            del self._pairs[task.id]
            known.array.paired = None
            for each in known.named:
                _discard(self._paired, each.task, task.id)
                if (other := self._tasks.get(each.task)) is not None and other.array is not None:
                    other.array.followers.pop(task.id, None)
        if named and array is not None:
            self._pairs[task.id] = _Pair(array, array.of, array.size, named)
            for each in named:
                self._paired.setdefault(each.task, {})[task.id] = None
            self._follow(task, array, named)

    def _follow(self, task: Task, array: ArrayOf[Task], named: tuple[Dependency, ...]) -> None:
        """Find out anew what the members of an array wait for."""
        formers = tuple(self._former(task, array.size, each) for each in named)
        array.paired = Paired(array, formers, chain(array.members, array.hidden))
        for former in formers:
            if former.array is not None:
                former.array.followers[task.id] = array.paired
        array.turned = array.turn

    def _former(self, task: Task, size: int, dependency: Dependency) -> Former:
        name = dependency.task
        parent, other = _if_older(task, name, self.parent(name)), self._tasks.get(name)
        if parent is not None and parent.size not in (size, UNREADABLE):
            parent = None
        array = other.array if other is not None and parent is not None else None
        return Former(name, dependency.when, parent, array)

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
        parent, children = parent_of(task), self._children[task.id]
        is_known = parent == self._parents.get(task.id)
        if is_known and task.id not in self._paired:
            return []
        self._parents[task.id] = parent
        turned = []
        for child_id in self._paired[task.id] if is_known else children:
            child = self._tasks.get(child_id)
            if child is None or not child.exists:  # it is about to be placed itself
                continue
            has_turned = False
            if (pair := self._pairs.get(child_id)) is not None and children[child_id].is_paired:
                before = pair.array.turned
                if not is_known:
                    self._follow(child, pair.array, pair.named)
                has_turned = pair.array.turn != before
            if child.gate is not None:
                gated = child.gate.is_open, child.gate.is_decided
                _note(child.gate, child, children[child_id], parent, has_begun=_has_begun(child))
                has_turned = has_turned or gated != (child.gate.is_open, child.gate.is_decided)
            if has_turned:
                turned.append(child)
        return turned


def _discard(table: dict[str, dict[str, V]], first: str, second: str) -> None:
    """Remove an entry, and its row with the last one."""
    row = table.get(first, {})
    row.pop(second, None)
    if not row:
        table.pop(first, None)
