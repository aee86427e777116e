"""Which tasks are shown otherwise after a change of a record: an array follows from several records.

A change has names: that of the task whose record it is; of a status that may be a member's, also
`<array>/i`; and of a block, `<array>/<n>`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from controller.core.model import blocks
from controller.core.model.arrays import MemberName
from controller.core.model.blocks import LENGTH
from controller.core.model.model import Model
from controller.core.model.records import Change
from controller.views.arrays import member_without_status


def names_of(change: Change) -> tuple[str, ...]:
    """The names of a change of a task's record, or of a block."""
    name = change.names[0]
    if change.kind == blocks.KIND:
        return (f"{name}/{change.names[1]}",)
    member = MemberName.parse(name) if change.kind == "states" else None
    return (name, f"{member.array}/i") if member is not None else (name,)


def listed_among(changed: Iterable[str]) -> set[str]:
    """The tasks that lists show otherwise after these changes."""
    return {name.partition("/")[0] for name in changed}


def named_among(changed: Collection[str], wanted: Collection[str]) -> set[str]:
    """Those of the `wanted` tasks, and members by their names, that may be shown otherwise."""
    if not changed:
        return set()
    found = {task_id for name in changed if (task_id := name.partition("/")[0]) in wanted}
    arrays = {name.partition("/")[0] for name in changed}
    for name in wanted:
        if "-i" not in name or name.rpartition("-i")[0] not in arrays:
            continue  # nearly all: whoever waits for many hears of every change
        member = MemberName.parse(name)
        if member is not None and (
            member.array in changed or f"{member.array}/{member.index // LENGTH}" in changed
        ):
            found.add(name)
    return found


def placed_among(model: Model, changed: Iterable[str], *, by_reason: bool = False) -> dict[str, None]:
    """The tasks that lists may have elsewhere: with the spec of an array comes or goes what they hide.

    `by_reason`: lists that are sorted by it, which a task has also from those that it waits for.
    """
    found: dict[str, None] = {}
    for name in changed:
        task_id, _, part = name.partition("/")
        found[task_id] = None
        array = model.arrays.of(task_id) if not part else None
        if array is not None:
            found |= dict.fromkeys(member.id for member in array.members.values())
        if by_reason:
            found |= dict.fromkeys(model.dependencies.children(task_id))
    return found


def is_array_or_member(model: Model, task_id: str) -> bool:
    """Whether what is shown of the task follows from other records than its own, too."""
    task = model.tasks.get(task_id)
    if task is None or not task.exists:
        return member_without_status(model, task_id) is not None
    return task.array is not None or bool(task.member_of)
