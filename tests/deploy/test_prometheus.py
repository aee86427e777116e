"""Alert rules and dashboards: checked by promtool, against the catalog of metrics, and on a real Prometheus that scrapes a
real cluster, on which the troubles are caused.

`python -m tests.deploy.test_prometheus` renews what is made from others: the operator's copy of the rules.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import uuid
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from controller.client import Client
from controller.dev import LocalCluster
from controller.failpoints import VARIABLE
from controller.store.base import Committed, Guard, Put, Transaction
from controller.store.keys import Keys
from controller.telemetry.catalog import FAMILIES, Kind
from tests.support.kustomize import DEPLOY, OVERLAYS, copy_of_deploy, only, render
from tests.support.local import QUICK, kill, leader_of, local_cluster, wait_ready
from tests.support.prometheus import Prometheus, prometheus
from tests.support.waiting import wait_until

RULES = DEPLOY / "prometheus" / "alerts.yaml"
OPERATOR_RULES = DEPLOY / "kubernetes" / "components" / "monitoring" / "prometheus-rule.yaml"
DASHBOARDS = DEPLOY / "grafana" / "dashboards"
RUNBOOKS = DEPLOY / "runbooks.md"
SUFFIXES = {Kind.HISTOGRAM: ("_bucket", "_sum", "_count")}
CLIENT_LIBRARY = {"process_resident_memory_bytes", "process_cpu_seconds_total", "process_open_fds", "process_max_fds"}
SINCE_ETCD_3_6 = {"tally_store_quota_bytes"}

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("prometheus"), pytest.mark.timeout(300)]


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


def alerts() -> list[dict[str, Any]]:
    """All alert rules."""
    (group,) = yaml.safe_load(RULES.read_text())["groups"]
    return list(group["rules"])


def test_every_alert_is_unit_tested_and_has_a_runbook() -> None:
    """A section that says what it means, what it does to users, how to find the cause, and what to do."""
    sections = {part.split("\n")[0].strip(): part for part in RUNBOOKS.read_text().split("\n## ")[1:]}
    tested = (DEPLOY / "prometheus" / "alerts.test.yaml").read_text()
    for rule in alerts():
        name = rule["alert"]
        assert {"summary", "description", "runbook"} == set(rule["annotations"])
        assert rule["annotations"]["runbook"] == f"deploy/runbooks.md#{name.lower()}"
        for part in ("**Meaning.**", "**Impact.**", "**Diagnosis.**", "**Mitigation.**"):
            assert part in sections[name], f"{name} lacks {part}"
        assert re.search(rf"alertname: {name}\n\s+exp_alerts", tested), f"nothing shows that {name} fires"
        assert re.search(rf"alertname: {name}}}", tested), f"nothing shows that {name} keeps quiet"
    assert len(sections) == len(alerts())


def known_series() -> set[str]:
    """All names that may stand in a query."""
    names = {family.exposed for family in FAMILIES if family.kind is not Kind.HISTOGRAM}
    names |= {family.name + suffix for family in FAMILIES for suffix in SUFFIXES.get(family.kind, ())}
    return names | CLIENT_LIBRARY | {"up"}


def names_in(expression: str) -> set[str]:
    """Names of metrics in a query."""
    return set(re.findall(r"\b(?:tally|process|python)_[a-z_]+|\bup\b", re.sub(r'"[^"]*"', "", expression)))


def test_rules_ask_for_metrics_that_there_are() -> None:
    """By the catalog: a metric that is renamed does not silence an alert."""
    for rule in alerts():
        assert names_in(rule["expr"])
        assert names_in(rule["expr"]) <= known_series()


def operator_rules() -> str:
    """The rules as the Prometheus operator wants them."""
    head = "# Made from deploy/prometheus/alerts.yaml: python -m tests.deploy.test_prometheus\n"
    metadata = {"name": "tally", "namespace": "tally", "labels": {"app.kubernetes.io/name": "tally"}}
    rule = {"apiVersion": "monitoring.coreos.com/v1", "kind": "PrometheusRule", "metadata": metadata}
    return head + yaml.safe_dump(rule | {"spec": yaml.safe_load(RULES.read_text())}, sort_keys=False, width=132)


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


def dashboards() -> dict[str, Any]:
    """File name → dashboard, as they are stored."""
    return {path.name: json.loads(path.read_text()) for path in sorted(DASHBOARDS.glob("*.json"))}


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
        return [each for number, item in enumerate(given) for each in lost(item, kept[number], f"{path}/{number}")]
    return [] if given == kept else [f"{path}: {given!r}"]


@pytest.mark.parametrize("name", sorted(path.name for path in DASHBOARDS.glob("*.json")))
def test_grafana_knows_every_field(name: str) -> None:
    """Read into Grafana's own model and written again: no field is unknown, misspelt, or not one of its panel's options."""
    register_default_plugins()
    document = dashboards()[name]
    model = Dashboard.from_json(json.loads(json.dumps(document)))  # it changes what it is given
    assert lost(document, json.loads(json.dumps(model, cls=JSONEncoder))) == []


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


@pytest.mark.parametrize("name", sorted(path.name for path in DASHBOARDS.glob("*.json")))
def test_a_dashboard_is_complete(name: str) -> None:
    """Panels say what they show, in which unit, do not overlap, and ask the chosen data source for metrics that there are."""
    dashboard = dashboards()[name]
    variables = {variable["name"] for variable in dashboard["templating"]["list"]}
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        assert len(panel["description"]) > 15
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert panel["datasource"]["uid"] == "${datasource}"
        grid = panel["gridPos"]
        cells = {(x, y) for x in range(grid["x"], grid["x"] + grid["w"]) for y in range(grid["y"], grid["y"] + grid["h"])}
        assert not cells & taken
        assert grid["x"] + grid["w"] <= 24
        taken |= cells
        for target in panel["targets"]:
            assert target["datasource"]["uid"] == "${datasource}"
            assert names_in(target["expr"]) <= known_series()
            assert set(re.findall(r"\$(\w+)", target["expr"])) <= variables | {"__rate_interval"}
    titles = [panel["title"] for panel in dashboard["panels"]]
    assert len(set(titles)) == len(titles)


def filled_in(expression: str) -> str:
    """A query as Grafana sends it."""
    values = {"$job": "tally", "$pool": ".+", "$instance": ".+", "$__rate_interval": "1m"}
    for variable, value in values.items():
        expression = expression.replace(variable, value)
    return expression


def quick_rules() -> dict[str, Any]:
    """The rules without patience, and with limits that a test reaches: 5 s of silence, 4 MiB of database."""
    text = RULES.read_text().replace("> 30\n", "> 5\n").replace("> 120\n", "> 5\n").replace("2147483648", str(4 * 2**20))
    rules: dict[str, Any] = yaml.safe_load(text)
    for rule in rules["groups"][0]["rules"]:
        rule["for"] = "0s"
    return rules


class Watched(NamedTuple):
    """A cluster, and the Prometheus that scrapes it."""

    cluster: LocalCluster
    prometheus: Prometheus


def addresses(cluster: LocalCluster) -> list[str]:
    """What Prometheus scrapes."""
    return [f"127.0.0.1:{replica.status_port}" for replica in cluster.replicas]


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """Three replicas with something to show: tasks of all ends in a pool with three resources."""
    folder = tmp_path_factory.mktemp("watched")
    settings = {**QUICK, "TALLY_AUDIT_INTERVAL_SECONDS": "1"}
    with local_cluster(folder / "cluster", settings=settings) as cluster, cluster.client() as client:
        client.apply_pool({"name": "default", "capacity": {"cpu": 4, "memory": "1Gi", "gpu": 2}})
        resources = {"cpu": "1", "memory": "16Mi", "gpu": 1}
        tasks = [{"id": f"ok-{n}", "command": ["sleep", "0.2"], "resources": resources} for n in range(6)]
        tasks += [{"id": f"bad-{n}", "command": ["false"], "resources": resources} for n in range(3)]
        with prometheus(folder / "prometheus", addresses(cluster), quick_rules()) as server:
            client.submit_many(tasks)
            client.wait([str(task["id"]) for task in tasks], timeout_seconds=60)
            yield Watched(cluster, server)


def test_every_panel_shows_something(watched: Watched) -> None:
    """Each query of each dashboard, as Grafana sends it, gives numbers on a cluster that works."""
    wait_ready(watched.cluster)
    client = watched.cluster.client()
    client.submit_many([{"id": f"more-{n}", "command": ["sleep", "0.1"], "resources": {"cpu": 1, "gpu": 1}} for n in range(20)])
    for target in targets():
        if names_in(target.expr) <= SINCE_ETCD_3_6:
            continue

        def has_numbers(expression: str = filled_in(target.expr)) -> bool:
            return any(series["value"][1] != "NaN" for series in watched.prometheus.query(expression))

        wait_until(has_numbers, f"data for {target}", timeout=60.0, poll=0.2)
    client.close()


def test_nothing_fires_when_all_is_well(watched: Watched) -> None:
    """Without any patience."""
    wait_ready(watched.cluster)
    wait_until(lambda: not watched.prometheus.firing(), "silence", poll=0.2)


def fires(server: Prometheus, alert: str) -> None:
    """Waits until the alert fires."""
    wait_until(lambda: alert in server.firing(), alert, timeout=90.0, poll=0.2)


def is_silent(watched: Watched, *names: str) -> None:
    """Waits until none of the alerts fires."""
    wait_until(lambda: not watched.prometheus.firing() & set(names), f"an end of {names}", timeout=90.0, poll=0.2)


def test_a_ledger_that_was_changed_by_hand(watched: Watched) -> None:
    """Somebody else's write to a ledger: drift, and the leader's audit of itself finds it. Undone, both end."""
    key = Keys("default").ledger("default")
    with watched.cluster.client() as client:
        before = overwrite(client, key, b'{"held": {"cpu": "3"}}')
        fires(watched.prometheus, "TallyLedgerDrift")
        fires(watched.prometheus, "TallyAuditFindings")
        overwrite(client, key, before)
    is_silent(watched, "TallyLedgerDrift", "TallyAuditFindings")


def overwrite(client: Client, key: str, value: bytes) -> bytes:
    """Put a value around Tally, as an operator's etcdctl would; returns what stood there."""
    deadline = client.clock.boottime() + 30
    before, _ = client.store.get(key, deadline=deadline)
    assert before is not None
    transaction = Transaction((Guard(key, before.mod),), (Put(key, value),), uuid.uuid4().hex)
    assert isinstance(client.store.commit(transaction, deadline=deadline), Committed)
    return before.value


def test_a_replica_that_is_gone_and_a_leader_that_changes_often(watched: Watched) -> None:
    """A follower is killed and comes back; the leader steps down again and again."""
    cluster = watched.cluster
    follower = next(replica for replica in cluster.replicas if replica is not leader_of(cluster))
    kill(follower)
    fires(watched.prometheus, "TallyReplicaDown")
    cluster.start_replica(follower)
    wait_ready(cluster)
    is_silent(watched, "TallyReplicaDown")

    with cluster.client() as client:
        for _ in range(6):
            leader = leader_of(cluster)
            term = client.leader()
            client.step_down()
            wait_until(partial(changed_hands, watched, term.epoch if term else 0), f"a term after {leader.name}'s", timeout=60.0)
    fires(watched.prometheus, "TallyLeaderFlapping")


def changed_hands(watched: Watched, epoch: int) -> bool:
    """Whether Prometheus has seen a later epoch on every replica."""
    seen = watched.prometheus.query('min(tally_epoch{job="tally"})')
    return bool(seen) and int(seen[0]["value"][1]) > epoch


def test_a_second_installation_under_the_same_job(watched: Watched, tmp_path: Path) -> None:
    """Two lead, as far as Prometheus can tell; by the fence this is all that can be seen of it."""
    with local_cluster(tmp_path / "other", replicas=1, settings=QUICK) as other:
        both = [*addresses(watched.cluster), *addresses(other)]
        with prometheus(tmp_path / "prometheus", both, quick_rules()) as server:
            fires(server, "TallyTwoLeaders")


def test_etcd_goes_silent_and_comes_back(watched: Watched) -> None:
    """Stopped in its tracks: no leader, calls that fail, replicas that hear nothing. All end when it goes on."""
    etcd_pid = watched.cluster.etcd.pid
    with watched.cluster.client() as client:
        client.submit({"id": "waits-for-etcd", "command": ["true"], "resources": {"cpu": 1}})
    os.kill(etcd_pid, signal.SIGSTOP)
    try:
        for alert in ("TallyNoLeader", "TallyEtcdErrors", "TallyFollowerLag"):
            fires(watched.prometheus, alert)
    finally:
        os.kill(etcd_pid, signal.SIGCONT)
    is_silent(watched, "TallyNoLeader", "TallyFollowerLag")


def test_an_engine_that_cannot_be_used(watched: Watched) -> None:
    """The folder of the process engine is taken away, as a file server that is gone would."""
    attempts = watched.cluster.state_dir / "default" / "attempts"
    away = attempts.with_name("away")
    attempts.rename(away)
    try:
        fires(watched.prometheus, "TallyEngineSilent")
    finally:
        shutil.rmtree(attempts, ignore_errors=True)
        away.rename(attempts)
    is_silent(watched, "TallyEngineSilent")


def test_a_database_that_grows(watched: Watched) -> None:
    """Tasks with large environments, which wait: above 80% of the limit."""
    with watched.cluster.client() as client:
        client.apply_pool({"name": "full", "capacity": {"cpu": 1}, "paused": True})
        env = {"TEXT": "x" * 30_000}
        client.submit_many([{"id": f"large-{n}", "pool": "full", "command": ["true"], "env": env} for n in range(150)])
    fires(watched.prometheus, "TallyStoreNearlyFull")


def test_a_leader_that_commits_nothing(tmp_path: Path) -> None:
    """Its loop hangs before a commit, while its lease still runs: the queue is stuck."""
    settings = {"TALLY_LEASE_TTL_SECONDS": "30", VARIABLE: "before-commit:hang"}
    with local_cluster(tmp_path / "cluster", replicas=1, settings=settings) as cluster, cluster.client() as client:
        leader_of(cluster)
        with prometheus(tmp_path / "prometheus", addresses(cluster), quick_rules()) as server:
            client.apply_pool({"name": "default", "capacity": {"cpu": 1}})
            client.submit({"id": "cannot-start", "command": ["true"], "resources": {"cpu": 1}})
            fires(server, "TallyQueueStuck")


def renew() -> None:
    """Write what is made from others."""
    OPERATOR_RULES.write_text(operator_rules())


if __name__ == "__main__":
    renew()
