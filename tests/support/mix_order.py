"""Who may begin after whom, and which ticks are made: at each revision."""

from __future__ import annotations

import calendar
import re
import time

from tests.support.mix_members import Members
from tests.support.mix_records import (
    ENDED,
    WANTED,
    Records,
    Value,
    array_of,
    attempt_of,
    fates,
    new_steps,
    of_blocks,
    parents_of,
    state_of,
)

_TICK = re.compile(r"(.+)-([0-9]{12})")
MINUTE = 60


class Children:
    """Checks, at each revision:

    - a task, or the first member of an array, begins only if all of its parents have ended as wanted before
      that revision, and nobody has asked to retry one
    - with `index: same`, a member begins only if the block of the other array said of its own index before
      that revision that it has ended as wanted
    - who is Failed or Skipped because of its parents had such parents

    `before` has for each attempt of a child those attempts that had to end before: (child, attempt) →
    [(parent, attempt)].
    """

    def __init__(self, records: Records, members: Members) -> None:
        self._records = records
        self._members = members
        self.begun = self.paired = self.refused = 0
        self.before: dict[tuple[str, int], list[tuple[str, int]]] = {}

    def judge(self) -> None:
        """See the class."""
        for names, before, after in self._records.changed("states"):
            if after is None:
                continue
            if after.get("array"):
                if before is None and not after.get("of_gang"):
                    self._member(names[0], after)
                continue
            parents = parents_of(self._records.get("tasks", names[0]))
            if not parents:
                continue
            for step in new_steps(before, after):
                is_first = step.get("source") == "Created" or (before or {}).get("gated", False)
                if step.get("event") == "admitted" and is_first:
                    self._check(names[0], step["attempt"], parents)
                elif step.get("reason") in ("DependencyFailed", "Skipped", "DependencyUnknown"):
                    self._refused(names[0], str(step["reason"]), parents)

    def _member(self, name: str, after: Value) -> None:
        array, index = after["array"], after.get("index", 0)
        spec = self._records.get("tasks", array)
        parents, number = parents_of(spec), attempt_of(after)
        is_first = self._records.was("arrays", array, "0") is None and len(self._records.members[array]) == 1
        if is_first and (whole := [each for each in parents if not each[2]]):
            self._check(name, number, whole)
        for parent, when, same in parents:
            if not same:
                continue
            self.paired += 1
            other = self._records.was("tasks", parent)
            of = of_blocks(other, 0) if other is not None else ""
            fate = self._members.fate(parent, index, of, before=True)
            if fate.outcome.capitalize() not in WANTED[when]:
                self._wrong(name, f"begins, and wants {parent}-i{index} {when}, which is {fate.outcome}")
            self.before.setdefault((name, number), []).append((f"{parent}-i{index}", fate.attempts))

    def _check(self, name: str, number: int, parents: list[tuple[str, str, bool]]) -> None:
        self.begun += 1
        for parent, when, _ in parents:
            status = self._records.was("states", parent)
            if state_of(status) not in WANTED[when]:
                self._wrong(name, f"begins, and wants {parent} {when}, which is {state_of(status)}")
            if self._records.was("requests", parent, "retry") is not None:
                self._wrong(name, f"begins, and somebody has asked to retry {parent}")
            self.before.setdefault((name, number), []).extend(self._attempts(parent, attempt_of(status)))

    def _attempts(self, parent: str, number: int) -> list[tuple[str, int]]:
        spec = self._records.was("tasks", parent)
        if spec is None or array_of(spec) is None:
            return [(parent, number)]
        block = self._records.was("arrays", parent, "0")
        told = fates(block, of_blocks(spec, number), spec["array"]["size"])
        return [(f"{parent}-i{index}", fate.attempts) for index, fate in enumerate(told)]

    def _refused(self, name: str, reason: str, parents: list[tuple[str, str, bool]]) -> None:
        self.refused += 1
        states = {parent: state_of(self._records.get("states", parent)) for parent, _, _ in parents}
        unmet = [when for parent, when, _ in parents if states[parent] not in WANTED[when]]
        should = "DependencyFailed" if "succeeded" in unmet else "Skipped" if unmet else "nothing of the kind"
        if any(state not in ENDED for state in states.values()):
            self._wrong(name, f"is {reason}, and its parents are {states}")
        elif reason != should:
            self._wrong(name, f"is {reason}, and should be {should}: its parents are {states}")

    def _wrong(self, name: str, what: str) -> None:
        self._records.wrong("order", f"states/{name}", what)


class Ticks:
    """Checks of schedules that are due each minute, at each revision:

    - the task of a tick is made once, by a transaction that moves the cursor to its time
    - the cursor never goes back, nor beyond the present, and each minute that it passes is counted once
    - with `catch_up: latest` the minute at which the cursor stands is made; with `all` each minute is;
      but with `concurrency: forbid` and `replace`, none is made while an earlier task has not ended
    """

    def __init__(self, records: Records) -> None:
        self._records = records
        self.made: dict[str, int] = {}  # task → its tick, in seconds since the epoch
        self.skipped = 0

    def judge(self) -> None:
        """See the class."""
        made: dict[str, list[int]] = {}
        for names, before, after in self._records.changed("tasks"):
            schedule = (after or {}).get("labels", {}).get("tally.dev/schedule")
            if before is None and schedule is not None:
                tick = tick_of(names[0], schedule)
                made.setdefault(schedule, []).append(tick)
                if names[0] in self.made:
                    self._wrong(schedule, f"{names[0]} is made again")
                self.made[names[0]] = tick
        moved = {names[0] for names, _, _ in self._records.changed("schedule-states")}
        for schedule in made.keys() - moved:
            self._wrong(schedule, f"makes the ticks {made[schedule]}, and its cursor stays")
        for names, before, after in self._records.changed("schedule-states"):
            if after is not None:
                self._move(names[0], before, after, made.get(names[0], []))

    def behind(self, now: float) -> list[str]:
        """The schedules that have a tick before `now` (s since the epoch) which is not decided."""
        due = int(now) // MINUTE * MINUTE
        found = []
        for names, schedule in self._records.all("schedules").items():
            state = self._records.get("schedule-states", names[0])
            if not schedule.get("suspended") and (state is None or state["cursor"] < due):
                found.append(f"{names[0]} is at {state and state['cursor']}, and due is {due}")
        return found

    def _move(self, name: str, before: Value | None, after: Value, made: list[int]) -> None:
        if before is None or before.get("create") != after.get("create"):
            if made:
                self._wrong(name, f"makes {made} before it has a cursor")
            return
        was, now = before["cursor"], after["cursor"]
        if now < was or now > self._records.heard + 1:
            self._wrong(name, f"its cursor went from {was} to {now}, at {self._records.heard:.0f}")
        earlier, later = before.get("counts", {}), after.get("counts", {})
        counts = {result: count - earlier.get(result, 0) for result, count in later.items()}
        passed, held_up = now // MINUTE - was // MINUTE, before.get("waiting", 0)
        if sum(counts.values()) + bool(after.get("waiting")) - bool(held_up) != passed:
            self._wrong(name, f"its cursor passed {passed} minutes, and it counts {counts}")
        self.skipped += counts.get("skipped", 0)
        count = counts.get("made", 0) + counts.get("replaced", 0)
        if count != len(made) or any(not was < tick <= now and tick != held_up for tick in made):
            self._wrong(name, f"from {was} to {now} it made {made}, and counts {counts}")
        schedule = self._records.was("schedules", name) or {}
        catch_up = schedule.get("catch_up", "latest")
        if schedule.get("concurrency", "allow") != "allow":
            self._check_alone(name, made)
            return
        if passed and catch_up == "latest" and made != [now // MINUTE * MINUTE]:
            self._wrong(name, f"its cursor is at {now}, and it made {made}: the latest is missing")
        if catch_up == "all" and counts.get("skipped", 0):
            self._wrong(name, f"skips {counts['skipped']} ticks from {was} to {now}, and is to make all")

    def _check_alone(self, name: str, made: list[int]) -> None:
        for task, tick in self.made.items():
            if not task.startswith(f"{name}-") or not made or tick in made:
                continue
            state = state_of(self._records.was("states", task))
            if self._records.was("tasks", task) is not None and state not in ENDED:
                self._wrong(name, f"makes {made}, and {task} is {state}")

    def _wrong(self, name: str, what: str) -> None:
        self._records.wrong("tick", f"schedule-states/{name}", what)


def tick_of(task: str, schedule: str) -> int:
    """The time of the tick of which this is the task. Raises ValueError if it is none of this schedule."""
    found = _TICK.fullmatch(task)
    if found is None or found[1] != schedule:
        raise ValueError(f"{task} is no tick of {schedule}")
    return calendar.timegm(time.strptime(found[2], "%Y%m%d%H%M"))
