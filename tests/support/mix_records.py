"""The records of arrays, gangs, dependencies and schedules as they are stored, read without any code of
Tally: what `mix_auditor` works on.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from tests.support.share_records import HOLDING, Amounts, Event, Unreadable, mapping, quantities

LENGTH = 1024  # members of a block
ENDED = ("Succeeded", "Failed", "Cancelled")
WANTED = {"succeeded": ("Succeeded",), "failed": ("Failed",), "finished": ENDED}
Value = dict[str, Any]
Names = tuple[str, ...]
READ: Names = ("tasks", "states", "arrays", "ledgers", "shares", "pools", "requests", "awaits", "claims")
READ += ("schedules", "schedule-states", "quarantined")


class Fate(NamedTuple):
    """What a block says of one member."""

    outcome: str = "waiting"
    attempts: int = 0
    reason: str = ""


class Records:
    """All records as of one revision, and of those that it changed as they were before."""

    def __init__(self, cluster: str) -> None:
        self.prefix = f"/tally/{cluster}/"
        self.revision = 0
        self.heard = 0.0  # when the revision was heard of, in seconds since the epoch
        self.findings: list[str] = []
        self.members: dict[str, dict[int, Value]] = defaultdict(dict)  # array → its members with a status
        self._now: dict[str, dict[Names, Value]] = defaultdict(dict)
        self._before: dict[str, dict[Names, Value | None]] = {}

    def take(self, revision: int, heard: float, events: Iterable[Event]) -> None:
        """Go on to this revision."""
        if revision <= self.revision:
            raise ValueError(f"revision {revision} comes after {self.revision}")
        self.revision, self.heard, self._before = revision, heard, defaultdict(dict)
        for event in events:
            kind, *names = event.key.removeprefix(self.prefix).split("/")
            if event.key.startswith(self.prefix) and kind in READ:
                self._put(kind, tuple(names), event)

    def _put(self, kind: str, names: Names, event: Event) -> None:
        before = self._now[kind].pop(names, None)
        self._before[kind][names] = before
        try:
            value = mapping(event.value) if event.value is not None else None
        except Unreadable as error:
            self.wrong("layout", event.key, f"cannot be read: {error}")
            return
        if value is not None:
            self._now[kind][names] = value
        if kind == "states":
            if before is not None and before.get("array"):
                self.members[before["array"]].pop(before.get("index", 0), None)
            if value is not None and value.get("array"):
                self.members[value["array"]][value.get("index", 0)] = value

    def get(self, kind: str, *names: str) -> Value | None:
        """A record as it is."""
        return self._now[kind].get(names)

    def was(self, kind: str, *names: str) -> Value | None:
        """A record as it was before this revision."""
        changed = self._before.get(kind, {})
        return changed[names] if names in changed else self.get(kind, *names)

    def all(self, kind: str) -> dict[Names, Value]:
        """All records of a kind."""
        return dict(self._now[kind])

    def changed(self, kind: str) -> Iterator[tuple[Names, Value | None, Value | None]]:
        """What the revision changed: names, before, after."""
        for names, before in self._before.get(kind, {}).items():
            yield names, before, self.get(kind, *names)

    def wrong(self, check: str, key: str, what: str) -> None:
        """Note a finding."""
        self.findings.append(f"revision {self.revision}: {check}: {key.removeprefix(self.prefix)}: {what}")


# -- one record


def state_of(status: Value | None) -> str:
    """The state of a task with this status."""
    return str(status.get("state", "Created")) if status is not None else "Created"


def holds(status: Value | None) -> bool:
    """Whether a task of this status is in a state that holds."""
    return state_of(status) in HOLDING


def attempt_of(status: Value | None) -> int:
    """The number of its last attempt."""
    return int(status.get("attempt", 0)) if status is not None else 0


def hold_of(status: Value | None) -> Amounts:
    """What the status says to be held."""
    return quantities(status.get("hold", {})) if status is not None else quantities({})


def new_steps(before: Value | None, after: Value | None) -> list[Value]:
    """The steps of the history that `after` has beyond `before`."""
    if after is None:
        return []
    count = after.get("steps", 0) - (before.get("steps", 0) if before is not None else 0)
    return list(after.get("history", [])[-count:]) if count > 0 else []


def array_of(spec: Value | None) -> Value | None:
    """The `array` of a spec."""
    return spec.get("array") if spec is not None else None


def is_gang(spec: Value | None) -> bool:
    """Whether the spec is one of a gang."""
    return bool((array_of(spec) or {}).get("gang"))


def roles_of(spec: Value) -> list[tuple[int, Amounts]]:
    """The roles of a gang: how many members, and what each asks for."""
    array = spec["array"]
    common = spec.get("resources", {})
    roles = array.get("roles") or [{"size": array["size"]}]
    return [(role["size"], quantities(role.get("resources", common))) for role in roles]


def parents_of(spec: Value | None) -> list[tuple[str, str, bool]]:
    """What it waits for: (task, when, whether member by member)."""
    rows = [{"task": each} if isinstance(each, str) else each for each in (spec or {}).get("after", ())]
    return [(row["task"], row.get("when", "succeeded"), row.get("index") == "same") for row in rows]


def of_blocks(spec: Value, attempt: int) -> str:
    """What blocks of this spec have: its `op`, and of a gang the round."""
    return f"{spec['op']}/{attempt}" if is_gang(spec) else str(spec["op"])


def fates(block: Value | None, of: str, size: int) -> list[Fate]:
    """What this block says of so many members. One that is of something else says nothing."""
    runs = block["members"] if block is not None and block.get("of", "") == of else []
    found = [
        Fate(run[1], run[2] if len(run) > 2 else 0, run[4] if len(run) > 4 else "")
        for run in runs
        for _ in range(run[0])
    ]
    return (found + [Fate()] * size)[:size]
