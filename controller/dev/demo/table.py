"""The demo in a terminal: one row for each design, its numbers and its curve as its course goes on."""

from __future__ import annotations

from collections.abc import Sequence

from rich.cells import cell_len

from controller.dev.demo.course import RELEASE, REPLICAS, TASKS, Course, CoursePoint, Design
from controller.dev.demo.words import Words, verdict_of

MARKS = (TASKS // 3, 2 * TASKS // 3, TASKS)
"""The truths at which the numbers are shown."""
_BARS = "▁▂▃▄▅▆▇█"
_WIDTHS = (40, *(5 for _ in MARKS), 6, 10, 9, 9)  # the last column takes what it needs


def lines_of(words: Words, designs: Sequence[Design], courses: Sequence[Course]) -> list[str]:
    """The table of these designs, as far as their courses have come."""
    head = words.release if designs[0] in RELEASE else words.acquisition
    columns = (words.last, words.curve, words.refused, words.seconds, words.verdict)
    found = {course.design: course for course in courses}
    rows = [row_of(words, found[design]) for design in designs if design in found]
    return [_line(head, *map(str, MARKS), *columns), truth_of(words), *rows]


def truth_of(words: Words) -> str:
    """The row of what is right."""
    right = [CoursePoint(units, units, 0.0) for units in range(1, TASKS + 1)]
    return _line(words.truth, *map(str, MARKS), str(TASKS), curve_of(right), "", "", "")


def row_of(words: Words, course: Course) -> str:
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


def _line(*cells: str) -> str:
    """The first cell and the curve are aligned to the left, the numbers to the right."""
    shown = []
    for number, (cell, width) in enumerate(zip(cells, (*_WIDTHS, 0), strict=True)):
        space = " " * (width - cell_len(cell))
        is_text = number in (0, len(_WIDTHS))
        if number == len(MARKS) + 2:  # the curve, away from the number before it
            shown.append(f"  {cell}{space[2:]}")
        else:
            shown.append(f"{cell}{space}" if is_text else f"{space}{cell}")
    return "".join([*shown[:-1], "  ", shown[-1]]).rstrip()
