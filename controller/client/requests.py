"""The requests that users make of the leader: cancel, retry, confirm-stopped, and changes of what waits."""

from __future__ import annotations

import getpass
import socket
from functools import partial

import msgspec

from controller.client.asking import acted_on, ask, is_answered
from controller.client.calls import Calls
from controller.client.features import Features
from controller.client.reading import Reading
from controller.client.views import RequestResult, TaskView
from controller.core.model import features
from controller.core.model.lifecycle import State
from controller.core.model.model import Model
from controller.core.model.requests import MOST_PRIORITY, Request, RequestKind
from controller.core.model.scalars import parse_text, shown
from controller.errors import InvalidField, UserError
from controller.store.base import Guard
from controller.views.array_requests import CANCELLABLE, Part, part_of
from controller.views.tasks import UNREADABLE, why_unchangeable

MAX_REASON = 2000  # characters: it stands in the task's history, and in sentences


class Requests:
    """Each method looks at the task first, and refuses a request that cannot take effect.

    `of` is the task as it was shown: if another one of its name has taken its place, that is NotFound. `by`
    is who asks; without it, the user of this process. `steps`, if this asks again since an answer was lost:
    how many steps the task had before it was asked for first. What the leader has acted on since is done.
    """

    def __init__(
        self, calls: Calls, reading: Reading, known: Features, by: str = "", steps: int | None = None
    ) -> None:
        self._by = by
        self._steps = steps
        self._calls = calls
        self._reading = reading
        self._features = known

    def cancel(
        self, task_id: str, *, members: str = "", reason: str = "", of: TaskView | None = None
    ) -> RequestResult:
        """Ask the leader to cancel a task, or these members of an array.

        What has finished is left as it is (`already finished`). Raises NotFound, and as `part_of`.
        """
        model = self._model(task_id, of)
        view = self._reading.found(model, task_id, alone=True)
        part = part_of(model, view, members)
        if self._is_answered(model, task_id, self._made(RequestKind.CANCEL, reason, part=part), part):
            return acted_on(task_id)
        if part is not None and not part.is_whole:
            if not part.has(model, CANCELLABLE) and RequestKind.RETRY not in view.requests:
                return RequestResult(
                    id=task_id, outcome="already finished", message=f"{part.words} ended already"
                )
            return self._request(RequestKind.CANCEL, task_id, reason, of=of, part=part)
        if view.finished and RequestKind.RETRY not in view.requests:  # else it is about to wait again
            return RequestResult(
                id=task_id, outcome="already finished", message=f"{task_id} is already {view.state}"
            )
        return self._request(RequestKind.CANCEL, task_id, reason, of=of, part=part)

    def retry(
        self,
        task_id: str,
        *,
        members: str = "",
        only_failed: bool = False,
        reason: str = "",
        of: TaskView | None = None,
    ) -> RequestResult:
        """Ask the leader to run a Failed or Cancelled task again, or such members of an array.

        Raises NotFound, UserError for a task in another state, unless it is being cancelled, and as
        `part_of`.
        """
        model = self._model(task_id, of)
        view = self._reading.found(model, task_id, alone=True)
        part = part_of(model, view, members, only_failed=only_failed)
        if self._is_answered(model, task_id, self._made(RequestKind.RETRY, reason, part=part), part):
            return acted_on(task_id)
        if part is not None:
            part.check_retry(model)
            return self._request(RequestKind.RETRY, task_id, reason, of=of, part=part)
        if view.state is State.SUCCEEDED:
            raise UserError(
                f"{task_id} is Succeeded, and a task that succeeded cannot be retried: submit it under"
                " another name"
            )
        is_ending = view.status is not None and view.status.cancelling
        if not view.finished and not is_ending and RequestKind.CANCEL in view.requests:
            raise UserError(
                f"{task_id} is {view.state or UNREADABLE}, and the leader has yet to cancel it: retry it then"
            )
        if not view.finished and not is_ending:
            raise UserError(
                f"{task_id} is {view.state or UNREADABLE}: only a Failed or Cancelled task can be retried;"
                f" see `tally explain {task_id}`"
            )
        return self._request(RequestKind.RETRY, task_id, reason, of=of)

    def confirm_stopped(self, task_id: str, *, reason: str = "", of: TaskView | None = None) -> RequestResult:
        """Confirm, as an operator, that the attempt of a task no longer runs.

        The leader releases its resources, and may retry the task. If the confirmation is wrong, two attempts
        may run at the same time. Raises NotFound, and UserError when the attempt is neither lost nor being
        stopped.
        """
        model = self._model(task_id, of)
        view = self._reading.found(model, task_id, alone=True)
        if self._is_answered(model, task_id, self._made(RequestKind.CONFIRM_STOPPED, reason)):
            return acted_on(task_id)
        if view.status is not None and view.status.reserved:
            raise UserError(
                f"{task_id} is a gang, whose members run: confirm the stop of a member, by its name, as in"
                f" {task_id}-i0; `tally explain {task_id}` names those that are lost"
            )
        if view.status is None or not view.status.is_holding or not (view.lost or view.status.stopping):
            raise UserError(
                f"{task_id} is {view.state or UNREADABLE} and neither lost nor being stopped: there is"
                " nothing to confirm"
            )
        return self._request(
            RequestKind.CONFIRM_STOPPED, task_id, reason, view.attempt, of=of, spec_of=view.member_of
        )

    def hold(self, task_id: str, *, reason: str = "", of: TaskView | None = None) -> RequestResult:
        """Ask the leader not to admit a waiting task until it is released.

        Raises NotFound, UserError for a task that does not wait, and InvalidField if the feature is off.
        """
        return self._change(task_id, reason, of, on_hold=True)

    def release(self, task_id: str, *, reason: str = "", of: TaskView | None = None) -> RequestResult:
        """Ask the leader to let a task that is on hold wait in its queue again. Raises as `hold`."""
        return self._change(task_id, reason, of, on_hold=False)

    def set_priority(
        self, task_id: str, priority: int, *, reason: str = "", of: TaskView | None = None
    ) -> RequestResult:
        """Ask the leader to give a waiting task another priority. Raises as `hold`."""
        return self._change(task_id, reason, of, priority=parse_priority(priority))

    def _model(self, task_id: str, of: TaskView | None) -> Model:
        """The records of the task as they are now. Raises NotFound, also if another one was shown."""
        model = self._reading.tasks(task_id)
        view = self._reading.found(model, task_id, alone=True)
        if of is not None and of.create_revision not in (0, view.create_revision):
            raise self._reading.another(task_id)
        return model

    def _change(
        self,
        task_id: str,
        reason: str,
        of: TaskView | None,
        *,
        on_hold: bool | None = None,
        priority: int | None = None,
    ) -> RequestResult:
        model = self._model(task_id, of)
        view = self._reading.found(model, task_id, alone=True)
        asked = self._made(RequestKind.CHANGE, reason, on_hold=on_hold, priority=priority)
        if self._is_answered(model, task_id, asked):
            return acted_on(task_id)
        if why := why_unchangeable(task_id, view.state, view.member_of, can_be=view.can_be_changed):
            raise UserError(why)
        is_so = on_hold in (None, view.on_hold) and priority in (None, view.priority)
        if is_so and RequestKind.CHANGE not in view.requests:
            held = f"is {'already' if view.on_hold else 'not'} on hold"
            so = held if on_hold is not None else f"has priority {view.priority} already"
            return RequestResult(id=task_id, outcome="unchanged", message=f"{task_id} {so}")
        return self._request(RequestKind.CHANGE, task_id, reason, of=of, on_hold=on_hold, priority=priority)

    def _is_answered(self, model: Model, task_id: str, request: Request, part: Part | None = None) -> bool:
        """Whether the leader has acted on it since it was asked for first."""
        if self._steps is None:
            return False
        status = self._reading.found(model, part.array if part is not None else task_id, alone=True).status
        return status is not None and is_answered(status, self._steps, request, is_array=part is not None)

    def _request(
        self,
        kind: RequestKind,
        task_id: str,
        reason: str,
        attempt: int = 0,
        *,
        of: TaskView | None = None,
        on_hold: bool | None = None,
        priority: int | None = None,
        part: Part | None = None,
        spec_of: str = "",
    ) -> RequestResult:
        calls = self._calls
        request = self._made(kind, reason, attempt, on_hold=on_hold, priority=priority, part=part)
        name = part.array if part is not None else task_id
        create = of.create_revision if of is not None else 0
        needs = partial(self._needs, kind)
        result = ask(
            calls,
            name,
            request,
            create=create,
            needs=needs,
            is_array=part is not None,
            spec_of=spec_of,
            steps=self._steps,
        )
        if result is None:
            raise self._reading.no_task(task_id)
        return msgspec.structs.replace(result, id=task_id)

    def _made(
        self,
        kind: RequestKind,
        reason: str,
        attempt: int = 0,
        *,
        on_hold: bool | None = None,
        priority: int | None = None,
        part: Part | None = None,
    ) -> Request:
        return Request(
            kind=kind,
            by=self._by or requester(),
            reason=parse_reason(reason),
            at=self._calls.clock.now(),
            attempt=attempt,
            on_hold=on_hold,
            priority=priority,
            members=part.members if part is not None else "",
            only_failed=part is not None and part.only_failed,
        )

    def _needs(self, kind: RequestKind) -> list[Guard]:
        needed = features.needed_by_request(kind)
        return [Guard(self._calls.keys.engine, self._features.check(needed))] if needed else []


def parse_priority(priority: object) -> int:
    """A new priority. Raises InvalidField."""
    if isinstance(priority, bool) or not isinstance(priority, int) or abs(priority) > MOST_PRIORITY:
        raise InvalidField(
            "priority", f"must be an integer from {-MOST_PRIORITY} to {MOST_PRIORITY}, not {shown(priority)}"
        )
    return priority


def parse_reason(reason: object) -> str:
    """Why something is asked for. Raises InvalidField."""
    if len(text := parse_text(reason, "reason")) > MAX_REASON:
        raise InvalidField("reason", f"has {len(text)} characters, but at most {MAX_REASON} are allowed")
    return text


def requester() -> str:
    """The user and the machine that a request is recorded with."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # the user id has no name, as in many containers
        user = "unknown"
    return f"{user}@{socket.gethostname()}"
