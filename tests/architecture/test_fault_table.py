"""The table of faults in `tests/README.md`: every fault is in it, every name in it exists, every fault of
the chaos run too.
"""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from tests.chaos.faults import FAULTS, Fault

TESTS = Path(__file__).parents[1]
NUMBERS = range(1, 52)
ROW = re.compile(r"^\| (\d+) \| ([^|]+) \| ([^|]*) \| ([^|]*)\|$", re.MULTILINE)
NAME = re.compile(r"`([\w/]+\.py)((?:::\w+)+)`")


def _file(fault: Fault) -> str:
    return "/".join(fault.inject.__module__.split(".")[1:]) + ".py"


FILES_OF_FAULTS = {_file(fault) for fault in FAULTS.values()}
ROWS = ROW.findall((TESTS / "README.md").read_text())


@cache
def defined(path: Path) -> frozenset[str]:
    """The functions of a file, as `::function` and `::Class::function`."""
    tree = ast.parse(path.read_text())
    found = {f"::{node.name}" for node in tree.body if isinstance(node, ast.FunctionDef)}
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            found |= {
                f"::{node.name}::{inner.name}" for inner in node.body if isinstance(inner, ast.FunctionDef)
            }
    return frozenset(found)


def test_every_fault_has_its_row() -> None:
    assert [int(number) for number, *_ in ROWS] == list(NUMBERS)


@pytest.mark.parametrize(("number", "injected", "not_injected"), [(row[0], row[2], row[3]) for row in ROWS])
def test_what_a_row_names_exists(number: str, injected: str, not_injected: str) -> None:
    """Names of tests, or of faults that are injected; a row without any says that it is not injected."""
    names = NAME.findall(injected)
    assert len(names) == injected.count("`") // 2, f"row {number} has what is no name: {injected}"
    assert names or not_injected.strip(), f"row {number} names no test, and does not say that there is none"
    for file, name in names:
        path = TESTS / file
        assert path.is_file(), f"row {number}: there is no {file}"
        assert name in defined(path), f"row {number}: {file} has no {name[2:]}"
        is_test = path.name.startswith("test_") and "::test_" in name
        assert is_test or file in (*FILES_OF_FAULTS, "simulation/faults.py"), (
            f"row {number}: {file}{name} is no test"
        )


def test_faults_of_the_chaos_run_are_in_their_rows() -> None:
    injected = {int(number): names for number, _, names, _ in ROWS}
    missing = [
        f"row {row}: {fault.inject.__name__}"
        for fault in FAULTS.values()
        for row in fault.rows
        if f"`{_file(fault)}::{fault.inject.__name__}`" not in injected[row]
    ]
    assert missing == []
