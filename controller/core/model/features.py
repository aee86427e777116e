"""The features that stored data may need, and which of them an installation has on.

A feature that is on is a part of the engine's record, `feature/<name>`. A replica whose release does not know
it does not lead: it would misread what the feature stored. Releases from before features stay out by the same
record, since they take it for a part of the engine that they lack. So versions may be mixed.

The value of the part is "", or DROPPING while a client looks whether data uses the feature. New uses are then
refused, and replicas that do not know the feature still do not lead.

Pure.
"""

from __future__ import annotations

from collections.abc import Mapping

from controller.core.model.requests import RequestKind
from controller.core.model.task import DEFAULT_OWNER, Pool, Spec

PREFIX = "feature/"
DROPPING = "dropping"

OWNERS = "owners"
"""Spec.owner and Pool.sharing: whom resources are charged to."""

CLAIMS = "claims"
"""Pool.preemption: tasks that are stopped for others."""

CHANGES = "changes"
"""RequestKind.CHANGE, and what it leaves in a status: on_hold, priority, the state Created."""

ATTESTED = "attested"
"""The records `attested/`, and Pool.require_attested."""

NOTIFY = "notify"
"""Pool.notify, and the records `outbox/` and `delivered/`."""

DEPENDENCIES = "dependencies"
"""Spec.after, Status.gated, and the records `awaits/`."""

SCHEDULES = "schedules"
"""The records `schedules/`, `schedule-states/` and `attested-schedules/`."""

ARRAYS = "arrays"
"""Spec.array, Status.array, Request.members, and the records `arrays/`."""

GANGS = "gangs"
"""ArraySpec.gang and roles, Status.of_gang and reserved."""

MAINTENANCE = "maintenance"
"""Pool.maintenance, and Status.windows_of."""

CAPACITIES = "capacities"
"""Pool.capacity_from, and the records `capacities/`."""

KNOWN = (
    ARRAYS,
    ATTESTED,
    CAPACITIES,
    CHANGES,
    CLAIMS,
    DEPENDENCIES,
    GANGS,
    MAINTENANCE,
    NOTIFY,
    OWNERS,
    SCHEDULES,
)
"""What this release can read, and lead with; sorted."""

REQUIRES = {CLAIMS: OWNERS, GANGS: ARRAYS}
"""Features that mean nothing without another one: it is turned on with them, and dropped after them."""


def recorded(parts: Mapping[str, str]) -> dict[str, str]:
    """The features among the parts of an engine, with their values."""
    return {part.removeprefix(PREFIX): value for part, value in parts.items() if part.startswith(PREFIX)}


def without(parts: Mapping[str, str]) -> dict[str, str]:
    """The parts that are the engine's own."""
    return {part: value for part, value in parts.items() if not part.startswith(PREFIX)}


def only(parts: Mapping[str, str]) -> dict[str, str]:
    """The parts that are features."""
    return {part: value for part, value in parts.items() if part.startswith(PREFIX)}


def lacking(parts: Mapping[str, str]) -> str:
    """Why this release must not lead with these parts; "" if it may."""
    unknown = sorted(name for name in recorded(parts) if name not in KNOWN)
    return (
        f"this release does not know the feature {', '.join(unknown)}, which is on: upgrade this replica, or"
        " drop the feature with a release that knows it (`tally features`)"
        if unknown
        else ""
    )


def needed_by_spec(spec: Spec) -> dict[str, str]:
    """The features that the spec needs, each with the field that needs it."""
    needed = {OWNERS: "owner"} if spec.owner != DEFAULT_OWNER else {}
    needed |= {DEPENDENCIES: "after"} if spec.after else {}
    if spec.array is not None:
        needed |= {ARRAYS: "array"} | ({GANGS: "array.gang"} if spec.array.gang else {})
    return needed


def needed_by_request(kind: RequestKind) -> dict[str, str]:
    """The features that a request of this kind needs, each with what needs it."""
    return {CHANGES: "request"} if kind is RequestKind.CHANGE else {}


def needed_by_pool(pool: Pool) -> dict[str, str]:
    """The features that the pool needs, each with the field that needs it."""
    fields = {
        ATTESTED: ("require_attested", pool.require_attested or None),
        OWNERS: ("sharing", pool.sharing),
        CLAIMS: ("preemption", pool.preemption),
        NOTIFY: ("notify", pool.notify or None),
        MAINTENANCE: ("maintenance", pool.maintenance or None),
        CAPACITIES: ("capacity.from", pool.capacity_from),
    }
    return {name: field for name, (field, value) in fields.items() if value is not None}
