"""What pools are expected to hold over time: nothing that is short is lost, and nothing lasts too long."""

from __future__ import annotations

from itertools import pairwise

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from controller.core.forecast.ahead import RUNS, Ahead, Forecast
from tests.forecast.test_ahead import EXACTLY, Known
from tests.support import schedules
from tests.support.bench import Stage
from tests.support.examples import examples


def looked(stage: Stage, seconds: dict[str, float], horizon: float = 7 * 86400.0) -> Forecast:
    ahead = Ahead(stage.model(), Known(seconds), stage.clock.now(), stage.epoch, EXACTLY)
    return ahead.run(horizon_seconds=horizon)


def area(told: Forecast, until: float) -> float:
    """What is held in milli-cpu times seconds, by the points."""
    points = [point for point in told.pools["default"] if point.at < until]
    ends = [*(point.at for point in points[1:]), until]
    return sum(
        (point.running.get("cpu") + point.planned.get("cpu")) * (end - point.at)
        for point, end in zip(points, ends, strict=True)
    )


@settings(max_examples=examples(60), deadline=None)
@given(
    runs=st.lists(st.tuples(st.integers(1, 4), st.floats(0.05, 400)), min_size=1, max_size=25),
    begun=st.integers(0, 4),
)
def test_all_that_is_held_is_in_it(runs: list[tuple[int, float]], begun: int) -> None:
    """In sum as much as by the beginnings and the ends; what ran before is told apart; the distance grows."""
    stage, seconds = Stage(), dict[str, float]()
    stage.pool(capacity={"cpu": 4})
    for number, (cpu, length) in enumerate(runs[:begun]):
        stage.submit(f"t{number}", resources={"cpu": cpu})
        seconds[f"t{number}"] = length
    if runs[:begun]:
        leader = stage.leader()
        leader.acknowledge(leader.run())
    old = {name: task.status.hold.get("cpu") for name, task in stage.model().holding.items() if task.status}
    for number, (cpu, length) in enumerate(runs[begun:], start=begun):
        stage.submit(f"t{number}", resources={"cpu": cpu})
        seconds[f"t{number}"] = length
    told, now = looked(stage, seconds), stage.clock.now()
    held, last = 0.0, now
    for number, (cpu, length) in enumerate(runs):
        coming = told.tasks[f"t{number}"]
        assert coming.ends_at is not None
        begins_at = now if coming.has_begun or coming.begins_at is None else coming.begins_at
        held, last = held + 1000 * cpu * (coming.ends_at - begins_at), max(last, coming.ends_at)
        assert coming.ends_at - begins_at == pytest.approx(length, abs=0.01)
    points = told.pools["default"]
    assert points[0].running.get("cpu") == sum(old.values())
    assert not points[-1].running
    assert not points[-1].planned
    end = max(points[-1].at, last) + 1
    assert held - 1 <= area(told, end) <= held + (end - now) * 1.01 + 1  # amounts are rounded up
    for one, other in pairwise(points):
        assert other.at > one.at
        assert one[1:] != other[1:]


def test_runs_that_are_short_and_far_apart_are_there_for_ever() -> None:
    """A second each hour, for a week: in each part of the chart there is a mean of it."""
    stage = Stage()
    stage.turn_on_all()
    stage.pool(capacity={"cpu": 2})
    stage.leader()
    schedules.apply(stage, cron="7 * * * *")
    days, now = 7, stage.clock.now()
    told, held = looked(stage, Each(), days * 86400.0), 1000.0 * 24 * days
    assert held - 2000 <= area(told, now + 86400.0 * days) <= held + 86400.0 * days  # amounts are rounded up
    last = told.pools["default"][-1]
    assert (last.planned.get("cpu"), last.at < now + 86400.0) == (1, True), (
        "a milli-cpu: the mean, rounded up"
    )
    assert len(told.pools["default"]) < 600


@pytest.mark.parametrize("waits", [False, True])
def test_a_look_does_not_go_on_for_runs_of_schedules_alone(waits: bool) -> None:
    """Of one that is due each minute there are ten thousand in a week. A task that may still begin is looked
    for to the end, and one that nothing lets begin is not.
    """
    stage = Stage()
    stage.turn_on_all()
    stage.pool(capacity={"cpu": 2})
    stage.pool("paused", capacity={"cpu": 1}, paused=True)
    stage.leader()
    schedules.apply(stage)
    stage.submit("short", resources={"cpu": 1})
    stage.submit("never", pool="paused", resources={"cpu": 1})
    later = stage.clock.now() + 2 * 86400.0
    if waits:  # for the end of a window
        window = {"starts_at": stage.clock.now() - 1, "ends_at": later}
        stage.pool("closed", capacity={"cpu": 1}, maintenance=[window])
        stage.submit("long", pool="closed", resources={"cpu": 1})
    told = Ahead(stage.model(), Known(Each()), stage.clock.now(), stage.epoch).run()
    assert told.tasks["short"].ends_at is not None
    assert not told.is_whole
    if waits:
        assert told.tasks["long"].begins_at == pytest.approx(later, abs=120)
    else:
        runs = [name for name, coming in told.tasks.items() if coming.is_new and coming.begins_at]
        assert RUNS <= len(runs) <= RUNS + 200


class Each(dict[str, float]):
    """Each run takes a second."""

    def get(self, _: str, default: float | None = None) -> float:  # type: ignore[override]
        return 1.0
