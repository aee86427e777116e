"""The fencing token of an attempt, in its environment."""

from __future__ import annotations

from collections.abc import Mapping

from controller.core.model.task import AttemptId

FENCE = ("TALLY_TASK_ID", "TALLY_ATTEMPT", "TALLY_TERM")
"""The variables of an attempt's fencing token."""
MAIN_CONTAINER = "TALLY_MAIN_CONTAINER"
"""In a pod: the container whose end is the end of the attempt; empty: the end of all.

Nobody can change the environment of a pod's containers, as anybody may its labels and annotations.
"""
RESERVED = {**dict.fromkeys(FENCE, "the attempt's fencing token"), MAIN_CONTAINER: "from main_container"}
"""The variables that no user can set, and what each of them is."""


def fencing_environment(attempt: AttemptId, term: int, env: Mapping[str, str]) -> dict[str, str]:
    """The fencing token's variables, followed by the user's in their order.

    In Kubernetes, a variable may refer to those before it.
    """
    task_id, number, token = FENCE
    fence = {task_id: attempt.task_id, number: str(attempt.number), token: str(term)}
    return {**fence, **env, **fence} if env else fence
