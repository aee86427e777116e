"""Assigns pods without gates to nodes that fit, in the order of priority and age."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import NamedTuple

from controller.dev.fake_kubernetes.agenda import TimedCalls
from controller.dev.fake_kubernetes.apierrors import Document
from controller.dev.fake_kubernetes.cluster_events import EventRecorder
from controller.dev.fake_kubernetes.nodes import Node, Nodes
from controller.dev.fake_kubernetes.pod_defaults import requests_of
from controller.dev.fake_kubernetes.pod_registry import TERMINAL, PodRegistry
from controller.dev.fake_kubernetes.pod_status import not_scheduled, scheduled
from controller.dev.fake_kubernetes.script import Script
from controller.dev.fake_kubernetes.storage import Key, ObjectChange, Storage, Stored
from controller.dev.fake_kubernetes.timestamps import timestamp


class _Place(NamedTuple):
    node: str
    requests: dict[str, Decimal]


@dataclass(slots=True)
class _Waiting:
    requests: dict[str, Decimal]
    fits_nowhere: bool  # by its script
    said: str = ""


class Scheduler:
    """Is notified of every change of a pod; works from the agenda. Calls need the storage's lock."""

    def __init__(
        self,
        storage: Storage,
        registry: PodRegistry,
        nodes: Nodes,
        agenda: TimedCalls,
        recorder: EventRecorder,
        *,
        delay: float,
        script_of: Callable[[Document], Script],
    ) -> None:
        self._storage = storage
        self._registry = registry
        self._nodes = nodes
        self._agenda = agenda
        self._recorder = recorder
        self._delay = delay
        self._script_of = script_of
        self._waiting: dict[Key, _Waiting] = {}
        self._places: dict[str, _Place] = {}  # by uid
        self._used: dict[str, dict[str, Decimal]] = {}
        self._planned = False

    def observe(self, change: ObjectChange) -> None:
        """Take note of a pod's change."""
        pod = change.after.document
        uid = pod["metadata"]["uid"]
        gone = change.type == "DELETED"
        if pod["spec"].get("nodeName"):
            self._waiting.pop(change.after.key, None)
            if (gone or pod["status"]["phase"] in TERMINAL) and uid in self._places:
                self._release(uid)
            elif not gone and pod["status"]["phase"] not in TERMINAL and uid not in self._places:
                self._occupy(uid, _Place(pod["spec"]["nodeName"], requests_of(pod["spec"])))
        elif gone:
            self._waiting.pop(change.after.key, None)
        elif pod["spec"]["schedulerName"] != "default-scheduler":
            return  # another scheduler's
        elif change.after.key not in self._waiting or (
            change.before and _gates(change.before.document) != _gates(pod)
        ):
            fits_nowhere = self._script_of(pod).start == "unschedulable"
            self._waiting[change.after.key] = _Waiting(requests_of(pod["spec"]), fits_nowhere)
            self.plan()

    def plan(self) -> None:
        """Look at the waiting pods soon."""
        if not self._planned:
            self._planned = True
            self._agenda.after(self._delay, self._pass)

    def _pass(self) -> None:
        self._planned = False
        waiting = [pod for key in self._waiting if (pod := self._storage.pods.get(key)) is not None]
        waiting.sort(key=lambda pod: -pod.document["spec"]["priority"])  # stable: by age among equals
        for pod in waiting:
            if not _gates(pod.document) and "deletionTimestamp" not in pod.document["metadata"]:
                self._place(pod, self._waiting[pod.key])

    def _place(self, pod: Stored, waiting: _Waiting) -> None:
        refusals: Counter[str] = Counter()
        for node in self._nodes.by_name.values():
            why = self._refusals(node, pod.document, waiting)
            if not why:
                self._bind(pod, node)
                return
            refusals.update(why)
        reasons = ", ".join(f"{count} {why}" for why, count in sorted(refusals.items()))
        message = f"0/{len(self._nodes.by_name)} nodes are available: {reasons}."
        if message != waiting.said:
            waiting.said = message
            self._registry.set_status(
                pod, not_scheduled(pod.copy()["status"], "Unschedulable", message, self._now())
            )
            self._recorder.record(
                pod.document, "FailedScheduling", message, component="default-scheduler", warning=True
            )

    def _refusals(self, node: Node, pod: Document, waiting: _Waiting) -> list[str]:
        if waiting.fits_nowhere:
            return ["node(s) didn't match Pod's node affinity/selector"]
        if not node.ready:
            return ["node(s) had untolerated taint {node.kubernetes.io/unreachable: }"]
        if node.cordoned:
            return ["node(s) were unschedulable"]
        tolerations = pod["spec"].get("tolerations") or ()
        if any(not _is_tolerated(taint, tolerations) for taint in node.taints):
            return ["node(s) had untolerated taint"]
        selector = pod["spec"].get("nodeSelector") or {}
        if any(node.labels.get(name) != value for name, value in selector.items()):
            return ["node(s) didn't match Pod's node affinity/selector"]
        used = self._used.get(node.name, {})
        wanted = waiting.requests | {"pods": Decimal(1)}
        return [
            "Too many pods" if name == "pods" else f"Insufficient {name}"
            for name, amount in wanted.items()
            if used.get(name, Decimal(0)) + amount > node.capacity(name)
        ]

    def _bind(self, pod: Stored, node: Node) -> None:
        bound = self._registry.bind(pod, node.name, scheduled(pod.copy()["status"], self._now()))
        message = f"Successfully assigned {'/'.join(pod.key)} to {node.name}"
        self._recorder.record(bound.document, "Scheduled", message, component="default-scheduler")

    def _occupy(self, uid: str, place: _Place) -> None:
        self._places[uid] = place
        used = self._used.setdefault(place.node, {})
        for name, amount in (place.requests | {"pods": Decimal(1)}).items():
            used[name] = used.get(name, Decimal(0)) + amount

    def _release(self, uid: str) -> None:
        place = self._places.pop(uid)
        for name, amount in (place.requests | {"pods": Decimal(1)}).items():
            self._used[place.node][name] -= amount
        if self._waiting:
            self.plan()

    def _now(self) -> str:
        return timestamp(self._agenda.clock.now())


def _is_tolerated(taint: Document, tolerations: Iterable[Document]) -> bool:
    if taint["effect"] == "PreferNoSchedule":
        return True
    return any(
        each.get("key", taint["key"]) == taint["key"]
        and each.get("effect", taint["effect"]) == taint["effect"]
        and (each.get("operator") == "Exists" or each.get("value", "") == taint.get("value", ""))
        for each in tolerations
    )


def _gates(pod: Document) -> list[Document]:
    return list(pod["spec"].get("schedulingGates") or ())
