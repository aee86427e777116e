"""What a replica registers every few seconds, and when each replica was last heard from, by our clock."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from controller.clock import Clock
from controller.core.model.model import Model
from controller.core.model.printable import counted
from controller.core.model.records import Change, decode_or_empty, number_in
from controller.views.explain import span
from controller.views.replica import Facts

AHEAD_SECONDS = 3600.0  # of the others' clocks: such a replica does not lead
NEVER_SET = 1_750_000_000.0  # seconds since the epoch: a clock that shows less does not know what year it is
CANDIDACY = "engine-identity", "clock"  # checks that tell why a replica does not campaign


def describe(facts: Facts, now: float) -> dict[str, Any]:
    """The changing part of a registration, at `now` (wall clock). Only the leader speaks of the engine."""
    described = {
        "at": now,
        "applied_revision": facts.revision,
        "behind_seconds": round(facts.staleness_seconds, 1),
        "phase": facts.phase,
    }
    if facts.verdict is not None:
        at, made, revision, wrong, notices = facts.verdict
        ago = round(max(0.0, facts.boottime - made), 1)
        described["audit"] = {
            "at": at,
            "age_seconds": ago,
            "revision": revision,
            "wrong": wrong,
            "notices": notices,
        }
    for check in facts.ready:
        if check.name in CANDIDACY and (not check.ok or "engine_problem" not in described):
            described["engine_problem"] = "" if check.ok else check.detail
        if check.name == "engine":
            age = facts.engine_age_seconds
            described["engine_silence"] = "" if check.ok else check.detail
            described |= {
                "engine_answers": check.ok,
                "engine_age_seconds": None if age is None else round(age, 1),
            }
    return described


class Registrations:
    """A Listener; see the module's docstring. `ages` is for any thread."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        # name → the registration's mod revision, and when it came
        self._heard: dict[str, tuple[int, float]] = {}
        self._reloaded_at = clock.boottime()

    def reloaded(self, revision: int) -> None:  # noqa: ARG002  # whatever it is
        """See Listener.

        A load may bring old registrations: one counts as heard now only if it was not known before.
        """
        self._reloaded_at = self._clock.boottime()

    def changed(self, changes: Sequence[Change], revision: int) -> None:  # noqa: ARG002  # as above
        """See Listener."""
        for change in changes:
            if change.kind == "replicas":
                if change.value is None:
                    self._heard.pop(change.names[0], None)
                else:
                    self._heard[change.names[0]] = (change.mod, self._clock.boottime())

    def ages(self, registered: Mapping[str, Change]) -> dict[str, float]:
        """Seconds since each of the registered replicas was heard from, by name."""
        now = self._clock.boottime()
        ages = {}
        for name, change in dict(registered).items():  # a copy: the model may change meanwhile
            mod, at = self._heard.get(name, (0, 0.0))
            ages[name] = max(0.0, now - (at if mod == change.mod else self._reloaded_at))
        return ages

    def clock_problem(self, model: Model, own: str, *, leads: bool) -> str:
        """Why this replica must not lead by its clock, as the others' registrations tell; "" if it may.

        It is ahead of more than half of the others; a leader leaves only if that is more than half of all. As
        leader it would charge time that has not passed, and end deadlines and retentions early. `own` is its
        instance. A clock that is behind does no such harm, since recorded time never goes back; one that was
        never set is not asked. Where all agree, the time has passed: resources are
        held while no replica runs.
        """
        others = dict(model.replicas)
        ages, mine = self.ages(others), self._clock.now() if leads else self._clock.wall()
        told = [
            _time(other, "at") + ages[name]
            for name, other in others.items()
            if decode_or_empty(other).get("instance") != own
        ]
        asked = [at for at in told if at > NEVER_SET]
        behind = [at for at in asked if mine - at > AHEAD_SECONDS]
        if 2 * len(behind) <= len(asked) + leads:
            return ""
        return (
            f"its clock is {span(mine - max(behind))} ahead of {len(behind)} of"
            f" {counted(len(asked), 'other replica')}: set it right"
        )


def _time(record: Change, field: str) -> float:
    return number_in(decode_or_empty(record), field) or 0.0
