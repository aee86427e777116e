"""The component that adds a gateway, on top of the production overlay."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from kubernetes.client import models

from controller.config import load_settings
from controller.endpoint.connections import MAX_HEAD_BYTES
from controller.gateway.openings import MOST_CONNECTIONS
from controller.gateway.policy import parse_policy
from controller.gateway.server import STOP_SECONDS
from tests.support.kustomize import Object, copy_of_deploy, only, parts_of, render

OVERLAY = """
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources: [../production]
components: [../../components/gateway]
"""


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> list[Object]:
    deploy = copy_of_deploy(tmp_path_factory.mktemp("deploy"))
    overlay = deploy / "kubernetes/overlays/with-gateway"
    overlay.mkdir()
    (overlay / "kustomization.yaml").write_text(OVERLAY)
    return render(overlay)


def own(objects: list[Object]) -> list[Object]:
    return parts_of(objects, "tally-gateway")


def test_every_object_is_what_the_api_knows(objects: list[Object]) -> None:
    """No field is unknown, misspelt, of another type, or missing."""
    assert len(own(objects)) == 9
    for each in own(objects):
        model = getattr(models, f"V1{each['kind']}").from_dict(each)
        assert model.model_dump(by_alias=True, exclude_none=True, mode="json") == each


def test_settings_are_those_that_tally_reads(objects: list[Object], tmp_path: Path) -> None:
    """Each variable is a setting, and the policy is a valid one."""
    pod = only(objects, "Deployment", "tally-gateway")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    environ = {each["name"]: each["value"] for each in container["env"]}
    for name in environ:
        if name.endswith("_FILE"):
            file = tmp_path / Path(environ[name]).name
            file.touch()
            environ[name] = str(file)
    settings = load_settings({}, environ, None).settings
    assert settings.gateway == "0.0.0.0:9190"
    assert settings.gateway_kubernetes
    assert settings.gateway_kubernetes_audiences == ("tally",)
    mounts = {each["name"] for each in container["volumeMounts"]}
    assert mounts == {each["name"] for each in pod["volumes"]}
    (policy,) = [
        each for each in objects if each["kind"] == "ConfigMap" and "policy.toml" in each.get("data", {})
    ]
    assert pod["volumes"][0]["configMap"]["name"] == policy["metadata"]["name"]
    (rule,) = parse_policy(policy["data"]["policy.toml"]).rules
    assert rule.verbs == {"submit", "read-own", "cancel-own"}


def test_it_is_confined(objects: list[Object]) -> None:
    """As Pod Security's `restricted` wants; it may read outputs, ask about tokens, and nothing else."""
    pod = only(objects, "Deployment", "tally-gateway")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    replica = only(objects, "Deployment", "tally")["spec"]["template"]["spec"]
    assert container["securityContext"] == replica["containers"][0]["securityContext"]
    assert pod["securityContext"] == replica["securityContext"]
    assert pod["terminationGracePeriodSeconds"] > STOP_SECONDS
    verbs: list[Any] = [
        verb for rule in only(objects, "Role", "tally-gateway")["rules"] for verb in rule["verbs"]
    ]
    assert set(verbs) <= {"get", "list"}
    policy = only(objects, "NetworkPolicy", "tally-gateway")["spec"]
    assert policy["ingress"][0]["ports"] == [{"port": 9190}]
    assert MOST_CONNECTIONS * MAX_HEAD_BYTES < 512 * 2**20, "what idle connections may cost"
