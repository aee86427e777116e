"""The judge of reasons: what is told of an attempt's end is what became of it, and time alone tells nothing.

A deadline, and a user's `on_lost`, are judged by who hears the engine. Who was told by a list that an attempt
runs, or has ended, knows that in the plan after the next.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from controller.core.model import codec
from controller.core.model.task import Deadlines, Status, Step
from controller.errors import CorruptValue
from tests.simulation.changes import steps_since

if TYPE_CHECKING:
    from tests.simulation.engine import Attempt
    from tests.simulation.oracle import Oracle

HOLDING = ("Pending", "Running")
SILENT_SECONDS = 4.0
"""So long after an engine's list, beyond the pause between two, nobody can still take it for heard."""
REFUSALS = {"QuotaExceeded", "Refused", "NameTaken", "InvalidPool"}
TOLD_BY = {"deadline-start": "StartDeadlineExceeded", "deadline-run": "DeadlineExceeded"}


class ReasonJudge:
    """See the module's docstring."""

    def __init__(self, oracle: Oracle) -> None:
        self._oracle = oracle
        self.judged: dict[str, int] = {}  # how often each of these was looked at
        # process → when it wrote last but one, and last
        self._wrote: dict[str, tuple[float, float]] = {}

    def on_write(self, writer: str) -> None:
        """A process has changed a status."""
        _, last = self._wrote.get(writer, (0.0, 0.0))
        self._wrote[writer] = last, self._oracle.scheduler.now

    def wrong_step(self, task_id: str, old: Status | None, new: Status, writer: str) -> str:
        """What is wrong with the reasons of a status that a leader wrote; "" if nothing is."""
        if old is None or old.state not in HOLDING or old.reserved:
            return ""
        mine = self._mine(task_id, old)
        for step in steps_since(old, new):
            if step.event == "stop-requested" and step.reason in TOLD_BY:
                self._count(step.reason)
                if wrong := self._wrong_deadline(task_id, old, step, mine, writer):
                    return wrong
            has_failed = step.event == "failed-observed" and new.abandoned < old.attempt
            if has_failed and (wrong := self._wrong_failure(old, step, mine)):
                return wrong
            if wrong := self._wrong_words(old, new, step):
                return wrong
        return ""

    def wrong_give_up(self, task_id: str, old: Status, writer: str) -> str:
        """What is wrong with an attempt that was replaced as lost, as its task's `on_lost` allows."""
        self._count("given up")
        if wrong := self._unheard(writer):
            return wrong
        known = self._known(writer)
        lost = (old.lost_since or 0.0) - self._oracle.scheduler.wall + self._oracle.wall_spread
        for attempt in self._mine(task_id, old):
            if lost < attempt.last_shown.get(writer, 0.0) < known:
                return "it was known to run"
        return ""

    def _known(self, writer: str) -> float:
        """What it was told by then is known to its plan: the one before may have been under way."""
        return self._wrote.get(writer, (0.0, 0.0))[0]

    def _mine(self, task_id: str, old: Status) -> list[Attempt]:
        return [
            attempt
            for attempt in self._oracle.engine.every.get(task_id, ())
            if attempt.id.number == old.attempt and not attempt.mark
        ]

    def _limits(self, task_id: str) -> Deadlines:
        """Those of its spec; none if that is gone, or was replaced by hand."""
        spec_id = self._oracle.arrays.spec_id(task_id)
        value = self._oracle.values.get(self._oracle.keys.task(spec_id))
        if value is None or self._oracle.specs_put.get(spec_id) != 1:
            return Deadlines()
        with contextlib.suppress(CorruptValue):
            return codec.decode_spec(spec_id, value).spec.deadlines
        return Deadlines()

    def _wrong_deadline(self, task_id: str, old: Status, step: Step, mine: list[Attempt], writer: str) -> str:
        if wrong := self._unheard(writer):
            return f"was stopped as {step.reason}, and {wrong}"
        known = self._known(writer)
        for attempt in mine[-1:]:  # what had its name before was made by hand, and is gone
            if attempt.end_shown.get(writer, known) < known:
                return f"was stopped as {step.reason}, and its end was known"
            if step.reason == "deadline-start" and attempt.shown.get(writer, known) < known:
                return f"was stopped as {step.reason}, and it was known to run"
        limits = self._limits(task_id)
        begun, limit = (
            (old.started_at, limits.run_seconds)
            if step.reason == "deadline-run"
            else (old.admitted_at, limits.start_seconds)
        )
        if limit is not None and step.at < (begun or 0.0) + limit - 0.001:
            return f"was stopped as {step.reason} after {step.at - (begun or 0.0):.1f} s of {limit:g}"
        if step.reason == "deadline-run" and all(attempt.started_at is None for attempt in mine):
            return f"was stopped as {step.reason}, and it has never run"
        return ""

    def _wrong_failure(self, old: Status, step: Step, mine: list[Attempt]) -> str:
        """A failure is told as what became of the attempt, or as why it was stopped."""
        told = TOLD_BY.get(old.stopping)
        if told is not None or step.reason in TOLD_BY.values():
            return (
                f"was stopped as {old.stopping}, and failed as {step.reason}" if step.reason != told else ""
            )
        if old.stopping in ("spec-deleted", "main-ended", "main-not-started") or old.start_fault:
            return ""
        truly = {
            seen.reason for attempt in mine for seen in (attempt.result, attempt.main) if seen is not None
        }
        if all(attempt.removed for attempt in mine):  # or there was none: a start may have been refused
            truly |= {"Gone", "Removed", *REFUSALS}
        if any(attempt.removed for attempt in mine):  # an earlier leader's start may have come after that
            truly.add("Removed")
        self._count("failures")
        return "" if step.reason in truly else f"failed as {step.reason}, and truly: {sorted(truly)}"

    def _wrong_words(self, old: Status, new: Status, step: Step) -> str:
        """What was stopped ends with the words of its stop, whatever was heard of it meanwhile."""
        stops = (
            each
            for each in reversed(codec.decode_history(new))
            if (each.event, each.attempt) == ("stop-requested", old.attempt)
        )
        told = next(stops, None) if old.stopping else None
        if told is None:
            return ""
        if step.event == "failed-observed" and old.stopping in ("main-ended", "main-not-started"):
            self._count("main ended")
            return f"failed as {step.reason}, and its main container {told.reason}" * (
                step.reason != told.reason
            )
        if step.event in ("stopped-observed", "preempted"):
            self._count("stopped")
            return f"is told as {step.message!r}, and was stopped as {told.message!r}" * (
                step.message != told.message
            )
        return ""

    def _unheard(self, writer: str) -> str:
        """Why the writer cannot know what became of an attempt; "" if it can."""
        listed = self._oracle.engine.listed.get(writer, -1.0)
        if listed < self._oracle.elected_at:
            return f"{writer} has not listed the engine since it was elected"
        silent = self._oracle.scheduler.now - listed
        if silent > self._oracle.relist_seconds + SILENT_SECONDS:
            return f"{writer} has not heard from the engine for {silent:.1f} s"
        return ""

    def _count(self, what: str) -> None:
        self.judged[what] = self.judged.get(what, 0) + 1
