"""The known reasons: Tally's own, and those for the end of an attempt, which a retry rule may match."""

from __future__ import annotations

import difflib
from collections.abc import Iterator

from msgspec.structs import replace

from controller.core.model.fields import SIMILAR
from controller.core.model.task import Observation, RetryPolicy, StopReason
from controller.core.planning.retry import PERMANENT_REASONS
from controller.core.planning.start_faults import GRACE_SECONDS

_OWN_OF_ENDS = {"ConfirmedStopped", "Lost", "MemberFailed", "Replaced", "StartDeadlineExceeded"}
OWN = frozenset(
    {
        *_OWN_OF_ENDS,
        "Cancelled",
        "DependencyFailed",
        "DependencyUnknown",
        "Found",
        "InvalidSpec",
        "MembersCancelled",
        "MembersFailed",
        "OnHold",
        "Preempted",
        "PriorityChanged",
        "QueueDeadlineExceeded",
        "Released",
        "Repaired",
        "RequestIgnored",
        "RetryRequested",
        "Seen",
        "Skipped",
        "SpecDeleted",
        "StartDelayed",
        "Starting",
        "StopDelayed",
        "Unattested",
        "Unsatisfiable",
        "WaitsForTasks",  # in views only
        *StopReason,
    }
)
"""The reasons that Tally alone gives: whether a task waits for a back-off, for example, goes by them."""
_OTHERS = "Engine"  # goes before a reason of an engine that is one of them
REASONS = frozenset(
    {
        *PERMANENT_REASONS,
        *GRACE_SECONDS,
        *_OWN_OF_ENDS,
        # engines, and some of them Tally too
        "AdmissionDenied",
        "Completed",
        "DeadlineExceeded",
        "Error",
        "Failed",
        "Forbidden",
        "Gone",
        "ImageMissing",
        "Interrupted",
        "InvalidDuration",
        "InvalidPool",
        "Killed",
        "MachineRebooted",
        "NamespaceNotFound",
        "NamespaceTerminating",
        "NeverStarted",
        "OutOfMemory",
        "QuotaExceeded",
        "ResultLost",
        "Signaled",
        "Stopped",
        "SupervisorLost",
        # Kubernetes: the kubelet's, the scheduler's, and those of disruptions
        "AppArmor",
        "ContainerCannotRun",
        "ContainerFailed",
        "ContainerStatusUnknown",
        "CrashLoopBackOff",
        "DeletionByPodGC",
        "DeletionByTaintManager",
        "DisruptionTarget",
        "Evicted",
        "EvictionByEvictionAPI",
        "InvalidNodeInfo",
        "NodeAffinity",
        "NodeLost",
        "NodeName",
        "NodePorts",
        "NodeSelectorMismatching",
        "NodeShutdown",
        "OOMKilled",
        "OutOfcpu",
        "OutOfmemory",
        "OutOfpods",
        "PodFeatureUnsupported",
        "PodOSNotSupported",
        "PodOSSelectorNodeLabelDoesNotMatch",
        "Preempting",
        "PreemptionByScheduler",
        "Shutdown",
        "StartError",
        "SysctlForbidden",
        "TaintToleration",
        "Terminated",
        "TerminationByKubelet",
        "TopologyAffinityError",
        "UnexpectedAdmissionError",
        "UnexpectedPredicateFailureType",
    }
)
_OUT_OF = "OutOf"  # a kubelet's, followed by the name of any resource
_BY_LOWER_CASE = {reason.lower(): reason for reason in REASONS}


def as_told(seen: Observation) -> Observation:
    """The observation, without a reason that is one of Tally's own: an engine passes on others' words."""
    if seen.reason not in OWN and seen.waiting not in OWN:
        return seen
    return replace(seen, reason=_foreign(seen.reason), waiting=_foreign(seen.waiting))


def _foreign(word: str) -> str:
    return _OTHERS + word if word in OWN else word


def unknown_reasons(policy: RetryPolicy) -> Iterator[tuple[str, str]]:
    """For each reason in the rules that is not known: its field, and a message.

    A cluster may have reasons of its own.
    """
    for number, rule in enumerate(policy.rules):
        for index, reason in enumerate(rule.reasons):
            if reason in REASONS or reason.startswith((_OUT_OF, _OTHERS)):
                continue
            field = f"retry.rules[{number}].reasons[{index}]"
            if reason in OWN:
                yield field, f"{reason!r} ends no attempt; your cluster's own is told as {_foreign(reason)!r}"
                continue
            meant = difflib.get_close_matches(reason.lower(), _BY_LOWER_CASE, 1, SIMILAR)
            advice = (
                f"did you mean {_BY_LOWER_CASE[meant[0]]}?"
                if meant
                else "it matches only if your cluster or container runtime reports it"
            )
            yield field, f"{reason[:80]!r} is not a reason that Tally knows; {advice}"
