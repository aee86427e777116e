"""The component that gives members of gangs their names, on top of the production overlay."""

from __future__ import annotations

from typing import Any

import pytest
from kubernetes.client import models

from controller.core.model.arrays import environment
from controller.engine.kubernetes.pod_template import build_pod, parse_options
from tests.engine.kubernetes_cases import launch
from tests.support.kustomize import Object, copy_of_deploy, only, render

OVERLAY = """
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources: [../production]
components: [../../components/gangs]
"""


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> list[Object]:
    deploy = copy_of_deploy(tmp_path_factory.mktemp("deploy"))
    overlay = deploy / "kubernetes/overlays/with-gangs"
    overlay.mkdir()
    (overlay / "kustomization.yaml").write_text(OVERLAY)
    return render(overlay)


def pod_of(engine_options: dict[str, Any]) -> Object:
    """The pod of a member, in the namespace of the attempts."""
    given = launch("true", task_id="train-i0", engine_options=engine_options, env=environment(0, 2))
    return build_pod(given, parse_options(given.pool), "tally-tasks")


def test_every_object_is_what_the_api_knows(objects: list[Object]) -> None:
    own = [each for each in objects if each["metadata"]["name"] == "gangs"]
    assert {each["kind"] for each in own} == {"Service", "NetworkPolicy"}
    for each in own:
        model = getattr(models, f"V1{each['kind']}").from_dict(each)
        assert model.model_dump(by_alias=True, exclude_none=True, mode="json") == each


def test_the_service_has_the_names_of_members_that_are_not_ready(objects: list[Object]) -> None:
    """DNS has a pod's name if the Service selects the pod, in its namespace, and is its subdomain."""
    service = only(objects, "Service", "gangs")
    pod = pod_of({"pod_template": {"spec": {"subdomain": service["metadata"]["name"]}}})
    assert service["metadata"]["namespace"] == pod["metadata"]["namespace"]
    assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    assert (service["spec"]["clusterIP"], service["spec"]["publishNotReadyAddresses"]) == ("None", True)
    assert not service["spec"]["selector"].items() <= pod_of({})["metadata"]["labels"].items()


def test_members_are_called_by_members_alone(objects: list[Object]) -> None:
    """`no-ingress` keeps everybody from calling attempts, and policies add up."""
    policy = only(objects, "NetworkPolicy", "gangs")
    selector = {"matchLabels": only(objects, "Service", "gangs")["spec"]["selector"]}
    closed = only(objects, "NetworkPolicy", "no-ingress")
    assert closed["metadata"]["namespace"] == policy["metadata"]["namespace"]
    assert policy["spec"] == {
        "podSelector": selector,
        "policyTypes": ["Ingress"],
        "ingress": [{"from": [{"podSelector": selector}]}],
    }


def test_the_controller_needs_no_further_right(objects: list[Object]) -> None:
    (role,) = [each for each in objects if each["kind"] in ("Role", "ClusterRole")]
    assert {name for rule in role["rules"] for name in rule["resources"]} == {
        "pods",
        "pods/log",
        "events",
        "namespaces",
    }
