"""The facts of arrays, as all readers show them: how far one has come, and what has become of its members.

A member that is under way has a status. What has become of all others follows from the blocks of its array,
so a page of members costs what it shows, whatever the array's size.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterator
from heapq import merge
from itertools import islice
from typing import NamedTuple

from msgspec import Struct

from controller.core.model import blocks
from controller.core.model.array import has_run
from controller.core.model.array_records import Array, fate_of, member_spec
from controller.core.model.arrays import ALL, MemberName, Ranges
from controller.core.model.blocks import LENGTH, STATES, Fate, MemberOutcome
from controller.core.model.lifecycle import FINISHED, HOLDING, WAITING, State
from controller.core.model.model import Model
from controller.core.model.records import Task
from controller.core.model.task import Spec, Status
from controller.views.gangs import role_name

UNREADABLE = "Unreadable"
"""Shown as the state of a task whose status cannot be read, and of a member whose block cannot."""

WAITING_MEMBER = "Waiting"
"""The state of a member that has not begun, or is to run again."""
MEMBER_STATES = (WAITING_MEMBER, *(state.value for state in State if state is not State.CREATED))
FIRST_FAILED = 5  # failed members that a progress names
PAGE = 100  # members of a page, unless the reader asks for more or fewer
MAX_PAGE = 1000

_GROUPS = {
    "holding": frozenset(state.value for state in HOLDING),
    "finished": frozenset(state.value for state in FINISHED),
}
SHOWN = {
    MemberOutcome.WAITING: WAITING_MEMBER,
    MemberOutcome.SUCCEEDED: State.SUCCEEDED.value,
    MemberOutcome.FAILED: State.FAILED.value,
    MemberOutcome.CANCELLED: State.CANCELLED.value,
}
_OUTCOMES = {shown: outcome for outcome, shown in SHOWN.items()}
_STATES = {MemberOutcome.WAITING: State.CREATED, **STATES}


class ArrayProgress(Struct, frozen=True, kw_only=True):
    """How many members an array has, by state. They add up to `size`.

    `retrying` are those in back-off (WaitingRetry). `first_failed` are the lowest indexes of those that have
    failed, FIRST_FAILED at most. `unreadable` are those of which the records cannot be read.
    """

    size: int
    waiting: int = 0
    pending: int = 0
    running: int = 0
    retrying: int = 0
    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0
    unreadable: int = 0
    first_failed: tuple[int, ...] = ()

    @property
    def ended(self) -> int:
        """How many have ended, in whatever way."""
        return self.succeeded + self.failed + self.cancelled

    def by_state(self) -> dict[str, int]:
        """How many members are in each of MEMBER_STATES."""
        counts = {
            WAITING_MEMBER: self.waiting,
            State.PENDING: self.pending,
            State.RUNNING: self.running,
            State.WAITING_RETRY: self.retrying,
            State.SUCCEEDED: self.succeeded,
            State.FAILED: self.failed,
            State.CANCELLED: self.cancelled,
        }
        return {name: counts[name] for name in MEMBER_STATES}


class MemberView(Struct, frozen=True, kw_only=True):
    """A member of an array. `state` is one of MEMBER_STATES, or UNREADABLE.

    `attempts` is how many it had so far; `exit_code` and `reason` are those of the last one. `node` and
    `started_at` (seconds since the Unix epoch) are known only while it is under way. `role` is that of a
    gang's member; "" if there are no roles.
    """

    index: int
    name: str
    state: str
    attempts: int = 0
    exit_code: int | None = None
    reason: str = ""
    node: str = ""
    started_at: float | None = None
    role: str = ""


class MemberPage(NamedTuple):
    """Members in the order of their indexes. `next_offset` is where the next page begins; None: none does."""

    items: list[MemberView]
    next_offset: int | None


class MemberFacts(NamedTuple):
    """What is known of a member that has no status: it has not begun, or its end is folded."""

    member: MemberName
    array: Task
    spec: Spec
    state: State | None  # None: its block cannot be read
    status: Status | None  # made of its block; None if it has never begun
    revision: int  # of its block, or of its array's spec


def shown_state(task: Task) -> State:
    """The state in which a task is shown. An array is Running from its first attempt to its end."""
    runs = task.array is not None and task.state in WAITING and _runs(task.array)
    return State.RUNNING if runs else task.state


def is_hidden(task: Task) -> bool:
    """Whether lists leave the task out: it is a member, and its array is listed.

    A member that is left of an array that is gone, or cannot be read, is listed: it may hold resources.
    """
    return bool(task.member_of) and task.source is not None and not task.spec_mod


def shown_counts(model: Model) -> dict[tuple[str, State], int]:
    """How many tasks are in each pool and state, as lists show them: an array is one task."""
    counts = dict(model.counts)
    for array in model.arrays:
        for member in array.members.values():
            if member.counted is not None and is_hidden(member):
                counts[member.counted] -= 1
        place = array.task.counted if array.task is not None else None
        if (
            place is not None
            and array.task is not None
            and (shown := shown_state(array.task)) is not place[1]
        ):
            counts[place] -= 1
            counts[place[0], shown] = counts.get((place[0], shown), 0) + 1
    return counts


def progress_of(task: Task) -> ArrayProgress | None:
    """How far an array has come; None if the task is none."""
    array = task.array
    if array is None:
        return None
    at = counts_of(array)
    return ArrayProgress(
        size=array.size,
        waiting=at[WAITING_MEMBER],
        pending=at[State.PENDING],
        running=at[State.RUNNING],
        retrying=at[State.WAITING_RETRY],
        succeeded=at[State.SUCCEEDED],
        failed=at[State.FAILED],
        cancelled=at[State.CANCELLED],
        unreadable=at[UNREADABLE],
        first_failed=_first_failed(array) if at[State.FAILED] else (),
    )


def members_of(
    model: Model,
    task_id: str,
    *,
    offset: int = 0,
    limit: int = PAGE,
    states: Collection[str] | None = None,
    ranges: Ranges = ALL,
) -> MemberPage | None:
    """The first `limit` members from the index `offset` on, of these ranges and states; None: it is no array.

    `states` are some of MEMBER_STATES and UNREADABLE; None: any.
    """
    task = model.tasks.get(task_id)
    array = task.array if task is not None else None
    if array is None:
        return None
    found = list(islice(_members(array, offset, states, ranges), limit + 1))
    return MemberPage(found[:limit], found[limit].index if len(found) > limit else None)


def parse_member_states(text: str) -> frozenset[str]:
    """States of members in any case, separated by commas; also `holding` and `finished`.

    Raises ValueError that lists what there is.
    """
    known = {name.lower(): frozenset([name]) for name in MEMBER_STATES} | _GROUPS
    found: frozenset[str] = frozenset()
    for word in text.split(","):
        name = word.strip().lower().replace("-", "").replace("_", "")
        if name not in known:
            words = ", ".join((*MEMBER_STATES, *_GROUPS))
            raise ValueError(
                f"{word!r} is not a state of a member: use one or more of {words}, separated by commas"
            )
        found |= known[name]
    return found


def member_without_status(model: Model, name: str) -> MemberFacts | None:
    """The member of this name, as its block has it; None if no array has such a member."""
    member = MemberName.parse(name)
    array = model.arrays.of(member.array) if member is not None else None
    if member is None or array is None or array.task is None or array.spec is None:
        return None
    if member.index >= array.size:
        return None
    number = member.index // LENGTH
    revision = max(array.task.spec_mod, model.mod_of(blocks.KIND, (array.name, str(number))))
    spec = member_spec(array.task, name, member.index)
    if number in array.unreadable:
        return MemberFacts(member, array.task, spec, None, None, revision)
    fate = array.fate(member.index)
    never_ran = fate.outcome is MemberOutcome.WAITING and never_begin(array)
    state = State.CANCELLED if never_ran else _STATES[fate.outcome]
    reason = array.task.status.reason if never_ran and array.task.status else fate.reason
    so_far = _so_far(array, fate)
    if state is State.CREATED and so_far:
        state = State.WAITING_RETRY
    status = None
    if state is not State.CREATED:
        status = Status(
            state=state,
            array=array.name,
            index=member.index,
            pool=array.spec.pool,
            owner=array.spec.owner,
            attempt=so_far,
            exit_code=fate.exit_code,
            reason=reason,
        )
    return MemberFacts(member, array.task, spec, state, status, revision)


def _so_far(array: Array, fate: Fate) -> int:
    """How many attempts a member had that is not under way. Of a gang that waits, as many as the gang."""
    gang = array.task if array.is_gang else None
    return gang.attempt if gang is not None and gang.state in WAITING else fate.attempts


def never_begin(array: Array) -> bool:
    """Whether members that have not begun never do: their array has ended before any did, or is a gang."""
    has_ended = array.task is not None and array.task.state in FINISHED
    return has_ended and (array.is_gang or not array.has_begun)


def state_within(array: Array, index: int) -> str:
    """The state of a member that has a status."""
    task = array.members[index]
    if "states" in task.frozen:
        return UNREADABLE
    return task.state.value if task.state is not State.CREATED else WAITING_MEMBER


def counts_of(array: Array) -> dict[str, int]:
    """How many members are in each of MEMBER_STATES, and UNREADABLE."""
    at = dict.fromkeys((*MEMBER_STATES, UNREADABLE), 0)
    for index in array.members:
        at[state_within(array, index)] += 1
    for outcome, count in _folded(array).items():
        at[SHOWN[outcome]] += count
    at[UNREADABLE] += (hidden := _within_unreadable(array))
    at[WAITING_MEMBER] = max(0, array.waiting - hidden)
    if never_begin(array):
        at[State.CANCELLED] += at[WAITING_MEMBER]
        at[WAITING_MEMBER] = 0
    return at


# -- details


def _runs(array: Array) -> bool:
    """Whether any member has begun an attempt; of a gang, whose earlier rounds are over, is any under way."""
    if not array.is_gang:
        return has_run(array)
    return array.running > 0 or any(member.state not in FINISHED for member in array.members.values())


def _folded(array: Array) -> dict[MemberOutcome, int]:
    """How many members have ended and are folded, by outcome."""
    counts = dict(array.counts)
    for task in array.members.values():
        if task.state in FINISHED:
            counts[fate_of(task).outcome] -= 1
    return counts


def _within_unreadable(array: Array) -> int:
    """How many members have a status that cannot be read, or none, and a block that cannot be read."""
    under_way = sum(index // LENGTH in array.unreadable for index in array.members) if array.unreadable else 0
    hidden = (
        index for index in array.hidden if index < array.size and index // LENGTH not in array.unreadable
    )
    own = sum(not array.fate(index).has_ended for index in hidden)
    return sum(array.length(number) for number in array.unreadable) - under_way + own


def _first_failed(array: Array) -> tuple[int, ...]:
    under_way = sorted(index for index in array.members if state_within(array, index) == State.FAILED)
    return tuple(islice(merge(under_way, array.indexes((MemberOutcome.FAILED,))), FIRST_FAILED))


def _members(
    array: Array, start: int, states: Collection[str] | None, ranges: Ranges
) -> Iterator[MemberView]:
    under_way = sorted(array.members)
    for begins, last in ranges.within(array.size):
        first = max(begins, start)
        for number in range(first // LENGTH, last // LENGTH + 1):
            low, high = max(first, number * LENGTH), min(last, (number + 1) * LENGTH - 1)
            own = under_way[bisect_left(under_way, low) : bisect_right(under_way, high)]
            mine = [index for index in own if states is None or state_within(array, index) in states]
            others = _others(array, number, low, high, states)
            for index, fate in merge(((index, None) for index in mine), others, key=lambda pair: pair[0]):
                yield _with_status(array, index) if fate is None else _of_block(array, index, fate)


def _others(
    array: Array, number: int, low: int, high: int, states: Collection[str] | None
) -> Iterator[tuple[int, Fate]]:
    """The members of a block that have no status, from `low` to `high`, with their fates."""
    block, length = array.block(number), array.length(number)
    if states is None:
        wanted = frozenset(MemberOutcome)
    elif number in array.unreadable:
        wanted = frozenset(MemberOutcome) if UNREADABLE in states else frozenset()
    else:
        wanted = frozenset(_OUTCOMES[state] for state in states if state in _OUTCOMES)
        if never_begin(array):
            cancelled = frozenset({MemberOutcome.WAITING} if State.CANCELLED in states else ())
            wanted = wanted - {MemberOutcome.WAITING} | cancelled
    waiting = length - block.ended_within(length).total()
    if not any(waiting if outcome is MemberOutcome.WAITING else block.counts[outcome] for outcome in wanted):
        return
    for place, fate in enumerate(block.fates(length)):
        index = number * LENGTH + place
        if low <= index <= high and fate.outcome in wanted and index not in array.members:
            yield index, fate


def _with_status(array: Array, index: int) -> MemberView:
    task, state, role = array.members[index], state_within(array, index), role_name(array.spec, index)
    if state in _GROUPS["finished"]:
        return _of_fate(index, task.id, role, fate_of(task))  # as it is told once it is folded
    status = task.status if state != UNREADABLE else None
    return MemberView(
        index=index,
        name=task.id,
        role=role,
        state=state,
        attempts=status.attempt if status is not None else 0,
        exit_code=status.exit_code if status is not None else None,
        reason=status.reason if status is not None else "",
        node=status.node if status is not None else "",
        started_at=status.started_at if status is not None else None,
    )


def _of_block(array: Array, index: int, fate: Fate) -> MemberView:
    name = str(MemberName(array.name, index))
    if index // LENGTH in array.unreadable:
        return MemberView(index=index, name=name, role=role_name(array.spec, index), state=UNREADABLE)
    role = role_name(array.spec, index)
    if fate.outcome is MemberOutcome.WAITING and never_begin(array):
        assert array.task is not None
        reason = array.task.status.reason if array.task.status is not None else ""
        return MemberView(index=index, name=name, role=role, state=State.CANCELLED, reason=reason)
    return _of_fate(index, name, role, fate._replace(attempts=_so_far(array, fate)))


def _of_fate(index: int, name: str, role: str, fate: Fate) -> MemberView:
    return MemberView(
        index=index,
        name=name,
        role=role,
        state=SHOWN[fate.outcome],
        attempts=fate.attempts,
        exit_code=fate.exit_code,
        reason=fate.reason,
    )
