"""The order in which tasks are submitted together: each after those that it waits for. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Generic, NamedTuple, TypeVar

import msgspec

from controller.client.prepared import SubmitResult
from controller.core.model.awaited import LeftOut, have_parents, in_order
from controller.core.model.scalars import shown
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


def several(items: Iterable[T], field: str) -> Iterable[T]:
    """The items. Raises InvalidField for one in their place, of which each letter or key would be taken."""
    if isinstance(items, str | bytes | Mapping):
        raise InvalidField(field, f"is one, {shown(items)}; expected a list of them")
    return items


def ordered(tasks: Iterable[T]) -> Ordered[T]:
    """Sort what is there as a whole, as little as is needed. A stream is left as it is."""
    if not isinstance(tasks, Sequence) or not have_parents(tasks):
        return Ordered(tasks)
    order = in_order(tasks)
    return Ordered([tasks[index] for index in order.places], order.places, [*map(_result, order.left_out)])


def _result(one: LeftOut) -> SubmitResult:
    problem = one.problem
    return SubmitResult(
        id=one.name, outcome="invalid", message=str(problem), index=one.place, field=problem.field
    )
