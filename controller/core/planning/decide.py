"""Decides the next step of one task, from its records, its attempt in the engine, and the time.

It is level-triggered: nothing here reacts to an event as such. The same facts give the same decision,
whatever woke the planner. Doubled, late and reordered events change nothing.
"""

from __future__ import annotations

import msgspec
from msgspec import Struct

from controller.core.model.array_records import Array
from controller.core.model.demand import check_satisfiable
from controller.core.model.gates import Gate
from controller.core.model.lifecycle import HOLDING, WAITING, State
from controller.core.model.records import PoolRecord, Task
from controller.core.model.requests import Request, RequestKind
from controller.core.model.task import AttemptId, Observation, Phase, Status, StopReason
from controller.core.planning import transitions
from controller.core.planning.gating import refusal
from controller.core.planning.retry import RetryDecision, judge
from controller.core.planning.sightings import noted
from controller.core.planning.start_faults import FAILURES_TOLD, START_DELAYED, start_fault_due
from controller.core.planning.transitions import Moment
from controller.core.promise.attempts import Attempt
from controller.errors import InvalidField

LOST_AFTER_STOP_SECONDS = 60.0
"""Counted from the end of a stop's grace. An attempt without proof of stop by then is shown as lost."""


class Decision(Struct, frozen=True, gc=False):
    """The next status of a task, and the requests that this consumes.

    `status` None: the task is removed, or only requests are consumed. The decision is written only if the
    task's status and requests are still those that it was made from; with `compares_…`, its spec and its pool
    as well.
    """

    status: Status | None
    consumed: tuple[RequestKind, ...] = ()
    removes: bool = False
    compares_spec: bool = False
    compares_pool: bool = False
    compares_attested: bool = False
    parents: tuple[str, ...] = ()  # the tasks on whose ends it rests, which are compared as well
    blocks: tuple[tuple[str, str], ...] = ()  # and so are these blocks of arrays

    def ends_waiting(self, task: Task) -> bool:
        """Whether a task that waits ends with this."""
        return task.state in WAITING and self.status is not None and self.status.is_finished

    def keeps_hold(self, task: Task) -> bool:
        """Whether the task goes on to hold what it holds, if anything."""
        was, is_now = (each.hold if each and each.is_holding else None for each in (task.status, self.status))
        return was == is_now


class Others(Struct, frozen=True, gc=False):
    """What other records say of a task.

    `refused`: why its pool refuses a task that is not attested; "" if it does not. `gate`: what the tasks
    that it waits for have come to. `is_kept`: others wait for it, so it is not removed. `array`: its members.
    """

    refused: str = ""
    gate: Gate | None = None
    is_kept: bool = False
    array: Array | None = None


NOTHING = Others()


def decide(
    task: Task, attempt: Attempt | None, pool: PoolRecord | None, moment: Moment, others: Others = NOTHING
) -> Decision | None:
    """The next step of a task; None if there is nothing to do now.

    `attempt` is the current one, as the engine shows it. Admission is not decided here, since it depends on
    the other tasks of the pool.
    """
    if task.frozen or not task.exists:
        return None
    if task.spec is None and task.status is None:
        return Decision(None, tuple(task.requests))  # requests for a task that does not exist
    if task.state in HOLDING:
        assert task.status is not None
        found = _holding(task, task.status, attempt, moment)
        status = noted(found.status if found is not None else None, task.status, attempt, moment)
        if found is None:
            return Decision(status) if status is not None else None
        return found if status is found.status else msgspec.structs.replace(found, status=status)
    if task.state in WAITING:
        return _waiting(task, pool, moment, others)
    assert task.status is not None
    return _finished(task, task.status, moment, is_kept=others.is_kept)


def _waiting(task: Task, pool: PoolRecord | None, moment: Moment, others: Others) -> Decision | None:
    cancel = task.requests.get(RequestKind.CANCEL)
    if cancel is not None:
        return Decision(transitions.cancelled_waiting(task, cancel[0], moment), (RequestKind.CANCEL,))
    if task.spec is None:
        return Decision(transitions.rejected(task, "SpecDeleted", "its spec was deleted", moment))
    if task.spec_error:
        return Decision(
            transitions.rejected(task, "InvalidSpec", task.spec_error, moment), compares_spec=True
        )
    if others.refused:
        rejected = transitions.rejected(task, "Unattested", others.refused, moment)
        return Decision(rejected, compares_spec=True, compares_pool=True, compares_attested=True)
    change = task.requests.get(RequestKind.CHANGE)
    if change is not None:
        return Decision(_changed(task, change[0], moment), (RequestKind.CHANGE,))
    if task.requests:
        why = "it is already waiting for its next attempt"
        return ignored(task, task.status, why, moment)
    never = refusal(others.gate) if others.gate is not None else None
    if never is not None:
        rejected = transitions.rejected(task, never.reason, never.message, moment, never.event)
        return Decision(rejected, compares_spec=True, parents=never.parents)
    queued = not task.on_hold and (others.gate is None or others.gate.is_open)  # else its demand may be old
    if queued and task.state is State.CREATED and pool is not None and pool.mod < task.spec_create:
        # The pool has not changed since the submission: even then it could not satisfy the task. When a pool
        # shrinks later, its tasks wait instead.
        try:
            check_satisfiable(task.spec, pool.pool, task.demand)
        except InvalidField as error:
            rejected = transitions.rejected(task, "Unsatisfiable", str(error), moment)
            return Decision(rejected, compares_spec=True, compares_pool=True)
    limit = task.spec.deadlines.queue_seconds
    if limit is not None and queued and task.queued_at <= moment.now - limit:
        message = f"not admitted within its queue deadline of {limit:g} s"
        return Decision(
            transitions.rejected(task, "QueueDeadlineExceeded", message, moment), compares_spec=True
        )
    return None


def _changed(task: Task, request: Request, moment: Moment) -> Status | None:
    on_hold = task.on_hold if request.on_hold is None else request.on_hold
    priority = task.priority if request.priority is None else request.priority
    if (on_hold, priority) != (task.on_hold, task.priority):
        return transitions.changed(task, request, moment)
    if task.status is None:
        return None
    return transitions.request_ignored(task.status, request, "it is so already", moment)


def _holding(task: Task, status: Status, attempt: Attempt | None, moment: Moment) -> Decision | None:
    seen = attempt.observation if attempt is not None else None
    # While a Start is under way, its answer is awaited. If someone removed the attempt, the Start creates it
    # again under the same name. No proof of the first one's end, and no operator's word, is of the second.
    may_end = attempt is None or not attempt.starting
    if seen is not None and seen.stopped:
        return Decision(end(task, status, seen, moment)) if may_end else None
    if seen is not None and seen.main_ended and not status.stopping:
        return Decision(transitions.main_ended(status, seen, moment))
    noted = _observed(task, status, seen, attempt, moment) if seen is not None else None
    if noted is None or RequestKind.CONFIRM_STOPPED not in task.requests:  # judged by what is seen
        requested = _holding_request(task, status, attempt, moment)
        if requested is not None:
            return requested
    if noted is not None:
        return Decision(noted)
    if status.lost_since is not None and task.spec is not None and may_end and moment.hears:
        limit = task.spec.on_lost.replace_after_seconds
        if limit is not None and status.lost_since + limit <= moment.now:
            message = f"lost for {limit:g} s and given up, as its on_lost allows; it may still be running"
            return Decision(_give_up(task, status, "Lost", message, moment), compares_spec=True)
    if status.stopping:
        fails = attempt is not None and attempt.stop_failed and attempt.failures >= FAILURES_TOLD
        if attempt is not None and fails and not transitions.is_stop_delayed(status):
            return Decision(transitions.stop_delayed(status, attempt.trouble, moment))
        return None
    if attempt is not None and attempt.failures >= FAILURES_TOLD and attempt.must_start:
        told = status.reason, _gist(status.message)
        if told != (START_DELAYED, _gist(attempt.trouble)):
            return Decision(transitions.kept_waiting(status, START_DELAYED, attempt.trouble, moment))
    overdue = _overdue(task, status, attempt, moment)
    return Decision(transitions.stop_requested(status, *overdue, moment)) if overdue is not None else None


def end(
    task: Task, status: Status, seen: Observation, moment: Moment, request: Request | None = None
) -> Status:
    """The status without its hold: the attempt's end is proven, or confirmed by `request`."""
    if status.stopping in (StopReason.MAIN_ENDED, StopReason.MAIN_NOT_STARTED):
        seen = _as_main_ended(status, seen)
    if seen.phase is Phase.SUCCEEDED:
        return transitions.succeeded(status, seen, moment, request)
    if status.cancelling:
        return transitions.cancelled(status, seen, moment, request)
    if status.stopping == StopReason.PREEMPTED and task.spec is not None and not task.spec_error:
        return transitions.preempted(status, seen, moment, request)
    if task.spec is None or task.spec_error:
        verdict = RetryDecision(
            False, 0.0, status.failures + 1, status.start_failures, 0, "its spec can no longer be read"
        )
    else:
        verdict = judge(task.spec.retry, status, _as_policy_sees(status, seen), moment.now)
        if status.of_gang:  # the gang's retry policy is asked when all have ended
            verdict = verdict._replace(retry=False, why="")
    return transitions.failed(status, seen, verdict, moment, request)


def _as_main_ended(status: Status, seen: Observation) -> Observation:
    """The observation with the main container's end, which was recorded before the others were stopped."""
    succeeded = status.exit_code == 0
    return msgspec.structs.replace(
        seen,
        phase=Phase.SUCCEEDED if succeeded else Phase.FAILED,
        ran=status.stopping == StopReason.MAIN_ENDED,
        exit_code=status.exit_code,
        reason="Completed" if succeeded else status.reason,
        message="",
        disrupted=False,
    )


def _as_policy_sees(status: Status, seen: Observation) -> Observation:
    """The observation that retry rules judge.

    A stop for a deadline, or for a fault that keeps the attempt from running, counts as a failure.
    """
    reason = transitions.stop_reason(status)
    if not reason:
        return seen
    return msgspec.structs.replace(
        seen, reason=reason, ran=status.stopping == StopReason.RUN_DEADLINE, disrupted=False
    )


def _observed(
    task: Task, status: Status, seen: Observation, attempt: Attempt | None, moment: Moment
) -> Status | None:
    """The status after an observation without proof of stop; None if nothing changes."""
    has_begun = seen.phase is Phase.RUNNING or (
        seen.phase is not Phase.PENDING and seen.started_at is not None  # it ran, and is out of sight since
    )
    if has_begun and status.state is State.PENDING:
        return transitions.running(status, seen, moment)
    is_overdue = bool(status.stopping) and _stop_is_overdue(task, attempt, moment)
    if seen.phase in (Phase.RUNNING, Phase.PENDING) and not is_overdue:
        if status.lost_since is not None:
            return transitions.found(status, moment)
        if seen.phase is Phase.RUNNING or status.stopping:
            return None
        word = seen.waiting[: transitions.REASON_LIMIT]  # each word is noted once
        if word == status.reason or seen.awaits_start:
            return None
        return (
            transitions.kept_waiting(status, seen.waiting, seen.waiting_message, moment)
            if word
            else transitions.no_longer_waiting(status, moment)
        )
    if status.lost_since is not None:
        return None
    if status.stopping and not is_overdue:
        return None  # a stop takes time, and a terminal phase may precede its proof by minutes
    message = (
        f"{seen.message or seen.reason or seen.phase}; no proof that it stopped, so its resources stay held"
    )
    return transitions.lost(status, seen.reason or "Lost", message, moment)


def _stop_is_overdue(task: Task, attempt: Attempt | None, moment: Moment) -> bool:
    asked_at = attempt.stop_asked_at if attempt is not None and moment.hears else None
    grace = task.spec.grace_seconds if task.spec is not None else 0.0
    return asked_at is not None and asked_at + grace + LOST_AFTER_STOP_SECONDS <= moment.now


def _gist(words: str) -> str:
    """The part before the first colon: failures that differ only in details share it."""
    return words.partition(":")[0]


def _overdue(task: Task, status: Status, attempt: Attempt | None, moment: Moment) -> tuple[str, str] | None:
    """Why the attempt must be stopped now, as `Status.stopping`, and a message. None if it need not be."""
    if task.spec is None:
        return None if task.spec_error else (StopReason.SPEC_DELETED, "its spec was deleted")
    if not moment.hears:
        return None  # it may have begun, or ended, in time: the next list tells
    due = start_fault_due(attempt) if attempt is not None and status.state is State.PENDING else None
    if due is not None and due <= moment.now:
        assert attempt is not None
        seen = attempt.observation
        assert seen is not None
        return f"{StopReason.CANNOT_START}: {seen.waiting}", seen.waiting_message or seen.waiting
    start, run = task.spec.deadlines.start_seconds, task.spec.deadlines.run_seconds
    if status.state is State.PENDING and start is not None:
        if (status.admitted_at or 0.0) + start <= moment.now:
            return StopReason.START_DEADLINE, f"not running within its start deadline of {start:g} s"
    elif status.state is State.RUNNING and run is not None:  # noqa: SIM102
        if (status.started_at or 0.0) + run <= moment.now:
            return StopReason.RUN_DEADLINE, f"still running after its run deadline of {run:g} s"
    return None


def cancelled_by(status: Status, request: Request, moment: Moment) -> Status:
    """The status of a task that holds, once a cancel was accepted."""
    why = f": {request.reason}" if request.reason else ""
    message = f"cancelled by {request.by or 'request'}{why}"
    return transitions.stop_requested(status, StopReason.CANCEL, message, moment, request)


def _holding_request(task: Task, status: Status, attempt: Attempt | None, moment: Moment) -> Decision | None:
    if RequestKind.CANCEL in task.requests:
        request = task.requests[RequestKind.CANCEL][0]
        if status.cancelling or (status.stopping == StopReason.MAIN_ENDED and status.exit_code == 0):
            why = "it is already being cancelled" if status.cancelling else "its main container has succeeded"
            return Decision(transitions.request_ignored(status, request, why, moment), (RequestKind.CANCEL,))
        return Decision(cancelled_by(status, request, moment), (RequestKind.CANCEL,))
    if RequestKind.CHANGE in task.requests and not task.is_postponed(RequestKind.CHANGE):
        request = task.requests[RequestKind.CHANGE][0]
        why = f"it is {status.state}, and only a task that waits can be changed"
        return Decision(transitions.request_ignored(status, request, why, moment), (RequestKind.CHANGE,))
    if RequestKind.CONFIRM_STOPPED in task.requests:
        confirmed = _confirmed(task, status, attempt, moment)
        if confirmed is not None:
            return confirmed
    if RequestKind.RETRY in task.requests and not task.is_postponed(RequestKind.RETRY):
        request = task.requests[RequestKind.RETRY][0]
        why = "its attempt has not ended"
        return Decision(transitions.request_ignored(status, request, why, moment), (RequestKind.RETRY,))
    return None


def _confirmed(task: Task, status: Status, attempt: Attempt | None, moment: Moment) -> Decision | None:
    """An operator's word that the attempt stopped.

    It counts for an attempt that is lost. It also counts for one that is being stopped, unless the engine
    shows that one as Pending or Running.
    """
    request, kind = task.requests[RequestKind.CONFIRM_STOPPED][0], (RequestKind.CONFIRM_STOPPED,)
    seen = attempt.observation if attempt is not None else None
    why = ""
    if request.attempt not in (0, status.attempt):
        why = f"it names attempt {request.attempt}, but the current attempt is {status.attempt}"
    elif status.lost_since is None and seen is not None and seen.phase in (Phase.PENDING, Phase.RUNNING):
        why = f"the engine reports its attempt as {seen.phase}"
    elif status.lost_since is None and not status.stopping:
        why = "its attempt is neither lost nor being stopped"
    if why:
        return Decision(transitions.request_ignored(status, request, why, moment), kind)
    if attempt is None or attempt.starting or (seen is None and attempt.stop_sent_at is None):
        # A start may be under way, perhaps from an earlier term, and the operator's word does not cover what
        # it will create. Once the engine has shown the attempt, or has accepted its stop, a late start finds
        # the name taken.
        return None
    message = f"{request.by or 'an operator'} confirmed that it stopped" + (
        f": {request.reason}" if request.reason else ""
    )
    return Decision(_give_up(task, status, "ConfirmedStopped", message, moment, request), kind)


def _give_up(
    task: Task, status: Status, reason: str, message: str, moment: Moment, request: Request | None = None
) -> Status:
    """End the hold without proof, on the user's word; the attempt no longer blocks the next one."""
    seen = Observation(
        attempt=AttemptId(task.id, status.attempt),
        phase=Phase.FAILED,
        stopped=True,
        gone=True,
        reason=reason,
        message=message,
    )
    return msgspec.structs.replace(end(task, status, seen, moment, request), abandoned=status.attempt)


def _finished(task: Task, status: Status, moment: Moment, *, is_kept: bool) -> Decision | None:
    retry = task.requests.get(RequestKind.RETRY)
    if (
        retry is not None
        and status.state is not State.SUCCEEDED
        and task.spec is not None
        and not task.spec_error
    ):
        again = transitions.retry_requested(status, retry[0], moment, gated=bool(task.spec.after))
        return Decision(again, (RequestKind.RETRY,), parents=tuple(each.task for each in task.spec.after))
    if task.requests:
        return ignored(task, status, f"it is already {status.state}", moment)
    if is_kept:
        return None
    if task.spec is None or (status.finished_at or 0.0) + task.retention_seconds <= moment.now:
        return Decision(None, tuple(task.requests), removes=True, compares_spec=True)
    return None


def ignored(task: Task, status: Status | None, why: str, moment: Moment) -> Decision:
    """Consume all requests of the task without effect; record that in its status, if it has one."""
    if status is not None:
        for request, _ in task.requests.values():
            status = transitions.request_ignored(status, request, why, moment)
    return Decision(status, tuple(task.requests))
