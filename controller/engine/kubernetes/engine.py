"""The Kubernetes engine: each attempt is a bare pod with its name.

How the name fences: the API server creates `<task-id>-<n>` once. A start that finds the pod adopts it if the
labels are ours, and is refused if they are not (fault 29). A finished pod stays as the tombstone of its name
until `forget`. A stop that finds no pod leaves a tombstone, a pod that no scheduler takes, so that a late
creation finds the name taken (fault 28).

A pod is deleted with its uid as the precondition, and a grace of at least 1 s. A finalizer keeps the object,
so that its end is seen whoever deleted it and whichever replica leads then. `settle` removes the finalizer
once the end is committed. A pod in a terminal phase that does not prove a stop is not deleted: the server
would remove it at once, with the evidence.

With the pool's option `scheduling_gates` (Kubernetes 1.27), a pod is created with a gate, which is opened
after `confirm` has verified that its leader still leads. A late creation then never runs at all.

Watches select by label, and report a pod whose label was removed as deleted. An end without other proof is
therefore believed only after a query by name. Lists contain all pods of our namespaces: our finalizer shows
which are ours without labels.

Namespaces: exactly the given ones are listed, watched and used, whatever pools name now or named before. So
no attempt is out of sight, and rights can be granted for each namespace. A pool that names another namespace
is refused (see `PoolOptions`).

`pod_observation` explains what this engine can prove.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import structlog

from controller.clock import Clock
from controller.core.model.installation import EngineIdentity
from controller.core.model.nodes import NodeRoom
from controller.core.model.printable import counted
from controller.core.model.scalars import parse_name
from controller.core.model.task import AttemptId, Launch, Observation, Phase
from controller.engine.base import ALL_LOGS, AttemptRefused, EngineUnavailable, LogOptions, gone
from controller.engine.kubernetes.api import ApiRefused, ClusterAccess, KubernetesApi
from controller.engine.kubernetes.late_ends import CONFIRM_SECONDS, FIRST_MINOR_THAT_MOVES, LateEnds
from controller.engine.kubernetes.logs import PodEvent, check_container, read_log, recent_events
from controller.engine.kubernetes.node_survey import NodeSurvey
from controller.engine.kubernetes.objects import TRIES, PodObjects
from controller.engine.kubernetes.pod import LABEL_CLUSTER, Pod, pods_path, read_pod
from controller.engine.kubernetes.pod_observation import observe, vanished
from controller.engine.kubernetes.pod_template import PoolOptions, build_pod, options_for, whole_seconds
from controller.engine.kubernetes.refusals import to_refusal, unavailable
from controller.engine.kubernetes.rights import OF_IDENTITY, OF_NODES, MissingRight, missing_rights
from controller.engine.kubernetes.server import identity, minor_version
from controller.engine.kubernetes.watch import LIST_SECONDS_FACTOR, ObjectWatch, Pace, Watching, run_watches
from controller.engine.ownership import Owning
from controller.errors import InvalidField, UserError

_FORGET_GRACE_SECONDS = 1
_UNSEEN_SECONDS = 600.0
_VERSION_SECONDS = 60.0
FIRST_MINOR_WITH_GATES = 27

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class KubernetesOptions:
    """`namespaces`: all that are used, the first by pools that name none; (): the configuration's own."""

    access: ClusterAccess = field(default_factory=ClusterAccess)
    namespaces: tuple[str, ...] = ()
    watch_seconds: float = 240.0  # the server ends a watch after this, up to half as much longer
    silence_seconds: float = 90.0  # a server sends bookmarks about every minute
    confirm_seconds: float = CONFIRM_SECONDS  # see `late_ends`


class KubernetesEngine(Owning):
    """See the module's docstring.

    Safe to use from several threads. `faults` counts failed calls, by kind.
    """

    name = "kubernetes"

    def __init__(self, cluster: str, clock: Clock, options: KubernetesOptions) -> None:
        """Raises EngineUnavailable without a configuration, InvalidField if `cluster` is no DNS label."""
        super().__init__()
        self._cluster = parse_name(cluster, "cluster", "a cluster's name")
        self._options = options
        self._clock = clock
        self._api = KubernetesApi(options.access, clock)
        self.namespaces = options.namespaces or (self._api.namespace,)
        self.faults, self.waited_seconds = self._api.faults, self._api.limit.waited
        list_timeout = options.access.timeout_seconds * LIST_SECONDS_FACTOR
        self._pods = PodObjects(self._api, self._cluster, self.namespaces, list_timeout, self)
        self._selector = {"labelSelector": f"{LABEL_CLUSTER}={cluster}"}
        self._pace = Pace(list_timeout, options.watch_seconds, options.silence_seconds)
        self._late = LateEnds(clock, self._server_minor, options.confirm_seconds)
        self._minor: int | None = None
        self._minor_until = 0.0  # boottime
        self._cluster_unseen_until = 0.0  # boottime: kube-system may not be read
        self.is_verified = self._api.is_verified

    # -- the Engine interface

    def identity(self) -> EngineIdentity:
        """See Engine."""
        now = self._clock.boottime()
        asks = now >= self._cluster_unseen_until
        found = identity(self._api, self.namespaces, asks_for_cluster=asks)
        if asks and not found.id:  # the least role does not allow it: no refusal every few seconds
            self._cluster_unseen_until = now + _UNSEEN_SECONDS
        return found

    def start(self, launch: Launch, confirm: Callable[[], None] | None = None) -> Observation:
        """See Engine.

        The reasons of AttemptRefused are InvalidPool, InvalidPod, NameTaken, and those of `refusals`.
        """
        pod = self._pods.find(launch.attempt) if launch.repeated else None
        if pod is None:
            try:
                pod = self._create(launch)
                if pod.is_part:  # a stop has begun to take the name
                    pod = self._pods.entomb(launch.attempt, "its name could not be taken") or pod
            except AttemptRefused as refusal:
                if not launch.repeated or refusal.reason == "NameTaken":
                    raise
                # An earlier creation may still be under way. Only a taken name makes sure that nothing
                # starts.
                pod = self._pods.entomb(launch.attempt, f"{refusal}, and its name could not be taken")
                if pod is None or pod.is_tombstone:
                    raise
        if pod.is_gated and not pod.is_deleting:
            if confirm is not None:
                confirm()
            pod = self._pods.open_gate(pod)
        return self._observe(pod)

    def stop(self, attempt: AttemptId, *, grace_seconds: float, uid: str = "") -> Observation | None:
        """See Engine. Returns None if `uid` is not the attempt's."""
        for _ in range(TRIES):
            pod = self._pods.find(attempt, uid)
            if pod is None and uid:
                return None
            if pod is None:
                pod = self._pods.entomb(attempt, "its name could not be taken")
            if pod is None:
                return Observation(
                    attempt=attempt,
                    phase=Phase.FAILED,
                    stopped=True,
                    ran=False,
                    reason="NameTaken",
                    message="pods that are not Tally's have its name: it cannot be created",
                )
            if uid and pod.metadata.uid != uid:
                return None
            seen = self._observe(pod)
            if seen.stopped or pod.is_terminal:
                return seen
            namespace, grace = pod.metadata.namespace, whole_seconds(grace_seconds)
            deleted = self._pods.delete(namespace, attempt, pod.metadata.uid, grace)
            if deleted is not None:
                return self._observe(deleted)
        raise EngineUnavailable(f"{attempt} keeps changing while it is stopped")

    def find(self, attempt: AttemptId, *, uid: str = "", grace_seconds: float = 0.0) -> Observation:
        """See Engine. A pod with this uid is ours, even if its labels were changed."""
        pod = self._pods.find(attempt, uid)
        if pod is not None:
            return self._observe(pod)
        is_done = not uid or not self._late.awaits_absent(str(attempt), uid, grace_seconds)
        return gone(attempt, uid) if is_done else vanished(attempt, uid)

    def settle(self, attempt: AttemptId, *, uid: str = "") -> None:
        """See Engine. Removes the finalizer of a deleted pod, also of one whose labels were changed."""
        pod = self._pods.find(attempt, uid)
        if pod is not None and self._observe(pod).awaits_commit:
            self._pods.drop_finalizer(pod)

    def forget(self, attempt: AttemptId, *, uid: str = "") -> None:
        """See Engine.

        A pod in a terminal phase is removed even without proof of stop: its end was committed without it.
        """
        for namespace in self.namespaces:
            pod = self._pods.delete(namespace, attempt, uid, _FORGET_GRACE_SECONDS) if uid else None
            if pod is None:
                pod = self._forgettable(namespace, attempt)
            if pod is not None:
                self._pods.drop_finalizer(pod)

    def _forgettable(self, namespace: str, attempt: AttemptId) -> Pod | None:
        """The attempt's pod there, deleted as it has ended; None if it has not, or is gone by now."""
        pod = self._pods.get(namespace, attempt)
        if pod is None or self._pods.attempt_of(pod) != attempt:
            return None
        if not (self._observe(pod).stopped or pod.is_terminal):
            return None
        if pod.is_deleting:
            return pod
        return self._pods.delete(namespace, attempt, pod.metadata.uid, _FORGET_GRACE_SECONDS)

    def attempts(self) -> list[Observation]:
        """See Engine. Further tombstones of an attempt, in other namespaces, are left out."""
        found: dict[AttemptId, Observation] = {}
        for _, pod in self._pods.all():
            if pod.is_part:
                continue
            seen = self._observe(pod)
            known = found.get(seen.attempt)
            if known is None or (known.stopped and not pod.is_tombstone):
                found[seen.attempt] = seen
        return [*found.values()]

    def watch(self, sink: Callable[[Observation], None], stop: threading.Event) -> None:
        """See Engine.

        `sink` is called from one thread per namespace. Never raises: each watch is restarted by itself.
        """

        def report(pod: Pod, removed: bool) -> None:
            if pod.is_part or (attempt := self._pods.attempt_of(pod)) is None:
                return
            if removed and not observe(pod).stopped:
                current = self._pods.get(pod.metadata.namespace, attempt)
                if current is not None and current.metadata.uid == pod.metadata.uid:
                    pod, removed = current, False  # it is there, and only its labels have changed
            sink(self._observe(pod, removed=removed))

        def look(pod: Pod) -> None:
            attempt = AttemptId.parse(pod.metadata.name)
            current = self._pods.find(attempt, pod.metadata.uid)
            if current is None:
                sink(gone(attempt, pod.metadata.uid))
            elif current.metadata.uid == pod.metadata.uid:
                report(current, removed=False)

        if not self.is_verified:
            log.warning("the API server's certificate is not verified", host=self._api.host)
        watches = [
            ObjectWatch(
                self._api,
                Watching(pods_path(namespace), self._selector, read_pod),
                self._pace,
                report,
                stop,
            )
            for namespace in self.namespaces
        ]
        late = threading.Thread(target=self._late.run, args=(look, stop), name="late-ends", daemon=True)
        late.start()
        run_watches(watches, [f"pods-{name}" for name in self.namespaces], stop)
        late.join()

    def survey(
        self,
        sink: Callable[[tuple[NodeRoom, ...]], None],
        trouble: Callable[[str], None],
        stop: threading.Event,
    ) -> None:
        """See Surveying."""
        survey = NodeSurvey(self._api, self._cluster, self, self._pace)
        survey.run(sink, trouble, stop)

    def logs(
        self,
        attempt: AttemptId,
        *,
        follow: bool,
        stop: threading.Event | None = None,
        options: LogOptions = ALL_LOGS,
    ) -> Iterator[bytes]:
        """See Engine. There is output as long as the pod exists and its node keeps the output."""
        pod = self._pods.known(attempt)

        def look() -> Pod | None:
            return self._pods.get(pod.metadata.namespace, attempt)

        check_container(pod, options.container)
        return read_log(self._api, pod, look, follow, stop or threading.Event(), options)

    def close(self) -> None:
        """See Engine."""
        self._api.close()

    # -- beyond the Engine interface

    def events(self, attempt: AttemptId) -> list[PodEvent]:
        """The recent Kubernetes events of the pod, oldest first; they outlive it.

        Raises EngineUnavailable.
        """
        pod = self._pods.find(attempt)
        namespaces = self.namespaces if pod is None else (pod.metadata.namespace,)
        uid = pod.metadata.uid if pod is not None else ""
        with unavailable("events cannot be read"):
            found = [
                event for each in namespaces for event in recent_events(self._api, each, str(attempt), uid)
            ]
        return sorted(found, key=lambda event: event.at)

    def check_rights(self, *, follows_nodes: bool = False) -> list[MissingRight]:
        """The missing rights, each with the RBAC rule that grants it. Raises EngineUnavailable.

        `follows_nodes`: the capacity of a pool does.
        """
        with unavailable("rights cannot be reviewed"):
            missing = missing_rights(self._api, self.namespaces)
            if not identity(self._api, ()).id:
                missing += missing_rights(self._api, self.namespaces, OF_IDENTITY)
            return missing + (missing_rights(self._api, ("",), OF_NODES) if follows_nodes else [])

    def release_finalizers(self) -> int:
        """Remove the finalizer from all pods of this installation, for uninstalling; returns their number.

        Stop all replicas first: while one runs, deleted pods would vanish before their end is committed.
        Raises EngineUnavailable, and UserError if the installation is not known (see `bind`) and several have
        pods here.
        """
        held = self._pods.held()
        marks = Counter(pod.installation or "(none)" for pod in held)
        if self.installation is None and len(marks) > 1:
            told = ", ".join(f"{mark} ({counted(number, 'pod')})" for mark, number in sorted(marks.items()))
            raise UserError(
                f"several installations have the name {self._cluster} here: {told}. Name one with"
                " --installation ID"
            )
        for pod in held:
            self._pods.drop_finalizer(pod)
        return len(held)

    # -- creation

    def _create(self, launch: Launch) -> Pod:
        """The attempt's pod, created or adopted. Raises AttemptRefused, EngineUnavailable."""
        try:
            options = options_for(launch)
            namespace = self._namespace(options)
        except InvalidField as error:
            raise AttemptRefused(
                "InvalidPool", f"pool {launch.pool.name}: {error}", transient=True
            ) from error
        try:
            body = build_pod(launch, options, namespace)
        except InvalidField as error:
            raise AttemptRefused("InvalidPod", str(error)) from error
        except (TypeError, ValueError, LookupError, AttributeError) as error:  # of a template of any form
            why = f"no pod can be made of the templates: {type(error).__name__}: {error}"
            raise AttemptRefused("InvalidPod", why) from error
        if options.scheduling_gates and self._server_minor() < FIRST_MINOR_WITH_GATES:
            message = (
                f"engine_options.scheduling_gates: needs Kubernetes 1.{FIRST_MINOR_WITH_GATES}, this is"
                f" 1.{self._minor}"
            )
            raise AttemptRefused("InvalidPool", f"pool {launch.pool.name}: {message}", transient=True)
        if launch.repeated:  # its pool may have had another namespace, and that start be still under way
            there = self._pods.close_others(launch.attempt, namespace)
            if there is not None:
                return there
        try:
            return self._pods.create(launch.attempt, body)
        except ApiRefused as error:
            raise to_refusal(error, namespace) from error

    def _namespace(self, options: PoolOptions) -> str:
        namespace = options.namespace or self.namespaces[0]
        if namespace not in self.namespaces:
            known = ", ".join(self.namespaces)
            problem = f"is {namespace!r}, but this controller uses {known} only: add it to kube_namespaces"
            raise InvalidField("engine_options.namespace", problem)
        return namespace

    def _observe(self, pod: Pod, *, removed: bool = False) -> Observation:
        """The observation of a pod; one whose kubelet may not be done with it has not stopped."""
        requested = self._late.requested_at(pod)
        if not self._late.awaits(pod, removed=removed):
            return observe(pod, removed=removed, requested=requested)
        if removed:
            return vanished(AttemptId.parse(pod.metadata.name), pod.metadata.uid)
        return observe(pod, is_confirmed=False, requested=requested)

    def _server_minor(self) -> int:
        # a server may be upgraded while this replica runs: a version that is new enough is kept
        now = self._clock.boottime()
        if self._minor is None or self._minor < FIRST_MINOR_WITH_GATES or now > self._minor_until:
            self._minor = minor_version(self._api)
            is_newest = self._minor >= FIRST_MINOR_THAT_MOVES
            self._minor_until = float("inf") if is_newest else now + _VERSION_SECONDS
        return self._minor
