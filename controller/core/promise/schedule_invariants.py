"""I14: each tick of a schedule is decided once; what became of it is recorded with the cursor."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from controller.core.model.model import Model
from controller.core.model.schedule_records import ScheduleRecord, may_have_made
from controller.core.model.schedules import (
    STATES,
    Concurrency,
    ScheduleState,
    TickResult,
    task_id_of,
)
from controller.core.promise.finding import Finding, FindingSeverity

_MADE = (TickResult.MADE, TickResult.REPLACED)


def check_schedules(model: Model) -> Iterator[Finding]:
    """What the records of schedules show at one revision."""
    for name, state in model.schedules.states.items():
        mod = model.mod_of(STATES, (name,))
        for what in _of_state(name, state):
            yield Finding(
                invariant="I14",
                subject=f"schedule/{name}",
                what=what,
                since_revision=mod,
                likely_cause="a state that was not written by Tally",
                repair="none: delete the schedule and apply it again, which begins anew from then on",
            )
        record = model.schedules.defined.get(name)
        if record is not None and record.create == state.create:
            yield from _overlaps(model, record, state, mod)


def _of_state(name: str, state: ScheduleState) -> Iterator[str]:
    """What no leader can have written."""
    for outcome in state.recent:
        if outcome.tick > state.cursor:
            yield f"has an outcome for {outcome.tick}, after its cursor at {state.cursor}"
        if outcome.result in _MADE and outcome.task != task_id_of(name, outcome.tick):
            yield f"made {outcome.task} for the tick of {task_id_of(name, outcome.tick)}"
    if any(one.tick >= other.tick for one, other in pairwise(state.recent)):
        yield "has two outcomes for one tick, or outcomes that are not in their order"
    if state.waiting > state.cursor:
        yield f"has a tick that waits, {state.waiting}, after its cursor at {state.cursor}"
    if state.waiting and any(outcome.tick >= state.waiting for outcome in state.recent):
        yield f"has a tick that waits, {state.waiting}, which is decided"
    for result in TickResult:
        told = sum(outcome.count for outcome in state.recent if outcome.result is result)
        if told > state.counts.get(result, 0):
            yield f"counts {state.counts.get(result, 0)} ticks as {result.value}, and tells of {told}"


def _overlaps(model: Model, record: ScheduleRecord, state: ScheduleState, mod: int) -> Iterator[Finding]:
    """A notice for two tasks at once where the schedule forbids it, since both were made.

    A user may have retried one that had ended, so it proves nothing.
    """
    if record.schedule.concurrency is Concurrency.ALLOW:
        return
    tasks = filter(None, (model.tasks.get(task_id) for task_id in state.live))
    live = [
        task.id
        for task in tasks
        if task.spec_create > record.mod
        and may_have_made(record.schedule.name, task)
        and not (task.status is not None and task.status.is_finished)
    ]
    if len(live) > 1:
        yield Finding(
            invariant="I14",
            subject=f"schedule/{record.schedule.name}",
            what=f"allows one task at a time, and {', '.join(live[:5])} have not ended",
            since_revision=mod,
            likely_cause="somebody retried one of them after its end",
            repair="none: cancel those that must not run",
            severity=FindingSeverity.NOTICE,
        )
