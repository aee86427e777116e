"""What users ask of the leader: requests for a task, and for repairs."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated

from msgspec import Meta, Struct

MOST_PRIORITY = 1_000_000_000
ON_HOLD, RELEASED = "OnHold", "Released"  # the reasons of the steps that do so
_WAS = re.compile(r"((?:on hold, |released, )?priority -?\d+) \(was -?\d+\)", re.ASCII)
Priority = Annotated[int, Meta(ge=-MOST_PRIORITY, le=MOST_PRIORITY)]


class RequestKind(StrEnum):
    """What a user can ask of a task.

    Each request takes effect once, in the transaction that deletes it (invariant I8).
    """

    CANCEL = "cancel"
    RETRY = "retry"
    CONFIRM_STOPPED = "confirm-stopped"  # an operator's word that a lost attempt no longer runs
    CHANGE = "change"  # of a task that waits: put it on hold, release it, set its priority


class RequestOutcome(StrEnum):
    """What became of a request."""

    DONE = "done"
    IGNORED = "ignored"  # it could not take effect; the step's message says why


class Request(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A request: who asks, why, and when.

    `attempt` is the attempt that confirm-stopped refers to. `on_hold` and `priority` are what a change sets;
    None: it stays. `members` and `only_failed` narrow a request on an array.
    """

    kind: RequestKind
    by: str = ""
    reason: str = ""
    at: float = 0.0
    attempt: int = 0
    on_hold: bool | None = None
    priority: Priority | None = None
    members: Annotated[str, Meta(max_length=1024)] = ""  # of an array that it is about, as Ranges; "": all
    only_failed: bool = False  # a retry of an array: not of the members that were cancelled

    @property
    def words(self) -> str:
        """What is asked, by whom, and why, as a step of the task records it."""
        return self.words_after(self.priority)

    def words_after(self, priority: int | None) -> str:
        """The same, with the priority that the task had before, if another one is asked for."""
        held = {None: "", True: "on hold, ", False: "released, "}[self.on_hold]
        was = f" (was {priority})" if priority != self.priority else ""
        part = f"members {self.members}, " if self.members else ""
        part += "failed ones only, " if self.only_failed else ""
        sets = part + held + (f"priority {self.priority}{was}, " if self.priority is not None else "")
        who = f"requested by {self.by}" if self.by else "requested"
        return f"{sets}{who}" + (f": {self.reason}" if self.reason else "")

    def is_told_by(self, words: str) -> bool:
        """Whether these are its words, perhaps cut short, whatever priority the task had before."""
        was = _WAS.match(words)
        told = was[1] + words[was.end() :] if was is not None else words
        return told == self.words[: len(told)]


class Wanted(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A finding that is to be repaired, by its identity. `mod` is that of a key to delete, else 0."""

    invariant: str
    subject: str
    mod: int = 0


class RepairRequest(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A request for repairs: which findings, by whom, why, when, and at which revision they were seen."""

    findings: tuple[Wanted, ...]
    revision: int = 0
    by: str = ""
    reason: str = ""
    at: float = 0.0
