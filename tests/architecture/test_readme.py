"""What the README says of the code is generated from the code; `python -m tests.architecture.test_readme` renews it."""

from __future__ import annotations

import re
import subprocess
import sys
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


def test_the_python_example_is_typed(tmp_path: Path) -> None:
    """As a user's own mypy sees it, with the package's `py.typed`."""
    [example] = [code for code in re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL) if "Client" in code]
    (tmp_path / "example.py").write_text(f"{example}\nreveal_type(tally)\nreveal_type(tally.wait(['hello']))\n")
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--cache-dir", str(tmp_path / "cache"), "example.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout
    assert 'Revealed type is "controller.client.client.Client"' in done.stdout
    assert re.search(
        r'Revealed type is "(builtins\.)?dict\[(builtins\.)?str, controller\.client\.views\.TaskView\]"', done.stdout
    ), done.stdout


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
