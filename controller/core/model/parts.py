"""The parts of what is used that bring its owner nothing: while an attempt is lost, or is being stopped.

A status counts them for its attempt, in ms, whenever it is written while the attempt is lost or is being
stopped. So nothing more has to be written for them, and a history that is cut takes nothing from them. Time
that is both is lost. The step that ends the hold keeps the sums, and the share is charged with hold × ms.
Until then, readers add what running attempts have come to: see `Indexes.open_parts`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from controller.core.model.lifecycle import HOLDING
from controller.core.model.resources import ZERO, Vector
from controller.core.model.task import Status


class Parts(NamedTuple):
    """Of what was used, in resource units times milliseconds."""

    lost: Vector = ZERO
    stopping: Vector = ZERO


NO_PARTS = Parts()


def has_parts(status: Status) -> bool:
    """Whether its attempt is, or was, lost or being stopped."""
    return bool(status.counted_at or status.lost_since is not None or status.stopping)


def counted(status: Status, at: int) -> tuple[int, int]:
    """For how many ms its attempt has been lost, and been stopped, by then; (0, 0) if it holds nothing.

    A status that an older version wrote says since when it is lost, and not since when it is being stopped.
    """
    if not status.is_holding or not has_parts(status):
        return 0, 0
    is_lost = status.lost_since is not None
    since = status.counted_at or (round(1000 * status.lost_since) if status.lost_since is not None else at)
    elapsed = max(0, at - since)
    return (
        status.lost_ms + (elapsed if is_lost else 0),
        status.stopping_ms + (elapsed if status.stopping and not is_lost else 0),
    )


def counts_after(status: Status, fields: dict[str, Any], at: int) -> dict[str, Any]:
    """The counts of a status once these fields have changed at that moment.

    They end with the hold. If a repair changes the hold, they begin anew: the one before was wrong.
    """
    starts = fields.get("stopping") or fields.get("lost_since") is not None
    if not (starts or has_parts(status) or status.lost_ms or status.stopping_ms):
        return {}
    if fields.get("state", status.state) not in HOLDING or not status.is_holding:
        return {"lost_ms": 0, "stopping_ms": 0, "counted_at": 0}
    holds = fields.get("hold", status.hold), fields.get("pool", status.pool)
    lost, stopping = counted(status, at) if holds == (status.hold, status.pool) else (0, 0)
    return {"lost_ms": lost, "stopping_ms": stopping, "counted_at": max(at, status.counted_at)}


def parts_of(status: Status | None, at: int) -> Parts:
    """What the hold of this attempt has come to by then."""
    if status is None:
        return NO_PARTS
    lost, stopping = counted(status, at)
    if not (lost or stopping):
        return NO_PARTS
    return Parts(times(status.hold, lost), times(status.hold, stopping))


def times(hold: Vector, elapsed: int) -> Vector:
    """What is used by holding this for so many ms."""
    return hold.like({name: amount * elapsed for name, amount in hold.items()})
