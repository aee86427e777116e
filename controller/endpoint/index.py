"""An ordered index of tasks by pool and state, so that a page costs what it returns, not what is stored.

The first request builds the index, and each further request updates it: the model's thread only notes which
tasks have changed. When too many changed since the last request, the index is dropped and rebuilt. A build
holds the model for SCAN tasks at a time, so that nothing waits for it long.

The index knows the changes that the store's watch delivered. A leader's model has the leader's own commits a
moment earlier. A task is thus found by the state that it had; it is shown with its present state if the
request asks for that state, too.

One index is ordered by name, which also gives the orders by pool and by state: it lists their groups one
after the other. Each other order has its own. An order that no client asks for costs nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from heapq import merge
from itertools import islice

from sortedcontainers import SortedList

from controller.core.model.lifecycle import State
from controller.core.model.model import Model
from controller.core.model.records import Change, Task, is_listed
from controller.endpoint.order import By, Entry, Sort, SortKey
from controller.views.array_changes import names_of, placed_among
from controller.views.arrays import is_hidden
from controller.views.tasks import (
    attempt_of,
    owner_of,
    pool_of,
    reason_of,
    state_of,
    submitted_at,
)

SCAN = 1000  # tasks that are read before the model is released
FORGOTTEN = 10_000  # changed tasks (or as many as are indexed) after which the index is rebuilt

Place = tuple[str, State | None]
"""A pool, and a state; None for a task whose status does not parse."""


class TaskIndex:
    """See the module's docstring. A Listener; any thread may call `find`."""

    def __init__(self, reading: Callable[[], AbstractContextManager[Model]], by: By = By.NAME) -> None:
        self._reading = reading
        self._key = _KEYS.get(by)
        self._by_reason = by is By.REASON
        self._using = threading.Lock()  # taken before the model's lock, never while that is held
        self._groups: dict[Place, SortedList[Entry]] = {}  # guarded by `_using`, as is `_places`
        # Invariant: the group of each task's place contains its entry
        self._places: dict[str, tuple[Place, Entry]] = {}
        # What changed since the last look, by the names of `array_changes`; None: too many, or no look yet.
        # Guarded by the model's lock.
        self._changed: dict[str, None] | None = None

    def reloaded(self, revision: int) -> None:  # noqa: ARG002  # whatever it is
        """See Listener."""
        self._changed = None

    def changed(self, changes: Sequence[Change], revision: int) -> None:  # noqa: ARG002  # as above
        """See Listener."""
        if self._changed is None:
            return
        for change in changes:
            if change.kind in ("tasks", "states", "requests"):
                self._changed |= dict.fromkeys(names_of(change))
        if len(self._changed) > max(FORGOTTEN, len(self._places)):
            self._changed = None

    def find(
        self,
        sort: Sort,
        after: SortKey | None,
        pool: str | None,
        states: Collection[State] | None,
        search: str,
        limit: int,
    ) -> list[SortKey]:
        """The first `limit` matching tasks after `after`, in order.

        They are in the pool, in one of the states, and have `search` in their id. `sort` is one of the orders
        that this index has.
        """
        with self._using:
            self._catch_up()
            sections: dict[str | int, list[SortedList[Entry]]] = {}
            for (its_pool, state), group in self._groups.items():
                if (pool is None or its_pool == pool) and (states is None or state in states):
                    sections.setdefault(sort.section(its_pool, state), []).append(group)
            return list(islice(_in_order(sort, sections, after, search), limit))

    def _catch_up(self) -> None:
        with self._reading() as model:
            changed, self._changed = self._changed, {}
            if changed is None:
                ids = dict.fromkeys(model.tasks)
                self._groups, self._places = {}, {}
            else:
                ids = placed_among(model, changed, by_reason=self._by_reason)
        joined: dict[Place, list[Entry]] = {}
        for task_id, stands in self._placed(iter(ids)):
            stood = self._places.pop(task_id, None)
            if stands is not None:
                self._places[task_id] = stands
            if stood == stands:
                continue
            if stood is not None:
                self._groups[stood[0]].remove(stood[1])
            if stands is not None:
                joined.setdefault(stands[0], []).append(stands[1])
        for place, entries in joined.items():
            self._groups.setdefault(place, SortedList()).update(entries)
        for place in [place for place, group in self._groups.items() if not group]:
            del self._groups[place]

    def _placed(self, ids: Iterator[str]) -> Iterator[tuple[str, tuple[Place, Entry] | None]]:
        """The present places of these tasks; None for a task that is gone."""
        while chunk := list(islice(ids, SCAN)):
            with self._reading() as model:
                places = [self._place(model.tasks.get(task_id)) for task_id in chunk]
            yield from zip(chunk, places, strict=True)

    def _place(self, task: Task | None) -> tuple[Place, Entry] | None:
        if task is None or not is_listed(task) or is_hidden(task):
            return None
        # `task.counted` is one tuple that many tasks share, which saves memory.
        known = task.counted if task.array is None else None
        place = known or (pool_of(task), state_of(task))
        return place, (self._key(task) if self._key is not None else 0.0, task.id)


_KEYS: dict[By, Callable[[Task], float | str]] = {
    By.SUBMITTED: submitted_at,
    By.OWNER: owner_of,
    By.ATTEMPT: attempt_of,
    By.REASON: reason_of,
}


def _in_order(
    sort: Sort, sections: Mapping[str | int, Sequence[SortedList[Entry]]], after: SortKey | None, search: str
) -> Iterator[SortKey]:
    # within a pool or a state, names always ascend
    turned = sort.descending and not sort.by.is_of_sections
    for section in sorted(sections, reverse=sort.descending):
        begins = None
        if after is not None and section == after.section:
            begins = after.entry
        elif after is not None and (section < after.section) is not sort.descending:  # type: ignore[operator]  # both of one kind
            continue
        if turned:
            found = (
                group.irange(maximum=begins, inclusive=(True, False), reverse=True)
                for group in sections[section]
            )
        else:
            found = (group.irange(minimum=begins, inclusive=(False, True)) for group in sections[section])
        for entry in merge(*found, reverse=turned):
            if search in entry[1]:
                yield SortKey(section, entry)
