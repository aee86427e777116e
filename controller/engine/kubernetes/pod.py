"""The fields of pods that Tally reads, from raw JSON, and the names by which it knows its own. Pure.

The official client's models take about five times as long to decode, and refuse fields of newer servers.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

import msgspec
from msgspec import Struct

from controller.core.model.fencing import MAIN_CONTAINER
from controller.core.model.installation import Installation
from controller.core.model.pod_merge import MAIN
from controller.core.model.task import AttemptId
from controller.engine.base import EngineUnavailable

FINALIZER = "tally.dev/attempt"
GATE = "tally.dev/leadership"
LABEL_CLUSTER = "tally.dev/cluster"
INSTALLATION = "tally.dev/installation"
"""The installation's id: a label to select by, and an annotation, which survives a removal of the labels."""
LABEL_TASK = "tally.dev/task"
LABEL_ATTEMPT = "tally.dev/attempt"
LABEL_TOMBSTONE = "tally.dev/tombstone"
NOWHERE = "tally.dev/none"  # no scheduler takes a pod that names another one; and no node has such a label
WHOLE, PART = "true", "part"  # its values
LABEL_MAIN = "tally.dev/main-container"  # of older releases: the container whose end ends the attempt
LABEL_SUBDOMAIN = "tally.dev/subdomain"
"""Pods that have a host name in it: what its headless Service selects."""


class Meta(Struct, frozen=True, rename="camel"):
    """metadata."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    deletion_timestamp: datetime | None = None
    deletion_grace_period_seconds: int | None = None
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    finalizers: list[str] | None = None


class Named(Struct, frozen=True):
    """A scheduling gate."""

    name: str = ""


class Variable(Struct, frozen=True):
    """One of env."""

    name: str = ""
    value: str = ""


class PodContainer(Struct, frozen=True):
    """A container of the spec."""

    name: str = ""
    env: list[Variable] | None = None


class InitContainer(Struct, frozen=True, rename="camel"):
    """A container of the spec that others wait for."""

    name: str = ""
    restart_policy: str = ""

    @property
    def is_sidecar(self) -> bool:
        """Whether it runs beside the others, and is ended after them (1.28 on)."""
        return self.restart_policy == "Always"


class PodSpec(Struct, frozen=True, rename="camel"):
    """spec."""

    node_name: str = ""
    scheduler_name: str = ""
    node_selector: dict[str, str] | None = None
    termination_grace_period_seconds: int | None = None
    containers: list[PodContainer] | None = None
    scheduling_gates: list[Named] | None = None
    init_containers: list[InitContainer] | None = None


class Condition(Struct, frozen=True):
    """One of status.conditions."""

    type: str = ""
    status: str = ""
    reason: str | None = None
    message: str | None = None


class Waiting(Struct, frozen=True):
    """state.waiting."""

    reason: str = ""
    message: str = ""


class Running(Struct, frozen=True, rename="camel"):
    """state.running."""

    started_at: datetime | None = None


class Terminated(Struct, frozen=True, rename="camel"):
    """state.terminated."""

    exit_code: int = 0
    signal: int = 0
    reason: str = ""
    message: str = ""
    started_at: datetime | None = None
    finished_at: datetime | None = None

    @property
    def is_known(self) -> bool:
        """Whether the end itself was seen, and not only that the container is gone."""
        return self.reason != "ContainerStatusUnknown"


class ContainerState(Struct, frozen=True):
    """One of three."""

    waiting: Waiting | None = None
    running: Running | None = None
    terminated: Terminated | None = None


class ContainerStatus(Struct, frozen=True, rename="camel"):
    """One of status.containerStatuses."""

    name: str = ""
    state: ContainerState = ContainerState()
    last_state: ContainerState = ContainerState()
    container_id: str = msgspec.field(default="", name="containerID")

    @property
    def never_started(self) -> bool:
        """Whether the kubelet has not created the container yet."""
        return (
            self.state.running is None
            and self.state.terminated is None
            and not (self.last_state.terminated or self.container_id)
        )


class PodStatus(Struct, frozen=True, rename="camel"):
    """status."""

    phase: str = "Pending"
    reason: str = ""
    message: str = ""
    start_time: datetime | None = None
    conditions: list[Condition] | None = None
    container_statuses: list[ContainerStatus] | None = None
    init_container_statuses: list[ContainerStatus] | None = None
    ephemeral_container_statuses: list[ContainerStatus] | None = None


class Pod(Struct, frozen=True):
    """The fields of a pod that Tally uses."""

    metadata: Meta = Meta()
    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()
    # why all but its metadata could not be read; no server sends it
    unreadable: str = msgspec.field(default="", name="-")

    @property
    def is_deleting(self) -> bool:
        """Whether its deletion was requested."""
        return self.metadata.deletion_timestamp is not None

    @property
    def is_final(self) -> bool:
        """Whether its deletion is final: the object is there because a finalizer keeps it."""
        return self.is_deleting and self.metadata.deletion_grace_period_seconds == 0

    @property
    def has_lost_node(self) -> bool:
        """Whether garbage collection deleted it, after its node's object was removed. Needs 1.26."""
        condition = self.condition("DisruptionTarget")
        return condition is not None and (condition.status, condition.reason) == ("True", "DeletionByPodGC")

    @property
    def is_terminal(self) -> bool:
        """Whether its phase is one that it never leaves."""
        return self.status.phase in ("Succeeded", "Failed")

    @property
    def is_tombstone(self) -> bool:
        """Whether it is a tombstone, which never runs: its attempt was stopped before it was created.

        The label alone is nothing, since anybody may put it on a pod that runs. Its spec cannot be changed.
        """
        is_nowhere = self.spec.scheduler_name == NOWHERE or NOWHERE in (self.spec.node_selector or {})
        return is_nowhere and LABEL_TOMBSTONE in (self.metadata.labels or {})

    @property
    def is_part(self) -> bool:
        """Whether it takes a name in one of several namespaces only: it tells nothing of the attempt."""
        return self.is_tombstone and (self.metadata.labels or {})[LABEL_TOMBSTONE] == PART

    @property
    def is_gated(self) -> bool:
        """Whether it waits for the leader to open its scheduling gate."""
        return any(gate.name == GATE for gate in self.spec.scheduling_gates or ())

    @property
    def has_finalizer(self) -> bool:
        """Whether our finalizer keeps it."""
        return FINALIZER in (self.metadata.finalizers or ())

    @property
    def installation(self) -> str:
        """The id of the installation that created it; "" if it has none."""
        return (self.metadata.annotations or {}).get(INSTALLATION, "") or (self.metadata.labels or {}).get(
            INSTALLATION, ""
        )

    def why_not_ours(self, cluster: str) -> str:
        """A message on why it is left alone, although it has our attempt's name."""
        other = f"of another installation of Tally, {self.installation}"
        whose = other if self.installation else f"not of cluster {cluster}, or not of this installation of it"
        return (
            f"namespace {self.metadata.namespace} has a pod {self.metadata.name} that is {whose}: it is left"
            " alone"
        )

    @property
    def ends_with(self) -> str:
        """The container whose end ends the attempt; "": the end of all.

        The label is believed only in a pod of an older release, which has no such variable.
        """
        for container in self.spec.containers or ():
            for variable in (container.env or ()) if container.name == MAIN else ():
                if variable.name == MAIN_CONTAINER:
                    return variable.value
        return (self.metadata.labels or {}).get(LABEL_MAIN, "")

    @property
    def main_name(self) -> str:
        """The main container: the one that ends the attempt, else the task's own."""
        return self.ends_with or MAIN

    @property
    def main(self) -> ContainerStatus | None:
        """The status of the main container; None before there is one."""
        statuses = self.status.container_statuses or []
        return next(
            (each for each in statuses if each.name == self.main_name),
            statuses[0] if len(statuses) == 1 else None,
        )

    def condition(self, kind: str) -> Condition | None:
        """The condition of that type."""
        return next((each for each in self.status.conditions or () if each.type == kind), None)

    def statuses(self) -> Iterator[ContainerStatus]:
        """The statuses of all containers: init, regular and ephemeral."""
        status = self.status
        for each in (
            status.init_container_statuses,
            status.container_statuses,
            status.ephemeral_container_statuses,
        ):
            yield from each or ()


class ListMeta(Struct, frozen=True, rename="camel"):
    """metadata of a page."""

    resource_version: str = ""
    continue_: str = msgspec.field(default="", name="continue")


class PodList(Struct, frozen=True):
    """One page of a list."""

    metadata: ListMeta = ListMeta()
    items: list[msgspec.Raw] | None = None


class WatchEvent(Struct, frozen=True):
    """One line of a watch; `object` is a pod, or a Status for type ERROR."""

    type: str
    object: msgspec.Raw


_pod_decoder = msgspec.json.Decoder(Pod)
_any_decoder = msgspec.json.Decoder()
decode_list = msgspec.json.Decoder(PodList).decode
decode_event = msgspec.json.Decoder(WatchEvent).decode

NOT_JSON_OF_ITS_TYPE = (msgspec.MsgspecError, ValueError, RecursionError)
"""The errors of decoding: not JSON, a wrong type, bytes that are not text, too deep."""


def decode_pod(data: bytes | msgspec.Raw) -> Pod:
    """Raises one of NOT_JSON_OF_ITS_TYPE when `data` is not a pod."""
    return _pod_decoder.decode(data)


def read_pod(data: bytes | msgspec.Raw) -> Pod:
    """Decode a pod of an API server's answer; of an unreadable one, only the metadata (`Pod.unreadable`).

    Raises EngineUnavailable if not even that can be read.
    """
    try:
        return decode_pod(data)
    except NOT_JSON_OF_ITS_TYPE as error:
        problem = str(error)
    return Pod(metadata=read_head(data, problem), unreadable=problem)


def read_head(data: bytes | msgspec.Raw, problem: str) -> Meta:
    """The metadata of an object that cannot be read as a whole for this problem.

    Raises EngineUnavailable if not even that can be read.
    """
    try:
        return _head(_any_decoder.decode(data))
    except (*NOT_JSON_OF_ITS_TYPE, TypeError, AttributeError, KeyError) as error:
        raise EngineUnavailable(f"Kubernetes sends an object that cannot be read: {problem}") from error


def _head(document: Any) -> Meta:
    meta = document["metadata"]
    texts = {
        name: meta[name] if isinstance(meta.get(name), str) else ""
        for name in ("namespace", "uid", "resourceVersion")
    }
    finalizers = meta.get("finalizers")
    labels, annotations = (
        (
            {key: value for key, value in each.items() if isinstance(value, str)}
            if isinstance(each, dict)
            else {}
        )
        for each in (meta.get("labels"), meta.get("annotations"))
    )
    if not meta["name"]:
        raise KeyError("name")
    return Meta(
        name=str(meta["name"]),
        namespace=texts["namespace"],
        uid=texts["uid"],
        resource_version=texts["resourceVersion"],
        labels=labels,
        annotations=annotations,
        finalizers=(
            [each for each in finalizers if isinstance(each, str)] if isinstance(finalizers, list) else None
        ),
    )


def attempt_of(pod: Pod, cluster: str, ours: Installation | None = None) -> AttemptId | None:
    """The attempt of the cluster and installation (None: any) whose pod it is; None if it is not ours.

    The labels must agree with the name. A pod that has our finalizer stays ours if its labels were changed,
    unless they name another cluster or installation.
    """
    labels = pod.metadata.labels or {}
    if labels.get(LABEL_CLUSTER, cluster if pod.has_finalizer else None) != cluster:
        return None
    mark = pod.installation
    is_stripped = not mark and LABEL_CLUSTER not in labels
    if ours is not None and not (ours.owns(mark) or is_stripped):
        return None
    try:
        attempt = AttemptId.parse(pod.metadata.name)
    except ValueError:
        return None
    is_labelled = labels.get(LABEL_TASK) == attempt.task_id and labels.get(LABEL_ATTEMPT) == str(
        attempt.number
    )
    return attempt if is_labelled or pod.has_finalizer else None


def pods_path(namespace: str) -> str:
    """The API path of a namespace's pods."""
    return f"/api/v1/namespaces/{namespace}/pods"


def pod_path(pod: Pod) -> str:
    """The API path of this pod."""
    return f"{pods_path(pod.metadata.namespace)}/{pod.metadata.name}"
