"""A replica whose clock is ahead of the others' does not lead."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.client import Client
from controller.clock import SystemClock
from controller.core.model import codec
from controller.core.model.model import Model
from controller.core.model.records import Change
from controller.runtime.registrations import AHEAD_SECONDS, NEVER_SET, Registrations
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


def problem(mine: float, *others: Any, leads: bool = False) -> str:
    """What a replica with this clock hears of its clock; `others` are the times that the others register."""
    clock, model = HandClock(mine), Model()
    registrations = Registrations(clock)
    changes = [
        Change("replicas", (f"r{number}",), codec.encode({"instance": f"i{number}", "at": at}), number + 1)
        for number, at in enumerate(others, 1)
    ]
    changes.append(Change("replicas", ("own",), codec.encode({"instance": "own", "at": mine - 9 * HOUR}), 1))
    model.load(changes, 10)
    return registrations.clock_problem(model, "own", leads=leads)


@pytest.mark.parametrize(
    ("others", "candidate", "leader"),
    [
        ((), False, False),
        ((0,), False, False),
        ((-2,), True, False),  # of two, nobody knows which is right: who leads goes on
        ((-2, 0), False, False),
        ((-2, -2), True, True),
        ((-2, -2, 0), True, False),
        ((-2, 0, 0), False, False),
        ((2, 2), False, False),
    ],
)
def test_most_must_be_behind(others: tuple[int, ...], candidate: bool, leader: bool) -> None:
    told = [NOW + hours * HOUR for hours in others]
    assert (bool(problem(NOW, *told)), bool(problem(NOW, *told, leads=True))) == (candidate, leader)


def test_it_says_how_far_and_of_how_many() -> None:
    assert (
        problem(NOW, NOW - 3 * HOUR, NOW - 2 * HOUR, NOW)
        == "its clock is 2h ahead of 2 of 3 other replicas: set it right"
    )


def test_a_clock_that_was_never_set_is_not_asked() -> None:
    assert problem(NOW, 0.0, NEVER_SET - 1) == ""


@given(
    mine=st.floats(NEVER_SET + AHEAD_SECONDS, 4e9),
    others=st.lists(st.floats() | st.integers() | st.text() | st.none() | st.booleans() | st.floats(0, 4e9)),
    leads=st.booleans(),
)
def test_whatever_is_registered_somebody_may_lead(mine: float, others: list[Any], leads: bool) -> None:
    """Who is furthest behind, of those whose clocks are set, is never kept from leading."""
    others = [at for at in others if not (isinstance(at, float) and not math.isfinite(at))]
    if not problem(mine, *others, leads=leads):
        return
    times = [float(at) for at in others if isinstance(at, int | float) and not isinstance(at, bool)]
    last = min(at for at in times if at > NEVER_SET)
    assert last < mine
    assert problem(last, *others, mine, leads=leads) == ""


def test_who_is_ahead_does_not_campaign_and_says_why(start: Start, client: Client) -> None:
    right = [start(name=name) for name in ("r1", "r2")]
    wait_until(lambda: any(each.leads for each in right), "a leader")
    clock = SetClock()
    clock.ahead = 2 * HOUR
    ahead = start(name="r3", clock=clock)
    wait_until(lambda: len(client.replicas.all()) == 3, "its registration")
    for _ in range(3):
        epoch = max(each.epoch for each in right)
        client.replicas.step_down()
        wait_until(lambda: max(each.epoch for each in right) > epoch, "the next term")  # noqa: B023
    assert ahead.epoch == 0
    (told,) = (each for each in client.replicas.all() if each.id == "r3")
    assert "ahead of 2 of 2 other replicas" in told.engine_problem
    clock.ahead = 0.0
    wait_until(lambda: not any(each.engine_problem for each in client.replicas.all()), "its clock is right")


def test_a_leader_that_is_ahead_leaves_as_soon_as_two_others_tell(start: Start, client: Client) -> None:
    clock = SetClock()
    clock.ahead = 2 * HOUR
    ahead = start(name="r3", clock=clock)
    first = ahead.until_leading()
    (task,) = submit(client, "a", env={"TALLY_NULL_SECONDS": "600"})
    right = [start(name=name, engine=ahead.engine) for name in ("r1", "r2")]
    wait_until(lambda: max(each.epoch for each in right) > first, "the term of a replica with a right clock")
    assert client.get(task).attempt <= 1
    assert not ahead.fatal
