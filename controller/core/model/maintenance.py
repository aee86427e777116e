"""Maintenance windows of a pool: times in which nothing may run that was admitted after they were set.

An attempt *reaches* so far after its admission: its start deadline if it has one, its run deadline, and its
stop grace. Without a run deadline it reaches into every window that comes. Before a window, no attempt is
admitted that would reach into it; within a window, none at all. What runs goes on.

Pure: whoever asks gives the time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from msgspec import Struct

from controller.core.model.fields import Parse, mapping, read_fields
from controller.core.model.scalars import is_number, parse_text, shown
from controller.errors import InvalidField

MAX_WINDOWS = 20
MAX_REASON = 200
_YEAR_10000 = 253_402_300_800.0


class MaintenanceWindow(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """From when to when (seconds since the Unix epoch), why, and who has set it. Its end is not in it."""

    starts_at: float
    ends_at: float
    reason: str = ""
    by: str = ""


Windows = tuple[MaintenanceWindow, ...]


def room(windows: Windows, now: float) -> float:
    """For how many seconds an attempt that is admitted now may go on; infinite if no window comes.

    Negative within a window: nothing is admitted.
    """
    if any(window.starts_at <= now < window.ends_at for window in windows):
        return -1.0
    return min((window.starts_at - now for window in windows if window.starts_at > now), default=math.inf)


def keeping_back(windows: Windows, now: float) -> MaintenanceWindow | None:
    """The window on which `room` rests: the one that ends last of those that have begun, or the next one."""
    begun = [window for window in windows if window.starts_at <= now < window.ends_at]
    if begun:
        return max(begun, key=lambda window: window.ends_at)
    coming = (window for window in windows if window.starts_at > now)
    return min(coming, key=lambda window: window.starts_at, default=None)


def not_passed(windows: Windows, now: float) -> Windows:
    """Those that have not ended."""
    return tuple(window for window in windows if window.ends_at > now)


def opens_at(windows: Windows, now: float, reach: float) -> float:
    """From when on an attempt that reaches so far may be admitted, if nothing changes; `now`: at once."""
    ends = sorted(window.ends_at for window in not_passed(windows, now))
    return next((at for at in (now, *ends) if reach <= room(windows, at)), now)


def parse_windows(raw: object, field: str) -> Windows:
    """The windows of a pool, in the order of their times. Raises InvalidField, naming the field."""
    if isinstance(raw, str | bytes) or not isinstance(raw, Sequence):
        raise InvalidField(
            field,
            "expected a list of windows, such as"
            " [{starts_at: 2026-11-27T22:00:00Z, ends_at: 2026-11-28T00:00:00Z}]",
        )
    if len(raw) > MAX_WINDOWS:
        raise InvalidField(field, f"has {len(raw)} windows, but at most {MAX_WINDOWS} are allowed")
    windows = [_window(item, f"{field}[{number}]") for number, item in enumerate(raw)]
    for number, window in enumerate(windows):
        if any(other.starts_at == window.starts_at for other in windows[:number]):
            raise InvalidField(f"{field}[{number}].starts_at", "is that of another window, too: keep one")
    return tuple(sorted(windows, key=lambda window: window.starts_at))


def parse_instant(raw: object, field: str) -> float:
    """Seconds since the Unix epoch, of a number or of an ISO time with its zone. Raises InvalidField."""
    if isinstance(raw, str):
        try:
            raw = datetime.fromisoformat(raw)
        except ValueError:
            raise InvalidField(field, f"is {shown(raw)}, {_EXPECTED}") from None
    if isinstance(raw, datetime):
        if raw.tzinfo is None:
            raise InvalidField(field, f"{raw.isoformat()} has no time zone: add Z for UTC, or such as +02:00")
        raw = raw.timestamp()
    if not is_number(raw) or not 0 <= raw < _YEAR_10000:
        raise InvalidField(field, f"is {shown(raw)}, {_EXPECTED}")
    return float(raw)


_EXPECTED = "expected a time such as 2026-11-27T22:00:00Z, or seconds since the Unix epoch"


def _window(raw: object, field: str) -> MaintenanceWindow:
    if isinstance(raw, MaintenanceWindow):
        given: Mapping[str, Any] = {name: getattr(raw, name) for name in MaintenanceWindow.__struct_fields__}
    else:
        given = mapping(raw, field, "expected a mapping with starts_at and ends_at")
    known = read_fields(given, _WINDOW, f"{field}.")
    for name in ("starts_at", "ends_at"):
        if name not in known:
            raise InvalidField(f"{field}.{name}", "is missing: give a time such as 2026-11-27T22:00:00Z")
    window = MaintenanceWindow(**known)
    if window.ends_at <= window.starts_at:
        raise InvalidField(f"{field}.ends_at", "must be after starts_at")
    return window


def _words(raw: object, field: str) -> str:
    text = parse_text(raw, field)
    if len(text) > MAX_REASON:
        raise InvalidField(field, f"has {len(text)} characters, but at most {MAX_REASON} are allowed")
    return text


_WINDOW: dict[str, Parse] = {
    "starts_at": parse_instant,
    "ends_at": parse_instant,
    "reason": _words,
    "by": _words,
}
