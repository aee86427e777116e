"""One owner's waiting tasks in a pass over a pool with `sharing`: which comes next, and which reserve."""

from __future__ import annotations

import heapq
from bisect import insort
from collections.abc import Callable, Sequence
from typing import NamedTuple

from controller.core.model.places import Groups, Place
from controller.core.model.resources import ZERO, Vector
from controller.core.model.shares import Share
from controller.core.model.sharing import OwnerPolicy
from controller.core.model.task import Policy, Pool

Claimed = tuple[Place, Vector]
"""A waiting task and what it asks for."""


def is_over_limit(policy: OwnerPolicy, share: Share, request: Vector) -> bool:
    """Whether its owner would be above one of its limits, if the request were admitted."""
    if policy.max_running is not None and share.running >= policy.max_running:
        return True
    return any(name in request for name in policy.limit.exceeded_by(share.held + request))


class CursorStep(NamedTuple):
    """What a step of a pass goes by: the owner's limits and share, and what is free."""

    policy: OwnerPolicy
    share: Share
    free: Vector
    may_start: Callable[[str], bool]


class Cursor:
    """How far a pass has come with the tasks of one owner.

    `blocked` is its first task that may start and is within the limits, and did not fit.
    """

    def __init__(self, groups: Groups, pool: Pool, claims: Sequence[Claimed]) -> None:
        self._is_strict = pool.policy is Policy.STRICT
        self._heads = [
            (places[0], 0, request, places)
            for (request, _, _), places in groups.items()
            if request.fits(pool.capacity)
        ]
        heapq.heapify(self._heads)  # places are unique, so requests are never compared
        self._reserving = list(claims)
        self.blocked: Claimed | None = None
        self.is_told = False
        self._reserved, self._reserved_tasks = ZERO, 0

    def next(self, step: CursorStep) -> Claimed | None:
        """The owner's next task that may be admitted now; None if there is none in this pass."""
        share = step.share
        if self._reserved_tasks:  # or its own smaller tasks would keep a task that reserves above the limits
            running = share.running + self._reserved_tasks
            share = share._replace(held=share.held + self._reserved, running=running)
        while self._heads:
            place, _, request, _ = self._heads[0]
            if is_over_limit(step.policy, share, request):
                heapq.heappop(self._heads)  # with its group: during a pass, what the owner holds only grows
                self._pass_over(place)
            elif not step.may_start(place.task_id):
                self._advance()
            elif not request.fits(step.free):
                heapq.heappop(self._heads)
                self.blocked = self.blocked or (place, request)
                self._pass_over(place)
            else:
                return place, request
        return None

    def _pass_over(self, place: Place) -> None:
        """Under `strict`, tasks behind it cannot be admitted in this pass, and so reserve nothing."""
        if self._is_strict:
            self._heads = []
            self._reserving = [each for each in self._reserving if each[0] <= place]

    def reserve(self, place: Place, request: Vector) -> None:
        """This task reserves, too."""
        if all(each[0] != place for each in self._reserving):
            insort(self._reserving, (place, request), key=lambda each: each[0])

    def reserving_before(self, found: Claimed | None) -> Claimed | None:
        """The next task that reserves, if it comes before this one."""
        if self._reserving and (found is None or self._reserving[0][0] < found[0]):
            return self._reserving[0]
        return None

    def take_reserving(self) -> Vector:
        """What the next task that reserves asks for: it is set aside."""
        _, request = self._reserving.pop(0)
        self._reserved += request
        self._reserved_tasks += 1
        return request

    def first(self) -> tuple[Place, Vector] | None:
        """The task that is looked at next."""
        return (self._heads[0][0], self._heads[0][2]) if self._heads else None

    def take(self, place: Place) -> None:
        """The task that `next` returned is admitted."""
        self._reserving = [each for each in self._reserving if each[0] != place]
        if not place.repeats:  # else another member of the array may be next
            self._advance()

    def _advance(self) -> None:
        """Go on from the first head to the next task of its group."""
        _, index, request, places = self._heads[0]
        if index + 1 < len(places):
            heapq.heapreplace(self._heads, (places[index + 1], index + 1, request, places))
        else:
            heapq.heappop(self._heads)
