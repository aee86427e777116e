"""Turns a pod into the observation of its attempt. Pure functions.

A stop is proven (`_is_proven`) by any of these; the rules hold for kubelets from 1.20 on, and each names its
recording or the code that it was read from:
- The phase is terminal, and all containers that ever ran have a terminated status: a kubelet saw their exits.
- The object's deletion is final (`deletionGracePeriodSeconds` is 0, or the object is gone). A kubelet makes
  it final once the containers are gone from its runtime. An operator does so by a forced deletion, which
  vouches for the same (https://kubernetes.io/docs/tasks/run-application/force-delete-stateful-set-pod/). Our
  finalizer keeps such an object, and `late_ends` waits for a kubelet that may not be done with it.
- The pod was never assigned to a node and never will be: it was deleted while unscheduled, is a tombstone, or
  was refused by the kubelet.

The following are no proof:
- A terminal phase while a container is still `running`. v1.20 reports `DeadlineExceeded` so (recording
  deadline-exceeded), and pod garbage collection does it for pods of dead nodes.
- A final deletion of a pod whose phase was terminal before. The API server makes it final at once, without
  the kubelet (pkg/registry/core/pod/strategy.go, CheckGracefulDelete), so only the container statuses count.
  But a pod that garbage collection deleted after its *node object* was removed has stopped: the person who
  removes a node vouches for that, and StatefulSets rely on it.
- A terminal phase without container statuses. v1.20 evicts so, before it kills.
- A container status that returned to `waiting`, or `ContainerStatusUnknown`, in a pod that is being deleted.
  The kubelet lost track of the container (recording deleted-while-running-*); the final deletion follows
  within a minute.
"""

from __future__ import annotations

import re
from datetime import datetime

from msgspec.structs import replace

from controller.core.model.task import AttemptId, Observation, Phase
from controller.engine.kubernetes.pod import GATE, ContainerStatus, Pod, Terminated

_DISRUPTED = frozenset({"Evicted", "Preempting", "NodeShutdown", "Shutdown", "Terminated", "NodeLost"})
"""`status.reason` of pods that the platform ended (Terminated: a graceful shutdown of the node)."""
_OWN_LIMIT = re.compile(
    r"Pod ephemeral local storage usage exceeds the total limit of containers |"
    r"Container \S+ exceeded its local ephemeral storage limit |"
    r"Usage of EmptyDir volume .+ exceeds the limit "
)
"""The messages of kubelets, 1.20 to 1.36, for an `Evicted` that the task itself has caused.

See pkg/kubelet/eviction/helpers.go. All others begin with "The node …", and from 1.26 on have the condition
DisruptionTarget, which these do not have.
"""
_REFUSED = frozenset(
    {
        "NodeAffinity",
        "TaintToleration",
        "NodeSelectorMismatching",
        "NodeName",
        "NodePorts",
        "UnexpectedAdmissionError",
        "InvalidNodeInfo",
        "UnexpectedPredicateFailureType",
        "TopologyAffinityError",
        "SysctlForbidden",
        "AppArmor",
        "PodOSNotSupported",
        "PodOSSelectorNodeLabelDoesNotMatch",
        "PodFeatureUnsupported",
    }
)
"""`status.reason` of pods that a kubelet refused at once; reasons that begin with OutOf count, too."""
_REFUSALS = ("Pod was rejected", "Pod Pod was rejected", "Pod Predicate ", "Pod The node had condition")
"""How their messages begin, where the reason may be of a pod that ran; older kubelets add another "Pod "."""
UNREADABLE = "Unreadable"
_CANNOT_START = frozenset({"ContainerCannotRun", "StartError"})  # dockershim's and containerd's words
_ORDINARY_WAITING = frozenset({"", "ContainerCreating", "PodInitializing"})
_SIGNAL_BASE, _SIGNALS = 128, 64


def observe(
    pod: Pod, *, removed: bool = False, is_confirmed: bool = True, requested: float | None = None
) -> Observation:
    """The observation of the pod's attempt, which has the pod's name.

    `removed` means that the object is gone, and this is its last state. Without `is_confirmed`, a final
    deletion is no proof yet; `requested` is when its deletion was requested, where more is known of that than
    the pod tells (both: see `late_ends`). If the pod cannot be read, or has impossible values, nothing is
    known of its attempt but that it exists.
    """
    problem = pod.unreadable
    if not problem:
        try:
            return _observe(
                pod, removed, is_confirmed, requested if requested is not None else deletion_requested_at(pod)
            )
        # an unknown phase, a date before all calendars
        except (ValueError, OverflowError, TypeError) as error:
            problem = str(error)
    message = f"its pod cannot be read: {problem}"
    attempt, uid = AttemptId.parse(pod.metadata.name), pod.metadata.uid
    return Observation(attempt=attempt, phase=Phase.UNKNOWN, uid=uid, reason=UNREADABLE, message=message)


def vanished(attempt: AttemptId, uid: str) -> Observation:
    """Of an attempt whose object is gone, while its kubelet may not be done: see `late_ends`."""
    message = "its pod is gone and was not seen to end: its node may still be ending it"
    return Observation(attempt=attempt, phase=Phase.UNKNOWN, uid=uid, reason="Vanished", message=message)


def _observe(pod: Pod, removed: bool, is_confirmed: bool, requested: float | None) -> Observation:
    stopped = is_confirmed and _is_proven(pod, removed)
    main = pod.main
    end = main.state.terminated if main is not None else None
    began = (
        end.started_at
        if end is not None
        else main.state.running.started_at
        if main and main.state.running
        else None
    )
    seen = Observation(
        attempt=AttemptId.parse(pod.metadata.name),
        phase=_live_phase(pod),
        stopped=stopped,
        gone=removed,
        uid=pod.metadata.uid,
        node=pod.spec.node_name,
        started_at=_seconds(began),
        finished_at=_seconds(end.finished_at) if end is not None else None,
        reason=pod.status.reason,
        message=pod.status.message,
        awaits_start=pod.is_gated and not pod.is_deleting,
        awaits_commit=stopped and not removed and pod.is_deleting and pod.has_finalizer,
    )
    if stopped:
        return _as_ended(seen, pod, end, requested)
    if pod.ends_with and end is not None and end.is_known and _ended_before(end, requested):
        return _with_main_ended(seen, pod, end)
    if seen.phase is Phase.PENDING:
        reason, message = _why_waiting(pod)
        return replace(seen, waiting=reason, waiting_message=message)
    if seen.phase is Phase.UNKNOWN:
        words = f"node {pod.spec.node_name} does not answer" + (
            f": {pod.status.message}" if pod.status.message else ""
        )
        return replace(seen, reason="NodeLost", message=words)
    if pod.is_terminal:
        return replace(
            seen,
            message=_what_is_known(pod),
            disrupted=bool(_disruption(pod)) and not _exceeded_its_limit(pod),
        )
    return seen


def _is_proven(pod: Pod, removed: bool) -> bool:
    """Whether it is proven that the attempt has stopped and will not start; see the module's docstring."""
    statuses = list(pod.statuses())
    if pod.is_tombstone or (not pod.spec.node_name and (pod.is_deleting or removed)):
        return True
    if removed or pod.is_final:
        if not pod.is_terminal or pod.has_lost_node:
            return True
        return _was_refused(pod) or (bool(statuses) and not any(each.state.running for each in statuses))
    if not pod.is_terminal:
        return False
    if not statuses:
        return _was_refused(pod)
    reported = {each.name for each in pod.status.container_statuses or ()}
    return reported >= {each.name for each in pod.spec.containers or ()} and all(
        _has_ended(each, pod) for each in statuses
    )


def _has_ended(status: ContainerStatus, pod: Pod) -> bool:
    if status.state.terminated is not None:
        return status.state.terminated.is_known or not pod.is_deleting
    return status.never_started and not pod.is_deleting  # in a terminal phase nothing is created any more


def _was_refused(pod: Pod) -> bool:
    status = pod.status
    if status.phase != "Failed" or next(pod.statuses(), None) is not None:
        return False
    return (
        status.reason in _REFUSED or status.reason.startswith("OutOf") or status.message.startswith(_REFUSALS)
    )


def _live_phase(pod: Pod) -> Phase:
    """The phase of an attempt whose stop is not proven."""
    status = pod.status
    if status.phase == "Unknown" or (status.reason == "NodeLost" and not pod.is_terminal):
        return Phase.UNKNOWN
    ready, containers = pod.condition("Ready"), pod.condition("ContainersReady")
    if status.phase == "Running" and ready is not None and containers is not None:  # noqa: SIM102
        # So the node controller marks the pods of a node that is silent (recording node-lost-and-back): it
        # sets Ready alone, without a reason; a kubelet sets both, with one.
        if ready.status != "True" and containers.status == "True" and not ready.reason:
            return Phase.UNKNOWN
    return Phase(status.phase)


def _as_ended(seen: Observation, pod: Pod, end: Terminated | None, requested: float | None) -> Observation:
    """The observation of an attempt that has stopped: how it ended, and whether it ran."""
    if pod.is_tombstone:
        message = "it was stopped before it was started"
        return replace(seen, phase=Phase.FAILED, ran=False, reason="NeverStarted", message=message)
    is_own_fault = _exceeded_its_limit(pod)
    disruption = "" if is_own_fault else _disruption(pod)
    ended_by_itself = end is not None and _ended_before(end, requested)
    if end is not None and end.is_known:
        seen = replace(seen, exit_code=end.exit_code, signal=_signal(end))
    failed_by_others = pod.ends_with and not seen.reason and not disruption
    # a Failed phase may tell of helpers that the deletion has ended
    failed_by_deletion = (
        requested is not None
        and not seen.reason
        and not any(_ended_before(other, requested) for _, other in _failures(pod))
    )
    may_succeed = pod.status.phase != "Failed" or failed_by_deletion or failed_by_others
    if ended_by_itself and end is not None and end.exit_code == 0 and may_succeed:
        return replace(seen, phase=Phase.SUCCEEDED, reason=end.reason or "Completed", message=end.message)
    seen = replace(seen, phase=Phase.FAILED, disrupted=bool(disruption))
    if not ended_by_itself and (requested is not None or seen.gone) and not is_own_fault:
        ran = bool(pod.spec.node_name)
        condition = pod.condition("DisruptionTarget")
        words = (condition.message if condition is not None else "") or seen.message
        message = "its pod was deleted" + (f": {words}" if words else "")
        return replace(seen, ran=ran, disrupted=True, reason=disruption or "Stopped", message=message)
    if seen.reason or disruption:  # the kubelet's own words for the pod as a whole
        ran = any(not each.never_started for each in pod.statuses()) or is_own_fault
        return replace(seen, ran=ran, reason=seen.reason or disruption)
    return _as_failed(seen, pod, end)


def _ended_before(end: Terminated, requested: float | None) -> bool:
    """Whether a container ended before anybody had asked for the pod's deletion, and so by itself."""
    finished = _seconds(end.finished_at)
    return requested is None or (finished is not None and finished < requested)


def _failures(pod: Pod) -> list[tuple[ContainerStatus, Terminated]]:
    """The failures of its containers, the first one first.

    Sidecars and ephemeral containers fail no pod: a sidecar is ended with it, for whatever reason that ends.
    """
    helpers = {each.name for each in pod.spec.init_containers or () if each.is_sidecar}
    inits = (each for each in pod.status.init_container_statuses or () if each.name not in helpers)
    failed = [
        (each, end)
        for each in (*inits, *(pod.status.container_statuses or ()))
        if (end := each.state.terminated) is not None and end.exit_code != 0
    ]
    return sorted(failed, key=lambda one: _seconds(one[1].finished_at) or float("inf"))


def _with_main_ended(seen: Observation, pod: Pod, end: Terminated) -> Observation:
    """The observation after the main container ended while others run: how it ended, without a stop."""
    seen = replace(seen, main_ended=True, exit_code=end.exit_code, signal=_signal(end))
    if end.exit_code == 0:
        return replace(seen, reason=end.reason or "Completed", message=end.message)
    return _as_failed(seen, pod, end)


def _as_failed(seen: Observation, pod: Pod, end: Terminated | None) -> Observation:
    """The observation of a failure of the task's own: by the main container, else by another one."""
    if end is not None and end.reason in _CANNOT_START:
        reason = end.reason
        if "no such file" in end.message or "not found in" in end.message:
            reason = "CommandNotFound"
        elif "permission denied" in end.message:
            reason = "PermissionDenied"
        return replace(seen, ran=False, reason=reason, message=end.message, signal=None)
    if end is not None and end.exit_code != 0:
        return replace(seen, reason=end.reason or "Error", message=end.message)
    for each, other in _failures(pod):
        message = f"container {each.name} ended with exit code {other.exit_code}" + (
            f": {other.message}" if other.message else ""
        )
        reason = "ContainerFailed" if other.reason in ("", "Error") else other.reason
        return replace(seen, exit_code=other.exit_code, signal=_signal(other), reason=reason, message=message)
    return replace(seen, ran=end is not None, reason="Failed", message="no container of the pod reports why")


def _disruption(pod: Pod) -> str:
    """The platform's reason for ending the pod; "" if it did not. DisruptionTarget needs 1.26."""
    condition = pod.condition("DisruptionTarget")
    if condition is not None and condition.status == "True":
        return condition.reason or "DisruptionTarget"
    return pod.status.reason if pod.status.reason in _DISRUPTED else ""


def _exceeded_its_limit(pod: Pod) -> bool:
    """Whether it was evicted for using more local storage than it asked for, a failure like OOMKilled."""
    return pod.status.reason == "Evicted" and _OWN_LIMIT.match(pod.status.message) is not None


def deletion_requested_at(pod: Pod) -> float | None:
    """`deletionTimestamp` is the time of the request plus the grace, to the second.

    A server from 1.33 on sets it anew when the deletion becomes final:
    https://github.com/kubernetes/kubernetes/pull/122646
    """
    due = _seconds(pod.metadata.deletion_timestamp)
    return due - (pod.metadata.deletion_grace_period_seconds or 0) if due is not None else None


def _signal(end: Terminated) -> int | None:
    """The signal that ended it. Runtimes report 128 + signal as the exit code, and seldom the signal."""
    if end.signal:
        return end.signal
    number = end.exit_code - _SIGNAL_BASE
    return number if 0 < number <= _SIGNALS else None


def _why_waiting(pod: Pod) -> tuple[str, str]:
    """Reason and message of why a pending pod does not run; "" while it simply starts."""
    if pod.is_deleting:
        return "Terminating", "its pod is being deleted, and its node has not yet shown that it has ended"
    for status in pod.statuses():
        waiting = status.state.waiting
        if waiting is not None and waiting.reason not in _ORDINARY_WAITING:
            # The kubelet alternates between these two.
            reason = "ErrImagePull" if waiting.reason == "ImagePullBackOff" else waiting.reason
            return reason, waiting.message
    scheduled = pod.condition("PodScheduled")
    if scheduled is not None and scheduled.status == "False" and not pod.spec.node_name:
        # Our own gate is no reason to wait; nor is one that was opened, of which the scheduler has not heard
        # yet.
        others = [gate.name for gate in pod.spec.scheduling_gates or () if gate.name != GATE]
        if scheduled.reason == "SchedulingGated" and not others:
            return "", ""
        return scheduled.reason or "Unschedulable", scheduled.message or "no node fits"
    return "", ""


def _what_is_known(pod: Pod) -> str:
    """A message for a terminal phase that does not prove a stop."""
    running = [each.name for each in pod.statuses() if each.state.running]
    if running:
        known = f"phase {pod.status.phase}, but container {', '.join(running)} is reported as running"
    elif pod.is_deleting:
        known = f"phase {pod.status.phase}, and the pod is being deleted"
    else:
        known = f"phase {pod.status.phase}, but the end of its containers is not reported"
    return f"{known}: {pod.status.message}" if pod.status.message else known


def _seconds(when: datetime | None) -> float | None:
    """Seconds since the epoch; runtimes say 1970 for a container that never started."""
    seconds = when.timestamp() if when is not None else 0.0
    return seconds if seconds > 0 else None
