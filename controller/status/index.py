"""Tasks in the order of their ids, by pool and state: a page costs what it returns, not what is stored.

Made when the first page is asked for, and brought up to the model with each further one, by whoever asks: the model's thread
only notes which tasks have changed. When so many have that it is as well to begin anew, or nobody asks any more, it is
forgotten. Building takes the model SCAN tasks at a time, so that it keeps nothing waiting.

It knows what the store's watch has brought. A leader's model has its own commits a moment earlier: a task is found in the
state that it had, and shown in the one that it has if that was asked for as well.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from heapq import merge
from itertools import islice

from sortedcontainers import SortedList

from controller.core.lifecycle import State
from controller.core.records import Change, Task
from controller.core.world import World
from controller.status.documents import is_listed

SCAN = 1000  # tasks that are looked at without letting go of the model
FORGOTTEN = 10_000  # changed tasks, or as many as are indexed, after which all is looked at anew

Place = tuple[str, State | None]
"""A pool, and a state; None for a task whose status does not parse."""


class TaskIndex:
    """See the module's docstring. A Listener; `ids` is for any thread."""

    def __init__(self, reading: Callable[[], AbstractContextManager[World]]) -> None:
        self._reading = reading
        self._using = threading.Lock()  # taken before the model, never while it is held
        self._groups: dict[Place, SortedList] = {}  # guarded by `_using`, as is `_places`
        self._places: dict[str, Place] = {}  # Invariant: each task stands in the group of its place
        # Changed since the last look; None: too many, or nobody has looked yet. Guarded by the model.
        self._changed: dict[str, None] | None = None

    def reloaded(self, revision: int) -> None:  # noqa: ARG002  # whatever it is
        """See Listener."""
        self._changed = None

    def changed(self, changes: Sequence[Change], revision: int) -> None:  # noqa: ARG002  # as above
        """See Listener."""
        if self._changed is None:
            return
        self._changed.update((change.names[0], None) for change in changes if change.kind in ("tasks", "states", "requests"))
        if len(self._changed) > max(FORGOTTEN, len(self._places)):
            self._changed = None

    def ids(self, after: str, pool: str | None, states: Collection[State] | None, search: str, limit: int) -> list[str]:
        """At most `limit` ids after `after` of tasks of that pool, in one of these states, that contain `search`; ordered."""
        with self._using:
            self._catch_up()
            found = merge(
                *(
                    group.irange(after, inclusive=(False, True))
                    for (its_pool, state), group in self._groups.items()
                    if (pool is None or its_pool == pool) and (states is None or state in states)
                )
            )
            return list(islice((task_id for task_id in found if search in task_id) if search else found, limit))

    def _catch_up(self) -> None:
        with self._reading() as world:
            changed, self._changed = self._changed, {}
            if changed is None:
                changed = dict.fromkeys(world.tasks)
                self._groups, self._places = {}, {}
        joined: dict[Place, list[str]] = {}
        for task_id, place in self._placed(iter(changed)):
            before = self._places.pop(task_id, None)
            if place is not None:
                self._places[task_id] = place
            if before == place:
                continue
            if before is not None:
                self._groups[before].remove(task_id)
            if place is not None:
                joined.setdefault(place, []).append(task_id)
        for place, ids in joined.items():
            self._groups.setdefault(place, SortedList()).update(ids)
        for place in [place for place, group in self._groups.items() if not group]:
            del self._groups[place]

    def _placed(self, ids: Iterator[str]) -> Iterator[tuple[str, Place | None]]:
        """Where these tasks stand now, None for one that is gone."""
        while chunk := list(islice(ids, SCAN)):
            with self._reading() as world:
                places = [_place(world.tasks.get(task_id)) for task_id in chunk]
            yield from zip(chunk, places, strict=True)


def _place(task: Task | None) -> Place | None:
    if task is None or not is_listed(task):
        return None
    return task.counted or (task.pool, None if "states" in task.frozen else task.state)  # the first is one tuple for many tasks
