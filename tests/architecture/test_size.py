"""Files and functions stay small: what grows past the limit is usually two things.

A ratchet: limits only go down.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILE_LINES = 400
FUNCTION_LINES = 70
# Larger ones, each with its size when it was accepted and the reason: none may grow, and one that shrinks
# must leave.
LARGE_FILES: dict[str, int] = {}
LARGE_FUNCTIONS: dict[str, int] = {}

FILES = sorted(path for path in (ROOT / "controller").rglob("*.py"))


def sizes_of_functions(path: Path) -> dict[str, int]:
    """`file:name` → lines, decorators and docstring included."""
    found = {}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            found[f"{path.relative_to(ROOT)}:{node.name}"] = (node.end_lineno or first) - first + 1
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_stay_small(path: Path) -> None:
    name = str(path.relative_to(ROOT))
    lines = len(path.read_text().splitlines())
    limit = LARGE_FILES.get(name, FILE_LINES)
    assert lines <= limit, f"{name} has {lines} lines, at most {limit} are allowed: which two things is it?"
    for function, size in sizes_of_functions(path).items():
        limit = LARGE_FUNCTIONS.get(function, FUNCTION_LINES)
        assert size <= limit, f"{function} has {size} lines, at most {limit} are allowed"


def test_exceptions_go_when_they_are_no_longer_needed() -> None:
    sizes = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in FILES}
    for name, accepted in LARGE_FILES.items():
        assert sizes.get(name) == accepted > FILE_LINES, (
            f"{name} has {sizes.get(name)} lines now: lower or remove its entry"
        )
    functions = {name: size for path in FILES for name, size in sizes_of_functions(path).items()}
    for name, accepted in LARGE_FUNCTIONS.items():
        assert functions.get(name) == accepted > FUNCTION_LINES, (
            f"{name} has {functions.get(name)} lines now: lower or remove its entry"
        )
