"""Every row of the benchmarks runs, at a tiny size, and tells figures that can be shown.

Nothing that is timed is judged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.bench import report, stage
from tests.bench.measure import Figure
from tests.bench.peers import peers
from tests.bench.rows import MEASUREMENTS
from tests.bench.sizes import TINY, Sizes


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the row keeps its data; also in memory, since no figure counts here."""
    monkeypatch.setenv("TALLY_BENCH_DIR", str(tmp_path))
    monkeypatch.setattr(stage, "_IN_MEMORY", ())
    yield tmp_path
    stage.drop_stocks()


OWN = [(rows, measure) for rows, measure in MEASUREMENTS if measure is not peers]
"""All but the other systems, which would have to be installed from the network."""


@pytest.mark.slow
@pytest.mark.parametrize(("rows", "measure"), OWN, ids=["-".join(rows) for rows, _ in OWN])
def test_a_row_is_measured_and_cleans_up(
    folder: Path, rows: tuple[str, ...], measure: Callable[[Sizes], list[Figure]]
) -> None:
    figures = measure(TINY)
    assert {figure.row for figure in figures} == set(rows)
    for figure in figures:
        assert figure.samples
        assert all(sample == sample and abs(sample) != float("inf") for sample in figure.samples)
        assert len(figure.cells()) == len(report.COLUMNS)
    stage.drop_stocks()
    assert list(folder.iterdir()) == []
