"""Ten years of ticks in virtual time, in zones that change their clocks, with leaders that are killed.

The library tells what is due, in one go from the beginning. The leaders compute it anew from each cursor. At
each tick, a leader is killed: before its transaction, after it with nobody knowing, or while another one
already leads.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from cronsim import CronSim

from controller.core.model.schedules import task_id_of
from controller.store.base import Refused
from controller.store.records import to_transaction
from tests.support.bench import HandClock, Stage
from tests.support.schedules import apply, made, state_of

ZONES = (
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",
    "America/Sao_Paulo",
    "Asia/Kolkata",
    "UTC",
)
# clocks change on Sundays, most of them at 1, 2 or 3, in São Paulo at midnight until 2019
WEEKLY = ("30 0 * * SUN", "30 2 * * SUN")
CHANGES = {  # where an hour comes twice, or not at all
    ("Europe/Berlin", "30 2 * * SUN"),
    ("Australia/Lord_Howe", "30 2 * * SUN"),
    ("America/Sao_Paulo", "30 0 * * SUN"),
}
DAILY = ("15,45 1-3 1-7 3,4,10,11 SUN", "30 0 * * *", "30 2 * * *", "*/30 1-3 * * SUN", "0 */12 * * *")
BEGIN, END = datetime(2012, 1, 1, tzinfo=UTC), datetime(2022, 1, 1, tzinfo=UTC)


def oracle(cron: str, zone: str) -> Iterator[int]:
    """What the library says is due in these ten years, in one go; the instants as they come."""
    start = BEGIN.astimezone(UTC if zone == "UTC" else ZoneInfo(zone))
    for when in CronSim(cron, start):
        if when.timestamp() > END.timestamp():
            return
        yield int(when.timestamp())


def play(cron: str, zone: str) -> list[str]:
    """The tasks that were made, in the order in which they were."""
    stage = Stage(clock=HandClock(BEGIN.timestamp()))
    stage.pool()
    apply(stage, "s", cron=cron, timezone=zone, catch_up="all")
    stage.leader().run()
    tasks: list[str] = []
    for turn in range(100_000):
        leader = stage.replica()
        leader.run()
        wake = leader.planner.next_wake()
        if wake is None or wake > END.timestamp():
            return tasks
        stage.clock.seconds = wake - 1
        assert not leader.run(), "no tick comes before its time"
        stage.clock.seconds = wake
        plan = leader.planner.plan(wake)
        assert plan.records, "a tick is due when the planner said so"
        if turn % 3 == 0:  # it is killed with its transaction made and not sent
            stage.elect()
            late = stage.store.commit(
                to_transaction(plan, stage.keys, leader.leadership.revision), deadline=float("inf")
            )
            assert isinstance(late, Refused), "another one leads by now"
            stage.replica().run()
        elif turn % 3 == 1:  # nobody hears of its commit
            leader.commit(plan, answered=False)
            stage.elect()
            stage.replica().run()
        else:
            leader.commit(plan)
        found = made(stage)
        assert len(found) == 1, "each tick makes one task"
        tasks += found
        stage.delete(stage.keys.task(found[0]))
    raise AssertionError("it does not end")


def check(cron: str, zone: str) -> None:
    """Each tick of the library's list was made once, and nothing else."""
    expected = [task_id_of("s", tick) for tick in oracle(cron, zone)]
    found = play(cron, zone)
    assert len(expected) > 50
    assert found == expected


@pytest.mark.parametrize(
    ("zone", "cron"),
    [
        pytest.param(zone, cron, marks=() if (zone, cron) in CHANGES else pytest.mark.slow)
        for zone in ZONES
        for cron in WEEKLY
    ],
)
def test_ten_years_of_sundays(zone: str, cron: str) -> None:
    """The hours at which clocks change."""
    check(cron, zone)


@pytest.mark.slow
@pytest.mark.parametrize("cron", DAILY)
@pytest.mark.parametrize("zone", ZONES)
def test_ten_years_of_days(zone: str, cron: str) -> None:
    """Some eighty thousand ticks, in all zones together."""
    check(cron, zone)


@pytest.mark.parametrize("zone", ZONES)
def test_ten_years_that_nobody_led_end_with_the_latest_tick(zone: str) -> None:
    """The work for it is bounded, whatever was missed."""
    stage = Stage(clock=HandClock(BEGIN.timestamp()))
    stage.pool()
    apply(stage, "s", cron="30 2 * * *", timezone=zone)
    stage.leader().run()
    stage.clock.seconds = END.timestamp()
    stage.elect()
    stage.leader().run()
    assert made(stage) == [task_id_of("s", list(oracle("30 2 * * *", zone))[-1])]
    skipped = state_of(stage, "s").recent[0]
    assert (skipped.result, skipped.count, skipped.more) == ("skipped", 1000, True)
