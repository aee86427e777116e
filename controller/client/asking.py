"""Stores a request for the leader exactly once, however often it is sent.

The leader deletes a request when it acts on it. The request's own key therefore cannot tell a late copy from
a new request. The task's status can: the leader changes it in the same transaction. The transaction here also
compares the status with what was read before, so that a copy that arrives after the leader acted is refused.
"""

from __future__ import annotations

from collections.abc import Callable

from controller.client.views import RequestResult
from controller.core.model import codec
from controller.core.model.requests import Request
from controller.core.model.task import SCHEMA_VERSION, Step
from controller.errors import CorruptValue
from controller.store.base import Committed, Guard, KeyValue, Put, Refused, Transaction, new_op
from controller.store.keys import Keys


def ask(
    read: Callable[[str], KeyValue | None],
    commit: Callable[[Transaction], Committed | Refused],
    keys: Keys,
    task_id: str,
    request: Request,
) -> RequestResult | None:
    """Store the request; None when there is no such task. Raises what `read` and `commit` raise.

    If the leader acted on a request of this kind between two tries, the request is not stored again: it was
    this one, and the answer was lost, or it was an equal one.
    """
    key, op = keys.request(task_id, request.kind), new_op()
    value = codec.encode({**codec.to_builtins(request), "version": SCHEMA_VERSION, "op": op})
    steps_before: int | None = None
    unreadable = 0  # the mod of what is stored under the key, and is not a request: it is replaced
    while True:
        task = read(keys.task(task_id))
        if task is None:
            return None
        status = read(keys.state(task_id))
        steps, told = _steps(status, steps_before or 0)
        if steps_before is None:
            steps_before = steps
        elif any(step.request == request.kind for step in told):
            return RequestResult(
                id=task_id, outcome="already requested", message="the leader has acted on it"
            )
        guards = (
            Guard(key, unreadable),
            Guard(task.key, task.create, on_create=True),
            Guard(keys.state(task_id), status.mod if status is not None else 0),
        )
        answer = commit(Transaction(guards, (Put(key, value),), op))
        if isinstance(answer, Committed):
            return RequestResult(id=task_id, outcome="requested")
        stored = answer.current.get(key)
        if stored is not None and _is_request(request.kind, stored):
            return RequestResult(
                id=task_id, outcome="already requested", message="the leader has yet to act on it"
            )
        unreadable = stored.mod if stored is not None else 0


def _is_request(kind: str, item: KeyValue) -> bool:
    try:
        codec.decode_request(kind, item.value)
    except CorruptValue:
        return False
    return True


def _steps(item: KeyValue | None, before: int) -> tuple[int | None, list[Step]]:
    """The number of steps of a status (None: unreadable), and the kept steps after the first `before`."""
    if item is None:
        return 0, []
    try:
        status, _ = codec.decode_status(item.value)
        return status.steps, codec.decode_history(status)[
            -(status.steps - before) :
        ] if status.steps > before else []
    except CorruptValue:
        return None, []  # the leader leaves such a task and its requests alone
