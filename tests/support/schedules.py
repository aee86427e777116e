"""Schedules on the stage of `tests.support.bench`."""

from __future__ import annotations

from typing import Any

from controller.core.model.op import Op
from controller.core.model.schedules import (
    KIND,
    STATES,
    ScheduleState,
    decode_state,
    encode_schedule,
    parse_schedule,
)
from tests.support.bench import Stage

TASK = {"command": ["true"], "resources": {"cpu": 1}}


def apply(stage: Stage, name: str = "nightly", **fields: Any) -> int:
    """Write a schedule, as a user does; returns the revision. It is due each minute unless told otherwise."""
    raw = {"name": name, "cron": "* * * * *", "task": TASK, **fields}
    return stage.put(stage.keys.of(KIND, (name,)), encode_schedule(parse_schedule(raw), Op("u")))


def state_of(stage: Stage, name: str = "nightly") -> ScheduleState:
    """The state of a schedule, as it is stored."""
    return decode_state(name, stage.value(stage.keys.of(STATES, (name,))))


def results(stage: Stage, name: str = "nightly") -> list[tuple[str, int]]:
    """The recent outcomes of a schedule, with their counts."""
    return [(outcome.result.value, outcome.count) for outcome in state_of(stage, name).recent]


def made(stage: Stage) -> list[str]:
    """The tasks that are stored, by id."""
    return sorted(task_id for task_id, task in stage.model().tasks.items() if task.spec_mod)
