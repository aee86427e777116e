"""The rest of the model, for the status endpoint and the metrics: holds, the next admission, quarantines.

The cost follows the pools and what is held, never the number of tasks stored.
"""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from controller.core.model.model import Model
from controller.core.model.resources import ZERO, Vector
from controller.views.pools import free_of
from controller.views.turns import begins, next_in_turn


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
        return next_in_turn(model, record, free, now)
    waited = lambda task_id: now - model.tasks[task_id].queued_at  # noqa: E731
    may_start = lambda task_id: bool(begins(model, task_id))  # noqa: E731
    return next((begins(model, each) for each in queue.admissible(record.pool, free, waited, may_start)), "")


def quarantined_by_kind(model: Model) -> Counter[str]:
    """How many records of each kind are quarantined."""
    return Counter(kind for kind, _ in model.quarantine)
