"""What the README says of the code is generated from the code; `python -m tests.architecture.test_readme`
renews it.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec import Struct

from controller import config
from controller.cli.change import apply
from controller.cli.yaml12 import read_yaml
from controller.core.model import lifecycle
from controller.core.model.task import Pool, Spec
from controller.core.model.validation import parse_pool, parse_spec
from controller.engine.docker.container import Options
from controller.engine.kubernetes.pod_template import PoolOptions

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
    [example] = [
        code for code in re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL) if "Client" in code
    ]
    (tmp_path / "example.py").write_text(
        f"{example}\nreveal_type(tally)\nreveal_type(tally.wait(['hello']))\n"
    )
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--config-file=",
        "--cache-dir",
        str(tmp_path / "cache"),
        "example.py",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout
    assert 'Revealed type is "controller.client.client.Client"' in done.stdout
    assert re.search(
        r'Revealed type is "(builtins\.)?dict\[(builtins\.)?str, controller\.client\.views\.TaskView\]"',
        done.stdout,
    ), done.stdout


@pytest.mark.parametrize(("noun", "kind", "parse"), [("task", Spec, parse_spec), ("pool", Pool, parse_pool)])
def test_a_listing_has_all_fields(noun: str, kind: type[Struct], parse: Callable[[object], object]) -> None:
    """Of a task and of a pool: what the README lists can be submitted or applied, and is all there is."""
    found = re.search(rf"A {noun} with all its fields.*?```yaml\n(.*?)```", README.read_text(), re.DOTALL)
    assert found is not None
    [(document, _)] = read_yaml(found[1])
    parse(document)
    assert set(document) == set(kind.__struct_fields__)


@pytest.mark.parametrize("options", [PoolOptions, Options])
def test_a_pool_s_listing_names_all_options_of_engines(options: type[Struct]) -> None:
    found = re.search(r"\nengine_options:.*?```", README.read_text(), re.DOTALL)
    assert found is not None
    assert set(options.__struct_fields__) <= set(re.findall(r"\w+", found[0]))


def test_the_help_of_apply_names_all_fields_of_a_pool() -> None:
    assert apply.__doc__ is not None
    assert set(Pool.__struct_fields__) <= set(re.findall(r"\w+", apply.__doc__.partition("fields:")[2]))


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
