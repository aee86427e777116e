"""What was used of pools: exact integers, resource units (milli-cpu, bytes, counts) times milliseconds.

By owner and pool they come from the shares: what was used by now, less what had been used by the end of a
closed day. By label they come from the histories of the tasks that are still stored.

Two parts of what was used are told: what was held while the attempt was lost, and while it was being stopped.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, date, datetime
from typing import NamedTuple

import msgspec

from controller.core.model import codec
from controller.core.model.demand import demand
from controller.core.model.lifecycle import HOLDING, Event
from controller.core.model.model import Model
from controller.core.model.parts import NO_PARTS, counted, times
from controller.core.model.quarantine import unreadable_shares
from controller.core.model.records import Task
from controller.core.model.resources import ZERO, Vector
from controller.core.model.scalars import parse_duration
from controller.core.model.shares import DAY_MS, decode_amounts, digits, time_after
from controller.errors import CorruptValue, InvalidField
from controller.views.gangs import is_gang

BY = ("owner", "pool")
_LABEL = "label="
NO_LABEL = "(no label)"
"""In place of a label's value, of the tasks that lack the label: no value of a label has such characters."""

_DATE = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)


class UsageLine(msgspec.Struct, frozen=True, kw_only=True):
    """What one owner, pool or label value used. Its amounts are integers as text: they exceed 64 bits.

    `lost` and `stopping` are parts of `used`: held while the attempt was lost, or was being stopped.
    """

    name: str
    used: dict[str, str]
    lost: dict[str, str]
    stopping: dict[str, str]


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """Who used what, from `since` (None: from the beginning) until `until`, in ms since the Unix epoch.

    If pools are counted from different moments, `since` is the earliest. `notes` say what is not exact.
    """

    by: str
    since: int | None
    until: int
    items: list[UsageLine]
    notes: list[str] = []


class Used(NamedTuple):
    """What was used, and of it what was lost or stopping."""

    used: Vector = ZERO
    lost: Vector = ZERO
    stopping: Vector = ZERO

    def plus(self, more: Used) -> Used:
        """Both together."""
        return Used(*(one + other for one, other in zip(self, more, strict=True)))

    def minus(self, less: Used) -> Used:
        """What is left of it without the other."""
        return Used(*(one - other for one, other in zip(self, less, strict=True)))


NOTHING = Used()


class ClosedDay(NamedTuple):
    """What the owners of a pool had used by `at` (ms), the end of a day."""

    at: int
    owners: Mapping[str, Used]


def label_of(by: str) -> str | None:
    """The key of `label=KEY`; None for an owner or a pool. Raises InvalidField."""
    if by in BY:
        return None
    if not by.startswith(_LABEL) or by == _LABEL:
        raise InvalidField("by", f"is {by[:80]!r}, expected owner, pool or label=KEY")
    return by.removeprefix(_LABEL)


def parse_moment(text: str, now: int, field: str) -> int:
    """The moment (ms) that a duration before `now` or a date in UTC names. Raises InvalidField."""
    if _DATE.fullmatch(text):
        try:
            begin = datetime.combine(date.fromisoformat(text), datetime.min.time(), UTC)
        except ValueError:
            raise InvalidField(field, f"{text!r} is not a day of the calendar") from None
        return round(begin.timestamp() * 1000)
    try:
        return now - round(parse_duration(text, field) * 1000)
    except InvalidField:
        raise InvalidField(
            field, f"is {text[:80]!r}, expected a duration such as 7d, or a date such as 2026-11-27"
        ) from None


def parse_span(since: str, until: str, now: int) -> tuple[int | None, int | None]:
    """From when to when (ms) is counted; None: from the beginning, until now. Raises InvalidField."""
    begin = parse_moment(since, now, "since") if since else None
    end = min(now, parse_moment(until, now, "until")) if until else None
    if begin is not None and begin > now:
        raise InvalidField("since", f"{since!r} has not come yet")
    if begin is not None and end is not None and end <= begin:
        raise InvalidField("until", f"{until!r} is not after since, {since!r}")
    return begin, end


def day_before(begin: int) -> str:
    """The last day that had ended by then."""
    day = date(1970, 1, 1).toordinal() + begin // DAY_MS - 1
    return date.fromordinal(max(1, day)).isoformat()


def closed_days(records: Iterable[tuple[str, str, bytes]], last: str) -> dict[str, ClosedDay]:
    """For each pool, its last closed day that is not after `last`, from (day, name, value) records.

    A day of many owners has more records: `<pool>.<n>`. It is closed once it has the first one. Raises
    CorruptValue.
    """
    days: dict[str, str] = {}
    found: dict[str, ClosedDay] = {}
    for day, name, value in sorted(record for record in records if record[0] <= last):
        pool, _, number = name.partition(".")
        if number and days.get(pool) != day:
            continue
        at, used = _decode_day(f"usage/{day}/{name}", value)
        if days.get(pool) == day:
            used = {**found[pool].owners, **used}
        days[pool] = day
        found[pool] = ClosedDay(at, used)
    return found


def _decode_day(key: str, value: bytes) -> tuple[int, dict[str, Used]]:
    try:
        record = codec.decode_mapping(value)
        at = record.get("at")
        if type(at) is not int:
            raise CorruptValue("at: is not an integer")
        told = [record.get(name, {}) for name in ("used", "lost", "stopping")]
        if "used" not in record or not all(isinstance(part, dict) for part in told):
            raise CorruptValue("used, lost, stopping: are not mappings of owners to amounts")
        parts = [{owner: decode_amounts(part, owner) for owner in part} for part in told]
        if below := [owner for owner, used in parts[0].items() if min(used.values(), default=0) < 0]:
            raise CorruptValue(f"{below[0]}: has used less than nothing")
        return at, {owner: Used(*(part.get(owner, ZERO) for part in parts)) for owner in parts[0]}
    except CorruptValue as error:
        raise CorruptValue(f"{key} cannot be read ({error}): choose another day") from error


def by_share(
    model: Model,
    by: str,
    pool: str,
    span: tuple[int | None, int | None],
    closed: Mapping[str, ClosedDay],
    ended: Mapping[str, ClosedDay],
    now: int,
) -> Usage:
    """What the owners of pools with `sharing` used from the days `closed` to the days `ended`, or to now."""
    now = time_after(model.charged_at, now)
    totals: dict[str, Used] = {}
    notes = []
    begins: list[int | None] = []
    (begin, until), end = span, now if span[1] is None else 0
    for name in [pool] if pool else sorted(model.shared):
        if name not in model.shared:
            notes.append(f"pool {name} has no `sharing`: nothing is counted of it")
            continue
        if until is None:
            last = ClosedDay(now, _by_now(model, name, now, notes))
        elif name in ended:
            last = ended[name]
        else:
            notes.append(f"pool {name}: no day was closed before the end, so nothing is counted of it")
            continue
        day = closed.get(name)
        begins.append(day.at if day is not None else None)
        if begin is not None and day is None:
            notes.append(f"pool {name}: no day was closed before, so all is since the beginning")
        for owner, used in last.owners.items():
            line = name if by == "pool" else owner
            before = day.owners.get(owner, NOTHING) if day is not None else NOTHING
            totals[line] = totals.get(line, NOTHING).plus(used).minus(before)
        end = max(end, last.at)
    since = None if None in begins else min((at for at in begins if at is not None), default=None)
    return Usage(by=by, since=since, until=end or until or now, items=_lines(totals), notes=notes)


def _by_now(model: Model, pool: str, now: int, notes: list[str]) -> dict[str, Used]:
    """What each owner of a pool has used so far."""
    if model.is_rebuilding(pool):
        notes.append(f"pool {pool}: its shares are being rebuilt, so this is an estimate")
    unread = unreadable_shares(model.quarantine, pool)
    notes += [f"pool {pool}: the share of {owner} cannot be read, and is left out" for owner in unread]
    running = model.indexes.open_parts(pool, now)
    return {
        owner: Used(share.used_at(now), *share.parts_at(running.get(owner, NO_PARTS), now))
        for owner, share in model.shares.get(pool, {}).items()
    }


def by_label(model: Model, key: str, pool: str, span: tuple[int | None, int | None], now: int) -> Usage:
    """What the stored tasks held, by the value of this label: their holds, from their histories.

    Those that lack the label have a line of their own, so that the lines add up to what all of them held.
    """
    now = time_after(model.charged_at, now)
    totals: dict[str, Used] = {}
    is_cut = is_gone = has_gangs = has_folded = False
    notes = [
        "tasks that were removed after their retention are not counted, and an attempt that has ended is"
        " counted with what its task asks for"
    ]
    if span != (None, None):
        notes.append("what an attempt was lost or being stopped is counted as if it had been at its end")
    begin, until = span[0] or 0, now if span[1] is None else span[1]
    for task in model.tasks.values():
        has_folded |= (
            task.array is not None
            and not task.array.is_gang
            and task.array.ended > 0
            and pool in ("", task.pool)
        )
        if task.status is None or task.frozen or (pool and task.pool != pool) or _is_of_gang(task):
            continue
        if task.spec is None:
            is_gone = True
            continue
        try:
            holds = list(_holds(task, now))
        except CorruptValue:
            notes.append(f"the history of task {task.id} cannot be read, and is left out")
            continue
        is_cut |= task.status.steps > len(task.status.history)
        has_gangs |= bool(holds) and is_gang(task.spec)
        record = model.pools.get(task.pool)
        asked = demand(task.spec, record.pool if record is not None else None)
        for held in holds:
            value = task.spec.labels.get(key, NO_LABEL)
            hold = asked if held.is_over or task.status.reserved else task.status.hold
            used = Used(*(times(hold, elapsed) for elapsed in held.within(begin, until)))
            totals[value] = totals.get(value, NOTHING).plus(used)
    if is_gone:
        notes.append("tasks whose spec was deleted are left out: what their labels were is not known")
    if has_gangs:
        notes.append(
            "a gang is counted whole until all of its members have ended, as if none had ended before"
        )
    if has_folded:
        notes.append(
            "members of arrays that have ended are left out, since their times are not stored: of a pool with"
            " `sharing`, the usage by owner has them"
        )
    if is_cut:
        notes.append("the oldest steps of some tasks are no longer stored: what they held then is left out")
    return Usage(by=f"{_LABEL}{key}", since=span[0], until=until, items=_lines(totals), notes=notes)


def _is_of_gang(task: Task) -> bool:
    """Whether what it holds is counted with its gang."""
    gang = task.source.status if task.source is not None else None
    return task.status is not None and task.status.of_gang and gang is not None


class _Hold(NamedTuple):
    """From when to when an attempt held something, and how long it was lost and being stopped (ms)."""

    start: int
    end: int
    lost: int
    stopping: int
    is_over: bool

    def within(self, begin: int, until: int) -> tuple[int, int, int]:
        """How long it held something, was lost, and was being stopped between these moments."""
        stops = max(self.start, self.end - max(0, self.stopping))
        loses = max(self.start, stops - max(0, self.lost))
        spans = (self.start, self.end), (loses, stops), (stops, self.end)
        held, lost, stopping = (max(0, min(end, until) - max(start, begin)) for start, end in spans)
        return held, lost, stopping


def _holds(task: Task, now: int) -> Iterator[_Hold]:
    """The holds of a task, from its history."""
    assert task.status is not None
    began: int | None = None
    for step in codec.decode_history(task.status):
        at = round(step.at * 1000)
        if step.event == Event.ADMITTED:
            began = at
        elif began is not None and step.state not in HOLDING:
            yield _Hold(began, at, step.lost_ms, step.stopping_ms, True)
            began = None
    if began is not None and task.status.is_holding:
        yield _Hold(began, max(began, now), *counted(task.status, now), False)


def _lines(totals: Mapping[str, Used]) -> list[UsageLine]:
    return [
        UsageLine(name=name, used=digits(used.used), lost=digits(used.lost), stopping=digits(used.stopping))
        for name, used in sorted(totals.items())
        if used.used
    ]
