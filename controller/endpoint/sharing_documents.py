"""The documents of the status endpoint's API about owners and claims. See `documents`."""

from __future__ import annotations

from msgspec import Struct

from controller.core.model.shares import digits
from controller.views.pools import ClaimFacts, OwnerFacts


class OwnerDocument(Struct, frozen=True, kw_only=True):
    """What one owner has of a pool with `sharing`.

    `share` is its dominant share, null if it holds something that the pool has no more. `used` is in resource
    units (milli-cpu, bytes, counts) times milliseconds, as text: such integers exceed 64 bits.
    """

    pool: str
    owner: str
    weight: float
    held: dict[str, str]
    guarantee: dict[str, str]  # scaled down if the pool cannot give all guarantees
    limit: dict[str, str]
    max_running: int | None
    max_queued: int | None
    part_held: float  # its part of the resource of which it holds most, whatever its weight; at most 1
    share: float | None
    running: int  # its Pending and Running tasks
    waiting: int  # its tasks in the queue, without those in back-off or on hold
    on_hold: int  # its tasks that are not admitted until they are released
    used: dict[str, str]
    lost: dict[str, str]  # of what it has used: held while the attempt was lost
    stopping: dict[str, str]  # of what it has used: held while the attempt was being stopped
    problem: str  # why its share cannot be read; "" if it can


class OwnerList(Struct, frozen=True, kw_only=True):
    """The owners of pools with `sharing`, by pool and name."""

    items: list[OwnerDocument]


class ClaimDocument(Struct, frozen=True, kw_only=True):
    """What is being freed for a waiting task by stopping other attempts, since `at` (s since the Unix epoch).

    `stopping` is how many of the `victims` still hold something.
    """

    task: str
    kind: str
    asked: dict[str, str]
    short: dict[str, str]
    victims: list[str]
    stopping: int
    at: float | None
    problem: str  # why it cannot be read; "" if it can


def owner_document(owner: OwnerFacts) -> OwnerDocument:
    """What one owner has of a pool."""
    policy = owner.policy
    return OwnerDocument(
        pool=owner.pool,
        owner=owner.owner,
        weight=policy.weight,
        held=owner.held.format(),
        guarantee=owner.guarantee.format(),
        limit=policy.limit.format(),
        max_running=policy.max_running,
        max_queued=policy.max_queued,
        part_held=owner.part_held,
        share=owner.share,
        running=owner.running,
        waiting=owner.waiting,
        on_hold=owner.on_hold,
        used=digits(owner.used),
        lost=digits(owner.parts.lost),
        stopping=digits(owner.parts.stopping),
        problem=owner.broken,
    )


def claim_document(facts: ClaimFacts) -> ClaimDocument:
    """A claim on what is held of a pool."""
    claim = facts.claim
    return ClaimDocument(
        task=facts.task,
        kind=claim.kind.value if claim is not None else "",
        asked=claim.asked.format() if claim is not None else {},
        short=claim.short.format() if claim is not None else {},
        victims=list(claim.victims) if claim is not None else [],
        stopping=facts.stopping,
        at=claim.at / 1000 if claim is not None else None,
        problem=facts.broken,
    )
