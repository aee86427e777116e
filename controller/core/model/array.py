"""One array of the model: its blocks, and the members that are under way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, Protocol, TypeVar

from controller.core.model.arrays import ALL, Ranges
from controller.core.model.blocks import LENGTH, STATES, Block, Fate, MemberOutcome
from controller.core.model.paired import Paired
from controller.core.model.task import Spec, Status

OF_ENDS = {state: outcome for outcome, state in STATES.items()}
"""What becomes of a member that ends in this state."""


class HasStatus(Protocol):
    """A task, as far as its array looks at it."""

    status: Status | None


T = TypeVar("T", bound=HasStatus)


class ArrayOf(Generic[T]):
    """One array. `task` is its task, None if it is gone, or its spec is none of an array.

    `counts` are members that have ended, by outcome, folded or not. `members` are those with a status, by
    index; `running` is how many of these hold resources. `of` is what the blocks of its spec have: its `op`,
    and of a gang the round, too, so that what was told of an earlier round does not count.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.task: T | None = None
        self.spec: Spec | None = None  # of its task
        self.is_gang = False  # its members run all at once, or not at all
        self.size = 0
        self.of = ""
        self.blocks: dict[int, Block] = {}  # of its spec or not
        self.unreadable: dict[int, None] = {}
        self.members: dict[int, T] = {}
        # members whose status cannot be read: they may be under way. True if no other task has the name
        self.hidden: dict[int, bool] = {}
        self.running = 0
        self.started = 0  # of `members`, those that are Running
        self.counts: Counter[MemberOutcome] = Counter()
        self.paired: Paired | None = None  # what its members wait for, each for one alone
        self.followers: dict[str, Paired] = {}  # arrays whose members wait for those of this one
        self.turned: tuple[bool, ...] = ()  # `turn`, as its task was placed last
        self._folded = 0
        self._own = 0  # blocks of its spec
        self.ran = 0  # of these, those that tell of an attempt
        self._lowest = 0  # no member below is to begin

    @property
    def waiting(self) -> int:
        """How many members have no status, and have not ended: they are to begin."""
        hidden = sum(not self.fate(index).has_ended for index in self.hidden)
        return max(0, self.size - self._folded - len(self.members) - hidden) if self.task is not None else 0

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
        return self.task is not None and bool(self.members or self._own or any(self.hidden.values()))

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
        return (
            array is not None and array.fail_fast and not array.gang and self.counts[MemberOutcome.FAILED] > 0
        )

    @property
    def may_begin(self) -> bool:
        """Whether a member is to begin, as far as the array alone says. Of a gang: whether all may."""
        if self.is_gang and (self.members or self.hidden):
            return False  # of an earlier round
        if self.paired is not None and not self.paired.ready:
            return False
        return self.waiting > 0 and not self.unreadable and not self.fails

    @property
    def turn(self) -> tuple[bool, ...]:
        """What decides where its task is placed in the indexes."""
        paired = self.paired.is_turned if self.paired is not None else ()
        return self.may_begin, self.is_over, self.fails, self.has_begun, has_run(self), *paired

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

    def indexes(self, outcomes: Iterable[MemberOutcome], ranges: Ranges = ALL) -> Iterator[int]:
        """The members whose block says one of these outcomes, in order. Those under way count as waiting."""
        wanted = tuple(outcomes)
        for first, last in ranges.within(self.size):
            for number in range(first // LENGTH, last // LENGTH + 1):
                for place in self.block(number).places(wanted, self.length(number)):
                    if first <= number * LENGTH + place <= last:
                        yield number * LENGTH + place

    def any_within(self, outcomes: Iterable[MemberOutcome], ranges: Ranges) -> bool:
        """Whether a member of the ranges that is not under way has one of these outcomes."""
        return any(self.is_at_rest(index) for index in self.indexes(outcomes, ranges))

    def is_at_rest(self, index: int) -> bool:
        """Whether the member is not under way, so that its block alone tells of it."""
        return index not in self.members and index not in self.hidden

    def next_index(self, start: int, may_begin: Callable[[int], bool]) -> int | None:
        """The first member at or after `start` that is to begin, and may; None if there is none."""
        if self.paired is not None:
            return next((index for index in self.paired.indexes(start) if may_begin(index)), None)
        index, is_lowest = max(start, self._lowest), start <= self._lowest
        while index < self.size:
            number, place = divmod(index, LENGTH)
            for one in self.block(number).places((MemberOutcome.WAITING,), self.length(number)):
                index = number * LENGTH + one
                if one < place or not self.is_at_rest(index):
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
        self.ran = sum(block.of == self.of and block.has_run for block in self.blocks.values())
        for task in self.members.values():
            if task.status is not None and (outcome := OF_ENDS.get(task.status.state)):
                self.counts[outcome] += 1

    def put(self, number: int, block: Block | None) -> None:
        """Take in a block; None: it is gone."""
        before = self.block(number).ended_within(self.length(number))
        known = self.blocks.pop(number, None)
        if known is not None and known.of == self.of:
            self._own -= 1
            self.ran -= known.has_run
        if block is not None:
            self.blocks[number] = block
            self._own += block.of == self.of
            self.ran += block.of == self.of and block.has_run
        after = self.block(number).ended_within(self.length(number))
        self.counts.subtract(before)
        self.counts.update(after)
        self._folded += after.total() - before.total()
        self.look_from(number * LENGTH)
        if self.paired is not None:
            self.paired.refresh(number)
        for follower in self.followers.values():
            follower.refresh(number)


def ended_runs(array: ArrayOf[T], outcome: MemberOutcome) -> Iterator[tuple[int, int, Fate]]:
    """Neighbours that have ended alike, with this outcome, as blocks have it: (first index, count, fate)."""
    for number in sorted(array.blocks):
        place, length = 0, array.length(number)
        for count, fate in array.block(number).runs:
            if fate.outcome is outcome and place < length:
                yield number * LENGTH + place, min(count, length - place), fate
            place += count


def has_run(array: ArrayOf[Any]) -> bool:
    """Whether any member has ever had an attempt."""
    return array.task is not None and bool(array.members or array.ran or any(array.hidden.values()))


def could_begin(array: ArrayOf[Any]) -> int:
    """How many members would begin at once, if there were resources for all of them. Of a gang: all, or none.

    A member whose name another task has is counted, though it cannot begin.
    """
    if not array.may_begin:
        return 0
    if array.is_gang:
        return array.size
    ready = array.waiting
    if array.paired is not None:
        ready = min(ready, sum(mask.bit_count() for mask in array.paired.ready.values()))
    return max(0, min(ready, array.room(0)))
