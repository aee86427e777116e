"""The lifecycle of a task: one table, one lookup, one error.

Rule: every change of a task's state is a row of `TABLE`, and no other file names a successor state. Rows that
keep the state (a mark such as `cancelling`) are rows, too, since they are written and recorded like all
others. `python -m controller.core.model.lifecycle` prints the diagram in the README; a test compares the two.
"""

from __future__ import annotations

from enum import StrEnum

from controller.errors import IllegalTransition


class State(StrEnum):
    """A task's state. A spec without a status is Created; one is stored when a user changes such a task."""

    CREATED = "Created"
    PENDING = "Pending"
    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    WAITING_RETRY = "WaitingRetry"
    CANCELLED = "Cancelled"


class Event(StrEnum):
    """What can happen to a task, in the past tense."""

    ADMITTED = "admitted"
    REJECTED = "rejected"  # it will not run: its spec is unusable, or its queue deadline has passed
    RUNNING_OBSERVED = "running-observed"
    SUCCEEDED_OBSERVED = "succeeded-observed"
    FAILED_OBSERVED = "failed-observed"  # failed or gone, and the stop is proven
    # a cancel or a passed deadline: marks the attempt, which is then stopped
    STOP_REQUESTED = "stop-requested"
    STOPPED_OBSERVED = "stopped-observed"  # a cancelling attempt has ended or is gone, and the stop is proven
    PREEMPTED = "preempted"  # stopped for another task, and the stop is proven: it waits for its turn again
    CANCEL_REQUESTED = "cancel-requested"  # for a task that holds nothing
    SKIPPED = "skipped"  # it was to run after the failure of a task that has not failed
    # all members of an array have ended, in this way
    MEMBERS_SUCCEEDED = "members-succeeded"
    MEMBERS_FAILED = "members-failed"
    MEMBERS_CANCELLED = "members-cancelled"
    RETRY_DUE = "retry-due"  # the retry policy allows another attempt
    RETRY_REQUESTED = "retry-requested"
    # recorded without a change of state: attempt lost, request without effect, priority changed
    NOTED = "noted"


HOLDING = frozenset({State.PENDING, State.RUNNING})
"""Invariant I1: a task holds resources exactly in these states."""

WAITING = frozenset({State.CREATED, State.WAITING_RETRY})
"""States in which a task waits in its pool's queue, or for the end of its back-off."""

FINISHED = frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLED})
"""States that end a task's run, and begin its retention. A retry can leave Failed and Cancelled."""

TABLE: dict[State, dict[Event, State]] = {
    State.CREATED: {
        Event.ADMITTED: State.PENDING,
        Event.REJECTED: State.FAILED,
        Event.CANCEL_REQUESTED: State.CANCELLED,
        Event.SKIPPED: State.CANCELLED,
        Event.MEMBERS_SUCCEEDED: State.SUCCEEDED,
        Event.MEMBERS_FAILED: State.FAILED,
        Event.MEMBERS_CANCELLED: State.CANCELLED,
        Event.NOTED: State.CREATED,
    },
    State.WAITING_RETRY: {
        Event.ADMITTED: State.PENDING,
        Event.REJECTED: State.FAILED,
        Event.CANCEL_REQUESTED: State.CANCELLED,
        Event.SKIPPED: State.CANCELLED,
        Event.MEMBERS_SUCCEEDED: State.SUCCEEDED,
        Event.MEMBERS_FAILED: State.FAILED,
        Event.MEMBERS_CANCELLED: State.CANCELLED,
        Event.NOTED: State.WAITING_RETRY,
    },
    State.PENDING: {
        Event.RUNNING_OBSERVED: State.RUNNING,
        Event.SUCCEEDED_OBSERVED: State.SUCCEEDED,
        Event.FAILED_OBSERVED: State.FAILED,
        Event.STOP_REQUESTED: State.PENDING,
        Event.STOPPED_OBSERVED: State.CANCELLED,
        Event.PREEMPTED: State.WAITING_RETRY,
        Event.NOTED: State.PENDING,
    },
    State.RUNNING: {
        Event.SUCCEEDED_OBSERVED: State.SUCCEEDED,
        Event.FAILED_OBSERVED: State.FAILED,
        Event.STOP_REQUESTED: State.RUNNING,
        Event.STOPPED_OBSERVED: State.CANCELLED,
        Event.PREEMPTED: State.WAITING_RETRY,
        Event.NOTED: State.RUNNING,
    },
    State.FAILED: {
        Event.RETRY_DUE: State.WAITING_RETRY,
        Event.RETRY_REQUESTED: State.WAITING_RETRY,
        Event.NOTED: State.FAILED,
    },
    State.CANCELLED: {
        Event.RETRY_REQUESTED: State.WAITING_RETRY,
        Event.NOTED: State.CANCELLED,
    },
    State.SUCCEEDED: {
        Event.NOTED: State.SUCCEEDED,
    },
}


def successor(state: State, event: Event) -> State:
    """The state that `event` leads to. Raises IllegalTransition if the table has no such row."""
    try:
        return TABLE[state][event]
    except KeyError:
        raise IllegalTransition(f"a {state} task cannot take the event {event}") from None


def is_path(steps: list[tuple[State, Event, State]]) -> bool:
    """Whether each step is a row of the table and begins where the one before it ended (invariant I3)."""
    position: State | None = None
    for source, event, target in steps:
        if TABLE.get(source, {}).get(event) is not target or position not in (None, source):
            return False
        position = target
    return True


def diagram() -> str:
    """The table as a Mermaid state diagram.

    It shows which transitions hold resources and which release them. Rows that keep the state are left out.
    """
    lines = ["stateDiagram-v2", f"    [*] --> {State.CREATED}"]
    for source, row in TABLE.items():
        by_target: dict[State, list[str]] = {}
        for event, target in row.items():
            if target is not source:
                by_target.setdefault(target, []).append(event.value)
        for target, events in by_target.items():
            moves = {(False, True): " / hold", (True, False): " / release"}
            moved = moves.get((source in HOLDING, target in HOLDING), "")
            lines.append(f"    {source} --> {target}: {', '.join(events)}{moved}")
    lines += [f"    {state} --> [*]" for state in State if state in FINISHED]
    lines.append("    classDef held fill:#f9d77e,stroke:#8a6d1a,color:#000")
    lines.append(f"    class {', '.join(state for state in State if state in HOLDING)} held")
    return "\n".join(lines)


if __name__ == "__main__":
    print(diagram())  # noqa: T201  # its purpose
