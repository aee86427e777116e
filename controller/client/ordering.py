"""The order in which tasks are submitted together: each after those that it waits for. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Generic, NamedTuple, TypeVar

import msgspec

from controller.client.prepared import SubmitResult
from controller.core.model.task import Spec
from controller.errors import InvalidField

T = TypeVar("T")


class Ordered(NamedTuple, Generic[T]):
    """Tasks in an order in which they can be submitted.

    `places` are their positions in the input; None: they are as they were, and none is known to wait for
    another. `cyclic` are the results of those that are left out, since they wait for each other, or for such.
    """

    tasks: Iterable[T]
    places: Sequence[int] | None = None
    cyclic: Sequence[SubmitResult] = ()

    def placed(self, result: SubmitResult) -> SubmitResult:
        """A result, with the position that its task has in the input."""
        if self.places is None:
            return result
        return msgspec.structs.replace(result, index=self.places[result.index])


def ordered(tasks: Iterable[T]) -> Ordered[T]:
    """Sort what is there as a whole, as little as is needed. A stream is left as it is."""
    if not isinstance(tasks, Sequence) or not any(map(_parents, tasks)):
        return Ordered(tasks)
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
            message = f"after: these tasks wait for each other, so none could run: {' → '.join(shown)}"
            results.append(
                SubmitResult(
                    id=names[position], outcome="invalid", message=message, index=index, field="after"
                )
            )
    left_out = {result.index for result in results}
    places = []
    for index in order:
        if index not in left_out:
            behind = next((each for each in after.get(index, ()) if each in left_out), None)
            if behind is None:
                places.append(index)
                continue
            parent = _name(tasks[behind])
            problem = behind_refused(_parents(tasks[index]).index(parent), parent)
            left_out.add(index)
            results.append(
                SubmitResult(
                    id=_name(tasks[index]),
                    outcome="invalid",
                    message=str(problem),
                    index=index,
                    field=problem.field,
                )
            )
    return Ordered([tasks[index] for index in places], places, results)


def behind_refused(index: int, name: str) -> InvalidField:
    """A task waits, as the entry at this index of `after` says, for one that was refused."""
    return InvalidField(
        f"after[{index}].task",
        f"{name} was refused, so nothing can wait for it: correct it, and submit both again",
    )


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
