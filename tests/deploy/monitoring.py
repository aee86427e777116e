"""Alert rules and dashboards as they are stored, for the tests that read them and for those that run them."""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

import yaml

from tests.support.kustomize import DEPLOY

RULES = DEPLOY / "prometheus" / "alerts.yaml"
DASHBOARDS = DEPLOY / "grafana" / "dashboards"


def alerts() -> list[dict[str, Any]]:
    """All alert rules."""
    (group,) = yaml.safe_load(RULES.read_text())["groups"]
    return list(group["rules"])


def names_in(expression: str) -> set[str]:
    """Names of metrics in a query."""
    return set(re.findall(r"\b(?:tally|process|python)_[a-z_]+|\bup\b", re.sub(r'"[^"]*"', "", expression)))


def dashboards() -> dict[str, Any]:
    """File name → dashboard, as they are stored."""
    return {path.name: json.loads(path.read_text()) for path in sorted(DASHBOARDS.glob("*.json"))}


class Target(NamedTuple):
    """One query of a panel."""

    dashboard: str
    panel: str
    expr: str


def targets() -> list[Target]:
    """Every query of every panel."""
    return [
        Target(name, panel["title"], target["expr"])
        for name, dashboard in dashboards().items()
        for panel in dashboard["panels"]
        for target in panel["targets"]
    ]
