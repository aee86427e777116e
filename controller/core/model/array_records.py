"""The arrays of the model: for each, its blocks and the members that are under way.

A member is under way while it has a status. The status says of which array it is, whatever other records
have its name: then the spec of that name, if there is one, belongs to another task, which runs later.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import msgspec

from controller.core.model import codec
from controller.core.model.array import OF_ENDS, ArrayOf
from controller.core.model.arrays import MemberName, environment
from controller.core.model.blocks import MAX_REASON_BYTES, Block, Fate, MemberOutcome
from controller.core.model.demand import of_role
from controller.core.model.gangs import role_environment, role_of
from controller.core.model.lifecycle import HOLDING, WAITING, State
from controller.core.model.records import Own, Task
from controller.core.model.task import Deadlines, Spec
from controller.errors import CorruptValue

UNREADABLE = "the spec of its array cannot be read"
"""The `spec_error` of such a member. What can be read is looked at again."""

Array = ArrayOf[Task]


def fate_of(task: Task) -> Fate:
    """The fate of a member that has ended, and is not folded yet."""
    assert task.status is not None
    status = task.status
    outcome = OF_ENDS[status.state]
    reason = status.reason[:64] if outcome is MemberOutcome.FAILED else ""
    while len(codec.encode(reason)) > MAX_REASON_BYTES:
        reason = reason[:-1]
    return Fate(outcome, status.attempt, status.exit_code, reason, status.abandoned)


def given_up(array: Array, index: int) -> int:
    """The highest number of an attempt of this member that was given up, and may still run; 0: none.

    A gang's status tells that of its earlier rounds.
    """
    status = array.task.status if array.is_gang and array.task is not None else None
    return max(array.fate(index).abandoned, status.abandoned if status is not None else 0)


class _Place(NamedTuple):
    """Where a member is counted, and whether it holds resources, runs, or has ended."""

    member: MemberName
    holds: bool
    runs: bool
    ending: MemberOutcome | None


class Arrays:
    """All arrays, by name. `touch` is called with the name of a task to look at because of others."""

    def __init__(self, tasks: Mapping[str, Task], touch: Callable[[str], None]) -> None:
        self._tasks = tasks
        self._touch = touch
        self._arrays: dict[str, Array] = {}
        self._places: dict[str, _Place] = {}
        self._hidden: dict[str, MemberName] = {}  # tasks whose status cannot be read, by name
        self.ended: dict[str, None] = {}  # members that have ended, in that order: they are to be folded
        self.apart: dict[str, dict[str, None]] = {}  # array → of these, those that cannot be folded now
        self.busy: dict[str, None] = {}  # arrays of which blocks may have to change
        self.opening: dict[str, None] = {}  # admitted gangs of which members are to begin
        self.stale: dict[tuple[str, int], None] = {}  # blocks of no array
        self.logs: dict[str, dict[str, None]] = {}  # array → names of its members that have a kept log
        self.gone: dict[str, None] = {}  # of these, the arrays that may be gone

    def __bool__(self) -> bool:
        """Whether there is any array, or was one of which something is left."""
        return bool(self._arrays or self.logs)

    def __iter__(self) -> Iterator[Array]:
        return iter(self._arrays.values())

    def of(self, task_id: str) -> Array | None:
        """The array of this name, if there are records of one."""
        return self._arrays.get(task_id)

    def task_of(self, name: str) -> Task | None:
        """The task of the array that has, or may have, a member of this name; None if there is none."""
        member = MemberName.parse(name) if self._arrays else None
        array = self._arrays.get(member.array) if member is not None else None
        return array.task if array is not None else None

    # -- changes

    def set_apart(self, task_id: str) -> None:
        """A member that has ended cannot be folded before it, or its array, has changed."""
        self.ended.pop(task_id)
        self.apart.setdefault(self._places[task_id].member.array, {})[task_id] = None

    def fold_again(self, name: str) -> None:
        """Members of the array that could not be folded may be folded now."""
        self.ended |= self.apart.pop(name, {})

    def put_block(
        self, name: str, number: int, block: Block | None, *, is_readable: bool = True
    ) -> Task | None:
        """Take in a block; None: it is gone, or cannot be read. Returns the task that it changes."""
        array = self._ensure(name)
        self.fold_again(name)
        array.unreadable.pop(number, None)
        if not is_readable:
            array.unreadable[number] = None
        array.put(number, block)
        self._sort(array, number)
        self._drop_empty(array)
        return array.task

    def put_log(self, name: str, *, is_there: bool) -> None:
        """Note whether a log of this name is kept."""
        member = MemberName.parse(name)
        if member is None:
            return
        row = self.logs.setdefault(member.array, {})
        row.pop(name, None)
        if is_there:
            row[name] = self.gone[member.array] = None
        if not row:
            del self.logs[member.array]

    def given_up(self, task_id: str) -> int:
        """The same of any task by its name; a member need not have a status."""
        task, named = self._tasks.get(task_id), MemberName.parse(task_id)
        array = self._arrays.get(named.array) if named is not None else None
        of_member = given_up(array, named.index) if named is not None and array is not None else 0
        return max(of_member, task.status.abandoned if task is not None and task.status is not None else 0)

    @staticmethod
    def member(array: Task, index: int) -> Task:
        """A member that has not begun, as a task that waits where its array does."""
        member = Task(str(MemberName(array.id, index)))
        member.source, member.spec = array, member_spec(array, member.id, index)
        member.spec_create, member.submitted_at = array.spec_create, array.submitted_at
        member.seen_at, member.demand = array.queued_at, array.demand
        return member

    def place(self, task: Task) -> list[Task]:
        """Bring all up to date with a task's records. Returns other tasks, which are to be placed again."""
        status, again = task.status, list[Task]()
        named = MemberName(status.array, status.index) if status is not None and status.array else None
        if named is not None or task.id in self._places:
            again += self._place_member(task, named)
        if "states" in task.frozen or task.id in self._hidden:
            again += self._place_hidden(task, is_hidden=named is None and "states" in task.frozen)
        spec = task.spec.array if task.spec is not None else None
        if spec is not None or task.array is not None or task.id in self._arrays:
            again += self._place_array(task)
        if named is None and not task.exists and (waiting := self.task_of(task.id)) is not None:
            again.append(waiting)  # the name is free for a member
        return again

    # -- details

    def _place_member(self, task: Task, named: MemberName | None) -> list[Task]:
        before = self._places.pop(task.id, None)
        self.ended.pop(task.id, None)
        touched = dict[str, Array]()
        was_under_way = before is not None and before.ending is None
        if before is not None:
            array = touched[before.member.array] = self._ensure(before.member.array)
            if apart := self.apart.get(array.name):
                apart.pop(task.id, None)
            del array.members[before.member.index]
            array.running -= before.holds
            array.started -= before.runs
            array.look_from(before.member.index)
            if array.paired is not None:
                array.paired.moved(before.member.index)
            if before.ending is not None:
                array.counts[before.ending] -= 1
        if named is None:
            leave(task)
        else:
            assert task.status is not None
            array = touched[named.array] = self._ensure(named.array)
            ending = OF_ENDS.get(task.status.state)
            runs = task.status.state is State.RUNNING
            self._places[task.id] = _Place(named, task.status.is_holding, runs, ending)
            array.members[named.index] = task
            if array.paired is not None:
                array.paired.moved(named.index)
            array.running += task.status.is_holding
            array.started += runs
            if ending is not None:
                array.counts[ending] += 1
                self.ended[task.id] = None
            if task.source is not array.task or task.own is None:
                self._resolve(task, array)
        again = []
        for array in touched.values():
            self._drop_empty(array)
            has_room = was_under_way and array.may_begin
            if array.task is not None and (has_room or array.turn != array.turned):
                again.append(array.task)
            elif array.task is None or array.task.requests or array.is_over or array.is_gang:
                self._touch(array.name)
        return again

    def _place_hidden(self, task: Task, *, is_hidden: bool) -> list[Task]:
        member = self._hidden.pop(task.id, None) or MemberName.parse(task.id)
        if member is None:
            return []
        array = self._ensure(member.array)
        array.hidden.pop(member.index, None)
        array.look_from(member.index)
        if is_hidden:
            self._hidden[task.id] = member
            array.hidden[member.index] = not task.spec_mod
        if array.paired is not None:
            array.paired.moved(member.index)
        self._drop_empty(array)
        return [array.task] if array.task is not None and array.turn != array.turned else []

    def _place_array(self, task: Task) -> list[Task]:
        array = self._ensure(task.id)
        self.fold_again(array.name)
        is_one = (
            task.exists
            and task.source is None
            and not task.spec_error
            and task.spec is not None
            and task.spec.array is not None
        )
        spec = task.spec if is_one else None
        seen = array.spec, array.of
        array.task, array.spec, array.of = (task, spec, _of(task)) if is_one else (None, None, "")
        array.size = spec.array.size if spec is not None and spec.array is not None else 0
        array.is_gang = spec is not None and spec.array is not None and spec.array.gang
        task.array = array if is_one else None
        again = []
        if (spec, array.of) != seen:
            array.count()
            for number in array.blocks:
                self._sort(array, number)
            for member in array.members.values():
                if member.status is not None and member.status.array:  # else it is about to be placed itself
                    self._resolve(member, array)
                again.append(member)
        self.busy.pop(array.name, None)
        is_asked = bool(task.requests) or (array.fails and task.state in WAITING)
        # a gang is retried and stopped as a whole, by its own status
        if is_one and is_asked and not (task.frozen or array.unreadable or array.is_gang):
            self.busy[array.name] = None
        if array.name in self.logs:
            self.gone[array.name] = None
        if array.is_gang and task.state not in HOLDING:
            for member in array.members.values():  # if any is under way, somebody has written the status
                self._touch(member.id)
        self.opening.pop(array.name, None)
        if is_one and task.status is not None and task.status.reserved and not task.status.stopping:
            self.opening[array.name] = None
        array.turned = array.turn
        self._drop_empty(array)
        return again

    def _resolve(self, task: Task, array: Array) -> None:
        """Give a member the spec that follows from its array's."""
        assert task.status is not None
        if task.own is None:
            task.own = Own(task.spec, task.spec_create, task.submitted_at, task.spec_error)
        source, index = array.task, task.status.index
        # records that come together are placed one by one: the array's spec may be another one already
        spec = source.spec.array if source is not None and source.spec is not None else None
        if source is not None and spec is not None and index < spec.size:
            task.source, task.spec, task.spec_error = source, member_spec(source, task.id, index), ""
            task.spec_create, task.submitted_at = source.spec_create, source.submitted_at
            return
        known = self._tasks.get(array.name)
        task.source, task.spec, task.spec_error = None, None, ""
        if known is not None:
            task.spec_error = UNREADABLE if "tasks" in known.frozen else known.spec_error
        task.spec_create, task.submitted_at = 0, 0.0

    def _ensure(self, name: str) -> Array:
        array = self._arrays.get(name)
        if array is None:
            array = self._arrays[name] = Array(name)
        return array

    def _drop_empty(self, array: Array) -> None:
        left = array.members or array.hidden or array.blocks or array.unreadable
        if array.task is None and not left:
            self._arrays.pop(array.name, None)
            self.busy.pop(array.name, None)

    def _sort(self, array: Array, number: int) -> None:
        self.stale.pop((array.name, number), None)
        block = array.blocks.get(number)
        if block is not None and (array.task is None or block.of != array.of or not array.length(number)):
            self.stale[array.name, number] = None


def _of(task: Task) -> str:
    """What the blocks of an array have: see ArrayOf. A gang that waits is in its next round."""
    if task.spec is None or task.spec.array is None or not task.spec.array.gang:
        return task.spec_op
    return f"{task.spec_op}/{task.attempt + (task.state in WAITING)}"


def check_member(task: Task) -> None:
    """Check that a status names the member of an array that has the task's name. Raises CorruptValue."""
    status = task.status
    if (
        status is not None
        and status.array
        and MemberName.parse(task.id) != MemberName(status.array, status.index)
    ):
        task.status = None
        raise CorruptValue(f"array: {status.array!r} has no member {status.index} of the name {task.id!r}")


def leave(task: Task) -> None:
    """Give a task that is no member any more, or whose own spec is about to change, the spec of its name."""
    if task.own is not None:
        task.spec, task.spec_create, task.submitted_at, task.spec_error = task.own
    task.own, task.source = None, None


def member_spec(array: Task, name: str, index: int) -> Spec:
    """The spec of a member. It waits in the pool of its array, whatever pool a later spec of that names."""
    spec = array.spec
    assert spec is not None
    assert spec.array is not None
    # the array's variables come first, so that the user's may refer to them
    env = environment(index, spec.array.size)
    if spec.array.gang:
        number, place = role_of((role.size for role in spec.array.parts), index)
        role = spec.array.parts[number]
        env |= role_environment(role, place)
        # the deadlines are those of the gang, and its retry policy is asked when the gang has ended
        spec = msgspec.structs.replace(of_role(spec, role), deadlines=Deadlines())
    env = {**env, **spec.env, **env}
    return msgspec.structs.replace(
        spec, id=name, array=None, after=(), env=env, pool=array.pool, owner=array.owner
    )
