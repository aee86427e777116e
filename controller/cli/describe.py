"""Commands about a single task or pool: describe and history."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from controller.cli import output as out
from controller.cli.describe_pool import describe_pool
from controller.cli.logs import extent
from controller.cli.names import (
    Kind,
    TaskName,
    complete_names,
    complete_of,
    note_taken,
    parse_kind_and_names,
)
from controller.cli.schedules import hinting_at_schedule, outcome_rows
from controller.cli.session import ERROR, Session, complain
from controller.client import TaskView
from controller.core.model.codec import to_builtins
from controller.core.model.printable import counted
from controller.core.model.task import DEFAULT_OWNER, AttemptId
from controller.core.promise.replay import replay
from controller.errors import CorruptValue
from controller.terminal import say, say_lines
from controller.views.dependencies import ParentVerdict, fate_of
from controller.views.explain import at
from controller.views.gangs import is_gang, roles_text
from controller.views.schedules import explain_schedule, tick_time
from controller.views.step import StepView
from controller.views.tasks import UNREADABLE

SHOWN_PARENTS = 20
_ORDER = (
    ParentVerdict.PARTLY,
    ParentVerdict.UNKNOWN,
    ParentVerdict.UNMET,
    ParentVerdict.UNFINISHED,
    ParentVerdict.PAST,
    ParentVerdict.MET,
)


def describe(
    session: Session,
    kind: Annotated[
        str,
        typer.Argument(
            metavar="task|pool|schedule",
            help="The kind, or KIND/NAME.",
            autocompletion=complete_of("task", "pool", "schedule"),
        ),
    ],
    name: Annotated[
        str, typer.Argument(help="The name.", show_default=False, autocompletion=complete_names)
    ] = "",
) -> None:
    """Show all details of a task, a pool or a schedule.

    A task is shown with its spec, status and history, and why it waits; a pool with its capacity, its holds,
    its tasks by state, its owners, and what is being freed for whom; a schedule with its next ticks, and what
    became of the last ones.
    """
    what, names = parse_kind_and_names(kind, [name] if name else [])
    if len(names) != 1:
        raise typer.BadParameter("give one NAME, or KIND/NAME")
    if what is Kind.TASKS:
        _describe_task(session, names[0])
    elif what is Kind.POOLS:
        describe_pool(session, names[0])
    elif what is Kind.SCHEDULES:
        _describe_schedule(session, names[0])
    else:
        raise typer.BadParameter("replicas cannot be described: use `tally get replicas -o wide`")


def _describe_task(session: Session, name: str) -> None:
    view = session.client.get(name)
    status = view.status
    times = (
        {}
        if status is None
        else {n: getattr(status, f"{n}_at") for n in ("admitted", "started", "finished", "retry")}
    )
    attempts = view.progress is None or is_gang(view.spec)  # those of another array are its members'
    out.fields(
        {
            "Name": view.id,
            "Pool": view.pool,
            "Owner": _owner(view),
            "State": out.state_text(view),
            "Why": session.client.explain(name),
            "Problem": view.problem,
            "Requests": ", ".join(view.requests),
            "Waits for": _waits_for(view),
            "Member of": view.member_of,
            "Members": _members(view),
            "Roles": roles_text(view.spec),
            "First failed": _first_failed(view),
            "Priority": _priority(view),
            "Attempt": view.attempt if attempts else "",
            "Failures": (
                f"{status.failures}, failed starts {status.start_failures}"
                if status is not None and attempts and not _is_folded(view)
                else ""
            ),
            "Exit code": status.exit_code if status is not None else None,
            "Kept log": _kept_log(session, name),
            "Node": status.node if status is not None else "",
            "Holds": _holds(view),
            "Submitted": at(view.submitted_at) if view.submitted_at else "",
            **{name.capitalize(): at(when) for name, when in times.items() if when is not None},
        }
    )
    if view.spec is not None:
        say("Spec:")
        plain = {
            key: value
            for key, value in to_builtins(view.spec).items()
            if key != "id" and value not in ({}, "") and (key != "after" or not view.after)
        }
        out.indented(plain)
    if view.after:
        _print_parents(view)
    try:
        steps = view.history()
    except CorruptValue as error:
        steps = []
        say(f"History:   cannot be read: {error}")
    if steps:
        say("History:")
        _print_steps(steps, "  ")
    if status is not None and status.attempt:
        _print_events(session, AttemptId(view.id, status.attempt))


def _is_folded(view: TaskView) -> bool:
    """Whether it is a member that has ended, of which its outcome alone is kept."""
    status = view.status
    return bool(view.member_of) and status is not None and not (status.history or status.is_holding)


def _members(view: TaskView) -> str:
    """How far an array has come; "" if it is none."""
    progress = view.progress
    if progress is None:
        return ""
    counts = ", ".join(f"{count:,} {state}" for state, count in progress.by_state().items() if count)
    more = f", {progress.unreadable:,} {UNREADABLE}" if progress.unreadable else ""
    return f"{progress.ended:,} of {progress.size:,} have ended: {counts}{more}"


def _holds(view: TaskView) -> str:
    """What it holds: of a gang, for its members that have not begun, beside what the others hold."""
    status, progress = view.status, view.progress
    if status is None or not status.is_holding:
        return ""
    if not status.reserved:
        return str(status.hold)
    left = sum(one.left for one in status.reserved) if not status.stopping else 0
    under_way = progress.pending + progress.running if progress is not None else 0
    own = f"{counted(under_way, 'member')} under way {'holds' if under_way == 1 else 'hold'}"
    if not left:
        return f"what {own}: the sum is told by Why" if under_way else "nothing: no member is under way"
    waiting = f"{status.hold} for {counted(left, 'member')} that {'has' if left == 1 else 'have'} not begun"
    return f"{waiting}, and what {own}: the sum is told by Why" if under_way else waiting


def _first_failed(view: TaskView) -> str:
    """The members of an array that have failed, by the first indexes; "" if there are none."""
    failed = view.progress.first_failed if view.progress is not None else ()
    rest = view.progress.failed - len(failed) if view.progress is not None else 0
    return ", ".join(map(str, failed)) + (f" and {rest:,} more" if rest > 0 else "")


def _waits_for(view: TaskView) -> str:
    """How many of how many, and what becomes of it in the end if that is certain; "" if it waits for none."""
    if not view.waits_for:
        return ""
    fate = fate_of(view.after)
    return f"{view.waits_for} of {counted(len(view.after), 'task')}{f'; {fate}' if fate else ''}"


def _print_parents(view: TaskView) -> None:
    """What it waits for, those first that keep it from running."""
    say("After:")
    parents = sorted(view.after, key=lambda each: _ORDER.index(each.verdict))
    table = out.Table(("  NAME", "WHEN", "STATE", "VERDICT"))
    table.print((f"  {each.task}", each.wish, each.state, each.verdict) for each in parents[:SHOWN_PARENTS])
    if len(parents) > SHOWN_PARENTS:
        say(f"  and {len(parents) - SHOWN_PARENTS} more: tally get task {view.id} -o yaml")


def _owner(view: TaskView) -> str:
    """Whom it is charged to, and whether anybody has verified that its submitter may have it so."""
    if view.attested_by:
        return f"{view.owner}, attested by a gateway: submitted by {view.attested_by}"
    return (
        view.owner if view.owner == DEFAULT_OWNER else f"{view.owner} (unverified: its submitter's own word)"
    )


def _priority(view: TaskView) -> str:
    """Its priority, beside that of its spec if it was set since; "" for 0."""
    if view.spec is not None and view.priority != view.spec.priority:
        return f"{view.priority} (in its spec: {view.spec.priority})"
    return str(view.priority or "")


def _kept_log(session: Session, name: str) -> str:
    try:
        kept = session.client.outputs.kept_log(name)
    except CorruptValue as error:
        return f"cannot be read: {error}"
    return f"of attempt {kept.attempt}, {extent(kept)}" if kept is not None else ""


def _print_events(session: Session, attempt: AttemptId) -> None:
    """Print the Kubernetes events of the attempt's pod; nothing for other engines."""
    from controller.cli.engines import open_engine_or_warn
    from controller.engine.base import EngineError

    if not any(replica.engine.get("name") == "kubernetes" for replica in session.client.replicas.all()):
        return
    engine, _ = open_engine_or_warn(session)
    try:
        events = engine.events(attempt) if engine is not None and hasattr(engine, "events") else []
    except EngineError as error:
        say(f"Events: {error}")
        return
    finally:
        if engine is not None:
            engine.close()
    say(f"Events of pod {attempt}:" if events else f"Events of pod {attempt}: none, or they have expired")
    for event in events:
        times = f" (×{event.count})" if event.count > 1 else ""
        say(f"  {at(event.at)}  {event.kind}  {event.reason}{times}  {event.message}")


def _describe_schedule(session: Session, name: str) -> None:
    view = session.client.schedules.get(name)
    out.fields(
        {
            "Name": view.name,
            "Cron": view.says("cron"),
            "Timezone": view.says("timezone"),
            "Why": explain_schedule(view, time.time()),
            "Problem": view.problem,
            "Pool": view.pool,
            "Owner": f"{view.owner}, attested by a gateway: applied by {view.attested_by}"
            if view.attested_by
            else view.owner,
            "Concurrency": view.says("concurrency"),
            "Catch up": view.says("catch_up"),
            "Suspended": "yes" if view.suspended else "",
            "Waits": f"the tick of {tick_time(view.waiting)}" if view.waiting else "",
            "Live": ", ".join(view.live),
            "Ticks": ", ".join(f"{count} {result}" for result, count in sorted(view.counts.items()))
            or "none",
            "Since": at(view.since) if view.since is not None else "",
        }
    )
    if view.definition is not None:
        say("Task:")
        out.indented(view.definition["task"])
    if view.upcoming:
        say("Next ticks:")
        say_lines("".join(f"  {tick_time(tick)}\n" for tick in view.upcoming))
    if view.recent:
        say("Last ticks:")
        table = out.Table(("  TICK", "OUTCOME", "TIMES", "TASK", "WHY"))
        table.print(outcome_rows(view))


def history(
    session: Session,
    name: TaskName,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify", help="Replay the steps through the lifecycle; exit with 1 if they do not match."
        ),
    ] = False,
    output: Annotated[str, typer.Option("-o", "--output", help="json or yaml.")] = "",
) -> None:
    """Show the history of a task, step by step."""
    out.check_form(output, ("json", "yaml"))
    with hinting_at_schedule(session, name):
        view = session.client.get(name)
    note_taken(session, view)
    problems = replay(view.status) if verify and view.status is not None and not _is_folded(view) else []
    try:
        steps = view.history()
    except CorruptValue:
        if not problems:
            raise
        steps = []
    if output:
        out.print_document(
            {"items": to_builtins(steps), **({"problems": problems} if verify else {})}, output
        )
    elif steps:
        _print_steps(steps, "")
    elif _is_folded(view) and view.status is not None:
        code = f", exit code {view.status.exit_code}" if view.status.exit_code is not None else ""
        say(
            f"{name} is {view.state} after {counted(view.attempt, 'attempt')}{code}. The steps of a member"
            f" are kept only while it is under way: `tally history {view.member_of}` has those of its array.",
            err=True,
        )
    elif not problems:
        say(f"Nothing has happened to {name} yet: `tally explain {name}` says why.", err=True)
    for problem in problems:
        complain(problem)
    if problems:
        raise typer.Exit(ERROR)
    if verify and steps and not output:
        say(
            f"Verified: {counted(len(steps), 'step')} from {steps[0].source} to {view.state}, the stored"
            " state."
        )


def _print_steps(steps: list[StepView], indent: str) -> None:
    table = out.Table((f"{indent}TIME", "FROM", "EVENT", "TO", "ATTEMPT", "EPOCH", "REASON", "MESSAGE"))
    table.print(
        (indent + at(s.at), s.source, s.event, s.state, s.attempt, s.epoch, s.reason, s.message)
        for s in steps
    )
