"""The command `tally top`: which pools and owners hold most now."""

from __future__ import annotations

import math
import sys
import time
from typing import Annotated

import typer

from controller.cli import output as out
from controller.cli.names import Kind, bare, complete_pools
from controller.cli.session import Session
from controller.client.pools import no_pool
from controller.terminal import say
from controller.views.words import share_text

POOL_COLUMNS = ("POOL", "PART", "HELD", "CAPACITY")
OWNER_COLUMNS = ("POOL", "OWNER", "PART", "HELD", "SHARE", "RUNNING")
REFRESH_SECONDS = 2.0
CLEAR = "\x1b[H\x1b[J"


def top(
    session: Session,
    pool: Annotated[str, typer.Option(help="Only this pool.", autocompletion=complete_pools)] = "",
    watch: Annotated[bool, typer.Option("-w", "--watch", help="Refresh until Ctrl-C.")] = False,
) -> None:
    """Show which pools and owners hold most now.

    PART is the part of the resource of which most is held. Owners are those of pools with `sharing`.
    """
    only = bare(pool, Kind.POOLS)
    _show(session, only)
    while watch:
        time.sleep(REFRESH_SECONDS)  # the pace of the display, whatever happens
        say(CLEAR if sys.stdout.isatty() else "", flush=True)
        _show(session, only)


def _show(session: Session, only: str) -> None:
    pools = [view for view in session.client.pools() if only in ("", view.name)]
    if only and not pools:
        raise no_pool(session.client.cluster, only)
    owners = session.client.owners.all(only, counts=False)
    if not pools:
        say("No pools found. Create one: tally apply -f pool.yaml", err=True)
        return
    out.Table(POOL_COLUMNS).print(
        (
            view.name,
            _part(view.part_held),
            out.amounts(view.held.format()),
            out.amounts(view.capacity.format()),
        )
        for view in sorted(pools, key=lambda view: (-view.part_held, view.name))
    )
    if owners:
        say("")
        out.Table(OWNER_COLUMNS).print(
            (
                view.pool,
                view.owner,
                _part(view.part_held),
                out.amounts(view.held.format()),
                share_text(view.share),
                view.running,
            )
            for view in sorted(owners, key=lambda view: (-view.part_held, view.pool, view.owner))
        )


def _part(part: float) -> str:
    return f"{100 * part:.0f}%" if math.isfinite(part) else "beyond all"
