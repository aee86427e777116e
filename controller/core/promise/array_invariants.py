"""I15: what is stored of an array and of its members agrees: each member begins and ends once, or is retried.

The cost follows the number of arrays, of their blocks, and of the members under way.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from controller.core.model.array_records import Array
from controller.core.model.blocks import KIND, LENGTH, Fate, MemberOutcome
from controller.core.model.lifecycle import FINISHED, HOLDING, Event, State
from controller.core.model.model import Model
from controller.core.model.printable import counted
from controller.core.model.records import Task
from controller.core.model.requests import RequestKind
from controller.core.model.task import Status, Step
from controller.core.promise.finding import Finding, FindingSeverity, Mender
from controller.core.promise.gang_invariants import check_gang, check_gang_ended

_BY_HAND = "something other than Tally wrote a status or a block of it"
_NAMED = 5  # members and blocks that a finding names
_MEMBERS = frozenset({Event.MEMBERS_SUCCEEDED, Event.MEMBERS_FAILED, Event.MEMBERS_CANCELLED})


def check_arrays(model: Model) -> Iterator[Finding]:
    """I15 for all arrays."""
    for array in model.arrays:
        yield from _members(array)
        if array.task is not None and not array.task.frozen:
            yield from _blocks(array, array.task)
        if array.unreadable:
            yield _unreadable(array)
        elif array.task is not None and not array.task.frozen:
            yield from _state(array, array.task)
    for name, number in model.arrays.stale:
        if name not in model.tasks or not model.tasks[name].frozen:  # else the array may be there
            yield _stale(model, name, number)


def check_steps(task: Task, steps: Sequence[Step]) -> Iterator[Finding]:
    """A finding if a task that is no array has ended as only an array does."""
    spec = task.spec
    if spec is None or spec.array is not None or not task.spec_is_original:
        return
    if task.status is None or task.status.created_at != task.submitted_at:
        return  # its status may be older than its spec
    if any(step.event in _MEMBERS for step in steps):
        yield _wrong(
            task,
            "is no array, but its history says that its members have ended",
            "none: what it ran is unknown; submit it again under another name if it must run",
        )


# -- members


def _members(array: Array) -> Iterator[Finding]:
    """What is wrong with members that have a status."""
    fates: dict[int, list[Fate]] = {}
    is_known = array.task is not None and not array.task.frozen
    for index, task in sorted(array.members.items()):
        status, number = task.status, index // LENGTH
        if status is None or task.frozen or not is_known:
            continue
        if index >= array.size:
            yield _beyond(array, task)
            continue
        if number in array.unreadable:
            continue
        if number not in fates:
            fates[number] = array.block(number).fates(LENGTH)
        fate = fates[number][index % LENGTH]
        if fate.has_ended:
            yield _begun_again(array, task, status, fate)
        elif status.attempt <= fate.attempts:
            yield _wrong(
                task,
                f"is at attempt {status.attempt}, but its block says that it has had {fate.attempts}",
                "none: cancel it if it must not run again",
            )


def _begun_again(array: Array, task: Task, status: Status, fate: Fate) -> Finding:
    how = f"{fate.outcome} after {counted(fate.attempts, 'attempt')}"
    return _wrong(
        task,
        f"is {status.state} at attempt {status.attempt}, but its block says that it has {how}",
        f"none: cancel it if it must not run again; how it ends now replaces what the block of {array.name}"
        " says",
    )


def _beyond(array: Array, task: Task) -> Finding:
    return Finding(
        invariant="I15",
        subject=f"task/{task.id}",
        what=f"is a member that {array.name} does not have: its size is {array.size:,}",
        since_revision=max(task.status_mod, array.task.spec_mod if array.task is not None else 0),
        likely_cause=f"something other than Tally wrote its status, or the spec of {array.name}",
        repair="the leader stops it, and deletes its status",
        mender=Mender.LEADER,
        transient=True,
    )


# -- the array


def _state(array: Array, task: Task) -> Iterator[Finding]:
    """Whether the array's state is the one that follows from its members."""
    status = task.status
    if status is None or not task.spec_is_original or status.created_at != task.submitted_at:
        yield from _over(array, task)  # its status may be older than its spec
        return
    if status.state in HOLDING and status.reserved:
        yield from check_gang(array, task, status)
    elif status.state in HOLDING:
        yield _wrong(
            task,
            f"is an array, and is {status.state} itself: its members run, and it does not",
            f"cancel it, and submit it again under another name: `tally cancel {array.name}`",
        )
    if status.state not in FINISHED:
        yield from _over(array, task)
        return
    if array.members:
        yield _wrong(
            task,
            f"is {status.state}, but {_listed(array.members)} {_are(array.members)} under way",
            "none: they go on to their ends; cancel those that must not",
        )
    if RequestKind.RETRY in task.requests:
        return  # its members are being made to wait
    if array.is_gang:  # a round that was stopped leaves members that have not begun
        yield from check_gang_ended(array, task, status)
        return
    if array.has_begun and array.waiting:
        first = next(array.indexes((MemberOutcome.WAITING,)), 0)
        yield _wrong(
            task,
            f"is {status.state}, but {array.waiting:,} of its {array.size:,} members wait, the first of"
            f" them {first}: they never begin",
            _again(array, status),
        )
        return
    follows = _follows(array)
    if follows is not None and follows is not status.state:
        told = ", ".join(f"{count:,} {outcome}" for outcome, count in array.counts.items() if count)
        yield _wrong(
            task,
            f"is {status.state}, but by its members it is {follows} ({told or 'none has begun'})",
            _again(array, status),
        )


def _over(array: Array, task: Task) -> Iterator[Finding]:
    if array.is_over and task.state not in FINISHED:
        yield Finding(
            invariant="I15",
            subject=f"task/{task.id}",
            what=f"is {task.state}, but all of its {array.size:,} members have ended",
            since_revision=task.status_mod,
            likely_cause="no replica leads, or the leader is busy or cannot write to etcd",
            repair="the leader ends it; check that a replica leads (`tally get replicas`), and read its log",
            mender=Mender.LEADER,
            severity=FindingSeverity.NOTICE,
            transient=True,
        )


def _follows(array: Array) -> State | None:
    """The state that follows from its members; None if none has begun: it may have ended before."""
    if not array.has_begun:
        status = array.task.status if array.task is not None else None
        succeeded = status is not None and status.state is State.SUCCEEDED
        return State.CREATED if succeeded else None
    if array.counts[MemberOutcome.FAILED]:
        return State.FAILED
    return State.CANCELLED if array.counts[MemberOutcome.CANCELLED] else State.SUCCEEDED


def _again(array: Array, status: Status) -> str:
    if status.state is State.SUCCEEDED:
        return f"none: submit what must still run as another array than {array.name}"
    return f"`tally retry {array.name}` runs again what has failed or was cancelled, and what waits"


# -- blocks


def _blocks(array: Array, task: Task) -> Iterator[Finding]:
    """Members that cannot be as their block says."""
    for number, block in array.blocks.items():
        length = array.length(number)
        if block.of != array.of or not length:
            continue  # of another array
        what = ""
        if sum(block.counts.values()) > length:
            what = f"tells of {sum(block.counts.values()):,} members, and the array has {length:,} there"
        elif any(fate.outcome is MemberOutcome.SUCCEEDED and not fate.attempts for _, fate in block.runs):
            what = "says that members have succeeded without an attempt"
        if what:
            yield _wrong(
                task,
                f"has a block {KIND}/{array.name}/{number} that {what}",
                "restore the value if you can; what else it says is taken for true",
            )


def _unreadable(array: Array) -> Finding:
    keys = [f"{KIND}/{array.name}/{number}" for number in sorted(array.unreadable)]
    more = f" and {len(keys) - _NAMED} more" if len(keys) > _NAMED else ""
    return Finding(
        invariant="I15",
        subject=f"task/{array.name}",
        what=(
            f"is left alone, and none of its members begins, since {counted(len(keys), 'block')} cannot be"
            f" read: {', '.join(keys[:_NAMED])}{more}"
        ),
        since_revision=array.task.status_mod if array.task is not None else 0,
        likely_cause="a value damaged by hand, or written by a newer version",
        repair=(
            f"restore the value if you can; otherwise `tally audit --repair --delete {keys[0]}`: its members"
            " that have ended run again"
        ),
        mender=Mender.DELETION,
        severity=FindingSeverity.NOTICE,
    )


def _stale(model: Model, name: str, number: int) -> Finding:
    return Finding(
        invariant="I15",
        subject=f"key/{KIND}/{name}/{number}",
        what=f"tells of members of an array {name} that is gone",
        since_revision=model.mod_of(KIND, (name, str(number))),
        likely_cause="the array was removed by hand, or another one has its name; or no replica leads",
        repair="the leader deletes it",
        mender=Mender.LEADER,
        severity=FindingSeverity.NOTICE,
        transient=True,
    )


# -- words


def _wrong(task: Task, what: str, repair: str) -> Finding:
    return Finding(
        invariant="I15",
        subject=f"task/{task.id}",
        what=what,
        since_revision=task.status_mod,
        likely_cause=_BY_HAND,
        repair=repair,
    )


def _listed(members: dict[int, Task]) -> str:
    named = sorted(members)[:_NAMED]
    more = f" and {len(members) - len(named)} more" if len(members) > len(named) else ""
    noun = "member" if len(members) == 1 else "members"
    return f"{noun} {', '.join(map(str, named))}{more}"


def _are(members: dict[int, Task]) -> str:
    return "is" if len(members) == 1 else "are"
