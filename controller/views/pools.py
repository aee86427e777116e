"""The facts of a pool and of its owners, as all readers show them.

Which pools exist, what each has, holds and queues, and what each owner has of a pool with `sharing`. The cost
follows the pools and their owners, never the number of tasks stored.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from controller.core.model import capacities, claims
from controller.core.model.capacities import ObservedCapacity, at_least
from controller.core.model.claims import Claim
from controller.core.model.fair_order import dominant, is_guaranteed
from controller.core.model.lifecycle import WAITING, State
from controller.core.model.model import Model
from controller.core.model.parts import NO_PARTS, Parts
from controller.core.model.pool_demand import pool_demand
from controller.core.model.quarantine import unreadable_shares
from controller.core.model.resources import ZERO, Vector
from controller.core.model.shares import FRACTION, MINUTE_MS, averaged
from controller.core.model.sharing import ANYBODY, OwnerPolicy
from controller.core.model.task import AttemptId, Pool
from controller.core.planning.attestation import unattested
from controller.core.promise.invariants import unledgered
from controller.views.arrays import shown_counts
from controller.views.turns import first_in_turn

Counts = dict[tuple[str, State], int]
"""(pool, state) → tasks."""


class PoolFacts(NamedTuple):
    """A pool at one moment."""

    name: str
    definition: Pool | None  # None: it is not defined (any more), or cannot be read
    capacity: Vector
    held: Vector  # as its ledger says
    unledgered: Vector  # what its tasks hold beyond that: nothing, by invariant I1
    tasks: dict[State, int]  # states in which it has tasks, in the order of the lifecycle
    queued: int  # tasks in its queue, without those in back-off or on hold
    on_hold: int  # tasks that are not admitted until they are released
    gated: int  # tasks that wait for others to end
    observed: ObservedCapacity | None  # what nodes give, if its capacity follows them and they were counted
    demand: Vector  # what waits and would be admitted at once, if the capacity had no bounds
    broken: tuple[tuple[str, str], ...]  # the kinds of its unreadable records, and why

    @property
    def free(self) -> Vector:
        """What is left; below zero if the pool is overcommitted."""
        return self.capacity - self.held - self.unledgered

    @property
    def overcommitted(self) -> list[str]:
        """The resources of which more is held than there is."""
        return self.held.exceeding(self.capacity)

    @property
    def resources(self) -> list[str]:
        """The resources that it has, or of which something is held; sorted."""
        return sorted({*self.capacity, *self.held})

    @property
    def waiting(self) -> int:
        """Tasks that wait for admission, including those in back-off."""
        return sum(self.tasks.get(state, 0) for state in WAITING)

    @property
    def paused(self) -> bool:
        """Whether nothing is admitted."""
        return self.definition is not None and self.definition.paused

    @property
    def policy(self) -> str:
        """The policy of its queue; "" if the pool is not defined."""
        return self.definition.policy.value if self.definition is not None else ""


def pool_names(model: Model) -> list[str]:
    """The pools that are defined, have something held, or have records that do not parse; sorted."""
    held = (name for name, ledger in model.ledgers.items() if ledger.held)
    damaged = (names[0] for kind, names in model.quarantine if kind in ("pools", "ledgers"))
    return sorted({*model.pools, *held, *damaged})


def is_known(model: Model, pool: str) -> bool:
    """Whether there is such a pool, or anything is left of one: a ledger, or shares."""
    return pool in {*pool_names(model), *model.ledgers, *model.shares}


def pool_facts(model: Model, name: str, counts: Counts | None = None, now: float | None = None) -> PoolFacts:
    """The facts of a pool. A pool that does not exist has nothing. `counts` are those of all, if known.

    `now`: of its demand, what maintenance windows keep back then does not count.
    """
    record = model.pools.get(name)
    counts = shown_counts(model) if counts is None else counts
    return PoolFacts(
        name=name,
        definition=record.definition if record is not None else None,
        capacity=capacity_of(model, name),
        held=model.ledger(name).held,
        unledgered=unledgered(model, name),
        tasks={state: number for state in State if (number := counts.get((name, state), 0))},
        queued=len(model.queue(name)),
        on_hold=sum(model.indexes.on_hold.get(name, {}).values()),
        gated=model.dependencies.closed.get(name, 0),
        observed=model.capacities.get(name),
        demand=pool_demand(model, name, now),
        broken=tuple(
            (kind, model.quarantine[kind, (name,)])
            for kind in ("pools", "ledgers", capacities.KIND)
            if (kind, (name,)) in model.quarantine
        ),
    )


def capacity_of(model: Model, name: str) -> Vector:
    """What the pool has. If that follows nodes, it is never less than what is held of it."""
    record = model.pools.get(name)
    if record is None:
        return ZERO
    observed = record.pool.capacity
    return observed if record.stored is None else at_least(observed, model.ledger(name).held)


def free_of(model: Model, name: str) -> Vector:
    """What is left of a pool: see PoolFacts. It costs less than all facts."""
    return capacity_of(model, name) - model.ledger(name).held - unledgered(model, name)


def all_pools(model: Model, now: float | None = None) -> list[PoolFacts]:
    """The facts of all pools, by name; `now` as in `pool_facts`."""
    counts = shown_counts(model)
    return [pool_facts(model, name, counts, now) for name in pool_names(model)]


def queued_unattested(model: Model, pool: Pool) -> int:
    """How many of its waiting tasks a pool with `require_attested` refuses."""
    queued = (model.tasks[task_id] for task_id in model.queue(pool.name))
    return sum(bool(unattested(model, task, pool)) for task in queued)


def undefined_pools(model: Model) -> list[str]:
    """The pools for which tasks wait, but which are not defined; sorted."""
    waited_for = {pool for (pool, state), number in model.counts.items() if number and state in WAITING}
    return sorted(
        name for name in waited_for if name not in model.pools and ("pools", (name,)) not in model.quarantine
    )


class OwnerFacts(NamedTuple):
    """What one owner has of a pool with `sharing`, at one moment."""

    pool: str
    owner: str
    policy: OwnerPolicy  # its own, or else that of all others
    capacity: Vector  # of the pool
    held: Vector
    guarantee: Vector  # scaled down if the pool cannot give all guarantees
    # its dominant share, by which owners are served (see controller.core.model.fair_order); None: it is
    # beyond all numbers, since the owner holds something that the pool has no more
    share: float | None
    running: int  # its Pending and Running tasks
    waiting: int  # its tasks in the queue, without those in back-off or on hold
    on_hold: int  # its tasks that are not admitted until they are released
    used: Vector  # since the beginning: resource units times milliseconds
    parts: Parts  # of what it has used
    is_below_guarantee: bool  # its first waiting task fits into what is left of its guarantee; not if paused
    broken: str  # why its share cannot be read: then what it holds and has used is not known

    @property
    def part_held(self) -> float:
        """The largest part that it holds now of any resource of the pool, whatever its weight; at most 1."""
        return min(1.0, dominant(self.held, self.capacity))

    @property
    def guarantee_left(self) -> Vector:
        """What it may still take of what is guaranteed to it."""
        return Vector({name: max(0, amount - self.held.get(name)) for name, amount in self.guarantee.items()})


def owners_of(model: Model, pool: str, now: float) -> list[OwnerFacts]:
    """The owners of a pool: those named in its `sharing`, those that have a share, and those that wait.

    Those whose tasks are all on hold count, too. Sorted by name; none if the pool has no `sharing`.
    """
    record = model.pools.get(pool)
    if record is None or record.pool.sharing is None:
        return []
    waiting = [*model.queue(pool).owners(), *model.indexes.on_hold.get(pool, {})]
    damaged = unreadable_shares(model.quarantine, pool)
    names = {*record.pool.sharing.owners, *model.shares.get(pool, {}), *waiting, *damaged} - {ANYBODY}
    running = model.indexes.open_parts(pool, round(now * 1000))
    return [
        owner_facts(model, record.pool, owner, now, running.get(owner, NO_PARTS)) for owner in sorted(names)
    ]


def shared_pools(model: Model) -> list[str]:
    """The pools of which shares are kept, by name."""
    return sorted(model.shared)


def all_owners(model: Model, now: float) -> list[OwnerFacts]:
    """The owners of all pools with `sharing`, by pool and name."""
    return [owner for pool in shared_pools(model) for owner in owners_of(model, pool, now)]


class ClaimFacts(NamedTuple):
    """What is being freed for a waiting task. `claim` is None if it cannot be read; `broken` says why."""

    task: str
    claim: Claim | None
    stopping: int  # of its victims, those that still hold something
    broken: str = ""


class SharingFacts(NamedTuple):
    """How a pool with `sharing` is shared at one moment."""

    owners: list[OwnerFacts]
    claims: list[ClaimFacts]  # by task
    is_rebuilding: bool  # its shares are not whole: no hold of the pool changes meanwhile
    stopped: int  # attempts that were stopped for other tasks in this minute


def sharing_facts(model: Model, pool: str, now: float) -> SharingFacts:
    """How a pool is shared; nothing for a pool without `sharing`."""
    account, minute = model.ledger(pool).account, round(now * 1000) // MINUTE_MS
    return SharingFacts(
        owners=owners_of(model, pool, now),
        claims=claims_of(model, pool),
        is_rebuilding=model.is_rebuilding(pool),
        stopped=account.stopped if account.minute == minute else 0,
    )


def claims_of(model: Model, pool: str) -> list[ClaimFacts]:
    """The claims on what is held of a pool, by task."""
    found = [
        ClaimFacts(task_id, claim, sum(_still_holds(model, victim) for victim in claim.victims))
        for task_id, claim in model.claims.get(pool, {}).items()
    ]
    found += [
        ClaimFacts(names[1], None, 0, why)
        for (kind, names), why in model.quarantine.items()
        if kind == claims.KIND and names[0] == pool
    ]
    return sorted(found, key=lambda claim: claim.task)


def _still_holds(model: Model, victim: str) -> bool:
    try:
        attempt = AttemptId.parse(victim)
    except ValueError:
        return False
    task = model.holding.get(attempt.task_id)
    return task is not None and task.attempt == attempt.number


def owner_facts(model: Model, pool: Pool, owner: str, now: float, running: Parts = NO_PARTS) -> OwnerFacts:
    """What one owner has of a pool, which must have `sharing`.

    `running` is what its holds that have not ended add to the parts of what it has used.
    """
    assert pool.sharing is not None
    share, at = model.share(pool.name, owner), round(now * 1000)
    policy, average = pool.sharing.of(owner), averaged(share, at, pool.sharing.half_life_seconds)
    queue, guarantee = model.queue(pool.name), pool.guarantee_of(owner)
    first = first_in_turn(model, pool, owner, now)
    part = dominant(average, pool.capacity) / (FRACTION * policy.weight)
    return OwnerFacts(
        pool=pool.name,
        owner=owner,
        policy=policy,
        capacity=pool.capacity,
        held=share.held,
        guarantee=guarantee,
        share=part if math.isfinite(part) else None,
        running=share.running,
        waiting=queue.waiting_of(owner),
        on_hold=model.indexes.on_hold.get(pool.name, {}).get(owner, 0),
        used=share.used_at(at),
        parts=share.parts_at(running, at),
        is_below_guarantee=(
            not pool.paused and first is not None and is_guaranteed(guarantee, share.held, first[1])
        ),
        broken=model.quarantine.get(("shares", (pool.name, owner)), ""),
    )
