"""The picture of fairness, and the figures beside it, are what the planner makes of it today."""

from __future__ import annotations

import pytest

from tests.bench import fairness_picture
from tests.bench.stage import ROOT


@pytest.mark.slow
def test_the_picture_and_its_figures_are_fresh() -> None:
    runs = fairness_picture.panels()
    told = "call: python -m tests.bench.fairness_picture, and mend deploy/sharing.md"
    assert fairness_picture.PICTURE.read_text() == fairness_picture.draw(runs), told
    page = (ROOT / "deploy" / "sharing.md").read_text()
    columns = zip(*map(fairness_picture.figures, runs), strict=True)
    for (what, without), (_, with_half_life) in columns:
        if not what.startswith("due"):
            assert f"| {without:.1f} % | {with_half_life:.1f} % |" in page, told
        else:
            assert f"its due: {without:.1f} %" in page, told
