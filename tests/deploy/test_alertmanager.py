"""The whole way of an alert: our rules on a real Prometheus, our routes on a real Alertmanager, and a
receiver that is told.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.monitoring import RULES, alerts
from tests.support.alertmanager import Receiver, alertmanager
from tests.support.etcd import free_ports
from tests.support.kustomize import DEPLOY
from tests.support.prometheus import prometheus
from tests.support.waiting import wait_until

CONFIG = DEPLOY / "prometheus" / "alertmanager.yaml"

pytestmark = [pytest.mark.xdist_group("prometheus"), pytest.mark.timeout(300)]


def amtool(*arguments: str) -> str:
    """Alertmanager's own checks."""
    if shutil.which("amtool") is None:
        pytest.skip("amtool is not installed (Debian: prometheus-alertmanager)")
    done = subprocess.run(["amtool", *arguments], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_amtool_accepts_the_example() -> None:
    assert "SUCCESS" in amtool("check-config", str(CONFIG))


def test_every_alert_is_routed_by_its_severity() -> None:
    """And what an inhibition names is an alert that there is."""
    for rule in alerts():
        labels = [f"alertname={rule['alert']}", f"severity={rule['labels']['severity']}"]
        receiver = amtool("config", "routes", "test", f"--config.file={CONFIG}", *labels).strip()
        assert receiver == ("on-call" if rule["labels"]["severity"] == "critical" else "team")
    named = yaml.safe_load(CONFIG.read_text())["inhibit_rules"]
    words = " ".join(
        matcher for rule in named for matcher in (*rule["source_matchers"], *rule["target_matchers"])
    )
    names = {word for word in words.replace("|", " ").replace('"', " ").split() if word.startswith("Tally")}
    assert names <= {rule["alert"] for rule in alerts()}


def quick(config: dict[str, Any], receiver: str) -> dict[str, Any]:
    """The example with less patience, and with an address of ours under the names of its receivers."""
    config["route"]["group_wait"] = "5s"  # in which what explains an alert is heard of
    config["route"]["routes"][0]["group_wait"] = "1s"
    for each in config["receivers"]:
        each["webhook_configs"][0]["url"] = f"{receiver}/{each['name']}"
    return config


def test_an_alert_reaches_its_receiver_with_its_runbook(tmp_path: Path) -> None:
    """No replica answers: whoever is on call hears that nobody leads, and where to read on, and not of
    each replica as well.
    """
    shutil.copytree(DEPLOY, tmp_path / "deploy")
    subprocess.run(
        [tmp_path / "deploy" / "prometheus" / "link-runbooks.sh", "https://wiki.example.org/tally"],
        check=True,
    )
    rules = yaml.safe_load((tmp_path / "deploy" / RULES.relative_to(DEPLOY)).read_text())
    for rule in rules["groups"][0]["rules"]:
        rule["for"] = "0s"
    (nobody,) = free_ports(1)
    receiver = Receiver()
    try:
        with (
            alertmanager(
                tmp_path / "alertmanager", quick(yaml.safe_load(CONFIG.read_text()), receiver.url)
            ) as manager,
            prometheus(tmp_path / "prometheus", [f"127.0.0.1:{nobody}"], rules, [manager.address]) as server,
        ):
            wait_until(
                lambda: {"TallyNoLeader", "TallyReplicaDown"} <= server.firing(), "both alerts", timeout=60
            )
            told = wait_until(lambda: list(receiver.alerts), "a word to the receiver", timeout=60)
            wait_until(lambda: "TallyReplicaDown" in manager.suppressed(), "the inhibition", timeout=60)
    finally:
        receiver.close()
    assert {(path, alert["labels"]["alertname"]) for path, alert in receiver.alerts} == {
        ("/on-call", "TallyNoLeader")
    }
    alert = told[0][1]
    assert alert["status"] == "firing"
    assert alert["labels"]["severity"] == "critical"
    assert alert["annotations"]["runbook_url"] == "https://wiki.example.org/tally/runbooks.md#tallynoleader"
    assert alert["annotations"]["summary"] == "No replica of Tally leads"
