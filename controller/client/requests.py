"""What users ask of the leader: to cancel a task, to retry it, to take an attempt for stopped."""

from __future__ import annotations

import getpass
import socket

from controller.client.asking import ask
from controller.client.calls import Calls
from controller.client.reading import Reading
from controller.client.views import RequestResult
from controller.core.model.lifecycle import State
from controller.core.model.task import Request, RequestKind
from controller.errors import UserError
from controller.views.tasks import UNREADABLE


class Requests:
    """Each looks at the task first: what cannot be is refused at once."""

    def __init__(self, calls: Calls, reading: Reading) -> None:
        self._calls = calls
        self._reading = reading

    def cancel(self, task_id: str, *, reason: str = "") -> RequestResult:
        """Ask for a task to be cancelled.

        One that has finished is left as it is (`already finished`). Raises NotFound.
        """
        view = self._reading.task(task_id)
        if view.finished:
            return RequestResult(
                id=task_id, outcome="already finished", message=f"{task_id} is {view.state} already"
            )
        return self._request(RequestKind.CANCEL, task_id, reason)

    def retry(self, task_id: str, *, reason: str = "") -> RequestResult:
        """Ask for another attempt at a Failed or Cancelled task.

        Raises NotFound, and UserError for one in another state.
        """
        view = self._reading.task(task_id)
        if view.state is State.SUCCEEDED:
            raise UserError(
                f"{task_id} is Succeeded, and what has succeeded is not run again: submit it under another"
                " name"
            )
        if not view.finished and not (view.status is not None and view.status.cancelling):
            raise UserError(
                f"{task_id} is {view.state or UNREADABLE}: only a Failed or Cancelled task can be retried;"
                f" see `tally explain {task_id}`"
            )
        return self._request(RequestKind.RETRY, task_id, reason)

    def confirm_stopped(self, task_id: str, *, reason: str = "") -> RequestResult:
        """An operator's word that the lost attempt of a task no longer runs: its resources are released, and
        it may be retried.

        If the word is wrong, two attempts may run at the same time. Raises NotFound, and UserError when it is
        not lost.
        """
        view = self._reading.task(task_id)
        if view.status is None or not view.status.is_holding or not (view.lost or view.status.stopping):
            raise UserError(
                f"{task_id} is {view.state or UNREADABLE} and neither lost nor being stopped: there is"
                " nothing to confirm"
            )
        return self._request(RequestKind.CONFIRM_STOPPED, task_id, reason, view.attempt)

    def _request(self, kind: RequestKind, task_id: str, reason: str, attempt: int = 0) -> RequestResult:
        request = Request(
            kind=kind, by=requester(), reason=reason, at=self._calls.clock.now(), attempt=attempt
        )
        calls = self._calls
        result = ask(calls.stored, calls.commit, calls.keys, task_id, request)
        if result is None:
            raise self._reading.no_task(task_id)
        return result


def requester() -> str:
    """Who asks, for the record: user and machine."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a user id without a name, as in many containers
        user = "unknown"
    return f"{user}@{socket.gethostname()}"
