"""The worked example of autoscaling: a pool, placeholders for its demand, nodes of Karpenter, and rights."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest
import yaml
from kubernetes.client import models

from controller.cli.yaml12 import read_yaml
from controller.core.model.demand import pool_template
from controller.core.model.nodes import NodeRoom, Taint, count, tolerations_of
from controller.core.model.resources import Vector, parse_quantity
from controller.core.model.task import Pool
from controller.core.model.validation import parse_pool
from controller.engine.kubernetes.node_objects import PlacedPod, read_placed
from controller.engine.kubernetes.node_survey import LABEL_PLACEHOLDER
from controller.engine.kubernetes.rights import OF_NODES
from controller.telemetry.catalog import BY_NAME, ROLE
from tests.support.kustomize import DEPLOY, Object, copy_of_deploy, only, render

FOLDER = DEPLOY / "kubernetes/autoscaling"
OVERLAY = """
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources: [../production]
components: [../../components/nodes]
"""
SERIES = re.compile(r"max\((\w+)\{([^}]*)\}\)")


def documents(name: str) -> list[Object]:
    return [each for each in yaml.safe_load_all((FOLDER / name).read_text()) if each]


@pytest.fixture(scope="module")
def pool() -> Pool:
    """The pool, read as `tally apply` reads it."""
    ((document, _),) = read_yaml((FOLDER / "pool.yaml").read_text())
    return parse_pool(document)


@pytest.fixture(scope="module")
def node_pool() -> Object:
    return only(documents("karpenter.yaml"), "NodePool", "tally-batch")


def test_what_the_api_knows_is_what_it_knows() -> None:
    """The kinds of Kubernetes itself; the others are custom resources."""
    for each in documents("placeholders.yaml"):
        if each["apiVersion"] not in ("keda.sh/v1alpha1",):
            model = getattr(models, f"V1{each['kind']}").from_dict(each)
            assert model.model_dump(by_alias=True, exclude_none=True, mode="json") == each


def test_nodes_of_karpenter_are_those_of_the_pool(pool: Pool, node_pool: Object) -> None:
    """By label, and in spite of their taint; and the pods of the pool are placed on them alone."""
    template = node_pool["spec"]["template"]
    labels, taints = template["metadata"]["labels"], template["spec"]["taints"]
    node = NodeRoom(
        "n",
        labels,
        Vector({"cpu": 4000}),
        taints=tuple(Taint(each["key"], each["value"], each["effect"]) for each in taints),
    )
    others = NodeRoom("m", {}, Vector({"cpu": 4000}))
    assert pool.capacity_from is not None
    found = count([node, others], pool.capacity_from.selector, tolerations_of(pool_template(pool)))
    assert found.amounts == Vector({"cpu": 4000})
    assert count([node], pool.capacity_from.selector, ()).usable == 0
    assert pool_template(pool)["spec"]["nodeSelector"] == labels


def test_placeholders_go_where_the_pods_of_the_pool_go_and_give_way(pool: Pool) -> None:
    deployment = only(documents("placeholders.yaml"), "Deployment", "tally-placeholders-batch")
    pod = deployment["spec"]["template"]
    wanted = pool_template(pool)["spec"]
    assert pod["spec"]["nodeSelector"] == wanted["nodeSelector"]
    assert pod["spec"]["tolerations"] == wanted["tolerations"]
    assert LABEL_PLACEHOLDER in pod["metadata"]["labels"]
    priority = only(documents("placeholders.yaml"), "PriorityClass", pod["spec"]["priorityClassName"])
    assert priority["value"] == -10  # a lower one is no reason for cluster-autoscaler to add a node
    assert deployment["spec"]["replicas"] == 0


def test_there_are_as_many_placeholders_as_the_demand_asks_for(pool: Pool) -> None:
    """Each trigger asks for a series that Tally has, and its threshold is what one placeholder requests."""
    objects = documents("placeholders.yaml")
    scaled = only(objects, "ScaledObject", "tally-placeholders-batch")
    deployment = only(objects, "Deployment", scaled["spec"]["scaleTargetRef"]["name"])
    assert deployment["metadata"]["namespace"] == scaled["metadata"]["namespace"]
    placed: PlacedPod = read_placed(msgspec.json.encode(deployment["spec"]["template"]))
    requests, scales = placed.requests(), dict[str, int]()
    for trigger in scaled["spec"]["triggers"]:
        match = SERIES.fullmatch(trigger["metadata"]["query"])
        assert match is not None
        labels = dict(re.findall(r'(\w+)="([^"]*)"', match[2]))
        assert set(labels) == {*BY_NAME[match[1]].labels, ROLE}
        assert (match[1], labels["pool"], labels[ROLE]) == ("tally_pool_demand", pool.name, "leader")
        resource = labels["resource"]
        scales[resource] = parse_quantity(resource, trigger["metadata"]["threshold"])
    assert Vector(scales) == requests


def test_the_component_grants_what_a_survey_needs(tmp_path_factory: pytest.TempPathFactory) -> None:
    deploy: Path = copy_of_deploy(tmp_path_factory.mktemp("deploy"))
    overlay = deploy / "kubernetes/overlays/with-nodes"
    overlay.mkdir()
    (overlay / "kustomization.yaml").write_text(OVERLAY)
    objects = render(overlay)
    role = only(objects, "ClusterRole", "tally-nodes")
    assert {name: tuple(rule["verbs"]) for rule in role["rules"] for name in rule["resources"]} == OF_NODES
    binding = only(objects, "ClusterRoleBinding", "tally-nodes")
    accounts = [each for each in objects if each["kind"] == "ServiceAccount"]
    subject = binding["subjects"][0]
    assert any(
        (each["metadata"]["name"], each["metadata"]["namespace"]) == (subject["name"], subject["namespace"])
        for each in accounts
    )
    for each in (role, binding):
        model = getattr(models, f"V1{each['kind']}").from_dict(each)
        assert model.model_dump(by_alias=True, exclude_none=True, mode="json") == each
