"""`deploy/glossary.md` has every column and field that Tally prints or answers, and no other."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest

import controller.cli
import controller.client
import controller.dev
from controller.audit.adoption import InstallationReport, to_json
from controller.audit.audit import Report
from controller.audit.repairs import Preview
from controller.audit.selftest import Item
from controller.cli.check_point import Point
from controller.core.model.installation import EngineRecord, Installation
from controller.core.model.model import Model
from controller.core.model.op import Op
from controller.core.model.task import Step
from controller.core.planning.plan import Outcome
from controller.core.promise.finding import Finding
from controller.endpoint.problems import ProblemDocument
from controller.endpoint.routes import ROUTES
from controller.gateway.documents import Watched
from controller.gateway.operations import OPERATIONS
from controller.store.base import Delete, Guard, Put, Transaction

GLOSSARY = Path(__file__).parents[2] / "deploy" / "glossary.md"
ROOMS = (*controller.cli.__path__, *controller.dev.__path__)
CLI = [ast.parse(path.read_text()) for room in ROOMS for path in sorted(Path(room).glob("*.py"))]
EXPORTED = [getattr(controller.client, name) for name in controller.client.__all__]
DOCUMENTS = [
    *EXPORTED,
    *(route.answer for route in ROUTES),
    *(kind for each in OPERATIONS for kind in (each.answer, each.body)),
    Watched,
    ProblemDocument,
    Step,
    Finding,
    Outcome,
    Point,
    Item,
]
DOCUMENTS += [Installation, EngineRecord]
REPORTS: list[Mapping[str, Any]] = [
    Report("", 0, 0.0, 0, 0).to_json(),
    to_json(InstallationReport(Installation(id=""), None, (), Model())),
    Preview((), Transaction((Guard("a", 0),), (Put("a", b""), Delete("b")), Op("op"))).to_builtins(),
]


def called(node: ast.AST) -> str:
    """The name that a call calls, "" for what is no call."""
    if not isinstance(node, ast.Call):
        return ""
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def texts(node: ast.AST) -> set[str]:
    """The words that stand in an expression as they are."""
    values = (each.value for each in ast.walk(node) if isinstance(each, ast.Constant))
    return {value.strip() for value in values if isinstance(value, str)} - {""}


def columns() -> set[str]:
    """The heads of all tables that commands print: what `Table` is called with, and the constants for
    that.
    """
    found: set[str] = set()
    for node in (node for tree in CLI for node in ast.walk(tree)):
        if isinstance(node, ast.Call) and called(node) == "Table":
            found |= {word for argument in node.args for word in texts(argument)}
        elif isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "").endswith("_COLUMNS"):
            found |= texts(node.value)
    return {word for word in found if word.isupper()}


def labels() -> set[str]:
    """What `tally describe` writes before its colons."""
    calls = [node for tree in CLI for node in ast.walk(tree) if called(node) == "fields"]
    keys = [
        key for call in calls for each in ast.walk(call) if isinstance(each, ast.Dict) for key in each.keys
    ]
    return {key.value for key in keys if isinstance(key, ast.Constant) and isinstance(key.value, str)}


def printed_keys() -> Iterator[str]:
    """The keys that commands put around a document: of all mappings in functions that print one."""
    functions = [node for tree in CLI for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    for function in functions:
        if "print_document" in map(called, ast.walk(function)):
            for node in ast.walk(function):
                keys = node.keys if isinstance(node, ast.Dict) else []
                if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Subscript):
                    keys = [node.targets[0].slice]
                values = [key.value for key in keys if isinstance(key, ast.Constant)]
                yield from (value for value in values if isinstance(value, str))


def fields_of(kind: Any, seen: set[Any]) -> Iterator[str]:
    """The names of a document's fields, and of all documents in it."""
    if kind in seen:
        return
    seen.add(kind)
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        for info in msgspec.structs.fields(kind):
            yield info.encode_name
            yield from fields_of(info.type, seen)
    elif isinstance(kind, type) and issubclass(kind, tuple) and hasattr(kind, "_fields"):
        yield from kind._fields
    for inner in get_args(kind):
        yield from fields_of(inner, seen)


def keys_of(value: object) -> Iterator[str]:
    """All keys, all the way down."""
    if isinstance(value, Mapping):
        yield from value
    for inner in (
        value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    ):
        yield from keys_of(inner)


def fields() -> set[str]:
    """Of all that is printed as JSON or YAML, answered over HTTP, or returned by the Python client."""
    seen: set[Any] = set()
    return {
        *printed_keys(),
        *keys_of(REPORTS),
        *(name for kind in DOCUMENTS for name in fields_of(kind, seen)),
    }


def explained(heading: str) -> list[str]:
    """What stands in the first column of that section's tables."""
    found = re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", GLOSSARY.read_text(), re.DOTALL | re.MULTILINE)
    assert found is not None, f"the glossary has no section {heading}"
    cells = re.findall(r"^\| ([^|]+) \|", found[1], re.MULTILINE)
    return [name for cell in cells for name in re.findall(r"`([^`]+)`", cell)]


@pytest.mark.parametrize(
    ("heading", "collect"), [("Columns", columns), ("Labels", labels), ("Fields", fields)]
)
def test_the_glossary_has_what_is_printed_and_no_more(heading: str, collect: Any) -> None:
    named, printed = explained(heading), collect()
    assert len(printed) > 10
    assert sorted(printed - set(named)) == [], "printed, and not in the glossary"
    assert sorted(set(named) - printed) == [], "in the glossary, and printed nowhere"
    assert len(named) == len(set(named)), "explained twice"
