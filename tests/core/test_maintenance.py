"""Maintenance windows: what is read, and what they leave of the time."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.core.model import codec
from controller.core.model.features import needed_by_pool
from controller.core.model.maintenance import (
    MAX_WINDOWS,
    MaintenanceWindow,
    Windows,
    keeping_back,
    not_passed,
    opens_at,
    parse_windows,
    room,
)
from controller.core.model.op import Op
from controller.core.model.validation import parse_pool
from controller.errors import InvalidField

TIMES = st.integers(0, 60)
WINDOWS = st.lists(st.tuples(TIMES, st.integers(1, 20)), max_size=5, unique_by=lambda pair: pair[0]).map(
    lambda pairs: tuple(
        MaintenanceWindow(starts_at=float(begin), ends_at=float(begin + length)) for begin, length in pairs
    )
)


@given(WINDOWS, TIMES, st.sampled_from([1.0, 3.0, 10.0, math.inf]))
def test_room_is_what_no_window_meets(windows: Windows, now: int, reach: float) -> None:
    """Said again second by second; a window is open at its end, and not at its begin."""
    inside = [window for window in windows if window.starts_at <= now < window.ends_at]
    seconds = range(now, now + 200) if math.isinf(reach) else range(now, now + int(reach))
    meets = any(window.starts_at <= second < window.ends_at for window in windows for second in seconds)
    assert (reach <= room(windows, now)) is not (bool(inside) or meets)
    window = keeping_back(windows, now)
    assert (window is None) is (room(windows, now) == math.inf)
    opens = opens_at(windows, now, reach)
    assert reach <= room(windows, opens)
    assert all(reach > room(windows, second) for second in range(now, math.ceil(opens)))
    assert all(window.ends_at > now for window in not_passed(windows, now))


def test_times_are_numbers_or_have_a_zone() -> None:
    """In the order of their times, as they are stored."""
    late = {"starts_at": "2026-11-28T00:00:00+01:00", "ends_at": datetime(2026, 11, 28, 1, tzinfo=UTC)}
    early = {"starts_at": 5, "ends_at": 6.5, "reason": "x", "by": "ops"}
    windows = parse_windows([late, early], "maintenance")
    assert [(one.starts_at, one.ends_at) for one in windows] == [
        (5.0, 6.5),
        (
            datetime(2026, 11, 27, 23, tzinfo=UTC).timestamp(),
            datetime(2026, 11, 28, 1, tzinfo=UTC).timestamp(),
        ),
    ]
    pool = parse_pool({"name": "p", "capacity": {}, "maintenance": windows})
    assert codec.decode_pool("p", codec.encode_pool(pool, Op("x"))) == pool
    assert needed_by_pool(pool) == {"maintenance": "maintenance"}
    assert needed_by_pool(parse_pool({"name": "p", "capacity": {}, "maintenance": []})) == {}


WINDOW: dict[str, Any] = {"starts_at": 5, "ends_at": 6}
NO_TIMES: list[Any] = [
    *(math.inf, math.nan, 1e300, 10**400, -1, True, {}),
    *("22:00", "2026-11-27", "2026-11-27T22:00:00", "0001-01-01T00:00:00+14:00"),
]


@pytest.mark.parametrize(
    ("raw", "field"),
    [
        ("22:00", "maintenance"),
        ({}, "maintenance"),
        ([5], "maintenance[0]"),
        ([{**WINDOW, "starts_at": n, "ends_at": n + 1} for n in range(MAX_WINDOWS + 1)], "maintenance"),
        ([{"starts_at": 5}], "maintenance[0].ends_at"),
        ([{"ends_at": 5}], "maintenance[0].starts_at"),
        ([WINDOW, {**WINDOW, "ends_at": 5}], "maintenance[1].ends_at"),
        ([WINDOW, WINDOW], "maintenance[1].starts_at"),
        *(([{**WINDOW, "ends_at": end}], "maintenance[0].ends_at") for end in NO_TIMES),
        ([{**WINDOW, "reason": "x" * 201}], "maintenance[0].reason"),
        ([{**WINDOW, "by": 7}], "maintenance[0].by"),
        ([{**WINDOW, "until": 7}], "maintenance[0].until"),
    ],
)
def test_each_error_names_its_field(raw: Any, field: str) -> None:
    with pytest.raises(InvalidField) as caught:
        parse_windows(raw, "maintenance")
    assert caught.value.field == field
