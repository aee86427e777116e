"""The waiting tasks of a pool, and the order in which they are admitted.

Order: higher priority first, then submission (the spec's create revision). No clock decides it. Waiting tasks
are grouped by what they ask for and their priority, so that a pass looks at one head for each group, not at
every task. Its cost follows the number of groups plus what it admits. The first of a group represents all: it
is admitted first, and under `backfill` resources are set aside for it before they are for those behind it.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from itertools import repeat
from typing import NamedTuple

from sortedcontainers import SortedList

from controller.core.model.queue_sums import QueueSums
from controller.core.model.resources import Vector
from controller.core.model.task import Policy, Pool, Reserve


class Place(NamedTuple):
    """A task's place in its queue. Places compare in the order of admission."""

    rank: int  # -priority
    submission: int  # create revision of the spec
    # submission time by its client; orders only what one transaction, and so one client, created
    told: float
    task_id: str
    repeats: bool = False  # an array: it stands here for all of its members that are to begin


Groups = dict[tuple[Vector, int], SortedList[Place]]
"""Places by request and rank. No list is empty, and each place is in the list of its own."""


class Queue:
    """The waiting tasks of one pool. In a pool with `sharing` they are grouped by owner, too.

    `touched` are the owners whose tasks or share have changed, for the order that is kept of them. `asked`
    has the sums of what waits.
    """

    def __init__(self) -> None:
        self._places: dict[str, tuple[Place, Vector, str]] = {}
        self._groups: Groups = {}  # of all tasks
        self._owners: dict[str, Groups] = {}  # owner → of its tasks
        self.touched: dict[str, None] = {}
        self.asked = QueueSums()

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __contains__(self, task_id: str) -> bool:
        return task_id in self._places

    def add(self, place: Place, request: Vector, owner: str = "") -> None:
        """Put a task into the queue. A task that is already there moves to its new place.

        `owner` "": the pool is not shared.
        """
        self.discard(place.task_id)
        self._places[place.task_id] = (place, request, owner)
        self.asked.add(owner, place.task_id, request, repeats=place.repeats)
        _add(self._groups, place, request)
        if owner:
            _add(self._owners.setdefault(owner, {}), place, request)
            self.touched[owner] = None

    def discard(self, task_id: str) -> None:
        """Remove a task, if it is there."""
        entry = self._places.pop(task_id, None)
        if entry is None:
            return
        place, request, owner = entry
        self.asked.discard(owner, place.task_id, request, repeats=place.repeats)
        _remove(self._groups, place, request)
        if owner:
            _remove(self._owners[owner], place, request)
            if not self._owners[owner]:
                del self._owners[owner]
            self.touched[owner] = None

    def place(self, task_id: str) -> Place | None:
        """A task's place; None if it does not wait here."""
        entry = self._places.get(task_id)
        return entry[0] if entry else None

    # -- by owner

    def owner_of(self, task_id: str) -> str | None:
        """The owner of a task that waits here; None for another one."""
        entry = self._places.get(task_id)
        return entry[2] if entry else None

    def owners(self) -> Iterator[str]:
        """The owners that have a waiting task."""
        return iter(self._owners)

    def waits(self, owner: str) -> bool:
        """Whether the owner has a waiting task."""
        return owner in self._owners

    def waiting_of(self, owner: str) -> int:
        """How many tasks of the owner wait."""
        return sum(map(len, self._owners.get(owner, {}).values()))

    def groups_of(self, owner: str) -> Groups:
        """The owner's tasks by request and rank. The caller changes nothing in it."""
        return self._owners.get(owner, {})

    def first_of(self, owner: str, capacity: Vector | None = None) -> tuple[Place, Vector]:
        """The owner's first task and its request, of those that the capacity can hold, if any.

        The owner must have a task.
        """
        firsts = [(places[0], request) for (request, _), places in self._owners[owner].items()]
        possible = [first for first in firsts if capacity is None or first[1].fits(capacity)]
        return min(possible or firsts, key=lambda first: first[0])

    def of_owner(self, owner: str) -> Iterator[tuple[Place, Vector]]:
        """The owner's tasks and their requests, in order."""
        groups = self.groups_of(owner).items()
        return heapq.merge(*(zip(places, repeat(request)) for (request, _), places in groups))

    def any_fits(self, free: Vector) -> bool:
        """Whether any waiting task would fit. The cost follows the number of different requests."""
        return any(request.fits(free) for request in dict.fromkeys(request for request, _ in self._groups))

    def exceeding(self, capacity: Vector) -> list[str]:
        """The tasks that ask for more than `capacity`."""
        return [
            place.task_id
            for (request, _), places in self._groups.items()
            if not request.fits(capacity)
            for place in places
        ]

    def ahead_of(self, task_id: str, pool: Pool) -> list[str]:
        """The tasks ahead of this one that could run in the pool if it were empty, in order."""
        place = self.place(task_id)
        if place is None:
            return []
        ahead: list[Place] = []
        for (request, _), places in self._groups.items():
            if request.fits(pool.capacity):
                ahead.extend(places.irange(maximum=place, inclusive=(True, False)))
        return [other.task_id for other in sorted(ahead)]

    def heads_before(self, task_id: str, pool: Pool) -> list[tuple[str, Vector]]:
        """Of the tasks in `ahead_of`, the first of each request and priority, with its request, in order."""
        place = self.place(task_id)
        groups = (
            (places[0], request)
            for (request, _), places in self._groups.items()
            if request.fits(pool.capacity)
        )
        return [
            (head.task_id, request) for head, request in sorted(groups) if place is not None and head < place
        ]

    def admissible(
        self,
        pool: Pool,
        free: Vector,
        waited_seconds: Callable[[str], float],
        may_start: Callable[[str], bool],
    ) -> Iterator[str]:
        """The tasks to admit, in order, by the pool's policy. The caller may stop at any time.

        `free` is what the pool has left; each yielded task counts as admitted. A task that asks for more than
        the whole capacity, or for which `may_start` is false, never blocks others. An array is yielded again
        and again while `may_start` is true for it. Under `strict`, the first
        task that does not fit ends the pass. Under `backfill`, it is passed over. Once `waited_seconds(task)`
        reaches `backfill_seconds`, what it asks for is set aside as far as it is free: tasks behind it take
        nothing of a resource that it lacks, and leave enough of every other one. So no task that passes it
        delays it. With `reserve: lacking`, the first task that does not fit is the only one to reserve.
        """
        heads = [
            (places[0], 0, request)
            for (request, _), places in self._groups.items()
            if request.fits(pool.capacity)
        ]
        heapq.heapify(heads)  # places are unique, so requests are never compared
        may_reserve = True
        while heads:
            place, index, request = heapq.heappop(heads)
            ready = may_start(place.task_id)
            if ready and not request.fits(free):
                if pool.policy is Policy.STRICT:
                    return
                if may_reserve and waited_seconds(place.task_id) >= pool.backfill_seconds:
                    free = free.without(request)
                may_reserve = may_reserve and pool.reserve is Reserve.ASKED
                continue  # passed over, with its group: during a pass, what is free only shrinks
            places = self._groups[request, place.rank]
            if ready and place.repeats:
                heapq.heappush(heads, (place, index, request))
            elif index + 1 < len(places):
                heapq.heappush(heads, (places[index + 1], index + 1, request))
            if ready:
                free = free - request
                yield place.task_id


def _add(groups: Groups, place: Place, request: Vector) -> None:
    places = groups.get((request, place.rank))
    if places is None:
        places = groups[request, place.rank] = SortedList()
    places.add(place)


def _remove(groups: Groups, place: Place, request: Vector) -> None:
    places = groups[request, place.rank]
    places.remove(place)
    if not places:
        del groups[request, place.rank]
