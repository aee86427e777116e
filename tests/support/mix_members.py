"""The members of arrays and gangs, and the blocks that tell of them, at each revision."""

from __future__ import annotations

from itertools import accumulate

from tests.support.mix_records import (
    ENDED,
    LENGTH,
    Fate,
    Names,
    Records,
    Value,
    array_of,
    attempt_of,
    fates,
    hold_of,
    holds,
    is_gang,
    new_steps,
    of_blocks,
    roles_of,
    state_of,
)
from tests.support.share_records import added, quantities, text_of


class Members:
    """Checks, at each revision:

    - a member begins only while its array is there, its block has it wait, and `max_running` and `fail_fast`
      let it; one that has succeeded never begins again (of a gang: in that round)
    - its status goes only when it has ended, in the transaction that writes this end into its block
    - a block changes by such ends, by ends of members that have no status, and by retries that were asked
      for; what has succeeded stays so, and attempts never count back
    - an array has ended when all its members have, and as they have
    """

    def __init__(self, records: Records) -> None:
        self._records = records
        self._succeeded: set[tuple[str, str, int]] = set()  # array, of, index
        self.begun = self.folded = self.again = 0
        self.arrays: dict[str, None] = {}

    def judge(self) -> None:
        """See the class."""
        for names, before, after in self._records.changed("states"):
            one = after or before or {}
            if one.get("array"):
                self._member(names[0], before, after, one)
            elif array_of(spec := self._records.get("tasks", names[0])) is not None:
                self.arrays[names[0]] = None
                if state_of(after) in ENDED and state_of(before) not in ENDED:
                    self._check_end(names[0], spec or {}, state_of(after))
        for names, before, after in self._records.changed("arrays"):
            self._block(names, before, after)

    def fate(self, array: str, index: int, of: str, *, before: bool) -> Fate:
        """What the block says, or said before this revision."""
        look = self._records.was if before else self._records.get
        number, place = divmod(index, LENGTH)
        return fates(look("arrays", array, str(number)), of, place + 1)[place]

    def _member(self, name: str, before: Value | None, after: Value | None, one: Value) -> None:
        array, index = one["array"], one.get("index", 0)
        spec = self._records.get("tasks", array)
        of = of_blocks(spec, attempt_of(one)) if spec is not None else ""
        if before is None and after is not None:
            self._begin(name, after, spec, of)
        if state_of(after) == "Succeeded":
            self._succeeded.add((array, of, index))
        elif state_of(before) == "Succeeded" and after is not None:
            self._wrong(name, f"has succeeded, and is {state_of(after)}")
        if after is None and before is not None:
            self._gone(name, before, spec, of)

    def _begin(self, name: str, after: Value, spec: Value | None, of: str) -> None:
        self.begun += 1
        array, index = after["array"], after.get("index", 0)
        if spec is None or array_of(spec) is None:
            self._wrong(name, "begins, and its array is gone")
            return
        size, most = spec["array"]["size"], spec["array"].get("max_running")
        fate = self.fate(array, index, of, before=True)
        if index >= size or name != f"{array}-i{index}":
            self._wrong(name, f"is no member of {array}, which has {size}")
        if fate.outcome != "waiting":
            self._wrong(name, f"begins, and its block says {fate.outcome}")
        if (array, of, index) in self._succeeded:
            self._wrong(name, "begins again, after it has succeeded")
        if attempt_of(after) <= fate.attempts:
            self._wrong(name, f"begins attempt {attempt_of(after)} after {fate.attempts}")
        others = self._records.members[array]
        under_way = sum(state_of(each) not in ENDED for each in others.values())
        if most is not None and under_way > most:
            self._wrong(name, f"begins, and {under_way} are under way, of at most {most}")
        if spec["array"].get("fail_fast"):
            block = fates(self._records.was("arrays", array, "0"), of, min(size, LENGTH))
            ended = [each.outcome for each in block] + [state_of(each).lower() for each in others.values()]
            if "failed" in ended:
                self._wrong(name, "begins, and a member has failed: nothing is to begin")

    def _gone(self, name: str, before: Value, spec: Value | None, of: str) -> None:
        self.folded += 1
        array, index = before["array"], before.get("index", 0)
        if state_of(before) not in ENDED:
            self._wrong(name, f"is gone, and was {state_of(before)}")
        if spec is None:
            return
        if is_gang(spec):
            gang = self._records.get("states", array)
            if attempt_of(gang) != attempt_of(before) or state_of(gang) in ("Created", "WaitingRetry"):
                return  # of an earlier round, of which no block tells
        fate = self.fate(array, index, of, before=False)
        was = self.fate(array, index, of, before=True)
        if (fate.outcome, fate.attempts) != (state_of(before).lower(), attempt_of(before)):
            said = f"its block says {fate.outcome} after {fate.attempts}"
            self._wrong(name, f"ended {state_of(before)} in attempt {attempt_of(before)}, and {said}")
        if was.outcome != "waiting":
            self._wrong(name, f"ends again: its block said {was.outcome} before")

    def _block(self, names: Names, before: Value | None, after: Value | None) -> None:
        array, number = names[0], int(names[1])
        spec = self._records.get("tasks", array)
        if after is None:
            if spec is not None and before is not None and before.get("of") == spec["op"]:
                self._records.wrong("block", f"arrays/{array}/{number}", "is gone, and its array is not")
            return
        if spec is None or array_of(spec) is None:
            self._records.wrong("block", f"arrays/{array}/{number}", "is written, and its array is gone")
            return
        size, of = min(LENGTH, spec["array"]["size"] - number * LENGTH), str(after.get("of", ""))
        pairs = zip(fates(before, of, size), fates(after, of, size), strict=True)
        for place, (was, now) in enumerate(pairs):
            if was != now:
                self._changed(array, number * LENGTH + place, was, now)

    def _changed(self, array: str, index: int, was: Fate, now: Fate) -> None:
        name = f"{array}-i{index}"
        status = self._records.was("states", name)
        asked = self._records.was("requests", array, "retry") is not None
        if now.attempts < was.attempts:
            self._wrong(name, f"has had {was.attempts} attempts, and now {now.attempts}")
        if was.outcome == "waiting":
            if status is None and now.outcome == "succeeded":
                self._wrong(name, "has succeeded without a status")
            if status is not None and self._records.get("states", name) is not None:
                self._wrong(name, f"is {now.outcome} in its block while it has a status")
        elif now.outcome != "waiting" or was.outcome == "succeeded" or not asked:
            self._wrong(name, f"was {was.outcome}, and is {now.outcome}{'' if asked else ', unasked'}")
        else:
            self.again += 1

    def _check_end(self, array: str, spec: Value, state: str) -> None:
        if is_gang(spec):
            return
        size, block = spec["array"]["size"], self._records.get("arrays", array, "0")
        if block is None:
            if state == "Succeeded":
                self._wrong(array, "has succeeded, and no block tells of a member")
            return
        told = [fate.outcome for fate in fates(block, spec["op"], min(size, LENGTH))]
        should = next((each for each in ("waiting", "failed", "cancelled") if each in told), "succeeded")
        if state.lower() != should:
            self._wrong(array, f"is {state}, and of its members some are {should}")
        if left := self._records.members[array]:
            self._wrong(array, f"is {state}, and members {sorted(left)} have a status")

    def _wrong(self, name: str, what: str) -> None:
        self._records.wrong("member", f"states/{name}", what)


class Gangs:
    """Checks, at each revision that changes a gang, a member or a block of it:

    - it is admitted whole: its status holds for all members of each role, and no member has a status
    - while it holds and is not being stopped, each member is held for, has a status of this round, or has
      succeeded in it, and none is more than one of these
    - a member begins only then, in the round of its gang, and takes its part of the hold over
    - it has succeeded when all members have

    `admitted` is the time of the step that admitted each round.
    """

    def __init__(self, records: Records) -> None:
        self._records = records
        self.admitted: dict[tuple[str, int], float] = {}
        self.names: dict[str, None] = {}

    def judge(self) -> None:
        """See the class."""
        touched: dict[str, None] = {}
        for names, before, after in self._records.changed("states"):
            one = after or before or {}
            name = one.get("array") or names[0]
            spec = self._records.get("tasks", name)
            if spec is None or not is_gang(spec):
                continue
            touched[name] = None
            if not one.get("array"):
                self._step(name, spec, before, after)
            elif before is None and after is not None:
                self._begin(names[0], name, after)
        for names, _, _ in self._records.changed("arrays"):
            if is_gang(self._records.get("tasks", names[0])):
                touched[names[0]] = None
        for name in touched:
            self.names[name] = None
            self._check(name, self._records.get("tasks", name) or {})

    def _step(self, name: str, spec: Value, before: Value | None, after: Value | None) -> None:
        for step in new_steps(before, after):
            if step.get("event") == "admitted":
                self.admitted[name, step["attempt"]] = float(step["at"])
        if holds(after) and not holds(before) and after is not None:
            left = [row[0] for row in after.get("reserved", [])]
            if left != (sizes := [size for size, _ in roles_of(spec)]):
                self._wrong(name, f"is admitted for {left} of {sizes} members")
            if members := self._records.members[name]:
                self._wrong(name, f"is admitted, and members {sorted(members)} are of an earlier round")
        if state_of(after) == "Succeeded" and state_of(before) != "Succeeded":
            of, size = of_blocks(spec, attempt_of(after)), spec["array"]["size"]
            told = [fate.outcome for fate in fates(self._records.get("arrays", name, "0"), of, size)]
            if set(told) != {"succeeded"}:
                self._wrong(name, f"has succeeded, and its members are {told}")

    def _begin(self, member: str, name: str, after: Value) -> None:
        gang, was = self._records.get("states", name), self._records.was("states", name)
        if not holds(was) or not holds(gang):
            self._wrong(member, f"begins, and its gang was {state_of(was)} and is {state_of(gang)}")
        elif attempt_of(was) != attempt_of(after):
            self._wrong(member, f"begins attempt {attempt_of(after)} in round {attempt_of(was)}")
        elif was is not None and was.get("stopping"):
            self._wrong(member, f"begins, and its gang is being stopped: {was['stopping']}")

    def _check(self, name: str, spec: Value) -> None:
        gang = self._records.get("states", name)
        if gang is None or not holds(gang):
            return
        is_stopped = bool(gang.get("stopping"))
        reserved = [(row[0], quantities(row[1])) for row in gang.get("reserved", [])]
        total = quantities({})
        for left, each in () if is_stopped else reserved:
            total = added(total, each, left)
        if hold_of(gang) != total:
            what = "and is being stopped" if is_stopped else f"and for its members {text_of(total)}"
            self._wrong(name, f"holds {text_of(hold_of(gang))}, {what}")
        if is_stopped:
            return
        size, of = spec["array"]["size"], of_blocks(spec, attempt_of(gang))
        told = fates(self._records.get("arrays", name, "0"), of, size)
        members, roles = self._records.members[name], roles_of(spec)
        ends = list(accumulate(count for count, _ in roles))
        for role, (count, each) in enumerate(roles):
            indexes = range(ends[role] - count, ends[role])
            ended = sum(told[index].outcome == "succeeded" for index in indexes)
            begun = [members[index] for index in indexes if index in members]
            left = reserved[role][0] if role < len(reserved) else 0
            if left + len(begun) + ended != count:
                parts = f"{left} held for, {len(begun)} with a status, {ended} succeeded"
                self._wrong(name, f"role {role} has {count} members: {parts}")
            for member in begun:
                if attempt_of(member) != attempt_of(gang):
                    self._wrong(name, f"a member is in attempt {attempt_of(member)}, not {attempt_of(gang)}")
                if holds(member) and hold_of(member) != each:
                    self._wrong(name, f"a member holds {text_of(hold_of(member))}, not {text_of(each)}")

    def _wrong(self, name: str, what: str) -> None:
        self._records.wrong("gang", f"states/{name}", what)
