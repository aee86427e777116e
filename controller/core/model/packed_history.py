"""The histories of ended tasks, in a small form: most of what is kept of a task, for as long as it is kept.

A stored step begins with its time. What follows is the same in the histories of many tasks, and is kept once.
The steps come back byte for byte, whatever they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import overload

from msgspec import Raw

MOST_BYTES = 1024  # of a step that is packed
MOST_KNOWN = 1024  # ends of steps, and as many sequences of them: 9 MiB at most
_MOST_STEPS = 8  # of a sequence that is known again
_BEGIN = b'{"at":'


class PackedHistory(Sequence[Raw]):
    """The steps of a history, as `pack` was given them."""

    __slots__ = ("_ends", "_times")

    def __init__(self, times: bytes, ends: tuple[bytes, ...]) -> None:
        self._times = times
        self._ends = ends

    def __len__(self) -> int:
        return len(self._ends)

    def __iter__(self) -> Iterator[Raw]:
        return map(_step, self._times.split(b","), self._ends)

    @overload
    def __getitem__(self, index: int) -> Raw: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Raw, ...]: ...
    def __getitem__(self, index: int | slice) -> Raw | tuple[Raw, ...]:
        if isinstance(index, slice):
            return tuple(self)[index]
        return _step(self._times.split(b",")[index], self._ends[index])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and tuple(self) == tuple(other)


def pack(history: Sequence[Raw]) -> Sequence[Raw]:
    """The same steps in a small form, which keeps nothing alive that they are views of.

    They are only copied if one of them is long, or does not begin with its time.
    """
    if isinstance(history, PackedHistory):
        return history
    times, ends = list[bytes](), list[bytes]()
    for step in history:
        begin, comma, end = bytes(step).partition(b",")
        if not comma or not begin.startswith(_BEGIN) or len(end) > MOST_BYTES:
            return tuple(each.copy() for each in history)
        times.append(begin[len(_BEGIN) :])
        ends.append(_known_end(end))
    if not ends:
        return ()
    sequence = tuple(ends)
    return PackedHistory(
        b",".join(times), _known_sequence(sequence) if len(ends) <= _MOST_STEPS else sequence
    )


def _step(time: bytes, end: bytes) -> Raw:
    return Raw(b"%b%b,%b" % (_BEGIN, time, end))


# Each returns the first of its equals.
@lru_cache(MOST_KNOWN)
def _known_end(end: bytes) -> bytes:
    return end


@lru_cache(MOST_KNOWN)
def _known_sequence(ends: tuple[bytes, ...]) -> tuple[bytes, ...]:
    return ends
