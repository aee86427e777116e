"""The tasks that wait for a task, directly or not, and a retry of those that did not come to their end."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from controller.client.bulk import Bulk, TaskAct
from controller.client.views import RequestResult, TaskView
from controller.core.model.lifecycle import State
from controller.errors import UserError

MOST_DOWNSTREAM = 10_000


class Asked(NamedTuple):
    """What became of the request for one task."""

    task: TaskView
    result: RequestResult | UserError


class Downstream:
    """See the module's docstring."""

    def __init__(
        self, tasks: Callable[[], list[TaskView]], get: Callable[[str], TaskView], bulk: Bulk
    ) -> None:
        self._tasks = tasks
        self._get = get
        self._bulk = bulk

    def retryable(self, *tasks: str | TaskView) -> list[list[TaskView]]:
        """What `retry` asks for, in groups: each task is behind those of the others that it waits for.

        `tasks` are names, or views that were read just now.

        The tasks themselves come first, if they are Failed or Cancelled, and none is behind another one. Of
        those that wait for them, directly or not, it has the ones that are Failed, or Cancelled as Skipped.
        What waits only for a task that somebody cancelled is left out, since that one keeps it from running.
        Raises NotFound, and UserError for a member of an array, and for more than MOST_DOWNSTREAM tasks.
        """
        roots = [self._get(task) if isinstance(task, str) else task for task in tasks]
        for root in roots:
            check_whole(root)
        task_ids = [root.id for root in roots]
        views = {view.id: view for view in self._tasks()}
        found = _behind(task_ids, views)
        if len(found) > MOST_DOWNSTREAM:
            raise UserError(
                f"{len(found):,} tasks that wait for {', '.join(task_ids)[:99]} would be retried, but at most"
                f" {MOST_DOWNSTREAM:,} can be: retry tasks further down, a part at a time"
            )
        ended = (State.FAILED, State.CANCELLED)
        first = [root for root in roots if root.state in ended and root.id not in found]
        return parents_first(first) + parents_first([views[name] for name in found])

    def retry(
        self, *task_ids: str, reason: str = "", groups: list[list[TaskView]] | None = None
    ) -> list[Asked]:
        """Ask the leader to run tasks again, and then what waits for them, as `retryable` tells.

        A retried task waits for its parents again, and for one whose retry is requested. So nothing more is
        asked for if a single task, being Failed or Cancelled, cannot be retried. `groups` is what `retryable`
        has returned before. An error that is one task's alone is its result. Raises as `retryable` and
        `Bulk.act`; what was asked for before stays so, and the same call asks for the rest.
        """
        asked: list[Asked] = []
        for group in self.retryable(*task_ids) if groups is None else groups:
            answers = self._bulk.act(TaskAct.RETRY, group, reason=reason)
            asked += map(Asked, group, answers)
            refused = [each.task.id for each in asked if isinstance(each.result, UserError)]
            if len(task_ids) == 1 and refused == [*task_ids]:
                break
        return asked


def check_whole(view: TaskView) -> None:
    """Raises UserError for a member of an array, which no task waits for."""
    if view.member_of:
        raise UserError(
            f"a retry downstream is one of whole tasks, since others wait for these: name {view.member_of},"
            f" of which {view.id} is a member"
        )


def _behind(task_ids: Sequence[str], views: dict[str, TaskView]) -> list[str]:
    """The tasks that can be retried, among those that wait for these, directly or not."""
    children: dict[str, list[str]] = {}
    for view in views.values():
        for parent in _parents(view):
            children.setdefault(parent, []).append(view.id)
    # of several, one may be behind another
    seen, found, rest = (set(task_ids) if len(task_ids) == 1 else set()), list[str](), [*task_ids]
    for name in rest:  # it grows: breadth first
        for child in children.get(name, ()):
            if child in seen:
                continue
            seen.add(child)
            view = views[child]
            if _ended_in_vain(view):
                found.append(child)
            if _ended_in_vain(view) or view.state is not State.CANCELLED:
                rest.append(child)
    return found


def parents_first(views: list[TaskView]) -> list[list[TaskView]]:
    """Each task in a group behind those of the others that it names."""
    left = {view.id: view for view in views}
    groups: list[list[TaskView]] = []
    children: dict[str, list[str]] = {}
    open_parents: dict[str, int] = {}
    for view in views:
        parents = [name for name in _parents(view) if name in left]
        open_parents[view.id] = len(parents)
        for name in parents:
            children.setdefault(name, []).append(view.id)
    group = [view.id for view in views if not open_parents[view.id]]
    while group:
        groups.append([left.pop(name) for name in group])
        following: list[str] = []
        for name in group:
            for child in children.get(name, ()):
                open_parents[child] -= 1
                if not open_parents[child]:
                    following.append(child)
        group = following
    return [*groups, list(left.values())] if left else groups  # written by hand, in a circle


def _ended_in_vain(view: TaskView) -> bool:
    return view.state is State.FAILED or view.skipped


def _parents(view: TaskView) -> Iterable[str]:
    return [each.task for each in view.spec.after] if view.spec is not None else ()
