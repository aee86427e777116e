"""How a pool is shared among owners: weights, guarantees, limits, and when a task is stopped for another."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from functools import cached_property

from msgspec import Struct, field

from controller.core.model.resources import ZERO, Vector

ANYBODY = "*"
"""The name under which `Sharing.owners` has the policy of all owners that it does not name."""


class Ceiling(Vector):
    """The most of each resource that it names, which may be zero. It says nothing of other resources."""

    __slots__ = ()

    def __init__(self, amounts: Mapping[str, int] | None = None) -> None:
        super().__init__()
        self._amounts = dict(sorted((amounts or {}).items()))

    def exceeded_by(self, amounts: Mapping[str, int]) -> list[str]:
        """The names of which `amounts` has more than this allows, sorted."""
        return [name for name, most in self._amounts.items() if amounts.get(name, 0) > most]


NO_CEILING = Ceiling()


class OwnerPolicy(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """What one owner may have of a pool.

    `weight` is the part of the pool that is the owner's by right, against the weights of those who want some.
    `guarantee` is served before others, up to its amounts. `limit`, `max_running` and `max_queued` are never
    exceeded by the leader's admissions and by submissions; None for none.
    """

    weight: float = 1.0
    guarantee: Vector = ZERO
    limit: Ceiling = NO_CEILING
    max_running: int | None = None
    max_queued: int | None = None


class SharingPriority(StrEnum):
    """How far a task's priority reaches."""

    WITHIN_OWNER = "within-owner"
    ACROSS_OWNERS = "across-owners"  # it counts after guarantees, and before shares


class Sharing(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True, dict=True):
    """How a pool is shared. See `controller.core.model.fair_order` for the order of admission.

    `half_life_seconds`: held resources are averaged over the past with this half-life; 0: only what is held
    now counts.
    """

    half_life_seconds: float = 0.0
    priority: SharingPriority = SharingPriority.WITHIN_OWNER
    owners: dict[str, OwnerPolicy] = field(default_factory=dict)

    def of(self, owner: str) -> OwnerPolicy:
        """The policy of an owner: its own, or else that of all others."""
        return self.owners.get(owner) or self.owners.get(ANYBODY) or _ANY_POLICY

    @cached_property  # it is asked for each owner again
    def guaranteed(self) -> Vector:
        """The sum of all guarantees."""
        total = ZERO
        for policy in self.owners.values():
            total += policy.guarantee
        return total

    def guarantee_of(self, owner: str, capacity: Mapping[str, int]) -> Vector:
        """See Pool.guarantee_of."""
        policy = self.owners.get(owner)
        if policy is None or not policy.guarantee:
            return ZERO
        total = self.guaranteed
        return Vector(
            {
                name: amount * min(capacity.get(name, 0), total[name]) // total[name]
                for name, amount in policy.guarantee.items()
            }
        )


class Preemption(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Which attempts are stopped for a task that does not fit.

    `reclaim`: those of owners above their guarantee, for one below its own. `by_priority`: those of a lower
    priority. None that was started less than `min_run_seconds` ago, and at most `per_minute` in a minute.
    """

    reclaim: bool = False
    by_priority: bool = False
    min_run_seconds: float = 300.0
    per_minute: int = 60


_ANY_POLICY = OwnerPolicy()
