"""Decides the next step of an array, and of its members as far as they follow from it.

What is asked of an array is carried out on its members: those under way by a step of their own, all others
in their blocks (see `folding`). The request is consumed when that is done, so a new leader goes on with it.
Until then no member begins.
"""

from __future__ import annotations

from collections import Counter
from itertools import islice

import msgspec

from controller.core.model.array import ended_runs
from controller.core.model.array_records import UNREADABLE, Array, fate_of
from controller.core.model.arrays import Ranges
from controller.core.model.blocks import MemberOutcome
from controller.core.model.lifecycle import FINISHED, HOLDING, WAITING, Event, State
from controller.core.model.paired import SKIPPED
from controller.core.model.records import PoolRecord, Task
from controller.core.model.requests import Request, RequestKind
from controller.core.model.task import StopReason
from controller.core.planning import transitions
from controller.core.planning.agenda import Agenda
from controller.core.planning.decide import Decision, Others, cancelled_by, decide, ignored
from controller.core.planning.gangs import (
    decide_gang,
    holds_as_gang,
    refused_of_member,
    refused_part,
    stop_of_member,
)
from controller.core.planning.transitions import Moment
from controller.core.promise.attempts import Attempt

NAMED = 5  # members that a message names, and reasons
_ORDINARY = {"", "Failed"}  # reasons that say no more than the outcome
_RETRYABLE = (MemberOutcome.FAILED, MemberOutcome.CANCELLED)


def decide_any(
    task: Task, attempt: Attempt | None, pool: PoolRecord | None, moment: Moment, others: Others
) -> Decision | None:
    """As `decide`, for any task: an array, a member of one, or neither."""
    if holds_as_gang(task):
        return decide_gang(task, others.array, moment)
    if task.array is not None and task.array.is_gang and task.state not in HOLDING:
        if task.array.members and task.state in WAITING:
            return None  # they are stopped first: somebody has deleted the status of the gang
        is_kept = others.is_kept or bool(task.array.members or task.array.hidden)
        kept = msgspec.structs.replace(others, is_kept=is_kept)
        refused = refused_part(task, moment) if not task.frozen else None
        return refused or decide(task, attempt, pool, moment, kept)
    if task.array is not None and task.state not in HOLDING:
        return _array(task, task.array, pool, moment, others)
    if task.member_of:
        return _member(task, attempt, pool, moment, others)
    if not task.requests:
        return decide(task, attempt, pool, moment, others)
    narrow = next((request for request, _ in task.requests.values() if request.members), None)
    if narrow is not None and task.spec_mod and not task.frozen:
        why, status = f"it is no array, and has no members {narrow.members}", task.status
        if status is not None:
            status = transitions.request_ignored(status, narrow, why, moment)
        return Decision(status, (narrow.kind,))
    return decide(task, attempt, pool, moment, others)


def stop_of(array: Array) -> Request | None:
    """Why members of the array are to be cancelled: a user asks for it, or one has failed (`fail_fast`).

    Or it is a gang that is being stopped.
    """
    task = array.task
    if task is not None and task.status is not None and task.status.reserved and task.status.stopping:
        return Request(kind=RequestKind.CANCEL, by="its gang", reason=task.status.message)
    if task is None or task.frozen or task.state not in WAITING:
        return None
    if RequestKind.CANCEL in task.requests:
        return task.requests[RequestKind.CANCEL][0]
    if array.fails and RequestKind.RETRY not in task.requests:
        return Request(kind=RequestKind.CANCEL, by="fail_fast", reason="another member has failed")
    return None


def retried(request: Request) -> tuple[MemberOutcome, ...]:
    """The outcomes of the members that this retry is about."""
    return (MemberOutcome.FAILED,) if request.only_failed else _RETRYABLE


def refusal(task: Task, array: Array, request: Request) -> str:
    """Why a retry of members cannot take effect; "" if it can. It stays so while the retry is carried out."""
    ranges = Ranges.parse(request.members)
    if task.state is State.SUCCEEDED:
        return f"it is already {task.state}"
    if task.state in FINISHED and array.has_begun and array.waiting:
        return ""  # it replaces one that is half carried out: those that wait again are to begin
    if not ranges.count(array.size):
        return f"it has no members {request.members}: its size is {array.size}"
    if task.state in FINISHED and not ranges.is_all and not array.has_begun:
        return "no member has begun: retry the whole array"
    if task.state in FINISHED and not array.waiting and not _any_ended(array, retried(request), ranges):
        return "there is no such member to retry"
    if array.fails and any(index not in ranges for index in array.indexes((MemberOutcome.FAILED,))):
        return "others have failed, too, and by fail_fast nothing runs then: retry the whole array"
    return ""


def unsettled(array: Array, members: str = "") -> list[Task]:
    """The members under way that a cancel of these ("": all) is about, and that do not show it yet."""
    ranges = Ranges.parse(members)
    return [
        member
        for index, member in array.members.items()
        if index in ranges and not member.frozen and not _is_settled(member)
    ]


def pass_on_stop(array: Array, agenda: Agenda) -> None:
    """What stops an array stops its members that are under way."""
    stop = stop_of(array)
    if stop is not None:
        agenda.tasks.update((member.id, None) for member in unsettled(array, stop.members))


def _is_settled(member: Task) -> bool:
    status = member.status
    if status is None or status.is_finished:
        return True
    return status.cancelling or (status.stopping == StopReason.MAIN_ENDED and status.exit_code == 0)


def _any_ended(array: Array, outcomes: tuple[MemberOutcome, ...], ranges: Ranges) -> bool:
    """Whether any member of the ranges has ended so, folded or not."""
    return array.any_within(outcomes, ranges) or any(
        index in ranges and member.state in FINISHED and fate_of(member).outcome in outcomes
        for index, member in array.members.items()
    )


def _array(
    task: Task, array: Array, pool: PoolRecord | None, moment: Moment, others: Others
) -> Decision | None:
    if task.frozen or (array.unreadable and (task.requests or task.state not in FINISHED)):
        return None
    retry = task.requests.get(RequestKind.RETRY)
    cancel = task.requests.get(RequestKind.CANCEL) if task.state in WAITING else None
    if cancel is not None and (cancel[0].members or array.has_begun):
        return _cancel(task, array, cancel[0], moment)
    if retry is not None and cancel is None and (task.state in FINISHED or array.has_begun):
        return _retry(task, array, retry[0], moment)
    if task.state in FINISHED or not array.has_begun:
        return decide(
            task,
            None,
            pool,
            moment,
            msgspec.structs.replace(others, is_kept=others.is_kept or bool(array.members or array.hidden)),
        )
    if array.is_over:
        return _end(task, array, moment)
    if RequestKind.CHANGE in task.requests:
        return decide(task, None, pool, moment, Others())
    if task.requests:
        return ignored(task, task.status, "an operator confirms the stop of a member, by its name", moment)
    return None


def _cancel(task: Task, array: Array, request: Request, moment: Moment) -> Decision | None:
    ranges = Ranges.parse(request.members)
    if not ranges.count(array.size):
        why = f"it has no members {request.members}: its size is {array.size}"
        status = transitions.request_ignored(transitions.status_of(task), request, why, moment)
        return Decision(status, (RequestKind.CANCEL,))
    if array.any_within((MemberOutcome.WAITING,), ranges) or unsettled(array, request.members):
        return None
    return Decision(transitions.answered(task, "Cancelled", request, moment), (RequestKind.CANCEL,))


def _retry(task: Task, array: Array, request: Request, moment: Moment) -> Decision | None:
    why = refusal(task, array, request)
    if why:
        status = transitions.request_ignored(transitions.status_of(task), request, why, moment)
        return Decision(status, (RequestKind.RETRY,))
    if _any_ended(array, retried(request), Ranges.parse(request.members)):
        return None
    if task.status is None or task.state in WAITING:
        return Decision(transitions.answered(task, "RetryRequested", request, moment), (RequestKind.RETRY,))
    after = task.spec.after if task.spec is not None and not array.has_begun else ()
    again = transitions.retry_requested(task.status, request, moment, gated=bool(after))
    parents = tuple(each.task for each in after) or task.follows
    return Decision(again, (RequestKind.RETRY,), parents=parents)


def _end(task: Task, array: Array, moment: Moment) -> Decision:
    """All members have ended: so has the array."""
    failed, cancelled = array.counts[MemberOutcome.FAILED], array.counts[MemberOutcome.CANCELLED]
    done = array.counts[MemberOutcome.SUCCEEDED]
    if failed:
        event, reason, message = Event.MEMBERS_FAILED, "MembersFailed", _named(array, MemberOutcome.FAILED)
    elif cancelled:
        event, reason = Event.MEMBERS_CANCELLED, "MembersCancelled"
        if all(fate.reason == SKIPPED for _, _, fate in ended_runs(array, MemberOutcome.CANCELLED)):
            reason = SKIPPED  # as a task that is not needed
        message = _named(array, MemberOutcome.CANCELLED)
    else:
        event, reason, message = Event.MEMBERS_SUCCEEDED, "Succeeded", f"all {done:,} members succeeded"
    # its size is the spec's
    return Decision(transitions.rejected(task, reason, message, moment, event), compares_spec=True)


def _named(array: Array, outcome: MemberOutcome) -> str:
    """How many have ended so, for which reasons, and the first of each."""
    counts, first = Counter[str](), dict[str, list[int]]()
    for index, count, fate in ended_runs(array, outcome):
        counts[fate.reason] += count
        shown = first.setdefault(fate.reason, [])
        shown += range(index, index + min(count, NAMED - len(shown)))
    told, is_plain = [], not first.keys() - _ORDINARY
    for reason, indexes in islice(first.items(), NAMED):
        more = f" and {counts[reason] - NAMED:,} more" if counts[reason] > NAMED else ""
        which = "" if is_plain else f"{counts[reason]:,} {reason or 'otherwise'}: "
        told.append(f"{which}{', '.join(map(str, indexes))}{more}")
    rest = "; and others" if len(first) > NAMED else ""
    return f"{array.counts[outcome]:,} of {array.size:,} members {outcome}: {'; '.join(told)}{rest}"


def _member(
    task: Task, attempt: Attempt | None, pool: PoolRecord | None, moment: Moment, others: Others
) -> Decision | None:
    array = task.source.array if task.source is not None else None
    if task.status is not None and task.status.of_gang:
        if not task.frozen and (refused := refused_of_member(task, moment)) is not None:
            return refused
        stop = stop_of_member(task)
    else:
        stop = stop_of(array) if array is not None and task.status is not None else None
    if stop is not None and (task.frozen or task.status is None or _is_settled(task)):
        stop = None
    if stop is not None and task.status is not None and task.status.index in Ranges.parse(stop.members):
        if task.state in WAITING:
            return Decision(transitions.cancelled_waiting(task, stop, moment))
        seen = attempt.observation if attempt is not None else None
        if seen is None or not seen.stopped:
            assert task.status is not None
            return Decision(cancelled_by(task.status, stop, moment))
    if task.spec is None and task.spec_error and task.state in WAITING and not task.frozen:
        if task.spec_error == UNREADABLE:
            return None
        return Decision(
            transitions.rejected(task, "InvalidSpec", task.spec_error, moment), compares_spec=True
        )
    kept = msgspec.structs.replace(others, is_kept=True)  # it ends as it is folded
    return decide(task, attempt, pool, moment, kept)
