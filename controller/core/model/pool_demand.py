"""What a pool would admit at once if its capacity had no bounds: what an autoscaler would have to add.

The sum of what its queue asks for: single tasks, gangs whole, and of each array the members that may begin.
Tasks that are on hold, wait for others or for their back-off are not in the queue. A pool that is paused
admits nothing. Each owner's tasks count up to its limits, in the order of the queue.

The cost follows the owners and the arrays that wait, never the number of tasks; for an owner that wants more
than its limits allow, also its tasks up to there.
"""

from __future__ import annotations

import heapq
from itertools import islice

from controller.core.model.array import could_begin
from controller.core.model.model import Model
from controller.core.model.queue import Place, Queue
from controller.core.model.resources import ZERO, Vector
from controller.core.model.shares import Share
from controller.core.model.sharing import OwnerPolicy


def pool_demand(model: Model, pool: str) -> Vector:
    """See the module's docstring. Nothing, of a pool that is not defined."""
    record = model.pools.get(pool)
    if record is None or record.pool.paused:
        return ZERO
    queue, sharing, total = model.queue(pool), record.pool.sharing, ZERO
    for owner in queue.asked.owners():
        amount, tasks = _all_of(model, queue, owner)
        if sharing is not None:
            share, policy = model.share(pool, owner), sharing.of(owner)
            if _most(policy, share.held, share.running, amount, 1) < 1 or (
                policy.max_running is not None and share.running + tasks > policy.max_running
            ):
                amount = _within(model, queue, owner, policy, share)
        total += amount
    return total


def _all_of(model: Model, queue: Queue, owner: str) -> tuple[Vector, int]:
    amount, tasks = queue.asked.sum_of(owner)
    for task_id in queue.asked.arrays_of(owner):
        members = _members(model, task_id)
        amount, tasks = amount + model.tasks[task_id].demand.times(members), tasks + members
    return amount, tasks


def _members(model: Model, task_id: str) -> int:
    array = model.tasks[task_id].array
    return could_begin(array) if array is not None else 0


def _most(policy: OwnerPolicy, held: Vector, running: int, request: Vector, most: int) -> int:
    """How many such requests the owner's limits allow now, up to `most`."""
    if policy.max_running is not None:
        most = min(most, policy.max_running - running)
    for name, limit in policy.limit.items():
        if request.get(name):
            most = min(most, (limit - held.get(name)) // request[name])
    return max(0, most)


def _within(model: Model, queue: Queue, owner: str, policy: OwnerPolicy, share: Share) -> Vector:
    """What the owner's tasks ask for, in the order of the queue, as far as its limits allow.

    Neighbours in the queue that ask for the same are counted together. A request that is above a limit is
    passed over, with all that ask for the same: what the owner holds only grows.
    """
    groups = queue.groups_of(owner)
    has_arrays = any(True for _ in queue.asked.arrays_of(owner))
    held, running, total = share.held, share.running, ZERO
    heads: list[tuple[Place, int, Vector]] = [(places[0], 0, of) for (of, _), places in groups.items()]
    heapq.heapify(heads)  # places are unique, so requests are never compared
    while heads:
        place, index, request = heapq.heappop(heads)
        places = groups[request, place.rank]
        end = places.bisect_left(heads[0][0]) if heads else len(places)
        if place.repeats:
            end, count = index + 1, _members(model, place.task_id)
        elif has_arrays:
            run = islice(places, index, end)
            end = next((at for at, one in enumerate(run, index) if one.repeats), end)
            count = end - index
        else:
            count = end - index
        taken = _most(policy, held, running, request, count)
        amount = request.times(taken)
        held, running, total = held + amount, running + taken, total + amount
        if taken == count and end < len(places):
            heapq.heappush(heads, (places[end], end, request))
    return total
