"""Which member of an array begins next, when it is the array's turn to be admitted."""

from __future__ import annotations

import msgspec

from controller.core.model.array_records import Array, given_up
from controller.core.model.arrays import MemberName
from controller.core.model.lifecycle import State
from controller.core.model.model import Model
from controller.core.model.records import Task
from controller.core.model.task import Status
from controller.core.planning import transitions
from controller.core.planning.draft import Draft
from controller.core.planning.transitions import Moment
from controller.core.promise.attempts import Attempts


class _Turn:
    """How far a draft has come with an array: where to look on, and how many it begins."""

    def __init__(self) -> None:
        self.start = 0
        self.begun = 0


def _fails_in(array: Array, draft: Draft) -> bool:
    """Whether a member fails in what the model does not show yet, and no other one is to run after that."""
    if array.spec is None or array.spec.array is None or not array.spec.array.fail_fast:
        return False
    statuses = (change.status for change in draft.changes())
    return any(
        status is not None and status.array == array.name and status.state is State.FAILED
        for status in statuses
    )


class Members:
    """See the module's docstring. `taken` has the members whose names other tasks have, by array."""

    def __init__(self, model: Model, attempts: Attempts) -> None:
        self._model = model
        self._attempts = attempts
        self.taken: dict[str, dict[int, None]] = {}
        self._draft: Draft | None = None
        self._turns: dict[str, _Turn] = {}

    def may_begin(self, array: Array, draft: Draft) -> bool:
        """Whether a member of the array may begin in this draft."""
        turn = self._turn(array, draft)
        if array.room(turn.begun) <= 0 or _fails_in(array, draft):
            return False
        index = array.next_index(turn.start, lambda index: self.is_free(array, index, draft))
        turn.start = index if index is not None else array.size
        return index is not None

    def next(self, task: Task, draft: Draft) -> tuple[Task, int]:
        """The member for which `may_begin` was true, as a task that waits where the array does; its index."""
        assert task.array is not None
        assert task.spec is not None
        index = self._turn(task.array, draft).start
        member = self._model.arrays.member(task, index)
        return member, index

    def admitted(self, member: Task, index: int, pool_mod: int, moment: Moment) -> Status:
        """The first status of that member. Its attempts are counted on."""
        task = member.source
        assert task is not None
        assert task.array is not None
        assert member.spec is not None
        fate = task.array.fate(index)
        number = max(fate.attempts, self._attempts.highest(member.id)) + 1
        status = transitions.admitted(member, member.spec, pool_mod, number, moment)
        priority = task.status.priority if task.status is not None else None
        return msgspec.structs.replace(
            status, array=task.id, index=index, priority=priority, abandoned=fate.abandoned
        )

    def began(self, task: Task, draft: Draft) -> None:
        """The draft has taken in the admission of that member."""
        assert task.array is not None
        turn = self._turn(task.array, draft)
        turn.start, turn.begun = turn.start + 1, turn.begun + 1

    def is_free(self, array: Array, index: int, draft: Draft) -> bool:
        """Whether no task, no attempt and no change of the draft has the member's name. A task's is noted.

        One without a spec has it no longer than until it has ended, unless others wait for it.
        """
        name = str(MemberName(array.name, index))
        known = self._model.tasks.get(name)
        if known is not None:  # another task of this name, or what cannot be read
            stays = known.spec_mod or self._model.dependencies.keeps(name)
            if stays and not known.member_of and not known.frozen:
                self.taken.setdefault(array.name, {})[index] = None
            return False
        if draft.has_changed(name):
            return False
        member = Task(name)
        return not self._attempts.may_overlap(member) or not self._attempts.may_overlap(
            member, given_up=given_up(array, index)
        )

    def _turn(self, array: Array, draft: Draft) -> _Turn:
        if self._draft is not draft:
            self._draft, self._turns = draft, {}
        turn = self._turns.get(array.name)
        if turn is None:
            turn = self._turns[array.name] = _Turn()
            for change in draft.changes():
                member = self._model.tasks.get(change.task_id)
                is_shown = member is not None and member.status is not None and not member.status.is_finished
                if change.status is not None and change.status.array == array.name and not is_shown:
                    turn.begun += not change.status.is_finished
        return turn
