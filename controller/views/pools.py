"""The facts of a pool, as all readers show them: which pools exist, and what each has, holds and queues.

The cost follows the pools, never the number of tasks stored.
"""

from __future__ import annotations

from typing import NamedTuple

from controller.core.model.lifecycle import WAITING, State
from controller.core.model.model import Model
from controller.core.model.resources import ZERO, Vector
from controller.core.model.task import Pool
from controller.core.promise.invariants import unledgered


class PoolFacts(NamedTuple):
    """A pool at one moment."""

    name: str
    definition: Pool | None  # None: it is not defined (any more), or cannot be read
    capacity: Vector
    held: Vector  # as its ledger says
    unledgered: Vector  # what its tasks hold beyond that: nothing, by invariant I1
    tasks: dict[State, int]  # states in which it has tasks, in the order of the lifecycle
    queued: int  # tasks in its queue, without those in back-off
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


def pool_facts(model: Model, name: str) -> PoolFacts:
    """The facts of a pool. A pool that does not exist has nothing."""
    record = model.pools.get(name)
    return PoolFacts(
        name=name,
        definition=record.pool if record is not None else None,
        capacity=record.pool.capacity if record is not None else ZERO,
        held=model.ledger(name).held,
        unledgered=unledgered(model, name),
        tasks={state: number for state in State if (number := model.counts.get((name, state), 0))},
        queued=len(model.queue(name)),
        broken=tuple(
            (kind, model.quarantine[kind, (name,)])
            for kind in ("pools", "ledgers")
            if (kind, (name,)) in model.quarantine
        ),
    )


def all_pools(model: Model) -> list[PoolFacts]:
    """The facts of all pools, by name."""
    return [pool_facts(model, name) for name in pool_names(model)]


def undefined_pools(model: Model) -> list[str]:
    """The pools for which tasks wait, but which are not defined; sorted."""
    waited_for = {pool for (pool, state), number in model.counts.items() if number and state in WAITING}
    return sorted(
        name for name in waited_for if name not in model.pools and ("pools", (name,)) not in model.quarantine
    )
