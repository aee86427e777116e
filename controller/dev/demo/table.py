"""The demo in a terminal: one row for each design, its numbers and its curve as its course goes on."""

from __future__ import annotations

from collections.abc import Sequence

from rich.cells import cell_len

from controller.dev.demo.course import RELEASE, REPLICAS, TASKS, Course, CoursePoint, Design
from controller.dev.demo.words import Words, verdict_of

MARKS = (TASKS // 3, 2 * TASKS // 3, TASKS)
"""The truths at which the numbers are shown."""
_BARS = "▁▂▃▄▅▆▇█"


def lines_of(words: Words, designs: Sequence[Design], courses: Sequence[Course]) -> list[str]:
    """The table of these designs, as far as their courses have come."""
    head = words.release if designs[0] in RELEASE else words.acquisition
    columns = (words.last, words.curve, words.refused, words.seconds, words.verdict)
    found = {course.design: course for course in courses}
    rows = [_row_of(words, found[design]) for design in designs if design in found]
    return [_line(head, *map(str, MARKS), *columns), _truth_of(words), *rows]


def _truth_of(words: Words) -> str:
    """The row of what is right."""
    right = [CoursePoint(units, units) for units in range(1, TASKS + 1)]
    return _line(words.truth, *map(str, MARKS), str(TASKS), curve_of(right), "", "", "")


def _row_of(words: Words, course: Course) -> str:
    """A design's row. It has no verdict before the end of its course."""
    numbers = [str(point.recorded) if (point := course.at(mark)) is not None else "" for mark in MARKS]
    return _line(
        words.designs[course.design],
        *numbers,
        str(course.recorded),
        curve_of(course.points),
        str(course.refused),
        f"{course.seconds:.1f}",
        verdict_of(words, course) if course.is_whole else "…",
    )


def curve_of(points: Sequence[CoursePoint]) -> str:
    """A curve of eight bars, from 0 to all that three replicas could give back."""
    shown = [
        next((point.recorded for point in reversed(points) if point.truth <= TASKS * step // 8), None)
        for step in range(1, 9)
        if points and points[-1].truth >= TASKS * step // 8
    ]
    top = REPLICAS * TASKS
    return "".join(_BARS[min(7, 8 * max(0, value) // (top + 1))] for value in shown if value is not None)


def _line(name: str, *cells: str) -> str:
    """The name and the curve are aligned to the left, the numbers to the right."""
    *numbers, last, curve, refused, seconds, verdict = cells
    before = _left(name, 40) + "".join(_right(number, 5) for number in numbers) + _right(last, 6)
    after = _right(refused, 9) + _right(seconds, 9)
    return f"{before}  {_left(curve, 8)}{after}  {verdict}".rstrip()


def _left(cell: str, width: int) -> str:
    return cell + " " * (width - cell_len(cell))


def _right(cell: str, width: int) -> str:
    return " " * (width - cell_len(cell)) + cell
