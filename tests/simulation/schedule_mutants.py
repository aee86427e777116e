"""The seeded bugs of schedules, for `mutants`."""

from __future__ import annotations

from functools import partial

from tests.simulation.mutants_base import Edit
from tests.simulation.mutants_base import Mutant as AnyMutant

_TICKS = "core.planning.ticks:Ticks"
_GUARD = "guards.append(Guard(key, record.seen_mod))"
_HOLDS = "not found.holds_for(mod, record.schedule.task, record.mod)"
_CHOOSE = "core.planning.ticks:_choose"

Mutant = partial(AnyMutant, schedules=True)

SCHEDULE_MUTANTS = (
    Mutant(
        "a tick is made, and the cursor stays",
        (Edit(f"{_TICKS}._next_step", "replace(after, cursor=tick)", "after"),),
    ),
    Mutant(
        "the cursor goes to the present, and not to the tick",
        (
            Edit(
                f"{_TICKS}._next_step",
                "replace(after, cursor=tick)",
                "replace(after, cursor=int(moment.now))",
            ),
        ),
    ),
    Mutant(
        "a take-over begins anew, after what it finds",
        (Edit(f"{_TICKS}._decide", "state is None or state.create != record.create", "not self._heap"),),
    ),
    Mutant(
        "a schedule that is made again goes on where the deleted one was",
        (Edit(f"{_TICKS}._decide", "state.create != record.create", "False"),),
    ),
    Mutant(
        "the schedule is not compared",
        (Edit(f"{_TICKS}._write", "[(KIND, names, record.mod), *", "[*"),),
        density=2.0,
    ),
    Mutant(
        "that the task is absent is not compared",
        (Edit("store.records:to_transaction", _GUARD, f"if record.kind != 'tasks': {_GUARD}"),),
    ),
    Mutant(
        "the state is not compared",
        (Edit("store.records:to_transaction", _GUARD, f"if record.kind != 'schedule-states': {_GUARD}"),),
    ),
    Mutant(
        "another task's name is taken for the tick's",
        (Edit(f"{_TICKS}._taken", 'for kind in ("tasks", "states")', 'for kind in ("states",)'),),
        faults=frozenset(),
        schedules=True,
    ),
    Mutant(
        "replace does not wait for the proof",
        (
            Edit(
                f"{_TICKS}._may_run",
                "task.status is None or not task.status.is_finished",
                "task.status is None or not (task.status.is_finished or task.status.cancelling)",
            ),
        ),
    ),
    Mutant(
        "a task that cannot be read counts as ended",
        (
            Edit(
                f"{_TICKS}._may_run",
                "task.status is None or not task.status.is_finished",
                "not task.frozen and (task.status is None or not task.status.is_finished)",
            ),
        ),
        faults=frozenset({"damage"}),
        density=4.0,
    ),
    Mutant(
        "forbid looks at the last task alone",
        (Edit(f"{_TICKS}._decide_tick", "in state.live if", "in state.live[-1:] if"),),
    ),
    Mutant(
        "a tick that waits is forgotten at the next one",
        (Edit(f"{_TICKS}._next_step", "if state.waiting else state", "if False else state"),),
    ),
    Mutant(
        "a tick that waits is not looked at again when its task has ended",
        (Edit(f"{_TICKS}.note", "if self._awaited:", "if False:"),),
        faults=frozenset(),
    ),
    Mutant(
        "what is to be replaced is not cancelled",
        (Edit(f"{_TICKS}._await", "if len(cancels) < CANCELS_AT_ONCE and", "if False and"),),
        faults=frozenset(),
    ),
    Mutant(
        "an array that is to be replaced is cancelled again until it has ended",
        (Edit(f"{_TICKS}._must_ask", "return array.waiting > 0 or bool(unsettled(array))", "return True"),),
        arrays=True,
        sharing=False,
    ),
    Mutant(
        "what is made is not among the schedule's tasks",
        (Edit(f"{_TICKS}._decide_tick", "live=(*live, task_id)", "live=live"),),
    ),
    Mutant(
        "ticks are made while it is suspended",
        (
            Edit(f"{_TICKS}._next_step", "if schedule.suspended:", "if False:"),
            Edit(f"{_TICKS}._wind", " or record.schedule.suspended", ""),
        ),
    ),
    Mutant(
        "missed ticks are not told of",
        (Edit(_CHOOSE, "skipped = due.earlier + len(before)", "skipped = 0"),),
    ),
    Mutant(
        "a tick is made before its time",
        (Edit(f"{_TICKS}._next_step", "state.cursor, today", "state.cursor, today + 5"),),
    ),
    Mutant(
        "the state of a deleted schedule stays",
        (Edit(f"{_TICKS}._decide", "in (STATES, ATTESTED)", "in (ATTESTED,)"),),
    ),
    Mutant(
        "a schedule that cannot be read counts as deleted",
        (
            Edit(f"{_TICKS}._decide", "if self._model.mod_of(KIND, names):", "if False:"),
            Edit(f"{_TICKS}._decide", "(KIND, names, 0)", "(KIND, names, self._model.mod_of(KIND, names))"),
        ),
        faults=frozenset({"damage"}),
        density=4.0,
    ),
    Mutant(
        "a state that cannot be read counts as absent",
        (Edit(f"{_TICKS}._decide", "if state is None and mod:", "if False:"),),
        faults=frozenset({"damage"}),
        density=4.0,
    ),
    Mutant(
        "a schedule is attested whoever has put it since",
        (
            Edit(
                "core.model.schedule_records:ScheduleRecords.attestation_of",
                _HOLDS,
                "False",
            ),
        ),
    ),
    Mutant(
        "the attestation of a schedule is not compared",
        (
            Edit(
                f"{_TICKS}._absent",
                "(ATTESTED, of_schedule, self._model.mod_of(ATTESTED, of_schedule))",
                "(KIND, of_schedule, record.mod)",
            ),
        ),
    ),
    Mutant(
        "a schedule that changes is not looked at",
        (Edit("core.model.schedule_records:ScheduleRecords.take", "self.touched[name] = None", "pass"),),
    ),
    Mutant(
        "a new leader does not look at schedules",
        (
            Edit(f"{_TICKS}.__init__", "[*known.defined, *known.states, *known.attested]", "[]"),
            Edit(
                f"{_TICKS}.__init__",
                "known = model.schedules",
                "known = model.schedules; known.touched.clear()",
            ),
        ),
    ),
)
