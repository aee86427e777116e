"""Why there is no task of a name that a member of an array could have."""

from __future__ import annotations

from controller.core.model.array_records import Array
from controller.core.model.arrays import MemberName
from controller.core.model.blocks import MemberOutcome
from controller.core.model.model import Model
from controller.core.planning.folding import NAME_TAKEN
from controller.views.dependencies import Sees


def why_absent(model: Model, name: str, sees: Sees | None = None) -> str:
    """What is told of an array that has no task of this name for a member; "" if there is no such array.

    `sees` tells which arrays the reader may know; None: all.
    """
    found = _seen(model, name, sees)
    if found is None:
        return ""
    array, index = found
    if index >= array.size:
        return f"{array.name} has {array.size:,} members, 0 to {array.size - 1}: it has no {index}"
    return why_taken(model, name, sees)


def why_taken(model: Model, name: str, sees: Sees | None = None) -> str:
    """That a member of an array never ran, since another task had its name; "" if that is not so."""
    found = _seen(model, name, sees)
    if found is None:
        return ""
    array, index = found
    fate = array.fate(index)
    if fate.outcome is not MemberOutcome.FAILED or fate.reason != NAME_TAKEN.reason or fate.attempts:
        return ""
    return (
        f"member {index} of {array.name} never ran, since another task has its name: rename or remove"
        f" that one, and run `tally retry '{array.name}[{index}]'`"
    )


def _seen(model: Model, name: str, sees: Sees | None) -> tuple[Array, int] | None:
    """The array of whose members one could have this name, and its index; None if none is there to see."""
    member = MemberName.parse(name)
    array = model.arrays.of(member.array) if member is not None else None
    if member is None or array is None or array.task is None or (sees is not None and not sees(array.task)):
        return None
    return array, member.index
