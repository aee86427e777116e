"""What submitted tasks wait for among each other and those that are there: their order, and what is refused.

Pure. Whoever submits asks this, and whoever supposes a submission.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from controller.core.model.arrays import MemberName
from controller.core.model.task import Spec
from controller.errors import InvalidField

SHOWN = 5
GANG = -1  # in place of a number of members: they end together


class LeftOut(NamedTuple):
    """The task at this place of the input, from 0, cannot be submitted."""

    place: int
    name: str
    problem: InvalidField


class SubmitOrder(NamedTuple):
    """The indexes of tasks, each behind those that it waits for, and otherwise as they were given."""

    places: list[int]
    left_out: list[LeftOut]  # since they wait for each other, or for such


def have_parents(tasks: Iterable[object]) -> bool:
    """Whether any of them waits for another task."""
    return any(map(_parents, tasks))


def in_order(tasks: Sequence[object]) -> SubmitOrder:
    """Sort mappings or specs, as little as is needed."""
    first: dict[str, int] = {}
    for index, task in enumerate(tasks):
        if (name := _name(task)) and name not in first:
            first[name] = index
    after = {
        index: [first[name] for name in names if name in first]
        for index, task in enumerate(tasks)
        if (names := _parents(task))
    }
    order, cycles = _sorted(len(tasks), after)
    results = []
    for cycle in cycles:
        names = [_name(tasks[index]) for index in cycle]
        for position, index in enumerate(cycle):
            round_trip = [*names[position:], *names[:position], names[position]]
            shown = round_trip if len(round_trip) <= 12 else [*round_trip[:6], "…", *round_trip[-5:]]
            text = f"these tasks wait for each other, so none could run: {' → '.join(shown)}"
            results.append(LeftOut(index, names[position], InvalidField("after", text)))
    left_out = {result.place for result in results}
    places = []
    for index in order:
        if index in left_out:
            continue
        behind = next((each for each in after.get(index, ()) if each in left_out), None)
        if behind is None:
            places.append(index)
            continue
        parent = _name(tasks[behind])
        left_out.add(index)
        problem = behind_refused(_parents(tasks[index]).index(parent), parent)
        results.append(LeftOut(index, _name(tasks[index]), problem))
    return SubmitOrder(places, results)


def behind_refused(index: int, name: str) -> InvalidField:
    """A task waits, as the entry at this index of `after` says, for one that was refused."""
    return InvalidField(
        f"after[{index}].task",
        f"{name} was refused, so nothing can wait for it: correct it, and submit both again",
    )


def no_tasks(names: Sequence[str], absent: Sequence[int]) -> InvalidField:
    """Of the names in `after`, there is no task at these indexes."""
    others = [names[index] for index in absent[1:]]
    more = f" and {len(others) - SHOWN} more" if len(others) > SHOWN else ""
    nor = f", nor {', '.join(others[:SHOWN])}{more}" if others else ""
    return InvalidField(
        f"after[{absent[0]}].task",
        f"there is no task {names[absent[0]]}{nor}: submit what it waits for first, or correct the name",
    )


def one_member(index: int, member: MemberName) -> InvalidField:
    """The entry at this index of `after` names a member of an array."""
    text = (
        f"{member} is a member of the array {member.array}, and a task cannot wait for one member: name"
        f" {member.array}, to wait for all of it, or in another array {member.array} with `index: same`"
    )
    return InvalidField(f"after[{index}].task", text)


def size_of(spec: Spec) -> int:
    """How many members it has; 0: it is no array; or GANG."""
    array = spec.array
    return 0 if array is None else GANG if array.gang else array.size


def unequal(spec: Spec, size_of_parent: Callable[[str], int | None]) -> InvalidField | None:
    """Why members cannot wait each for one of an array, as far as its size is known; None if they can."""
    for index, dependency in enumerate(spec.after):
        size = size_of_parent(dependency.task) if dependency.is_paired else None
        if size is None or spec.array is None or size == spec.array.size:
            continue
        text = f"is `same`, but {dependency.task}"
        if size > 0:
            text += (
                f" has {size:,} members, and this array has {spec.array.size:,}: leave it out, to wait"
                " for all of it, or give both as many members"
            )
        else:
            what = "a gang, whose members end together" if size == GANG else "no array"
            text += f" is {what}: leave it out, to wait for the end of {dependency.task}"
        return InvalidField(f"after[{index}].index", text)
    return None


def _sorted(count: int, after: Mapping[int, Sequence[int]]) -> tuple[list[int], list[list[int]]]:
    """All indexes, each behind those that it comes after, and otherwise in order; and cycles among them.

    A cycle is a list of indexes of which each comes after the next one, and the last one after the first.
    """
    order: list[int] = []
    cycles: list[list[int]] = []
    state = bytearray(count)  # 0: not seen; 1: on the path; 2: done
    in_cycle: set[int] = set()
    for start in range(count):
        if state[start]:
            continue
        path: list[tuple[int, Iterator[int]]] = [(start, iter(after.get(start, ())))]
        state[start] = 1
        while path:
            index, rest = path[-1]
            following = next(rest, None)
            if following is None:
                path.pop()
                state[index] = 2
                order.append(index)
            elif not state[following]:
                state[following] = 1
                path.append((following, iter(after.get(following, ()))))
            elif state[following] == 1:
                begin = next(place for place, (each, _) in enumerate(path) if each == following)
                cycle = [each for each, _ in path[begin:]]
                if not in_cycle.issuperset(cycle):
                    cycles.append([each for each in cycle if each not in in_cycle])
                    in_cycle.update(cycle)
    return order, cycles


def _name(task: object) -> str:
    name = task.id if isinstance(task, Spec) else task.get("id") if isinstance(task, Mapping) else None
    return name if isinstance(name, str) else ""


def _parents(task: object) -> list[str]:
    """The names of those that it waits for, as far as they can be read."""
    if isinstance(task, Spec):
        return [dependency.task for dependency in task.after]
    raw = task.get("after") if isinstance(task, Mapping) else None
    found = [each.get("task") if isinstance(each, Mapping) else each for each in _items(raw)]
    return [name for name in found if isinstance(name, str)]


def _items(raw: object) -> Sequence[object]:
    return raw if isinstance(raw, list | tuple) else ()
