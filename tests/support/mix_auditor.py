"""An auditor of all that an installation can do at once: shared pools, arrays, gangs, tasks that wait for
others, and schedules.

It imports nothing of `controller`. It is told each revision that etcd ever had, and checks at each one what
the manuals promise, with sums of its own (see Accounts, Members, Gangs, Children and Ticks). In the end it
holds against that what the tasks themselves wrote: nothing ran that held nothing, nor before its gang was
admitted as a whole, nor before what it waits for had ended, nor after it had succeeded.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

from tests.support.mix_accounts import Accounts
from tests.support.mix_members import Gangs, Members
from tests.support.mix_order import Children, Ticks
from tests.support.mix_records import ENDED, Records, array_of, attempt_of, hold_of, state_of
from tests.support.share_records import Event, account_of

SLACK_SECONDS = 0.002  # times of steps are rounded to milliseconds


class Ran(NamedTuple):
    """What an attempt wrote about itself: when it began or ended, in seconds since the epoch."""

    name: str
    attempt: int
    what: str
    at: float


class MixAuditor:
    """See the module. `apply` may be called by another thread than the rest."""

    def __init__(self, cluster: str = "default") -> None:
        self.records = Records(cluster)
        self.accounts = Accounts(self.records)
        self.members = Members(self.records)
        self.gangs = Gangs(self.records)
        self.children = Children(self.records, self.members)
        self.ticks = Ticks(self.records)
        self.revisions = 0
        self.ends: dict[str, str] = {}  # task → how it ended last, also if it has been removed since
        self.succeeded: dict[tuple[str, int], None] = {}  # attempts, of members and tasks
        self._lock = threading.Lock()

    @property
    def findings(self) -> list[str]:
        """What was found wrong at which revision."""
        return self.records.findings

    def apply(self, revision: int, events: Iterable[Event], heard: float | None = None) -> None:
        """One revision, whole, and when it was heard of (s since the epoch)."""
        with self._lock:
            self.revisions += 1
            self.records.take(revision, time.time() if heard is None else heard, events)
            judges = self.accounts, self.members, self.gangs, self.children, self.ticks
            for judge in judges:
                try:
                    judge.judge()
                except (LookupError, TypeError, ValueError, AttributeError) as error:
                    self.records.wrong("layout", type(judge).__name__, f"cannot be read: {error!r}")
            self._note()

    def left(self) -> list[str]:
        """What is there that should not be once everything has finished."""
        with self._lock:
            records, found = self.records, list[str]()
            for kind in ("awaits", "claims", "requests", "quarantined"):
                found += [f"{kind}/{'/'.join(names)} is left" for names in records.all(kind)]
            for names in records.all("arrays"):
                if array_of(records.get("tasks", names[0])) is None:
                    found.append(f"arrays/{'/'.join(names)} is left, and its array is gone")
            for names, status in records.all("states").items():
                if status.get("array"):
                    found.append(f"states/{names[0]} of a member is left, {state_of(status)}")
                elif hold_of(status):
                    found.append(f"states/{names[0]} is {state_of(status)}, and holds {status['hold']}")
            for names in records.all("tasks"):
                if state_of(records.get("states", *names)) not in ENDED:
                    found.append(f"tasks/{names[0]} is {state_of(records.get('states', *names))}")
            for kind in ("ledgers", "shares"):
                for names, value in records.all(kind).items():
                    if any(account_of(value).held.values()) or value.get("running"):
                        found.append(f"{kind}/{'/'.join(names)} is not zero: {value}")
            return found

    def behind(self, now: float) -> list[str]:
        """The schedules that have not decided a tick before `now`."""
        with self._lock:
            return self.ticks.behind(now)

    def judge_attempts(self, lines: Iterable[Ran]) -> list[str]:
        """What is wrong with what attempts wrote themselves, against the history."""
        began: dict[tuple[str, int], float] = {}
        ended: dict[tuple[str, int], float] = {}
        highest: dict[str, int] = defaultdict(int)
        found = []
        for line in lines:
            key = line.name, line.attempt
            if line.what == "overlap":
                found.append(f"{line.name}: attempt {line.attempt} began while another one was there")
            elif line.what == "start":
                if key in began:
                    found.append(f"{line.name}: attempt {line.attempt} began twice")
                began[key] = line.at
                highest[line.name] = max(highest[line.name], line.attempt)
            else:
                ended[key] = line.at
        for key, at in [*began.items(), *ended.items()]:
            first, last = self.accounts.spans.get(key, [float("inf"), 0.0])
            if not first - SLACK_SECONDS <= at <= last + SLACK_SECONDS:
                found.append(f"{key} ran at {at:.3f}, and held from {first:.3f} to {last:.3f}")
        for key, at in began.items():
            parents = self.children.before.get(key, ())
            late = [(parent, ended[parent]) for parent in parents if ended.get(parent, 0.0) > at]
            found += [f"{key} began at {at:.3f}, and its parents ended later: {late}" for _ in late[:1]]
            round_of = key[0].rpartition("-i")[0], key[1]
            if round_of[0] in self.gangs.names and self.gangs.admitted.get(round_of, at + 1) > at:
                found.append(f"{key} began at {at:.3f}, and its gang was not admitted by then")
        for name, attempt in self.succeeded:
            if (name, attempt) not in ended:
                found.append(f"{name} has succeeded in attempt {attempt}, which never came to its end")
            if highest[name] > attempt and name.rpartition("-i")[0] not in self.gangs.names:
                found.append(f"{name} has succeeded in attempt {attempt}, and attempt {highest[name]} ran")
        return found

    def _note(self) -> None:
        for names, _, status in self.records.changed("states"):
            if status is None or state_of(status) not in ENDED:
                continue
            is_array = array_of(self.records.get("tasks", *names)) is not None and not status.get("array")
            if not status.get("array"):
                self.ends[names[0]] = state_of(status)
            if state_of(status) == "Succeeded" and not is_array:
                self.succeeded[names[0], attempt_of(status)] = None

    def summary(self) -> str:
        """How much there was to judge."""
        counts: dict[str, int] = {
            "arrays": len(self.members.arrays),
            "members begun": self.members.begun,
            "members folded": self.members.folded,
            "members asked for again": self.members.again,
            "gangs": len(self.gangs.names),
            "rounds of gangs": len(self.gangs.admitted),
            "children begun": self.children.begun,
            "members begun after their own": self.children.paired,
            "children refused": self.children.refused,
            "ticks": len(self.ticks.made),
            "ticks skipped": self.ticks.skipped,
            "admissions": self.accounts.admissions,
            "preemptions": self.accounts.preemptions,
            "shares compared": self.accounts.shares,
        }
        told = ", ".join(f"{count} {what}" for what, count in counts.items())
        return f"{self.revisions} revisions: {told}"
