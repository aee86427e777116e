"""Blocks: what has become of an array's members, 1,024 in one record `arrays/<array>/<n>`.

A member that has not begun is not in a block, or waits in it. A member that has ended is folded: the leader
writes how it ended into its block, and deletes its status, in one transaction. Neighbours that ended alike
are one run, so a million members that have succeeded take a few kilobytes.

A block belongs to the spec that has its `of` as its `op`: a later array of the same name has another one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import StrEnum
from itertools import groupby
from typing import Annotated, NamedTuple

import msgspec
from msgspec import Meta, Struct

from controller.core.model.lifecycle import State
from controller.core.model.op import NO_OP, Op
from controller.errors import CorruptValue

KIND = "arrays"
LENGTH = 1024
VERSION = 1
MAX_BLOCK_BYTES = 256 * 1024
MAX_REASON_BYTES = 66  # as it is stored: then a block can be read, whatever its members say


class MemberOutcome(StrEnum):
    """What has become of a member."""

    WAITING = "waiting"  # it has not begun, or is to run again
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


STATES = {
    MemberOutcome.SUCCEEDED: State.SUCCEEDED,
    MemberOutcome.FAILED: State.FAILED,
    MemberOutcome.CANCELLED: State.CANCELLED,
}
"""The state in which a member has ended that has this outcome."""


class Fate(NamedTuple):
    """What has become of a member: its attempts so far, and the exit code and reason of the last one.

    `abandoned` is the highest number of an attempt that was given up: it may still run.
    """

    outcome: MemberOutcome
    attempts: int = 0
    exit_code: int | None = None
    reason: str = ""
    abandoned: int = 0

    @property
    def has_ended(self) -> bool:
        """Whether the member is not to run, unless a user asks for that."""
        return self.outcome is not MemberOutcome.WAITING

    def without(self, outcome: MemberOutcome, reason: str = "") -> Fate:
        """The fate of the member if it ends so without another attempt."""
        return Fate(outcome, self.attempts, reason=reason, abandoned=self.abandoned)

    @property
    def again(self) -> Fate:
        """The fate of a member that is to run again. Its attempts are counted on."""
        return Fate(MemberOutcome.WAITING, self.attempts, abandoned=self.abandoned)


WAITS = Fate(MemberOutcome.WAITING)


class _Run(Struct, frozen=True, array_like=True):
    """Neighbours with one fate, as they are stored."""

    count: Annotated[int, Meta(ge=1, le=LENGTH)]
    outcome: MemberOutcome
    attempts: Annotated[int, Meta(ge=0, le=2**31 - 1)] = 0
    exit_code: Annotated[int, Meta(ge=-(2**31), le=2**32)] | None = None
    reason: Annotated[str, Meta(max_length=64)] = ""
    abandoned: Annotated[int, Meta(ge=0, le=2**31 - 1)] = 0


class _Stored(Struct, frozen=True, kw_only=True):
    members: tuple[_Run, ...]
    of: Annotated[str, Meta(max_length=1024)] = ""
    version: Annotated[int, Meta(ge=0)] = VERSION
    op: str = NO_OP


_decoder = msgspec.json.Decoder(_Stored)


class Block:
    """One block. `runs` are (how many, their fate), in the order of the members. Nothing changes it."""

    __slots__ = ("counts", "has_run", "of", "runs")

    def __init__(self, of: str, runs: tuple[tuple[int, Fate], ...]) -> None:
        self.of = of
        self.runs = runs
        self.counts: Counter[MemberOutcome] = Counter()
        self.has_run = any(fate.attempts for _, fate in runs)  # a member has had an attempt
        for count, fate in runs:
            self.counts[fate.outcome] += count

    @classmethod
    def of_fates(cls, of: str, fates: Iterable[Fate]) -> Block:
        """The block of members with these fates."""
        return cls(of, tuple((len(list(same)), fate) for fate, same in groupby(fates)))

    def fates(self, length: int) -> list[Fate]:
        """The fates of its members, of which there are so many."""
        found = [fate for count, fate in self.runs for _ in range(count)]
        return found[:length] + [WAITS] * (length - len(found))

    def fate(self, place: int) -> Fate:
        """The fate of the member at this place of the block."""
        for count, fate in self.runs:
            if place < count:
                return fate
            place -= count
        return WAITS

    def ended_within(self, length: int) -> Counter[MemberOutcome]:
        """How many have ended, by outcome, if the block has so many members."""
        if sum(self.counts.values()) > length:
            return Block.of_fates(self.of, self.fates(length)).ended_within(length)
        return Counter({one: count for one, count in self.counts.items() if one is not MemberOutcome.WAITING})

    def places(self, outcomes: Iterable[MemberOutcome], length: int) -> Iterator[int]:
        """The places of the members with one of these outcomes."""
        wanted, place = frozenset(outcomes), 0
        for count, fate in self.runs:
            if fate.outcome in wanted:
                yield from range(place, min(place + count, length))
            place += count
        if MemberOutcome.WAITING in wanted:
            yield from range(place, length)

    def mask(self, wanted: Callable[[Fate], bool], length: int) -> int:
        """The places of such members, as bits: the lowest is place 0."""
        found = place = 0
        for count, fate in self.runs:
            if wanted(fate):
                found |= ((1 << count) - 1) << place
            place += count
        if place < length and wanted(WAITS):
            found |= ((1 << (length - place)) - 1) << place
        return found & ((1 << length) - 1)

    def changed(self, fates: Mapping[int, Fate], length: int) -> Block:
        """The block with other fates, by place."""
        after = self.fates(length)
        for place, fate in fates.items():
            after[place] = fate
        return Block.of_fates(self.of, after)

    def with_all(self, change: Callable[[Fate], Fate], length: int) -> Block:
        """The block with the changed fate of each member."""
        rest = length - sum(self.counts.values())
        runs = (*self.runs, (rest, WAITS)) if rest > 0 else self.runs
        return Block(self.of, tuple((count, change(fate)) for count, fate in runs))

    def encode(self, op: Op) -> bytes:
        """The stored form. Members that wait, and have never begun, are left out at its end."""
        runs = self.runs[:-1] if self.runs and self.runs[-1][1] == WAITS else self.runs
        stored = _Stored(members=tuple(_Run(count, *fate) for count, fate in runs), of=self.of, op=op)
        return msgspec.json.encode(stored)


def number_of(text: str) -> int:
    """The number of a block, as its key has it. Raises CorruptValue."""
    if not (text.isascii() and text.isdigit()) or len(text) > 3 or str(int(text)) != text:
        raise CorruptValue(f"{text[:40]!r} is not the number of a block")
    return int(text)


def decode_block(data: bytes) -> Block:
    """A stored block. Raises CorruptValue if it is not one."""
    if len(data) > MAX_BLOCK_BYTES:
        raise CorruptValue(f"has {len(data):,} bytes, but a block has at most {MAX_BLOCK_BYTES:,}")
    try:
        stored = _decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise CorruptValue(str(error)) from error
    if stored.version > VERSION:
        raise CorruptValue(f"version: is {stored.version}, and this release knows {VERSION}: upgrade it")
    if sum(run.count for run in stored.members) > LENGTH:
        raise CorruptValue(f"members: has more than {LENGTH}")
    runs = tuple(
        (run.count, Fate(run.outcome, run.attempts, run.exit_code, run.reason, run.abandoned))
        for run in stored.members
    )
    return Block(stored.of, runs)
