"""The client's own errors."""

from __future__ import annotations

from collections.abc import Sequence

from controller.client.views import TaskView
from controller.errors import TallyError, UserError


class NotFound(UserError):
    """There is no such task, pool or leader."""


class Conflict(UserError):
    """A task of that name exists with another spec; specs never change."""


class Still(TallyError):
    """The time is over, and the tasks in `waiting` have not reached the state.

    `views` has all tasks as they were seen last.
    """

    def __init__(self, waiting: Sequence[str], views: dict[str, TaskView]) -> None:
        shown = ", ".join(f"{task_id}{_as_it_stands(views.get(task_id))}" for task_id in waiting[:5])
        more = f" and {len(waiting) - 5} more" if len(waiting) > 5 else ""
        super().__init__(f"still waiting for {shown}{more}")
        self.waiting = tuple(waiting)
        self.views = views


class GatewayUnavailable(TallyError):
    """The gateway did not answer in time. It is not known whether it did what it was asked to do."""


class NotSignedIn(UserError):
    """The gateway does not know who is calling."""


class Refusal(UserError):
    """The caller lacks a verb, or the task is in a state in which this cannot be done."""


def another(task_id: str) -> NotFound:
    """The error for a task whose name another one has by now."""
    return NotFound(f"the task {task_id!r} that was shown is gone: another one of its name is stored")


def check_same(before: TaskView | None, view: TaskView) -> None:
    """Raises NotFound if another task has the name by now. A task whose spec is gone is still that one."""
    known = {view.create_revision, before.create_revision if before is not None else 0} - {0}
    if len(known) > 1:
        raise another(view.id)


def _as_it_stands(view: TaskView | None) -> str:
    if view is None:
        return ""
    words = ", ".join(filter(None, (view.state, view.reason, "lost" if view.lost else "")))
    return f" ({words})"
