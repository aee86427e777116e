"""The known reasons for the end of an attempt: those that a retry rule may match and a metric may name."""

from __future__ import annotations

import difflib
from collections.abc import Iterator

from controller.core.model.fields import SIMILAR
from controller.core.model.task import RetryPolicy
from controller.core.planning.retry import PERMANENT_REASONS
from controller.core.planning.start_faults import GRACE_SECONDS

REASONS = frozenset(
    {
        *PERMANENT_REASONS,
        *GRACE_SECONDS,
        # Tally's own (core/planning/transitions.py, core/planning/decide.py, core/planning/gangs.py)
        "ConfirmedStopped",
        "DeadlineExceeded",
        "Failed",
        "Gone",
        "Lost",
        "MemberFailed",
        "Replaced",
        "StartDeadlineExceeded",
        # engines
        "AdmissionDenied",
        "Completed",
        "Error",
        "Forbidden",
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


def unknown_reasons(policy: RetryPolicy) -> Iterator[tuple[str, str]]:
    """For each reason in the rules that is not known: its field, and a message.

    A cluster may have reasons of its own.
    """
    for number, rule in enumerate(policy.rules):
        for index, reason in enumerate(rule.reasons):
            if reason in REASONS or reason.startswith(_OUT_OF):
                continue
            meant = difflib.get_close_matches(reason.lower(), _BY_LOWER_CASE, 1, SIMILAR)
            advice = (
                f"did you mean {_BY_LOWER_CASE[meant[0]]}?"
                if meant
                else "it matches only if your cluster or container runtime reports it"
            )
            yield (
                f"retry.rules[{number}].reasons[{index}]",
                f"{reason[:80]!r} is not a reason that Tally knows; {advice}",
            )
