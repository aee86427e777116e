"""The neighbourhood of a task: what it waits for, and what waits for it."""

from __future__ import annotations

from controller.client.reading import OF_TASKS, Reading
from controller.core.model.scalars import parse_integer, parse_name
from controller.errors import InvalidField
from controller.views.absent import why_absent
from controller.views.dependencies import (
    DEPTH,
    MAX_DEPTH,
    MAX_NODES,
    NODES,
    Direction,
    NeighboursView,
    neighbours,
)


class Neighbours:
    """Reads neighbourhoods. Each look at etcd reads the records of all tasks; a gateway has them."""

    def __init__(self, reading: Reading) -> None:
        self._reading = reading

    def of(
        self, task_id: str, *, direction: str = "both", depth: int = DEPTH, limit: int = NODES
    ) -> NeighboursView:
        """What the task waits for (`up`), what waits for it (`down`), or `both`.

        It goes over `depth` steps, 1 to 10, and to `limit` tasks, 1 to 2,000. Raises NotFound and
        InvalidField.
        """
        way = checked(task_id, direction, depth, limit)
        model = self._reading.model(*OF_TASKS)
        found = neighbours(model, task_id, direction=way, depth=depth, limit=limit)
        if found is None:
            raise self._reading.no_task(task_id, why_absent(model, task_id))
        return found


def checked(task_id: str, direction: str, depth: int, limit: int) -> Direction:
    """The direction, if all of them are valid. Raises InvalidField."""
    parse_name(task_id, "id", "a task id")
    for name, value, most in (("depth", depth, MAX_DEPTH), ("limit", limit, MAX_NODES)):
        parse_integer(value, name, 1, most)
    try:
        return Direction(direction)
    except ValueError:
        raise InvalidField("direction", f"is {direction!r}: expected one of {', '.join(Direction)}") from None
