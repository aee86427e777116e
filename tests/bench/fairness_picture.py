"""Draws deploy/fairness.svg: ten owners compete for a pool in simulated time, through the real planner.

Deterministic: the same code draws the same picture, byte for byte.

    python -m tests.bench.fairness_picture          # prints the figures of deploy/sharing.md, too
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.bench.stage import ROOT
from tests.support.fairness import CORES, TICK_SECONDS, Competition, compete

PICTURE = ROOT / "deploy" / "fairness.svg"
WEIGHTS = {f"o{n}": float(weight) for n, weight in enumerate((1, 2, 3, 4, 1, 2, 3, 4, 1), 1)} | {"late": 3.0}
LATE = 300.0  # when the tenth owner comes
SECONDS = 900.0
AVERAGED = 60.0  # use is averaged over this time
ARRIVALS = 12  # the most tasks of an owner that arrive in a tick
COLOURS = {1.0: "#0072b2", 2.0: "#009e73", 3.0: "#e69f00", 4.0: "#cc3311"}
WIDTH, HEIGHT, LEFT, TOP, GAP = 860, 300, 60, 50, 70


class Panel(NamedTuple):
    """One run: the half-life, and what came of it."""

    half_life: float
    found: Competition

    def due(self, owner: str, now: float) -> float:
        """The part of the pool that the owner's weight says, against those who want some then."""
        present = {name: weight for name, weight in WEIGHTS.items() if name != "late" or now >= LATE}
        return present.get(owner, 0.0) / sum(present.values())

    def parts(self, owner: str) -> Iterator[tuple[float, float]]:
        """(time, the owner's part of what was used in the time before)."""
        for now in self.found.times:
            if now >= AVERAGED:
                yield now, self.found.part(owner, now - AVERAGED, now)


def panels() -> list[Panel]:
    """Without a half-life, and with one."""
    return [
        Panel(
            half_life,
            compete(
                WEIGHTS, SECONDS, half_life=half_life, active={"late": (LATE, SECONDS)}, arrivals=ARRIVALS
            ),
        )
        for half_life in (0, 200)
    ]


def figures(panel: Panel) -> list[tuple[str, float]]:
    """What deploy/sharing.md says of a run, in percent of what was due."""

    def worst(begin: float, end: float) -> float:
        off = (
            abs(panel.found.part(o, begin, end) / panel.due(o, begin) - 1)
            for o in WEIGHTS
            if panel.due(o, begin)
        )
        return 100 * max(off)

    late = [100 * panel.found.part("late", LATE + a, LATE + b) for a, b in ((0, 50), (50, 150), (400, 600))]
    return [
        ("furthest from its due, nine owners, 100 to 300 s", worst(100, LATE)),
        ("furthest from its due, ten owners, 600 to 900 s", worst(600, SECONDS)),
        ("part of the late comer in its first 50 s", late[0]),
        ("part of the late comer in the 100 s after these", late[1]),
        ("part of the late comer, 700 to 900 s", late[2]),
        ("due to the late comer", 100 * panel.due("late", LATE)),
    ]


def draw(runs: list[Panel]) -> str:
    """The picture."""
    height = TOP + len(runs) * (HEIGHT + GAP)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {LEFT + WIDTH + 100} {height}"'
        ' font-family="sans-serif" font-size="13">',
        "<title>What each of ten owners had of a pool, against what its weight says</title>",
        f'<rect width="{LEFT + WIDTH + 100}" height="{height}" fill="white"/>',
    ]
    for number, panel in enumerate(runs):
        lines += _panel(panel, TOP + number * (HEIGHT + GAP))
    return "\n".join([*lines, "</svg>", ""])


def _panel(panel: Panel, top: float) -> Iterator[str]:
    most = 0.32

    def x(now: float) -> float:
        return LEFT + WIDTH * now / SECONDS

    def y(part: float) -> float:
        return top + HEIGHT * (1 - min(part, most) / most)

    remembers = (
        f"half_life {panel.half_life:g} s" if panel.half_life else "half_life 0: what is held now counts"
    )
    yield f'<text x="{LEFT}" y="{top - 14}" font-size="15">{remembers}</text>'
    for percent in range(0, 31, 5):
        level = y(percent / 100)
        yield f'<path d="M{LEFT} {level:.1f}H{LEFT + WIDTH}" stroke="#ddd"/>'
        yield f'<text x="{LEFT - 8}" y="{level + 4:.1f}" text-anchor="end">{percent} %</text>'
    for now in range(0, int(SECONDS) + 1, 100):
        yield f'<text x="{x(now):.1f}" y="{top + HEIGHT + 18}" text-anchor="middle">{now} s</text>'
    yield f'<path d="M{x(LATE):.1f} {top}V{top + HEIGHT}" stroke="#888"/>'
    yield f'<text x="{x(LATE) + 5:.1f}" y="{top + 14}" fill="#555">a tenth owner, of weight 3, comes</text>'
    for weight, colour in COLOURS.items():
        owner = next(owner for owner, each in WEIGHTS.items() if each == weight)
        before, after = y(panel.due(owner, 0)), y(panel.due(owner, LATE))
        path = f"M{LEFT} {before:.1f}H{x(LATE):.1f}V{after:.1f}H{LEFT + WIDTH}"
        yield f'<path d="{path}" fill="none" stroke="{colour}" stroke-dasharray="7 4" stroke-width="1.5"/>'
        yield f'<text x="{LEFT + WIDTH + 6}" y="{after + 4:.1f}" fill="{colour}">weight {weight:g}</text>'
    for owner, weight in WEIGHTS.items():
        points = " ".join(f"{x(now):.1f},{y(part):.1f}" for now, part in panel.parts(owner))
        width = 2.6 if owner == "late" else 1.1
        yield f'<polyline points="{points}" fill="none" stroke="{COLOURS[weight]}" stroke-width="{width}"/>'


def main(path: Path = PICTURE) -> None:
    """Write the picture, and print the figures."""
    runs = panels()
    path.write_text(draw(runs))
    print(f"{path}: {CORES} cores, {len(WEIGHTS)} owners, one tick is {TICK_SECONDS:g} s")
    for panel in runs:
        for what, value in figures(panel):
            print(f"half_life {panel.half_life:g}: {what}: {value:.1f} %")


if __name__ == "__main__":
    import logging

    import structlog

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    main()
