"""What a sentence about one's own task says of tasks of others: that they are there, and not their names.

The sentences are those of `explain`, and the messages of an attempt that was stopped for another task, and of
a task that never ran since another did not end as it wants.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterable
from typing import Any

import msgspec

from controller.core.model.lifecycle import State
from controller.views.tasks import UNREADABLE

ANOTHER = "a task of another owner"
_HEAD = re.compile(r"\bthe head, ([a-z0-9-]+),")
_LISTED = re.compile(r"(\d+ tasks?) \(([^()]+)\)")
_STATED = re.compile(rf"\b([a-z0-9-]+) \(({'|'.join([*State, UNREADABLE])})\)")
_ENDED = re.compile(rf"\b([a-z0-9-]+), which is (?:{'|'.join(State)})\b")
_FOR = re.compile(r"\b([a-z0-9-]+) of owner ([a-z0-9-]+)\b")
_OWNERS = re.compile(r"(\d+ owners?) \(([^()]+)\)")
_SHARE = re.compile(r"([a-z0-9-]+) (?:\d[\d.e+-]*|beyond all)(?:, within its guarantee)?")
_SHARES = re.compile(rf"({_SHARE.pattern}(?:, {_SHARE.pattern})*)(?: and \d+ more)?")
_SHARE_OF = re.compile(r"\bthe share of (.+) cannot be read\b")
_OWNER = re.compile(r"\bowner ([a-z0-9-]+)\b")
_OF_OWNER, _NEVER_RAN = " of owner ", "it was to run "  # what the leader's messages with names of others have

Sees = Callable[[str], bool]
"""Whether the caller may know of the task, or the owner, of this name."""


def veiled(text: str, sees_task: Sees, sees_owner: Sees, owners: Container[str] = ()) -> str:
    """The sentence without names that the caller may not know. `owners` are those that there are."""

    def head(match: re.Match[str]) -> str:
        return match[0] if sees_task(match[1]) else f"the head, {ANOTHER},"

    def listed(match: re.Match[str]) -> str:
        shown, more, rest = match[2].partition(" and ")  # `a, b, c and 1 more`
        names = shown.split(", ")
        known = [name for name in names if sees_task(name)]
        if len(known) == len(names):
            return match[0]
        return f"{match[1]} ({', '.join([*known, 'of other owners'])}{more}{rest})"

    def stated(match: re.Match[str]) -> str:
        return match[0] if sees_task(match[1]) else f"{match[1]} (of another owner)"  # its own spec names it

    def ended(match: re.Match[str]) -> str:
        return match[0] if sees_task(match[1]) else f"{match[1]} (of another owner)"

    def stopped_for(match: re.Match[str]) -> str:
        return match[0] if sees_owner(match[2]) else ANOTHER

    def owner(match: re.Match[str]) -> str:
        return match[0] if match[1] not in owners or sees_owner(match[1]) else "another owner"

    def owners_before(match: re.Match[str]) -> str:
        # only what was read whole is known to name nobody else
        shown = _SHARES.fullmatch(match[2])
        is_known = shown is not None and all(map(sees_owner, _SHARE.findall(shown[1])))
        return match[0] if is_known else f"{match[1]} (not told)"

    text = _OWNERS.sub(owners_before, _ENDED.sub(ended, text))
    text = _STATED.sub(stated, _LISTED.sub(listed, _HEAD.sub(head, text)))
    return _OWNER.sub(owner, _FOR.sub(stopped_for, text))


def own_notes(notes: Iterable[str], sees_owner: Sees) -> list[str]:
    """The notes on what was used, but those on owners that the caller may not know."""
    return [note for note in notes if all(map(sees_owner, _SHARE_OF.findall(note)))]


class MessageVeil:
    """The same for messages of statuses, which are stored: of tasks that were there then.

    `owner_of` tells whose a task is; None if that is not known. An engine's words are left as they are.
    """

    def __init__(self, owner_of: Callable[[str], str | None], sees_owner: Sees) -> None:
        self._owner_of = owner_of
        self._sees_owner = sees_owner

    def message(self, text: str) -> str:
        """The message as the caller may know it."""
        if text.startswith(_NEVER_RAN):
            return _ENDED.sub(self._ended, text)
        return veiled(text, lambda _: True, self._sees_owner) if _OF_OWNER in text else text

    def document(self, document: dict[str, Any]) -> None:
        """Veil the messages of a task's document, in place."""
        status = document.get("status") or {}
        for each in (document, status, *status.get("history", ())):
            if isinstance(text := each.get("message"), str):
                each["message"] = self.message(text)

    def event(self, event: bytes) -> bytes:
        """An event of the stream of changes, as it is sent."""
        head, data, fields = event.partition(b"\ndata: ")
        if _OF_OWNER.encode() not in fields and _NEVER_RAN.encode() not in fields:
            return event
        decoded = msgspec.json.decode(fields)
        if isinstance(text := decoded.get("message"), str):
            decoded["message"] = self.message(text)
        return head + data + msgspec.json.encode(decoded) + b"\n"

    def _ended(self, match: re.Match[str]) -> str:
        owner = self._owner_of(match[1])
        if owner is None:
            return match[1]  # it is gone, and nobody knows whose it was
        return match[0] if self._sees_owner(owner) else f"{match[1]} (of another owner)"
