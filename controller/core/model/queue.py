"""The waiting tasks of a pool, and the order in which they are admitted.

Order: higher priority first, then submission (the spec's create revision). No clock decides it. Waiting tasks
are grouped by what they ask for and their priority, so that a pass looks at one head for each group, not at
every task. Its cost follows the number of groups plus what it admits. The first of a group represents all: it
is admitted first, and under `backfill` resources are set aside for it before they are for those behind it.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable, Iterator
from itertools import repeat

from controller.core.model.places import Groups, Place, QueuePlaces
from controller.core.model.resources import Vector
from controller.core.model.task import Policy, Pool, Reserve


class ShrinkingRoom:
    """Whether any of these requests fits into what is free, which only shrinks. Each fails once at most."""

    def __init__(self, requests: Iterable[Vector]) -> None:
        self._left = list(requests)

    def any_fits(self, free: Vector) -> bool:
        """Whether any fits. `free` is at most what it was at the last call."""
        left = self._left
        while left and not left[-1].fits(free):
            left.pop()
        return bool(left)


class Queue(QueuePlaces):
    """The waiting tasks of one pool, in order. In a pool with `sharing` they are grouped by owner, too."""

    # -- by owner

    def owners(self) -> Iterator[str]:
        """The owners that have a waiting task."""
        if self._room == math.inf:
            return iter(self._owners)
        return (owner for owner in self._owners if self.waits(owner))

    def waits(self, owner: str) -> bool:
        """Whether the owner has a waiting task."""
        return any(reach <= self._room for _, _, reach in self._owners.get(owner, ()))

    def waiting_of(self, owner: str) -> int:
        """How many tasks of the owner wait."""
        return sum(map(len, self.groups_of(owner).values()))

    def groups_of(self, owner: str) -> Groups:
        """The owner's tasks by request, rank and reach. The caller changes nothing in it."""
        return self._counting(self._owners.get(owner, {}))

    def first_of(self, owner: str, capacity: Vector | None = None) -> tuple[Place, Vector]:
        """The owner's first task and its request, of those that the capacity can hold, if any.

        The owner must have a task.
        """
        firsts = [(places[0], request) for (request, _, _), places in self.groups_of(owner).items()]
        possible = [first for first in firsts if capacity is None or first[1].fits(capacity)]
        return min(possible or firsts, key=lambda first: first[0])

    def of_owner(self, owner: str) -> Iterator[tuple[Place, Vector]]:
        """The owner's tasks and their requests, in order."""
        groups = self.groups_of(owner).items()
        return heapq.merge(*(zip(places, repeat(request)) for (request, _, _), places in groups))

    def any_fits(self, free: Vector) -> bool:
        """Whether any waiting task would fit. The cost follows the number of different requests."""
        return any(request.fits(free) for request in self.requests())

    def shrinking(self) -> ShrinkingRoom:
        """The same, again and again, while what is free only shrinks and no task comes."""
        return ShrinkingRoom(self.requests())

    def exceeding(self, capacity: Vector) -> list[str]:
        """The tasks that ask for more than `capacity`."""
        return [
            place.task_id
            for (request, _, _), places in self._counting(self._groups).items()
            if not request.fits(capacity)
            for place in places
        ]

    def ahead_of(self, task_id: str, pool: Pool) -> list[str]:
        """The tasks ahead of this one that could run in the pool if it were empty, in order."""
        place = self.place(task_id)
        if place is None:
            return []
        ahead: list[Place] = []
        for (request, _, _), places in self._counting(self._groups).items():
            if request.fits(pool.capacity):
                ahead.extend(places.irange(maximum=place, inclusive=(True, False)))
        return [other.task_id for other in sorted(ahead)]

    def heads_before(self, task_id: str, pool: Pool) -> list[tuple[str, Vector]]:
        """Of the tasks in `ahead_of`, the first of each request and priority, with its request, in order."""
        place = self.place(task_id)
        groups = (
            (places[0], request)
            for (request, _, _), places in self._counting(self._groups).items()
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
            (places[0], 0, request, places)
            for (request, _, _), places in self._counting(self._groups).items()
            if request.fits(pool.capacity)
        ]
        heapq.heapify(heads)  # places are unique, so requests are never compared
        may_reserve = True
        while heads:
            place, index, request, places = heapq.heappop(heads)
            ready = may_start(place.task_id)
            if ready and not request.fits(free):
                if pool.policy is Policy.STRICT:
                    return
                if may_reserve and waited_seconds(place.task_id) >= pool.backfill_seconds:
                    free = free.without(request)
                may_reserve = may_reserve and pool.reserve is Reserve.ASKED
                continue  # passed over, with its group: during a pass, what is free only shrinks
            if ready and place.repeats:
                heapq.heappush(heads, (place, index, request, places))
            elif index + 1 < len(places):
                heapq.heappush(heads, (places[index + 1], index + 1, request, places))
            if ready:
                free = free - request
                yield place.task_id
