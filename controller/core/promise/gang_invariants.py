"""I16: a gang holds for its members that have not begun, and its members for themselves, or all are stopped.

Its hold is the sum of what is reserved for these members. A gang that is being stopped reserves nothing. No
member is under way in another round than its gang.
"""

from __future__ import annotations

from collections.abc import Iterator

from controller.core.model.array_records import Array
from controller.core.model.blocks import MemberOutcome
from controller.core.model.gangs import total
from controller.core.model.lifecycle import State
from controller.core.model.records import Task
from controller.core.model.resources import ZERO
from controller.core.model.task import Status
from controller.core.promise.finding import Finding, Mender


def check_gang(array: Array, task: Task, status: Status) -> Iterator[Finding]:
    """I16 for a gang that holds and its members."""
    due = ZERO if status.stopping else total(status.reserved)
    if status.hold != due:
        yield _wrong(task, f"holds {status.hold}, but {due} is reserved for its members that have not begun")
    left = sum(one.left for one in status.reserved)
    may_be = range(array.waiting, array.waiting + len(array.hidden) + 1)
    if not status.stopping and task.spec_is_original and not array.unreadable and left not in may_be:
        yield _wrong(
            task, f"holds for {left:,} members that have not begun, but there are {array.waiting:,} of them"
        )
    for member in array.members.values():
        other = member.status
        if other is None or not other.is_holding or other.stopping:
            continue
        if other.attempt != status.attempt:
            yield _wrong(
                member, f"is under way in round {other.attempt}, but its gang is in {status.attempt}"
            )


def check_gang_ended(array: Array, task: Task, status: Status) -> Iterator[Finding]:
    """I16 for a gang that has ended: it has succeeded only if all members have."""
    done = array.counts[MemberOutcome.SUCCEEDED]
    if status.state is State.SUCCEEDED and done != array.size:
        yield Finding(
            invariant="I16",
            subject=f"task/{task.id}",
            what=f"is {status.state}, but {done:,} of its {array.size:,} members have succeeded",
            since_revision=task.status_mod,
            likely_cause="something other than Tally wrote its status, or a block of it",
            repair="none: submit it again under another name if it must still run",
        )


def _wrong(task: Task, what: str) -> Finding:
    return Finding(
        invariant="I16",
        subject=f"task/{task.id}",
        what=what,
        since_revision=task.status_mod,
        likely_cause="something other than Tally wrote a status of the gang, or deleted one",
        repair="the leader stops it, gives back what it holds, and runs it again if its retry policy allows",
        mender=Mender.LEADER,
        transient=True,
    )
