"""Which object of its engine an attempt is: its status says so before a later leader has to know.

Who leads next can tell an attempt that was never created from one whose object is gone only by that: it
starts the one, and has to wait for the end of the other. A status that says that the attempt runs has it. So
has each other one that is written once the object was seen, and one is written for this alone after a while:
most attempts run by then.
"""

from __future__ import annotations

import msgspec

from controller.core.model.lifecycle import HOLDING, State
from controller.core.model.task import Status
from controller.core.planning import transitions
from controller.core.planning.transitions import Moment
from controller.core.promise.attempts import Attempt

SECONDS = 2.0


def noted(status: Status | None, before: Status, attempt: Attempt | None, moment: Moment) -> Status | None:
    """The next status (None: nothing changes) of a task that held at `before`, with what was seen."""
    seen = attempt.observation if attempt is not None else None
    if before.uid or seen is None or not seen.uid or seen.stopped:
        return status
    if status is None and before.state is State.PENDING and _since(before) + SECONDS <= moment.now:
        status = transitions.note(before, "Seen", "the engine has it, and it does not run yet", moment, {})
    if status is None or status.state not in HOLDING:
        return status
    return msgspec.structs.replace(status, uid=seen.uid)


def _since(status: Status) -> float:
    return status.admitted_at or 0.0
