"""Plans for schedules: which ticks are made now, which are skipped, and which wait.

A tick is looked at once its time has come by the calendar of the leader's machine, and is after the cursor
of its schedule's state. What is planned for it also moves the cursor there. So each tick is decided once,
whoever leads, and wherever the clock goes; the cursor never goes back. All of it follows from the stored
records and the time.
"""

from __future__ import annotations

import heapq
from itertools import islice
from typing import NamedTuple

from msgspec.structs import replace

from controller.core.model import attested, codec, quarantine
from controller.core.model.attested import Attestation
from controller.core.model.cron import Due, due_between, next_tick
from controller.core.model.default_resources import default_resources
from controller.core.model.model import Model
from controller.core.model.records import is_listed
from controller.core.model.requests import Request, RequestKind
from controller.core.model.schedule_records import ScheduleRecord, may_have_made
from controller.core.model.schedules import (
    ATTESTED,
    GRACE_SECONDS,
    KIND,
    MAX_LIVE,
    MOST_CAUGHT_UP,
    STATES,
    CatchUp,
    Concurrency,
    ScheduleState,
    TickOutcome,
    TickResult,
    encode_state,
    spec_of,
    task_id_of,
)
from controller.core.model.task import StopReason
from controller.core.model.touched import Touched
from controller.core.planning.arrays import unsettled
from controller.core.planning.draft import BYTES_PER_OPERATION, Limits
from controller.core.planning.plan import Plan, RecordChange
from controller.core.planning.transitions import Moment

CANCELS_AT_ONCE = 8  # requests in one transaction
LOOKS_AT_ONCE = 256  # schedules in one pass, so that nobody waits long for the model
MOST_OPERATIONS = 5 + CANCELS_AT_ONCE  # what one schedule adds to a plan, at most


Compared = tuple[str, tuple[str, ...], int]  # kind, names and mod


class _Decided(NamedTuple):
    """What is planned for one schedule. `compared` are further records, with their mods."""

    records: list[RecordChange]
    compared: list[Compared]
    outcomes: list[TickOutcome]


class Ticks:
    """See the module's docstring. It costs nothing while no tick is due and no schedule changes.

    `ahead`: by how many seconds the wall clock is ahead of the moments of this term, which go on evenly. It
    is not 0 once the wall clock was set in this term: ticks are due by that, and nothing else is.
    """

    def __init__(self, model: Model) -> None:
        self._model = model
        self.ahead = 0.0
        self._heap: list[tuple[int, str]] = []
        self._due: dict[str, int] = {}  # the entry of the heap that counts
        self._awaited: dict[str, str] = {}  # a task that must end → the schedule whose tick waits for it
        self._awaits: dict[str, tuple[str, ...]] = {}  # the same by schedule
        known = model.schedules
        self._looks_at: dict[str, None] = dict.fromkeys([*known.defined, *known.states, *known.attested])

    def note(self, touched: Touched) -> None:
        """Look again at the schedules whose ticks wait for one of these tasks, or for the array of one."""
        if self._awaited:
            for task_id in touched.tasks:
                task = self._model.tasks.get(task_id)
                name = (task.member_of if task is not None else "") or task_id
                if name in self._awaited:
                    self._looks_at[self._awaited[name]] = None

    def is_due(self, now: float) -> bool:
        """Whether there is something to look at."""
        rings = self._heap and self._heap[0][0] <= now + self.ahead
        return bool(self._looks_at or self._model.schedules.touched or rings)

    def next_due(self) -> float | None:
        """The moment at which there is something to look at, in seconds since the epoch; None for never."""
        if self._looks_at:
            return 0.0
        return self._heap[0][0] - self.ahead if self._heap else None

    def plan(self, moment: Moment, limits: Limits) -> Plan | None:
        """What is to be written now, for as many schedules as one transaction takes; None if nothing is."""
        self._ring(self._calendar(moment))
        plan = Plan(moment.op)
        operations, size = 1, 0
        for name in list(islice(self._looks_at, LOOKS_AT_ONCE)):
            if plan.records and (
                operations + MOST_OPERATIONS > limits.operations or size > limits.bytes // 2
            ):
                break
            decided = self._try(name, moment)
            if decided is None:
                del self._looks_at[name]
                continue
            plan.records += decided.records
            plan.compared += decided.compared
            plan.ticks += [(name, outcome) for outcome in decided.outcomes]
            operations += len(decided.records) + len(decided.compared)
            size += sum(len(record.value or b"") + BYTES_PER_OPERATION for record in decided.records)
        return plan if plan.records else None

    def _ring(self, now: float) -> None:
        if self._model.schedules.touched:
            self._looks_at.update(self._model.schedules.touched)
            self._model.schedules.touched.clear()
        while self._heap and self._heap[0][0] <= now:
            tick, name = heapq.heappop(self._heap)
            if self._due.get(name) == tick:
                del self._due[name]
                self._looks_at[name] = None

    def _calendar(self, moment: Moment) -> float:
        return moment.now + self.ahead

    def _try(self, name: str, moment: Moment) -> _Decided | None:
        """What is planned for the schedule now. An error sets it aside until it changes; others go on."""
        for task_id in self._awaits.pop(name, ()):
            self._awaited.pop(task_id, None)
        try:
            decided = self._decide(name, moment)
            if decided is None:
                self._wind(name)
        except Exception as error:  # noqa: BLE001  # counted, and shown on the schedule
            self._due.pop(name, None)
            self._model.schedules.defined.pop(name, None)
            self._model.quarantine[KIND, (name,)] = quarantine.describe("schedule", error)
            self._model.caught.append(quarantine.Caught("schedule", name, error))
            return None
        return decided

    def _wind(self, name: str) -> None:
        """Look at the schedule again when its next tick is due."""
        before = self._due.pop(name, None)
        record, state = self._read(name)
        if record is None or state is None or record.schedule.suspended:
            return
        tick = next_tick(record.schedule.cron, record.schedule.timezone, state.cursor)
        if tick is not None:
            self._due[name] = tick
            if tick != before:
                heapq.heappush(self._heap, (tick, name))

    def _read(self, name: str) -> tuple[ScheduleRecord | None, ScheduleState | None]:
        """The schedule and its state; None for one that is absent or cannot be read."""
        return self._model.schedules.defined.get(name), self._model.schedules.states.get(name)

    def _decide(self, name: str, moment: Moment) -> _Decided | None:
        names = (name,)
        (record, state), mod = self._read(name), self._model.mod_of(STATES, names)
        if record is None:
            if self._model.mod_of(KIND, names):
                return None  # it cannot be read, and was not deleted
            left = [(kind, seen) for kind in (STATES, ATTESTED) if (seen := self._model.mod_of(kind, names))]
            records = [RecordChange(kind, names, seen, None) for kind, seen in left]
            return _Decided(records, [(KIND, names, 0)], []) if records else None
        if state is None and mod:
            return None  # its state cannot be read: an operator must look at it
        if state is None or state.create != record.create:
            state = ScheduleState(cursor=int(self._calendar(moment)), create=record.create, since=moment.now)
            return self._write(record, state, moment)
        return self._next_step(record, state, moment)

    def _next_step(self, record: ScheduleRecord, state: ScheduleState, moment: Moment) -> _Decided | None:
        schedule = record.schedule
        if schedule.suspended:
            if not state.waiting:
                return None
            return self._write(record, _skipped_waiting(state, "the schedule was suspended"), moment)
        today = int(self._calendar(moment))
        due = due_between(schedule.cron, schedule.timezone, state.cursor, today)
        if due.ticks:
            missed, tick = _choose(schedule.catch_up, due, today)
            after = _skipped_waiting(state, "a later tick came while it waited") if state.waiting else state
            if missed is not None:
                after = replace(after.told(missed), cursor=missed.tick)
            if tick is not None:
                return self._decide_tick(record, replace(after, cursor=tick), tick, moment)
            return self._write(record, after, moment)
        if state.waiting:
            return self._decide_tick(record, state, state.waiting, moment)
        return None

    def _decide_tick(
        self, record: ScheduleRecord, state: ScheduleState, tick: int, moment: Moment
    ) -> _Decided | None:
        """The tick is made, skipped, or waits. `state` has all before it."""
        schedule = record.schedule
        live = tuple(task_id for task_id in state.live if self._may_run(schedule.name, task_id))
        if live and schedule.concurrency is Concurrency.REPLACE:
            return self._await(record, replace(state, waiting=tick), live, moment)
        result = TickResult.REPLACED if state.waiting == tick else TickResult.MADE
        state = replace(state, live=live, waiting=0)
        task_id = task_id_of(schedule.name, tick)
        if live and schedule.concurrency is Concurrency.FORBID:
            why = f"{live[0]} has not ended" + (f", nor have {len(live) - 1} others" if live[1:] else "")
            return self._write(record, state.told(_outcome(tick, TickResult.SKIPPED, why=why)), moment)
        if len(live) >= MAX_LIVE:
            why = f"{len(live)} of its tasks have not ended"
            return self._write(record, state.told(_outcome(tick, TickResult.SKIPPED, why=why)), moment)
        if (taken := self._taken(task_id)) is not None:
            why = f"there is another task {task_id}"
            state = state.told(_outcome(tick, TickResult.NAME_TAKEN, why=why))
            return self._write(record, state, moment, compared=taken)
        state = replace(state, live=(*live, task_id)).told(_outcome(tick, result, task_id))
        return self._write(
            record, state, moment, self._task(record, tick, moment), self._absent(record, task_id)
        )

    def _await(
        self, record: ScheduleRecord, state: ScheduleState, live: tuple[str, ...], moment: Moment
    ) -> _Decided | None:
        """Cancel the tasks that are to be replaced. Their ends put the schedule on the agenda again."""
        name, cancels = record.schedule.name, list[RecordChange]()
        self._awaits[name] = live
        self._awaited.update(dict.fromkeys(live, name))
        for task_id in live:
            if len(cancels) < CANCELS_AT_ONCE and self._must_ask(task_id):
                why = f"for the tick of {task_id_of(name, state.waiting)}"
                request = Request(kind=RequestKind.CANCEL, by=f"schedule/{name}", reason=why, at=moment.now)
                names = (task_id, RequestKind.CANCEL.value)
                value = codec.encode({**codec.to_builtins(request), "op": moment.op})
                cancels.append(RecordChange("requests", names, 0, value))
        if state == self._model.schedules.states.get(name) and not cancels:
            return None
        return self._write(record, replace(state, live=live), moment, cancels)

    def _must_ask(self, task_id: str) -> bool:
        """Whether nobody has asked it to end, and it does not end anyway: a cancel would change something."""
        task = self._model.tasks[task_id]
        status, array = task.status, task.array
        if self._model.mod_of("requests", (task_id, RequestKind.CANCEL.value)):
            return False
        if array is not None and not array.is_gang and array.has_begun:
            return array.waiting > 0 or bool(unsettled(array))
        has_succeeded = (
            status is not None and status.stopping == StopReason.MAIN_ENDED and status.exit_code == 0
        )
        return status is None or not (status.cancelling or has_succeeded)

    def _may_run(self, schedule: str, task_id: str) -> bool:
        """Whether the schedule's task has not ended, or may not have."""
        task = self._model.tasks.get(task_id)
        # of one that is set aside and gone, a request may be left that came late
        if task is None or not is_listed(task) or not may_have_made(schedule, task):
            return False
        return task.status is None or not task.status.is_finished

    def _taken(self, task_id: str) -> list[Compared] | None:
        """What another task of that name has, to be compared; None if there is none."""
        names: tuple[str, ...] = (task_id,)
        found = [(kind, names, self._model.mod_of(kind, names)) for kind in ("tasks", "states")]
        return found if any(mod for _, _, mod in found) else None

    def _absent(self, record: ScheduleRecord, task_id: str) -> list[Compared]:
        """What a tick that is made rests on, beside the records that it writes."""
        of_schedule = (record.schedule.name,)
        # a status that was left without its spec would pass for the new task's
        return [
            ("states", (task_id,), 0),
            (ATTESTED, of_schedule, self._model.mod_of(ATTESTED, of_schedule)),
        ]

    def _task(self, record: ScheduleRecord, tick: int, moment: Moment) -> list[RecordChange]:
        """The records of the tick's task: as a user would have submitted it now."""
        spec = spec_of(record.schedule, tick)
        pool, named, filled = self._model.pools.get(spec.pool), spec.resources, frozenset[str]()
        if pool is not None:
            more = default_resources(named.keys(), pool.pool)
            spec, filled = replace(spec, resources=named + more), frozenset(more)
        names = (spec.id,)
        records = [RecordChange("tasks", names, 0, codec.encode_spec(spec, moment.now, moment.op, filled))]
        word = self._model.schedules.attestation_of(record)
        if word is not None:
            attestation = Attestation(owner=word.owner, by=word.by)
            mod = self._model.mod_of(attested.KIND, names)
            value = attested.encode(attestation, moment.op)
            records.append(RecordChange(attested.KIND, names, mod, value))
        return records

    def _write(
        self,
        record: ScheduleRecord,
        state: ScheduleState,
        moment: Moment,
        records: list[RecordChange] | None = None,
        compared: list[Compared] | None = None,
    ) -> _Decided:
        """Write the state, with these records. The schedule is compared, too."""
        names = (record.schedule.name,)
        before = self._model.schedules.states.get(names[0])
        seen = before.recent if before is not None and before.create == state.create else ()
        value = encode_state(state, moment.op)
        return _Decided(
            [RecordChange(STATES, names, self._model.mod_of(STATES, names), value), *(records or ())],
            [(KIND, names, record.mod), *(compared or ())],
            [outcome for outcome in state.recent if outcome not in seen],
        )


def _outcome(tick: int, result: TickResult, task: str = "", why: str = "") -> TickOutcome:
    return TickOutcome(tick=tick, result=result, task=task, why=why)


def _skipped_waiting(state: ScheduleState, why: str) -> ScheduleState:
    return replace(state.told(_outcome(state.waiting, TickResult.SKIPPED, why=why)), waiting=0)


def _choose(catch_up: CatchUp, due: Due, now: int) -> tuple[TickOutcome | None, int | None]:
    """Of the ticks that are due: those that are skipped, as one outcome, and the one that is made first."""
    ticks = due.ticks
    makes = ticks[-min(len(ticks), MOST_CAUGHT_UP)] if catch_up is CatchUp.ALL else ticks[-1]
    before = [tick for tick in ticks if tick < makes]
    skipped = due.earlier + len(before)
    is_late = catch_up is CatchUp.NONE and makes < now - GRACE_SECONDS
    skipped += is_late
    if not skipped:
        return None, makes
    last = makes if is_late else before[-1]
    missed = TickOutcome(
        tick=last, result=TickResult.SKIPPED, why="missed", count=skipped, more=not due.is_exact
    )
    return missed, None if is_late else makes
