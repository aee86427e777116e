"""Cron expressions, zones and schedules as users write them; what is due; and what the audit says (I14)."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from cronsim import CronSim
from hypothesis import given
from hypothesis import strategies as st

from controller.core.model import codec
from controller.core.model.arrays import MAX_ARRAY_ID
from controller.core.model.cron import (
    MOST_KEPT,
    due_between,
    next_tick,
    parse_cron,
    parse_zone,
    ticks_after,
)
from controller.core.model.model import Model
from controller.core.model.op import Op
from controller.core.model.records import Change
from controller.core.model.schedules import (
    KIND,
    RECENT,
    STATES,
    Concurrency,
    ScheduleState,
    TickOutcome,
    TickResult,
    decode_schedule,
    encode_schedule,
    encode_state,
    parse_schedule,
    spec_of,
    task_id_of,
)
from controller.core.model.validation import parse_spec
from controller.core.promise.schedule_invariants import check_schedules
from controller.errors import CorruptValue, InvalidField

TASK = {"command": ["true"]}


@pytest.mark.parametrize(
    "text", ["* * * * *", "0 0 * * 5L", "0 0 L 2 *", "*/5 1-3,7 1 JAN MON", "0 0 1 1 1#2", " 1  2 3 4 5 "]
)
def test_an_expression_of_five_fields_is_taken(text: str) -> None:
    assert parse_cron(text, "cron") == " ".join(text.split())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "* * * *",
        "0 * * * * *",  # seconds: two ticks of one minute would have one name
        "60 * * * *",
        "0 0 30 2 *",
        "0 0 */31 2 1#5",
        "0 0 */40 * MON#5",
        "@daily",
        "* * * * MON#6",
        "5-1 * * * *",
        "*/0 * * * *",
        "1" * 5000,
        "* * * * ²L",
        "* * * * \0",
        7,
        None,
    ],
)
def test_what_is_none_is_refused_at_once(text: object) -> None:
    """Also one that never comes true."""
    began = time.process_time()
    with pytest.raises(InvalidField, match=r"^cron: "):
        parse_cron(text, "cron")
    assert time.process_time() - began < 2


@pytest.mark.parametrize("name", ["", "Mars", "europe/berlin", "../etc/passwd", "Europe", "localtime", 5])
def test_a_zone_is_one_of_the_database(name: object) -> None:
    with pytest.raises(InvalidField, match=r"^timezone: "):
        parse_zone(name, "timezone")


@given(text=st.text("0123456789*/,-#LW MONJAN", max_size=40))
def test_any_text_is_an_expression_or_refused(text: str) -> None:
    try:
        cron = parse_cron(text, "cron")
    except InvalidField:
        return
    tick = next_tick(cron, "Europe/Berlin", 1_700_000_000)
    assert tick is not None
    assert tick > 1_700_000_000


def at(text: str, zone: str = "Europe/Berlin") -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp())


def test_what_the_page_says_of_the_hours_at_which_clocks_change() -> None:
    """A fixed time once; each quarter of an hour as it passes."""
    assert next_tick("30 2 * * *", "Europe/Berlin", at("2026-03-29T00:00")) == at("2026-03-29T03:00")
    night = at("2026-10-25T00:00"), at("2026-10-25T06:00")
    assert due_between("30 2 * * *", "Europe/Berlin", *night).ticks == (at("2026-10-25T02:30"),)
    assert len(due_between("*/15 2 * * *", "Europe/Berlin", *night).ticks) == 8
    spring = at("2026-03-29T00:00"), at("2026-03-29T06:00")
    assert due_between("*/15 2 * * *", "Europe/Berlin", *spring).ticks == ()


@pytest.mark.parametrize("zone", ["Europe/Berlin", "Australia/Lord_Howe", "America/New_York"])
@pytest.mark.parametrize("cron", ["30 2 * * *", "15 1,2 * * *", "0 0 * * *"])
def test_a_moment_within_the_hour_that_comes_twice_yields_nothing_that_is_past(zone: str, cron: str) -> None:
    """From any minute of a year's days on which clocks change, ticks only come after it."""
    start = datetime(2026, 1, 1, tzinfo=UTC)
    moment, before = start, timedelta()
    while moment < start + timedelta(days=365):
        offset = moment.astimezone(ZoneInfo(zone)).utcoffset()
        assert offset is not None
        if offset != before:
            for minute in range(-180, 180):
                after = int(moment.timestamp()) + minute * 60
                assert all(
                    tick > after for _, tick in zip(range(3), ticks_after(cron, zone, after), strict=False)
                )
        before = offset
        moment += timedelta(hours=1)


@given(
    cron=st.sampled_from(["* * * * *", "*/7 * * * *", "30 2 * * *", "0 0 1 * *", "0 12 * * MON"]),
    zone=st.sampled_from(["UTC", "Asia/Kolkata", "Europe/Berlin"]),
    start=st.integers(1_500_000_000, 1_800_000_000),
    seconds=st.integers(0, 400 * 86400),
)
def test_what_is_due_is_what_the_library_lists(cron: str, zone: str, start: int, seconds: int) -> None:
    """The newest ones, and how many there are before them, or at least."""
    due = due_between(cron, zone, start, start + seconds)
    listed: list[int] = []
    for when in CronSim(cron, datetime.fromtimestamp(start, UTC if zone == "UTC" else ZoneInfo(zone))):
        if when.timestamp() > start + seconds or len(listed) > 3000:
            break
        if when.timestamp() > start:
            listed.append(int(when.timestamp()))
    if len(listed) > 3000:
        assert not due.is_exact
        assert len(due.ticks) == MOST_KEPT
        assert next_tick(cron, zone, due.ticks[-1]) > start + seconds  # type: ignore[operator]
        return
    assert list(due.ticks) == listed[-MOST_KEPT:]
    assert due.earlier <= len(listed) - len(due.ticks)
    assert not due.is_exact or due.earlier == len(listed) - len(due.ticks)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"name": "A"}, "name"),
        ({"name": "x" * 40}, "name"),
        ({"cron": None}, "cron"),
        ({"task": None}, "task"),
        ({"task": []}, "task"),
        ({"task": {"command": ["x"], "id": "x"}}, "task.id"),
        ({"task": {"command": "x"}}, "task.command"),
        ({"task": {**TASK, "colour": 1}}, "task.colour"),
        ({"task": {**TASK, "env": {"A": "x" * (255 * 1024)}}}, "task"),
        ({"catch_up": "some"}, "catch_up"),
        ({"suspended": "yes"}, "suspended"),
        ({"tz": "UTC"}, "tz"),
    ],
)
def test_a_field_that_is_wrong_is_named(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidField) as caught:
        parse_schedule({"name": "nightly", "cron": "* * * * *", "task": TASK, **fields})
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("cron", "said"),
    [
        ("61 2 * * *", "the minute is '61', expected 0 to 59, or a list"),
        ("0 24 * * *", "the hour is '24', expected 0 to 23, or a list"),
        ("0 0 0 * *", "the day of the month is '0', expected 1 to 31, L, LW, or"),
        ("0 0 * 13 *", "the month is '13', expected 1 to 12, JAN to DEC, or"),
        ("0 0 * * 8", "the day of the week is '8', expected 0 to 7, SUN to SAT, 5L, 1#2, or"),
        ("0 0 30 2 *", "never comes true: no such month has the day 30"),
    ],
)
def test_what_is_wrong_of_an_expression_names_its_part_and_what_may_be(cron: str, said: str) -> None:
    with pytest.raises(InvalidField) as caught:
        parse_cron(cron, "cron")
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"schedule": "0 0 * * *"}, "schedule: is not a field; the times are given by `cron`"),
        ({"concurrencyPolicy": "Forbid"}, "concurrencyPolicy: is not a field; it is `concurrency` here"),
        ({"command": ["true"]}, "command: is a field of the task: put it under `task`"),
        ({"timeZone": "UTC"}, "timeZone: is not a field; did you mean timezone?"),
        ({"cron": "* * * * *"}, "task: is missing"),
    ],
)
def test_a_name_that_is_no_field_is_told_before_what_is_missing(given: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidField) as caught:
        parse_schedule({"name": "x", **given})
    assert str(caught.value).startswith(said)


def test_what_is_made_is_what_a_user_could_have_written() -> None:
    """The longest name is an id, and the spec is read as it was made."""
    schedule = parse_schedule({"name": "n" * 39, "cron": "* * * * *", "task": {**TASK, "labels": {"a": "b"}}})
    spec = spec_of(schedule, 1_700_000_000)
    assert spec.id == "n" * 39 + "-202311142213"
    assert parse_spec({"id": spec.id, "command": ["true"], "labels": spec.labels, "env": spec.env}) == spec


def test_a_schedule_is_read_as_it_was_written_under_its_own_name() -> None:
    """Fields of a newer release are ignored; at our own version, they are a mistake, as in a task."""
    schedule = parse_schedule(
        {"name": "nightly", "cron": "* * * * *", "task": TASK, "concurrency": "replace"}
    )
    value = encode_schedule(schedule, Op("x"))
    assert decode_schedule("nightly", value) == schedule
    raw = codec.decode_mapping(value)
    assert decode_schedule("nightly", codec.encode({**raw, "version": 2, "newer": 1})) == schedule
    for wrong, why in (
        ({"newer": 1}, "newer: is not a field"),
        ({"version": 1e99}, "version: is"),
        ({"version": True}, "version: is"),
        ({"version": "2", "newer": 1}, "version: is"),
        ({"version": 0}, "version: is"),
    ):
        with pytest.raises(CorruptValue, match=why):
            decode_schedule("nightly", codec.encode({**raw, **wrong}))
    with pytest.raises(CorruptValue, match="but the key says 'other'"):
        decode_schedule("other", value)


def test_a_state_keeps_the_last_outcomes_and_counts_all() -> None:
    state = ScheduleState(cursor=0, create=1)
    for tick in range(100):
        state = state.told(TickOutcome(tick=tick, result=TickResult.SKIPPED, count=2))
    assert len(state.recent) == RECENT
    assert state.counts == {TickResult.SKIPPED: 200}


def made(tick: int) -> TickOutcome:
    return TickOutcome(tick=tick, result=TickResult.MADE, task=task_id_of("s", tick))


def model(state: ScheduleState, concurrency: Concurrency = Concurrency.ALLOW) -> Model:
    fields = {"name": "s", "cron": "* * * * *", "task": TASK, "concurrency": concurrency.value}
    found = Model()
    found.load(
        [
            Change(KIND, ("s",), encode_schedule(parse_schedule(fields), Op("x")), 5, 5),
            Change(STATES, ("s",), encode_state(state, Op("x")), 9, 6),
        ],
        9,
    )
    assert not found.quarantine
    return found


GOOD = ScheduleState(cursor=180, create=5, recent=(made(60), made(120)), counts={TickResult.MADE: 2})


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({}, ""),
        ({"cursor": 100}, "after its cursor"),
        ({"recent": (made(60), made(60))}, "two outcomes for one tick"),
        ({"recent": (made(120), made(60))}, "not in their order"),
        (
            {"recent": (TickOutcome(tick=60, result=TickResult.MADE, task="s-1"),)},
            "made s-1 for the tick of s-",
        ),
        ({"waiting": 240}, "after its cursor"),
        ({"waiting": 120}, "which is decided"),
        ({"waiting": 180}, ""),
        ({"counts": {TickResult.MADE: 1}}, "counts 1 ticks as made, and tells of 2"),
    ],
)
def test_the_audit_sees_what_no_leader_can_have_written(change: dict[str, Any], what: str) -> None:
    from msgspec.structs import replace

    found = [finding.what for finding in check_schedules(model(replace(GOOD, **change)))]
    assert bool(found) is bool(what)
    assert all(what in each for each in found[:1])


def test_a_schedule_that_comes_in_pages_or_twice_is_known_once() -> None:
    """An older change comes late, and a deletion leaves nothing."""
    found = model(GOOD)
    assert found.apply(Change(KIND, ("s",), b"{", 4, 4)) is None
    assert found.schedules.defined["s"].mod == 5
    found.apply(Change(KIND, ("s",), None, 12))
    found.apply(Change(STATES, ("s",), b"{", 13, 13))
    assert not found.schedules.names
    assert (STATES, ("s",)) in found.quarantine


def test_a_schedule_of_arrays_has_a_shorter_name() -> None:
    """The error names the field that the user wrote, and how long it may be."""
    fields = {"cron": "* * * * *", "task": {**TASK, "array": {"size": 2}}}
    for length in range(30, 40):
        if length <= 31:
            schedule = parse_schedule({"name": "n" * length, **fields})
            assert len(spec_of(schedule, 60).id) <= MAX_ARRAY_ID
            continue
        with pytest.raises(InvalidField, match=f"has {length} characters, but at most 31") as refused:
            parse_schedule({"name": "n" * length, **fields})
        assert refused.value.field == "name"
