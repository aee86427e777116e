"""What a replica registers every few seconds, and when each replica was last heard from, by our clock.

Of those whose registrations have ended, the last ones are kept for people: in memory, for an hour.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from controller.clock import Clock
from controller.core.model.model import Model
from controller.core.model.printable import counted
from controller.core.model.records import Change, decode_or_empty, number_in
from controller.core.model.shares import APART_MS
from controller.views.replica import EndedRegistration, Facts
from controller.views.words import at, span

APART_SECONDS = APART_MS / 1000  # from the others' clocks: such a replica does not lead
NEVER_SET = 1_600_000_000.0  # seconds since the epoch: a clock that shows less does not know what year it is
SILENT_SECONDS = 60.0  # a registration that is not renewed for so long tells no time
MAX_ENDED = 10
ENDED_SECONDS = 3600.0  # for which an ended one is kept
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


class _Heard(NamedTuple):
    """A registration: its mod revision, when it came, and what it says."""

    mod: int
    at: float
    change: Change


class Registrations:
    """A Listener; see the module's docstring. `ages` and `ended` are for any thread."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._heard: dict[str, _Heard] = {}  # by name
        self._ended: dict[str, EndedRegistration] = {}  # by name, the oldest first
        self._reloaded_at = clock.boottime()

    def reloaded(self, revision: int) -> None:  # noqa: ARG002  # whatever it is
        """See Listener.

        A load may bring old registrations: one counts as heard now only if it was not known before. One that
        it does not bring has ended meanwhile.
        """
        self._reloaded_at = self._clock.boottime()

    def changed(self, changes: Sequence[Change], revision: int) -> None:  # noqa: ARG002  # as above
        """See Listener."""
        for change in changes:
            if change.kind == "replicas":
                name, now = change.names[0], self._clock.boottime()
                self._ended.pop(name, None)
                known = self._heard.pop(name, None)
                if change.value is not None:
                    self._heard[name] = _Heard(change.mod, now, change)
                else:  # of one that was loaded, and never heard since, no more is known
                    record = decode_or_empty(known.change) if known is not None else {}
                    heard_at = known.at if known is not None else self._reloaded_at
                    ended = EndedRegistration(name, record, heard_at, now)
                    self._ended = dict([*self._ended.items(), (name, ended)][-MAX_ENDED:])

    def ages(self, registered: Mapping[str, Change]) -> dict[str, float]:
        """Seconds since each of the registered replicas was heard from, by name."""
        now = self._clock.boottime()
        ages = {}
        for name, change in dict(registered).items():  # a copy: the model may change meanwhile
            heard = self._heard.get(name)
            at = heard.at if heard is not None and heard.mod == change.mod else self._reloaded_at
            ages[name] = max(0.0, now - at)
        return ages

    def ended(self, registered: Mapping[str, Change]) -> tuple[EndedRegistration, ...]:
        """Those that have ended within the hour, and are not registered again; the newest first.

        A process that is registered under another name by now has not ended: it had to wait for its own.
        """
        records = [decode_or_empty(change) for change in dict(registered).values()]
        there = {name for record in records if isinstance(name := record.get("instance"), str)}
        now, loaded = self._clock.boottime(), self._reloaded_at
        missed = [
            EndedRegistration(name, decode_or_empty(heard.change), heard.at, loaded)
            for name, heard in list(self._heard.items())
            if name not in registered and heard.at < loaded
        ]
        known = [each for each in list(self._ended.values()) if each.name not in registered]
        found = sorted((*missed, *known), key=lambda each: each.ended_at, reverse=True)
        return tuple(
            each
            for each in found
            if now - each.ended_at < ENDED_SECONDS and str(each.record.get("instance")) not in there
        )[:MAX_ENDED]

    def clock_problem(self, model: Model, own: str, *, leads: bool) -> str:
        """Why this replica must not lead by its clock; "" if it may. `own` is its instance.

        A leader whose clock is ahead charges time that has not passed, and ends deadlines and retentions
        early. One whose clock is behind lets time stand still, or go back. So a replica does not lead whose
        clock was never set; nor one that is over an hour ahead of more than half of the others, or behind
        more than half of all. (Else of four, two by two, none could lead.) Of two, the last recorded time
        tells which is behind. A leader leaves only if it is apart from more than half of all, by the time
        that its term goes by, or by the wall clock, which may have been set since. Whoever is alone may lead.
        Where all agree, the time has passed: resources are held while no replica runs.
        """
        if leads and (why := self._apart(model, own, self._clock.now(), leads=True)):
            return why
        return self._apart(model, own, self._clock.wall(), leads=leads)

    def _apart(self, model: Model, own: str, mine: float, *, leads: bool) -> str:
        if mine < NEVER_SET:
            return f"its clock was never set: it says {at(mine)}"
        others = dict(model.replicas)
        ages = self.ages(others)
        asked = [
            told
            for name, other in others.items()
            if ages[name] < SILENT_SECONDS
            and decode_or_empty(other).get("instance") != own
            and (told := _time(other, "at") + ages[name]) > NEVER_SET
        ]
        before = [told for told in asked if mine - told > APART_SECONDS]
        after = [told for told in asked if told - mine > APART_SECONDS]
        if len(asked) == 1 and not leads:
            recorded = self._recorded(model)
            before = [told for told in before if recorded - told < APART_SECONDS]
            is_behind = bool(after) and recorded - mine > APART_SECONDS
        else:
            is_behind = 2 * len(after) > len(asked) + 1
        if 2 * len(before) > len(asked) + leads:
            apart = f"{span(mine - max(before))} ahead of {len(before)}"
        elif is_behind:
            apart = f"{span(min(after) - mine)} behind {len(after)}"
        else:
            return ""
        wrong = "set it right" if len(asked) > 1 else "set right which of the two is wrong"
        return f"its clock is {apart} of {counted(len(asked), 'other replica')}: {wrong}"

    def _recorded(self, model: Model) -> float:
        """The last recorded time: a charge, or when the last term began."""
        terms = dict(model.terms)
        return max(model.charged_at / 1000, _time(terms[max(terms)], "from") if terms else 0.0)


def _time(record: Change, field: str) -> float:
    return number_in(decode_or_empty(record), field) or 0.0
