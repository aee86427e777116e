"""The command `tally logs`: prints an attempt's output, from its engine or from the kept log."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from controller.cli.names import TaskName, note_taken
from controller.cli.schedules import hinting_at_schedule
from controller.cli.session import Session
from controller.client import NotFound, TaskView
from controller.core.model.arrays import MemberName
from controller.core.model.kept_log import LIMIT_BYTES, KeptLog
from controller.core.model.lifecycle import HOLDING, State
from controller.core.model.task import AttemptId
from controller.terminal import say
from controller.views.explain import span

if TYPE_CHECKING:
    from controller.engine.base import LogOptions


def logs(
    session: Session,
    name: TaskName,
    follow: Annotated[
        bool, typer.Option("-f", "--follow", help="Follow the output until the attempt has ended.")
    ] = False,
    attempt: Annotated[
        int | None, typer.Option(help="The number of the attempt (default: the last one).")
    ] = None,
    container: Annotated[
        str, typer.Option("-c", "--container", help="The container or init container of the pod.")
    ] = "",
    tail: Annotated[int | None, typer.Option(min=0, help="Print only this many last lines.")] = None,
    since: Annotated[str, typer.Option(help="Print only output newer than this, such as 5m or 1h30m.")] = "",
    previous: Annotated[
        bool, typer.Option("-p", "--previous", help="Print the previous run of a restarted container.")
    ] = False,
) -> None:
    """Print the output of a task's attempt, both streams in order of arrival."""
    from controller.cli.engines import open_engine
    from controller.core.model.scalars import parse_duration
    from controller.engine.base import LogOptions

    seconds = parse_duration(since, "--since") if since else None
    options = LogOptions(container=container, tail=tail, since_seconds=seconds, previous=previous)
    engine = None if session.uses_gateway else open_engine(session)
    try:
        with hinting_at_schedule(session, name):
            chunks = session.client.outputs.logs(
                name, attempt=attempt, follow=follow, engine=engine, options=options
            )
    except NotFound:
        kept = None if container or since or previous else session.client.outputs.kept_log(name)
        if kept is None or attempt not in (None, kept.attempt):
            raise
        say(f"kept log of attempt {kept.attempt}, {extent(kept)}", err=True)
        lines = kept.text.encode().splitlines(keepends=True)
        chunks = iter(lines if tail is None else lines[max(0, len(lines) - tail) :])
    is_silent = True
    for chunk in chunks:
        is_silent = is_silent and not chunk
        sys.stdout.buffer.write(chunk)
        sys.stdout.buffer.flush()
    if is_silent and tail != 0:
        say(_silence(session.client.get(name), attempt, options, has_ended=follow), err=True)
    if MemberName.parse(name) is not None:
        note_taken(session, session.client.get(name))


def _silence(view: TaskView, attempt: int | None, options: LogOptions, *, has_ended: bool) -> str:
    """A message that there is no output, and whether there may be some later."""
    number = view.attempt if attempt is None else attempt
    who = (
        f"container {options.container} of {AttemptId(view.id, number)}"
        if options.container
        else str(AttemptId(view.id, number))
    )
    when = f" in the last {span(options.since_seconds)}" if options.since_seconds is not None else ""
    if has_ended or number != view.attempt or view.state not in HOLDING:
        is_last = number == view.attempt and view.finished and view.reason not in ("", view.state)
        return f"{who} has printed nothing{when}, and has ended{f' ({view.reason})' if is_last else ''}"
    more = "runs" if view.state is State.RUNNING else f"does not run yet: `tally explain {view.id}` says why"
    return f"{who} has printed nothing{when}, and {more}"


def extent(kept: KeptLog) -> str:
    """A phrase for how much of the output was kept."""
    return f"the last {LIMIT_BYTES // 1024} KiB" if kept.truncated else "whole"
