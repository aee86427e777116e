"""The words that labels may have: a label from elsewhere must not have any number of values."""

from __future__ import annotations

from controller.core.planning import reasons

OTHER = "Other"
"""The label's value for a word outside its fixed set."""

REASONS = (
    reasons.REASONS
    | reasons.OWN
    | {
        "",
        "Succeeded",
        # of those that wait
        "ContainerCreating",
        "PodInitializing",
        "SchedulingGated",
        "Unschedulable",
    }
)
"""The reasons that labels may have. Engines also pass on others' reasons, whose number is not bounded."""


def known(word: str, words: frozenset[str]) -> str:
    """The word if it is of the set, else `OTHER`."""
    return word if word in words else OTHER
