"""Commands that only read: get, describe, explain, history."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Annotated, Any

import typer

from controller.cli import output as out
from controller.cli.logs import extent
from controller.cli.names import (
    Kind,
    KindName,
    TaskName,
    TaskNames,
    bare,
    complete_names,
    complete_of,
    complete_pools,
    complete_states,
    parse_kind_and_names,
)
from controller.cli.session import ERROR, Session, as_usage, complain
from controller.client import NotFound, PoolView, ReplicaView, TaskView
from controller.client.reading import parse_state
from controller.core.model.codec import to_builtins
from controller.core.model.lifecycle import State
from controller.core.model.printable import counted
from controller.core.model.task import AttemptId
from controller.core.promise.replay import replay
from controller.errors import CorruptValue
from controller.terminal import say, say_lines
from controller.views.explain import at, span
from controller.views.selector import parse_selector
from controller.views.step import StepView

FORMS = {
    Kind.TASKS: ("wide", "json", "yaml", "name"),
    Kind.POOLS: ("json", "yaml", "name"),
    Kind.REPLICAS: ("wide", "json", "yaml", "name", "pid"),
}


Sort = Callable[[TaskView], Any]
SORTS: dict[str, Sort] = {
    "name": lambda view: view.id,
    "state": lambda view: list(State).index(view.state),
    "pool": lambda view: view.pool,
    "priority": lambda view: view.spec.priority if view.spec is not None else 0,
    "attempt": lambda view: view.attempt,
    "age": lambda view: -view.submitted_at,
}


def get(
    session: Session,
    kind: KindName,
    names: Annotated[
        list[str] | None,
        typer.Argument(help="Only these.", show_default=False, autocompletion=complete_names),
    ] = None,
    output: Annotated[
        str, typer.Option("-o", "--output", help="wide, json, yaml, name; pid for replicas.")
    ] = "",
    watch: Annotated[
        bool, typer.Option("-w", "--watch", help="Go on with each change, until Ctrl-C.")
    ] = False,
    pool: Annotated[str, typer.Option(help="Only tasks of this pool.", autocompletion=complete_pools)] = "",
    state: Annotated[
        str, typer.Option(help="Only tasks in this state.", autocompletion=complete_states)
    ] = "",
    selector: Annotated[
        str,
        typer.Option(
            "-l", "--selector", help="Only tasks with such labels, as for kubectl: a=1,b!=2,c in (3,4),d,!e."
        ),
    ] = "",
    sort_by: Annotated[
        str,
        typer.Option(
            help=f"Order of tasks: {', '.join(SORTS)}; '-' before it reverses it.",
            autocompletion=complete_of(*SORTS),
        ),
    ] = "",
    role: Annotated[str, typer.Option(help="Only replicas in this role: leader or follower.")] = "",
) -> None:
    """List tasks, pools or replicas.

    `tally get tasks -w`, `tally get pools`, `tally get replicas -o wide`, `tally get task NAME -o yaml`.
    """
    what, only = parse_kind_and_names(kind, names or [])
    out.check_form(output, FORMS[what])
    if state:
        as_usage(lambda: parse_state(state))
    as_usage(lambda: parse_selector(selector) if selector else ())
    if sort_by.removeprefix("-") not in ("", *SORTS):
        raise typer.BadParameter(
            f"--sort-by: {sort_by!r} is not one of {', '.join(SORTS)}, with or without '-' before it"
        )
    if role not in ("", "leader", "follower"):
        raise typer.BadParameter(f"--role: {role!r} is neither leader nor follower")
    filters: dict[str, Any] = {"pool": bare(pool, Kind.POOLS), "state": state, "selector": selector}
    if watch and what is not Kind.TASKS:
        raise typer.BadParameter("-w works for tasks only")
    if watch and sort_by:
        raise typer.BadParameter("-w shows tasks as they change: leave out --sort-by")
    if watch:
        _watch_tasks(session, only, output, filters)
    elif what is Kind.TASKS:
        views = [session.client.get(name) for name in only] if only else session.client.tasks(**filters)
        if sort_by:
            views.sort(key=SORTS[sort_by.removeprefix("-")], reverse=sort_by.startswith("-"))
        _print_tasks(views, output, alone=len(only) == 1)
    elif what is Kind.POOLS:
        _print_pools(
            _named(session.client.pools(), only, "pool", lambda view: view.name), output, alone=len(only) == 1
        )
    else:
        replicas = [view for view in session.client.replicas.all() if role in ("", view.role)]
        _print_replicas(_named(replicas, only, "replica", lambda view: view.id), output, alone=len(only) == 1)


def _named(views: list[Any], names: list[str], noun: str, name_of: Any) -> list[Any]:
    by_name = {name_of(view): view for view in views}
    missing = [name for name in names if name not in by_name]
    if missing:
        raise NotFound(f"there is no {noun} {missing[0]!r}: there are {', '.join(by_name) or 'none'}")
    return [by_name[name] for name in names] if names else views


def _print_tasks(views: list[TaskView], output: str, *, alone: bool) -> None:
    if output == "name":
        for view in views:
            say(f"task/{view.id}")
    elif output in ("json", "yaml"):
        items = [view.to_builtins() for view in views]
        out.print_document(items[0] if alone else {"items": items}, output)
    elif views:
        _task_table(output).print(out.task_row(view, time.time(), wide=output == "wide") for view in views)
    else:
        say("No tasks found.", err=True)


def _task_table(output: str) -> out.Table:
    return out.Table(out.WIDE_TASK_COLUMNS if output == "wide" else out.TASK_COLUMNS)


def _watch_tasks(session: Session, names: list[str], output: str, filters: dict[str, Any]) -> None:
    if output not in ("", "wide", "name"):
        stream = "the event stream of the status endpoint, /v1/events"
        raise typer.BadParameter(f"-w cannot print {output}: use -o wide or -o name, or {stream}")
    table = _task_table(output)
    only = names[0] if len(names) == 1 else ""
    for views in session.client.watch_tasks(task_id=only, **filters):
        shown = [view for view in views if not names or view.id in names]
        if output == "name":
            for view in shown:
                say(f"task/{view.id}", flush=True)
        else:
            table.print(out.task_row(view, time.time(), wide=output == "wide") for view in shown)


def _print_pools(views: list[PoolView], output: str, *, alone: bool) -> None:
    if output == "name":
        for view in views:
            say(f"pool/{view.name}")
    elif output in ("json", "yaml"):
        items = [to_builtins(view) for view in views]
        out.print_document(items[0] if alone else {"items": items}, output)
    elif views:
        out.Table(out.POOL_COLUMNS).print(row for view in views for row in out.pool_rows(view))
    else:
        say("No pools found. Create one: tally apply -f pool.yaml", err=True)


def _print_replicas(views: list[ReplicaView], output: str, *, alone: bool) -> None:
    if output in ("name", "pid"):
        for view in views:
            say(f"replica/{view.id}" if output == "name" else view.pid)
    elif output in ("json", "yaml"):
        items = [to_builtins(view) for view in views]
        out.print_document(items[0] if alone else {"items": items}, output)
    elif views:
        table = out.Table(out.WIDE_REPLICA_COLUMNS if output == "wide" else out.REPLICA_COLUMNS)
        table.print(out.replica_row(view, time.time(), wide=output == "wide") for view in views)
        for view in views:
            if view.engine_problem:
                say(f"{view.id} does not campaign: {view.engine_problem}", err=True)
    else:
        say("No replicas found. Start some: tally dev, or tally controller", err=True)


# -- one thing in detail
# -----------------------------------------------------------------------------------------------


def describe(
    session: Session,
    kind: Annotated[
        str,
        typer.Argument(
            metavar="task|pool",
            help="What to describe, or KIND/NAME.",
            autocompletion=complete_of("task", "pool"),
        ),
    ],
    name: Annotated[
        str, typer.Argument(help="Its name.", show_default=False, autocompletion=complete_names)
    ] = "",
) -> None:
    """Show all about a task or a pool.

    A task's spec, status, history and why it waits; a pool's capacity, what is held, and its tasks by state.
    """
    what, names = parse_kind_and_names(kind, [name] if name else [])
    if len(names) != 1:
        raise typer.BadParameter("give one NAME, or KIND/NAME")
    if what is Kind.TASKS:
        _describe_task(session, names[0])
    elif what is Kind.POOLS:
        _describe_pool(session, names[0])
    else:
        raise typer.BadParameter("a replica has nothing more to tell than `tally get replicas -o wide`")


def _describe_task(session: Session, name: str) -> None:
    view = session.client.get(name)
    status = view.status
    times = (
        {}
        if status is None
        else {n: getattr(status, f"{n}_at") for n in ("admitted", "started", "finished", "retry")}
    )
    _fields(
        {
            "Name": view.id,
            "Pool": view.pool,
            "State": view.state,
            "Why": session.client.explain(name),
            "Problem": view.problem,
            "Requests": ", ".join(view.requests),
            "Attempt": view.attempt,
            "Failures": (
                f"{status.failures}, before the start {status.start_failures}" if status is not None else ""
            ),
            "Exit code": status.exit_code if status is not None else None,
            "Kept log": _kept_log(session, name),
            "Node": status.node if status is not None else "",
            "Holds": status.hold if status is not None and status.is_holding else "",
            "Submitted": at(view.submitted_at) if view.submitted_at else "",
            **{name.capitalize(): at(when) for name, when in times.items() if when is not None},
        }
    )
    if view.spec is not None:
        say("Spec:")
        plain = {
            key: value
            for key, value in to_builtins(view.spec).items()
            if key != "id" and value not in ({}, "")
        }
        _indented(plain)
    steps = view.history()
    if steps:
        say("History:")
        _print_steps(steps, "  ")
    if status is not None and status.attempt:
        _print_events(session, AttemptId(view.id, status.attempt))


def _kept_log(session: Session, name: str) -> str:
    try:
        kept = session.client.outputs.kept_log(name)
    except CorruptValue as error:
        return f"cannot be read: {error}"
    return f"of attempt {kept.attempt}, {extent(kept)}" if kept is not None else ""


def _print_events(session: Session, attempt: AttemptId) -> None:
    """What Kubernetes says of the pod; nothing for other engines."""
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
    say(f"Events of pod {attempt}:" if events else f"Events of pod {attempt}: none, or too long ago")
    for event in events:
        times = f" (×{event.count})" if event.count > 1 else ""
        say(f"  {at(event.at)}  {event.kind}  {event.reason}{times}  {event.message}")


def _describe_pool(session: Session, name: str) -> None:
    view = next((view for view in session.client.pools(counts=True) if view.name == name), None)
    if view is None:
        raise NotFound(f"there is no pool {name!r}: see `tally get pools`")
    pool = view.definition
    _fields(
        {
            "Name": view.name,
            "Problem": (
                view.problem or ("" if pool is not None else "not defined, but something is held of it")
            ),
            "Policy": pool.policy if pool is not None else "",
            "Backfill": span(pool.backfill_seconds) if pool is not None and pool.policy == "backfill" else "",
            "Paused": "yes" if pool is not None and pool.paused else "",
            "Defaults": pool.default_resources if pool is not None and pool.default_resources else "",
            "Tasks": ", ".join(f"{count} {state}" for state, count in sorted(view.counts.items())) or "none",
            "Overcommitted": ", ".join(view.overcommitted),
        }
    )
    say("Resources:")
    table = out.Table(("  RESOURCE", "CAPACITY", "HELD", "FREE"))
    table.print((f"  {row[2]}", *row[3:6]) for row in out.pool_rows(view) if row[2])
    if pool is not None and pool.engine_options:
        say("Engine options:")
        _indented(to_builtins(pool.engine_options))


def _fields(fields: dict[str, object]) -> None:
    shown = {name: value for name, value in fields.items() if value not in (None, "")}
    width = max(len(name) for name in shown) + 1
    for name, value in shown.items():
        say(f"{name + ':':<{width}} {value}")


def _indented(value: Any) -> None:
    from controller.cli.yaml12 import write_yaml

    say_lines("".join(f"  {line}\n" for line in write_yaml(value).split("\n")[:-1]))


def why(
    session: Session,
    names: TaskNames,
) -> None:
    """Say why a task waits, runs or ended, with numbers."""
    for name in names:
        say(session.client.explain(name))


def history(
    session: Session,
    name: TaskName,
    verify: Annotated[
        bool,
        typer.Option("--verify", help="Replay the steps through the lifecycle; exit 1 when they do not fit."),
    ] = False,
    output: Annotated[str, typer.Option("-o", "--output", help="json or yaml.")] = "",
) -> None:
    """Show what happened to a task, step by step."""
    out.check_form(output, ("json", "yaml"))
    view = session.client.get(name)
    problems = replay(view.status) if verify and view.status is not None else []
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
    elif not problems:
        say(f"Nothing has happened to {name} yet: `tally explain {name}` says why.", err=True)
    for problem in problems:
        complain(problem)
    if problems:
        raise typer.Exit(ERROR)
    if verify and steps and not output:
        say(
            f"Verified: {counted(len(steps), 'step')} from {steps[0].source} to {view.state}, as it is"
            " stored."
        )


def _print_steps(steps: list[StepView], indent: str) -> None:
    table = out.Table((f"{indent}TIME", "FROM", "EVENT", "TO", "ATTEMPT", "EPOCH", "REASON", "MESSAGE"))
    table.print(
        (indent + at(s.at), s.source, s.event, s.state, s.attempt, s.epoch, s.reason, s.message)
        for s in steps
    )
