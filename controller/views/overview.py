"""The rest of the model, for the status endpoint and the metrics: holds, the next admission, quarantines.

The cost follows the pools and what is held, never the number of tasks stored.
"""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import NamedTuple

from controller.core.model.arrays import MemberName
from controller.core.model.claims import reclaimed
from controller.core.model.fair_order import is_over_limit, ranking
from controller.core.model.model import Model
from controller.core.model.resources import ZERO, Vector
from controller.core.model.task import Pool
from controller.views.pools import free_of


class Holding(NamedTuple):
    """The tasks of a pool that hold resources: the sum of their holds, and how many are lost or stopping."""

    held: Vector = ZERO
    lost: int = 0
    lost_example: str = ""
    stopping: int = 0


def holding_by_pool(model: Model) -> dict[str, Holding]:
    """The pools of which something is held. Invariant I1: each sum is what the pool's ledger says."""
    sums: dict[str, dict[str, int]] = {}
    lost: Counter[str] = Counter()
    examples: dict[str, str] = {}
    stopping: Counter[str] = Counter()
    for task in model.holding.values():
        status = task.status
        assert status is not None
        amounts = sums.setdefault(task.pool, {})
        for name, amount in status.hold.items():
            amounts[name] = amounts.get(name, 0) + amount
        if status.lost_since is not None:
            lost[task.pool] += 1
            examples.setdefault(task.pool, task.id)
        stopping[task.pool] += bool(status.stopping)
    return {
        pool: Holding(Vector(amounts), lost[pool], examples.get(pool, ""), stopping[pool])
        for pool, amounts in sums.items()
    }


def next_admission(model: Model, pool: str, now: float) -> str:
    """What the leader should begin next, a task or a member of an array; "" if none fits and has its turn.

    If it stays the same for more than a moment, nothing is admitted: no leader, no engine, or a fault.
    """
    record = model.pools.get(pool)
    if record is None or record.pool.paused or model.pool_is_frozen(pool):
        return ""
    free = free_of(model, pool)
    queue = model.eligible(pool, now)
    if record.pool.sharing is not None:
        return _next_in_turn(model, record.pool, free, now)
    waited = lambda task_id: now - model.tasks[task_id].queued_at  # noqa: E731
    may_start = lambda task_id: bool(_begins(model, task_id))  # noqa: E731
    return next((_begins(model, each) for each in queue.admissible(record.pool, free, waited, may_start)), "")


def _begins(model: Model, task_id: str) -> str:
    """What an admission of the task would begin: of an array its next member; "" if nothing may begin."""
    task = model.tasks[task_id]
    if task.requests:
        return ""
    if task.array is None or task.array.is_gang:
        return task_id
    index = task.array.next_index(0, lambda index: str(MemberName(task_id, index)) not in model.tasks)
    return str(MemberName(task_id, index)) if index is not None and task.array.room(0) > 0 else ""


def _next_in_turn(model: Model, pool: Pool, free: Vector, now: float) -> str:
    """The first task of the first owner that may have more, if it fits.

    What may pass it is not looked for: the order itself belongs to the leader's planner.
    """
    assert pool.sharing is not None
    if model.is_rebuilding(pool.name):
        return ""
    queue, share = model.eligible(pool.name, now), partial(model.share, pool.name)
    reclaims = reclaimed(model.claims.get(pool.name, {}), queue.owner_of)
    for turn in ranking(pool, queue, share, reclaims, round(now * 1000)):
        place, request = queue.first_of(turn.owner)
        begins = _begins(model, place.task_id)
        if not begins or model.share_is_frozen(pool.name, turn.owner):
            continue
        if not is_over_limit(pool.sharing.of(turn.owner), share(turn.owner), request):
            return begins if request.fits(free) else ""
    return ""


def quarantined_by_kind(model: Model) -> Counter[str]:
    """How many records of each kind are quarantined."""
    return Counter(kind for kind, _ in model.quarantine)
