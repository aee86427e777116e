"""The true state of a pod's containers on its node, as opposed to what the API reports."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import Literal

from controller.dev.fake_kubernetes import pod_status
from controller.dev.fake_kubernetes.apierrors import Document
from controller.dev.fake_kubernetes.script import Script
from controller.dev.fake_kubernetes.storage import Key, Stored
from controller.dev.fake_kubernetes.timestamps import timestamp
from controller.dev.fake_kubernetes.version import ServerVersion


@dataclass(slots=True)
class Execution:
    """One run of a pod's containers. Times are seconds of the clock's `boottime`; None: not yet."""

    namespace: str
    pod: str
    uid: str
    task: str
    attempt: str
    started: float
    ended: float | None = None
    exit_code: int | None = None


@dataclass(slots=True)
class PodRun:
    """Invariant: `execution` is set once and ended once, so containers start at most once for a uid."""

    pod: Document  # as it was bound; its spec and identity do not change
    key: Key
    uid: str
    node: str
    script: Script
    version: ServerVersion
    state: Literal["creating", "waiting", "running", "ended"] = "creating"
    why_waiting: tuple[str, str] = ("ContainerCreating", "")
    accepted_at: float | None = None
    accepted_boottime: float = 0.0
    started_at: float = 0.0
    finished_at: float = 0.0
    exit_code: int = 0
    exit_reason: str = ""
    exit_message: str = ""
    # when and how the first container ended, which the others outlive
    first_end: tuple[float, int, str] | None = None
    stopping: bool = False
    verdict: tuple[str, str] | None = None  # reason and message of a pod that the kubelet fails
    lost: bool = False  # the containers' end was not seen
    sealed: bool = False  # an old kubelet has said its last word
    execution: Execution | None = None
    container_ids: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, stored: Stored, script: Script, version: ServerVersion) -> PodRun:
        """A pod that was just bound."""
        document = stored.document
        return cls(
            document, stored.key, document["metadata"]["uid"], document["spec"]["nodeName"], script, version
        )

    def start(self, now: float, boottime: float) -> Execution:
        """The containers run."""
        assert self.execution is None, f"the containers of {self.key[1]} start twice"
        runtime = "containerd" if self.version.has_containerd else "docker"
        for container in self.pod["spec"]["containers"]:
            self.container_ids[container["name"]] = f"{runtime}://{uuid.uuid4().hex}{uuid.uuid4().hex}"
        labels = self.pod["metadata"].get("labels") or {}
        task, attempt = labels.get("tally.dev/task", ""), labels.get("tally.dev/attempt", "")
        self.state, self.started_at = "running", now
        self.execution = Execution(*self.key, self.uid, task, attempt, boottime)
        return self.execution

    def end(self, now: float, boottime: float, exit_code: int, reason: str, message: str = "") -> None:
        """The containers have ended, or will never start."""
        self.state, self.finished_at = "ended", now
        self.exit_code, self.exit_reason, self.exit_message = exit_code, reason, message
        if self.execution is not None:
            self.execution.ended, self.execution.exit_code = boottime, exit_code

    def status(self, old: Document, now: float, *, deleting: bool) -> Document:
        """What the kubelet says now, after `old`. `deleting`: the pod is being deleted."""
        at = timestamp(now)
        if self.accepted_at is not None and "startTime" not in old:
            old = pod_status.accepted(old, timestamp(self.accepted_at))
        if self.verdict and not self.version.reports_after_stop:
            reason, message = self.verdict
            if reason == "Evicted":
                return pod_status.evicted_at_once(old, message)
            return pod_status.failed_while_running(old, reason, message, self._states(deleting=False))
        phase = "Pending" if self.state in {"creating", "waiting"} else "Running"
        if self.state == "ended":
            first = self.first_end[1] if self.first_end else 0
            phase = (
                "Succeeded"
                if self.exit_code == first == 0 and not self.verdict and not self._unseen(deleting)
                else "Failed"
            )
        new = pod_status.with_containers(old, self.pod["spec"], phase, self._states(deleting=deleting), at)
        if self.verdict and self.state == "ended":
            new |= {"reason": self.verdict[0], "message": self.verdict[1]}
        return new

    def _unseen(self, deleting: bool) -> bool:
        """An old kubelet removes the containers of a deleted pod before it looks at how they ended."""
        return self.lost or (
            deleting and not self.version.reports_after_stop and self.exit_reason != "ContainerCannotRun"
        )

    def _states(self, *, deleting: bool) -> list[Document]:
        containers = self.pod["spec"]["containers"]
        if self.state in {"creating", "waiting"}:
            state = pod_status.waiting(*self.why_waiting)
            return [pod_status.container_state(each, state, "") for each in containers]
        if self.state == "ended" and self._unseen(deleting):
            end = pod_status.unknown_end(self.version)
            if self.version.reports_after_stop:
                return [pod_status.container_state(each, end, "") for each in containers]
            return [
                pod_status.container_state(each, pod_status.waiting("ContainerCreating"), "", last=end)
                for each in containers
            ]
        return [self._container(each) for each in containers]

    def _container(self, container: Document) -> Document:
        container_id = self.container_ids[container["name"]]
        started = timestamp(self.started_at)
        state: Document = {"running": {"startedAt": started}}
        if self.first_end is not None and container["name"] == self.pod["spec"]["containers"][0]["name"]:
            finished_at, exit_code, reason = self.first_end
            state = pod_status.terminated(
                exit_code, reason, "", started, timestamp(finished_at), container_id
            )
        elif self.state == "ended":
            ended = timestamp(self.finished_at)
            state = pod_status.terminated(
                self.exit_code, self.exit_reason, self.exit_message, started, ended, container_id
            )
        return pod_status.container_state(container, state, container_id)
