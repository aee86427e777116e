"""What the status endpoint, the metrics and the client say of the whole model: what is held, heads of queues,
lags, who leads.

Pure; the cost follows the pools and what is held, never the number of tasks stored.
"""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from controller.core.model.model import Model
from controller.core.model.records import Change, decode_or_empty, number_in
from controller.core.model.resources import ZERO, Vector


def pool_names(model: Model) -> list[str]:
    """Pools that are defined, or of which something is held although they are not, or whose records do not
    parse; sorted.
    """
    held = (name for name, ledger in model.ledgers.items() if ledger.held)
    damaged = (names[0] for kind, names in model.quarantine if kind in ("pools", "ledgers"))
    return sorted({*model.pools, *held, *damaged})


class Holding(NamedTuple):
    """Of one pool, the tasks that hold resources: what they hold in all, and how many are lost or being
    stopped.
    """

    held: Vector = ZERO
    lost: int = 0
    lost_example: str = ""
    stopping: int = 0


def holding_by_pool(model: Model) -> dict[str, Holding]:
    """Pools of which something is held. Invariant I1: each sum is what the pool's ledger says."""
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
    """The task that the leader should admit next, "" when none fits and has its turn.

    One that stays for more than a moment shows that nothing is admitted: no leader, no engine, or a fault.
    """
    record = model.pools.get(pool)
    if record is None or record.pool.paused or model.pool_is_frozen(pool):
        return ""
    free = record.pool.capacity - model.ledger(pool).held
    queue = model.queue(pool)
    waited = lambda task_id: now - model.tasks[task_id].queued_at  # noqa: E731
    return next(
        queue.admissible(record.pool, free, waited, lambda task_id: not model.tasks[task_id].requests), ""
    )


def lag_revisions(registration: Change) -> int:
    """Revisions that a replica had not applied when it wrote this registration of itself (its own write
    not counted).
    """
    applied = number_in(decode_or_empty(registration), "applied_revision")
    return max(0, registration.mod - 1 - int(applied)) if applied is not None else 0


def leads(registration: Change, leader: Change | None) -> bool:
    """Whether the replica that wrote this registration has the leader key: the same process, and not just
    the same name.
    """
    record = decode_or_empty(leader)
    return bool(record) and decode_or_empty(registration).get(
        "instance", registration.names[0]
    ) == record.get("instance", record.get("id"))
