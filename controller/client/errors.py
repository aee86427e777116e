"""The client's own errors."""

from __future__ import annotations

from collections.abc import Sequence

from controller.client.views import TaskView
from controller.core.errors import TallyError, UserError


class NotFound(UserError):
    """There is no such task, pool or leader."""


class Conflict(UserError):
    """A task of that name exists with another spec, and specs never change."""


class Still(TallyError):
    """The time is over, and these tasks have not come to what was waited for; `views` has all as they stood last."""

    def __init__(self, waiting: Sequence[str], views: dict[str, TaskView]) -> None:
        shown = ", ".join(waiting[:5]) + (f" and {len(waiting) - 5} more" if len(waiting) > 5 else "")
        super().__init__(f"still waiting for {shown}")
        self.waiting = tuple(waiting)
        self.views = views
