"""Files, functions, classes and constructors stay small: what grows past its limit is usually two things.

A ratchet: limits only go down, and there are no exceptions. Nothing is made to fit by folding it (shorter
names, `# fmt:`, a mixin that cuts a class in two): two things get two names.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILE_LINES = 400
FUNCTION_LINES = 70
METHODS = 20
CONSTRUCTOR_PARAMETERS = 8

FILES = sorted((ROOT / "controller").rglob("*.py"))
each_file = pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))


def functions_of(node: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for inner in ast.iter_child_nodes(node):
        if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef):
            yield inner


def lines_of(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Decorators and docstring included."""
    first = min([function.lineno, *(decorator.lineno for decorator in function.decorator_list)])
    return (function.end_lineno or first) - first + 1


def parameters_of(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """All but `self`."""
    given = function.args
    open_ended = [given.vararg, given.kwarg]
    named = [*given.posonlyargs, *given.args, *given.kwonlyargs]
    return len(named) + sum(each is not None for each in open_ended) - 1


@each_file
def test_files_and_functions_stay_small(path: Path) -> None:
    name, text = path.relative_to(ROOT), path.read_text()
    lines = len(text.splitlines())
    assert lines <= FILE_LINES, f"{name} has {lines} lines of at most {FILE_LINES}: which two things is it?"
    for node in ast.walk(ast.parse(text)):
        for function in functions_of(node):
            size = lines_of(function)
            assert size <= FUNCTION_LINES, (
                f"{name}:{function.name} has {size} lines of at most {FUNCTION_LINES}"
            )


@each_file
def test_classes_and_constructors_stay_small(path: Path) -> None:
    """Every function in a class's body is a method, properties and `__init__` too.

    Dataclasses, named tuples and msgspec structs are plain values: they have no constructor of their own, and
    may have as many fields as what they stand for.
    """
    name = path.relative_to(ROOT)
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.ClassDef):
            continue
        methods = list(functions_of(node))
        assert len(methods) <= METHODS, (
            f"{name}:{node.name} has {len(methods)} methods of at most {METHODS}: which two things is it?"
        )
        for method in methods:
            if method.name == "__init__":
                number = parameters_of(method)
                assert number <= CONSTRUCTOR_PARAMETERS, (
                    f"{name}:{node.name} takes {number} parameters of at most {CONSTRUCTOR_PARAMETERS}:"
                    " which of them are one value?"
                )
