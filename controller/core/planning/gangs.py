"""Decides the next step of a gang that holds, and of its members; and begins the members of admitted gangs.

To the rest of the planner, a gang is a task whose attempt is a round: it runs once all members do, and has
ended once all have. Its retry policy and its deadlines are those of a task. Once a member ends other than
well, or the gang is to be stopped for another reason, what its members have not taken over is released, and
the members under way are stopped.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from controller.core.model.array import ended_runs
from controller.core.model.array_records import Array, fate_of
from controller.core.model.arrays import MemberName
from controller.core.model.blocks import Fate, MemberOutcome
from controller.core.model.demand import demand, reserved
from controller.core.model.gangs import Reserved, role_of, total
from controller.core.model.lifecycle import HOLDING, WAITING, State
from controller.core.model.model import Model
from controller.core.model.records import PoolRecord, Task
from controller.core.model.requests import Request, RequestKind
from controller.core.model.task import AttemptId, Observation, Phase, Status, StopReason
from controller.core.planning import transitions
from controller.core.planning.decide import Decision, decide
from controller.core.planning.draft import Draft
from controller.core.planning.driver import Driver
from controller.core.planning.members import Members
from controller.core.planning.transitions import Moment
from controller.core.promise.attempts import Attempt, Attempts

_CONFIRMS = "it is a gang: an operator confirms the stop of a member, by its name"
_WHOLE = "it is a gang, which runs and ends whole: ask for all of it"
_OF_MEMBER = "it is a member of a gang, which runs and ends whole: ask for all of {}"
_FAILED = {StopReason.MEMBER_FAILED, StopReason.MEMBER_NOT_STARTED, StopReason.MEMBER_DISRUPTED}


def holds_as_gang(task: Task) -> bool:
    """Whether the task is an admitted gang, whatever its spec says by now."""
    return task.status is not None and bool(task.status.reserved) and task.state in HOLDING


def decide_gang(task: Task, array: Array | None, moment: Moment) -> Decision | None:
    """The next step of a gang that holds. `array` has its members and blocks; None: there are none."""
    status = task.status
    assert status is not None
    if task.frozen:
        return None
    if RequestKind.CONFIRM_STOPPED in task.requests:
        return _ignored(task, [RequestKind.CONFIRM_STOPPED], _CONFIRMS, moment)
    if (refused := refused_part(task, moment)) is not None:
        return refused
    if array is not None and array.unreadable and task.spec is not None:
        return None
    if not status.stopping and task.spec is not None:
        is_one = array is not None and array.is_gang
        broken = _broken(status, array, moment) if array is not None and is_one else _torn(status, moment)
        if broken is not None:
            return Decision(broken)
    attempt = Attempt(AttemptId(task.id, status.attempt))
    attempt.observation = _seen(task, status, array)
    decision = decide(task, attempt, None, moment)
    if decision is None or decision.status is None or decision.status.is_holding:
        return decision
    given_up = 0
    if array is not None:
        ends = (fate for outcome in MemberOutcome for _, _, fate in ended_runs(array, outcome))
        given_up = max((fate.abandoned for fate in ends), default=0)
    abandoned = max(status.abandoned, given_up)
    ended = msgspec.structs.replace(decision.status, reserved=(), abandoned=abandoned)
    return msgspec.structs.replace(decision, status=ended)


def members_of_late(task: Task, now: float) -> list[str] | None:
    """The members of a gang that seems late; None of any other task.

    What is known of these is looked at, and recorded, before the gang.
    """
    if task.status is None or not task.status.reserved or task.state is not State.PENDING:
        return None
    due = task.first_due()
    if due is None or due > now or task.array is None:
        return None
    return [member.id for member in task.array.members.values()]


def refused_part(task: Task, moment: Moment) -> Decision | None:
    """What becomes of requests that name members of a gang; None if there is none. The others stay."""
    narrow = [kind for kind, (request, _) in task.requests.items() if request.members or request.only_failed]
    return _ignored(task, narrow, _WHOLE, moment) if narrow else None


def refused_of_member(task: Task, moment: Moment) -> Decision | None:
    """What becomes of requests on a member alone; None if there is none. A stop may be confirmed."""
    kinds = [kind for kind in task.requests if kind is not RequestKind.CONFIRM_STOPPED]
    if not kinds or task.status is None:
        return None
    return _ignored(task, kinds, _OF_MEMBER.format(task.status.array), moment)


def _ignored(task: Task, kinds: Sequence[RequestKind], why: str, moment: Moment) -> Decision:
    status = task.status
    for kind in kinds:
        if status is None:
            break
        status = transitions.request_ignored(status, task.requests[kind][0], why, moment)
    return Decision(status, tuple(kinds))


def stop_of_member(task: Task) -> Request | None:
    """Why a member under way is to be stopped: so is its gang, or that is in another round, or has ended."""
    gang = task.source
    if gang is None or gang.frozen or task.status is None:
        return None  # whose spec is gone: it stops as any task does
    if gang.status is not None and gang.state in HOLDING and gang.attempt == task.attempt:
        if not gang.status.stopping:
            return None
        return Request(kind=RequestKind.CANCEL, by="its gang", reason=gang.status.message)
    return Request(kind=RequestKind.CANCEL, by="its gang", reason=f"it is {gang.state}")


def round_of(task: Task, array: Array, attempts: Attempts) -> int:
    """The number of a gang's next attempt, and of those of all its members: none was ever used."""
    highest = max(attempts.highest(str(MemberName(task.id, index))) for index in range(array.size))
    return max(task.attempt, attempts.highest(task.id), highest) + 1


def admitted(task: Task, pool: PoolRecord, number: int, moment: Moment) -> Status:
    """The status of a gang that fits, and whose turn it is: it takes the hold of all its members."""
    assert task.spec is not None
    status = transitions.admitted(task, task.spec, pool.mod, number, moment)
    plain = reserved(task.spec, lambda spec: spec.resources)
    parts = reserved(task.spec, lambda spec: demand(spec, pool.pool))
    sized_by = pool.mod if parts != plain else 0
    return msgspec.structs.replace(status, hold=total(parts), reserved=parts, sized_by=sized_by)


def tells_of(array: Array, status: Status) -> bool:
    """Whether the array's blocks tell how this member ends: it has such a member, of a gang in this round."""
    if status.index >= array.size or not array.is_gang:
        return status.index < array.size
    gang = array.task.status if array.task is not None else None
    return gang is not None and gang.attempt == status.attempt and gang.state not in WAITING


def awaits_gang(array: Array, status: Status) -> bool:
    """Whether this member is to be folded later: its gang has yet to see how it ended."""
    gang = array.task.status if array.is_gang and array.task is not None else None
    if gang is None or status.state is State.SUCCEEDED or gang.attempt != status.attempt:
        return False
    return gang.state in HOLDING and not gang.stopping


def _seen(task: Task, status: Status, array: Array | None) -> Observation:
    """The gang's round, as an engine would report an attempt."""
    attempt = AttemptId(task.id, status.attempt)
    succeeded = array.counts[MemberOutcome.SUCCEEDED] if array is not None else 0
    size = array.size if array is not None else 0
    has_all = bool(size) and succeeded == size
    is_left = array is not None and bool(array.members or array.hidden)
    if not is_left and (has_all or status.stopping):
        failed = status.stopping in _FAILED
        return Observation(
            attempt=attempt,
            phase=Phase.SUCCEEDED if has_all else Phase.FAILED,
            stopped=True,
            ran=status.stopping != StopReason.MEMBER_NOT_STARTED,
            exit_code=0 if has_all else status.exit_code,
            reason="Succeeded" if has_all else status.reason if failed else "",
            message=f"all {size:,} members succeeded" if has_all else "",
            disrupted=status.stopping == StopReason.MEMBER_DISRUPTED and not has_all,
        )
    runs = array is not None and bool(size) and array.started + succeeded == size
    return Observation(attempt=attempt, phase=Phase.RUNNING if runs else Phase.PENDING)


def _broken(status: Status, array: Array, moment: Moment) -> Status | None:
    """The status of a gang that cannot go on: a member has ended other than well, or its hold is wrong."""
    ended = array.counts[MemberOutcome.FAILED] + array.counts[MemberOutcome.CANCELLED]
    if not ended:
        left = sum(one.left for one in status.reserved)
        most = array.waiting + sum(not array.fate(index).has_ended for index in array.hidden)
        is_whole = status.hold == total(status.reserved) and array.waiting <= left <= most
        return None if is_whole else _torn(status, moment)
    why, fate, name = _first_ended(array)
    told = f"{name} {fate.outcome}"
    told += f": {fate.reason}" if fate.reason not in ("", "Failed") else ""
    told += f" (exit code {fate.exit_code})" if fate.exit_code is not None else ""
    return _member_ended(status, why, fate.reason or "MemberFailed", fate.exit_code, told, moment)


def _torn(status: Status, moment: Moment) -> Status:
    """The status of a gang that does not hold what its members need."""
    what = "what it holds is not what its members need: its spec or its status was written over"
    return transitions.stop_requested(status, StopReason.TORN, what, moment)


def _first_ended(array: Array) -> tuple[StopReason, Fate, str]:
    """The first member that has ended other than well, and what its gang's retry policy makes of that."""

    for index, member in sorted(array.members.items()):
        status = member.status
        if status is not None and status.state in (State.FAILED, State.CANCELLED):
            why = StopReason.MEMBER_FAILED
            if status.uncounted:
                why = StopReason.MEMBER_DISRUPTED
            elif status.start_failures:
                why = StopReason.MEMBER_NOT_STARTED
            return why, fate_of(member), str(MemberName(array.name, index))
    index = next(array.indexes((MemberOutcome.FAILED, MemberOutcome.CANCELLED)))
    fate = array.fate(index)  # nothing but a name that is taken ends a member that has no status
    why = StopReason.MEMBER_FAILED if fate.attempts else StopReason.MEMBER_NOT_STARTED
    return why, fate, str(MemberName(array.name, index))


def _member_ended(
    status: Status, why: str, reason: str, exit_code: int | None, message: str, moment: Moment
) -> Status:
    """A member of this gang has ended other than well: what the others have not taken over is released."""
    told = transitions.stop_requested(status, why, message, moment)
    return msgspec.structs.replace(told, reason=reason[: transitions.REASON_LIMIT], exit_code=exit_code)


def _taken_over(status: Status, left: tuple[Reserved, ...], moment: Moment) -> Status:
    """Members of this gang begin, and take over their parts of its hold. Their own histories tell of it."""
    return msgspec.structs.replace(status, reserved=left, hold=total(left), epoch=moment.epoch, op=moment.op)


class GangOpening:
    """Begins the members of admitted gangs: each takes over its part of what its gang holds."""

    def __init__(self, model: Model, attempts: Attempts, driver: Driver, members: Members) -> None:
        self._model = model
        self._attempts = attempts
        self._driver = driver
        self._members = members

    def plan(self, draft: Draft) -> None:
        """Add to the draft the members that may begin, as many as it has room for."""
        for name in list(self._model.arrays.opening):
            array, task = self._model.arrays.of(name), self._model.tasks.get(name)
            if draft.is_full:
                return
            if array is None or task is None or task.frozen or task.requests or draft.has_changed(name):
                continue
            if task.pool not in self._model.pools:
                continue  # see Driver.drive
            if not array.unreadable and array.waiting and not self._model.may_not_change(task):
                self._open(task, array, draft)

    def _open(self, task: Task, array: Array, draft: Draft) -> None:
        status, start = task.status, 0
        assert status is not None
        assert array.spec is not None
        assert array.spec.array is not None
        sizes = [role.size for role in array.spec.array.parts]
        left = list(status.reserved)
        if len(left) != len(sizes) or status.hold != total(left):
            return  # it is about to be stopped
        begun = False
        while not draft.is_full:
            index = array.next_index(start, lambda index: self._is_free(task, array, index, draft))
            if index is None:
                break
            start, (number, _) = index + 1, role_of(sizes, index)
            part = left[number]
            if not part.left:
                continue
            if not self._begin(task, index, part, draft):
                break
            left[number], begun = Reserved(part.left - 1, part.hold), True
        if begun:
            taken = _taken_over(status, tuple(left), draft.moment)
            if not draft.add(task, Decision(taken)):
                raise AssertionError(f"no room for the status of {task.id}, whose members begin")

    def _begin(self, task: Task, index: int, part: Reserved, draft: Draft) -> bool:
        assert task.status is not None
        member = self._model.arrays.member(task, index)
        member.demand = part.hold
        assert member.spec is not None
        status = transitions.admitted(member, member.spec, 0, task.attempt, draft.moment)
        status = msgspec.structs.replace(
            status,
            array=task.id,
            index=index,
            of_gang=True,
            abandoned=task.status.abandoned,
            sized_by=task.status.sized_by,
            priority=task.status.priority,
        )
        start = self._driver.start(AttemptId(member.id, status.attempt), member, status.hold, repeated=False)
        if not draft.add(member, Decision(status, compares_spec=True)):
            return False
        draft.plan.effects.append(start)
        return True

    def _is_free(self, task: Task, array: Array, index: int, draft: Draft) -> bool:
        highest = self._attempts.highest(str(MemberName(array.name, index)))
        return self._members.is_free(array, index, draft) and highest < task.attempt
