"""The events of the stream of changes, as they are written."""

from __future__ import annotations

import msgspec

from controller.core.model import blocks
from controller.core.model.arrays import MemberName
from controller.core.model.codec import read_status
from controller.core.model.records import Change
from controller.errors import CorruptValue
from controller.views.array_changes import listed_among, names_of
from controller.views.replicas import leader_facts


def is_told(change: Change) -> bool:
    """Whether the change is an event: a status, a spec that appears or goes, a block, or the leader.

    The deletion of a status is none, since it comes with the deletion of its spec.
    """
    if change.kind == "states":
        return change.value is not None
    return change.kind in ("tasks", "leader", blocks.KIND)


def is_of_member(change: Change) -> bool:
    """Whether it is the status of a member."""
    return b'"array":' in (change.value or b"") and MemberName.parse(change.names[0]) is not None


def event_of(change: Change) -> bytes:
    """The event of a change that is no status of a task: a spec, a member, a block, or the leader."""
    if change.kind == "leader":
        leader = leader_facts(change)
        name = leader.told.id if leader is not None else ""
        return event("leader", {"replica": name, "revision": change.mod})
    if change.kind != "tasks":  # a block, or the status of a member
        array = min(listed_among(names_of(change)), key=len)
        return event("array", {"id": array, "revision": change.mod})
    name = "removed" if change.value is None else "submitted"
    return event(name, {"id": change.names[0], "revision": change.mod})


def status_event(task_id: str, mod: int, value: bytes) -> bytes:
    """The event of a task whose status has changed; of one that cannot be read, `quarantined`."""
    try:
        status, _ = read_status(value)
    except CorruptValue as error:
        return event("quarantined", {"id": task_id, "revision": mod, "detail": str(error)})
    fields = {
        "state": status.state,
        "pool": status.pool,
        "attempt": status.attempt,
        "stopping": status.stopping,
    }
    return event(
        "status",
        {"id": task_id, "revision": mod, **fields, "reason": status.reason, "message": status.message},
    )


def event(name: str, data: dict[str, object]) -> bytes:
    """An event, without its id."""
    return b"event: %s\ndata: %s\n" % (name.encode(), msgspec.json.encode(data))
