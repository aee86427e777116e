"""Where the capacity of a pool comes from that follows nodes, and what changed it last, in words."""

from __future__ import annotations

from controller.core.model import capacities
from controller.core.model.capacities import CapacityChange, ObservedCapacity
from controller.core.model.model import Model
from controller.core.model.nodes import CapacityFrom
from controller.core.model.printable import counted
from controller.core.model.resources import Vector, format_quantity
from controller.views.words import at, span, words_of


def explain_capacity(model: Model, pool: str, now: float) -> str:
    """One clause on the capacity of a pool that follows nodes; "" for another one."""
    record = model.pools.get(pool)
    source = record.definition.capacity_from if record is not None else None
    if source is None:
        return ""
    observed = model.capacities.get(pool)
    clause = f"the capacity of pool {pool} is what {nodes_text(source, observed)}"
    if broken := model.quarantine.get((capacities.KIND, (pool,))):
        clause += f", as last known; the record of it cannot be read ({words_of(broken)})"
    if observed is None:
        return clause
    if observed.last is not None:
        clause += f", and changed last {change_text(observed.last, now)}"
    if unseen := unseen_text(observed, now):
        clause += f"; {unseen}"
    return clause


def nodes_text(source: CapacityFrom, observed: ObservedCapacity | None) -> str:
    """Which nodes give the capacity, and how many: `2 of 3 nodes with pool=batch give now`."""
    which = f" with {source.selector}" if source.selector else ""
    if observed is None:
        return f"nodes{which} give: none was counted yet"
    return f"{observed.usable} of {counted(observed.nodes, 'node')}{which} give now"


def change_text(change: CapacityChange, now: float) -> str:
    """When a capacity changed, why, and by how much."""
    amounts = difference_text(change.before, change.after)
    return f"at {at(change.at)} ({span(now - change.at)} ago): {words_of(change.why)}: {amounts}"


def difference_text(before: Vector, after: Vector) -> str:
    """The resources that differ, as `cpu 8 → 12`."""
    names = sorted({*before, *after})
    told = [
        f"{name} {format_quantity(name, before.get(name))} → {format_quantity(name, after.get(name))}"
        for name in names
        if before.get(name) != after.get(name)
    ]
    return ", ".join(told) or "no change"


def unseen_text(observed: ObservedCapacity, now: float) -> str:
    """Since when the nodes cannot be seen, and why; "" if they can."""
    if observed.unseen_since is None:
        return ""
    since = f"since {at(observed.unseen_since)} ({span(now - observed.unseen_since)})"
    return f"the nodes cannot be seen {since}: {words_of(observed.unseen_why)}"
