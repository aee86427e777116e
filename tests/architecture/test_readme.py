"""What the pages say of the code is generated from it: `python -m tests.architecture.test_readme` renews
that.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from itertools import chain
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

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
CHINESE = ROOT / "README.zh.md"
REFERENCE = ROOT / "deploy" / "reference.md"
EXAMPLE = ROOT / "deploy" / "examples" / "client.py"
ORDER = [
    "Two commands",
    "A first hour",
    "Shared by many",
    "How it works",
    "What it cannot promise",
    "Where the rest is",
]
PROSE = sorted(chain(ROOT.glob("*.md"), ROOT.glob("deploy/**/*.md"), ROOT.glob("tests/**/*.md")))


def lifecycle_diagram() -> str:
    return f"```mermaid\n{lifecycle.diagram()}\n```"


GENERATED: dict[tuple[Path, str], Callable[[], str]] = {
    (README, "lifecycle"): lifecycle_diagram,
    (CHINESE, "lifecycle"): lifecycle_diagram,
    (ROOT / "deploy" / "consistency.md", "lifecycle"): lifecycle_diagram,
    (ROOT / "deploy" / "configuration.md", "settings"): config.table,
    (REFERENCE, "client"): lambda: f"```python\n{EXAMPLE.read_text()}```",
}


def section(name: str) -> re.Pattern[str]:
    """The part of a page between its two marks."""
    return re.compile(rf"(<!-- {name} -->\n)(.*?)(\n?<!-- /{name} -->)", re.DOTALL)


@pytest.mark.parametrize(
    ("page", "name"), GENERATED, ids=lambda each: each if isinstance(each, str) else each.name
)
def test_generated_parts_are_fresh(page: Path, name: str) -> None:
    """The diagram is the table's, the settings are those that are read, and the example is the file that
    runs.
    """
    found = section(name).search(page.read_text())
    assert found is not None, f"{page.name} has no part {name}"
    assert found[2] == GENERATED[page, name](), "call: python -m tests.architecture.test_readme"


def test_the_readme_is_short_and_in_order() -> None:
    """The promise first, and the way to the rest last."""
    text = README.read_text()
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == ORDER
    assert len(text.splitlines()) < 250


def test_the_diagram_shows_where_resources_are_held_and_released() -> None:
    edges = re.findall(r"^ +(\w+) --> (\w+): .* / (hold|release)$", lifecycle.diagram(), re.MULTILINE)
    assert {source for source, _, act in edges if act == "release"} == {"Pending", "Running"}
    assert {target for _, target, act in edges if act == "hold"} == {"Pending"}
    assert ("Pending", "Running", "hold") not in edges


def prose(page: Path) -> str:
    """A page without its blocks of code."""
    return re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)


def anchors(page: Path) -> set[str]:
    """What `page.md#…` may name, as GitHub makes it of headings."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    plain = (re.sub(r"\[(.*?)\]\(.*?\)", r"\1", heading) for heading in headings)
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("page", PROSE, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    """Every link within the repository, with its anchor."""
    for target in re.findall(r"\]\((?!https?:|mailto:)([^)\s]+)\)", prose(page)):
        name, _, anchor = target.partition("#")
        found = (page.parent / name).resolve() if name else page
        assert found.exists(), f"{page.name}: there is no {name}"
        assert not anchor or anchor in anchors(found), (
            f"{page.name}: {name or page.name} has no section #{anchor}"
        )


def test_the_python_example_is_typed(tmp_path: Path) -> None:
    """As a user's own mypy sees it, with the package's `py.typed`."""
    revealed = "reveal_type(tally)\nreveal_type(tally.wait(['hello']))\n"
    (tmp_path / "example.py").write_text(f"{EXAMPLE.read_text()}\n{revealed}")
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--config-file=",
        "--cache-dir",
        str(tmp_path / "cache"),
    ]
    command.append("example.py")
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout
    assert 'Revealed type is "controller.client.client.Client"' in done.stdout
    assert re.search(
        r'Revealed type is "(builtins\.)?dict\[(builtins\.)?str, controller\.client\.views\.TaskView\]"',
        done.stdout,
    ), done.stdout


STORED_AS = "capacity_from"
"""How a pool's `capacity` is stored and shown, if it names a source."""


def listing(heading: str) -> str:
    """The YAML of a section of the reference."""
    found = re.search(
        rf"^## {heading}\n.*?```yaml\n(.*?)```", REFERENCE.read_text(), re.DOTALL | re.MULTILINE
    )
    assert found is not None
    return found[1]


@pytest.mark.parametrize(
    ("heading", "kind", "parse"), [("A task", Spec, parse_spec), ("A pool", Pool, parse_pool)]
)
def test_a_listing_has_all_fields(
    heading: str, kind: type[Struct], parse: Callable[[object], object]
) -> None:
    """Of a task and of a pool: what the reference lists can be submitted or applied, and is all there is."""
    [(document, _)] = read_yaml(listing(heading))
    parse(document)
    assert set(document) == set(kind.__struct_fields__) - {STORED_AS}


@pytest.mark.parametrize("options", [PoolOptions, Options])
def test_a_pool_s_listing_names_all_options_of_engines(options: type[Struct]) -> None:
    _, _, engine_options = listing("A pool").partition("\nengine_options:")
    assert set(options.__struct_fields__) <= set(re.findall(r"\w+", engine_options))


def test_the_help_of_apply_names_all_fields_of_a_pool() -> None:
    assert apply.__doc__ is not None
    assert set(Pool.__struct_fields__) - {STORED_AS} <= set(
        re.findall(r"\w+", apply.__doc__.partition("fields:")[2])
    )


def renew() -> None:
    """Write the generated parts anew."""
    for (page, name), generate in GENERATED.items():
        before, _, rest = page.read_text().partition(f"<!-- {name} -->\n")
        _, mark, after = rest.partition(f"<!-- /{name} -->")
        page.write_text(f"{before}<!-- {name} -->\n{generate()}\n{mark}{after}")


if __name__ == "__main__":
    renew()
