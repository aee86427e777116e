"""What is shown of the model is computed in `controller.views`, once: whoever shows it asks there.

So two readers cannot list by different rules, as they once did: a pool that was deleted, the leader of two
replicas of one name.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from controller.core.model.model import Model

ROOT = Path(__file__).parents[2] / "controller"
READERS = [
    path
    for room in ("cli", "client", "dev", "endpoint", "telemetry")
    for path in sorted((ROOT / room).rglob("*.py"))
    if "fake_kubernetes" not in path.parts
]
# What a reader may ask the model itself: it says nothing of a task, a pool or a replica.
ALLOWED = {"revision", "advance", "installation"}
EXCEPTIONS = {
    # The index of the endpoint's pages is one of ids, kept as tasks change; `views` says where each stands.
    "endpoint/index.py": {"tasks"},
    # What is submitted is checked against a pool, and guarded by its mod: nothing of it is shown.
    "client/client.py": {"pools"},
    # so is the task of a schedule
    "client/schedules.py": {"pools"},
}
RAW = {"decode_or_empty", "number_in"}  # fields of a record, read by hand


def readings(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """What is asked of something that is called a model, and each import of what reads a record by hand."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            owner = node.value.func if isinstance(node.value, ast.Call) else node.value
            name = owner.attr if isinstance(owner, ast.Attribute) else getattr(owner, "id", "")
            if name.strip("_") == "model":
                yield node.lineno, node.attr
        elif isinstance(node, ast.ImportFrom) and node.module == "controller.core.model.records":
            yield from ((node.lineno, alias.name) for alias in node.names if alias.name in RAW)


@pytest.mark.parametrize("path", READERS, ids=lambda path: str(path.relative_to(ROOT)))
def test_readers_ask_the_views(path: Path) -> None:
    allowed = ALLOWED | EXCEPTIONS.get(str(path.relative_to(ROOT)), set())
    found = [(line, name) for line, name in readings(ast.parse(path.read_text())) if name not in allowed]
    assert not found, f"{path.relative_to(ROOT)} reads the model by itself: let controller/views say it"


def test_what_is_allowed_is_there() -> None:
    """A name that the model has no more would allow what comes after it."""
    model = Model()
    assert {name for name in ALLOWED if hasattr(model, name)} == ALLOWED
