"""What the README says of the code is generated from the code; `python -m tests.architecture.test_readme` renews it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from controller import config
from controller.core import lifecycle

README = Path(__file__).parents[2] / "README.md"
GENERATED = {
    "lifecycle": lambda: f"```mermaid\n{lifecycle.diagram()}\n```",
    "settings": config.table,
}


def section(name: str) -> re.Pattern[str]:
    """The part of the README between its two marks."""
    return re.compile(rf"(<!-- {name} -->\n)(.*?)(\n?<!-- /{name} -->)", re.DOTALL)


@pytest.mark.parametrize("name", GENERATED)
def test_generated_parts_are_fresh(name: str) -> None:
    """The diagram is the table's, and the settings are those that are read."""
    found = section(name).search(README.read_text())
    assert found is not None, f"README has no part {name}"
    assert found[2] == GENERATED[name](), "call: python -m tests.architecture.test_readme"


def renew() -> None:
    """Write the generated parts anew."""
    text = README.read_text()
    for name, generate in GENERATED.items():
        before, _, rest = text.partition(f"<!-- {name} -->\n")
        _, mark, after = rest.partition(f"<!-- /{name} -->")
        text = f"{before}<!-- {name} -->\n{generate()}\n{mark}{after}"
    README.write_text(text)


if __name__ == "__main__":
    renew()
