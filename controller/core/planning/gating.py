"""What becomes of a task whose dependencies can no longer be met."""

from __future__ import annotations

from collections.abc import Collection
from itertools import islice
from typing import NamedTuple

from controller.core.model.after import When
from controller.core.model.gates import Gate
from controller.core.model.lifecycle import Event
from controller.core.model.paired import DEPENDENCY_FAILED, DEPENDENCY_UNKNOWN, SKIPPED

NAMED = 5  # parents that a message names
COMPARED = 30
"""Parents that a transaction compares. For more, the fence suffices: one leader alone writes statuses."""


class NeverRuns(NamedTuple):
    """Why a task never runs: the event that ends it, a reason in one word, and a message.

    `parents` are those that the decision rests on.
    """

    event: Event
    reason: str
    message: str
    parents: tuple[str, ...]


def refusal(gate: Gate) -> NeverRuns | None:
    """Why the gate never opens; None if it is open, or may still open."""
    if not gate.never_opens:
        return None
    if gate.unknown:
        tasks = [name for name, size in gate.unknown.items() if not size]
        what = f"it waits for {_listed(tasks)}: there is no such task"
        if not tasks:
            names, size = _listed(gate.unknown), max(gate.unknown.values())
            what = f"its members wait for those of {names}: there is no such array of {size:,} members"
        message = f"{what} that is older than this one"
        return NeverRuns(Event.REJECTED, DEPENDENCY_UNKNOWN, message, tuple(gate.unknown))
    missed = {name: state for name, (when, state) in gate.unmet.items() if when is not When.FAILED}
    if missed:
        told = [f"{name}, which is {state}" for name, state in missed.items()]
        message = f"it was to run after the success of {_listed(told)}"
        return NeverRuns(Event.REJECTED, DEPENDENCY_FAILED, message, tuple(missed))
    told = [f"{name}, which is {state}" for name, (_, state) in gate.unmet.items()]
    message = f"it was to run only after the failure of {_listed(told)}"
    return NeverRuns(Event.SKIPPED, SKIPPED, message, tuple(gate.unmet))


def _listed(names: Collection[str]) -> str:
    more = len(names) - NAMED
    return ", ".join(islice(names, NAMED)) + (f" and {more} more" if more > 0 else "")
