"""What `tally explain` says of arrays, and of their members that are not under way."""

from __future__ import annotations

from collections.abc import Callable

from controller.core.model.array import ArrayOf
from controller.core.model.array_records import Array
from controller.core.model.arrays import MemberName, Ranges
from controller.core.model.blocks import KIND, LENGTH, MemberOutcome
from controller.core.model.lifecycle import FINISHED, State
from controller.core.model.model import Model
from controller.core.model.paired import REFUSALS, SKIPPED
from controller.core.model.printable import counted
from controller.core.model.records import Task
from controller.core.model.requests import Request, RequestKind
from controller.core.planning.arrays import refusal
from controller.core.planning.folding import NAME_TAKEN
from controller.views.arrays import (
    UNREADABLE,
    ArrayProgress,
    MemberFacts,
    is_hidden,
    member_without_status,
    progress_of,
    shown_state,
)
from controller.views.dependencies import Sees
from controller.views.explain_dependencies import failed_after, retry_from, skipped_of
from controller.views.words import NAMED, span, words_of

_CARRIED_OUT = (RequestKind.CANCEL, RequestKind.RETRY)


def explain_array(task: Task, array: Array, waits: Callable[[], str]) -> str:
    """How far an array has come that has not ended, and why its next member does not begin.

    `waits` says why the array waits for admission, as for any task.
    """
    progress = progress_of(task)
    if progress is None:
        return waits()
    sentence = f"{task.id}: {_progress(progress)}"
    if array.unreadable:
        return f"{sentence}; {_unreadable(array)}"
    asked = [_asked(request, kind) for kind, (request, _) in task.requests.items() if kind in _CARRIED_OUT]
    if asked and array.has_begun:
        return f"{sentence}; no member begins until {' and '.join(asked)} is carried out"
    if array.fails:
        failed = (
            progress.first_failed[0]
            if progress.first_failed
            else next(array.indexes((MemberOutcome.FAILED,)))
        )
        return (
            f"{sentence}; no other one begins, and those that run are stopped, since member {failed} has"
            " failed (fail_fast)"
        )
    index = next(array.paired.indexes(), None) if array.paired is not None else _next(array)
    if index is None and array.paired is not None and (held := _next(array)) is not None:
        told = waits_of_pair(array, held) if array.has_begun else waits().removeprefix(f"{task.id} ")
        return f"{sentence}; member {held}, the next one, {told}"
    if index is None and array.hidden:
        name = MemberName(array.name, min(array.hidden))
        return f"{sentence}; the status of {name} cannot be read: `tally audit` prints what to do"
    if index is None:
        return sentence
    limited = array.spec is not None and array.spec.array is not None and array.spec.array.max_running
    if limited and array.room(0) <= 0:
        most = array.under_way + array.room(0)
        return (
            f"{sentence}; member {index}, the next one, waits until another one ends, since"
            f" {array.under_way:,} of at most {most:,} are under way (max_running)"
        )
    return f"{sentence}; as to member {index}, the next one, {waits()}"


def explain_ended(array: Array) -> str:
    """The command that runs again what has not succeeded in an array that has ended."""
    failed, cancelled = array.counts[MemberOutcome.FAILED], array.counts[MemberOutcome.CANCELLED]
    name, skipped = array.name, skipped_of(array)
    if array.is_gang:
        return f"`tally retry {name}` runs all of its members again"
    rest = f", and skips again the {skipped:,} that {'was' if skipped == 1 else 'were'} not needed"
    rest = rest if skipped else ""
    if not failed or cancelled == skipped:
        which = "the failed" if failed else "the cancelled"
        return f"`tally retry {name}` runs {which} members again{rest}" if failed or cancelled else ""
    return (
        f"`tally retry {name}` runs the failed and the cancelled members again{rest} (`--failed`: the failed"
        " ones alone)"
    )


def explain_folded(
    model: Model, name: str, now: float, of_array: Callable[[], str], sees: Sees | None = None
) -> str:
    """Why a member that has no status has not begun, or how it ended; "" if there is no such member.

    `of_array` explains its array.
    """
    task = model.tasks.get(name)
    if task is not None and (task.spec_mod or task.status_mod or task.frozen):
        return ""
    found = member_without_status(model, name)
    if found is None:
        return ""
    who = f"{name}, member {found.member.index} of {found.array.id},"
    if found.state is None:
        assert found.array.array is not None
        return f"What has become of {name} cannot be read: {_unreadable(found.array.array)}"
    if found.state in FINISHED:
        first = retry_from(model, found.array, sees).rstrip(",")
        after = failed_after(model, found.array, sees)
        return f"{who} {_fate(found)}{_kept(found.array, now)}{_again(found, first, after)}"
    again = f"is to run again, after {counted(found.status.attempt, 'attempt')}" if found.status else ""
    array, index = found.array.array, found.member.index
    pair = ""
    if array is not None and array.paired is not None and array.is_at_rest(index):
        pair = waits_of_pair(array, index)
    return f"{who} {again or 'has not begun'}{f': it {pair}' if pair else ''}. {of_array()}".removesuffix(".")


def explain_member_ended(task: Task, now: float) -> str:
    """How a member ended that has a status, and is to be folded; "" if the task is no such member."""
    status, source = task.status, task.source
    if status is None or source is None or not is_hidden(task):
        return ""
    because = ": ".join(words_of(part) for part in (status.reason, status.message) if part)
    return (
        f"{task.id}, member {status.index} of {source.id}, ended as {status.state}, after"
        f" {counted(status.attempt, 'attempt')}{f': {because}' if because else ''}{_kept(source, now)}"
    )


def waits_of_pair(array: Array, index: int) -> str:
    """For which members of other arrays one waits that has not begun; "" if it waits for none."""
    waiting = []
    for former in array.paired.formers if array.paired is not None else ():
        if former.parent is None or former.is_met(index):
            continue
        other, told = former.array, str(UNREADABLE)
        is_readable = other is not None and index // LENGTH not in other.unreadable
        if is_readable and former.ending(index) is not None:
            otherwise = "has ended otherwise than wanted, and may be retried until then"
            waiting.append(f"{former.name} to end, of which member {index} {otherwise}")
            continue
        if is_readable and isinstance(other, ArrayOf) and other.task is not None:
            told = shown_state(other.task)
        waiting.append(f"member {index} of {former.name} ({told}) to end")
    return f"waits for {' and '.join(waiting[:NAMED])}" if waiting else ""


def _never_ran(array: Array, index: int) -> str:
    """Why a member ended before it began, as far as the members tell for which it waited."""
    missed = [
        f"member {index} of {former.name}, which is {former.ending(index)}"
        for former in (array.paired.formers if array.paired is not None else ())
        if former.ending(index) is not None and not former.is_met(index)
    ]
    only = "only " if array.fate(index).outcome is MemberOutcome.CANCELLED else ""
    how = "the failure" if only else "the success"
    return f": it was to run {only}after {how} of {' and '.join(missed[:NAMED])}" if missed else ""


def _progress(progress: ArrayProgress) -> str:
    """How many of its members have ended, are under way, and wait; each with the states that there are."""
    ended = {
        "succeeded": progress.succeeded,
        "failed": progress.failed,
        "cancelled": progress.cancelled,
    }
    under_way = {
        "running": progress.running,
        "pending": progress.pending,
        "in back-off": progress.retrying,
    }
    parts = [f"{progress.ended:,} of {progress.size:,} members {_have(progress.ended)} ended{_told(ended)}"]
    number = sum(under_way.values())
    parts.append(f"{number:,} {'is' if number == 1 else 'are'} under way{_told(under_way)}")
    if progress.unreadable:
        parts.append(f"{progress.unreadable:,} cannot be read")
    parts.append(f"{progress.waiting:,} {'waits' if progress.waiting == 1 else 'wait'}")
    return f"{', '.join(parts[:-1])} and {parts[-1]}"


def _told(counts: dict[str, int]) -> str:
    told = ", ".join(f"{count:,} {state}" for state, count in counts.items() if count)
    return f" ({told})" if told else ""


def _have(number: int) -> str:
    return "has" if number == 1 else "have"


def _next(array: Array) -> int | None:
    return next((index for index in array.indexes((MemberOutcome.WAITING,)) if array.is_at_rest(index)), None)


def _unreadable(array: Array) -> str:
    first = f"{KIND}/{array.name}/{min(array.unreadable)}"
    blocks = counted(len(array.unreadable), "block")
    return (
        f"Tally leaves {array.name} alone, and none of its members begins, because {blocks} of it cannot be"
        f" read ({first}{' and others' if len(array.unreadable) > 1 else ''}): restore the value, or have it"
        f" deleted by `tally audit --repair --delete {first}`, and members that had ended run again"
    )


def _asked(request: Request, kind: RequestKind) -> str:
    ranges = Ranges.parse(request.members)
    which = "all members" if ranges.is_all else f"members {ranges}"
    return f"the request to {kind} {f'the failed ones of {which}' if request.only_failed else which}"


def _fate(found: MemberFacts) -> str:
    status = found.status
    assert status is not None
    if status.reason == NAME_TAKEN.reason and not status.attempt:
        return "did not run: another task had its name"
    if not status.attempt:
        array = found.array.array
        never = (
            _never_ran(array, found.member.index) if array is not None and status.reason in REFUSALS else ""
        )
        return f"ended as {status.state}, and never ran{never}"
    code = f" (exit code {status.exit_code})" if status.exit_code is not None else ""
    because = f": {words_of(status.reason)}" if status.reason else ""
    return f"ended as {status.state}, after {counted(status.attempt, 'attempt')}{because}{code}"


def _kept(array: Task, now: float) -> str:
    status = array.status
    if status is None or status.finished_at is None or array.state not in FINISHED:
        return f"; {array.id} has not ended, and it is known until that is removed"
    left = status.finished_at + array.retention_seconds - now
    return f"; it is known until {array.id} is removed, {f'in {span(left)}' if left > 0 else 'which is due'}"


def _again(found: MemberFacts, first: str, after: str) -> str:
    array, reason = found.array, found.status.reason if found.status is not None else ""
    if found.state is State.SUCCEEDED or array.state is State.SUCCEEDED:
        return ""
    if array.array is not None and (array.array.is_gang or not array.array.has_begun):
        return f"; `tally retry {array.id}` runs the whole {'gang' if array.array.is_gang else 'array'}"
    if reason in REFUSALS and array.array is not None and array.array.paired is not None:
        return "; it is not needed" if reason == SKIPPED else f"; {first}" if first else ""
    request = Request(kind=RequestKind.RETRY, members=str(found.member.index))
    if array.array is not None and array.array.fails and refusal(array, array.array, request):
        again = f"`tally retry {array.id}` runs all that did not succeed"
        return f"; nothing of it runs while another one has failed (fail_fast): {again}"
    return f"; `tally retry '{array.id}[{found.member.index}]'` runs it again{f'; {after}' if after else ''}"
