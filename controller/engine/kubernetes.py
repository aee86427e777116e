"""The Kubernetes engine: each attempt is a bare pod of its name; the phase is the truth about it, where evidence backs it.

How the name fences: the API server creates `<task-id>-<n>` once. A start that finds it adopts it, if the labels are ours,
and refuses if they are not (fault 29). A finished pod stays as the tombstone of its name until `forget`; a stop that finds no
pod leaves a tombstone, a pod that no scheduler takes, so that a creation that comes late finds the name taken (fault 28).

What is deleted is deleted with its uid as precondition and a grace of at least 1 s. A finalizer keeps the object after
that, so that its end is seen whoever deleted it and whoever leads then; `settle` lets go of it once the end is committed.
A pod in a terminal phase that proves no stop is not deleted: the server would remove it at once, and with it the evidence.

With the pool's option `scheduling_gates` (Kubernetes 1.27) a pod is created gated, and the gate is opened after `confirm` has
said that its leader still leads: a creation that lands late then never runs at all.

Watches select by label, and tell of a pod whose label was removed as of a deleted one; so an end that has no other proof is
believed once the name was asked for. Lists are of all pods of our namespaces: our finalizer tells which are ours without labels.

Namespaces: exactly those that are given are listed, watched and used, whatever pools name now or named before; so no
attempt is out of sight, and rights can be given for each. A pool that names another one is refused (see `PoolOptions`).

What this engine can prove, and what not, stands in `pod_observation`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import msgspec

from controller.clock import Clock
from controller.core.errors import InvalidField
from controller.core.installation import EngineIdentity
from controller.core.task import AttemptId, Launch, Observation, Phase
from controller.core.validation import parse_name
from controller.engine.base import AttemptRefused, AttemptUnknown, EngineUnavailable
from controller.engine.kubernetes_api import JSON_PATCH, Access, ApiRefused, KubernetesApi
from controller.engine.kubernetes_logs import PodEvent, read_log, recent_events
from controller.engine.kubernetes_refusals import to_refusal, unavailable
from controller.engine.kubernetes_rights import MissingRight, missing_rights
from controller.engine.kubernetes_server import identity, minor_version
from controller.engine.kubernetes_watch import LIST_SECONDS_FACTOR, PodWatch, list_pods, run_watches
from controller.engine.ownership import Owning
from controller.engine.pod import FINALIZER, GATE, LABEL_CLUSTER, Pod, attempt_of, decode_pod, pod_path, pods_path
from controller.engine.pod_observation import observe
from controller.engine.pod_template import Document, PoolOptions, build_pod, build_tombstone, parse_options, whole_seconds

_Observations = list[Observation]  # named before a method is called `list`
_Rights = list[MissingRight]
_Events = list[PodEvent]

_TRIES = 5  # at an object that changes under our hands
_FORGET_GRACE_SECONDS = 1
FIRST_MINOR_WITH_GATES = 27


@dataclass(frozen=True, slots=True, kw_only=True)
class KubernetesOptions:
    """`namespaces`: all that are used, the first for pools that name none; () for the configuration's own."""

    access: Access = field(default_factory=Access)
    namespaces: tuple[str, ...] = ()
    watch_seconds: float = 240.0  # the server ends a watch after this, up to half as much longer
    silence_seconds: float = 90.0  # a server sends bookmarks about every minute


class KubernetesEngine(Owning):
    """See the module's docstring. Safe to use from several threads. `faults` counts what went wrong with calls, by kind."""

    name = "kubernetes"

    def __init__(self, cluster: str, clock: Clock, options: KubernetesOptions) -> None:
        """Raises EngineUnavailable when there is no configuration, InvalidField when `cluster` is no DNS label."""
        super().__init__()
        self._cluster = parse_name(cluster, "cluster", "a cluster's name")
        self._options = options
        self._api = KubernetesApi(options.access, clock)
        self.namespaces = options.namespaces or (self._api.namespace,)
        self.faults, self.waited_seconds = self._api.faults, self._api.limit.waited
        self._selector = {"labelSelector": f"{LABEL_CLUSTER}={cluster}"}
        self._minor: int | None = None

    # -- the seam ----------------------------------------------------------------------------------------------------

    def identity(self) -> EngineIdentity:
        """See Engine."""
        return identity(self._api, self.namespaces)

    def start(self, launch: Launch, confirm: Callable[[], None] | None = None) -> Observation:
        """See Engine. AttemptRefused: InvalidPool, InvalidPod, NameTaken, and those of `kubernetes_refusals`."""
        pod = self._find(launch.attempt) if launch.repeated else None
        if pod is None:
            try:
                pod = self._create(launch)
            except AttemptRefused as refusal:
                if not launch.repeated or refusal.reason == "NameTaken":
                    raise
                # An earlier creation may still be on its way. Only with its name taken is nothing started for certain.
                pod = self._entomb(launch.attempt, f"{refusal}, and its name could not be taken")
                if pod is None or pod.is_tombstone:
                    raise
        if pod.is_gated and not pod.is_deleting:
            if confirm is not None:
                confirm()
            pod = self._open_gate(pod)
        return observe(pod)

    def stop(self, attempt: AttemptId, *, grace_seconds: float, uid: str = "") -> Observation | None:
        """See Engine. None when `uid` is not the attempt's."""
        for _ in range(_TRIES):
            pod = self._find(attempt)
            if pod is None and uid:
                return None
            if pod is None:
                pod = self._entomb(attempt, "its name could not be taken")
            if pod is None:
                return Observation(
                    attempt=attempt, phase=Phase.FAILED, stopped=True, ran=False, reason="NameTaken",
                    message="pods that are not Tally's have its name, so that it cannot be created",
                )  # fmt: skip
            if uid and pod.metadata.uid != uid:
                return None
            seen = observe(pod)
            if seen.stopped or pod.is_terminal:
                return seen
            deleted = self._delete(pod, whole_seconds(grace_seconds))
            if deleted is not None:
                return observe(deleted)
        raise EngineUnavailable(f"{attempt} changes while it is being stopped")

    def settle(self, attempt: AttemptId) -> None:
        """See Engine. Lets a deleted pod go."""
        pod = self._find(attempt)
        if pod is not None and observe(pod).awaits_commit:
            self._drop_finalizer(pod)

    def forget(self, attempt: AttemptId) -> None:
        """See Engine. A pod in a terminal phase is removed even if that proves no stop: its end was committed without."""
        for namespace in self.namespaces:
            pod = self._get(namespace, attempt)
            if pod is None or self._attempt_of(pod) != attempt or not (observe(pod).stopped or pod.is_terminal):
                continue
            if not pod.is_deleting:
                pod = self._delete(pod, _FORGET_GRACE_SECONDS)
            if pod is not None:
                self._drop_finalizer(pod)

    def list(self) -> _Observations:
        """See Engine. A tombstone that another namespace has of the same attempt is left out."""
        found: dict[AttemptId, Observation] = {}
        for _, pod in self._pods():
            seen = observe(pod)
            known = found.get(seen.attempt)
            if known is None or (known.stopped and not pod.is_tombstone):
                found[seen.attempt] = seen
        return [*found.values()]

    def watch(self, sink: Callable[[Observation], None], stop: threading.Event) -> None:
        """See Engine. `sink` is called from one thread for each namespace; never raises: each goes on by itself."""

        def report(pod: Pod, removed: bool) -> None:
            if (attempt := self._attempt_of(pod)) is None:
                return
            if removed and not observe(pod).stopped:
                current = self._get(pod.metadata.namespace, attempt)
                if current is not None and current.metadata.uid == pod.metadata.uid:
                    pod, removed = current, False  # it is there, and only its labels have changed
            sink(observe(pod, removed=removed))

        watches = [
            PodWatch(
                self._api,
                pods_path(namespace),
                self._selector,
                report,
                stop,
                list_timeout=self._list_timeout,
                watch_seconds=self._options.watch_seconds,
                silence_seconds=self._options.silence_seconds,
            )
            for namespace in self.namespaces
        ]
        run_watches(watches, self.namespaces, stop)

    def logs(self, attempt: AttemptId, *, follow: bool, stop: threading.Event | None = None) -> Iterator[bytes]:
        """See Engine; as long as the pod is there, and its node keeps the output."""
        pod = self._known(attempt)

        def look() -> Pod | None:
            return self._get(pod.metadata.namespace, attempt)

        return read_log(self._api, f"{pod_path(pod)}/log", pod, look, follow, stop or threading.Event())

    def close(self) -> None:
        """See Engine."""
        self._api.close()

    # -- beyond the seam ---------------------------------------------------------------------------------------------

    def events(self, attempt: AttemptId) -> _Events:
        """The pod's recent Kubernetes events, oldest first. Raises AttemptUnknown, EngineUnavailable."""
        pod = self._known(attempt)
        with unavailable("events cannot be read"):
            return recent_events(self._api, pod)

    def check_rights(self) -> _Rights:
        """The rights that are missing, each with the RBAC rule that gives it. Raises EngineUnavailable."""
        with unavailable("rights cannot be asked for"):
            return missing_rights(self._api, self.namespaces)

    def release_finalizers(self) -> int:
        """Let go of all pods of the cluster, for uninstalling; returns how many had to be. Raises EngineUnavailable.

        While a controller runs, this makes deleted pods vanish before their end is committed: stop the controllers first.
        """
        held = [pod for _, pod in self._pods() if pod.has_finalizer]
        for pod in held:
            self._drop_finalizer(pod)
        return len(held)

    # -- objects -----------------------------------------------------------------------------------------------------

    @property
    def _list_timeout(self) -> float:
        return self._options.access.timeout_seconds * LIST_SECONDS_FACTOR

    def _pods(self) -> Iterator[tuple[AttemptId, Pod]]:
        """All of ours. Raises EngineUnavailable."""
        others = []
        for namespace in self.namespaces:
            with unavailable(f"pods of namespace {namespace} cannot be listed"):
                for pods, _ in list_pods(self._api, pods_path(namespace), {}, self._list_timeout):
                    for pod in pods:
                        attempt = self._attempt_of(pod)
                        if attempt is not None:
                            yield attempt, pod
                        elif attempt_of(pod, self._cluster) is not None:
                            others.append((pod.installation, pod.metadata.name))
        self.note_others(others)

    def _attempt_of(self, pod: Pod) -> AttemptId | None:
        return attempt_of(pod, self._cluster, self.installation)

    def _find(self, attempt: AttemptId) -> Pod | None:
        """The attempt's pod."""
        for namespace in self.namespaces:
            pod = self._get(namespace, attempt)
            if pod is not None and self._attempt_of(pod) == attempt:
                return pod
        return None

    def _known(self, attempt: AttemptId) -> Pod:
        """The attempt's pod. Raises AttemptUnknown."""
        pod = self._find(attempt)
        if pod is None:
            raise AttemptUnknown(f"there is no pod {attempt} of cluster {self._cluster} in {', '.join(self.namespaces)}")
        return pod

    def _get(self, namespace: str, attempt: AttemptId) -> Pod | None:
        """Whatever has the name."""
        with unavailable(f"pod {attempt} cannot be read"):
            try:
                return _decoded(self._api.call("GET", f"{pods_path(namespace)}/{attempt}"))
            except ApiRefused as error:
                if error.code == 404:
                    return None
                raise

    def _create(self, launch: Launch) -> Pod:
        """The attempt's pod, created or adopted. Raises AttemptRefused, EngineUnavailable."""
        try:
            options = parse_options(launch.pool)
            namespace = self._namespace(options)
        except InvalidField as error:
            raise AttemptRefused("InvalidPool", f"pool {launch.pool.name}: {error}", transient=True) from error
        try:
            body = build_pod(launch, options, namespace)
        except InvalidField as error:
            raise AttemptRefused("InvalidPod", str(error)) from error
        if options.scheduling_gates and self._server_minor() < FIRST_MINOR_WITH_GATES:
            message = f"engine_options.scheduling_gates: needs Kubernetes 1.{FIRST_MINOR_WITH_GATES}, this is 1.{self._minor}"
            raise AttemptRefused("InvalidPool", f"pool {launch.pool.name}: {message}", transient=True)
        try:
            return self._create_or_adopt(launch.attempt, body)
        except ApiRefused as error:
            raise to_refusal(error, namespace) from error

    def _create_or_adopt(self, attempt: AttemptId, body: Document) -> Pod:
        """Raises ApiRefused, AttemptRefused (NameTaken) and EngineUnavailable."""
        namespace = body["metadata"]["namespace"]
        for _ in range(_TRIES):
            try:
                return _decoded(self._api.call("POST", pods_path(namespace), body=body))
            except ApiRefused as error:
                if error.code != 409:
                    raise
                if error.reason != "AlreadyExists":  # a quota that many change at once
                    raise EngineUnavailable(f"pod {attempt} cannot be created now: {error}") from error
            pod = self._get(namespace, attempt)
            if pod is None:
                continue  # it has just gone
            if self._attempt_of(pod) == attempt:
                return pod
            raise AttemptRefused("NameTaken", pod.why_not_ours(self._cluster))
        raise EngineUnavailable(f"the name {attempt} is taken and given back again and again")

    def _entomb(self, attempt: AttemptId, why: str) -> Pod | None:
        """Take the attempt's name in every namespace: the tombstone, or the attempt's pod if one was there already.

        None when all the names are taken by what is not ours, so that there was nothing to take.

        Raises EngineUnavailable when the name could not be taken: then a late creation cannot be excluded.
        """
        tombstone: Pod | None = None
        for namespace in self.namespaces:
            with unavailable(f"{attempt}: {why}"):
                try:
                    pod = self._create_or_adopt(attempt, build_tombstone(attempt, self._cluster, namespace, self.mark))
                except AttemptRefused:
                    continue  # taken by something that is not ours, which serves as well
            if not pod.is_tombstone:
                return pod
            tombstone = pod
        return tombstone

    def _delete(self, pod: Pod, grace_seconds: int) -> Pod | None:
        """As it is then; None when it is gone, or another one."""
        body = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "gracePeriodSeconds": grace_seconds,
            "preconditions": {"uid": pod.metadata.uid},
        }
        with unavailable(f"pod {pod.metadata.name} cannot be deleted"):
            try:
                answer = _decoded(self._api.call("DELETE", pod_path(pod), body=body))
            except ApiRefused as error:
                if error.code in (404, 409):
                    return None
                raise
        return answer if answer.metadata.uid == pod.metadata.uid else None  # a Status when it is gone already

    def _drop_finalizer(self, pod: Pod) -> None:
        self._patch_list(pod, "/metadata/finalizers", lambda each: _index(each.metadata.finalizers or [], FINALIZER), FINALIZER)

    def _open_gate(self, pod: Pod) -> Pod:
        def find(each: Pod) -> int | None:
            return _index([gate.name for gate in each.spec.scheduling_gates or ()], GATE)

        opened = self._patch_list(pod, "/spec/schedulingGates", find, {"name": GATE})
        if opened is None:
            raise EngineUnavailable(f"pod {pod.metadata.name} has gone before its gate was opened")
        return opened

    def _patch_list(self, pod: Pod, path: str, find: Callable[[Pod], int | None], value: object) -> Pod | None:
        """Remove an entry of a list of this very pod; None when the pod is gone. Raises EngineUnavailable."""
        current: Pod | None = pod
        for _ in range(_TRIES):
            if current is None or current.metadata.uid != pod.metadata.uid:
                return None
            index = find(current)
            if index is None:
                return current
            patch = [
                {"op": "test", "path": "/metadata/uid", "value": pod.metadata.uid},
                {"op": "test", "path": f"{path}/{index}", "value": value},
                {"op": "remove", "path": f"{path}/{index}"},
            ]
            with unavailable(f"pod {pod.metadata.name} cannot be changed"):
                try:
                    return _decoded(self._api.call("PATCH", pod_path(pod), body=patch, content_type=JSON_PATCH))
                except ApiRefused as error:
                    if error.code not in (404, 409, 422):  # gone, or changed since it was read
                        raise
            current = self._get(pod.metadata.namespace, AttemptId.parse(pod.metadata.name))
        raise EngineUnavailable(f"pod {pod.metadata.name} changes while it is being changed")

    def _namespace(self, options: PoolOptions) -> str:
        namespace = options.namespace or self.namespaces[0]
        if namespace not in self.namespaces:
            known = ", ".join(self.namespaces)
            problem = f"is {namespace!r}, but this controller uses {known} only: add it to kube_namespaces"
            raise InvalidField("engine_options.namespace", problem)
        return namespace

    def _server_minor(self) -> int:
        self._minor = minor_version(self._api) if self._minor is None else self._minor
        return self._minor


def _index(items: list[str], item: str) -> int | None:
    return items.index(item) if item in items else None


def _decoded(data: bytes) -> Pod:
    try:
        return decode_pod(data)
    except msgspec.MsgspecError as error:
        raise EngineUnavailable(f"Kubernetes sends a pod that cannot be read: {error}") from error
