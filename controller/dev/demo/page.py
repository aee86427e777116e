"""The demo as one HTML file with its curves: no script, and nothing is fetched."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files

from controller.dev.demo.course import ACQUISITION, RELEASE, REPLICAS, TASKS, Course, CoursePoint, Design
from controller.dev.demo.result import DemoResult
from controller.dev.demo.words import Language, Words, conclusion_of, filled, verdict_of

WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 300, 170, 30, 22, 8


def page_of(words: Words, language: Language, result: DemoResult) -> str:
    """The page of a run."""
    found = {course.design: course for course in result.courses}
    pauses = "".join(f"<li>{escape(filled(text))}</li>" for text in words.pause)
    what = "".join(f"<p>{escape(filled(text, etcd=result.etcd))}</p>" for text in words.what)
    style = files("controller.dev.demo").joinpath("page.css").read_text()
    truth = '<svg viewBox="0 0 40 10" aria-hidden="true"><path class="truth" d="M0 5H40"/></svg>'
    return f"""<!doctype html>
<html lang="{"zh-CN" if language is Language.ZH else "en"}">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(words.title)}</title>
<style>
{style}</style>
</head>
<body>
<h1>{escape(words.title)}</h1>
{what}
<p>{escape(words.pauses)}</p>
<ul>{pauses}</ul>
<p class="legend">{truth} {escape(words.truth)} · {escape(words.recorded + words.colon)}
<span class="right">{escape(words.right)}</span> · <span class="wrong">{escape(words.wrong)}</span></p>
{_part(words, words.release_title, RELEASE, found)}
{_part(words, words.acquisition_title, ACQUISITION, found)}
<p>{escape(filled(words.take_over, seconds=f"{result.take_over_seconds:.2f}"))}</p>
<pre>{escape(words.audit)}
{escape(result.audit.text)}</pre>
<p><strong>{escape(conclusion_of(words, result))}</strong></p>
</body>
</html>
"""


def _part(words: Words, head: str, designs: Iterable[Design], found: dict[Design, Course]) -> str:
    figures = "\n".join(_figure(words, found[design]) for design in designs if design in found)
    return f'<section><h2>{escape(head)}</h2><div class="courses">\n{figures}\n</div></section>'


def _figure(words: Words, course: Course) -> str:
    verdict = verdict_of(words, course)
    kind = "right" if course.is_right else "wrong"
    name = escape(words.designs[course.design])
    shown = {
        words.last: str(course.recorded),
        words.refused: str(course.refused),
        words.seconds: f"{course.seconds:.1f}",
    }
    numbers = " · ".join(f"{what.lower()}{words.colon}{number}" for what, number in shown.items())
    return f"""<figure class="{kind}">
<figcaption><h3>{name}</h3>
<p><strong class="{kind}">{escape(verdict)}</strong><br/>{escape(numbers)}</p></figcaption>
{_curve(f"{name}: {escape(verdict)}", course.points)}
</figure>"""


def _curve(label: str, points: Sequence[CoursePoint]) -> str:
    """The recorded units over the truth, on scales that are the same in all figures."""
    marks = range(0, REPLICAS * TASKS + 1, TASKS)
    grid = "".join(
        f'<path class="grid" d="M{LEFT} {_y(mark)}H{WIDTH}"/>'
        f'<text x="{LEFT - 5}" y="{_y(mark) + 3}" text-anchor="end">{mark}</text>'
        for mark in marks
    )
    below = "".join(
        f'<text x="{_x(mark)}" y="{HEIGHT - 6}"'
        f' text-anchor="{"end" if mark == TASKS else "middle"}">{mark}</text>'
        for mark in range(0, TASKS + 1, TASKS // 3)
    )
    line = " ".join(f"{_x(truth)},{_y(recorded)}" for truth, recorded in [CoursePoint(0, 0), *points])
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{grid}{below}'
        f'<polyline class="recorded" points="{line}"/>'
        f'<polyline class="truth" points="{_x(0)},{_y(0)} {_x(TASKS)},{_y(TASKS)}"/></svg>'
    )


def _x(truth: int) -> float:
    return round(LEFT + (WIDTH - LEFT - 2) * truth / TASKS, 1)


def _y(units: int) -> float:
    return round(HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * units / (REPLICAS * TASKS), 1)
