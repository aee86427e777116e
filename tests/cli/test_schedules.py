"""Schedules on the command line: what is printed, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from controller.core.model.op import Op
from controller.core.model.schedules import STATES, ScheduleState, TickOutcome, TickResult, encode_state
from tests.cli.conftest import Tally
from tests.client.conftest import PutRaw
from tests.client.test_features import release

SCHEDULE = """
kind: Schedule
name: nightly
cron: 30 2 * * *
timezone: Europe/Berlin
concurrency: replace
task:
  command: ['true']
---
name: small
capacity: {cpu: 1}
"""


@pytest.fixture(autouse=True)
def _led(tally: Tally, put_raw: PutRaw) -> None:
    """A replica leads that knows schedules."""
    put_raw("engine", b'{"engine":{"name":"null","id":"e"},"installation":"abc"}')
    put_raw("leader", release("r1", knows=["schedules"]))


def test_schedules_and_pools_are_applied_from_one_file(tally: Tally, tmp_path: Path) -> None:
    """The feature is turned on; again, they are unchanged, also as `get` prints them."""
    (tmp_path / "s.yaml").write_text(SCHEDULE)
    answer = tally("apply", "-f", str(tmp_path / "s.yaml"))
    assert answer.out.splitlines() == [
        "schedule/nightly created",
        "feature/schedules turned on: replicas of a release without it no longer lead",
        "pool/small created",
    ]
    again = tally("apply", "-f", str(tmp_path / "s.yaml"))
    assert again.out == "schedule/nightly unchanged\npool/small unchanged\n"
    for form in ("json", "yaml"):
        printed = tally("get", "schedules", "-o", form).out
        assert tally("apply", "-f", "-", stdin=printed).out == "schedule/nightly unchanged\n"
    assert tally("get", "schedule", "-o", "name").out == "schedule/nightly\n"


def test_a_dry_run_prints_the_next_ticks_and_stores_nothing(tally: Tally) -> None:
    """Of a pool, it is refused."""
    answer = tally("apply", "--dry-run", "-f", "-", stdin=SCHEDULE)
    assert answer.exit_code == 1
    head, *ticks = answer.out.splitlines()
    assert head == "schedule/nightly is valid (dry run); its next ticks:"
    assert len(ticks) == 5
    assert all(tick.endswith(":30 UTC") for tick in ticks)
    assert "--dry-run is for schedules" in answer.err
    lost = tally("apply", "--dry-run", "-f", "-", stdin=SCHEDULE.split("---")[0] + "  pool: nope\n")
    assert "task.pool: there is no pool 'nope'" in lost.err
    assert (lost.out, lost.exit_code) == ("", 1)
    assert tally("get", "schedules").err == "No schedules found. Create one: tally apply -f schedule.yaml\n"


def test_what_is_wrong_names_its_line(tally: Tally, tmp_path: Path) -> None:
    """As it does of a pool."""
    (tmp_path / "s.yaml").write_text(SCHEDULE.replace("30 2", "61 2"))
    answer = tally("apply", "-f", str(tmp_path / "s.yaml"))
    assert answer.exit_code == 1
    assert f"{tmp_path / 's.yaml'}:4: cron: '61 2 * * *' is not a cron expression" in answer.err


def test_a_schedule_is_shown_with_its_ticks(tally: Tally, put_raw: PutRaw) -> None:
    """In a list, and with all details."""
    tally("apply", "-f", "-", stdin=SCHEDULE)
    made = TickOutcome(tick=60, result=TickResult.MADE, task="nightly-197001010001")
    missed = TickOutcome(tick=120, result=TickResult.SKIPPED, why="missed", count=7, more=True)
    state = ScheduleState(
        cursor=180,
        create=1,
        waiting=180,
        live=("nightly-197001010001",),
        recent=(made, missed),
        counts={TickResult.MADE: 1, TickResult.SKIPPED: 7},
        since=1.0,
    )
    put_raw("tasks/nightly-197001010001", b'{"command":["x"],"pool":"default"}')
    put_raw(f"{STATES}/nightly", encode_state(state, Op("x")))
    (row,) = tally("get", "schedules", "-o", "wide").out.splitlines()[1:]
    assert row.split()[:8] == ["nightly", "30", "2", "*", "*", "*", "Europe/Berlin", "no"]
    assert "skipped ×7 or more: missed" in row
    shown = tally("describe", "schedule", "nightly").out
    assert "the tick of 1970-01-01 00:03 UTC waits until nightly-197001010001 has stopped" in shown
    assert "Ticks:       1 made, 7 skipped" in shown
    *_, skipped, first = shown.splitlines()
    assert skipped.split() == ["1970-01-01", "00:02", "UTC", "skipped", "7+", "-", "missed"]
    assert first.split()[3:] == ["made", "1", "nightly-197001010001", "-"]


def test_a_schedule_that_cannot_be_read_is_shown(tally: Tally, put_raw: PutRaw) -> None:
    """And can be deleted."""
    put_raw("schedules/odd", b"{")
    assert "cannot be read" in tally("get", "schedules").out
    assert "makes nothing: it cannot be read" in tally("describe", "schedule", "odd").out
    assert tally("delete", "schedule/odd").out == "schedule/odd deleted\n"


def test_a_schedule_whose_state_cannot_be_read_says_so_in_the_list(tally: Tally, put_raw: PutRaw) -> None:
    """It makes nothing, so it has no next tick."""
    tally("apply", "-f", "-", stdin=SCHEDULE)
    put_raw(f"{STATES}/nightly", b"{")
    listed = tally("get", "schedules")
    (row,) = listed.out.splitlines()[1:]
    assert " ".join(row.split()).startswith("nightly 30 2 * * * Europe/Berlin no cannot be read ")
    assert listed.err.startswith("nightly makes nothing: it cannot be read (schedule-states: ")
    assert "Next ticks" not in tally("describe", "schedule", "nightly").out


def test_several_are_deleted_at_once(tally: Tally) -> None:
    """Up to one that is not there."""
    both = SCHEDULE + "---\n" + SCHEDULE.replace("nightly", "daily").replace("small", "large")
    tally("apply", "-f", "-", stdin=both)
    answer = tally("delete", "schedule", "nightly", "schedule/daily")
    assert answer.out == "schedule/nightly deleted\nschedule/daily deleted\n"
    assert tally("delete", "pool/small", "nope", "large").out == "pool/small deleted\n"
    assert tally("delete", "schedule").exit_code == 2


def test_schedules_are_suspended_and_resumed(tally: Tally) -> None:
    """By the words for pools."""
    tally("apply", "-f", "-", stdin=SCHEDULE)
    assert (
        tally("pause", "schedule/nightly", "pool/small").out
        == "schedule/nightly suspended\npool/small paused\n"
    )
    assert tally("pause", "schedule/nightly").out == "schedule/nightly unchanged\n"
    assert "it is suspended, until" in tally("describe", "schedule", "nightly").out
    assert (
        tally("resume", "schedule/nightly", "small").out == "schedule/nightly resumed\npool/small resumed\n"
    )
    assert tally("resume", "schedule/nope").exit_code == 5  # not found
    assert tally("pause", "task/x").exit_code == 2


def test_a_schedule_is_found_where_a_pool_or_a_task_is_looked_for(tally: Tally) -> None:
    """By its kind, as other commands take it; or with a hint."""
    tally("apply", "-f", "-", stdin=SCHEDULE)
    assert tally("pause", "schedule", "nightly").out == "schedule/nightly suspended\n"
    assert tally("resume", "schedules", "schedule/nightly").out == "schedule/nightly resumed\n"
    missed = tally("pause", "nightly")
    assert missed.exit_code == 5
    assert "there is no pool 'nightly'" in missed.err
    assert "There is schedule/nightly" in missed.err
    assert "There is schedule" not in tally("pause", "nope").err
    hint = "`tally get tasks -l tally.dev/schedule=nightly` lists them"
    for command in ("explain", "history", "logs"):
        answer = tally(command, "nightly")
        assert answer.exit_code == 5
        assert hint in " ".join(answer.err.split())
        assert "tally.dev/schedule" not in tally(command, "nope").err
        assert tally(command, "schedule/nightly").exit_code == 2


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("", "kind: is missing: a document with `cron` needs `kind: Schedule`"),
        ("kind: CronJob\n", "kind: is 'CronJob', expected Schedule; a pool has no kind"),
    ],
)
def test_a_document_must_say_that_it_is_a_schedule(tally: Tally, kind: str, said: str) -> None:
    """Else it would be taken for a pool."""
    answer = tally("apply", "-f", "-", stdin=SCHEDULE.replace("kind: Schedule\n", kind))
    assert said in answer.err
    assert answer.out == "pool/small created\n"
