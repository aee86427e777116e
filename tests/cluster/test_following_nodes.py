"""Pools whose capacity follows the nodes of a real Kubernetes: nodes are added, cordoned, lost and removed.

The nodes are objects without a machine: the test sends their heartbeats, as a kubelet would. What the node
controller makes of a node without heartbeats is its own: it marks it as unknown after 40 s, and taints it.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from kubernetes import client

from controller.client import PoolView
from controller.core.model.lifecycle import State
from controller.dev.cluster import LocalCluster
from tests.cluster.conftest import pool
from tests.cluster.test_cluster import PATIENCE, Make, is_running, wait_for
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("cluster"), pytest.mark.timeout(900)]

BEAT_SECONDS = 10.0
TAINT = "tally.dev/test"


class Machines:
    """Nodes without machines, with label and taint of their own; heartbeats until they are `lost`."""

    def __init__(self, core: Any) -> None:
        self.label = f"tally-test-{uuid.uuid4().hex[:8]}"
        self.names: dict[str, dict[str, str]] = {}
        self._core = core
        self._ended = threading.Event()
        self._beats = threading.Thread(target=self._beat)
        self._beats.start()

    def add(self, name: str, **allocatable: str) -> str:
        """A node that is ready; returns its full name."""
        full = f"{self.label}-{name}"
        metadata = client.V1ObjectMeta(name=full, labels={"pool": self.label})
        taint = client.V1Taint(key=TAINT, value=self.label, effect="NoSchedule")  # no pods of other tests
        self._core.create_node(client.V1Node(metadata=metadata, spec=client.V1NodeSpec(taints=[taint])))
        self.names[full] = allocatable
        self._send(full)
        return full

    def lose(self, full: str) -> None:
        """No further heartbeat."""
        del self.names[full]

    def close(self) -> None:
        self._ended.set()
        self._beats.join(60)
        for node in self._core.list_node(label_selector=f"pool={self.label}").items:
            self._core.delete_node(node.metadata.name)

    def _beat(self) -> None:
        while not self._ended.wait(BEAT_SECONDS):
            for full in list(self.names):
                self._send(full)

    def _send(self, full: str) -> None:
        now = datetime.now(UTC).isoformat()
        ready = {
            "type": "Ready",
            "status": "True",
            "reason": "KubeletReady",
            "lastHeartbeatTime": now,
            "lastTransitionTime": now,
        }
        amounts = {"pods": "110", **self.names[full]}
        status = {"capacity": amounts, "allocatable": amounts, "conditions": [ready]}
        self._core.patch_node_status(full, {"status": status})


@pytest.fixture
def machines(core: Any) -> Iterator[Machines]:
    made = Machines(core)
    yield made
    made.close()


@pytest.fixture
def following(
    request: pytest.FixtureRequest, tally: LocalCluster, namespace: str, machines: Machines
) -> Iterator[str]:
    """A pool whose capacity follows the machines; removed afterwards."""
    definition = pool(request, namespace)
    definition |= {
        "name": machines.label,
        "capacity": {"from": "nodes", "selector": f"pool={machines.label}"},
    }
    options = definition["engine_options"]
    tolerated = {"key": TAINT, "operator": "Equal", "value": machines.label, "effect": "NoSchedule"}
    template = {"spec": {**options["pod_template"].get("spec", {}), "tolerations": [tolerated]}}
    definition["engine_options"] = {**options, "pod_template": template}
    with tally.client() as users:
        users.apply_pool(definition)
    yield machines.label
    with tally.client() as users:
        users.delete_pool(machines.label)


def await_pool(tally: LocalCluster, name: str, what: str, is_so: Callable[[PoolView], bool]) -> PoolView:
    """The pool, once it is so."""

    def found() -> PoolView | None:
        with tally.client() as users:
            return next(view for view in users.pools() if view.name == name and is_so(view))

    def seen() -> PoolView | None:
        try:
            return found()
        except StopIteration:
            return None

    view = wait_until(seen, f"pool {name} having {what}", timeout=PATIENCE, poll=0.5)
    assert view is not None
    return view


def why(view: PoolView) -> str:
    """The cause of the last change."""
    assert view.observed is not None
    assert view.observed.last is not None
    return view.observed.last.why


def has(cpu: str) -> Callable[[PoolView], bool]:
    """Whether the pool has so much cpu."""
    return lambda view: view.capacity.format().get("cpu", "0") == cpu


def test_the_capacity_follows_nodes_that_come_are_cordoned_and_go(
    tally: LocalCluster, core: Any, namespace: str, machines: Machines, following: str
) -> None:
    """Each with its cause. What others request of a node is not the pool's."""
    await_pool(tally, following, "no node", lambda view: view.observed is not None and has("0")(view))
    first = machines.add("a", cpu="8", memory="16Gi")
    view = await_pool(tally, following, "the first", has("8"))
    assert why(view) in (f"node {first} became ready", f"node {first} was added")
    second = machines.add("b", cpu="4", memory="8Gi")
    await_pool(tally, following, "both", has("12"))
    spec = client.V1PodSpec(
        node_name=second,
        containers=[
            client.V1Container(
                name="web", image="pause", resources=client.V1ResourceRequirements(requests={"cpu": "1500m"})
            )
        ],
    )
    web = f"{machines.label}-web"
    core.create_namespaced_pod(namespace, client.V1Pod(metadata=client.V1ObjectMeta(name=web), spec=spec))
    view = await_pool(tally, following, "less", has("10500m"))
    assert why(view) == f"pods of others request more of node {second}"
    core.delete_namespaced_pod(web, namespace, grace_period_seconds=0)
    await_pool(tally, following, "it back", has("12"))
    core.patch_node(first, {"spec": {"unschedulable": True}})
    view = await_pool(tally, following, "the second alone", has("4"))
    assert why(view) == f"node {first} is cordoned"
    core.patch_node(first, {"spec": {"unschedulable": False}})
    view = await_pool(tally, following, "both again", has("12"))
    assert why(view) == f"node {first} is cordoned no more"
    core.delete_node(second)
    machines.lose(second)
    view = await_pool(tally, following, "the first alone", has("8"))
    assert why(view) == f"node {second} is gone"


@pytest.mark.slow
def test_what_is_held_of_a_node_without_heartbeats_stays_until_it_ends(
    tally: LocalCluster, core: Any, machines: Machines, following: str, task: Make
) -> None:
    """The node controller finds it unknown. The pool then has what its task holds, and nothing else."""
    lost = machines.add("a", cpu="4", memory="8Gi")
    await_pool(tally, following, "the node", has("4"))
    place = {"spec": {"nodeSelector": {"pool": following}}}
    first = task("sleep 600", pool=following, resources={"cpu": "3", "memory": "64Mi"}, pod_template=place)
    with tally.client() as users:
        users.submit(first)
    wait_for(tally, first["id"], "admitted", lambda view: view.state is State.PENDING)
    machines.lose(lost)
    view = await_pool(tally, following, "what is held", has("3"))
    assert why(view) == f"node {lost} is not ready"
    second = task("true", pool=following, resources={"cpu": "1", "memory": "64Mi"}, pod_template=place)
    with tally.client() as users:
        users.submit(second)
        told = users.explain(second["id"])
        assert f"node {lost} is not ready: cpu 4 → 0" in told, told
        users.cancel(second["id"])
        users.cancel(first["id"])
    core.delete_node(lost)  # nobody else can prove that the pod has stopped
    with tally.client() as users:
        users.wait([first["id"], second["id"]], timeout_seconds=PATIENCE)
    await_pool(tally, following, "nothing", has("0"))


def test_tasks_run_within_what_a_real_node_has(
    request: pytest.FixtureRequest, tally: LocalCluster, core: Any, namespace: str, task: Make
) -> None:
    """A pool that follows the cluster's own nodes, less what others request; its own pods are not theirs."""
    definition = pool(request, namespace)
    definition |= {"name": "own-nodes", "capacity": {"from": "nodes", "selector": "!pool"}}
    with tally.client() as users:
        users.apply_pool(definition)

    def is_left(view: PoolView) -> bool:
        return view.capacity.get("cpu") == _cpu_left(core, namespace)

    await_pool(tally, "own-nodes", "what the nodes have left", is_left)
    spec = task("sleep 600", pool="own-nodes")
    with tally.client() as users:
        users.submit(spec)
    wait_for(tally, spec["id"], "running", is_running)
    await_pool(
        tally,
        "own-nodes",
        "what they have left beside its task",
        lambda view: bool(view.held) and is_left(view),
    )
    with tally.client() as users:
        users.cancel(spec["id"])
        users.wait([spec["id"]], timeout_seconds=PATIENCE)
        users.delete_pool("own-nodes")


def _cpu_left(core: Any, namespace: str) -> int:
    """What the nodes have, in milli, less what pods of other namespaces request; without the test's own."""
    nodes = {
        node.metadata.name: _milli(node.status.allocatable["cpu"])
        for node in core.list_node().items
        if not (node.metadata.labels or {}).get("pool")
    }
    for pod in core.list_pod_for_all_namespaces().items:
        has_ended = pod.status.phase in ("Succeeded", "Failed")
        if pod.spec.node_name in nodes and pod.metadata.namespace != namespace and not has_ended:
            nodes[pod.spec.node_name] -= _requested(pod)
    return sum(nodes.values())


def _requested(pod: Any) -> int:
    containers, before = (
        [_milli((each.resources.requests or {}).get("cpu", "0")) for each in found or ()]
        for found in (pod.spec.containers, pod.spec.init_containers)
    )
    return max(sum(containers), *before, 0)


def _milli(text: str) -> int:
    return int(text[:-1]) if text.endswith("m") else 1000 * int(text)
