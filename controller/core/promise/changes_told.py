"""What a task's history says of the changes that users asked for: is it on hold, and what is its priority?

Each step that makes such a change records it, in its reason and at the beginning of its message. A history
whose oldest steps are no longer kept may not say: then nothing is concluded.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from controller.core.model.lifecycle import Event
from controller.core.model.requests import ON_HOLD, RELEASED, RequestKind, RequestOutcome
from controller.core.model.task import Status, Step

_PRIORITY = re.compile(r"(?:on hold, |released, )?priority (-?\d{1,10})[ ,]", re.ASCII)
_ENDS_A_HOLD = frozenset(
    {
        Event.ADMITTED,
        Event.REJECTED,
        Event.SKIPPED,
        Event.CANCEL_REQUESTED,
        Event.RETRY_REQUESTED,
        Event.MEMBERS_SUCCEEDED,
        Event.MEMBERS_FAILED,
        Event.MEMBERS_CANCELLED,
    }
)


def untold_changes(status: Status, steps: Sequence[Step]) -> Iterator[str]:
    """How the status differs from what its history says of such changes."""
    was_cut = status.steps > len(steps)
    on_hold: bool | None = None if was_cut else False
    priority, is_known = None, not was_cut
    for step in steps:
        if step.event in _ENDS_A_HOLD:
            on_hold = False
        if (step.request, step.outcome) != (RequestKind.CHANGE, RequestOutcome.DONE):
            continue
        if step.reason in (ON_HOLD, RELEASED):
            on_hold = step.reason == ON_HOLD
        if told := _PRIORITY.match(step.message):
            priority, is_known = int(told[1]), True
    if on_hold not in (None, status.is_on_hold):
        yield f"is {'not ' if on_hold else ''}on hold, but its history says otherwise"
    if is_known and not status.array and status.priority != priority:
        says = f"that it was set to {priority}" if priority is not None else "of none that was set"
        yield f"has the priority {status.priority}, but its history says {says}"
