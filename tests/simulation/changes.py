"""The judge of what users change of waiting tasks: who is on hold is not admitted; only users change that."""

from __future__ import annotations

from controller.core.model import codec
from controller.core.model.requests import Request, RequestKind
from controller.core.model.task import Status, Step

WAITING = ("Created", "WaitingRetry")


def steps_since(old: Status | None, new: Status) -> list[Step]:
    """The steps that this status has, and the one before had not."""
    added = new.steps - (old.steps if old is not None else 0)
    return codec.decode_history(new)[-added:] if added > 0 else []


def asked_for(value: bytes | None) -> Request | None:
    """The change that is asked for, by the request's value; None if none is."""
    return codec.decode_request(RequestKind.CHANGE, value) if value is not None else None


def contradiction(old: Status | None, new: Status, request: Request | None) -> str:
    """What is wrong with a status that a leader wrote as it consumed this request; "" if nothing is.

    Whether the task is on hold, and its priority, are what the request says, or else what they were. A task
    on hold is not admitted, and what has ended is not on hold.
    """
    held = old is not None and old.on_hold and old.state in WAITING
    priority = old.priority if old is not None else None
    if new.state not in WAITING:
        if held and new.state in ("Pending", "Running"):
            return "was admitted, and is on hold"
        held = False
    added = steps_since(old, new)
    outcomes = [step.outcome for step in added if step.request == RequestKind.CHANGE]
    if len(outcomes) != (request is not None):
        return f"was to be changed by {request}, and its steps say: {outcomes}"
    if outcomes == ["ignored"] and new.state not in WAITING and new.stopping == "preempted":
        return f"is about to wait again, and was not changed by {request}"
    if request is not None and outcomes == ["done"]:
        held = held if request.on_hold is None else request.on_hold
        priority = priority if request.priority is None else request.priority
    elif request is not None and new.state in WAITING and request.on_hold not in (None, held):
        return f"waits, and was not changed by {request}"
    if (new.on_hold, new.priority) != (held, priority):
        return f"on hold is {new.on_hold}, priority {new.priority}; it should be {held}, {priority}"
    return ""
