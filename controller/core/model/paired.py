"""Members of an array that each wait for the member of the same index of other arrays (`index: same`).

A member has ended once its block says so. It may run again, unless it has succeeded. So a member that waits
for its success begins when that is told, whatever becomes of the others. That a member never runs is decided
once all arrays that it waits for have ended: until then, a user may retry theirs. Where such an array has
ended before one of its members did, that one counts as ended as the array has.

Places in a block are bits of an integer: the lowest is place 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, MutableMapping
from typing import NamedTuple, Protocol

from sortedcontainers import SortedDict

from controller.core.model.after import When
from controller.core.model.blocks import LENGTH, STATES, Block, Fate, MemberOutcome
from controller.core.model.gates import Parent, meets
from controller.core.model.lifecycle import State

DEPENDENCY_FAILED, DEPENDENCY_UNKNOWN, SKIPPED = "DependencyFailed", "DependencyUnknown", "Skipped"
REFUSALS = (DEPENDENCY_FAILED, DEPENDENCY_UNKNOWN, SKIPPED)
"""The reasons of tasks, and of members, that never ran because of others."""


class HasBlocks(Protocol):
    """An array, as far as it is looked at here."""

    size: int
    unreadable: dict[int, None]
    followers: dict[str, Paired]

    def block(self, number: int) -> Block:
        """The block of this number, of this array's spec."""

    def length(self, number: int) -> int:
        """How many members the block has."""

    def is_at_rest(self, index: int) -> bool:
        """Whether the member is not under way, so that its block alone tells of it."""


class Former(NamedTuple):
    """An array whose members come first. `parent` is what its task has come to.

    `parent` is None if there is no such array that is older, or it has another number of members. `array` is
    None then, and if its spec cannot be read.
    """

    name: str
    when: When
    parent: Parent | None
    array: HasBlocks | None

    def is_known(self, number: int) -> bool:
        """Whether it is certain what becomes of the members of a block, since the whole array has ended."""
        if self.array is None or self.parent is None or number in self.array.unreadable:
            return False
        return self.parent.ending is not None

    def ending(self, index: int) -> State | None:
        """How the member of this index has ended; None if it has not."""
        if self.array is None or self.parent is None:
            return None
        fate = self.array.block(index // LENGTH).fate(index % LENGTH)
        return STATES.get(fate.outcome, self.parent.ending)

    def is_met(self, index: int) -> bool:
        """Whether the member of this index has ended as wanted."""
        number, place = divmod(index, LENGTH)
        return self.array is not None and bool(self.met(number, self.array.length(number)) >> place & 1)

    def met(self, number: int, length: int) -> int:
        """The places of a block at which members have ended as wanted."""
        array, parent = self.array, self.parent
        if array is None or parent is None or number in array.unreadable:
            return 0

        def is_met(fate: Fate) -> bool:
            state = STATES.get(fate.outcome, parent.ending)
            # what has not succeeded may be about to run again
            return (
                state is not None
                and meets(state, self.when)
                and not (parent.is_retried and state is not State.SUCCEEDED)
            )

        return array.block(number).mask(is_met, length)


class Paired:
    """See the module's docstring: what the members of the array `own` wait for.

    `ready` are those that may begin, and `never` those that never will, by block. No number is 0.
    """

    def __init__(self, own: HasBlocks, formers: tuple[Former, ...], away: Iterable[int]) -> None:
        """`away`: the members that are under way."""
        self.formers = formers
        self.ready: SortedDict[int, int] = SortedDict()
        self.never: SortedDict[int, int] = SortedDict()
        self._own = own
        self._away: dict[int, int] = {}
        for index in away:
            number, place = divmod(index, LENGTH)
            self._away[number] = self._away.get(number, 0) | 1 << place
        for number in range(-(-own.size // LENGTH)):
            self.refresh(number)

    def refresh(self, number: int) -> None:
        """A block has changed, of this array or of one that it follows."""
        length = self._own.length(number)
        block, everyone = self._own.block(number), (1 << length) - 1
        waiting = block.mask(lambda fate: not fate.has_ended, length) & ~self._away.get(number, 0)
        met = everyone if waiting and number not in self._own.unreadable else 0
        is_known = bool(met)
        for former in self.formers if met else ():
            if former.parent is None:  # those that have begun once had begun after that one
                met &= block.mask(lambda fate: fate.attempts > 0, length)
                continue
            met &= former.met(number, length)
            is_known = is_known and former.is_known(number)
        _set(self.ready, number, waiting & met)
        _set(self.never, number, waiting & ~met if is_known else 0)

    def moved(self, index: int) -> None:
        """A member has begun, or is under way no longer."""
        number, place = divmod(index, LENGTH)
        away, bit = self._away.get(number, 0), 1 << place
        if self._own.is_at_rest(index):
            _set(self._away, number, away & ~bit)
            if not self._own.block(number).fate(place).has_ended:  # else it is folded, and counts no more
                self.refresh(number)
        else:
            self._away[number] = away | bit
            for table in (self.ready, self.never):
                _set(table, number, table.get(number, 0) & ~bit)

    def indexes(self, start: int = 0) -> Iterator[int]:
        """The members at or after `start` that may begin, in order."""
        for number in self.ready.irange(start // LENGTH):
            for place in places(self.ready[number]):
                if number * LENGTH + place >= start:
                    yield number * LENGTH + place

    @property
    def is_turned(self) -> tuple[bool, bool]:
        """Whether any member may begin, and whether any never will."""
        return bool(self.ready), bool(self.never)

    def blocks(self, index: int) -> tuple[tuple[str, str], ...]:
        """The names of the blocks on which rests what becomes of this member."""
        number = str(index // LENGTH)
        return tuple((former.name, number) for former in self.formers if former.array is not None)

    def end_of(self, index: int, before: Fate) -> Fate:
        """The fate of a member that never runs, or never again."""
        if not before.attempts and any(each.parent is None for each in self.formers):
            return before.without(MemberOutcome.FAILED, DEPENDENCY_UNKNOWN)
        missed = [
            each
            for each in self.formers
            if (state := each.ending(index)) is not None and not meets(state, each.when)
        ]
        if any(each.when is not When.FAILED for each in missed):
            return before.without(MemberOutcome.FAILED, DEPENDENCY_FAILED)
        return before.without(MemberOutcome.CANCELLED, SKIPPED)


def places(mask: int) -> Iterator[int]:
    """The places of the bits that are set, in order."""
    while mask:
        lowest = mask & -mask
        yield lowest.bit_length() - 1
        mask ^= lowest


def _set(table: MutableMapping[int, int], number: int, mask: int) -> None:
    if mask:
        table[number] = mask
    else:
        table.pop(number, None)
