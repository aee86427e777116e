"""How a pool is shared, as `tally describe pool` prints it, and the command `tally usage`."""

from __future__ import annotations

import csv
import io
from typing import Annotated

import typer

from controller.cli import output as out
from controller.cli.names import Kind, bare, complete_pools
from controller.cli.session import Session, as_usage
from controller.client import SharingView, Usage
from controller.core.model.codec import to_builtins
from controller.core.model.sharing import Sharing
from controller.core.model.task import Pool
from controller.terminal import say, say_lines
from controller.views.explain import at, span
from controller.views.usage import label_of, parse_moment
from controller.views.words import hours, hours_unit


def print_sharing(view: SharingView, pool: Pool, sharing: Sharing) -> None:
    """Print the rules, the owners and the claims of a pool."""
    half_life = (
        f"half-life {span(sharing.half_life_seconds)}" if sharing.half_life_seconds else "by what is held now"
    )
    rebuilt = ", shares are being rebuilt" if view.rebuilding else ""
    say(f"Sharing: {half_life}, priority {sharing.priority}{rebuilt}")
    rules = pool.preemption
    if rules is not None:
        rights = [name for name in ("reclaim", "by_priority") if getattr(rules, name)]
        say(
            f"Preemption: {', '.join(rights) or 'off'}; none younger than {span(rules.min_run_seconds)};"
            f" {view.stopped} of {rules.per_minute} stops used in this minute"
        )
    if view.owners:
        say("Owners:")
        table = out.Table(
            tuple(f"  {name}" if not n else name for n, name in enumerate(out.WIDE_OWNER_COLUMNS[1:]))
        )
        table.print(
            (f"  {row[1]}", *row[2:]) for row in (out.owner_row(owner, wide=True) for owner in view.owners)
        )
    if view.claims:
        say("Claims:")
        table = out.Table(("  TASK", "KIND", "ASKED", "SHORT", "STOPPING", "SINCE", "NOTE"))
        table.print(
            (
                f"  {claim.task}",
                claim.kind,
                out.amounts(claim.asked.format()),
                out.amounts(claim.short.format()),
                f"{claim.stopping} of {len(claim.victims)}",
                at(claim.at) if claim.at is not None else "",
                claim.problem,
            )
            for claim in view.claims
        )


def usage(
    session: Session,
    by: Annotated[str, typer.Option(help="owner, pool, or label=KEY.")] = "owner",
    pool: Annotated[
        str, typer.Option(help="Only what was used of this pool.", autocompletion=complete_pools)
    ] = "",
    since: Annotated[
        str, typer.Option(help="A duration such as 7d, or a date such as 2026-11-27 (UTC). Default: all.")
    ] = "",
    until: Annotated[
        str, typer.Option(help="A duration before now, or a date (UTC): its beginning. Default: now.")
    ] = "",
    output: Annotated[str, typer.Option("-o", "--output", help="json or csv: exact integers.")] = "",
) -> None:
    """Show what was used of pools with `sharing`.

    LOST and STOPPING are parts of USED: what was held while an attempt was lost, or was being stopped. The
    table is in resource-hours. JSON and CSV have exact integers: milli-cpu, bytes or counts, times
    milliseconds. By owner and pool, use is counted from the end of the last day (UTC) before --since to that
    of the last one before --until. By label, it is counted from the histories of the tasks that are still
    stored; those that lack the label are `(no label)`.
    """
    out.check_form(output, ("json", "csv"))
    as_usage(lambda: label_of(by))
    as_usage(lambda: parse_moment(since, 0, "since") if since else None)
    as_usage(lambda: parse_moment(until, 0, "until") if until else None)
    found = session.client.usage(by=by, pool=bare(pool, Kind.POOLS), since=since, until=until)
    if output == "json":
        out.print_document(to_builtins(found), output)
        return
    if output == "csv":
        _print_csv(found)
    else:
        _print_usage(found)
    for note in found.notes:
        say(f"note: {note}", err=True)


def _print_csv(found: Usage) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow((found.by, "resource", "unit_milliseconds", "lost", "stopping"))
    for line in found.items:
        writer.writerows(
            (line.name, resource, amount, line.lost.get(resource, 0), line.stopping.get(resource, 0))
            for resource, amount in line.used.items()
        )
    say_lines(text.getvalue())


def _print_usage(found: Usage) -> None:
    since = f"since {at(found.since / 1000)}" if found.since is not None else "since the beginning"
    say(f"Used {since}, until {at(found.until / 1000)}:")
    table = out.Table((found.by.upper(), "UNIT", "USED", "LOST", "STOPPING"))
    table.print(
        (
            line.name,
            hours_unit(resource)[1],
            *(_hours(resource, part.get(resource)) for part in (line.used, line.lost, line.stopping)),
        )
        for line in found.items
        for resource in sorted(line.used)
    )


def _hours(resource: str, amount: str | None) -> str:
    return hours(resource, int(amount)) if amount is not None else ""
