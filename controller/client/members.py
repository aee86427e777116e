"""The members of an array, in the order of their indexes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from controller.client.reading import Reading
from controller.core.model.arrays import MAX_SIZE, Ranges
from controller.core.model.model import Model
from controller.core.model.scalars import parse_integer
from controller.errors import UserError
from controller.views.arrays import MAX_PAGE, PAGE, MemberPage, MemberView, members_of, parse_member_states


class ArrayMembers:
    """See the module's docstring. They are members also before they begin, and after they have ended."""

    def __init__(self, reading: Reading) -> None:
        self._reading = reading

    def __call__(self, array: str, *, state: str = "", members: str = "") -> Iterator[MemberView]:
        """The members of these ranges (`7`, `100-200,300`; "": all) and states, at one moment.

        `state` names one or more of MEMBER_STATES, separated by commas; also `holding` and `finished`. Raises
        NotFound, InvalidField for what are no ranges, and UserError for an unknown state, or if it is no
        array.
        """
        states, ranges = checked(0, MAX_PAGE, state, members)
        model = self._reading.tasks(array)
        return each_page(lambda offset: self._found(model, array, offset, MAX_PAGE, states, ranges))

    def page(
        self, array: str, *, offset: int = 0, limit: int = PAGE, state: str = "", members: str = ""
    ) -> MemberPage:
        """At most `limit` (1 to MAX_PAGE) of these, from the index `offset` on. Raises as the iterator."""
        states, ranges = checked(offset, limit, state, members)
        return self._found(self._reading.tasks(array), array, offset, limit, states, ranges)

    def _found(
        self,
        model: Model,
        array: str,
        offset: int,
        limit: int,
        states: frozenset[str] | None,
        ranges: Ranges,
    ) -> MemberPage:
        found = members_of(model, array, offset=offset, limit=limit, states=states, ranges=ranges)
        if found is None:
            self._reading.found(model, array, alone=True)
            raise no_array(array)
        return found


def each_page(page: Callable[[int], MemberPage]) -> Iterator[MemberView]:
    """The members of all pages, each of which begins at an index. The first one is read at once."""
    first = page(0)  # what is wrong is raised here

    def rest() -> Iterator[MemberView]:
        found, offset = first
        yield from found
        while offset is not None:
            found, offset = page(offset)
            yield from found

    return rest()


def checked(offset: int, limit: int, state: str, members: str) -> tuple[frozenset[str] | None, Ranges]:
    """The states (None: all) and the ranges. Raises InvalidField and UserError."""
    for name, value, least, most in (("offset", offset, 0, MAX_SIZE), ("limit", limit, 1, MAX_PAGE)):
        parse_integer(value, name, least, most)
    try:
        states = parse_member_states(state) if state else None
    except ValueError as error:
        raise UserError(str(error)) from None
    return states, Ranges.parse(members)


def no_array(task_id: str) -> UserError:
    """The error for members of a task that has none."""
    return UserError(f"{task_id} is no array, and has no members: see `tally describe task {task_id}`")
