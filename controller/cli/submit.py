"""`tally submit`: one task from flags, or many from a file or a stream."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from controller.cli.documents import Document, read_documents
from controller.cli.names import complete_pools
from controller.cli.output import check_form, print_document
from controller.cli.session import ERROR, Session, complain, parse_timeout
from controller.cli.wait import wait_for
from controller.client.submission import SubmitResult
from controller.store.base import StoreError
from controller.terminal import say

PLAIN_STEP = 1000
SHOWN_PROBLEMS = 20  # of a large file; the others are counted
QUIET_ABOVE = 10  # results that are printed one by one; a larger file gets a count
OUTCOMES = ("created", "unchanged", "conflict", "invalid")


def submit(
    session: Session,
    name: Annotated[
        str | None, typer.Argument(help="The task's name: a-z, 0-9 and '-'.", show_default=False)
    ] = None,
    command: Annotated[
        list[str] | None, typer.Argument(help="After `--`: the command and its arguments.")
    ] = None,
    file: Annotated[
        str | None, typer.Option("--file", "-f", help="YAML, JSON or JSON lines; - for standard input.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check against the pools as they are; store nothing.")
    ] = False,
    output: Annotated[str, typer.Option("-o", "--output", help="json, yaml or name.")] = "",
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait until all have finished; exit 1 unless all succeeded.")
    ] = False,
    timeout: Annotated[
        str | None, typer.Option(help="With --wait: at most this long, such as 90s or 1h.")
    ] = None,
    pool: Annotated[
        str | None,
        typer.Option(
            help="The pool whose resources it draws on (default: default).", autocompletion=complete_pools
        ),
    ] = None,
    image: Annotated[str | None, typer.Option(help="The container image.")] = None,
    cpu: Annotated[str | None, typer.Option(help="Such as 500m or 2.")] = None,
    memory: Annotated[str | None, typer.Option(help="Such as 64Mi or 2Gi.")] = None,
    resource: Annotated[
        list[str] | None, typer.Option(help="NAME=QUANTITY, any resource of the pool; may be repeated.")
    ] = None,
    priority: Annotated[int | None, typer.Option(help="Higher goes first (default 0).")] = None,
    max_attempts: Annotated[
        int | None, typer.Option(help="How often it may run and fail (default 1).")
    ] = None,
    backoff: Annotated[
        str | None, typer.Option(help="Wait before the second attempt, doubled each time (default 10s).")
    ] = None,
    deadline: Annotated[
        str | None, typer.Option(help="Stop an attempt that runs for longer than this.")
    ] = None,
    queue_deadline: Annotated[
        str | None, typer.Option(help="Fail the task if it is not admitted within this time.")
    ] = None,
    start_deadline: Annotated[
        str | None, typer.Option(help="Stop an attempt that does not run within this time.")
    ] = None,
    env: Annotated[list[str] | None, typer.Option(help="NAME=VALUE; may be repeated.")] = None,
    label: Annotated[
        list[str] | None, typer.Option("--label", "-l", help="KEY=VALUE; may be repeated.")
    ] = None,
    working_dir: Annotated[str | None, typer.Option(help="Where the command runs.")] = None,
    grace: Annotated[
        str | None, typer.Option(help="Time from SIGTERM to SIGKILL when it is stopped (default 30s).")
    ] = None,
    retention: Annotated[
        str | None, typer.Option(help="How long it is kept after its end (default 1d).")
    ] = None,
    on_lost: Annotated[
        str | None,
        typer.Option(help="hold, or a time after which a lost attempt is replaced, though it may still run."),
    ] = None,
) -> None:
    """Submit a task, or many.

    `tally submit hello --cpu 100m -- echo hello`, `tally submit -f tasks.yaml`, `generate | tally submit -f
    -`. The same name and content again is `unchanged`, exit 0; the same name with other content is a
    conflict, exit 1.
    """
    check_form(output, ("json", "yaml", "name"))
    limit = parse_timeout(timeout)
    fields = {
        "command": command or None,
        "pool": pool,
        "image": image,
        "priority": priority,
        "resources": _without_none({"cpu": cpu, "memory": memory, **parse_pairs(resource, "resource")})
        or None,
        "retry": _without_none({"max_attempts": max_attempts, "backoff_seconds": backoff}) or None,
        "deadlines": _without_none({"run": deadline, "queue": queue_deadline, "start": start_deadline})
        or None,
        "env": parse_pairs(env, "env") or None,
        "labels": parse_pairs(label, "label") or None,
        "working_dir": working_dir,
        "grace_seconds": grace,
        "retention_seconds": retention,
        "on_lost": on_lost if on_lost in (None, "hold") else {"replace_after": on_lost},
    }
    task = _without_none({"id": name, **fields})
    if (file is None) == (name is None):
        raise typer.BadParameter("give a NAME and a command after `--`, or a file with -f, but not both")
    if file is not None and task:
        raise typer.BadParameter(f"{', '.join(task)} cannot be given together with -f: put it into the file")
    chunks = read_documents(file, "tasks") if file is not None else iter([[Document(task, "")]])
    accepted = _submit(session, chunks, dry_run=dry_run, output=output)
    if wait and not dry_run and accepted:
        wait_for(session, accepted, "finished", limit)


def _submit(session: Session, chunks: Iterator[list[Document]], *, dry_run: bool, output: str) -> list[str]:
    """Submit the chunks and tell what became of them; returns the accepted ids.

    Exits with 1 when any was refused.
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
    except (StoreError, KeyboardInterrupt):
        if counts:
            say(f"{_summary(counts)} before this: submit the same again, what exists is unchanged", err=True)
        raise
    _report(counts, accepted, output, " (dry run)" if dry_run else "")
    if counts["invalid"] or counts["conflict"]:
        raise typer.Exit(ERROR)
    return [result.id for result in accepted]


def _refuse(counts: Counter[str], document: Document, result: SubmitResult | None = None) -> None:
    """One that is refused: where it stands in its file, or which it is of the command line's."""
    if counts["invalid"] + counts["conflict"] > SHOWN_PROBLEMS:
        return
    if result is None:
        complain(f"{document.place}: {document.problem}")
    else:
        complain(_placed(document, result))


def _warn(counts: Counter[str], document: Document, result: SubmitResult) -> None:
    """What is doubtful of one that is accepted."""
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
    total, refused = _total(counts), counts["invalid"] + counts["conflict"]
    if total > QUIET_ABOVE or (refused and total > 1):
        say(f"{_summary(counts)}{suffix}", err=bool(output) or total <= QUIET_ABOVE)
    if refused > SHOWN_PROBLEMS:
        complain(
            f"{refused - SHOWN_PROBLEMS} more were refused",
            "Correct them and submit the same again: what exists is unchanged.",
        )


def _total(counts: Counter[str]) -> int:
    return sum(counts[outcome] for outcome in OUTCOMES)


def _summary(counts: Counter[str]) -> str:
    return ", ".join(
        f"{counts[outcome]:,} {outcome}" for outcome in (*OUTCOMES, "warned of") if counts[outcome]
    )


@contextmanager
def _progress(counts: Counter[str]) -> Iterator[Callable[[], None]]:
    """Shows how far it is: a live line on a terminal, else a line for each PLAIN_STEP tasks. On stderr."""
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


def parse_pairs(texts: list[str] | None, option: str) -> dict[str, str]:
    """NAME=VALUE texts as a mapping."""
    pairs = {}
    for text in texts or ():
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise typer.BadParameter(f"--{option}: {text!r} is not NAME=VALUE")
        pairs[name] = value
    return pairs


def _without_none(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}
