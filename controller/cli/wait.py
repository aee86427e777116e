"""The command `tally wait`, and `submit --wait`: progress while tasks run, and an exit code for scripts."""

from __future__ import annotations

import re
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Annotated

import typer

from controller.cli.names import MemberNames, complete_of, note_taken
from controller.cli.session import ERROR, Session, complain, parse_timeout
from controller.client import Client, TaskView
from controller.client.reading import parse_state
from controller.core.model.lifecycle import FINISHED, State
from controller.errors import TallyError, UserError
from controller.terminal import say
from controller.views.gangs import is_gang
from controller.views.tasks import UNREADABLE

EXPLAIN_AFTER_SECONDS = 5.0
_DURATION = re.compile(r"\d+[dhms](\d+[dhms])?")  # left out when two reasons are compared
PASSED_BY_SUCCESS = (State.CREATED, State.PENDING, State.RUNNING)  # a Succeeded task was in all of these


def wait(
    session: Session,
    names: MemberNames,
    for_: Annotated[
        str,
        typer.Option(
            "--for",
            help="finished, or a state: succeeded, failed, cancelled, running, …",
            autocompletion=complete_of("finished", *State),
        ),
    ] = "finished",
    timeout: Annotated[
        str | None, typer.Option(help="Wait at most this long, such as 90s or 1h; then exit with 4.")
    ] = None,
) -> None:
    """Wait until tasks have finished, or have reached a state.

    A task that finishes in another state ends the wait for it. A task that waits for others ends after them,
    so a wait for the last one is a wait for all of them. Exits with 0 if all tasks reached the state
    (--for=finished: if all succeeded, or were skipped since what they were to run after did not fail), 1 if a
    task finished otherwise, 4 at the time-out, and 5 if there is no such task.
    """
    limit = parse_timeout(timeout)
    target = for_.removeprefix("state=")
    if target != "finished":
        try:
            parse_state(target)
        except UserError as error:
            raise typer.BadParameter(f"{error}, or finished") from None
    wait_for(session, names, target.lower(), limit)


def wait_for(session: Session, names: list[str], target: str, timeout_seconds: float | None) -> None:
    """Wait, print each task's changes, and exit with the code that `wait` documents.

    `target` is a state in lower case, or "finished".
    """
    waiting: dict[str, State | None] = dict.fromkeys(names)
    with _progress(len(waiting)) as show, _explaining(session.client, waiting) as changed:

        def note(view: TaskView) -> None:
            waiting[view.id] = view.state
            changed()
            show(view)

        views = session.client.wait(names, for_=target, timeout_seconds=timeout_seconds, on_change=note)
    for view in views.values():
        note_taken(session, view)
    missed = [view for view in views.values() if not _came_to(view, target)]
    if missed:
        first = missed[0]
        told = ", ".join(f"{view.id} is {view.state or UNREADABLE}" for view in missed[:5])
        complain(
            f"{len(missed)} of {len(views)} did not reach"
            f" {'succeeded' if target == 'finished' else target}: "
            f"{told}{' …' if len(missed) > 5 else ''}",
            _more(first),
        )
        raise typer.Exit(ERROR)


def _more(view: TaskView) -> str:
    """Where to read why the task has not come to that state."""
    if view.spec is not None and view.spec.array is not None:
        told = f"{view.id}: {view.message}: " if view.message else ""
        return f"{told}`tally get task {view.id} --members` shows its members."
    if view.attempt:
        return f"`tally describe task {view.id}` and `tally logs {view.id}` show more."
    return f"It never ran: `tally explain {view.id}` says why."


@contextmanager
def _explaining(client: Client, waiting: dict[str, State | None]) -> Iterator[Callable[[], None]]:
    """Explains on stderr why the first waiting task waits, after EXPLAIN_AFTER_SECONDS without a change.

    A reason is not repeated while it stays the same. Yields a function to call at each change.
    """
    ended, changed = threading.Event(), threading.Event()

    def explain() -> None:
        said = ""
        pause = EXPLAIN_AFTER_SECONDS
        while not ended.is_set():
            if changed.wait(pause):
                changed.clear()
                continue
            began = time.monotonic()
            try:
                sentence = _why(client, waiting.copy())
            except TallyError as error:
                sentence = str(error)
            pause = max(EXPLAIN_AFTER_SECONDS, 20 * (time.monotonic() - began))  # `explain` reads all tasks
            reason = _DURATION.sub("", sentence)
            if reason and reason != said and not ended.is_set():
                said = reason
                say(sentence, err=True, flush=True)

    thread = threading.Thread(target=explain, name="wait-explains", daemon=True)
    thread.start()
    try:
        yield changed.set
    finally:
        ended.set()
        changed.set()
        thread.join()


def _why(client: Client, waiting: dict[str, State | None]) -> str:
    """Why the first task waits. Running tasks count only while there is no leader to see their end."""
    running = [name for name, state in waiting.items() if state is State.RUNNING]
    stuck = [name for name, state in waiting.items() if state is not State.RUNNING and state not in FINISHED]
    if not stuck and running and client.replicas.leader() is None:
        stuck = running
    return client.explain(stuck[0]) if stuck else ""


def _came_to(view: TaskView, target: str) -> bool:
    if target == "finished":
        return view.state is State.SUCCEEDED or view.skipped
    state = parse_state(target)
    return view.state is state or (view.state is State.SUCCEEDED and state in PASSED_BY_SUCCESS)


@contextmanager
def _progress(total: int) -> Iterator[Callable[[TaskView], None]]:
    """Shows each change: on a terminal, a live count by state if there are several tasks; else a line."""
    states: dict[str, State | None] = {}
    if not sys.stdout.isatty():
        yield lambda view: _line(view, states)
        return
    if total == 1:
        with ExitStack() as stack:
            yield _one(states, stack)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=Console(), transient=False) as progress:
        bar = progress.add_task("", total=total)

        def show(view: TaskView) -> None:
            states[view.id] = view.state
            counts = Counter(state or UNREADABLE for state in states.values())
            done = sum(count for state, count in counts.items() if state in FINISHED)
            progress.update(
                bar,
                completed=done,
                description=", ".join(f"{n} {state}" for state, n in sorted(counts.items())),
            )

        yield show


def _one(states: dict[str, State | None], stack: ExitStack) -> Callable[[TaskView], None]:
    """Shows a task in lines, and an array as a bar of its members. Those of a gang fill it as they start."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    progress = Progress(*columns, console=Console(), transient=False)

    def show(view: TaskView) -> None:
        members = view.progress
        if members is None:
            _line(view, states)
            return
        if not progress.tasks:
            stack.enter_context(progress)
            progress.add_task("", total=members.size)
        told = ", ".join(f"{count:,} {state}" for state, count in members.by_state().items() if count)
        is_starting = is_gang(view.spec) and view.state is State.PENDING
        progress.update(
            progress.task_ids[0],
            completed=members.running + members.ended if is_starting else members.ended,
            description=f"starting: {told}" if is_starting else told,
        )

    return show


def _line(view: TaskView, states: dict[str, State | None]) -> None:
    if view.id not in states or states[view.id] is not view.state:
        states[view.id] = view.state
        reason = f" ({view.reason})" if view.reason and view.reason != view.state else ""
        say(f"task/{view.id} {view.state or UNREADABLE}{reason}", flush=True)
