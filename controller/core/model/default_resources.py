"""What a task asks for when neither it nor its submitter names a resource."""

from __future__ import annotations

from collections.abc import Collection

from controller.core.model.resources import Vector, parse_quantity
from controller.core.model.task import Pool, Spec
from controller.errors import InvalidField

FALLBACK_RESOURCES = Vector(
    {"cpu": parse_quantity("cpu", "100m"), "memory": parse_quantity("memory", "64Mi")}
)
"""What a task asks for when neither it nor its pool's `default_resources` names a resource.

Only the resources that the pool has are taken from here; all, if its capacity follows nodes, which have them.
"""


def default_resources(named: Collection[str], pool: Pool) -> Vector:
    """What the pool fills in for a task that names these resources."""
    defaults = pool.default_resources
    if not named and not defaults:
        follows = pool.capacity_from is not None
        defaults = Vector(
            {name: amount for name, amount in FALLBACK_RESOURCES.items() if follows or name in pool.capacity}
        )
    return Vector({name: amount for name, amount in defaults.items() if name not in named})


def with_origin(error: InvalidField, spec: Spec, filled: Vector, pool: Pool) -> InvalidField:
    """The error about an amount; if that was filled in, with where it comes from, and what to do."""
    name = error.field.removeprefix("resources.")
    array = spec.array
    by_default = [part.size for part in array.parts if part.resources is None] if array is not None else [1]
    if error.field != f"resources.{name}" or name not in filled or not by_default:
        return error
    amount = Vector({name: filled[name]}).format()[name]
    members = sum(by_default)
    each = (
        f" for {'1 member' if members == 1 else f'each of {members:,} members'}" if array is not None else ""
    )
    origin = "`default_resources` of the pool" if pool.default_resources else "Tally's own default"
    return InvalidField(
        error.field,
        f"{error.problem}. The task does not name {name}: {amount}{each} comes from {origin}; name less, or 0"
        " for none",
    )
