"""What is forecast is what then comes, if all runs take as long as was expected."""

from __future__ import annotations

import heapq
import re
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from controller.core.forecast.ahead import NEAR, Ahead, Forecast
from controller.core.forecast.durations import Basis, Durations, Expected
from controller.core.forecast.supposed import Supposed, cancel, change
from controller.core.model.requests import RequestKind
from controller.core.model.task import AttemptId, Phase
from controller.core.model.validation import parse_pool, parse_spec
from controller.core.planning.plan import Effect, Start, Stop
from tests.support.bench import Stage, StagedReplica, observation
from tests.support.examples import examples

NEVER = float("inf")
EXACTLY = (0.0, 0.0)


class Reality:
    """The stage's own leader, and an engine whose attempts take exactly `seconds[task]`."""

    def __init__(self, stage: Stage, seconds: dict[str, float]) -> None:
        self.stage = stage
        self.seconds = seconds
        self.leader: StagedReplica = stage.leader()
        self.ends: list[tuple[float, AttemptId]] = []
        self.began: dict[str, float] = {}
        self.ended: dict[str, float] = {}
        self.windows_end = 0.0
        self.settle()

    def settle(self) -> None:
        """All that is to be done at this time."""
        self.leader.sync()
        while effects := self.leader.run():
            for effect in effects:
                self._carry_out(effect)

    def _carry_out(self, effect: Effect) -> None:
        now = self.stage.clock.now()
        if isinstance(effect, Start):
            self.began.setdefault(effect.attempt.task_id, now)
            name = self.leader.model.tasks[effect.attempt.task_id].spec_id
            heapq.heappush(self.ends, (now + self.seconds[name], effect.attempt))
            self.leader.acknowledge([effect])
            self.leader.see(observation(effect.attempt, Phase.RUNNING, started_at=now))
        elif isinstance(effect, Stop):
            self.leader.acknowledge([effect])

    def go_on(self, seconds: float = NEVER) -> None:
        """Until so much later, or until all has ended."""
        until = self.stage.clock.now() + seconds
        while (at := min(self.ends[0][0] if self.ends else NEVER, self._wake())) <= until and at < NEVER:
            self.stage.clock.seconds = max(at, self.stage.clock.seconds)
            if not self.ends or self.ends[0][0] > at:
                self.settle()
                continue
            at, attempt = heapq.heappop(self.ends)
            self.ended[attempt.task_id] = at
            self.leader.see(observation(attempt, Phase.SUCCEEDED, finished_at=at, exit_code=0))
            if not self.ends or self.ends[0][0] > at:
                self.settle()
        if until < NEVER:
            self.stage.clock.seconds = until
            self.settle()

    def _wake(self) -> float:
        """When the leader is to look again, because of a maintenance window."""
        wake = self.leader.planner.next_wake()
        return wake if wake is not None and wake <= self.windows_end else NEVER

    def of(self, name: str) -> tuple[float, float]:
        """When it has begun and ended; of an array, its first member and its last one."""
        of_it = [each for each in self.began if each == name or re.fullmatch(f"{name}-i[0-9]+", each)]
        return min(self.began[each] for each in of_it), max(self.ended[each] for each in of_it)

    def forecast(self, **options: Any) -> Forecast:
        """From what is stored now, and what is known of all durations."""
        model = self.stage.model()
        model.advance(self.stage.clock.now())
        ahead = Ahead(model, Known(self.seconds), self.stage.clock.now(), self.stage.epoch, EXACTLY)
        return ahead.run(**options)


class Known(Durations):
    """Knows each task's duration."""

    def __init__(self, seconds: dict[str, float]) -> None:
        super().__init__()
        self._seconds = seconds

    def expected(self, task: Any, elapsed: float = 0.0) -> Any:
        known = self._seconds.get(task.spec_id)
        return None if known is None else Expected(max(known, elapsed), Basis.COMMAND, 1)


TASKS = st.fixed_dictionaries(
    {"cpu": st.integers(1, 4), "priority": st.integers(0, 2), "seconds": st.integers(5, 200)},
    optional={
        "owner": st.sampled_from(["a", "b", "c"]),
        "size": st.integers(1, 6),
        "gang": st.booleans(),
        "after": st.booleans(),
    },
)
POOLS = st.sampled_from(
    [
        {},
        {"policy": "backfill", "backfill_seconds": 60},
        {"policy": "backfill", "backfill_seconds": 0, "reserve": "lacking"},
        {"sharing": {}, "policy": "backfill"},
    ]
)


@settings(max_examples=examples(100), deadline=None)
@given(
    tasks=st.lists(TASKS, min_size=1, max_size=12),
    pool=POOLS,
    later=st.integers(0, 150),
    window=st.none() | st.tuples(st.integers(0, 300), st.integers(1, 300)),
)
def test_what_is_forecast_comes(
    tasks: list[dict[str, Any]], pool: dict[str, Any], later: int, window: tuple[int, int] | None
) -> None:
    """To the second, at whatever moment it is asked for: by priority, backfill, shares, parents, arrays.

    Also with a maintenance window, which begins so many seconds from the beginning, and lasts so many.
    """
    stage = Stage()
    if window is not None:
        begins_at = stage.clock.now() + window[0]
        pool = pool | {"maintenance": [{"starts_at": begins_at, "ends_at": begins_at + window[1]}]}
    stage.pool(capacity={"cpu": 8}, **pool)
    seconds: dict[str, float] = {}
    for number, task in enumerate(tasks):
        name, fields = f"t{number}", {"priority": task["priority"], "owner": task.get("owner", "default")}
        if "size" in task:
            gang = task.get("gang", False)
            fields["array"] = {"size": min(task["size"], 8 // task["cpu"]) if gang else task["size"]}
            fields["array"] |= {"gang": True} if gang else {}
        if task.get("after") and number:
            fields["after"] = (f"t{number - 1}",)
        limits = {"deadlines": {"run_seconds": task["seconds"] + 1}, "grace_seconds": 0}
        stage.submit(name, resources={"cpu": task["cpu"]}, **limits, **fields)
        seconds[name] = float(task["seconds"])
    reality = Reality(stage, seconds)
    reality.windows_end = begins_at + window[1] if window is not None else 0.0
    reality.go_on(later)
    unfinished = {name for name in seconds if stage.state(name) not in ("Succeeded", "Failed")}
    told = reality.forecast()
    had = {re.sub("-i[0-9]+$", "", name) for name in reality.began} | reality.began.keys()
    reality.go_on()
    stage.check()
    assert unfinished <= told.tasks.keys()
    assert told.endless == {}
    wrong = [
        f"{name}: {coming.begins_at} to {coming.ends_at} was told, and it was {began} to {ended}"
        for name, coming in told.tasks.items()
        for began, ended in [reality.of(name)]
        if coming.ends_at != ended
        or coming.has_begun is not (name in had)
        or (coming.begins_at != began and not coming.has_begun)
    ]
    assert wrong == [], (told.now, wrong)


def test_what_no_one_can_know_is_not_said() -> None:
    """A task of which nothing tells how long it runs: what waits for it has no beginning, and it is named."""
    stage = Stage()
    stage.pool(capacity={"cpu": 4})
    stage.submit("endless", resources={"cpu": 4}, priority=2)
    stage.submit("behind", resources={"cpu": 1})
    reality = Reality(stage, {"behind": 5.0, "endless": 9.0})
    told = reality.forecast()
    assert told.tasks["behind"].begins_at == stage.clock.now() + 9
    del reality.seconds["endless"]
    told = reality.forecast(horizon_seconds=100.0)
    assert told.tasks["behind"][:4] == ("default", False, None, None)
    assert told.tasks["endless"].ends_at is None
    assert (told.endless, told.until) == ({"endless": "default"}, stage.clock.now() + 100.0)


def test_a_look_ends_when_it_has_what_was_asked_for() -> None:
    """Or when whoever asks has no more time."""
    stage = Stage()
    stage.pool(capacity={"cpu": 1})
    for number in range(5):
        stage.submit(f"t{number}")
    reality = Reality(stage, {f"t{number}": 10.0 for number in range(5)})
    told = reality.forecast(wanted=frozenset({"t1"}))
    begins = [told.tasks[f"t{number}"].begins_at for number in range(5)]
    assert begins[1] == stage.clock.now() + 10
    assert begins[3:] == [None, None]
    looks = iter([True, True, False])
    told = reality.forecast(goes_on=lambda: next(looks))
    assert told.until < stage.clock.now() + 50
    assert told.tasks["t4"].begins_at is None


def test_a_forecast_is_coarse_without_being_late() -> None:
    """Ends near to each other are taken together; each of 3,000 begins when it does, to three hundredths."""
    stage = Stage()
    stage.pool(capacity={"cpu": 20})
    seconds = {f"t{number}": 60.0 + number * 7 % 600 for number in range(3000)}
    for name in seconds:
        stage.submit(name)
    model, now = stage.model(), stage.clock.now()
    exact = Ahead(stage.model(), Known(seconds), now, 1, EXACTLY).run()
    coarse = Ahead(model, Known(seconds), now, 1).run()
    for name, coming in exact.tasks.items():
        begins_at = coarse.tasks[name].begins_at
        assert begins_at is not None
        assert coming.begins_at is not None
        assert abs(begins_at - coming.begins_at) <= 10 + (coming.begins_at - now) * 0.03


def test_what_is_supposed_is_as_if_somebody_had_done_it() -> None:
    """Another pool, a submission, a cancel, another priority: then the same forecast as after the deed."""
    stage = Stage()
    stage.pool(capacity={"cpu": 2})
    for number in range(4):
        stage.submit(f"t{number}", resources={"cpu": 2})
    seconds = dict.fromkeys(("t0", "t1", "t2", "t3", "new"), 10.0)
    reality = Reality(stage, seconds)
    now = stage.clock.now()
    wider = parse_pool({"name": "default", "capacity": {"cpu": 4}})
    new = parse_spec({"id": "new", "command": ["true"], "resources": {"cpu": 1}, "priority": 9})
    requests = cancel("t2", now), change("t3", now, priority=5)

    def begins(supposed: Supposed) -> dict[str, float | None]:
        model = stage.model()
        supposed.apply(model, now)
        told = Ahead(model, Known(seconds), now, stage.epoch, EXACTLY).run().tasks
        return {name: None if each.begins_at is None else each.begins_at - now for name, each in told.items()}

    assert begins(Supposed()) == {"t0": 0, "t1": 10, "t2": 20, "t3": 30}
    assert begins(Supposed(pools=(wider,))) == {"t0": 0, "t1": 0, "t2": 10, "t3": 10}
    assert begins(Supposed(tasks=(new,))) == {"t0": 0, "new": 10, "t1": 20, "t2": 30, "t3": 40}
    assert begins(Supposed(requests=requests)) == {"t0": 0, "t3": 10, "t1": 20, "t2": None}
    stage.pool(capacity={"cpu": 4})
    stage.request("t2", RequestKind.CANCEL)
    reality.settle()
    done = {name: each.begins_at for name, each in reality.forecast().tasks.items()}
    both = begins(Supposed(pools=(wider,), requests=requests[:1]))
    assert {name: now + at for name, at in both.items() if at is not None} == done


@pytest.mark.parametrize("near", [EXACTLY, NEAR], ids=["exactly", "coarse"])
def test_a_gang_of_which_only_its_run_deadline_tells_ends_well(near: tuple[float, float]) -> None:
    """Its deadline has not passed once all members have ended; and what waits for it begins."""
    stage = Stage()
    stage.pool(capacity={"cpu": 4})
    limits = {"deadlines": {"run_seconds": 60}}
    stage.submit("gang", array={"gang": True, "size": 3}, resources={"cpu": 1}, **limits)
    stage.submit("then", after=("gang",), resources={"cpu": 1}, **limits)
    stage.submit("near", resources={"cpu": 1}, deadlines={"run_seconds": 60.9})  # heard together with it
    now = stage.clock.now()
    told = Ahead(stage.model(), Durations(), now, 1, near).run().tasks
    assert told["gang"].ends_as == "Succeeded"
    assert told["gang"].ends_at == pytest.approx(now + 60, abs=2)
    assert told["then"].begins_at == told["gang"].ends_at
    reality = Reality(stage, {"gang": 50.0, "then": 1.0, "near": 50.0})
    assert reality.began.keys() >= {"gang-i0", "gang-i2"}
    told = Ahead(stage.model(), Durations(), stage.clock.now() + 20, 2, near).run().tasks
    assert told["gang"].ends_as == "Succeeded"


def test_only_attempts_of_its_own_pool_end_before_a_task() -> None:
    stage = Stage()
    stage.pool(capacity={"cpu": 1})
    stage.pool("other", capacity={"cpu": 1})
    for name, pool in (("a", "default"), ("b", "default"), ("c", "other"), ("d", "other")):
        stage.submit(name, pool=pool, deadlines={"run_seconds": 10 if pool == "default" else 9})
    told = Ahead(stage.model(), Durations(), stage.clock.now(), 1, EXACTLY).run().tasks
    assert {name: sum(coming.rests_on.values()) for name, coming in told.items()} == {
        "a": 0,
        "b": 1,
        "c": 0,
        "d": 1,
    }
