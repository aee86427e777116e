"""Gates: what keeps a task back until the tasks that it names have ended. See `dependencies`."""

from __future__ import annotations

from typing import NamedTuple

from controller.core.model.after import When
from controller.core.model.lifecycle import FINISHED, State

_MEETS: dict[When, frozenset[State]] = {
    When.SUCCEEDED: frozenset({State.SUCCEEDED}),
    When.FAILED: frozenset({State.FAILED}),
    When.FINISHED: FINISHED,
}


def meets(state: State, when: When) -> bool:
    """Whether a task in this state has ended in that way."""
    return state in _MEETS[when]


UNREADABLE = -1


class Parent(NamedTuple):
    """A task as those see it that wait for it.

    `create` and `told` are the create revision and the submission time of its spec; `create` is 0 if the spec
    is gone. `ending` is the state in which it has ended, at `ended_at` (seconds since the epoch); None if it
    has not, as far as can be read, or is about to run again. `size` is how many members it has, if it is an
    array, and not a gang; 0 if it is none, and UNREADABLE if that cannot be told. `of` tells its spec from
    those of other arrays. `has_begun`: any of its members has. `is_retried`: a user asks for some again.
    """

    create: int
    told: float
    ending: State | None = None
    ended_at: float = 0.0
    size: int = 0
    of: str = ""
    has_begun: bool = False
    is_retried: bool = False

    def is_before(self, name: str, child: tuple[int, float, str]) -> bool:
        """Whether this task, of that name, is older than a child of these: create, told and name.

        One whose spec is gone waits for nothing, so it is in no cycle.
        """
        return (self.create, self.told, name) < child if self.create else name != child[2]


class Gate:
    """What the parents of a waiting task come to. Names are in the order of arrival.

    `unfinished` have not ended. `partly` are arrays that have not, and some of their members have, for which
    members of this array wait. `unmet` have ended in another way than the task wants. `unknown` do not exist,
    or are not older than the task; with them is how many members such an array must have, or 0. It is open
    since `opened_at`, in seconds since the epoch.
    """

    __slots__ = ("opened_at", "partly", "unfinished", "unknown", "unmet")

    def __init__(self) -> None:
        self.unfinished: dict[str, None] = {}
        self.partly: dict[str, None] = {}
        self.unmet: dict[str, tuple[When, State]] = {}  # as the task wants it, and as it is
        self.unknown: dict[str, int] = {}
        self.opened_at = 0.0

    def copy(self) -> Gate:
        """Another one that is the same."""
        gate = Gate()
        gate.unfinished, gate.partly = self.unfinished.copy(), self.partly.copy()
        gate.unmet, gate.unknown = self.unmet.copy(), self.unknown.copy()
        gate.opened_at = self.opened_at
        return gate

    @property
    def is_open(self) -> bool:
        """Whether the task may run."""
        return not (self.unfinished or self.unmet or self.unknown)

    @property
    def is_decided(self) -> bool:
        """Whether it is certain what becomes of the task: it may run, or never will."""
        return bool(self.unknown) or not (self.unfinished or self.partly)

    @property
    def never_opens(self) -> bool:
        """Whether it is certain that the task never runs."""
        return self.is_decided and not self.is_open

    def forget(self, name: str) -> None:
        """Nothing is to be waited for."""
        self.unfinished.pop(name, None)
        self.partly.pop(name, None)
        self.unmet.pop(name, None)
        self.unknown.pop(name, None)

    def note(self, name: str, when: When, parent: Parent | None) -> None:
        """Take in what has become of one parent; None: there is no such task that is older."""
        self.forget(name)
        if parent is None:
            self.unknown[name] = 0
        elif parent.ending is None:
            self.unfinished[name] = None
        elif meets(parent.ending, when):
            self.opened_at = max(self.opened_at, parent.ended_at)
        else:
            self.unmet[name] = when, parent.ending

    def note_members(self, name: str, parent: Parent | None) -> None:
        """As `note_array`, once members have begun, or ended: each waits for itself, and closes no gate.

        What is left of them is decided when that array has ended.
        """
        self.forget(name)
        if parent is not None and parent.ending is None:
            self.partly[name] = None

    def note_array(self, name: str, when: When, parent: Parent | None, size: int, *, is_turned: bool) -> None:
        """As `note`, of an array for whose members those of an array of this size wait, each for one.

        `is_turned`: it is certain of some of them what becomes of them.
        """
        self.forget(name)
        if parent is None or parent.size not in (size, UNREADABLE):
            self.unknown[name] = size
        elif parent.ending is None:
            (self.partly if is_turned else self.unfinished)[name] = None
        elif parent.has_begun:
            self.opened_at = max(self.opened_at, parent.ended_at)
        else:
            self.note(name, when, parent)
