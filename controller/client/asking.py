"""Stores a request for the leader exactly once, however often it is sent.

The leader deletes a request when it acts on it. The request's own key therefore cannot tell a late copy from
a new request. The task's status can: the leader changes it in the same transaction. The transaction here also
compares the status with what was read before, so that a copy that arrives after the leader acted is refused.

A request on an array may find another one of its kind that is about other members, and waits until the
leader has carried that out: so no member is forgotten. A change may find another one that the leader has yet
to act on. Both then become one, in which the later one has the last word.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from controller.client.calls import Calls
from controller.client.views import RequestResult
from controller.core.model import codec
from controller.core.model.requests import Request, RequestKind, RequestOutcome
from controller.core.model.task import SCHEMA_VERSION, Status, Step
from controller.errors import CorruptValue, UserError
from controller.store.base import Committed, Guard, KeyValue, Put, Transaction


def ask(
    calls: Calls,
    task_id: str,
    request: Request,
    *,
    create: int = 0,
    needs: Callable[[], Sequence[Guard]] = tuple,
    is_array: bool = False,
    spec_of: str = "",
    steps: int | None = None,
) -> RequestResult | None:
    """Store the request; None when there is no such task. Raises what the calls and `needs` raise.

    `create` is the create revision of the task's spec; 0: any. `needs` tells what else must hold, before each
    try. Raises UserError if another request of an array is in the way, and stays. `spec_of` is the task that
    has the spec; "": the same. `steps` is how many the status had before the first try; None: this is it.

    If the leader acted on a request of this kind between two tries, the request is not stored again: it was
    this one, and the answer was lost, or it was an equal one.
    """
    keys, read = calls.keys, calls.stored
    key, op = keys.request(task_id, request.kind), calls.new_op()
    steps_before = steps
    replaced = 0  # the mod of what is stored under the key: no request, or a change that ours now includes
    while True:
        needed = needs()
        task = read(keys.task(spec_of or task_id))
        if task is None or create not in (0, task.create):
            return None
        status = read(keys.state(task_id))
        steps, told = _steps(status, steps_before or 0)
        if steps_before is None:
            steps_before = steps
        elif any(_answers(step, request, is_array=is_array) for step in told):
            return acted_on(task_id)
        guards = (
            Guard(key, replaced),
            Guard(task.key, task.create, on_create=True),
            Guard(keys.state(task_id), status.mod if status is not None else 0),
            *needed,
        )
        value = codec.encode({**codec.to_builtins(request), "version": SCHEMA_VERSION, "op": op})
        answer = calls.commit(Transaction(guards, (Put(key, value),), op))
        if isinstance(answer, Committed):
            return RequestResult(id=task_id, outcome="requested")
        stored = answer.current.get(key)
        if stored is not None and calls.has_written(stored):
            return RequestResult(id=task_id, outcome="requested")
        known = _request(request.kind, stored) if stored is not None else None
        if known is not None and stored is not None and is_array and not _covers(known, request):
            if not calls.changes(key, stored.mod):
                part = f"members {known.members} of " if known.members else ""
                raise UserError(
                    f"the leader has yet to {known.kind} {part}{task_id}, as was asked before: ask again then"
                )
            steps_before, replaced = None, 0  # what it did then was not ours
            continue
        if known is not None:
            both = _both(known, request)
            if both is known:
                return RequestResult(
                    id=task_id, outcome="already requested", message="the leader has yet to act on it"
                )
            request = both
        replaced = stored.mod if stored is not None else 0


def acted_on(task_id: str) -> RequestResult:
    """What was asked for was asked for before."""
    return RequestResult(id=task_id, outcome="already requested", message="the leader has acted on it")


def is_answered(status: Status, steps: int, request: Request, *, is_array: bool) -> bool:
    """Whether one of the steps after the first `steps` tells that the leader acted on this request."""
    try:
        return any(_answers(step, request, is_array=is_array) for step in _after(status, steps))
    except CorruptValue:
        return False  # the leader leaves such a task and its requests alone


def _answers(step: Step, request: Request, *, is_array: bool) -> bool:
    """Whether the step tells that the leader acted on this request, or on an equal one."""
    if is_array and request.kind is not RequestKind.CHANGE:
        is_equal = step.outcome == RequestOutcome.DONE and request.is_told_by(step.message)
        return step.request == request.kind and is_equal
    if request.kind is RequestKind.CHANGE and step.outcome == RequestOutcome.DONE:
        return step.request == request.kind and request.is_told_by(step.message)
    return step.request == request.kind


def _covers(known: Request, request: Request) -> bool:
    """Whether all that is asked for is asked for already."""
    if request.kind is RequestKind.CHANGE:
        return True  # both become one
    is_whole = known.members in ("", request.members)
    return is_whole and (request.only_failed or not known.only_failed)


def _both(known: Request, request: Request) -> Request:
    """The request with what a `known` one changes besides; that one itself, if it says the same."""
    on_hold = known.on_hold if request.on_hold is None else request.on_hold
    priority = known.priority if request.priority is None else request.priority
    if (on_hold, priority) == (known.on_hold, known.priority):
        return known
    reason = request.reason or known.reason
    return msgspec.structs.replace(request, on_hold=on_hold, priority=priority, reason=reason)


def _request(kind: str, item: KeyValue) -> Request | None:
    """The stored request; None if it cannot be read."""
    try:
        return codec.decode_request(kind, item.value)
    except CorruptValue:
        return None


def _steps(item: KeyValue | None, before: int) -> tuple[int | None, list[Step]]:
    """The number of steps of a status (None: unreadable), and the kept steps after the first `before`."""
    if item is None:
        return 0, []
    try:
        status, _ = codec.decode_status(item.value)
        return status.steps, _after(status, before)
    except CorruptValue:
        return None, []  # the leader leaves such a task and its requests alone


def _after(status: Status, before: int) -> list[Step]:
    """The kept steps after the first `before`. Raises CorruptValue."""
    return codec.decode_history(status)[-(status.steps - before) :] if status.steps > before else []
