"""The fake cluster without its wire: objects, nodes, kubelets, what goes wrong, and what really ran."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from controller.clock import Clock, SystemClock
from controller.dev.fake_kubernetes.access import TOKEN, USER, AccessControl
from controller.dev.fake_kubernetes.admission import AdmissionControl, Webhook
from controller.dev.fake_kubernetes.agenda import TimedCalls
from controller.dev.fake_kubernetes.api import FakeApi
from controller.dev.fake_kubernetes.apierrors import Document
from controller.dev.fake_kubernetes.cluster_events import EventRecorder
from controller.dev.fake_kubernetes.faults import Faults
from controller.dev.fake_kubernetes.kubelet import Kubelets, KubeletTimings
from controller.dev.fake_kubernetes.nodes import Nodes
from controller.dev.fake_kubernetes.pod_logs import PodLogs
from controller.dev.fake_kubernetes.pod_registry import DeleteOptions, PodRegistry
from controller.dev.fake_kubernetes.pod_run import Execution
from controller.dev.fake_kubernetes.pod_status import condition, with_condition
from controller.dev.fake_kubernetes.scheduler import Scheduler
from controller.dev.fake_kubernetes.script import ANNOTATION, Script, script_of
from controller.dev.fake_kubernetes.storage import Storage
from controller.dev.fake_kubernetes.timestamps import timestamp
from controller.dev.fake_kubernetes.version import parse_version
from controller.dev.fake_kubernetes.watching import OpenWatches


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterOptions:
    """How a fake cluster is made.

    `scale` is how many real seconds one second of the cluster takes: run times, graces, deadlines and
    `timings` are in seconds of the cluster; watch time-outs, bookmarks and delays of requests are real.
    `token` gives all rights: make it secret if others than tests can reach the port.
    """

    version: str = "v1.33.1"
    scale: float = 1.0
    timings: KubeletTimings = field(default_factory=KubeletTimings)
    script: Callable[[Document], Script | None] | None = None
    bookmark_seconds: float = 5.0
    history_limit: int = 10_000
    seed: int = 0
    node: bool = True
    clock: Clock | None = None
    token: str = TOKEN


class ClusterState:
    """What an API server, its scheduler, and nodes with their kubelets know; `http_server` serves it."""

    def __init__(self, options: ClusterOptions) -> None:
        timings = options.timings
        self.clock = options.clock or SystemClock()
        self.version = parse_version(options.version)
        self.default_script = options.script
        """What pods without the annotation do; None, or the answer None: as their command says."""
        self.missing_images: set[str] = set()
        self.storage = Storage(history_limit=options.history_limit)
        self.token = options.token
        self.access = AccessControl({options.token: USER})
        self.admission = AdmissionControl(self.storage)
        self.faults = Faults(seed=options.seed)
        self.watches = OpenWatches(self.storage)
        self._agenda = TimedCalls(self.clock, self.storage.lock, scale=options.scale)
        self._registry = PodRegistry(self.storage, self.version, self.clock, self.admission)
        recorder = EventRecorder(self.storage, self.clock)
        self.nodes = Nodes(self.storage, self._registry, self._agenda, monitor_seconds=timings.node_monitor)
        self._scheduler = Scheduler(
            self.storage,
            self._registry,
            self.nodes,
            self._agenda,
            recorder,
            delay=timings.schedule,
            script_of=self._script_of,
        )
        self._kubelets = Kubelets(
            self._registry,
            self.nodes,
            self._agenda,
            recorder,
            version=self.version,
            timings=timings,
            script_of=self._script_of,
        )
        self.storage.pods.observers += [self._scheduler.observe, self._kubelets.observe]
        self._logs = PodLogs(self.storage, self._kubelets.runs, self._agenda)
        self.api = FakeApi(
            self.storage, self._registry, self._logs, self.clock, self.version, options.bookmark_seconds
        )
        self.add_namespace("default")
        if options.node:
            self.add_node("node1")

    def start(self) -> None:
        """Let time pass: pods are scheduled, run and end."""
        self._agenda.start()

    def end_streams(self) -> None:
        """End parked requests, watches and followed logs, so that their connections can be closed."""
        self.faults.close()
        with self.storage.changed:
            self._logs.closed = True
            self.watches.cut()
            self.storage.changed.notify_all()

    def stop(self) -> None:
        """Stop the time of the cluster."""
        self._agenda.stop()

    def add_namespace(
        self, name: str, *, labels: Mapping[str, str] | None = None, terminating: bool = False, uid: str = ""
    ) -> None:
        """Add a namespace, active or being deleted; it replaces one of that name."""
        with self.storage.lock:
            document = self.api.add_namespace(name, labels or {}, uid).copy()
            if terminating:
                document["status"]["phase"] = "Terminating"
                self.storage.namespaces.put(document)

    def remove_namespace(self, name: str) -> None:
        """Remove the namespace. Its pods must be removed before."""
        with self.storage.lock:
            self.storage.namespaces.remove(("", name))

    def add_node(
        self,
        name: str,
        *,
        cpu: str = "64",
        memory: str = "256Gi",
        pods: int = 10_000,
        labels: Mapping[str, str] | None = None,
        resources: Mapping[str, str] | None = None,
    ) -> None:
        """Add a node with these allocatable resources; `resources` are further ones, such as a GPU's."""
        with self.storage.lock:
            self.nodes.add(
                name,
                cpu=cpu,
                memory=memory,
                pods=pods,
                labels=dict(labels or {}),
                extra=dict(resources or {}),
            )
            self._scheduler.plan()

    def set_quota(self, namespace: str, hard: Mapping[str, str] | None, *, name: str = "quota") -> None:
        """Set a ResourceQuota over pods, requests.cpu, requests.memory; None removes it."""
        with self.storage.lock:
            quotas = self.admission.quotas.setdefault(namespace, {})
            quotas.pop(name, None)
            if hard is not None:
                quotas[name] = dict(hard)

    def add_webhook(
        self,
        message: str,
        *,
        name: str = "policy.example.com",
        code: int = 403,
        denies: Callable[[Document], bool] = lambda _: True,
    ) -> Webhook:
        """Deny pods; remove it from `admission.webhooks`."""
        webhook = Webhook(name, message, denies, code)
        self.admission.webhooks.append(webhook)
        return webhook

    def pods(self, namespace: str = "") -> list[Document]:
        """All pods, as they are, without the API."""
        with self.storage.lock:
            return [
                stored.copy()
                for stored in self.storage.pods.items.values()
                if namespace in ("", stored.key[0])
            ]

    def pod(self, name: str, namespace: str = "default") -> Document | None:
        """One pod, as it is, without the API."""
        with self.storage.lock:
            stored = self.storage.pods.get((namespace, name))
            return stored.copy() if stored else None

    @property
    def executions(self) -> list[Execution]:
        """What really ran, in the order of starts; see Execution. No API call and no fault changes it."""
        with self.storage.lock:
            return list(self._kubelets.executions)

    def overlaps(self) -> list[tuple[Execution, Execution]]:
        """Pairs of executions of one task (label tally.dev/task) that overlapped. There must be none."""
        by_task: dict[str, list[Execution]] = {}
        for execution in self.executions:
            if execution.task:
                by_task.setdefault(execution.task, []).append(execution)
        pairs: list[tuple[Execution, Execution]] = []
        for runs in by_task.values():
            for first, second in itertools.combinations(runs, 2):  # in the order of their starts
                if first.ended is None or second.started < first.ended:
                    pairs.append((first, second))
        return pairs

    def lose_node(self, name: str = "node1", *, containers_die: bool = False) -> None:
        """Cut the kubelet off. Its containers keep running, unless the machine itself goes down."""
        with self.storage.lock:
            self.nodes.lose(name)
            if containers_die:
                self._kubelets.lose_containers(name)

    def restore_node(self, name: str = "node1") -> None:
        """Bring the kubelet back."""
        with self.storage.lock:
            self.nodes.restore(name)
            self._kubelets.report_node(name)
            self._scheduler.plan()

    def remove_node(self, name: str) -> None:
        """Delete the node object; its pods are removed by force."""
        with self.storage.lock:
            self.nodes.remove(name)

    def evict(self, name: str, namespace: str = "default") -> None:
        """Make the kubelet evict the pod for its memory."""
        with self.storage.lock:
            pod = self._registry.get((namespace, name))
            self._kubelets.evict(self._kubelets.runs[pod.document["metadata"]["uid"]])

    def preempt(self, name: str, namespace: str = "default") -> None:
        """Make the scheduler preempt the pod for one of higher priority."""
        with self.storage.lock:
            pod = self._registry.get((namespace, name))
            if self.version.has_disruption_target:
                message = "default-scheduler: preempting to accommodate a higher priority pod"
                target = condition(
                    "DisruptionTarget", True, timestamp(self.clock.now()), "PreemptionByScheduler", message
                )
                self._registry.set_status(pod, with_condition(pod.copy()["status"], target))
            self._registry.delete(pod.key, DeleteOptions())

    def vanish(self, name: str, namespace: str = "default") -> None:
        """Remove the pod's object, despite its finalizers."""
        with self.storage.lock:
            self._registry.get((namespace, name))
            self._registry.vanish((namespace, name))

    def _script_of(self, pod: Document) -> Script:
        if self.default_script is not None and ANNOTATION not in (pod["metadata"].get("annotations") or {}):
            script = self.default_script(pod)
            if script is not None:
                return script
        return script_of(pod, self.missing_images)
