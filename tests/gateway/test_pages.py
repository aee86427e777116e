"""What `deploy/gateway.md` says is what the gateway does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from controller.gateway.metrics import FAMILIES, GatewayMetrics, Measures
from controller.gateway.openings import LIMITS, MOST_CONNECTIONS, TOGETHER, Opening
from controller.gateway.operations import OPERATIONS
from controller.gateway.policy import PolicyVerb
from controller.telemetry.family import table
from tests.gateway.conftest import As

PAGE = (Path(__file__).parents[2] / "deploy" / "gateway.md").read_text()
WORDS = {
    Opening.STREAMS: "streams of events",
    Opening.WATCHES: "watches",
    Opening.WAITS: "waits",
    Opening.READS: "reads that wait for a revision",
    Opening.CALLS: "short requests, until they are answered",
    Opening.BODIES: "bodies that have not arrived yet",
    Opening.UPLOADS: "uploads of many tasks",
    Opening.LISTS: "lists",
    Opening.ACTS: "acts on many tasks",
    Opening.LOGS: "outputs that are read",
    Opening.FORECASTS: "looks ahead",
}


def test_metrics_are_those_of_the_page() -> None:
    assert PAGE.endswith(table(FAMILIES) + "\n"), "the table: python -m controller.gateway.metrics"


def test_every_metric_is_exposed() -> None:
    """Once something of every kind has happened, each is there, with its labels; nothing else is."""
    metrics = GatewayMetrics()
    metrics.observe(
        Measures("c", lambda: True, lambda: 5, lambda: 0.1, lambda: {"streams": 1}, lambda: {"oidc": "why"})
    )
    metrics.answered("getTask", 200, 0.1)
    metrics.submitted("created")
    metrics.signed_in("token")
    exposed = metrics.exposition().decode()
    named = set(re.findall(r"^# TYPE (tally_\w+)", exposed, re.MULTILINE))
    assert named == {family.exposed for family in FAMILIES}
    assert 'tally_gateway_sign_in_problem{what="oidc"} 1.0' in exposed


@pytest.mark.parametrize("kind", Opening)
def test_limits_are_those_of_the_page(kind: Opening) -> None:
    limit = LIMITS[kind]
    assert f"| {WORDS[kind]} | {limit.of_all:,} | {limit.of_one:,} |" in PAGE
    assert f"| all of these together | {TOGETHER.of_all:,} | {TOGETHER.of_one:,} |" in PAGE
    assert f"| connections | {MOST_CONNECTIONS:,} |" in PAGE


def test_every_verb_is_explained() -> None:
    verbs = re.findall(r"^\| `([a-z]+(?:-(?:own|any))?)` \| [a-z ]+,? ", PAGE, re.MULTILINE)
    assert set(verbs) >= set(PolicyVerb)


def test_the_document_describes_every_operation(as_: As) -> None:
    """Without signing in: it says nothing of the records."""
    document = as_("").get("/openapi.json").json()
    assert document["openapi"] == "3.1.0"
    described = {
        (method.upper(), path): each
        for path, methods in document["paths"].items()
        for method, each in methods.items()
    }
    assert set(described) == {(each.method, each.path) for each in OPERATIONS}
    for each in OPERATIONS:
        found = described[each.method, each.path]
        assert {"401", "429", "503"} <= set(found["responses"])
        assert ("requestBody" in found) == bool(each.takes)
        assert {str(int(status)) for status in each.problems} <= set(found["responses"])
    assert len({each["operationId"] for each in described.values()}) == len(OPERATIONS)
