"""What was used of pools: exact integers, resource units (milli-cpu, bytes, counts) times milliseconds.

By owner and pool they come from the shares: what was used by now, less what had been used by the end of a
closed day. By label they come from the histories of the tasks that are still stored.
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
from controller.core.model.records import Task
from controller.core.model.resources import ZERO, Vector
from controller.core.model.scalars import parse_duration
from controller.core.model.shares import DAY_MS, time_after
from controller.errors import CorruptValue, InvalidField

BY = ("owner", "pool")
_LABEL = "label="
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)


class UsageLine(msgspec.Struct, frozen=True, kw_only=True):
    """What one owner, pool or label value used. Its amounts are integers as text: they exceed 64 bits."""

    name: str
    used: dict[str, str]


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """Who used what, from `since` (None: from the beginning) until `until`, in ms since the Unix epoch.

    If pools are counted from different moments, `since` is the earliest. `notes` say what is not exact.
    """

    by: str
    since: int | None
    until: int
    items: list[UsageLine]
    notes: list[str] = []


class ClosedDay(NamedTuple):
    """What the owners of a pool had used by `at` (ms), the end of a day."""

    at: int
    used: Mapping[str, Vector]


def label_of(by: str) -> str | None:
    """The key of `label=KEY`; None for an owner or a pool. Raises InvalidField."""
    if by in BY:
        return None
    if not by.startswith(_LABEL) or by == _LABEL:
        raise InvalidField("by", f"is {by[:80]!r}, expected owner, pool or label=KEY")
    return by.removeprefix(_LABEL)


def parse_since(text: str, now: int) -> int:
    """The moment (ms) that a duration before `now` or a date in UTC names. Raises InvalidField."""
    if _DATE.fullmatch(text):
        try:
            begin = datetime.combine(date.fromisoformat(text), datetime.min.time(), UTC)
        except ValueError:
            raise InvalidField("since", f"{text!r} is not a day of the calendar") from None
        return round(begin.timestamp() * 1000)
    try:
        return now - round(parse_duration(text, "since") * 1000)
    except InvalidField:
        raise InvalidField(
            "since", f"is {text[:80]!r}, expected a duration such as 7d, or a date such as 2026-11-27"
        ) from None


def day_before(begin: int) -> str:
    """The last day that had ended by then."""
    return datetime.fromtimestamp((begin // DAY_MS - 1) * DAY_MS / 1000, UTC).date().isoformat()


def closed_days(records: Iterable[tuple[str, str, bytes]], last: str) -> dict[str, ClosedDay]:
    """For each pool, its last closed day that is not after `last`, from (day, name, value) records.

    Beyond 500 owners, a day has more records: `<pool>.<n>`. Raises CorruptValue.
    """
    days: dict[str, str] = {}
    found: dict[str, ClosedDay] = {}
    for day, name, value in sorted(record for record in records if record[0] <= last):
        pool = name.partition(".")[0]
        at, used = _decode_day(f"usage/{day}/{name}", value)
        if days.get(pool) == day:
            used = {**found[pool].used, **used}
        days[pool] = day
        found[pool] = ClosedDay(at, used)
    return found


def _decode_day(key: str, value: bytes) -> tuple[int, dict[str, Vector]]:
    try:
        record = codec.decode_mapping(value)
        at, used = record["at"], record["used"]
        if type(at) is not int:
            raise CorruptValue("at: is not an integer")
        return at, {
            owner: Vector({name: int(amount) for name, amount in amounts.items()})
            for owner, amounts in used.items()
        }
    except (CorruptValue, KeyError, AttributeError, TypeError, ValueError) as error:
        raise CorruptValue(f"{key} cannot be read ({error}): choose another day with --since") from error


def by_share(
    model: Model, by: str, pool: str, begin: int | None, closed: Mapping[str, ClosedDay], now: int
) -> Usage:
    """What the owners of pools with `sharing` used since the closed days."""
    now = time_after(model.charged_at, now)
    totals: dict[str, Vector] = {}
    notes = []
    begins: list[int | None] = []
    for name in [pool] if pool else sorted(model.shared):
        if name not in model.shared:
            notes.append(f"pool {name} has no `sharing`: nothing is counted of it")
            continue
        day = closed.get(name)
        begins.append(day.at if day is not None else None)
        if begin is not None and day is None:
            notes.append(f"pool {name}: no day was closed before, so all is since the beginning")
        if model.is_rebuilding(name):
            notes.append(f"pool {name}: its shares are being rebuilt, so this is an estimate")
        for owner, share in model.shares.get(name, {}).items():
            before = day.used.get(owner, ZERO) if day is not None else ZERO
            line = name if by == "pool" else owner
            totals[line] = totals.get(line, ZERO) + share.used_at(now) - before
        for kind, names in model.quarantine:
            if kind == "shares" and names[0] == name:
                notes.append(f"pool {name}: the share of {names[1]} cannot be read, and is left out")
    since = None if None in begins else min((at for at in begins if at is not None), default=None)
    return Usage(by=by, since=since, until=now, items=_lines(totals), notes=notes)


def by_label(model: Model, key: str, pool: str, begin: int | None, now: int) -> Usage:
    """What the stored tasks that have this label held, by its value: their holds, from their histories."""
    now = time_after(model.charged_at, now)
    totals: dict[str, Vector] = {}
    is_cut = False
    notes = [
        "tasks that were removed after their retention are not counted, and an attempt that has ended is"
        " counted with what its task asks for"
    ]
    for task in model.tasks.values():
        if task.spec is None or task.status is None or key not in task.spec.labels:
            continue
        if task.frozen or (pool and task.pool != pool):
            continue
        try:
            spans = list(_held_spans(task, now))
        except CorruptValue:
            notes.append(f"the history of task {task.id} cannot be read, and is left out")
            continue
        is_cut |= task.status.steps > len(task.status.history)
        record = model.pools.get(task.pool)
        asked = demand(task.spec, record.pool if record is not None else None)
        for start, end, is_over in spans:
            elapsed = max(0, end - max(start, begin or 0))
            hold = asked if is_over else task.status.hold
            used = Vector({name: amount * elapsed for name, amount in hold.items()})
            value = task.spec.labels[key]
            totals[value] = totals.get(value, ZERO) + used
    if is_cut:
        notes.append("the oldest steps of some tasks are no longer stored: what they held then is left out")
    return Usage(by=f"{_LABEL}{key}", since=begin, until=now, items=_lines(totals), notes=notes)


def _held_spans(task: Task, now: int) -> Iterator[tuple[int, int, bool]]:
    """From when to when (ms) each attempt held something, and whether that is over."""
    assert task.status is not None
    began: int | None = None
    for step in codec.decode_history(task.status):
        at = round(step.at * 1000)
        if step.event == Event.ADMITTED:
            began = at
        elif began is not None and step.state not in HOLDING:
            yield began, at, True
            began = None
    if began is not None and task.status.is_holding:
        yield began, max(began, now), False


def _lines(totals: Mapping[str, Vector]) -> list[UsageLine]:
    return [
        UsageLine(name=name, used={resource: str(amount) for resource, amount in used.items()})
        for name, used in sorted(totals.items())
        if used
    ]
