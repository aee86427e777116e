"""Arrays: one task that stands for many members, which differ in their index alone (`array`).

Member `i` of the array `render` is a task of its own while it is under way: its name is `render-i<i>`, its
status says to which array it belongs, and its spec follows from that of the array. A member that has not
begun, or has ended, has no record of its own: see `blocks`.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from itertools import pairwise

from msgspec import Struct

from controller.core.model.fields import Parse, mapping, read_fields
from controller.core.model.gangs import MAX_GANG, MemberRole, parse_roles
from controller.core.model.scalars import parse_boolean, parse_integer
from controller.errors import InvalidField

MAX_SIZE = 1_000_000
MAX_ARRAY_ID = 44
"""Characters of an array's id: `<id>-i<index>` is the name of a task, which has at most 52."""

MAX_RANGES = 100
INDEX, SIZE, COMPLETION_INDEX = "TALLY_ARRAY_INDEX", "TALLY_ARRAY_SIZE", "JOB_COMPLETION_INDEX"
"""The variables by which a member knows itself. The last is the one of Kubernetes' indexed Jobs."""

_MEMBER = re.compile(r"([a-z0-9](?:[-a-z0-9]*[a-z0-9])?)-i(0|[1-9][0-9]{0,5})", re.ASCII)
_RANGE = re.compile(r"(0|[1-9][0-9]{0,5})(?:-(0|[1-9][0-9]{0,5}))?", re.ASCII)


class ArraySpec(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """How many members there are, and how many may be under way at once (None: as many as have room).

    `fail_fast`: once a member has failed, no other one begins, and those that run are stopped. `gang`: they
    run all at once or not at all (see `gangs`). `roles`, of a gang: neighbours that are alike; `size` is the
    sum of theirs.
    """

    size: int
    max_running: int | None = None
    fail_fast: bool = False
    gang: bool = False
    roles: tuple[MemberRole, ...] = ()

    @property
    def parts(self) -> tuple[MemberRole, ...]:
        """The roles; of a gang without any, all members as one."""
        return self.roles or (MemberRole(name="", size=self.size),)


class MemberName(Struct, frozen=True):
    """A member, by its array and its index (0 to size - 1). Its text form is the name of its task."""

    array: str
    index: int

    def __str__(self) -> str:
        return f"{self.array}-i{self.index}"

    @classmethod
    def parse(cls, name: str) -> MemberName | None:
        """The member that has this name; None if no member can have it."""
        found = _MEMBER.fullmatch(name)
        if found is None or len(found[1]) > MAX_ARRAY_ID:
            return None
        return cls(found[1], int(found[2]))


def parse_array(raw: object, field: str) -> ArraySpec:
    """The `array` of a spec. Raises InvalidField."""
    if isinstance(raw, ArraySpec):
        return raw
    fields = dict(mapping(raw, field, "expected a mapping such as {size: 1000, max_running: 50}"))
    values = read_fields(fields, _GANG_FIELDS if fields.get("gang") is True else _FIELDS, f"{field}.")
    if roles := values.get("roles"):
        size = sum(role.size for role in roles)
        if values.setdefault("size", size) != size:
            problem = f"is {values['size']:,}, but its roles have {size:,} members in all: leave it out"
            raise InvalidField(f"{field}.size", problem)
    if "size" not in values:
        most = f"1 to {MAX_GANG:,}, or `roles`" if values.get("gang") else f"1 to {MAX_SIZE:,}"
        raise InvalidField(f"{field}.size", f"is missing: give the number of members, {most}")
    array = ArraySpec(**values)
    if not array.gang and array.roles:
        raise InvalidField(f"{field}.roles", "are those of a gang: add `gang: true` beside them")
    if array.gang and array.max_running is not None:
        raise InvalidField(f"{field}.max_running", "means nothing for a gang, which runs whole: leave it out")
    if array.gang and array.fail_fast:
        raise InvalidField(f"{field}.fail_fast", "is what a gang does anyway: leave it out")
    if array.gang and array.size > MAX_GANG:
        problem = f"have {array.size:,} members in all, but a gang has at most {MAX_GANG:,}"
        raise InvalidField(f"{field}.roles", problem)
    return array


class Ranges:
    """Indexes of members, as ranges: `0-99,200,300-399`. All, if there is no range."""

    def __init__(self, ranges: tuple[tuple[int, int], ...]) -> None:
        self._ranges = tuple(sorted(ranges))
        self._firsts = [first for first, _ in self._ranges]

    @classmethod
    def parse(cls, text: str, field: str = "members") -> Ranges:
        """Ranges in any order, without overlaps; "" for all members. Raises InvalidField."""
        parts = text.replace(" ", "").split(",") if text.strip() else []
        if len(parts) > MAX_RANGES:
            raise InvalidField(
                field, f"has {len(parts)} ranges, but at most {MAX_RANGES} are allowed at once"
            )
        ranges = []
        for part in parts:
            found = _RANGE.fullmatch(part)
            if found is None:
                raise InvalidField(field, f"{part[:40]!r} is not a range of members, such as 7 or 100-200")
            first = int(found[1])
            last = int(found[2]) if found[2] is not None else first
            if last < first:
                raise InvalidField(field, f"{part} ends before it begins: write {last}-{first}")
            ranges.append((first, last))
        ranges.sort()
        for (first, last), (following, end) in pairwise(ranges):
            if following <= last:
                raise InvalidField(field, f"{following}-{end} overlaps {first}-{last}: name each member once")
        return cls(tuple(ranges))

    @property
    def is_all(self) -> bool:
        """Whether it means all members."""
        return not self._ranges

    def __contains__(self, index: int) -> bool:
        if not self._ranges:
            return True
        at = bisect_right(self._firsts, index) - 1
        return at >= 0 and index <= self._ranges[at][1]

    def __str__(self) -> str:
        return ",".join(f"{first}-{last}" if last > first else str(first) for first, last in self._ranges)

    def within(self, size: int) -> Iterator[tuple[int, int]]:
        """The ranges (first, last), as far as an array of this size has such members."""
        if not self._ranges:
            yield 0, size - 1
        for first, last in self._ranges:
            if first < size:
                yield first, min(last, size - 1)

    def count(self, size: int) -> int:
        """How many members of an array of this size it means."""
        return sum(last - first + 1 for first, last in self.within(size))


ALL = Ranges(())


def environment(index: int, size: int) -> dict[str, str]:
    """The variables of a member."""
    return {INDEX: str(index), SIZE: str(size), COMPLETION_INDEX: str(index)}


def split_member(text: str) -> tuple[str, str]:
    """The name and the ranges in `render[100-200]`; ("render", "") without brackets. Raises InvalidField."""
    name, bracket, rest = text.partition("[")
    if not bracket:
        return text, ""
    if not rest.endswith("]") or not rest[:-1].strip():
        raise InvalidField("members", f"{text[:60]!r}: write the members in brackets, as in {name}[100-200]")
    return name, str(Ranges.parse(rest[:-1]))


def _size(raw: object, field: str) -> int:
    return parse_integer(raw, field, 1, MAX_SIZE)


def _size_of_gang(raw: object, field: str) -> int:
    return parse_integer(raw, field, 1, MAX_GANG)


_FIELDS: dict[str, Parse] = {
    "size": _size,
    "max_running": _size,
    "fail_fast": parse_boolean,
    "gang": parse_boolean,
    "roles": parse_roles,
}
_GANG_FIELDS = _FIELDS | {"size": _size_of_gang}
