"""What a task asks for when neither it nor its submitter names a resource."""

from __future__ import annotations

from collections.abc import Collection

from controller.core.model.resources import Vector, parse_quantity
from controller.core.model.task import Pool

FALLBACK_RESOURCES = Vector(
    {"cpu": parse_quantity("cpu", "100m"), "memory": parse_quantity("memory", "64Mi")}
)
"""What a task asks for when neither it nor its pool's `default_resources` names a resource.

Only the resources that the pool has are taken from here.
"""


def default_resources(named: Collection[str], pool: Pool) -> Vector:
    """What the pool fills in for a task that names these resources."""
    defaults = pool.default_resources
    if not named and not defaults:
        defaults = Vector(
            {name: amount for name, amount in FALLBACK_RESOURCES.items() if name in pool.capacity}
        )
    return Vector({name: amount for name, amount in defaults.items() if name not in named})
