"""What a pool would admit at once if its capacity had no bounds: what an autoscaler would have to add.

The sum of what its queue asks for: single tasks, gangs whole, and of each array the members that may begin.
Tasks that are on hold, wait for others or for their back-off are not in the queue, and what a maintenance
window keeps back does not count. A pool that is paused admits nothing. Each owner's tasks count up to its
limits, in the order of the queue.

The cost follows the owners and the arrays that wait, never the number of tasks: of owners that want more than
their limits allow, MOST_RUNS runs of equal requests are looked at in all, and the rest counts in proportion.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from itertools import islice
from typing import NamedTuple

from controller.core.model.array import could_begin
from controller.core.model.model import Model
from controller.core.model.places import Place
from controller.core.model.queue import Queue
from controller.core.model.queue_sums import QueueSums
from controller.core.model.resources import ZERO, Vector
from controller.core.model.shares import Share
from controller.core.model.sharing import OwnerPolicy

MOST_RUNS = 500


def pool_demand(model: Model, pool: str, now: float | None = None) -> Vector:
    """See the module's docstring. Nothing, of a pool that is not defined.

    `now`: what maintenance windows keep back then does not count; None: they are not looked at.
    """
    record = model.pools.get(pool)
    if record is None or record.pool.paused:
        return ZERO
    queue = model.queue(pool) if now is None else model.eligible(pool, now)
    sharing, sums, total, runs = record.pool.sharing, queue.asked, dict[str, int](), MOST_RUNS
    for owner in sums.owners():
        asked = _asked_by(model, sums, owner)
        amounts: Mapping[str, int] = asked.amounts
        if sharing is not None:
            policy = sharing.of(owner)
            if policy.limit or policy.max_running is not None:
                share = model.share(pool, owner)
                if not _is_within(policy, share, asked):
                    amounts, used = _within(model, queue, owner, policy, share, asked, runs)
                    runs -= used
        for name, amount in amounts.items():
            total[name] = total.get(name, 0) + amount
    return Vector(total)


class _Asked(NamedTuple):
    """What an owner's tasks ask for, members of arrays too, and how many tasks that are."""

    amounts: Mapping[str, int]
    tasks: int


def _asked_by(model: Model, waiting: QueueSums, owner: str) -> _Asked:
    amounts, tasks = waiting.sum_of(owner)
    arrays = list(waiting.arrays_of(owner))
    if not arrays:
        return _Asked(amounts, tasks)
    sums = dict(amounts)
    for task_id in arrays:
        members = _members(model, task_id)
        tasks += members
        for name, amount in model.tasks[task_id].demand.items():
            sums[name] = sums.get(name, 0) + amount * members
    return _Asked(sums, tasks)


def _members(model: Model, task_id: str) -> int:
    array = model.tasks[task_id].array
    return could_begin(array) if array is not None else 0


def _is_within(policy: OwnerPolicy, share: Share, asked: _Asked) -> bool:
    """Whether the owner's limits allow all that it asks for."""
    if policy.max_running is not None and share.running + asked.tasks > policy.max_running:
        return False
    amounts = asked.amounts
    return all(
        not amounts.get(name) or share.held.get(name) + amounts[name] <= limit
        for name, limit in policy.limit.items()
    )


class _Room:
    """What an owner's limits still allow."""

    def __init__(self, policy: OwnerPolicy, share: Share) -> None:
        self.left = {name: limit - share.held.get(name) for name, limit in policy.limit.items()}
        self.tasks = policy.max_running - share.running if policy.max_running is not None else None

    def take(self, request: Vector, most: int) -> int:
        """Take as many of these requests as are allowed, up to `most`; returns how many."""
        if self.tasks is not None:
            most = min(most, self.tasks)
        for name, left in self.left.items():
            if request.get(name):
                most = min(most, left // request[name])
        most = max(0, most)
        for name in self.left:
            self.left[name] -= request.get(name) * most
        if self.tasks is not None:
            self.tasks -= most
        return most

    def part_of(self, rest: _Asked) -> float:
        """Which part of this is allowed, in proportion."""
        part = min(1.0, self.tasks / rest.tasks) if self.tasks is not None and rest.tasks else 1.0
        for name, left in self.left.items():
            if rest.amounts.get(name):
                part = min(part, left / rest.amounts[name])
        return max(0.0, part)


def _within(
    model: Model, queue: Queue, owner: str, policy: OwnerPolicy, share: Share, asked: _Asked, runs: int
) -> tuple[dict[str, int], int]:
    """What the owner's tasks ask for, in the order of the queue, as far as its limits allow; and runs used.

    Neighbours in the queue that ask for the same are one run. A request that is above a limit is passed over,
    with all that ask for the same: what the owner holds only grows.
    """
    groups, room, total, tasks, used = queue.groups_of(owner), _Room(policy, share), dict[str, int](), 0, 0
    has_arrays = any(True for _ in queue.asked.arrays_of(owner))
    heads: list[tuple[Place, int, tuple[Vector, int, float]]] = []
    if len(groups) <= runs:
        heads = [(places[0], 0, key) for key, places in groups.items()]
    is_left = len(groups) > runs
    heapq.heapify(heads)  # places are unique, so keys are never compared
    while heads and used < runs:
        place, index, key = heapq.heappop(heads)
        places, request = groups[key], key[0]
        end = places.bisect_left(heads[0][0]) if heads else len(places)
        if place.repeats:
            end, count = index + 1, _members(model, place.task_id)
        else:
            if has_arrays:
                run = islice(places, index, end)
                end = next((at for at, one in enumerate(run, index) if one.repeats), end)
            count = end - index
        taken, used = room.take(request, count), used + 1
        tasks += taken
        for name, amount in request.items():
            total[name] = total.get(name, 0) + amount * taken
        if taken == count and end < len(places):
            heapq.heappush(heads, (places[end], end, key))
    if heads or is_left:
        left = {name: amount - total.get(name, 0) for name, amount in asked.amounts.items()}
        part = room.part_of(_Asked(left, asked.tasks - tasks))
        for name, amount in left.items():
            total[name] = total.get(name, 0) + int(amount * part)
    return total, used
