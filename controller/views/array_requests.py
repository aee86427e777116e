"""What a request on an array, or on a member by its name, is about, and whether there is anything to do."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple, Protocol

from controller.core.model.arrays import MAX_SIZE, MemberName, Ranges
from controller.core.model.lifecycle import FINISHED, State
from controller.core.model.model import Model
from controller.core.model.requests import Request, RequestKind
from controller.core.planning.arrays import refusal
from controller.errors import InvalidField, UserError
from controller.views.arrays import MEMBER_STATES, UNREADABLE, ArrayProgress, members_of
from controller.views.gangs import is_gang

MAX_CHARACTERS = 1024
CANCELLABLE = frozenset((*MEMBER_STATES, UNREADABLE)) - FINISHED
"""States of members that are not left as they are by a cancel."""


_WHOLE = "{} is {}, which runs and ends whole: ask for all of it, as {}"


class _Shown(Protocol):
    """A task as it is shown."""

    @property
    def id(self) -> str: ...

    @property
    def progress(self) -> ArrayProgress | None: ...

    @property
    def member_of(self) -> str: ...


class Part(NamedTuple):
    """Members of an array: those of the ranges `members`; "" for all. `only_failed` as in Request."""

    array: str
    members: str
    only_failed: bool = False

    @property
    def is_whole(self) -> bool:
        """Whether it is the array itself."""
        return not self.members

    @property
    def words(self) -> str:
        """Which they are, to begin a sentence."""
        return f"{self.array}[{self.members}]" if self.members else self.array

    def has(self, model: Model, states: Collection[str]) -> bool:
        """Whether any of the members is in one of these states."""
        ranges = Ranges.parse(self.members)
        found = members_of(model, self.array, limit=1, states=states, ranges=ranges)
        return found is not None and bool(found.items)

    def check_retry(self, model: Model) -> None:
        """Raises UserError if a retry of these members could not take effect, and says why."""
        task = model.tasks[self.array]
        if task.state is State.SUCCEEDED:
            raise UserError(
                f"{self.array} is Succeeded, and an array of which all members succeeded cannot be retried:"
                " submit it under another name"
            )
        if RequestKind.CANCEL in task.requests:
            raise UserError(f"the leader has yet to cancel members of {self.array}: retry them then")
        states = [State.FAILED.value] if self.only_failed else [State.FAILED.value, State.CANCELLED.value]
        asked = RequestKind.RETRY in task.requests  # whatever it is about may be on its way
        if not asked and not self.has(model, states) and not self._is_being_cancelled(model):
            raise UserError(
                f"no member of {self.words} is {' or '.join(states)}: see"
                f" `tally get task {self.array} --members`"
            )
        request = Request(kind=RequestKind.RETRY, members=self.members, only_failed=self.only_failed)
        why = refusal(task, task.array, request) if task.array is not None else ""
        if why and not asked:
            raise UserError(f"{self.words} cannot be retried: {why}")

    def _is_being_cancelled(self, model: Model) -> bool:
        array, ranges = model.tasks[self.array].array, Ranges.parse(self.members)
        return array is not None and any(
            index in ranges and task.status is not None and task.status.cancelling
            for index, task in array.members.items()
        )


def part_of(model: Model, view: _Shown, members: str, *, only_failed: bool = False) -> Part | None:
    """What a request is about that names this task, and `members` of it; None: a task that is no array.

    Raises InvalidField for what are no ranges, or no members of the array, and UserError for those of another
    task. A member that is left of an array that is gone is a task like any other.
    """
    text = str(ranges := Ranges.parse(members))
    if len(text) > MAX_CHARACTERS:
        raise InvalidField(
            "members", f"has {len(text):,} characters, but at most {MAX_CHARACTERS:,} are allowed at once"
        )
    member = MemberName.parse(view.id) if view.member_of else None
    array = model.tasks.get(view.member_of)
    asked = f"[{text}]" if text else "--failed"
    if member is not None and array is not None and is_gang(array.spec):
        raise UserError(_WHOLE.format(view.id, f"a member of the gang {array.id}", array.id))
    if view.progress is not None and is_gang(model.tasks[view.id].spec):
        if text or only_failed:
            what = "part of a gang" if text else "a gang"
            raise UserError(_WHOLE.format(f"{view.id}{asked if text else ''}", what, view.id))
        return None
    if member is not None and array is not None and array.array is not None and not text:
        return Part(member.array, str(member.index), only_failed)
    if view.progress is None:
        if text or only_failed:
            raise UserError(f"{view.id} is no array, and has no members: leave {asked} out")
        return None
    size = view.progress.size
    if ranges.count(size) != ranges.count(MAX_SIZE) and not ranges.is_all:
        raise InvalidField("members", f"{view.id} has {size:,} members, 0 to {size - 1}: it has no {text}")
    return Part(view.id, text, only_failed)
