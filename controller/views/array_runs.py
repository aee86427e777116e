"""All members of arrays at once: how many are in each state, and their states as runs of neighbours.

The cost follows the blocks and the members under way, never the size of an array.
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct

from controller.core.model.array_records import Array
from controller.core.model.blocks import LENGTH, MemberOutcome
from controller.core.model.lifecycle import State
from controller.core.model.model import Model
from controller.views.arrays import SHOWN, UNREADABLE, WAITING_MEMBER, counts_of, never_begin, state_within

MAX_RUNS = 20_000


def members_by_pool(model: Model) -> dict[tuple[str, str], int]:
    """How many members are in each pool and state, of MEMBER_STATES and UNREADABLE.

    The cost follows the number of arrays, and of members under way.
    """
    found: dict[tuple[str, str], int] = {}
    for array in model.arrays:
        if array.task is not None:
            for state, number in counts_of(array).items():
                place = (array.task.pool, state)
                found[place] = found.get(place, 0) + number
    return found


class MemberRuns(Struct, frozen=True, kw_only=True):
    """The states of an array's members, in the order of their indexes.

    A run is how many neighbours have one state, and that state: one of MEMBER_STATES and UNREADABLE. If there
    are more than MAX_RUNS, the last members are left out, and the array is `truncated`.
    """

    id: str
    size: int
    runs: list[tuple[int, str]]
    truncated: bool = False


def runs_of(model: Model, task_id: str) -> MemberRuns | None:
    """The states of all members of an array; None: it is no array."""
    task = model.tasks.get(task_id)
    array = task.array if task is not None else None
    if array is None:
        return None
    runs: list[tuple[int, str]] = []
    for count, state in _runs(array):
        if runs and runs[-1][1] == state:
            runs[-1] = (runs[-1][0] + count, state)
        elif len(runs) == MAX_RUNS:
            return MemberRuns(id=task_id, size=array.size, runs=runs, truncated=True)
        else:
            runs.append((count, state))
    return MemberRuns(id=task_id, size=array.size, runs=runs)


# -- details


def _runs(array: Array) -> Iterator[tuple[int, str]]:
    """As `runs_of`; neighbouring runs may have one state."""
    index, under_way = 0, iter([*sorted(array.members), array.size])
    stop = next(under_way)
    for count, state in _folded_runs(array):
        end = index + count
        while index < end:
            if index == stop:
                yield 1, state_within(array, index)
                index, stop = index + 1, next(under_way)
            else:
                upto = min(end, stop)
                yield upto - index, state
                index = upto


def _folded_runs(array: Array) -> Iterator[tuple[int, str]]:
    """The runs of all members, as if none were under way."""
    waiting = State.CANCELLED.value if never_begin(array) else WAITING_MEMBER
    shown = SHOWN | {MemberOutcome.WAITING: waiting}
    for number in range((array.size + LENGTH - 1) // LENGTH):
        rest = array.length(number)
        for count, fate in array.block(number).runs if number not in array.unreadable else ():
            if rest:
                yield min(count, rest), shown[fate.outcome]
            rest -= min(count, rest)
        if rest:
            yield rest, waiting if number not in array.unreadable else UNREADABLE
