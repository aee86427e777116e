"""The command `tally submit`: submits one task from flags, or many from a file or a stream."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from controller.cli.documents import Document, read_documents
from controller.cli.output import check_form, print_document
from controller.cli.session import ERROR, Session, complain, parse_timeout
from controller.cli.task_flags import TaskFlags, without_none
from controller.cli.wait import wait_for
from controller.client.errors import GatewayUnavailable
from controller.client.prepared import SubmitResult
from controller.store.base import StoreError
from controller.terminal import say

PLAIN_STEP = 1000
SHOWN_PROBLEMS = 20  # the first problems of a file; further ones are counted
QUIET_ABOVE = 10  # up to this many results are printed one by one; more are counted
REFUSED = ("conflict", "invalid", "denied")
OUTCOMES = ("created", "unchanged", *REFUSED)


def submit(
    session: Session,
    name: Annotated[
        str | None, typer.Argument(help="The task's name: a-z, 0-9 and '-'.", show_default=False)
    ] = None,
    command: Annotated[
        list[str] | None, typer.Argument(help="After `--`: the command and its arguments.")
    ] = None,
    file: Annotated[
        str | None,
        typer.Option("--file", "-f", help="File of YAML, JSON or JSON lines; - for standard input."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check against the current pools; store nothing.")
    ] = False,
    output: Annotated[str, typer.Option("-o", "--output", help="json, yaml or name.")] = "",
    wait: Annotated[
        bool,
        typer.Option(
            "--wait",
            help="Wait until all tasks have finished; exit with 1 unless each succeeded or was skipped.",
        ),
    ] = False,
    timeout: Annotated[
        str | None, typer.Option(help="With --wait: wait at most this long, such as 90s or 1h.")
    ] = None,
    *,
    flags: TaskFlags,
) -> None:
    """Submit one or more tasks.

    `tally submit hello --cpu 100m -- echo hello`, `tally submit -f tasks.yaml`, `generate | tally submit -f
    -`. A task that exists with the same content is `unchanged`, with exit code 0. A task that exists with
    other content is a conflict, with exit code 1.
    """
    check_form(output, ("json", "yaml", "name"))
    limit = parse_timeout(timeout)
    if limit is not None and not wait:
        raise typer.BadParameter("--timeout limits --wait: give both, or none")
    task = without_none({"id": name, "command": command or None, **flags.fields()})
    if (file is None) == (name is None):
        raise typer.BadParameter("give a NAME and a command after `--`, or a file with -f, but not both")
    if file is not None and task:
        raise typer.BadParameter(f"{', '.join(task)} cannot be combined with -f: put it into the file")
    chunks = read_documents(file, "tasks") if file is not None else iter([[Document(task, "")]])
    accepted = _submit(session, chunks, dry_run=dry_run, output=output)
    if wait and not dry_run and accepted:
        wait_for(session, accepted, "finished", limit)


def _submit(session: Session, chunks: Iterator[list[Document]], *, dry_run: bool, output: str) -> list[str]:
    """Submit the chunks and print the results; returns the accepted ids.

    Exits with 1 if any task was refused.
    """
    counts: Counter[str] = Counter()
    accepted: list[SubmitResult] = []
    try:
        with _progress(counts) as advance:
            for chunk in chunks:
                readable = [document for document in chunk if not document.problem]

                def note(result: SubmitResult, readable: list[Document] = readable) -> None:
                    counts[result.outcome] += 1
                    if result.accepted:
                        accepted.append(result)
                        _warn(counts, readable[result.index], result)
                    else:
                        _refuse(counts, readable[result.index], result)
                    advance()

                for document in chunk:
                    if document.problem:
                        counts["invalid"] += 1
                        _refuse(counts, document)
                session.client.submit_many(
                    [document.value for document in readable], dry_run=dry_run, on_result=note
                )
    except (StoreError, GatewayUnavailable, KeyboardInterrupt):
        if counts:
            advice = "submit the same again; existing tasks do not change"
            say(f"{_summary(counts)} before this: {advice}", err=True)
        raise
    _report(counts, accepted, output, " (dry run)" if dry_run else "")
    if _refused(counts):
        raise typer.Exit(ERROR)
    return [result.id for result in accepted]


def _refused(counts: Counter[str]) -> int:
    return sum(counts[outcome] for outcome in REFUSED)


def _refuse(counts: Counter[str], document: Document, result: SubmitResult | None = None) -> None:
    """Print why a document was refused, and its place or name; nothing after SHOWN_PROBLEMS of them."""
    if _refused(counts) > SHOWN_PROBLEMS:
        return
    if result is None:
        complain(f"{document.place}: {document.problem}")
    else:
        complain(_placed(document, result))


def _warn(counts: Counter[str], document: Document, result: SubmitResult) -> None:
    """Count and print the warning of an accepted document, if it has one."""
    if result.message:
        counts["warned of"] += 1
        if counts["warned of"] <= SHOWN_PROBLEMS:
            say(f"warning: {_placed(document, result)}", err=True)


def _placed(document: Document, result: SubmitResult) -> str:
    return (
        f"{document.place_of(result.field) if document.place else result.id}: {result.message}".removeprefix(
            ": "
        )
    )


def _report(counts: Counter[str], accepted: list[SubmitResult], output: str, suffix: str) -> None:
    if output in ("json", "yaml"):
        print_document(
            {"items": [{"id": result.id, "outcome": result.outcome} for result in accepted]}, output
        )
    elif output == "name":
        for result in accepted:
            say(f"task/{result.id}")
    elif len(accepted) <= QUIET_ABOVE:
        for result in accepted:
            say(f"task/{result.id} {result.outcome}{suffix}")
    total, refused = _total(counts), _refused(counts)
    if total > QUIET_ABOVE or (refused and total > 1):
        say(f"{_summary(counts)}{suffix}", err=bool(output) or total <= QUIET_ABOVE)
    if refused > SHOWN_PROBLEMS:
        complain(
            f"{refused - SHOWN_PROBLEMS} more were refused",
            "Correct them and submit the same again: existing tasks do not change.",
        )


def _total(counts: Counter[str]) -> int:
    return sum(counts[outcome] for outcome in OUTCOMES)


def _summary(counts: Counter[str]) -> str:
    return ", ".join(
        f"{counts[outcome]:,} {outcome}" for outcome in (*OUTCOMES, "warned of") if counts[outcome]
    )


@contextmanager
def _progress(counts: Counter[str]) -> Iterator[Callable[[], None]]:
    """Shows progress on stderr: a live line on a terminal, else a line for each PLAIN_STEP tasks."""
    if not sys.stderr.isatty():
        yield lambda: _plain_progress(counts)
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
    ) as progress:
        task = progress.add_task("submitting")
        yield lambda: progress.update(task, description=_summary(counts))


def _plain_progress(counts: Counter[str]) -> None:
    if _total(counts) % PLAIN_STEP == 0:
        say(f"{_summary(counts)} so far", err=True)
