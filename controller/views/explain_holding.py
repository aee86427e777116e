"""What `tally explain` says of a task that holds resources, and the words for the steps of a status."""

from __future__ import annotations

from controller.core.model.codec import decode_history
from controller.core.model.lifecycle import Event, State
from controller.core.model.records import Task
from controller.core.model.task import Status, Step, StopReason
from controller.core.planning.start_faults import START_DELAYED
from controller.core.planning.transitions import is_stop_delayed
from controller.errors import CorruptValue
from controller.views.words import at, span, words_of

_STOPPING: dict[str, str] = {
    StopReason.CANCEL: "a cancel was requested",
    StopReason.START_DEADLINE: "its start deadline has passed",
    StopReason.RUN_DEADLINE: "its run deadline has passed",
    StopReason.SPEC_DELETED: "its spec was deleted",
    StopReason.MAIN_ENDED: "its main container has ended",
    StopReason.MAIN_NOT_STARTED: "its main container could not be started",
    StopReason.PREEMPTED: "it is preempted",
    StopReason.MEMBER_FAILED: "a member did not succeed",
    StopReason.MEMBER_NOT_STARTED: "a member could not be started",
    StopReason.MEMBER_DISRUPTED: "a member was ended by the platform",
    StopReason.TORN: "its records do not fit together",
}
_BY_GANG = "cancelled by its gang: "
_WITH_WORDS = frozenset(
    {
        StopReason.PREEMPTED,
        StopReason.MEMBER_FAILED,
        StopReason.MEMBER_NOT_STARTED,
        StopReason.MEMBER_DISRUPTED,
        StopReason.TORN,
    }
)


def because_of(told: Status | Step) -> str:
    """The reason, the message and the exit code, as far as there are any."""
    words = ": ".join(words_of(part) for part in (told.reason, told.message) if part)
    exit_code = told.exit_code if isinstance(told, Status) else None
    return (
        f"{words} (exit code {exit_code})"
        if exit_code is not None and f"code {exit_code}" not in words
        else words
    )


def explain_holding(task: Task, status: Status, now: float) -> str:
    """How an attempt is: admitted, running, lost, or being stopped; what it holds, and what is next."""
    attempt = f"attempt {status.attempt} of {task.id}" + (f" on {status.node}" if status.node else "")
    holds = f"holds {status.hold} of pool {status.pool}"
    if status.lost_since is not None:
        return _lost(task, status, f"{attempt} {holds}", now)
    if status.stopping:
        told = (
            f"{attempt} is being stopped because {why_stopped(status)}, and {holds} until its end is observed"
        )
        return told + _delay(status)
    if status.state is State.RUNNING:
        since = status.started_at or status.admitted_at or now
        limit = task.spec.deadlines.run_seconds if task.spec is not None else None
        ends = stopped_in(since, limit, now, unless="it has not ended")
        return f"{attempt} has been running since {at(since)} ({span(now - since)}), and {holds}{ends}"
    since = status.admitted_at or now
    limit = task.spec.deadlines.start_seconds if task.spec is not None else None
    ends = stopped_in(since, limit, now, unless="it is not running")
    admitted = f"{attempt} was admitted {span(now - since)} ago, {holds}"
    if status.reason == START_DELAYED:
        return (
            f"{admitted} and could not be started yet: {words_of(status.message)}; Tally retries, with"
            f" increasing pauses{ends}"
        )
    said = f"; the engine says: {because}" if (because := because_of(status)) else ""
    return f"{admitted} and has not been seen running yet{said}{ends}"


def stopped_in(since: float, limit: float | None, now: float, *, unless: str) -> str:
    """When a deadline, seconds from `since` on, ends the attempt; "" without one."""
    return f"; it is stopped in {span(since + limit - now)} if {unless} by then" if limit is not None else ""


def _delay(status: Status) -> str:
    """What the engine said when its stop failed, if nothing was heard since."""
    if not is_stop_delayed(status):
        return ""
    try:
        said = decode_history(status)[-1].message
    except CorruptValue as error:
        said = f"its last step cannot be read ({words_of(str(error))})"
    return f"; the engine fails to stop it, and is asked again: {said}"


def _lost(task: Task, status: Status, held: str, now: float) -> str:
    since = status.lost_since or now
    replace_after = task.spec.on_lost.replace_after_seconds if task.spec is not None else None
    then = (
        f"; it is given up in {span(since + replace_after - now)}, as its on_lost allows"
        if replace_after is not None
        else ""
    )
    # A later stop puts its own words into the status, but the words of the loss are what helps.
    because = because_of(step_of(status, Event.NOTED, round(since, 3)) or status)
    said = f" ({because})" if because else ""
    if status.stopping:
        stop = step_of(status, Event.STOP_REQUESTED)
        then += (
            f"; it was told to stop{f' {span(now - stop.at)} ago' if stop is not None else ''}, because"
            f" {why_stopped(status)}"
        )
    return (
        f"{held} and has been lost since {at(since)} ({span(now - since)}){said}:"
        f" nothing proves that it stopped, so its resources stay held{then};"
        f" if you know that it no longer runs, confirm it with `tally confirm-stopped {task.id}`"
    )


def why_stopped(status: Status) -> str:
    """Why its attempt is being stopped, to follow `because`."""
    told = step_of(status, Event.STOP_REQUESTED) or status
    if fault := status.start_fault:
        return f"it cannot start ({fault}: {words_of(told.message)})"
    why = _STOPPING.get(status.stopping, status.stopping)
    if status.of_gang and status.stopping == StopReason.CANCEL:
        why = words_of(told.message.removeprefix(_BY_GANG))
        return f"its gang {status.array} is being stopped{f' ({why})' if why else ''}"
    return f"{why}: {words_of(told.message)}" if status.stopping in _WITH_WORDS else why


def step_of(status: Status, event: Event, when: float | None = None, reason: str = "") -> Step | None:
    """The last such step of the current attempt; None if the history lacks it, or cannot be read."""
    try:
        steps = decode_history(status)
    except CorruptValue:
        return None
    return next(
        (
            s
            for s in reversed(steps)
            if (s.attempt, s.event) == (status.attempt, event)
            and when in (None, s.at)
            and reason in ("", s.reason)
        ),
        None,
    )
