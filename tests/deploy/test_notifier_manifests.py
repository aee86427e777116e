"""The component that adds notifiers, on top of the production overlay; and the unit for systemd."""

from __future__ import annotations

import re
from ipaddress import ip_network
from pathlib import Path

import pytest
from kubernetes.client import models

from controller.config import load_settings
from controller.notifier.addresses import _REFUSED, is_usable
from tests.support.kustomize import Object, copy_of_deploy, only, parts_of, render

OVERLAY = """
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources: [../production]
components: [../../components/notifier]
"""
UNIT = Path(__file__).parents[2] / "deploy/systemd/tally-notifier.service"


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> list[Object]:
    deploy = copy_of_deploy(tmp_path_factory.mktemp("deploy"))
    overlay = deploy / "kubernetes/overlays/with-notifier"
    overlay.mkdir()
    (overlay / "kustomization.yaml").write_text(OVERLAY)
    return render(overlay)


def test_every_object_is_what_the_api_knows(objects: list[Object]) -> None:
    """No field is unknown, misspelt, of another type, or missing."""
    own = parts_of(objects, "tally-notifier")
    assert len(own) == 3
    for each in own:
        model = getattr(models, f"V1{each['kind']}").from_dict(each)
        assert model.model_dump(by_alias=True, exclude_none=True, mode="json") == each


def test_settings_are_those_that_tally_reads(objects: list[Object], tmp_path: Path) -> None:
    pod = only(objects, "Deployment", "tally-notifier")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    environ = {each["name"]: each["value"] for each in container["env"]}
    for name in environ:
        if name.endswith("_FILE"):
            file = tmp_path / Path(environ[name]).name
            file.touch()
            environ[name] = str(file)
    assert load_settings({}, environ, None).settings.notifier == "0.0.0.0:9191"
    assert {each["name"] for each in container["volumeMounts"]} == {each["name"] for each in pod["volumes"]}


def test_it_is_confined(objects: list[Object]) -> None:
    """As a replica, and without a token of Kubernetes: it talks to strangers."""
    pod = only(objects, "Deployment", "tally-notifier")["spec"]["template"]["spec"]
    replica = only(objects, "Deployment", "tally")["spec"]["template"]["spec"]
    assert pod["containers"][0]["securityContext"] == replica["containers"][0]["securityContext"]
    assert pod["securityContext"] == replica["securityContext"]
    assert pod["automountServiceAccountToken"] is False
    assert "serviceAccountName" not in pod


def test_the_network_refuses_what_the_notifier_refuses(objects: list[Object]) -> None:
    """And nothing else: a receiver whose addresses are dropped would be tried in vain."""
    (https,) = [
        rule
        for rule in only(objects, "NetworkPolicy", "tally-notifier")["spec"]["egress"]
        if any("ipBlock" in to for to in rule.get("to", ()))
    ]
    blocks = [
        (ip_network(block["cidr"]), [ip_network(each) for each in block["except"]])
        for block in (to["ipBlock"] for to in https["to"])
    ]
    networks = [*_REFUSED, *(net for block, but in blocks for net in (block, *but))]
    edges = {edge for net in networks for edge in (net[0], net[-1])}
    for edge in edges:
        for step in (-1, 0, 1):
            if 0 <= int(edge) + step < 2**edge.max_prefixlen:
                address = edge + step
                passes = any(
                    address in block and not any(address in each for each in but) for block, but in blocks
                )
                assert passes is is_usable(address, ()), address


def test_the_unit_has_the_settings_and_the_sandbox_of_a_gateway() -> None:
    text = UNIT.read_text()
    assert "ExecStart=/opt/tally/bin/tally notifier\n" in text
    assert set(re.findall(r"TALLY_\w+", text)) == {"TALLY_NOTIFIER_SECRETS_FILE"}
    gateway = UNIT.with_name("tally-gateway.service").read_text()
    sandbox = [
        line for line in gateway.splitlines() if re.match(r"(Protect|Private|Restrict|No|Cap|System)", line)
    ]
    assert len(sandbox) > 15
    # a notifier does not look ahead
    looks = ["SystemCallFilter=setpriority sched_setscheduler"]
    assert [line for line in sandbox if line not in text.splitlines()] == looks
