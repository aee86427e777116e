"""How long a task is expected to run, from those of its kind."""

from __future__ import annotations

from typing import Any

import pytest

from controller.core.forecast.durations import KINDS, NAME_LABEL, RUNS, Basis, Durations, Error, Expected
from controller.core.model.lifecycle import State
from controller.core.model.records import Task
from controller.core.model.task import Status
from controller.core.model.validation import parse_spec


def task(
    name: str = "a", seconds: float | None = None, state: State = State.SUCCEEDED, **fields: Any
) -> Task:
    found = Task(name)
    found.spec = parse_spec({"id": name, "command": ["true"], "resources": {"cpu": 1}, **fields})
    if seconds is not None:
        found.status = Status(
            state=state,
            pool=found.spec.pool,
            owner=found.spec.owner,
            started_at=100.0,
            finished_at=100.0 + seconds,
        )
    return found


def heard(*tasks: Task) -> Durations:
    durations = Durations()
    for each in tasks:
        durations.hear(each)
    return durations


def named(name: str) -> dict[str, Any]:
    return {"labels": {NAME_LABEL: name}}


def test_the_median_of_its_kind_is_expected() -> None:
    """The best kind that has enough runs tells: name before command before pool."""
    known = heard(
        *(task(seconds=each, **named("train")) for each in (10, 20, 90)),
        *(task(seconds=each, command=["other"]) for each in (1, 3)),
    )
    assert known.expected(task(**named("train"))) == Expected(20, Basis.NAME, 3)
    assert known.expected(task(command=["other"])) == Expected(2, Basis.COMMAND, 2)
    assert known.expected(task(**named("new"))) == Expected(20, Basis.COMMAND, 3), "the same command"
    assert known.expected(task(command=["new"])) is None, "5 runs of a pool tell nothing"
    for _ in range(5):
        known.hear(task(seconds=1000, command=["more"]))
    assert known.expected(task(command=["new"])) == Expected(545, Basis.POOL, 10)


@pytest.mark.parametrize("state", [State.FAILED, State.CANCELLED, State.RUNNING])
def test_runs_that_did_not_end_well_tell_nothing(state: State) -> None:
    assert heard(task(seconds=10, state=state)).expected(task()) is None


def test_what_runs_already_is_expected_to_run_as_the_longer_ones_did() -> None:
    known = heard(*(task(seconds=each) for each in (10, 20, 30, 40)))
    assert known.expected(task(), 25.0) == Expected(35, Basis.COMMAND, 4)
    told = known.expected(task(), 44.0)
    assert told == Expected(45, Basis.COMMAND, 4), "a little longer than all before: it may end soon"
    assert known.expected(task(), 45.0) is None, "it has outlived all: nothing tells when it ends"
    assert known.expected(task(deadlines={"run_seconds": 90}), 45.0) == Expected(90, Basis.DEADLINE, 0)
    for number in range(10):
        known.hear(task(seconds=100 + number, command=[str(number)]))
    assert known.expected(task(), 45.0) == Expected(104.5, Basis.POOL, 14), "others of its pool took longer"


def test_the_run_deadline_is_a_bound() -> None:
    limited: dict[str, Any] = {"deadlines": {"run_seconds": 15}}
    assert heard().expected(task(**limited)) == Expected(15, Basis.DEADLINE, 0)
    assert heard(task(seconds=100)).expected(task(**limited)) == Expected(15, Basis.COMMAND, 1)
    assert heard(task(seconds=10)).expected(task(**limited)) == Expected(10, Basis.COMMAND, 1)


def test_what_others_run_tells_nothing() -> None:
    """Whoever may ask could try what they run, and learn for how long."""
    known = heard(*(task(seconds=7, owner="them", **named("x")) for _ in range(20)))
    assert known.expected(task(owner="them")) == Expected(7, Basis.COMMAND, 20)
    for other in (task(owner="us"), task(owner="us", **named("x")), task(owner="us", command=["y"])):
        assert known.expected(other) is None


def test_errors_are_told_by_what_was_expected_rested_on() -> None:
    known = heard(
        *(task(seconds=10) for _ in range(12)), *(task(seconds=40, command=[str(n)]) for n in range(6))
    )
    assert known.errors() == {Basis.COMMAND: Error(0, 0, 11), Basis.POOL: Error(0.75, 0.75, 6)}


def test_memory_is_bounded() -> None:
    """The newest runs of the kinds that were heard of last are kept."""
    known = heard(*(task(seconds=each) for each in range(1000)))
    assert known.expected(task()) == Expected(1000 - RUNS / 2 - 0.5, Basis.COMMAND, RUNS)
    for number in range(KINDS + 10):
        known.hear(task(seconds=1, command=[str(number)]))
    assert known.expected(task(command=["5"])) == Expected(1, Basis.POOL, RUNS), "its kind gave way"
    assert known.expected(task(command=[str(KINDS)])) == Expected(1, Basis.COMMAND, 1)


def test_past_expectations_are_judged_by_what_came() -> None:
    """Each by the runs before it alone; with few, nothing is said."""
    known = heard(*(task(seconds=each) for each in (10, 10, 10, 20, 5)))
    assert known.error is None, "four runs were expected"
    known.hear(task(seconds=10))
    assert known.error == Error(0, 1, 5), "10, 10, 20 (half of it), 5 (twice as long), 10"
