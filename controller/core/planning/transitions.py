"""The constructors of statuses: each takes a row of the lifecycle table and records it, with its reason.

`failed` takes two rows if another attempt follows. These functions make every change that a status can
undergo, with one exception: `decide` sets `abandoned`. `Moment` carries what is the same for all transitions
of one plan.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from controller.core.model import lifecycle
from controller.core.model.codec import decode_history, encode_step
from controller.core.model.lifecycle import Event, State
from controller.core.model.op import Op
from controller.core.model.parts import counted, counts_after
from controller.core.model.records import Task
from controller.core.model.requests import ON_HOLD, RELEASED, Request, RequestOutcome
from controller.core.model.resources import ZERO, Vector
from controller.core.model.task import (
    HISTORY_LIMIT,
    SCHEMA_VERSION,
    Observation,
    Spec,
    Status,
    Step,
    StopReason,
)
from controller.core.planning.retry import RetryDecision

MESSAGE_LIMIT = 1024  # characters of an engine's or a user's words kept in a status
REASON_LIMIT = 64
STOP_DELAYED = "StopDelayed"
PREEMPTED = "Preempted"
_STOP_DELAYED_REASON = f'"reason":"{STOP_DELAYED}"'.encode()  # in a stored step; messages escape quotes
_DEADLINES: dict[str, str] = {
    StopReason.START_DEADLINE: "StartDeadlineExceeded",
    StopReason.RUN_DEADLINE: "DeadlineExceeded",
}


class Moment(NamedTuple):
    """The time (seconds since the epoch by the leader's clock), the epoch, and the transaction (`op`).

    `charged` is the time in ms that is recorded and charged, and never goes back, whatever clock a leader
    has; 0: as `now`. `hears`: the engine is heard. Time alone tells nothing of an attempt.
    """

    now: float
    epoch: int
    op: Op
    charged: int = 0
    hears: bool = True

    @property
    def at(self) -> int:
        """The time that is recorded, in ms."""
        return self.charged or round(self.now * 1000)


def admitted(task: Task, spec: Spec, pool_mod: int, attempt: int, moment: Moment) -> Status:
    """It fits its pool, as defined at `pool_mod`, and it is its turn: the hold and the attempt begin."""
    return _step(
        status_of(task),
        Event.ADMITTED,
        moment,
        pool=task.pool,  # the pool in whose queue it waited; a spec put again by hand may name another pool
        hold=task.demand,
        sized_by=pool_mod if task.demand != spec.resources else 0,
        attempt=attempt,
        gated=False,
        queued_at=task.queued_at,
        admitted_at=moment.now,
        started_at=None,
        finished_at=None,
        retry_at=None,
        uid="",
        node="",
        stopping="",
        lost_since=None,
        exit_code=None,
    )


def rejected(task: Task, reason: str, message: str, moment: Moment, event: Event = Event.REJECTED) -> Status:
    """It ends without an attempt: it will never run, or it is an array whose members have ended."""
    return _step(
        status_of(task),
        event,
        moment,
        reason,
        message,
        on_hold=False,
        retry_at=None,
        finished_at=moment.now,
    )


def cancelled_waiting(task: Task, request: Request, moment: Moment) -> Status:
    """It was cancelled while it held nothing."""
    return _step(
        status_of(task),
        Event.CANCEL_REQUESTED,
        moment,
        "Cancelled",
        request.words,
        request,
        on_hold=False,
        retry_at=None,
        finished_at=moment.now,
    )


def answered(task: Task, reason: str, request: Request, moment: Moment) -> Status:
    """What was asked of an array is done by its members."""
    status = status_of(task)
    return _record(status, _taken(status, Event.NOTED, moment, reason, request.words, request), moment, {})


def changed(task: Task, request: Request, moment: Moment) -> Status:
    """A user puts it on hold, releases it, or sets its priority, while it waits.

    Once it is released, its wait begins anew: no queue deadline counts the time on hold.
    """
    status = status_of(task)
    fields: dict[str, Any] = {}
    reason, words = "PriorityChanged", request.words_after(task.priority)
    if request.priority is not None:
        fields["priority"] = request.priority
    if request.on_hold is not None:
        fields["on_hold"] = request.on_hold
        reason = ON_HOLD if request.on_hold else RELEASED
    if status.on_hold and request.on_hold is False:
        if status.state is State.CREATED:
            fields["queued_at"] = moment.now
        elif (status.retry_at or 0.0) <= moment.now:  # else its back-off goes on
            fields |= {"retry_at": moment.now, "reason": RELEASED, "message": words}
    step = _taken(status, Event.NOTED, moment, reason, words, request)
    return _record(status, step, moment, fields)


def running(status: Status, seen: Observation, moment: Moment) -> Status:
    """Its attempt runs."""
    began = _started_at(status, seen, moment)
    fields: dict[str, Any] = {"started_at": began, "uid": seen.uid, "node": seen.node, "lost_since": None}
    return _step(status, Event.RUNNING_OBSERVED, moment, **fields)


def stop_requested(
    status: Status, why: str, message: str, moment: Moment, request: Request | None = None
) -> Status:
    """Its attempt is to be stopped, perhaps because of a request. The hold stays until the end is proven.

    `why` becomes `Status.stopping`. A gang keeps nothing: what its members have taken over is theirs.
    """
    hold = ZERO if status.reserved else status.hold
    return _step(status, Event.STOP_REQUESTED, moment, why, message, request, stopping=why, hold=hold)


def main_ended(status: Status, seen: Observation, moment: Moment) -> Status:
    """Its main container has ended, or could not be started. The rest of its pod is to be stopped."""
    why = StopReason.MAIN_ENDED if seen.ran else StopReason.MAIN_NOT_STARTED
    what = (
        f"its main container ended with exit code {seen.exit_code}"
        if seen.ran
        else "its main container could not be started"
    )
    message = what + (f": {seen.message}" if seen.message else "")
    return _step(
        status,
        Event.STOP_REQUESTED,
        moment,
        seen.reason or why,
        message,
        stopping=why,
        exit_code=seen.exit_code,
    )


def succeeded(status: Status, seen: Observation, moment: Moment, request: Request | None = None) -> Status:
    """Its attempt was observed to have succeeded: the hold ends."""
    return _step(
        status,
        Event.SUCCEEDED_OBSERVED,
        moment,
        seen.reason or "Succeeded",
        seen.message,
        request,
        **_ended(status, seen, moment),
    )


def cancelled(status: Status, seen: Observation, moment: Moment, request: Request | None = None) -> Status:
    """Its attempt was being cancelled and has ended, perhaps by an operator's word: the hold ends."""
    fields = _ended(status, seen, moment)
    return _step(
        status, Event.STOPPED_OBSERVED, moment, "Cancelled", status.message or seen.message, request, **fields
    )


def stop_reason(status: Status) -> str:
    """Why an attempt that Tally stopped has failed; "" if it was not stopped for a fault."""
    return status.start_fault or _DEADLINES.get(status.stopping, "")


def failed(
    status: Status,
    seen: Observation,
    verdict: RetryDecision,
    moment: Moment,
    request: Request | None = None,
) -> Status:
    """Its attempt has failed or is gone: the hold ends, and another attempt may follow after a back-off.

    The end was observed, or confirmed by an operator.
    """
    reason = stop_reason(status) or (
        "SpecDeleted" if status.stopping == StopReason.SPEC_DELETED else seen.reason or "Failed"
    )
    message = "; ".join(
        part for part in (status.message if status.stopping else "", seen.message, verdict.why) if part
    )
    fields = {
        "failures": verdict.failures,
        "start_failures": verdict.start_failures,
        "uncounted": verdict.uncounted,
    } | _ended(status, seen, moment)
    ended = _step(status, Event.FAILED_OBSERVED, moment, reason, message, request, **fields)
    if not verdict.retry:
        return ended
    retry_at = moment.now + verdict.delay_seconds
    return _step(ended, Event.RETRY_DUE, moment, reason, message, retry_at=retry_at)


def preempted(status: Status, seen: Observation, moment: Moment, request: Request | None = None) -> Status:
    """Its attempt was stopped for another task and has ended: the hold ends, and it waits for its turn again.

    No attempt is used up, and its place in the queue is the one that it had.
    """
    fields = _ended(status, seen, moment) | {"finished_at": None, "exit_code": None, "retry_at": moment.now}
    return _step(status, Event.PREEMPTED, moment, PREEMPTED, status.message, request, **fields)


def retry_requested(status: Status, request: Request, moment: Moment, *, gated: bool = False) -> Status:
    """A user wants another attempt: at once, or `gated` by the tasks that it waits for; with fresh counts."""
    counts: dict[str, Any] = {"failures": 0, "start_failures": 0, "uncounted": 0, "gated": gated}
    counts |= {"retry_at": moment.now, "finished_at": None, "exit_code": None, "on_hold": False}
    return _step(status, Event.RETRY_REQUESTED, moment, "RetryRequested", request.words, request, **counts)


def kept_waiting(status: Status, reason: str, message: str, moment: Moment) -> Status:
    """Its attempt does not run yet, for a reason that the engine states."""
    return _step(status, Event.NOTED, moment, reason, message or reason)


def stop_delayed(status: Status, words: str, moment: Moment) -> Status:
    """The engine keeps failing its stop, and says why. The task keeps the reason of the stop."""
    return note(status, STOP_DELAYED, words, moment, {})


def is_stop_delayed(status: Status) -> bool:
    """Whether a delayed stop is the last thing in its history."""
    return bool(status.history) and _STOP_DELAYED_REASON in bytes(status.history[-1])


def no_longer_waiting(status: Status, moment: Moment) -> Status:
    """Its attempt no longer waits for that reason, though it does not run yet: the reason is cleared."""
    return note(status, "Starting", f"no longer {status.reason}", moment, {"reason": "", "message": ""})


def lost(status: Status, reason: str, message: str, moment: Moment) -> Status:
    """Its attempt may have ended, but there is no proof: the hold stays, and operators are told."""
    if status.stopping:  # what it is stopped for stays: its end is judged by that
        return note(status, reason, message, moment, {"lost_since": moment.now})
    return _step(status, Event.NOTED, moment, reason, message, lost_since=moment.now)


def found(status: Status, moment: Moment) -> Status:
    """A lost attempt is observed again."""
    fields = {"lost_since": None} | ({} if status.stopping else {"reason": "", "message": ""})
    return note(status, "Found", "the attempt is observed again", moment, fields)


def request_ignored(status: Status, request: Request, why: str, moment: Moment) -> Status:
    """A request that cannot take effect. It is recorded, and the task keeps its own reason and message."""
    told = "RequestIgnored", f"{request.kind}: {why}", request, RequestOutcome.IGNORED
    return _record(status, _taken(status, Event.NOTED, moment, *told), moment, {})


def repaired(status: Status, what: str, hold: Vector, pool: str, moment: Moment) -> Status:
    """It was repaired after an audit: the hold is as it should be, and epochs in its history never decrease.

    Its reason and message stay its own. Raises CorruptValue if its history cannot be read.
    """
    history, highest = [], 0
    for raw, step in zip(status.history, decode_history(status), strict=True):
        highest = max(highest, min(step.epoch, moment.epoch))
        history.append(
            raw if step.epoch == highest else encode_step(msgspec.structs.replace(step, epoch=highest))
        )
    return note(status, "Repaired", what, moment, {"hold": hold, "pool": pool, "history": tuple(history)})


def note(status: Status, reason: str, message: str, moment: Moment, fields: dict[str, Any]) -> Status:
    """A step that is recorded in the history alone."""
    return _record(status, _taken(status, Event.NOTED, moment, reason, message), moment, fields)


def status_of(task: Task) -> Status:
    """The task's status, or the one that it has until the first step."""
    if task.status is not None:
        return task.status
    return Status(pool=task.pool, owner=task.owner, created_at=task.submitted_at, queued_at=task.queued_at)


def _ended(status: Status, seen: Observation, moment: Moment) -> dict[str, Any]:
    return {
        "hold": ZERO,
        "sized_by": 0,
        "stopping": "",
        "lost_since": None,
        "exit_code": seen.exit_code,
        "started_at": _started_at(status, seen, moment) if seen.ran else None,
        "finished_at": moment.now,
        "uid": seen.uid or status.uid,
        "node": seen.node or status.node,
    }


def _started_at(status: Status, seen: Observation, moment: Moment) -> float:
    """When the attempt began to run. The engine's clock is believed only between the admission and now."""
    if status.started_at is not None:
        return status.started_at
    told = seen.started_at if seen.started_at is not None else moment.now
    return min(max(told, status.admitted_at or 0.0), moment.now)


def _step(
    status: Status,
    event: Event,
    moment: Moment,
    reason: str = "",
    message: str = "",
    request: Request | None = None,
    **fields: Any,
) -> Status:
    step = _taken(status, event, moment, reason, message, request, attempt=fields.get("attempt"))
    fields["state"] = step.state
    # a new attempt does not carry the words of the last one, and a running one not those of its wait
    if (
        reason
        or message
        or event is Event.ADMITTED
        or (event is Event.RUNNING_OBSERVED and not status.stopping)
    ):
        fields |= {"reason": step.reason, "message": step.message}
    return _record(status, step, moment, fields)


def _taken(
    status: Status,
    event: Event,
    moment: Moment,
    reason: str,
    message: str,
    request: Request | None = None,
    outcome: RequestOutcome = RequestOutcome.DONE,
    attempt: int | None = None,
) -> Step:
    state = lifecycle.successor(status.state, event)
    lost_ms, stopping_ms = counted(status, moment.at) if state not in lifecycle.HOLDING else (0, 0)
    return Step(
        at=moment.at / 1000,
        source=status.state,
        event=event,
        state=state,
        attempt=status.attempt if attempt is None else attempt,
        reason=reason[:REASON_LIMIT],
        message=message[:MESSAGE_LIMIT],
        epoch=moment.epoch,
        request=request.kind if request is not None else "",
        outcome=outcome if request is not None else "",
        lost_ms=lost_ms,
        stopping_ms=stopping_ms,
    )


def _record(status: Status, step: Step, moment: Moment, fields: dict[str, Any]) -> Status:
    fields |= counts_after(status, fields, moment.at)
    fields["history"] = (*fields.get("history", status.history), encode_step(step))[-HISTORY_LIMIT:]
    return msgspec.structs.replace(
        status,
        **fields,
        version=SCHEMA_VERSION,
        steps=status.steps + 1,
        epoch=moment.epoch,
        op=moment.op,
    )
