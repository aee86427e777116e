"""When a schedule is due: cron expressions and time zones, by the library cronsim.

Expressions have five fields, as in Debian's cron: minute, hour, day of month, month, day of week. Times are
whole seconds since the epoch. What is due follows from the expression, the zone and the times that are asked
about, and from nothing else. All work is bounded: an expression that never comes true ends.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, tzinfo
from functools import lru_cache
from importlib.resources import files
from itertools import islice
from typing import NamedTuple
from zoneinfo import ZoneInfo

import tzdata
from cronsim import CronSim, CronSimError

from controller.core.model.scalars import parse_text, shown
from controller.errors import InvalidField

MAX_CRON = 200  # characters
DAY = 86400
LOOKED_AT = 1000  # ticks in one go; further ones that were missed are not counted one by one
MOST_KEPT = 101  # the newest of them are known by their times
_SOME_TIME = 1_704_067_200  # 2024-01-01: whether an expression ever comes true does not depend on the clock
_CRON = re.compile(r"[A-Za-z0-9*/,#-]+( [A-Za-z0-9*/,#-]+){4}")
_LISTS = "or a list, range or step such as 1,5 or 1-5 or */2"
_PARTS = {  # the library's word for each part of an expression → ours, and what it may be
    "minute": ("the minute", f"0 to 59, {_LISTS}"),
    "hour": ("the hour", f"0 to 23, {_LISTS}"),
    "day-of-month": ("the day of the month", f"1 to 31, L, LW, {_LISTS}"),
    "month": ("the month", f"1 to 12, JAN to DEC, {_LISTS}"),
    "day-of-week": ("the day of the week", f"0 to 7, SUN to SAT, 5L, 1#2, {_LISTS}"),
}
_ERRORS = (CronSimError, ValueError, OverflowError, AssertionError)


class Due(NamedTuple):
    """The ticks that are due: `ticks` are the newest, oldest first, and `earlier` counts those before them.

    `is_exact`: else there are at least so many before them.
    """

    ticks: tuple[int, ...]
    earlier: int = 0
    is_exact: bool = True


def parse_cron(raw: object, field: str) -> str:
    """A cron expression that comes true some time. Raises InvalidField."""
    text = " ".join(parse_text(raw, field).split())
    if len(text) > MAX_CRON:
        raise InvalidField(field, f"has {len(text)} characters, but at most {MAX_CRON} are allowed")
    if _CRON.fullmatch(text) is None:
        raise InvalidField(
            field,
            f"is {shown(raw)}, expected five fields (minute, hour, day of month, month, day of week) such as"
            ' "30 2 * * MON-FRI"',
        )
    _check(text, field)
    return text


@lru_cache(maxsize=1024)
def _check(cron: str, field: str) -> None:
    try:
        first = next(CronSim(cron, datetime.fromtimestamp(_SOME_TIME, UTC)), None)
    except _ERRORS as error:
        raise InvalidField(field, _why_not(cron, str(error))) from None
    if first is None:
        raise InvalidField(field, f"{cron!r} never comes true within 50 years: no month has such a day")


def _why_not(cron: str, error: str) -> str:
    """Which part of an expression the library refuses with this error, and what it may be."""
    parts = cron.split()
    for place, (word, (name, allowed)) in enumerate(_PARTS.items()):
        if error.endswith(word):
            others = ["*"] * len(parts)
            others[place] = parts[place]
            if _is_valid(" ".join(others)):
                return f"{cron!r} never comes true: no such month has the day {parts[place]}"
            return f"{cron!r} is not a cron expression: {name} is {parts[place]!r}, expected {allowed}"
    return f"{cron!r} is not a cron expression: {error}"


def _is_valid(cron: str) -> bool:
    try:
        CronSim(cron, datetime.fromtimestamp(_SOME_TIME, UTC))
    except _ERRORS:
        return False
    return True


def parse_zone(raw: object, field: str) -> str:
    """The name of a time zone of the IANA database. Raises InvalidField."""
    name = parse_text(raw, field)
    if name not in _zones():
        raise InvalidField(
            field, f"{shown(raw)} is not a time zone; they are named like Europe/Berlin or UTC"
        )
    try:
        zone_of(name)
    except (OSError, ValueError, KeyError) as error:
        raise InvalidField(field, f"the time zone {name!r} cannot be read: {error}") from None
    return name


@lru_cache(maxsize=1)
def _zones() -> frozenset[str]:
    return frozenset(files(tzdata).joinpath("zones").read_text("utf-8").split())


def zone_of(name: str) -> tzinfo:
    """The zone of that name, which `parse_zone` has accepted."""
    # the library has a faster way for UTC
    return UTC if name in ("UTC", "Etc/UTC") else ZoneInfo(name)


def ticks_after(cron: str, zone: str, after: int) -> Iterator[int]:
    """The times after that one at which the expression comes true, ascending. It may end."""
    last = after
    try:
        for when in CronSim(cron, datetime.fromtimestamp(after, zone_of(zone))):
            tick = int(when.timestamp())
            # within an hour that clocks show twice, the library may begin with the first one
            if tick > last:
                last = tick
                yield tick
    except (OverflowError, ValueError):  # beyond the years that can be told
        return


def next_tick(cron: str, zone: str, after: int) -> int | None:
    """The first time after that one; None for never."""
    return next(ticks_after(cron, zone, after), None)


def due_between(cron: str, zone: str, after: int, until: int) -> Due:
    """The ticks after the one time and up to the other."""
    found = list(islice(_until(cron, zone, after, until), LOOKED_AT + 1))
    if len(found) <= LOOKED_AT:
        return Due(tuple(found[-MOST_KEPT:]), max(0, len(found) - MOST_KEPT))
    days, newest = 1, list[int]()
    while len(newest) < MOST_KEPT:  # ends, since there are more than that
        start = max(after, (until // DAY - days) * DAY)
        newest = list(_until(cron, zone, start, until))
        days *= 2
    return Due(tuple(newest[-MOST_KEPT:]), LOOKED_AT + 1 - MOST_KEPT, is_exact=False)


def _until(cron: str, zone: str, after: int, until: int) -> Iterator[int]:
    for tick in ticks_after(cron, zone, after):
        if tick > until:
            return
        yield tick
