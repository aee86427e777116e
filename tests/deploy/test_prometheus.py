"""Alert rules and dashboards: checked by promtool, by Grafana's own model, and against the catalog of
metrics.

`python -m tests.deploy.test_prometheus` renews what is made from others: the operator's copy of the rules.
"""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from controller.clock import SystemClock
from controller.gateway.metrics import FAMILIES as GATEWAY
from controller.notifier.metrics import FAMILIES as NOTIFIER
from controller.telemetry.catalog import FAMILIES
from controller.telemetry.family import MetricType
from controller.telemetry.metrics import Metrics
from controller.views.freshness import RULE
from tests.deploy.monitoring import DASHBOARDS, RULES, alerts, dashboards, names_in
from tests.support.kustomize import DEPLOY, OVERLAYS, copy_of_deploy, only, render

OPERATOR_RULES = DEPLOY / "kubernetes" / "components" / "monitoring" / "prometheus-rule.yaml"
RUNBOOKS = DEPLOY / "runbooks.md"
SUFFIXES = {MetricType.HISTOGRAM: ("_bucket", "_sum", "_count")}
CLIENT_LIBRARY = {
    "process_resident_memory_bytes",
    "process_cpu_seconds_total",
    "process_open_fds",
    "process_max_fds",
}


def promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Prometheus' own checks."""
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed (Debian: prometheus)")
    return subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize(
    "check",
    [
        ("check", "rules", "alerts.yaml"),
        ("check", "config", "prometheus.yaml"),
        ("test", "rules", "alerts.test.yaml"),
    ],
    ids=" ".join,
)
def test_promtool_accepts(check: tuple[str, str, str]) -> None:
    """The rules, the example configuration, and what the rules say about series that are written out."""
    done = promtool(*check[:2], str(DEPLOY / "prometheus" / check[2]))
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_unit_tested_and_has_a_runbook() -> None:
    """A section that says what it means, what it does to users, how to find the cause, and what to do."""
    sections = {part.split("\n")[0].strip(): part for part in RUNBOOKS.read_text().split("\n## ")[1:]}
    tested = (DEPLOY / "prometheus" / "alerts.test.yaml").read_text()
    for rule in alerts():
        name = rule["alert"]
        assert {"summary", "description"} == set(rule["annotations"]), (
            "no link, rather than one that leads nowhere"
        )
        for part in ("**Meaning.**", "**Impact.**", "**Diagnosis.**", "**Mitigation.**"):
            assert part in sections[name], f"{name} lacks {part}"
        assert re.search(rf"alertname: {name}\n\s+exp_alerts", tested), f"nothing shows that {name} fires"
        assert re.search(rf"alertname: {name}}}", tested), f"nothing shows that {name} keeps quiet"
    assert len(sections) == len(alerts())


def test_one_command_links_the_runbooks(tmp_path: Path) -> None:
    """As the notes have it, word for word, for both copies of the rules; it also changes the links, and
    takes them away.
    """
    (command,) = re.findall(
        r"^deploy/prometheus/link-runbooks.sh .*$", (DEPLOY / "README.md").read_text(), re.MULTILINE
    )
    shutil.copytree(DEPLOY, tmp_path / "deploy")
    copies = [tmp_path / "deploy" / path.relative_to(DEPLOY) for path in (RULES, OPERATOR_RULES)]
    as_they_come = [path.read_text() for path in copies]
    for base in ("https://wiki.example.org/tally", "https://docs.example.org"):
        subprocess.run(
            ["sh", "-ec", command.replace("https://wiki.example.org/tally", base)], cwd=tmp_path, check=True
        )
        for path in copies:
            document = yaml.safe_load(path.read_text())
            rules = document.get("spec", document)["groups"][0]["rules"]
            urls = [rule["annotations"].pop("runbook_url") for rule in rules]
            assert urls == [f"{base}/{RUNBOOKS.name}#{rule['alert'].lower()}" for rule in alerts()]
            assert rules == alerts(), "nothing else is changed"
        assert promtool("check", "rules", str(copies[0])).returncode == 0
    subprocess.run(["deploy/prometheus/link-runbooks.sh", ""], cwd=tmp_path, check=True)
    assert [path.read_text() for path in copies] == as_they_come


def test_the_limits_are_those_of_the_rule() -> None:
    """What an alert takes for too old is what the page shows in red."""
    limits = {"TallyFollowerLag": RULE.store, "TallyEngineSilent": RULE.engine, "TallyAuditOld": RULE.audit}
    shown = {
        rule["alert"]: float(rule["expr"].rpartition("> ")[2]) for rule in alerts() if rule["alert"] in limits
    }
    assert shown == {name: limit.dead_seconds for name, limit in limits.items()}


def known_series() -> set[str]:
    """All names that may stand in a query."""
    families = (*FAMILIES, *GATEWAY, *NOTIFIER)
    names = {family.exposed for family in families if family.kind is not MetricType.HISTOGRAM}
    names |= {family.name + suffix for family in families for suffix in SUFFIXES.get(family.kind, ())}
    return names | CLIENT_LIBRARY | {"up"}


def test_rules_ask_for_metrics_that_there_are() -> None:
    """By the catalog: a metric that is renamed does not silence an alert."""
    for rule in alerts():
        assert names_in(rule["expr"])
        assert names_in(rule["expr"]) <= known_series()


def test_what_increases_begins_at_0() -> None:
    """`increase` sees no first value of a series that was not there: all of one moment may be in it."""
    metrics = Metrics(SystemClock())
    metrics.entered("taking-over")
    begun = {line.partition("{")[0] for line in metrics.exposition().decode().splitlines()}
    over_minutes = {"tally_transitions_total"}  # as often as a pool may in each of ten minutes
    for rule in alerts():
        for name in re.findall(r"increase\((\w+)", rule["expr"]):
            assert name in begun | over_minutes or re.search(rf"\({name}(\[\w+\])? offset", rule["expr"]), (
                rule["alert"]
            )


def test_what_may_be_absent_silences_no_alert() -> None:
    """A limit is not passed by what there is not."""
    absent = {each.exposed for each in FAMILIES if re.search("absent (until|before)", each.help)}
    while_etcd_fails = {"tally_store_size_bytes", "tally_store_quota_bytes"}  # of which another alert tells
    for rule in alerts():
        for name in names_in(rule["expr"]) & absent - while_etcd_fails:
            assert re.search(rf"unless .*{name}", rule["expr"]), (rule["alert"], name)


def operator_rules() -> str:
    """The rules as the Prometheus operator wants them."""
    head = "# Made from deploy/prometheus/alerts.yaml: python -m tests.deploy.test_prometheus\n"
    metadata = {"name": "tally", "namespace": "tally", "labels": {"app.kubernetes.io/name": "tally"}}
    rule = {"apiVersion": "monitoring.coreos.com/v1", "kind": "PrometheusRule", "metadata": metadata}
    return head + yaml.safe_dump(
        rule | {"spec": yaml.safe_load(RULES.read_text())}, sort_keys=False, width=132
    )


def test_the_operators_rules_are_the_same(tmp_path: Path) -> None:
    """Fresh, and rendered into the overlay with the dashboards and the scraping."""
    assert OPERATOR_RULES.read_text() == operator_rules(), "call: python -m tests.deploy.test_prometheus"
    objects = render(copy_of_deploy(tmp_path) / OVERLAYS[0])
    assert only(objects, "PrometheusRule", "tally")["spec"] == yaml.safe_load(RULES.read_text())
    shown = only(objects, "ConfigMap", "tally-dashboards")["data"]
    assert {name: json.loads(text) for name, text in shown.items()} == dashboards()
    (endpoint,) = only(objects, "ServiceMonitor", "tally")["spec"]["endpoints"]
    (port,) = only(objects, "Service", "tally")["spec"]["ports"]
    assert (endpoint["port"], endpoint["path"]) == (port["name"], "/metrics")


def test_dashboards_are_made_from_their_source() -> None:
    """Nobody edited the files by hand."""
    spec = importlib.util.spec_from_file_location("dashboards", DEPLOY / "grafana" / "dashboards.py")
    assert spec is not None
    assert spec.loader is not None
    source = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(source)
    assert dashboards() == source.dashboards(), "call: python deploy/grafana/dashboards.py"


def lost(given: Any, kept: Any, path: str = "") -> list[str]:
    """Paths of what stands in one document and not in the other."""
    if isinstance(given, dict) and isinstance(kept, dict):
        return [each for name in given for each in lost(given[name], kept.get(name), f"{path}/{name}")]
    if isinstance(given, list) and isinstance(kept, list) and len(given) == len(kept):
        return [
            each for number, item in enumerate(given) for each in lost(item, kept[number], f"{path}/{number}")
        ]
    return [] if given == kept else [f"{path}: {given!r}"]


@pytest.mark.parametrize("name", sorted(path.name for path in DASHBOARDS.glob("*.json")))
def test_grafana_knows_every_field(name: str) -> None:
    """Read into Grafana's own model and written again: no field is unknown, misspelt, or not one of its
    panel's options.
    """
    register_default_plugins()
    document = dashboards()[name]
    model = Dashboard.from_json(json.loads(json.dumps(document)))  # it changes what it is given
    assert lost(document, json.loads(json.dumps(model, cls=JSONEncoder))) == []


@pytest.mark.parametrize("name", sorted(path.name for path in DASHBOARDS.glob("*.json")))
def test_a_dashboard_is_complete(name: str) -> None:
    """Panels say what they show, in which unit, do not overlap, and ask the chosen data source for metrics
    that there are.
    """
    dashboard = dashboards()[name]
    variables = {variable["name"] for variable in dashboard["templating"]["list"]}
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        assert len(panel["description"]) > 15
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert panel["datasource"]["uid"] == "${datasource}"
        grid = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(grid["x"], grid["x"] + grid["w"])
            for y in range(grid["y"], grid["y"] + grid["h"])
        }
        assert not cells & taken
        assert grid["x"] + grid["w"] <= 24
        taken |= cells
        for target in panel["targets"]:
            assert target["datasource"]["uid"] == "${datasource}"
            assert names_in(target["expr"]) <= known_series()
            assert set(re.findall(r"\$(\w+)", target["expr"])) <= variables | {"__rate_interval"}
    titles = [panel["title"] for panel in dashboard["panels"]]
    assert len(set(titles)) == len(titles)


def renew() -> None:
    """Write what is made from others."""
    OPERATOR_RULES.write_text(operator_rules())


if __name__ == "__main__":
    renew()
