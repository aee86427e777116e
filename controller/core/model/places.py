"""The places of the waiting tasks of a pool, in groups of those that ask for the same.

In a pool with maintenance windows, tasks are grouped by how far they reach, too: what a window keeps back is
passed over in groups, never task by task. `QueuePlaces.within` shows them without it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple, Self

from sortedcontainers import SortedList

from controller.core.model.queue_sums import QueueSums
from controller.core.model.resources import Vector


class Place(NamedTuple):
    """A task's place in its queue. Places compare in the order of admission."""

    rank: int  # -priority
    submission: int  # create revision of the spec
    # submission time by its client; orders only what one transaction, and so one client, created
    told: float
    task_id: str
    repeats: bool = False  # an array: it stands here for all of its members that are to begin


Groups = dict[tuple[Vector, int, float], SortedList[Place]]
"""Places by request, rank and reach. No list is empty, and each place is in the list of its own.

The reach is `Spec.reach_seconds`, in a pool with maintenance windows; else 0.
"""


class QueuePlaces:
    """The tasks that wait, each with its place, its request, its owner and its reach; by group.

    `touched` are the owners whose tasks or share have changed, for the order that is kept of them.
    """

    def __init__(self) -> None:
        self._places: dict[str, tuple[Place, Vector, str, float]] = {}
        self._groups: Groups = {}  # of all tasks
        self._owners: dict[str, Groups] = {}  # owner → of its tasks
        self._requests: Counter[Vector] = Counter()  # how many groups have it
        self._room = math.inf  # tasks that reach further do not count
        self.touched: dict[str, None] = {}
        self._sums = QueueSums()

    def within(self, room: float) -> Self:
        """This queue without the tasks that reach further, for readers: it follows this one.

        It has no length, and is not iterated over.
        """
        if room == math.inf:
            return self
        view = type(self)()
        view._places, view._groups, view._owners = self._places, self._groups, self._owners
        view._room, view.touched, view._requests = room, self.touched, self._requests
        return view

    @property
    def made_of(self) -> tuple[int, float]:
        """What tells this queue from others, and from itself once other tasks count."""
        return id(self._places), self.longest() if self._room != math.inf else math.inf

    def requests(self) -> Iterable[Vector]:
        """What the tasks that count ask for, each once."""
        if self._room == math.inf:
            return self._requests
        return dict.fromkeys(request for request, _, reach in self._groups if reach <= self._room)

    def longest(self) -> float:
        """How far those reach that reach furthest, of the tasks that count; 0 if there are none.

        The cost follows the number of groups.
        """
        if self._room == math.inf:
            return 0.0
        return max((reach for _, _, reach in self._groups if reach <= self._room), default=0.0)

    def counting(self) -> int:
        """How many tasks count. The cost follows the number of groups."""
        return sum(map(len, self._counting(self._groups).values()))

    @property
    def asked(self) -> QueueSums:
        """What the tasks that count ask for, in sum.

        The cost follows their number if not all of them count; else there is none.
        """
        if self._room == math.inf:
            return self._sums
        sums = QueueSums()
        for places in self._counting(self._groups).values():
            for place in places:
                _, request, owner, _ = self._places[place.task_id]
                sums.add(owner, place.task_id, request, repeats=place.repeats)
        return sums

    def take_touched(self) -> dict[str, None]:
        """The owners that were touched since the last call."""
        touched = dict(self.touched)
        self.touched.clear()
        return touched

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __contains__(self, task_id: str) -> bool:
        return self._entry(task_id) is not None

    def _entry(self, task_id: str) -> tuple[Place, Vector, str, float] | None:
        entry = self._places.get(task_id)
        return entry if entry is not None and entry[3] <= self._room else None

    def _counting(self, groups: Groups) -> Groups:
        """Those of the groups whose tasks count."""
        if self._room == math.inf:
            return groups
        return {key: places for key, places in groups.items() if key[2] <= self._room}

    def add(self, place: Place, request: Vector, owner: str = "", reach: float = 0.0) -> None:
        """Put a task into the queue. A task that is already there moves to its new place.

        `owner` "": the pool is not shared. `reach`: 0 if the pool has no maintenance windows.
        """
        self.discard(place.task_id)
        self._places[place.task_id] = (place, request, owner, reach)
        self._sums.add(owner, place.task_id, request, repeats=place.repeats)
        if _add(self._groups, place, request, reach):
            self._requests[request] += 1
        if owner:
            _add(self._owners.setdefault(owner, {}), place, request, reach)
            self.touched[owner] = None

    def discard(self, task_id: str) -> None:
        """Remove a task, if it is there."""
        entry = self._places.pop(task_id, None)
        if entry is None:
            return
        place, request, owner, reach = entry
        self._sums.discard(owner, place.task_id, request, repeats=place.repeats)
        if _remove(self._groups, place, request, reach):
            self._requests[request] -= 1
            if not self._requests[request]:
                del self._requests[request]
        if owner:
            _remove(self._owners[owner], place, request, reach)
            if not self._owners[owner]:
                del self._owners[owner]
            self.touched[owner] = None

    def place(self, task_id: str) -> Place | None:
        """A task's place; None if it does not wait here."""
        entry = self._entry(task_id)
        return entry[0] if entry else None

    def owner_of(self, task_id: str) -> str | None:
        """The owner of a task that waits here; None for another one."""
        entry = self._entry(task_id)
        return entry[2] if entry else None


def _add(groups: Groups, place: Place, request: Vector, reach: float) -> bool:
    """Whether it is the first of its group."""
    places = groups.get((request, place.rank, reach))
    is_first = places is None
    if places is None:
        places = groups[request, place.rank, reach] = SortedList()
    places.add(place)
    return is_first


def _remove(groups: Groups, place: Place, request: Vector, reach: float) -> bool:
    """Whether it was the last of its group."""
    places = groups[request, place.rank, reach]
    places.remove(place)
    if not places:
        del groups[request, place.rank, reach]
    return not places
