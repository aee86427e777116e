"""What the kubernetes engine sees of nodes, on the fake cluster: rooms, changes, and nodes out of sight."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from msgspec.structs import replace

from controller.core.model.installation import Installation
from controller.core.model.nodes import NodeRoom, Taint
from controller.core.model.resources import Vector
from controller.dev.fake_kubernetes import FakeCluster
from controller.engine.kubernetes import node_survey
from controller.engine.kubernetes.engine import KubernetesEngine
from controller.engine.kubernetes.node_objects import read_node, read_placed
from controller.errors import InvalidField
from tests.engine.kubernetes_cases import Engines, launch
from tests.engine.process_cases import wait_for
from tests.support.fake_cluster import RawApi, task_pod


class Seen:
    """What a survey has told so far."""

    def __init__(self) -> None:
        self.nodes: dict[str, NodeRoom] = {}
        self.trouble = ""

    def sink(self, nodes: tuple[NodeRoom, ...]) -> None:
        self.nodes, self.trouble = {node.name: node for node in nodes}, ""

    def lose(self, why: str) -> None:
        self.trouble = why

    def wait(self, what: str, is_so: Callable[[], Any]) -> None:
        wait_for(lambda: bool(is_so()), what, 20.0)

    def room(self, name: str = "node1") -> dict[str, str]:
        node = self.nodes.get(name)
        return {each: node.room.format().get(each, "0") for each in ("cpu", "memory")} if node else {}


@contextmanager
def surveying(engine: KubernetesEngine) -> Iterator[Seen]:
    seen, stop = Seen(), threading.Event()
    thread = threading.Thread(target=engine.survey, args=(seen.sink, seen.lose, stop))
    thread.start()
    try:
        yield seen
    finally:
        stop.set()
        thread.join(20)
        assert not thread.is_alive()


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_survey, "SETTLE_SECONDS", 0.02)


def pod(name: str, cpu: str, memory: str = "1Gi", **spec: Any) -> dict[str, Any]:
    """A pod that no Tally has made, which runs on."""
    body = task_pod(name, "sleep", "3600")
    body["metadata"].pop("labels")
    body["spec"]["containers"][0]["resources"] = {"requests": {"cpu": cpu, "memory": memory}}
    body["spec"] |= spec
    return body


def test_a_node_and_what_others_request_of_it(fake_cluster: FakeCluster, engines: Engines) -> None:
    engine, api = engines(fake_cluster), RawApi(fake_cluster)
    with surveying(engine) as seen:
        seen.wait("the node", lambda: seen.room() == {"cpu": "64", "memory": "256Gi"})
        api.create(pod("web", "1500m", "6Gi"))
        seen.wait("what it requests", lambda: seen.room() == {"cpu": "62500m", "memory": "250Gi"})
        api.send("DELETE", "/web", params={"gracePeriodSeconds": "0"})
        seen.wait("its end", lambda: seen.room() == {"cpu": "64", "memory": "256Gi"})


def test_pods_that_wait_for_a_node_or_have_ended_take_nothing(
    fake_cluster: FakeCluster, engines: Engines
) -> None:
    engine, api = engines(fake_cluster), RawApi(fake_cluster)
    api.create(pod("nowhere", "1000"))
    ended = pod("ended", "2")
    ended["spec"]["containers"][0]["command"] = ["true"]
    api.create(ended)
    api.create(pod("web", "1"))

    def phase() -> str:
        found = fake_cluster.state.pod("ended")
        return str(found and found["status"]["phase"])

    wait_for(lambda: phase() == "Succeeded", "its end", 20.0)
    with surveying(engine) as seen:
        seen.wait("the node", lambda: seen.room().get("cpu") == "63")


def test_our_own_pods_are_not_others(fake_cluster: FakeCluster, engines: Engines) -> None:
    """Those of this installation are in its ledgers; those of another of the same name are not."""
    ours, theirs = engines(fake_cluster), engines(fake_cluster)
    ours.bind(Installation(id="a1"))
    theirs.bind(Installation(id="b2"))
    with surveying(ours) as seen:
        seen.wait("the node", lambda: seen.room().get("cpu") == "64")
        for engine, cpu, mark in ((ours, 4000, "a1"), (theirs, 3000, "b2")):
            asked = launch("sleep", "3600", resources=Vector({"cpu": cpu}))
            engine.start(replace(asked, installation=mark))
        seen.wait("the other's", lambda: seen.room().get("cpu") == "61")


def test_a_node_changes(fake_cluster: FakeCluster, engines: Engines) -> None:
    nodes, lock = fake_cluster.state.nodes, fake_cluster.state.storage.lock
    with surveying(engines(fake_cluster)) as seen:
        seen.wait("the node", lambda: seen.nodes)
        fake_cluster.state.add_node(
            "gpu1", cpu="8", labels={"pool": "gpu"}, resources={"nvidia.com/gpu": "4"}
        )
        seen.wait("another one", lambda: "gpu1" in seen.nodes)
        assert seen.nodes["gpu1"].labels["pool"] == "gpu"
        assert seen.nodes["gpu1"].room == Vector({"cpu": 8000, "memory": 256 * 2**30, "nvidia.com/gpu": 4})
        with lock:
            nodes.cordon("gpu1")
        seen.wait("its cordon", lambda: seen.nodes["gpu1"].unusable() == "is cordoned")
        with lock:
            nodes.cordon("gpu1", False)
            nodes.taint(
                "gpu1",
                {"key": "gpu", "value": "yes", "effect": "NoSchedule"},
                {"key": "soft", "effect": "PreferNoSchedule"},
            )
        seen.wait("its taint", lambda: seen.nodes["gpu1"].taints == (Taint("gpu", "yes", "NoSchedule"),))
        with lock:
            nodes.set_allocatable("gpu1", cpu="7500m")
        seen.wait("less of it", lambda: seen.room("gpu1")["cpu"] == "7500m")
        fake_cluster.state.lose_node("gpu1")
        seen.wait("its kubelet to be gone", lambda: seen.nodes["gpu1"].unusable() == "is not ready")
        fake_cluster.state.restore_node("gpu1")
        seen.wait("it to be back", lambda: seen.nodes["gpu1"].is_ready)
        fake_cluster.state.remove_node("gpu1")
        seen.wait("it to be gone", lambda: "gpu1" not in seen.nodes)


def test_a_list_finds_what_the_watch_has_missed(fake_cluster: FakeCluster, engines: Engines) -> None:
    """A 410: a node and a pod that went meanwhile are gone, though no event has told it."""
    engine, api = engines(fake_cluster), RawApi(fake_cluster)
    fake_cluster.state.add_node("n2", cpu="8")
    api.create(pod("web", "4"))
    with surveying(engine) as seen:
        seen.wait("all of it", lambda: "n2" in seen.nodes and seen.room()["cpu"] == "60")
        fake_cluster.state.watches.freeze()
        fake_cluster.state.remove_node("n2")
        api.send("DELETE", "/web", params={"gracePeriodSeconds": "0"})
        wait_for(lambda: fake_cluster.state.pod("web") is None, "the pod to be gone", 20.0)
        fake_cluster.state.storage.compact()
        fake_cluster.state.watches.cut()
        seen.wait("what is left", lambda: "n2" not in seen.nodes and seen.room()["cpu"] == "64")


@pytest.mark.parametrize("resource", ["nodes", "pods"])
def test_a_missing_right_is_told_until_it_is_given(
    fake_cluster: FakeCluster, engines: Engines, resource: str
) -> None:
    fake_cluster.state.access.deny("list", resource, namespace="")
    with surveying(engines(fake_cluster)) as seen:
        seen.wait("why not", lambda: f'cannot list resource "{resource}"' in seen.trouble)
        assert not seen.nodes
        fake_cluster.state.access.permit("list", resource, namespace="")
        seen.wait("the node", lambda: seen.nodes and not seen.trouble)


def test_a_server_that_is_away_is_told_and_nothing_is_concluded(
    fake_cluster: FakeCluster, engines: Engines
) -> None:
    with surveying(engines(fake_cluster)) as seen:
        seen.wait("the node", lambda: seen.nodes)
        fake_cluster.state.faults.fail(503, "watch")
        fake_cluster.state.watches.cut()
        seen.wait("why not", lambda: seen.trouble)
        assert seen.nodes
        fake_cluster.state.faults.clear()
        seen.wait("the node again", lambda: not seen.trouble)


NODE = b'{"metadata":{"name":"n","labels":{"a":"b"}},"status":{"allocatable":%s,"conditions":%s}}'
READY = b'[{"type":"Ready","status":"True"}]'


@pytest.mark.parametrize(
    ("allocatable", "amounts"),
    [
        (b'{"cpu":"3920m","memory":"13Gi","pods":"110"}', {"cpu": "3920m", "memory": "13Gi"}),
        (b'{"cpu":"1500500u","memory":"1000500m"}', {"cpu": "1500m", "memory": "1000"}),
        (b'{"cpu":"x","memory":"1Gi","bad name":"1"}', {"memory": "1Gi"}),
        (b'{"attachable-volumes-aws-ebs":"25","hugepages-2Mi":"0"}', {}),
        (b"{}", {}),
        (b"null", {}),
    ],
)
def test_allocatable_is_rounded_down_and_what_cannot_be_read_is_nothing(
    allocatable: bytes, amounts: dict[str, str]
) -> None:
    assert read_node(NODE % (allocatable, READY)).room(Vector()).room.format() == amounts


@pytest.mark.parametrize("status", [b'{"conditions":3}', b'{"allocatable":[]}', b"7"])
def test_a_node_that_cannot_be_read_is_not_ready(status: bytes) -> None:
    node = read_node(b'{"metadata":{"name":"n","labels":{"a":"b"}},"status":' + status + b"}")
    assert node.unreadable
    room = node.room(Vector())
    assert (room.name, room.labels, room.is_ready) == ("n", {"a": "b"}, False)


def test_requests_are_counted_as_the_scheduler_does_and_rounded_up() -> None:
    """Sidecars, initialization, limits without requests, overhead, and parts of a unit."""
    placed = read_placed(
        b'{"metadata":{"name":"p"},"spec":{"nodeName":"n","overhead":{"cpu":"10m"},"containers":'
        b'[{"name":"a","resources":{"limits":{"cpu":"1"}}},'
        b'{"name":"b","resources":{"requests":{"cpu":"100500u","memory":"1500m"}}}],"initContainers":'
        b'[{"name":"s","restartPolicy":"Always","resources":{"requests":{"cpu":"200m"}}},'
        b'{"name":"i","resources":{"requests":{"memory":"1Gi"}}}]}}'
    )
    assert placed.requests().format() == {"cpu": "1311m", "memory": "1Gi"}


def test_requests_that_are_no_quantities_are_refused() -> None:
    placed = read_placed(b'{"spec":{"containers":[{"name":"a","resources":{"requests":{"cpu":"many"}}}]}}')
    with pytest.raises(InvalidField):
        placed.requests()


def test_placeholders_are_not_counted(fake_cluster: FakeCluster, engines: Engines) -> None:
    """They give way to the pods of tasks, so what they request is still the pool's."""
    api = RawApi(fake_cluster)
    with surveying(engines(fake_cluster)) as seen:
        seen.wait("the node", lambda: seen.nodes)
        held = pod("held", "4")
        held["metadata"]["labels"] = {node_survey.LABEL_PLACEHOLDER: "true"}
        api.create(held)
        api.create(pod("web", "1"))
        seen.wait("the other", lambda: seen.room()["cpu"] == "63")


def test_the_rights_are_reviewed_where_a_pool_follows_nodes(
    fake_cluster: FakeCluster, engines: Engines
) -> None:
    fake_cluster.state.access.deny("list", "nodes", namespace="")
    engine = engines(fake_cluster)
    assert engine.check_rights() == []
    (missing,) = engine.check_rights(follows_nodes=True)
    assert str(missing) == 'the whole cluster: {apiGroups: [""], resources: [nodes], verbs: [list]}'
