"""The command `tally audit`: it checks the promise, and has the leader repair findings."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from controller.cli import output as out
from controller.cli.engines import open_engine_or_warn
from controller.cli.session import ERROR, INCOMPLETE, Session, as_usage, complain
from controller.terminal import say_lines

if TYPE_CHECKING:
    from controller.audit.audit import Look, Report
    from controller.client import Client
    from controller.core.model.requests import RepairRequest
    from controller.core.planning.plan import Outcome
    from controller.engine.base import Engine

PAUSE_SECONDS = 1.0  # between two requests, while the leader puts a repair off


def audit(
    session: Session,
    repair: Annotated[bool, typer.Option("--repair", help="Ask the leader to repair findings.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="With --repair: print the transaction; write nothing.")
    ] = False,
    delete: Annotated[
        list[str] | None,
        typer.Option(
            "--delete",
            metavar="KEY",
            help="With --repair: delete this quarantined key, named as in the audit.",
        ),
    ] = None,
    reason: Annotated[str, typer.Option(help="The reason, recorded with the repairs.")] = "",
    timeout: Annotated[
        str, typer.Option(help="With --repair: how long to wait for the leader in all, such as 5m.")
    ] = "60",
    records_only: Annotated[
        bool, typer.Option("--records-only", help="Check only etcd, not the engine.")
    ] = False,
    output: Annotated[str, typer.Option("-o", "--output", help="json or yaml.")] = "",
) -> None:
    """Check that the promise is kept.

    Compares ledgers with holds, histories with the lifecycle, and attempts with the engine. Exits with 1 if
    something is wrong, and with 3 if nothing is wrong but the engine could not be checked. With --repair, the
    leader repairs findings in fenced, recorded transactions; it kills nothing.
    """
    out.check_form(output, ("json", "yaml"))
    if (dry_run or delete) and not repair:
        raise typer.BadParameter("--dry-run and --delete need --repair")
    from controller.config.values import positive_seconds

    seconds = as_usage(lambda: positive_seconds(timeout, "--timeout"))
    session.need_etcd()
    client = session.client
    opened = (None, "") if records_only else open_engine_or_warn(session)
    report, look = _examine(client, *opened)
    outcomes: list[Outcome] = []
    is_answered = True
    if repair and not dry_run:
        report, outcomes, is_answered = _repair(
            client, opened, report, delete or [], reason, seconds, quiet=bool(output)
        )
    shown = _preview(client, report, look, delete or [], reason) if dry_run else None
    if output:
        document: dict[str, Any] = report.to_json()
        if shown is not None:
            document["preview"] = shown.to_builtins()
        elif repair:
            from controller.core.model.codec import to_builtins

            document["repairs"] = to_builtins(outcomes)
        out.print_document(document, output)
    else:
        say_lines(report.to_text())
        if shown is not None:
            say_lines(shown.to_text())
            if look.observations is None:
                say_lines(
                    "This command saw no attempts. The leader lists its engine first, and may postpone a"
                    " repair."
                )
    if report.wrong or not is_answered:
        raise typer.Exit(ERROR)
    if report.verdict != "ok":
        raise typer.Exit(INCOMPLETE)


def _examine(client: Client, engine: Engine | None, engine_problem: str) -> tuple[Report, Look]:
    from controller.audit.audit import examine

    return examine(client.store, engine, client.keys.cluster, client.clock, engine_problem=engine_problem)


def _repair(
    client: Client,
    opened: tuple[Engine | None, str],
    report: Report,
    delete: list[str],
    reason: str,
    timeout: float,
    *,
    quiet: bool,
) -> tuple[Report, list[Outcome], bool]:
    """Request repairs until no repairable finding is left, or the time is over.

    Returns the last report, the outcomes of all requests, and whether the leader took up the last one.
    """
    from controller.audit.repairs import RepairUnanswered, ask, outcomes_text, wanted
    from controller.core.planning.plan import Verdict

    outcomes: list[Outcome] = []
    ends = client.clock.boottime() + timeout
    while (left := ends - client.clock.boottime()) > 0 and (findings := wanted(report, delete)):
        try:
            answered = ask(
                client.store, client.keys, client.clock, _request(client, report, findings, reason), left
            )
        except RepairUnanswered as error:
            complain(f"{error}; does the leader hear its engine? `tally check` says so")
            return report, outcomes, False
        outcomes += answered
        if not quiet:
            say_lines(outcomes_text(answered))
        verdicts = {outcome.verdict for outcome in answered}
        delete = []  # asked for only once, at the revision of the first report
        if Verdict.LATER in verdicts:
            time.sleep(PAUSE_SECONDS)
        report, _ = _examine(client, *opened)
        if not verdicts & {Verdict.LATER, Verdict.REPAIRED}:
            break
        if Verdict.LATER not in verdicts and wanted(report) == findings:
            time.sleep(PAUSE_SECONDS)  # something else undoes the repair
    return report, outcomes, True


def _preview(client: Client, report: Report, look: Look, delete: list[str], reason: str) -> Any:
    from controller.audit.repairs import preview, wanted

    request = _request(client, report, wanted(report, delete), reason)
    return preview(look, request, client.keys, client.clock.now())


def _request(client: Client, report: Report, findings: Any, reason: str) -> RepairRequest:
    from controller.client.requests import requester
    from controller.core.model.requests import RepairRequest

    return RepairRequest(
        findings=findings, revision=report.revision, by=requester(), reason=reason, at=client.clock.now()
    )
