"""Imports point one way (design: layers and seams); the rules stand in `.importlinter`."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from importlinter.cli import EXIT_STATUS_SUCCESS, lint_imports

ROOT = Path(__file__).parents[2]
CORE = sorted((ROOT / "controller" / "core").rglob("*.py"))


def test_imports_keep_to_the_layers(capsys: pytest.CaptureFixture[str]) -> None:
    status = lint_imports(config_filename=str(ROOT / ".importlinter"), no_cache=True)
    assert status == EXIT_STATUS_SUCCESS, capsys.readouterr().out


@pytest.mark.parametrize("path", CORE, ids=lambda path: path.name)
def test_the_core_iterates_no_sets(path: Path) -> None:
    """The order of a set is not the same in two runs: what iterates one could plan differently from the
    same events.
    """
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.For | ast.comprehension):
            is_set = isinstance(node.iter, ast.Set | ast.SetComp) or (
                isinstance(node.iter, ast.Call)
                and isinstance(node.iter.func, ast.Name)
                and node.iter.func.id in ("set", "frozenset")
            )
            assert not is_set, f"{path.name}:{node.iter.lineno} iterates a set: sort it first"


@pytest.mark.parametrize("path", CORE, ids=lambda path: path.name)
def test_the_core_asks_no_calendar_what_time_it_is(path: Path) -> None:
    """`datetime` may turn the seconds that it is given into text; `now` is an argument."""
    for node in ast.walk(ast.parse(path.read_text())):
        if (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id in ("datetime", "date")
        ):
            assert node.attr not in ("now", "today", "utcnow"), f"{path.name}:{node.lineno} reads the clock"
