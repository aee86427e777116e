"""The status documents that a kubelet writes, as in the recordings. Pure functions."""

from __future__ import annotations

from controller.dev.fake_kubernetes.apierrors import Document
from controller.dev.fake_kubernetes.version import ServerVersion

HOST_IP = "192.0.2.2"
IMAGE_ID = "sha256:388d6669c8f93776a8b398c6ede0f45a83d90c3b462dc599db31f614815fb939"


def condition(kind: str, status: bool, at: str, reason: str = "", message: str = "") -> Document:
    """One entry of status.conditions."""
    entry = {"type": kind, "status": str(status), "lastProbeTime": None, "lastTransitionTime": at}
    return entry | ({"reason": reason} if reason else {}) | ({"message": message} if message else {})


def with_condition(status: Document, entry: Document) -> Document:
    """The status with the condition set; its time of transition stays when it had that value already."""
    conditions = list(status.get("conditions", ()))
    for index, old in enumerate(conditions):
        if old["type"] == entry["type"]:
            if old["status"] == entry["status"]:
                entry = entry | {"lastTransitionTime": old["lastTransitionTime"]}
            conditions[index] = entry
            return status | {"conditions": conditions}
    return status | {"conditions": [*conditions, entry]}


def not_scheduled(status: Document, reason: str, message: str, at: str) -> Document:
    """No node yet, and why."""
    return with_condition(status, condition("PodScheduled", False, at, reason, message))


def scheduled(status: Document, at: str) -> Document:
    """A node was found."""
    return with_condition(status, condition("PodScheduled", True, at))


def accepted(status: Document, start_time: str) -> Document:
    """The kubelet has taken the pod: addresses and start time."""
    return status | {
        "hostIP": HOST_IP,
        "podIP": HOST_IP,
        "podIPs": [{"ip": HOST_IP}],
        "startTime": start_time,
    }


def with_containers(
    status: Document, spec: Document, phase: str, states: list[Document], at: str
) -> Document:
    """The status for these container states (see `container_state`), with the conditions that follow."""
    running = phase == "Running"
    done = phase == "Succeeded"
    names = " ".join(container["name"] for container in spec["containers"])
    reason = "" if running else "PodCompleted" if done else "ContainersNotReady"
    message = f"containers with unready status: [{names}]" if reason == "ContainersNotReady" else ""
    new = {"conditions": [], **status}
    by_type = {each["type"]: each for each in new["conditions"]}
    scheduled_condition = by_type.pop("PodScheduled", None)
    new["conditions"] = [
        by_type[name] for name in ("Initialized", "Ready", "ContainersReady") if name in by_type
    ]
    new = with_condition(new, condition("Initialized", True, at, "PodCompleted" if done else ""))
    new = with_condition(new, condition("Ready", running, at, reason, message))
    new = with_condition(new, condition("ContainersReady", running, at, reason, message))
    if scheduled_condition:
        new["conditions"].append(scheduled_condition)
    new["conditions"] += [
        each for name, each in by_type.items() if name not in {"Initialized", "Ready", "ContainersReady"}
    ]
    return new | {"phase": phase, "containerStatuses": states}


def container_state(
    container: Document, state: Document, container_id: str, *, last: Document | None = None
) -> Document:
    """One entry of status.containerStatuses. `container_id` is empty before the container exists."""
    running = "running" in state
    entry: Document = {
        "name": container["name"],
        "state": state,
        "lastState": last or {},
        "ready": running,
        "restartCount": 0,
    }
    entry["image"] = container["image"]
    entry["imageID"] = f"{container_id.partition('://')[0]}://{IMAGE_ID}" if container_id else ""
    if container_id:
        entry["containerID"] = container_id
    return entry | {"started": running}


def waiting(reason: str, message: str = "") -> Document:
    """state.waiting."""
    return {"waiting": {"reason": reason} | ({"message": message} if message else {})}


def terminated(
    exit_code: int, reason: str, message: str, started: str, finished: str, container_id: str
) -> Document:
    """state.terminated."""
    body: Document = {"exitCode": exit_code, "reason": reason} | ({"message": message} if message else {})
    return {"terminated": body | {"startedAt": started, "finishedAt": finished, "containerID": container_id}}


def unknown_end(version: ServerVersion) -> Document:
    """state.terminated of a container whose end nobody saw."""
    message = "The container could not be located when the pod was terminated"
    if not version.reports_after_stop:
        message = (
            "The container could not be located when the pod was deleted.  The container used to be Running"
        )
    body = {
        "exitCode": 137,
        "reason": "ContainerStatusUnknown",
        "message": message,
        "startedAt": None,
        "finishedAt": None,
    }
    return {"terminated": body}


def failed_while_running(status: Document, reason: str, message: str, states: list[Document]) -> Document:
    """How v1.20 fails a pod over its deadline: at once, with the containers said to be running, and
    without conditions.
    """
    kept: Document = {
        name: status[name] for name in ("podIP", "podIPs", "startTime", "qosClass") if name in status
    }
    said = [
        {name: value for name, value in state.items() if name != "started"} | {"ready": False}
        for state in states
    ]
    return {"phase": "Failed", "message": message, "reason": reason, "containerStatuses": said, **kept}


def evicted_at_once(status: Document, message: str) -> Document:
    """How v1.20 evicts: phase and reason, and nothing about the containers."""
    return {"phase": "Failed", "message": message, "reason": "Evicted", "startTime": status.get("startTime")}


def command_not_found(command: str, version: ServerVersion) -> tuple[int, str, str]:
    """Exit code, reason and message when the runtime cannot start the command."""
    why = f'exec: "{command}": stat {command}: no such file or directory: unknown'
    message = f"OCI runtime create failed: runc create failed: unable to start container process: {why}"
    if version.has_containerd:
        return 128, "StartError", f"failed to create containerd task: failed to create shim task: {message}"
    return 127, "ContainerCannotRun", f"failed to create shim task: {message}"
