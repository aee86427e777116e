"""The nodes: their capacity, the reachability of their kubelets, and the node controller."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal

from controller.dev.fake_kubernetes.agenda import Step, TimedCalls
from controller.dev.fake_kubernetes.apierrors import Document
from controller.dev.fake_kubernetes.pod_defaults import quantity
from controller.dev.fake_kubernetes.pod_registry import TERMINAL, DeleteOptions, PodRegistry
from controller.dev.fake_kubernetes.pod_status import condition, with_condition
from controller.dev.fake_kubernetes.storage import Storage, Stored
from controller.dev.fake_kubernetes.timestamps import timestamp

UNREACHABLE = "node.kubernetes.io/unreachable"
UNSCHEDULABLE = "node.kubernetes.io/unschedulable"


@dataclass(slots=True)
class Node:
    """One machine. `deferred` holds what its kubelet will do when it is back."""

    name: str
    allocatable: dict[str, str]
    labels: dict[str, str] = field(default_factory=dict)
    connected: bool = True
    ready: bool = True
    cordoned: bool = False
    taints: list[Document] = field(default_factory=list)  # that others have put on it
    deferred: list[Step] = field(default_factory=list)

    def capacity(self, resource: str) -> Decimal:
        """Allocatable of one resource; 0 for what the node does not have."""
        return quantity(self.allocatable.get(resource, "0"))

    def when_connected(self, step: Step) -> None:
        """Do it now, or when the kubelet is back."""
        if self.connected:
            step()
        else:
            self.deferred.append(step)


class Nodes:
    """All nodes, and the node controller. Calls need the storage's lock."""

    def __init__(
        self, storage: Storage, registry: PodRegistry, agenda: TimedCalls, *, monitor_seconds: float
    ) -> None:
        self._storage = storage
        self._registry = registry
        self._agenda = agenda
        self._monitor_seconds = monitor_seconds
        self.by_name: dict[str, Node] = {}

    def add(
        self, name: str, *, cpu: str, memory: str, pods: int, labels: dict[str, str], extra: dict[str, str]
    ) -> Node:
        """Add a node; `extra` are further resources."""
        allocatable = {"cpu": cpu, "memory": memory, "pods": str(pods), **extra}
        node = self.by_name[name] = Node(name, allocatable, {"kubernetes.io/hostname": name, **labels})
        self._write(node)
        return node

    def lose(self, name: str) -> None:
        """Cut the kubelet off; its containers keep running. Noticed after the monitor's grace."""
        self.by_name[name].connected = False
        self._agenda.after(self._monitor_seconds, lambda: self._notice(name))

    def restore(self, name: str) -> None:
        """Bring the kubelet back. It does what was deferred."""
        node = self.by_name[name]
        node.connected = node.ready = True
        self._write(node)
        deferred, node.deferred = node.deferred, []
        for step in deferred:
            step()

    def cordon(self, name: str, on: bool = True) -> None:
        """Let no further pod begin there, as `kubectl cordon` does; or again, if not `on`."""
        node = self.by_name[name]
        node.cordoned = on
        self._write(node)

    def taint(self, name: str, *taints: Document) -> None:
        """Give the node these taints in place of those before, such as {key, value, effect}."""
        node = self.by_name[name]
        node.taints = list(taints)
        self._write(node)

    def set_allocatable(self, name: str, **amounts: str) -> None:
        """Change what pods may request there."""
        node = self.by_name[name]
        node.allocatable |= amounts
        self._write(node)

    def remove(self, name: str) -> None:
        """Delete the node object; the pod garbage collector removes its pods by force."""
        self.by_name.pop(name)
        self._storage.nodes.remove(("", name))
        for pod in self.pods_on(name):
            self._registry.delete(
                pod.key, DeleteOptions(grace_seconds=0, uid=pod.document["metadata"]["uid"])
            )

    def pods_on(self, name: str) -> list[Stored]:
        """The pods bound to the node, in order."""
        return [
            pod for pod in self._storage.pods.items.values() if pod.document["spec"].get("nodeName") == name
        ]

    def _notice(self, name: str) -> None:
        node = self.by_name.get(name)
        if node is None or node.connected:
            return
        node.ready = False
        self._write(node)
        for pod in self.pods_on(name):
            if pod.document["status"]["phase"] not in TERMINAL:
                self._mark_not_ready(pod)
        # With every node lost the node controller holds back: it is more likely that it is cut off itself.
        if any(each.ready for each in self.by_name.values()):
            for pod in self.pods_on(name):
                self._evict_after_toleration(pod, node)

    def _mark_not_ready(self, pod: Stored) -> None:
        status = pod.copy()["status"]
        self._registry.set_status(pod, with_condition(status, condition("Ready", False, self._now())))

    def _evict_after_toleration(self, pod: Stored, node: Node) -> None:
        tolerated = [
            each.get("tolerationSeconds")
            for each in pod.document["spec"]["tolerations"]
            if each.get("key", UNREACHABLE) == UNREACHABLE and each.get("effect", "NoExecute") == "NoExecute"
        ]
        if not tolerated or None in tolerated:
            return
        uid = pod.document["metadata"]["uid"]

        def evict() -> None:
            found = self._storage.pods.get(pod.key)
            if found is not None and found.document["metadata"]["uid"] == uid and not node.ready:
                self._registry.delete(pod.key, DeleteOptions())

        self._agenda.after(min(tolerated), evict)

    def _write(self, node: Node) -> None:
        now = self._now()
        old = self._storage.nodes.get(("", node.name))
        document: Document = (
            old.copy() if old else {"kind": "Node", "apiVersion": "v1", "spec": {}, "status": {}}
        )
        document.setdefault(
            "metadata", {"name": node.name, "labels": node.labels, "uid": node.name, "creationTimestamp": now}
        )
        reason, message = ("KubeletReady", "kubelet is posting ready status")
        if not node.ready:
            reason, message = ("NodeStatusUnknown", "Kubelet stopped posting node status.")
        ready = condition("Ready", node.ready, now, reason, message)
        if not node.ready:
            ready["status"] = "Unknown"
        taints = [*node.taints]
        if not node.ready:
            effects = ("NoSchedule", "NoExecute")
            taints += [{"key": UNREACHABLE, "effect": effect, "timeAdded": now} for effect in effects]
        if node.cordoned:
            taints.append({"key": UNSCHEDULABLE, "effect": "NoSchedule", "timeAdded": now})
        document["spec"] = {"taints": taints} if taints else {}
        document["spec"] |= {"unschedulable": True} if node.cordoned else {}
        resources = {"capacity": node.allocatable, "allocatable": node.allocatable}
        document["status"] = with_condition(document["status"] | resources, ready)
        self._storage.nodes.put(document)

    def _now(self) -> str:
        return timestamp(self._agenda.clock.now())
