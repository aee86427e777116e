"""The arrays of the model: for each, its blocks and the members that are under way.

A member is under way while it has a status. The status says of which array it is, whatever other records
have its name: then the spec of that name, if there is one, belongs to another task, which runs later.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

import msgspec

from controller.core.model.arrays import ALL, Member, Ranges, environment
from controller.core.model.blocks import LENGTH, Block, Fate, Outcome
from controller.core.model.lifecycle import WAITING, State
from controller.core.model.records import Own, Task
from controller.core.model.task import Spec
from controller.errors import CorruptValue

UNREADABLE = "the spec of its array cannot be read"
"""The `spec_error` of such a member. What can be read is looked at again."""

_OF_ENDS = {
    State.SUCCEEDED: Outcome.SUCCEEDED,
    State.FAILED: Outcome.FAILED,
    State.CANCELLED: Outcome.CANCELLED,
}


def fate_of(task: Task) -> Fate:
    """The fate of a member that has ended, and is not folded yet."""
    assert task.status is not None
    status = task.status
    outcome = _OF_ENDS[status.state]
    reason = status.reason if outcome is Outcome.FAILED else ""
    return Fate(outcome, status.attempt, status.exit_code, reason[:64])


class _Place(NamedTuple):
    """Where a member is counted, and whether it holds resources, or has ended."""

    member: Member
    holds: bool
    ending: Outcome | None


class Array:
    """One array. `task` is its task, None if it is gone, or its spec is none of an array.

    `counts` are members that have ended, by outcome, folded or not. `members` are those with a status, by
    index; `running` is how many of these hold resources.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.task: Task | None = None
        self.spec: Spec | None = None  # of its task
        self.size = 0
        self.of = ""  # the `op` of its spec
        self.blocks: dict[int, Block] = {}  # of its spec or not
        self.unreadable: dict[int, None] = {}
        self.members: dict[int, Task] = {}
        self.running = 0
        self.counts: Counter[Outcome] = Counter()
        self.turned: tuple[bool, ...] = ()  # `turn`, as its task was placed last
        self._folded = 0
        self._own = 0  # blocks of its spec
        self._lowest = 0  # no member below is to begin

    @property
    def waiting(self) -> int:
        """How many members have no status, and have not ended: they are to begin."""
        return max(0, self.size - self._folded - len(self.members)) if self.task is not None else 0

    @property
    def ended(self) -> int:
        """How many have ended."""
        return sum(self.counts.values())

    @property
    def under_way(self) -> int:
        """How many have begun, and have not ended: they run, or are to be retried."""
        return len(self.members) - (self.ended - self._folded)

    @property
    def has_begun(self) -> bool:
        """Whether any member has ever begun, or was cancelled before."""
        return self.task is not None and bool(self.members or self._own)

    @property
    def is_over(self) -> bool:
        """Whether all members have ended and are folded."""
        return (
            self.task is not None and not self.unreadable and self._folded >= self.size and not self.members
        )

    @property
    def fails(self) -> bool:
        """Whether a member has failed, and no other one is to run after that."""
        array = self.spec.array if self.spec is not None else None
        return array is not None and array.fail_fast and self.counts[Outcome.FAILED] > 0

    @property
    def may_begin(self) -> bool:
        """Whether a member is to begin, as far as the array alone says."""
        return self.waiting > 0 and not self.unreadable and not self.fails

    @property
    def turn(self) -> tuple[bool, ...]:
        """What decides where its task is placed in the indexes."""
        return self.may_begin, self.is_over, self.fails, self.has_begun

    @property
    def is_limited(self) -> bool:
        """Whether not all members may run at once."""
        array = self.spec.array if self.spec is not None else None
        return array is not None and array.max_running is not None

    def room(self, beyond: int) -> int:
        """How many more members may begin, if so many have begun that the model does not show.

        A member that waits for its retry keeps its room, or more would run than may once its wait is over.
        """
        array = self.spec.array if self.spec is not None else None
        most = array.max_running if array is not None else None
        return (most if most is not None else self.size) - self.under_way - beyond

    def length(self, number: int) -> int:
        """How many members the block has."""
        return max(0, min(LENGTH, self.size - number * LENGTH))

    def block(self, number: int) -> Block:
        """The block of this number, of this array's spec."""
        found = self.blocks.get(number)
        return found if found is not None and found.of == self.of else Block(self.of, ())

    def fate(self, index: int) -> Fate:
        """What has become of a member, as its block says."""
        return self.block(index // LENGTH).fate(index % LENGTH)

    def indexes(self, outcomes: Iterable[Outcome], ranges: Ranges = ALL) -> Iterator[int]:
        """The members whose block says one of these outcomes, in order. Those under way count as waiting."""
        wanted = tuple(outcomes)
        for first, last in ranges.within(self.size):
            for number in range(first // LENGTH, last // LENGTH + 1):
                for place in self.block(number).places(wanted, self.length(number)):
                    if first <= number * LENGTH + place <= last:
                        yield number * LENGTH + place

    def any_within(self, outcomes: Iterable[Outcome], ranges: Ranges) -> bool:
        """Whether a member of the ranges that is not under way has one of these outcomes."""
        return any(index not in self.members for index in self.indexes(outcomes, ranges))

    def next_index(self, start: int, may_begin: Callable[[int], bool]) -> int | None:
        """The first member at or after `start` that is to begin, and may; None if there is none."""
        index, is_lowest = max(start, self._lowest), start <= self._lowest
        while index < self.size:
            number, place = divmod(index, LENGTH)
            for one in self.block(number).places((Outcome.WAITING,), self.length(number)):
                index = number * LENGTH + one
                if one < place or index in self.members:
                    continue
                if is_lowest:
                    self._lowest, is_lowest = index, False
                if may_begin(index):
                    return index
            index = (number + 1) * LENGTH
        if is_lowest:
            self._lowest = self.size
        return None

    # -- changes, by Arrays alone

    def look_from(self, index: int) -> None:
        """A member may be to begin that was not before."""
        self._lowest = min(self._lowest, index)

    def count(self) -> None:
        """Count the blocks anew."""
        self._lowest = 0
        self.counts.clear()
        for number in self.blocks:
            self.counts += self.block(number).ended_within(self.length(number))
        self._folded = sum(self.counts.values())
        self._own = sum(block.of == self.of for block in self.blocks.values())
        for task in self.members.values():
            if task.status is not None and (outcome := _OF_ENDS.get(task.status.state)):
                self.counts[outcome] += 1

    def put(self, number: int, block: Block | None) -> None:
        """Take in a block; None: it is gone."""
        before = self.block(number).ended_within(self.length(number))
        known = self.blocks.pop(number, None)
        self._own -= known is not None and known.of == self.of
        if block is not None:
            self.blocks[number] = block
            self._own += block.of == self.of
        after = self.block(number).ended_within(self.length(number))
        self.counts.subtract(before)
        self.counts.update(after)
        self._folded += after.total() - before.total()
        self.look_from(number * LENGTH)


class Arrays:
    """All arrays, by name. `touch` is called with the name of a task to look at because of others."""

    def __init__(self, tasks: Mapping[str, Task], touch: Callable[[str], None]) -> None:
        self._tasks = tasks
        self._touch = touch
        self._arrays: dict[str, Array] = {}
        self._places: dict[str, _Place] = {}
        self.ended: dict[str, None] = {}  # members that have ended, in that order: they are to be folded
        self.busy: dict[str, None] = {}  # arrays of which blocks may have to change
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
        member = Member.parse(name) if self._arrays else None
        array = self._arrays.get(member.array) if member is not None else None
        return array.task if array is not None else None

    # -- changes

    def put_block(
        self, name: str, number: int, block: Block | None, *, is_readable: bool = True
    ) -> Task | None:
        """Take in a block; None: it is gone, or cannot be read. Returns the task that it changes."""
        array = self._ensure(name)
        array.unreadable.pop(number, None)
        if not is_readable:
            array.unreadable[number] = None
        array.put(number, block)
        self._sort(array, number)
        self._drop_empty(array)
        return array.task

    def put_log(self, name: str, *, is_there: bool) -> None:
        """Note whether a log of this name is kept."""
        member = Member.parse(name)
        if member is None:
            return
        row = self.logs.setdefault(member.array, {})
        row.pop(name, None)
        if is_there:
            row[name] = self.gone[member.array] = None
        if not row:
            del self.logs[member.array]

    def place(self, task: Task) -> list[Task]:
        """Bring all up to date with a task's records. Returns other tasks, which are to be placed again."""
        status, again = task.status, list[Task]()
        named = Member(status.array, status.index) if status is not None and status.array else None
        if named is not None or task.id in self._places:
            again += self._place_member(task, named)
        spec = task.spec.array if task.spec is not None else None
        if spec is not None or task.array is not None or task.id in self._arrays:
            again += self._place_array(task)
        if named is None and not task.exists and (waiting := self.task_of(task.id)) is not None:
            again.append(waiting)  # the name is free for a member
        return again

    # -- details

    def _place_member(self, task: Task, named: Member | None) -> list[Task]:
        before = self._places.pop(task.id, None)
        self.ended.pop(task.id, None)
        touched = dict[str, Array]()
        was_under_way = before is not None and before.ending is None
        if before is not None:
            array = touched[before.member.array] = self._ensure(before.member.array)
            del array.members[before.member.index]
            array.running -= before.holds
            array.look_from(before.member.index)
            if before.ending is not None:
                array.counts[before.ending] -= 1
        if named is None:
            leave(task)
        else:
            assert task.status is not None
            array = touched[named.array] = self._ensure(named.array)
            ending = _OF_ENDS.get(task.status.state)
            self._places[task.id] = _Place(named, task.status.is_holding, ending)
            array.members[named.index] = task
            array.running += task.status.is_holding
            if ending is not None:
                array.counts[ending] += 1
                self.ended[task.id] = None
            if task.source is not array.task or task.own is None:
                self._resolve(task, array)
        again = []
        for array in touched.values():
            self._drop_empty(array)
            has_room = was_under_way and array.is_limited and array.may_begin
            if array.task is not None and (has_room or array.turn != array.turned):
                again.append(array.task)
            elif array.task is None or array.task.requests or array.is_over:
                self._touch(array.name)
        return again

    def _place_array(self, task: Task) -> list[Task]:
        array = self._ensure(task.id)
        is_one = (
            task.exists
            and task.source is None
            and not task.spec_error
            and task.spec is not None
            and task.spec.array is not None
        )
        spec = task.spec if is_one else None
        seen = array.spec
        array.task, array.spec, array.of = (task, spec, task.spec_op) if is_one else (None, None, "")
        array.size = spec.array.size if spec is not None and spec.array is not None else 0
        task.array = array if is_one else None
        again = []
        if spec is not seen:
            array.count()
            for number in array.blocks:
                self._sort(array, number)
            for member in array.members.values():
                if member.status is not None and member.status.array:  # else it is about to be placed itself
                    self._resolve(member, array)
                again.append(member)
        self.busy.pop(array.name, None)
        is_asked = bool(task.requests) or (array.fails and task.state in WAITING)
        if is_one and is_asked and not (task.frozen or array.unreadable):
            self.busy[array.name] = None
        if array.name in self.logs:
            self.gone[array.name] = None
        array.turned = array.turn
        self._drop_empty(array)
        return again

    def _resolve(self, task: Task, array: Array) -> None:
        """Give a member the spec that follows from its array's."""
        assert task.status is not None
        if task.own is None:
            task.own = Own(task.spec, task.spec_create, task.submitted_at, task.spec_error)
        source, index = array.task, task.status.index
        if source is not None and source.spec is not None and index < array.size:
            task.source, task.spec, task.spec_error = source, member_spec(source.spec, task.id, index), ""
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
        if array.task is None and not array.members and not array.blocks and not array.unreadable:
            self._arrays.pop(array.name, None)
            self.busy.pop(array.name, None)

    def _sort(self, array: Array, number: int) -> None:
        self.stale.pop((array.name, number), None)
        block = array.blocks.get(number)
        if block is not None and (array.task is None or block.of != array.of or not array.length(number)):
            self.stale[array.name, number] = None


def check_member(task: Task) -> None:
    """Check that a status names the member of an array that has the task's name. Raises CorruptValue."""
    status = task.status
    if status is not None and status.array and Member.parse(task.id) != Member(status.array, status.index):
        task.status = None
        raise CorruptValue(f"array: {status.array!r} has no member {status.index} of the name {task.id!r}")


def leave(task: Task) -> None:
    """Give a task that is no member any more, or whose own spec is about to change, the spec of its name."""
    if task.own is not None:
        task.spec, task.spec_create, task.submitted_at, task.spec_error = task.own
    task.own, task.source = None, None


def member_spec(spec: Spec, name: str, index: int) -> Spec:
    """The spec of a member of the array that has this spec."""
    assert spec.array is not None
    # the array's variables come first, so that the user's may refer to them
    env = environment(index, spec.array.size)
    return msgspec.structs.replace(spec, id=name, array=None, after=(), env={**env, **spec.env, **env})
