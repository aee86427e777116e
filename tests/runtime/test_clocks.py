"""A replica whose clock differs from most others' does not lead."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.client import Client
from controller.clock import SystemClock, WallClock
from controller.core.model import codec
from controller.core.model.model import Model
from controller.core.model.records import Change
from controller.runtime.registrations import NEVER_SET, SILENT_SECONDS, Registrations
from tests.runtime.conftest import Start
from tests.support.bench import HandClock
from tests.support.running import submit
from tests.support.waiting import wait_until

NOW = 1_800_000_000.0
HOUR = 3600.0


class SetClock(SystemClock):
    """A machine's clock that somebody sets."""

    ahead = 0.0

    def wall(self) -> float:
        return super().wall() + self.ahead


def problem(mine: float, *others: Any, leads: bool = False, recorded: float = 0.0) -> str:
    """What a replica with this clock hears of its clock; `others` are the times that the others register."""
    clock, model = HandClock(mine), Model()
    registrations = Registrations(clock)
    changes = [
        Change("replicas", (f"r{number}",), codec.encode({"instance": f"i{number}", "at": at}), number + 1)
        for number, at in enumerate(others, 1)
    ]
    changes.append(Change("replicas", ("own",), codec.encode({"instance": "own", "at": mine - 9 * HOUR}), 1))
    changes.append(Change("terms", ("000000000001",), codec.encode({"from": recorded}), 100))
    model.load(changes, 100)
    return registrations.clock_problem(model, "own", leads=leads)


@pytest.mark.parametrize(
    ("others", "recorded", "candidate", "leader"),
    [
        ((), 0, False, False),
        ((), 3, False, False),
        ((0,), 0, False, False),
        ((-2,), -2, True, False),  # of two, the last recorded time tells; and who leads goes on
        ((-2,), 0, False, False),
        ((2,), 2, True, False),
        ((2,), 0, False, False),
        ((-2, 0), 0, False, False),
        ((-2, -2), 0, True, True),  # of more, most tell
        ((2, 2), 0, True, True),
        ((-2, -2, 0), 0, True, False),
        ((2, 2, 0), 0, False, False),  # two by two: those that are behind may lead
        ((-2, 0, 0), 0, False, False),
        ((2, 0, 0), 0, False, False),
    ],
)
def test_most_must_differ(others: tuple[int, ...], recorded: int, candidate: bool, leader: bool) -> None:
    told, at = [NOW + hours * HOUR for hours in others], NOW + recorded * HOUR
    found = [bool(problem(NOW, *told, recorded=at, leads=leads)) for leads in (False, True)]
    assert found == [candidate, leader]


def test_it_says_how_far_and_of_how_many() -> None:
    assert (
        problem(NOW, NOW - 3 * HOUR, NOW - 2 * HOUR, NOW)
        == "its clock is 2h ahead of 2 of 3 other replicas: set it right"
    )
    assert (
        problem(NOW, NOW + 3 * HOUR, recorded=NOW + 2 * HOUR)
        == "its clock is 3h behind 1 of 1 other replica: set right which of the two is wrong"
    )


def test_a_clock_that_was_never_set_neither_leads_nor_tells() -> None:
    assert problem(NOW, 0.0, NEVER_SET - 1) == ""
    assert problem(60.0) == "its clock was never set: it says 1970-01-01T00:01:00Z"


def test_who_is_silent_tells_no_time() -> None:
    """A registration that nobody renews, and that no lease removes."""
    clock, model = HandClock(NOW), Model()
    registrations = Registrations(clock)
    model.load([Change("replicas", ("old",), codec.encode({"instance": "x", "at": NOW - 2 * HOUR}), 1)], 1)
    assert registrations.clock_problem(model, "own", leads=False)
    clock.move(SILENT_SECONDS)
    assert registrations.clock_problem(model, "own", leads=False) == ""


def test_a_leader_whose_wall_clock_was_set_is_apart_though_its_term_goes_on_evenly() -> None:
    """Ticks are at times of the wall clock."""

    clock = HandClock(NOW)
    clock.ahead = 2 * HOUR
    model, registrations = Model(), Registrations(clock)
    told = codec.encode({"instance": "x", "at": NOW})
    model.load([Change("replicas", (name,), told, 1) for name in ("a", "b")], 1)
    why = registrations.clock_problem(model, "own", leads=True)
    assert why == "its clock is 2h ahead of 2 of 2 other replicas: set it right"


@given(
    clocks=st.lists(st.integers(0, 6), min_size=1, max_size=6),
    recorded=st.integers(-2, 8),
    noise=st.lists(st.sampled_from([None, "soon", True, 0.0, -1e300, 1e9, float(NEVER_SET)]), max_size=3),
)
def test_whatever_the_clocks_say_somebody_may_lead(
    clocks: list[int], recorded: int, noise: list[Any]
) -> None:
    """Of those that run and whose clocks are set."""
    times = [NOW + hours * HOUR * 0.7 for hours in clocks]
    may = [
        not problem(mine, *noise, *times[:n], *times[n + 1 :], recorded=NOW + recorded * HOUR * 0.7)
        for n, mine in enumerate(times)
    ]
    assert any(may)


@pytest.mark.parametrize(("hours", "word"), [(2, "ahead of"), (-200, "behind")])
def test_who_is_ahead_or_behind_does_not_campaign_and_says_why(
    start: Start, client: Client, hours: int, word: str
) -> None:
    right = [start(name=name) for name in ("r1", "r2")]
    wait_until(lambda: any(each.leads for each in right), "a leader")
    clock = SetClock()
    clock.ahead = hours * HOUR
    ahead = start(name="r3", clock=clock)
    wait_until(lambda: len(client.replicas.all()) == 3, "its registration")
    for _ in range(3):
        epoch = max(each.epoch for each in right)
        client.replicas.step_down()
        wait_until(lambda: max(each.epoch for each in right) > epoch, "the next term")  # noqa: B023
    assert ahead.epoch == 0
    (told,) = (each for each in client.replicas.all() if each.id == "r3")
    assert f"{word} 2 of 2 other replicas" in told.engine_problem
    clock.ahead = 0.0
    wait_until(lambda: not any(each.engine_problem for each in client.replicas.all()), "its clock is right")


def test_who_follows_tells_the_time_of_the_wall_clock(start: Start, client: Client) -> None:
    """Only a term anchors a clock: one that was wrong at the start would be wrong in all that is shown."""
    start().until_leading()
    clock = SetClock()
    follower = start(name="r2", clock=clock).replica
    clock.ahead = -2 * HOUR
    assert abs(follower.now() - clock.wall()) < 600


def test_who_never_leads_goes_by_the_wall_clock(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = WallClock()
    monkeypatch.setattr("time.time", lambda: NOW)
    assert client.clock.now() == clock.now() == NOW


def half_past(client: Client, clock: SetClock) -> int:
    """A schedule whose next tick is in half an hour, by the clock; returns its time."""
    tick = (int(clock.wall()) // 60 + 30) * 60
    client.schedules.apply({"name": "s", "cron": f"{tick // 60 % 60} * * * *", "task": {"command": ["true"]}})
    wait_until(lambda: client.schedules.get("s").since is not None, "the schedule's state")
    return tick


def test_a_tick_is_made_when_the_wall_clock_is_set_past_its_time(start: Start, client: Client) -> None:
    """Forward by less than an hour, in the term of a leader that is idle. A deadline does not change."""
    clock = SetClock()
    leader = start(clock=clock)
    leader.until_leading()
    (task,) = submit(client, "a", env={"TALLY_NULL_SECONDS": "600"}, deadlines={"run_seconds": 1200})
    wait_until(lambda: client.get(task).state == "Running", "its start")
    tick = half_past(client, clock)
    epoch = leader.epoch  # a feature that is turned on begins another term
    clock.ahead = 40 * 60.0
    wait_until(lambda: client.schedules.get("s").last is not None, "the tick")
    last = client.schedules.get("s").last
    assert last is not None
    assert (last.tick, last.result) == (tick, "made")
    assert (leader.epoch, client.get(task).state) == (epoch, "Running")


def test_a_leader_whose_wall_clock_is_set_apart_from_the_others_decides_no_tick(
    start: Start, client: Client
) -> None:
    """It leaves before it looks at schedules, without waiting to hear from them again."""
    clock, seldom = SetClock(), {"heartbeat_seconds": 50.0}
    wrong = start(name="r3", clock=clock, **seldom)
    wrong.until_leading()
    half_past(client, clock)
    right = [start(name=name, engine=wrong.engine, **seldom) for name in ("r1", "r2")]
    wait_until(lambda: len(client.replicas.all()) == 3, "their registrations")
    first = wrong.epoch
    clock.ahead = 2 * HOUR
    wait_until(lambda: max(each.epoch for each in right) > first, "the term of a replica with a right clock")
    assert client.schedules.get("s").last is None


@pytest.mark.parametrize("hours", [2, -200])
def test_a_leader_that_is_ahead_or_behind_leaves_as_soon_as_two_others_tell(
    start: Start, client: Client, hours: int
) -> None:
    clock = SetClock()
    clock.ahead = hours * HOUR
    ahead = start(name="r3", clock=clock)
    first = ahead.until_leading()
    (task,) = submit(client, "a", env={"TALLY_NULL_SECONDS": "600"})
    right = [start(name=name, engine=ahead.engine) for name in ("r1", "r2")]
    wait_until(lambda: max(each.epoch for each in right) > first, "the term of a replica with a right clock")
    assert client.get(task).attempt <= 1
    assert not ahead.fatal
