"""Describes a pool: `tally describe pool`."""

from __future__ import annotations

import time

from controller.cli import output as out
from controller.cli.owners import print_sharing
from controller.cli.session import Session
from controller.client import PoolView
from controller.client.pools import no_pool
from controller.core.model.capacities import ObservedCapacity
from controller.core.model.codec import to_builtins
from controller.core.model.nodes import CapacityFrom
from controller.core.model.resources import format_quantity
from controller.terminal import say
from controller.views.capacities import change_text, nodes_text, unseen_text
from controller.views.explain import span
from controller.views.maintenance import windows_text


def describe_pool(session: Session, name: str) -> None:
    """Print a pool: its definition, its resources, and how it is shared. Raises NotFound."""
    view = next((view for view in session.client.pools(counts=True) if view.name == name), None)
    if view is None:
        raise no_pool(session.client.cluster, name)
    pool = view.definition
    out.fields(
        {
            "Name": view.name,
            "Problem": (
                view.problem or ("" if pool is not None else "not defined, but tasks hold resources of it")
            ),
            "Policy": pool.policy if pool is not None else "",
            "Backfill": span(pool.backfill_seconds) if pool is not None and pool.policy == "backfill" else "",
            "Paused": "yes" if pool is not None and pool.paused else "",
            "Maintenance": windows_text(pool.maintenance, time.time()) if pool is not None else "",
            "Notifies": "; ".join(map(out.rule_text, pool.notify)) if pool is not None else "",
            "Takes": "only attested tasks" if pool is not None and pool.require_attested else "",
            "Defaults": pool.default_resources if pool is not None and pool.default_resources else "",
            "Tasks": ", ".join(f"{count} {state}" for state, count in sorted(view.counts.items()))
            or ("none" if view.on_hold is not None else ""),  # None: they are not told
            "On hold": view.on_hold or "",
            "Overcommitted": ", ".join(view.overcommitted),
        }
    )
    if pool is not None and pool.capacity_from is not None:
        _print_following(view, pool.capacity_from)
    say("Resources:")
    demand = view.demand  # None: the caller may not read all tasks
    names = sorted({*view.resources, *(demand or ())})
    table = out.Table(("  RESOURCE", "CAPACITY", "HELD", "FREE", "DEMAND"))
    table.print(
        (
            f"  {name}",
            *(format_quantity(name, each.get(name)) for each in (view.capacity, view.held, view.free)),
            format_quantity(name, demand.get(name)) if demand is not None else "-",
        )
        for name in names
    )
    if pool is not None and pool.sharing is not None:
        print_sharing(session.client.owners.sharing(name), pool, pool.sharing)
    if pool is not None and pool.engine_options:
        say("Engine options:")
        out.indented(to_builtins(pool.engine_options))


def _print_following(view: PoolView, source: CapacityFrom) -> None:
    """Where the capacity comes from that follows nodes, and what changed it last."""
    observed, now = view.observed or ObservedCapacity(), time.time()
    last, over = observed.last, view.held.exceeding(observed.amounts)
    gives = ", ".join(f"{name} {observed.amounts.format([name])[name]}" for name in over)
    out.fields(
        {
            "Capacity from": nodes_text(source, view.observed),
            "Changed": change_text(last, now) if last is not None else "",
            "Unseen": unseen_text(observed, now),
            "Falling": f"the nodes give {gives}: the capacity falls as tasks end" if over else "",
        }
    )
