"""What the benchmarks say of their samples: numbers, aims, the document and the page of results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.bench import report
from tests.bench.measure import Aim, Figure, quantile
from tests.bench.report import BEGIN, END, PAGE, Report, markdown, publish
from tests.bench.rows import ROWS

MACHINE = {
    "cpu": "a cpu",
    "cores": 2,
    "memory_gib": 8.0,
    "system": "Linux",
    "file_system": "ext4",
    "fsync_ms": 1.5,
    "busy_percent_before": 3.0,
    "quiet": True,
}


@pytest.fixture
def document() -> dict[str, object]:
    """A run of two figures, as it is read from its file."""
    figures = [
        Figure(
            "B2",
            "burn-down",
            "tasks/s",
            [1600.0, 1500.0, 1700.0],
            baseline=2000.0,
            against="B1 floor",
            aims=(Aim("ratio", least=0.7),),
        ),
        Figure("B7", "SIGKILL", "s", [0.5, 1.5], aims=(Aim("p99", most=1.0),), tail=True),
    ]
    made = Report(
        "quick", MACHINE, {"python": "3.11.7", "etcd": "3.5.1"}, "abc", "2026-01-02T03:04:05+00:00", figures
    )
    made.skipped.append({"row": "PEERS", "reason": "no | network"})
    return dict(json.loads(json.dumps(made.to_json())))


def test_quantiles_are_samples() -> None:
    assert [quantile([3.0, 1.0, 2.0], share) for share in (0.0, 0.5, 0.99, 1.0)] == [1.0, 2.0, 3.0, 3.0]
    assert quantile([float(n) for n in range(1, 101)], 0.99) == 99.0


def test_an_aim_is_met_or_missed_by_the_number_that_it_names(document: dict[str, Any]) -> None:
    met = {figure["row"]: figure["met"] for figure in document["figures"]}
    assert met == {"B2": True, "B7": False}
    # without a baseline there is none to tell
    assert Figure("B1", "", "", [1.0], aims=(Aim("ratio", least=1.0),)).met() is None


def test_all_rows_are_there() -> None:
    numbers = range(1, 23)
    assert [f"B{number}" for number in numbers] == [row for row in ROWS if row.startswith("B")]


def test_the_page_shows_figures_aims_and_what_is_missing(document: dict[str, Any]) -> None:
    lines = markdown(document).splitlines()
    burned = "| B2 | burn-down | 1,600 tasks/s | 1,500 – 1,700 of 3 |"
    assert f"{burned} 0.80 × B1 floor | ratio ≥ 0.7 ✓ | etcd, fsync |" in lines
    [killed] = [line for line in lines if line.startswith("| B7 | SIGKILL |")]
    assert "| 1 s | p99 1.5, max 1.5 of 2 |" in killed
    assert "✗ missed" in killed
    assert "- PEERS: not measured: no | network" in lines
    assert not any("Preliminary" in line for line in lines)


def test_the_chart_has_what_burns_down(document: dict[str, Any]) -> None:
    lines = markdown(document).splitlines()
    assert '    x-axis ["B2 burn-down"]' in lines
    assert "    bar [1600]" in lines
    document["figures"] = [figure for figure in document["figures"] if figure["row"] == "B7"]
    assert "```mermaid" not in markdown(document).splitlines()


def test_figures_of_a_busy_machine_are_marked(document: dict[str, Any]) -> None:
    document["machine"] = MACHINE | {"quiet": False, "busy_percent_before": 80.0}
    assert "Preliminary: 80 % of the machine was in use by others" in markdown(document)


def test_the_page_has_a_place_for_them(
    document: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "RESULTS.md"
    copy.write_text(PAGE.read_text())
    monkeypatch.setattr(report, "PAGE", copy)
    publish(document)
    publish(document)
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    assert copy.read_text() == f"{before}{BEGIN}\n{markdown(document)}\n{END}{after}"
