"""The fake cluster as one object: start it, treat it badly, look at what really ran, stop it."""

from __future__ import annotations

import itertools
import json
import ssl
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from controller.clock import Clock, SystemClock
from controller.dev.fake_kubernetes.access import TOKEN, USER, AccessControl
from controller.dev.fake_kubernetes.admission import Admission, Webhook
from controller.dev.fake_kubernetes.agenda import Agenda
from controller.dev.fake_kubernetes.api import FakeApi
from controller.dev.fake_kubernetes.apierrors import Document
from controller.dev.fake_kubernetes.cluster_events import EventRecorder
from controller.dev.fake_kubernetes.faults import Faults
from controller.dev.fake_kubernetes.http_server import ConnectionServer
from controller.dev.fake_kubernetes.kubelet import Kubelets, KubeletTimings
from controller.dev.fake_kubernetes.nodes import Nodes
from controller.dev.fake_kubernetes.pod_logs import PodLogs
from controller.dev.fake_kubernetes.pod_registry import DeleteOptions, PodRegistry
from controller.dev.fake_kubernetes.pod_run import Execution
from controller.dev.fake_kubernetes.pod_status import condition, with_condition
from controller.dev.fake_kubernetes.scheduler import Scheduler
from controller.dev.fake_kubernetes.script import ANNOTATION, Script, script_of
from controller.dev.fake_kubernetes.storage import Storage, Stored
from controller.dev.fake_kubernetes.timestamps import timestamp
from controller.dev.fake_kubernetes.version import parse_version
from controller.dev.fake_kubernetes.watching import WatchStream


class FakeCluster:
    """One API server, its scheduler, and nodes with their kubelets, on 127.0.0.1.

    `scale` is how many real seconds one second of the cluster takes: run times, graces, deadlines and
    `timings` are in seconds of the cluster; watch time-outs, bookmarks and delays of requests are real. With
    `tls` it is served over that. Whoever knows `token` may do everything: a secret one, where others than
    tests reach the port.
    """

    def __init__(
        self,
        *,
        version: str = "v1.33.1",
        scale: float = 1.0,
        port: int = 0,
        timings: KubeletTimings | None = None,
        script: Callable[[Document], Script | None] | None = None,
        bookmark_seconds: float = 5.0,
        history_limit: int = 10_000,
        seed: int = 0,
        node: bool = True,
        clock: Clock | None = None,
        tls: ssl.SSLContext | None = None,
        token: str = TOKEN,
    ) -> None:
        timings = timings or KubeletTimings()
        self.clock = clock or SystemClock()
        self.version = parse_version(version)
        self.default_script = script
        """What pods without the annotation do; None, or the answer None: as their command says."""
        self.missing_images: set[str] = set()
        self.storage = Storage(history_limit=history_limit)
        self.token = token
        self.access = AccessControl({token: USER})
        self.admission = Admission(self.storage)
        self.faults = Faults(seed=seed)
        self.watches: set[WatchStream] = set()
        self._agenda = Agenda(self.clock, self.storage.lock, scale=scale)
        self._registry = PodRegistry(self.storage, self.version, self.clock, self.admission)
        recorder = EventRecorder(self.storage, self.clock)
        self._nodes = Nodes(self.storage, self._registry, self._agenda, monitor_seconds=timings.node_monitor)
        self._scheduler = Scheduler(
            self.storage,
            self._registry,
            self._nodes,
            self._agenda,
            recorder,
            delay=timings.schedule,
            script_of=self._script_of,
        )
        self._kubelets = Kubelets(
            self.storage,
            self._registry,
            self._nodes,
            self._agenda,
            recorder,
            version=self.version,
            timings=timings,
            script_of=self._script_of,
        )
        self.storage.pods.observers += [self._scheduler.observe, self._kubelets.observe]
        self._logs = PodLogs(self.storage, self._kubelets.runs, self._agenda)
        self.api = FakeApi(
            self.storage, self._registry, self._logs, self.clock, self.version, bookmark_seconds
        )
        self._failure: BaseException | None = None
        self._server = ConnectionServer("127.0.0.1", port, self, tls)
        self._scheme = "http" if tls is None else "https"
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.02,), name="fake-kubernetes-listener", daemon=True
        )
        self.add_namespace("default")
        if node:
            self.add_node("node1")

    # --- life
    # ---------------------------------------------------------------------------------------------------

    def start(self) -> FakeCluster:
        """Serve. The same object, for `with FakeCluster().start() as cluster`."""
        self._agenda.start()
        self._thread.start()
        return self

    def stop(self) -> None:
        """End all connections and threads. Raises what went wrong inside a request, if anything did."""
        self.faults.close()
        with self.storage.changed:
            self._logs.closed = True
            for watch in self.watches:
                watch.cut()
            self.storage.changed.notify_all()
        if self._thread.ident is not None:
            self._server.end()
            self._thread.join()
        self._server.server_close()
        self._agenda.stop()
        if self._failure is not None:
            raise self._failure

    def __enter__(self) -> FakeCluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        """http://127.0.0.1:PORT, or https."""
        return f"{self._scheme}://127.0.0.1:{self.port}"

    def kubeconfig(
        self, path: Path, *, token: str = "", namespace: str = "default", ca_file: str = ""
    ) -> Path:
        """Write a kubeconfig for this server, with its token unless told otherwise, for its owner only;
        returns `path`.

        `ca_file`: the authority of its certificate. Without TLS kubectl is anonymous, since it sends no token
        in the clear.
        """
        cluster = {"server": self.url} | ({"certificate-authority": ca_file} if ca_file else {})
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "fake",
            "clusters": [{"name": "fake", "cluster": cluster}],
            "users": [{"name": "fake", "user": {"token": token or self.token}}],
            "contexts": [
                {"name": "fake", "context": {"cluster": "fake", "user": "fake", "namespace": namespace}}
            ],
        }
        path.touch(mode=0o600)
        path.write_text(json.dumps(document, indent=2))  # JSON is YAML
        return path

    def note_failure(self, error: BaseException | None) -> None:
        """A mistake of the fake itself, kept for `stop`."""
        self._failure = self._failure or error

    # --- what is there
    # ------------------------------------------------------------------------------------------

    def add_namespace(
        self, name: str, *, labels: Mapping[str, str] | None = None, terminating: bool = False, uid: str = ""
    ) -> None:
        """An active namespace, or one that is being deleted; replaces one of that name."""
        with self.storage.lock:
            document = self.api.add_namespace(name, labels or {}, uid).copy()
            if terminating:
                document["status"]["phase"] = "Terminating"
                self.storage.namespaces.put(document)

    def remove_namespace(self, name: str) -> None:
        """The namespace is gone; its pods must be gone before."""
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
        """A node with these allocatable resources; `resources` are further ones, such as a GPU's."""
        with self.storage.lock:
            self._nodes.add(
                name,
                cpu=cpu,
                memory=memory,
                pods=pods,
                labels=dict(labels or {}),
                extra=dict(resources or {}),
            )
            self._scheduler.plan()

    def set_quota(self, namespace: str, hard: Mapping[str, str] | None, *, name: str = "quota") -> None:
        """A ResourceQuota over pods, requests.cpu, requests.memory; None removes it."""
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
        """Pairs of executions of one task (label tally.dev/task) that ran at the same time: none may
        exist.
        """
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

    # --- what happens to pods and nodes
    # -------------------------------------------------------------------------

    def lose_node(self, name: str = "node1", *, containers_die: bool = False) -> None:
        """The kubelet cannot be reached; its containers run on, unless the machine itself went down."""
        with self.storage.lock:
            self._nodes.lose(name)
            if containers_die:
                self._kubelets.lose_containers(name)

    def restore_node(self, name: str = "node1") -> None:
        """The kubelet is back."""
        with self.storage.lock:
            self._nodes.restore(name)
            self._kubelets.report_node(name)
            self._scheduler.plan()

    def remove_node(self, name: str) -> None:
        """The node object is deleted; its pods are removed by force."""
        with self.storage.lock:
            self._nodes.remove(name)

    def evict(self, name: str, namespace: str = "default") -> None:
        """The kubelet evicts the pod for its memory."""
        with self.storage.lock:
            pod = self._registry.get((namespace, name))
            self._kubelets.evict(self._kubelets.runs[pod.document["metadata"]["uid"]])

    def preempt(self, name: str, namespace: str = "default") -> None:
        """The scheduler deletes the pod for one of higher priority."""
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
        """The pod's object is removed, whatever its finalizers say."""
        with self.storage.lock:
            self._registry.get((namespace, name))
            self._registry.vanish((namespace, name))

    # --- what happens to watches and history
    # --------------------------------------------------------------------

    def cut_watches(self) -> None:
        """Close the connections of all open watches in the middle."""
        self._each_watch(WatchStream.cut)

    def freeze_watches(self) -> None:
        """All open watches fall silent, with their connections kept; watches that are opened later work."""
        self._each_watch(WatchStream.freeze)

    def thaw_watches(self) -> None:
        """Frozen watches go on where they stopped."""
        self._each_watch(WatchStream.thaw)

    def expire_watches(self) -> None:
        """All open watches are told 410 in the stream, and end."""
        self._each_watch(WatchStream.expire)

    def replay(self, kind: str, pod: Document) -> None:
        """Send an old event of a pod to all open watches of pods once more."""
        stored = Stored(("", ""), 0, pod, json.dumps(pod).encode())
        with self.storage.lock:
            for watch in self.watches:
                if watch.collection is self.storage.pods:
                    watch.inject(kind, stored.body)

    def compact(self) -> None:
        """Forget the history: new watches and continued lists of older versions answer 410."""
        self.storage.compact()

    def restart(self) -> None:
        """The API server restarts: connections break, the history is empty; objects, nodes and containers
        stay.
        """
        self.storage.compact()
        self.cut_watches()
        self._server.drop_connections()

    def lag(self, behind: bool = True) -> None:
        """While on, lists with resourceVersion=0 answer what was true when it was switched on."""
        with self.storage.lock:
            self.api.stale = dict(self.storage.pods.items) if behind else None

    def _each_watch(self, act: Callable[[WatchStream], None]) -> None:
        with self.storage.lock:
            for watch in self.watches:
                act(watch)

    def _script_of(self, pod: Document) -> Script:
        if self.default_script is not None and ANNOTATION not in (pod["metadata"].get("annotations") or {}):
            script = self.default_script(pod)
            if script is not None:
                return script
        return script_of(pod, self.missing_images)
