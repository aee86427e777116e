"""The requests that users make of the leader: cancel, retry and confirm-stopped."""

from __future__ import annotations

import getpass
import socket

from controller.client.asking import ask
from controller.client.calls import Calls
from controller.client.reading import Reading
from controller.client.views import RequestResult
from controller.core.model.lifecycle import State
from controller.core.model.requests import Request, RequestKind
from controller.errors import UserError
from controller.views.tasks import UNREADABLE


class Requests:
    """Each method looks at the task first, and refuses a request that cannot take effect."""

    def __init__(self, calls: Calls, reading: Reading) -> None:
        self._calls = calls
        self._reading = reading

    def cancel(self, task_id: str, *, reason: str = "") -> RequestResult:
        """Ask the leader to cancel a task.

        A finished task is left as it is (`already finished`). Raises NotFound.
        """
        view = self._reading.task(task_id)
        if view.finished:
            return RequestResult(
                id=task_id, outcome="already finished", message=f"{task_id} is already {view.state}"
            )
        return self._request(RequestKind.CANCEL, task_id, reason)

    def retry(self, task_id: str, *, reason: str = "") -> RequestResult:
        """Ask the leader to run a Failed or Cancelled task again.

        Raises NotFound, and UserError for a task in another state, unless it is being cancelled.
        """
        view = self._reading.task(task_id)
        if view.state is State.SUCCEEDED:
            raise UserError(
                f"{task_id} is Succeeded, and a task that succeeded cannot be retried: submit it under"
                " another name"
            )
        if not view.finished and not (view.status is not None and view.status.cancelling):
            raise UserError(
                f"{task_id} is {view.state or UNREADABLE}: only a Failed or Cancelled task can be retried;"
                f" see `tally explain {task_id}`"
            )
        return self._request(RequestKind.RETRY, task_id, reason)

    def confirm_stopped(self, task_id: str, *, reason: str = "") -> RequestResult:
        """Confirm, as an operator, that the attempt of a task no longer runs.

        The leader releases its resources, and may retry the task. If the confirmation is wrong, two attempts
        may run at the same time. Raises NotFound, and UserError when the attempt is neither lost nor being
        stopped.
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
    """The user and the machine that a request is recorded with."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # the user id has no name, as in many containers
        user = "unknown"
    return f"{user}@{socket.gethostname()}"
