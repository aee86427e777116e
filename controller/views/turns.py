"""Whose turn it is in a pool with `sharing`, for readers: as the leader's planner finds it.

A task that its owner's limits keep back, an array that runs as many members as it may, and a task that is
about to change are no owner's first: the planner passes them over, and goes on with the owner's next task.
"""

from __future__ import annotations

from functools import partial

from controller.core.model.arrays import MemberName
from controller.core.model.claims import reclaimed
from controller.core.model.fair_order import FairOrder, Turn, claimed, first_of, ranking
from controller.core.model.model import Model
from controller.core.model.owner_cursor import Claimed
from controller.core.model.records import PoolRecord
from controller.core.model.resources import Vector
from controller.core.model.task import Pool


def begins(model: Model, task_id: str) -> str:
    """What an admission of the task would begin: of an array its next member; "" if nothing may begin."""
    task = model.tasks[task_id]
    if task.requests:
        return ""
    if task.array is None or task.array.is_gang:
        return task_id
    index = task.array.next_index(0, lambda index: str(MemberName(task_id, index)) not in model.tasks)
    return str(MemberName(task_id, index)) if index is not None and task.array.room(0) > 0 else ""


def first_in_turn(model: Model, pool: Pool, owner: str, now: float) -> Claimed | None:
    """The owner's first task that would begin if there were room."""
    queue, share = model.eligible(pool.name, now), model.share(pool.name, owner)
    return first_of(pool, queue, owner, share, partial(_may_start, model, pool.name, owner))


def turns(model: Model, pool: Pool, now: float) -> list[tuple[Turn, Claimed]]:
    """The owners of whom a task would begin if there were room, in order, each with that task."""
    queue = model.eligible(pool.name, now)
    return ranking(
        pool,
        partial(model.share, pool.name),
        reclaimed(model.claims.get(pool.name, {}), queue.owner_of),
        round(now * 1000),
        {
            owner: first
            for owner in queue.owners()
            if (first := first_in_turn(model, pool, owner, now)) is not None
        },
    )


def next_in_turn(model: Model, record: PoolRecord, free: Vector, now: float) -> str:
    """What the planner's next pass begins first; "" if nothing."""
    pool = record.pool
    if model.is_rebuilding(pool.name):
        return ""
    queue, claims = model.eligible(pool.name, now), model.claims.get(pool.name, {})
    found = FairOrder(keeps=False).admissible(
        pool,
        record.mod,
        queue,
        free,
        round(now * 1000),
        share=partial(model.share, pool.name),
        waited_seconds=lambda task_id: now - model.tasks[task_id].queued_at,
        may_start=lambda task_id: _may_start(model, pool.name, model.tasks[task_id].owner, task_id),
        claims=claimed(claims, queue, model.tasks),
        reclaimed=reclaimed(claims, queue.owner_of),
        passed_over=lambda _: None,
    )
    return next((begins(model, task_id) for task_id in found), "")


def _may_start(model: Model, pool: str, owner: str, task_id: str) -> bool:
    return not model.share_is_frozen(pool, owner) and bool(begins(model, task_id))
