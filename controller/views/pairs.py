"""What one member of an array waits for: tasks, as its array does, and members of other arrays.

Of an array that is named with `index: same`, it waits for the member of its own index alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from controller.core.model.after import Dependency
from controller.core.model.arrays import MemberName
from controller.core.model.gates import meets
from controller.core.model.lifecycle import State
from controller.core.model.model import Model
from controller.core.model.paired import REFUSALS, Former
from controller.core.model.records import Task
from controller.core.model.task import Status
from controller.views.arrays import UNREADABLE, is_hidden, member_without_status, state_within


@dataclass(frozen=True, slots=True)
class Around:
    """A member, and the task of its array. `status` is None if it has not begun, or cannot be read."""

    array: Task
    index: int
    status: Status | None

    @property
    def has_begun(self) -> bool:
        """Whether it has begun once: what it had waited for had ended as it should."""
        status = self.status
        return status is not None and status.attempt > 0 and status.reason not in REFUSALS

    def pairs(self) -> Iterator[tuple[Dependency, Former | None]]:
        """What its array waits for; with the array whose member of its index it waits for, if it does so."""
        spec, paired = self.array.spec, self.array.array.paired if self.array.array is not None else None
        formers = {each.name: each for each in paired.formers} if paired is not None else {}
        for each in spec.after if spec is not None and not self.array.frozen else ():
            yield each, formers.get(each.task) if each.is_paired else None


def around(model: Model, name: str) -> Around | None:
    """The member of this name, in whatever phase; None if no array has one, or a task has its name."""
    task = model.tasks.get(name)
    if task is not None and (task.spec_mod or task.status_mod or task.frozen & {"tasks", "states"}):
        if task.source is None or task.status is None or not is_hidden(task):
            return None
        return Around(task.source, task.status.index, task.status)
    found = member_without_status(model, name)
    return Around(found.array, found.member.index, found.status) if found is not None else None


def is_unfinished(former: Former, index: int) -> bool:
    """Whether the member of this index of an array has not ended, or is about to run again."""
    if former.parent is None or former.is_met(index):
        return False
    ending = former.ending(index)
    return ending is None or meets(ending, former.when)


def unfinished(member: Around) -> int:
    """For how many of them it waits."""
    gate = member.array.gate
    held = gate.unfinished if gate is not None else ()
    return sum(
        is_unfinished(former, member.index) if former is not None else each.task in held
        for each, former in member.pairs()
    )


def state_of_pair(model: Model, name: str, index: int) -> State | None:
    """The state of a member of an array; None if there is none, or it cannot be read."""
    task = model.tasks.get(name)
    array = task.array if task is not None else None
    if array is None:
        return None
    if index in array.members:
        state = state_within(array, index)
        return array.members[index].state if state != UNREADABLE else None
    found = member_without_status(model, str(MemberName(name, index)))
    return found.state if found is not None else None
