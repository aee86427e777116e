"""What is claimed of a design can fail: a run that is not so is told, whichever way it differs."""

from __future__ import annotations

from itertools import count

import pytest

from controller.dev.demo.course import TASKS, Course, CoursePoint, Design
from controller.dev.demo.result import Audit, DemoResult
from controller.dev.demo.run import ending
from controller.dev.demo.table import curve_of
from controller.dev.demo.words import CHINESE, ENGLISH, verdict_of


def course(design: Design, each: int, refused: int = 0, last: int | None = None) -> Course:
    """A course in which each of the tasks brings so many units; `last` comes after it."""
    points = [CoursePoint(task, each * task) for task in range(1, TASKS + 1)]
    points += [CoursePoint(TASKS, last)] if last is not None else []
    return Course(design, points, refused)


AS_CLAIMED = [
    course(Design.IN_TURN, 3),
    course(Design.AT_ONCE, 2),
    course(Design.BALANCE, 3, refused=100),
    course(Design.BOTH, 1, refused=120),
    course(Design.LEADER, 1, last=31),
    course(Design.FENCED, 1, refused=1, last=60),
    course(Design.ACQUIRE, 3),
    course(Design.ACQUIRE_BALANCE, 1, refused=120),
    course(Design.TALLY, 1),
    course(Design.TALLY_ACQUIRE, 1),
]
OTHERWISE = [
    course(Design.IN_TURN, 1),
    course(Design.AT_ONCE, 1),
    course(Design.BALANCE, 1),
    course(Design.BOTH, 3, refused=120),
    course(Design.BOTH, 1, refused=0),
    course(Design.LEADER, 1, last=60),
    course(Design.FENCED, 1, refused=0, last=60),
    course(Design.FENCED, 1, refused=1, last=31),
    course(Design.ACQUIRE, 1),
    course(Design.ACQUIRE_BALANCE, 2),
    course(Design.TALLY, 2),
    course(Design.TALLY, 0),
    course(Design.TALLY_ACQUIRE, 2),
]


def test_every_design_is_here() -> None:
    assert {each.design for each in AS_CLAIMED} == {each.design for each in OTHERWISE} == set(Design)


@pytest.mark.parametrize("run", AS_CLAIMED, ids=lambda run: run.design)
def test_a_run_as_claimed_is_accepted_once_it_is_whole(run: Course) -> None:
    assert run.is_as_claimed
    assert not Course(run.design, run.points[:-1], run.refused).is_as_claimed
    assert not Course(run.design).is_as_claimed


@pytest.mark.parametrize("run", OTHERWISE, ids=(f"{n}-{run.design}" for n, run in zip(count(), OTHERWISE)))
def test_a_run_otherwise_is_told(run: Course) -> None:
    assert not run.is_as_claimed
    rest = [each for each in AS_CLAIMED if each.design is not run.design]
    result = DemoResult("etcd", (run, *rest), Audit("Nothing is wrong.", 0), 0.1)
    assert not result.is_as_claimed
    assert (
        ending(ENGLISH, result)[-1] == f"NOT as claimed: {ENGLISH.designs[run.design]}. Please report this."
    )


def test_one_wrong_point_of_tally_is_told() -> None:
    """Although it is right again at the end."""
    run = course(Design.TALLY, 1)
    run.points[29] = CoursePoint(30, 31)
    assert not run.is_as_claimed


def test_one_round_of_too_much_is_told() -> None:
    run = course(Design.TALLY_ACQUIRE, 1)
    run.points = [*run.points[:29], *(CoursePoint(n, n + 1) for n in range(30, TASKS + 1))]
    assert run.rounds_too_much == 1
    assert verdict_of(ENGLISH, run) == "wrong in 1 of 60 rounds"


def test_an_audit_that_finds_something_is_told() -> None:
    result = DemoResult("etcd", tuple(AS_CLAIMED), Audit("The promise is broken: 1 finding.", 1), 0.1)
    assert not result.is_as_claimed
    assert ending(CHINESE, result)[-1] == "与预期不一致：tally audit。请报告这个问题。"


@pytest.mark.parametrize(
    ("each", "bars"), [(0, "▁▁▁▁▁▁▁▁"), (1, "▁▁▁▂▂▂▃▃"), (2, "▁▂▂▃▄▄▅▆"), (3, "▁▂▃▄▅▆▇█")]
)
def test_a_curve_is_drawn_to_scale(each: int, bars: str) -> None:
    assert curve_of(course(Design.AT_ONCE, each).points) == bars


def test_a_curve_ends_with_the_last_point() -> None:
    assert curve_of(course(Design.LEADER, 1, last=31).points)[-1] == "▂"
    assert curve_of([]) == ""
