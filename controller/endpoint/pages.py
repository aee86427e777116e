"""Pages of tasks, in an order that the client asks for, of those that match and that it may read.

A page costs what it returns and what it skips, not what is stored: see `index`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from http import HTTPStatus
from itertools import islice
from typing import Any, TypeVar

from controller.core.model.lifecycle import State
from controller.core.model.model import Model
from controller.core.model.records import Task
from controller.endpoint.index import SCAN, TaskIndex
from controller.endpoint.order import By, Sort, SortKey
from controller.endpoint.problems import Problem
from controller.views.tasks import matching

T = TypeVar("T")


class TaskPages:
    """See the module's docstring. Any thread may call `page`; the `indexes` listen to the model's changes."""

    def __init__(self, reading: Callable[[], AbstractContextManager[Model]]) -> None:
        self._reading = reading
        by_name = TaskIndex(reading)
        self._by = {
            by: by_name if by.is_of_sections or by is By.NAME else TaskIndex(reading, by) for by in By
        }
        self.indexes: tuple[TaskIndex, ...] = tuple(dict.fromkeys(self._by.values()))

    def page(
        self,
        wanted: Mapping[str, Any],
        make: Callable[[Model, Task], T],
        may: Callable[[Task], bool] | None = None,
    ) -> tuple[list[T], str]:
        """What `make` makes of each task of a page, and the token of the next page; "" for none.

        `wanted` has the values of the parameters pool, owner, state, label, search, sort, limit and continue.
        `may` tells which tasks may be shown; None: all. Raises Problem for a token of another order.
        """
        limit, sort = wanted["limit"], wanted["sort"]
        began, after = wanted["continue"] or (sort, None)
        if began != sort:
            raise Problem(
                HTTPStatus.BAD_REQUEST,
                f"this page continues a list with sort={began}: keep that sort, or start from the first page",
                parameter="continue",
            )
        found = self._find(sort, after, wanted, limit + 1, make, may)
        token = found[limit - 1][0].token(sort) if len(found) > limit else ""
        return [made for _, made in found[:limit]], token

    def _find(
        self,
        sort: Sort,
        after: SortKey | None,
        wanted: Mapping[str, Any],
        limit: int,
        make: Callable[[Model, Task], T],
        may: Callable[[Task], bool] | None,
    ) -> list[tuple[SortKey, T]]:
        """The first matching tasks after `after`, in order. The model is released after every SCAN tasks."""
        pool, states, labels, owner = (wanted[name] for name in ("pool", "state", "label", "owner"))
        index = self._by[sort.by]
        # a word that is no state, such as on-hold, is of tasks in several states
        indexed = states if states is None or states <= frozenset(State) else None
        is_exact = not labels and not owner and may is None and indexed == states

        found: list[tuple[SortKey, T]] = []
        while len(found) < limit:
            size = limit - len(found) if is_exact else SCAN
            chunk = index.find(sort, after, pool, indexed, wanted["search"], size)
            with self._reading() as model:
                places = {at.task_id: at for at in chunk}
                tasks = matching(model, places, pool, states, labels, owner)
                seen = (task for task in tasks if may is None or may(task))
                found += [(places[task.id], make(model, task)) for task in islice(seen, limit - len(found))]
            if len(chunk) < size:
                break
            after = chunk[-1]
        return found
