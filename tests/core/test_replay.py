"""A history is replayed: each step from where the one before it ended, and to what is stored."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from controller.core.model.codec import encode_step
from controller.core.model.lifecycle import Event, State
from controller.core.model.resources import Vector
from controller.core.model.task import HISTORY_LIMIT, Status, Step
from controller.core.promise.replay import replay


def step(source: State, event: Event, state: State, attempt: int = 1, epoch: int = 2) -> Step:
    return Step(at=1.0, source=source, event=event, state=state, attempt=attempt, epoch=epoch)


LAWFUL = (
    step(State.CREATED, Event.ADMITTED, State.PENDING),
    step(State.PENDING, Event.RUNNING_OBSERVED, State.RUNNING),
    step(State.RUNNING, Event.FAILED_OBSERVED, State.FAILED),
    step(State.FAILED, Event.RETRY_DUE, State.WAITING_RETRY),
    step(State.WAITING_RETRY, Event.ADMITTED, State.PENDING, attempt=2, epoch=3),
)


def status(*steps: Step, **fields: Any) -> Status:
    history = tuple(map(encode_step, steps))
    return Status(
        **{
            "state": State.PENDING,
            "attempt": 2,
            "epoch": 3,
            "steps": len(steps),
            "history": history,
            **fields,
        }
    )


def test_a_lawful_history_has_no_problem() -> None:
    assert replay(status(*LAWFUL)) == []


def test_a_bounded_history_begins_where_its_first_step_says() -> None:
    note = step(State.WAITING_RETRY, Event.NOTED, State.WAITING_RETRY)
    kept = (*[note] * (HISTORY_LIMIT - 1), LAWFUL[-1])
    assert replay(status(*kept, steps=HISTORY_LIMIT + 4)) == []


@pytest.mark.parametrize(
    ("damaged", "says"),
    [
        (status(*LAWFUL, state=State.RUNNING), "the steps lead to Pending, but it is stored as Running"),
        (status(*LAWFUL, attempt=3), "the steps lead to attempt 2, but 3 is stored"),
        (status(*LAWFUL, epoch=2), "epoch 3 took a step, but the status was written in epoch 2"),
        (status(*LAWFUL, steps=6), "6 steps are counted, 5 are kept"),
        (status(*LAWFUL[1:]), "step 1: it begins at Pending, but the task was Created"),
        (status(*LAWFUL[:2], *LAWFUL[3:]), "step 3: it begins at Failed, but the task was Running"),
        (
            status(LAWFUL[0], step(State.PENDING, Event.RUNNING_OBSERVED, State.SUCCEEDED)),
            "step 2: running-observed leads from",
        ),
        (
            status(step(State.CREATED, Event.RETRY_DUE, State.PENDING)),
            "step 1: a Created task cannot take the event retry-due",
        ),
        (
            status(*LAWFUL[:-1], msgspec.structs.replace(LAWFUL[-1], attempt=1)),
            "step 5: attempt 1 was admitted after attempt 1",
        ),
        (
            status(LAWFUL[0], msgspec.structs.replace(LAWFUL[1], attempt=7)),
            "step 2: running-observed is of attempt 7",
        ),
        (
            status(*LAWFUL[:-1], msgspec.structs.replace(LAWFUL[-1], epoch=1)),
            "step 5: epoch 1 took it after epoch 2",
        ),
        (
            status(*LAWFUL[:3], state=State.FAILED, attempt=1, hold=Vector({"cpu": 1})),
            "it is Failed, and still holds",
        ),
        (status(), "no step is recorded"),
        (status(history=(msgspec.Raw(b"7"),)), "its history cannot be read"),
    ],
)
def test_each_break_is_told_with_its_place(damaged: Status, says: str) -> None:
    assert any(says in problem for problem in replay(damaged)), replay(damaged)
