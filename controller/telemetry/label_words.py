"""The words that labels may have: a label from elsewhere must not have any number of values."""

from __future__ import annotations

from controller.core.model.task import StopReason
from controller.core.planning import reasons

OTHER = "Other"
"""The label's value for a word outside its fixed set."""

REASONS = reasons.REASONS | {
    # of tasks whose attempt has not ended, or that have none (core/planning/transitions.py,
    # core/planning/decide.py)
    "",
    "Cancelled",
    "DependencyFailed",
    "DependencyUnknown",
    "Found",
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
    "StartDelayed",
    "StopDelayed",
    "Succeeded",
    "Unattested",
    "Unsatisfiable",
    *StopReason,
    # of those that wait
    "ContainerCreating",
    "PodInitializing",
    "SchedulingGated",
    "Unschedulable",
}
"""The reasons that labels may have. Engines also pass on others' reasons, whose number is not bounded."""


def known(word: str, words: frozenset[str]) -> str:
    """The word if it is of the set, else `OTHER`."""
    return word if word in words else OTHER
