"""Watches the nodes, and what pods that are not ours request of them, while a pool's capacity follows nodes.

Both are cluster-wide: a service account needs `get`, `list` and `watch` of nodes, and `list` and `watch` of
the pods of all namespaces (see `deploy/autoscaling.md`). Changes that come together are told together.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import structlog

from controller.core.model.nodes import NodeRoom
from controller.core.model.resources import ZERO, Vector
from controller.engine.kubernetes.api import KubernetesApi
from controller.engine.kubernetes.node_objects import NodeObject, PlacedPod, read_node, read_placed
from controller.engine.kubernetes.pod import Pod, attempt_of
from controller.engine.kubernetes.watch import ObjectWatch, Pace, Watching, run_watches
from controller.engine.ownership import Owning
from controller.errors import InvalidField

NODES_PATH, PODS_PATH = "/api/v1/nodes", "/api/v1/pods"
PLACED = {"fieldSelector": "spec.nodeName!=,status.phase!=Succeeded,status.phase!=Failed"}
"""The pods that occupy a node, as the scheduler counts them."""

LABEL_PLACEHOLDER = "tally.dev/placeholder"
"""On pods that give way to those of tasks, and so are not counted (`deploy/autoscaling.md`)."""

SETTLE_SECONDS = 1.0

log = structlog.get_logger(__name__)

Key = tuple[str, str]
"""Namespace and name of a pod."""


class NodeSurvey:
    """See the module's docstring."""

    def __init__(self, api: KubernetesApi, cluster: str, owner: Owning, pace: Pace) -> None:
        self._api = api
        self._cluster = cluster
        self._owner = owner
        self._pace = pace
        self._lock = threading.Lock()
        self._changed = threading.Event()
        # None: not listed yet
        self._nodes: dict[str, NodeObject] | None = None
        self._placed: dict[Key, tuple[str, Vector]] | None = None
        self._others: dict[str, dict[str, int]] = {}  # node → what others request there
        self._troubles: dict[str, str] = {}

    def run(
        self,
        sink: Callable[[tuple[NodeRoom, ...]], None],
        trouble: Callable[[str], None],
        stop: threading.Event,
    ) -> None:
        """Tell `sink` of all nodes, and again after each change; `trouble` of why they cannot be seen.

        Returns when `stop` is set. Calls both from one thread.
        """
        watches: list[ObjectWatch[Any]] = [
            ObjectWatch(
                self._api,
                Watching(NODES_PATH, {}, read_node),
                self._pace,
                self._node,
                stop,
                listed=self._nodes_listed,
                trouble=lambda why: self._trouble("nodes", why),
            ),
            ObjectWatch(
                self._api,
                Watching(PODS_PATH, PLACED, read_placed),
                self._pace,
                self._pod,
                stop,
                listed=self._pods_listed,
                trouble=lambda why: self._trouble("the pods on nodes", why),
            ),
        ]

        def follow() -> None:
            run_watches(watches, ("nodes", "placed-pods"), stop)
            self._changed.set()

        following = threading.Thread(target=follow, name="node-survey", daemon=True)
        following.start()
        told: tuple[NodeRoom, ...] | None = None
        while True:
            self._changed.wait()
            if stop.wait(SETTLE_SECONDS):
                break
            self._changed.clear()
            with self._lock:
                why = "; ".join(f"{what}: {each}" for what, each in self._troubles.items())
                rooms = self._rooms()
            if why:
                trouble(why)
                told = None
            elif rooms is not None and rooms != told:
                sink(rooms)
                told = rooms
        following.join()

    # -- called by the watches

    def _node(self, node: NodeObject, removed: bool) -> None:
        with self._lock:
            if self._nodes is None:
                return  # the list that is being read is taken in as a whole
            self._nodes.pop(node.metadata.name, None)
            if not removed:
                self._nodes[node.metadata.name] = node
        self._changed.set()

    def _nodes_listed(self, nodes: list[NodeObject]) -> None:
        with self._lock:
            self._nodes = {node.metadata.name: node for node in nodes}
        self._changed.set()

    def _pod(self, pod: PlacedPod, removed: bool) -> None:
        with self._lock:
            if self._placed is None:
                return
            self._drop(pod)
            if not removed:
                self._place(pod)
        self._changed.set()

    def _pods_listed(self, pods: list[PlacedPod]) -> None:
        with self._lock:
            self._placed, self._others = {}, {}
            for pod in pods:
                self._place(pod)
        self._changed.set()

    def _trouble(self, what: str, why: str) -> None:
        with self._lock:
            if self._troubles.get(what, "") == why:
                return
            self._troubles.pop(what, None)
            if why:
                self._troubles[what] = why
        self._changed.set()

    # -- the caller holds the lock

    def _place(self, pod: PlacedPod) -> None:
        """Count a pod on its node, unless it is ours: what ours hold is in the ledgers."""
        assert self._placed is not None
        meta = pod.metadata
        is_ours = attempt_of(Pod(metadata=meta), self._cluster, self._owner.installation) is not None
        gives_way = LABEL_PLACEHOLDER in (meta.labels or {})
        if is_ours or gives_way or not pod.spec.node_name:
            return
        try:
            requests = pod.requests()
        except InvalidField as error:
            log.warning(
                "a pod's requests are not counted", pod=meta.name, namespace=meta.namespace, why=str(error)
            )
            return
        self._placed[meta.namespace, meta.name] = pod.spec.node_name, requests
        sums = self._others.setdefault(pod.spec.node_name, {})
        for name, amount in requests.items():
            sums[name] = sums.get(name, 0) + amount

    def _drop(self, pod: PlacedPod) -> None:
        assert self._placed is not None
        node, requests = self._placed.pop((pod.metadata.namespace, pod.metadata.name), ("", ZERO))
        for name, amount in requests.items():
            self._others[node][name] -= amount

    def _rooms(self) -> tuple[NodeRoom, ...] | None:
        """All nodes, by name; None while either list is missing."""
        if self._nodes is None or self._placed is None:
            return None
        return tuple(node.room(Vector(self._others.get(name))) for name, node in sorted(self._nodes.items()))
