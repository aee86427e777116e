"""Every state × event, against the table as the design has it."""

from __future__ import annotations

import itertools

import pytest

from controller.core.model.lifecycle import (
    FINISHED,
    HOLDING,
    TABLE,
    WAITING,
    Event,
    State,
    is_path,
    successor,
)
from controller.errors import IllegalTransition

# Written out again by hand, from the design's section 7: a change of the table must be made in two places, on
# purpose.
EXPECTED = {
    ("Created", "admitted"): "Pending",
    ("Created", "rejected"): "Failed",
    ("Created", "cancel-requested"): "Cancelled",
    ("Created", "skipped"): "Cancelled",
    ("Created", "members-succeeded"): "Succeeded",
    ("Created", "members-failed"): "Failed",
    ("Created", "members-cancelled"): "Cancelled",
    ("Created", "noted"): "Created",
    ("WaitingRetry", "admitted"): "Pending",
    ("WaitingRetry", "rejected"): "Failed",
    ("WaitingRetry", "cancel-requested"): "Cancelled",
    ("WaitingRetry", "skipped"): "Cancelled",
    ("WaitingRetry", "members-succeeded"): "Succeeded",
    ("WaitingRetry", "members-failed"): "Failed",
    ("WaitingRetry", "members-cancelled"): "Cancelled",
    ("WaitingRetry", "noted"): "WaitingRetry",
    ("Pending", "running-observed"): "Running",
    ("Pending", "succeeded-observed"): "Succeeded",
    ("Pending", "failed-observed"): "Failed",
    ("Pending", "stop-requested"): "Pending",
    ("Pending", "stopped-observed"): "Cancelled",
    ("Pending", "preempted"): "WaitingRetry",
    ("Pending", "noted"): "Pending",
    ("Running", "succeeded-observed"): "Succeeded",
    ("Running", "failed-observed"): "Failed",
    ("Running", "stop-requested"): "Running",
    ("Running", "stopped-observed"): "Cancelled",
    ("Running", "preempted"): "WaitingRetry",
    ("Running", "noted"): "Running",
    ("Failed", "retry-due"): "WaitingRetry",
    ("Failed", "retry-requested"): "WaitingRetry",
    ("Failed", "noted"): "Failed",
    ("Cancelled", "retry-requested"): "WaitingRetry",
    ("Cancelled", "noted"): "Cancelled",
    ("Succeeded", "noted"): "Succeeded",
}


@pytest.mark.parametrize(
    ("state", "event"), list(itertools.product(State, Event)), ids=lambda value: value.value
)
def test_each_state_and_event(state: State, event: Event) -> None:
    """Each of the combinations leads where the design says, or is refused by name."""
    expected = EXPECTED.get((state.value, event.value))
    if expected is None:
        with pytest.raises(
            IllegalTransition, match=f"a {state.value} task cannot take the event {event.value}"
        ):
            successor(state, event)
    else:
        assert successor(state, event) == expected


def test_states_are_of_one_kind() -> None:
    """Every state waits, holds, or has finished, and only one of these."""
    assert sorted([*WAITING, *HOLDING, *FINISHED]) == sorted(State)


def test_succeeded_is_never_left() -> None:
    """Succeeded is final: nothing leads out of it."""
    assert set(TABLE[State.SUCCEEDED].values()) == {State.SUCCEEDED}


def test_a_history_is_a_path() -> None:
    """Steps must be rows of the table, and each must begin where the last one ended (I3)."""
    good = [
        (State.CREATED, Event.ADMITTED, State.PENDING),
        (State.PENDING, Event.RUNNING_OBSERVED, State.RUNNING),
        (State.RUNNING, Event.FAILED_OBSERVED, State.FAILED),
        (State.FAILED, Event.RETRY_DUE, State.WAITING_RETRY),
    ]
    assert is_path(good)
    assert not is_path([good[0], good[2]])
    assert not is_path([(State.CREATED, Event.ADMITTED, State.RUNNING)])
    assert not is_path([(State.SUCCEEDED, Event.RETRY_REQUESTED, State.WAITING_RETRY)])
