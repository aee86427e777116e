"""Labels of tasks that Tally itself sets. Engines have others with this prefix on what they make."""

from __future__ import annotations

from collections.abc import Iterable

from controller.errors import InvalidField

PREFIX = "tally.dev/"
SCHEDULE = "tally.dev/schedule"
"""The name of the schedule that a task is of. The leader alone sets it: see `schedules`."""
EXECUTOR = "tally.dev/executor"
"""The run of a TallyExecutor that a task is a call of. The library submits it, as a user does."""
OF_TASKS = frozenset({SCHEDULE, EXECUTOR})


def check_submitted(labels: Iterable[str]) -> None:
    """Raise InvalidField if one of these keys is not a user's to choose.

    Anybody's task with a schedule's label could pass for a tick's, and keep others from being made.
    """
    for key in labels:
        if key.startswith(PREFIX) and key != EXECUTOR:
            where = "on the tasks of schedules: leave it out" if key == SCHEDULE else "only: use another"
            raise InvalidField(f"labels.{key}", f"is set by Tally {where}")
