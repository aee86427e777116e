"""Commands that only read: get, describe, explain, history, logs."""

from __future__ import annotations

import sys
import time
from enum import StrEnum
from typing import Annotated, Any

import typer

from controller.cli import output as out
from controller.cli.session import ERROR, Session, as_usage, complain
from controller.client import NotFound, PoolView, ReplicaView, TaskView
from controller.client.reading import parse_state
from controller.core.codec import to_builtins
from controller.core.errors import CorruptValue
from controller.core.explain import at, span
from controller.core.replay import replay
from controller.core.task import AttemptId, Step


class Kind(StrEnum):
    """What can be looked at; singular and plural are the same."""

    TASKS = "tasks"
    POOLS = "pools"
    REPLICAS = "replicas"


def parse_kind(text: str) -> Kind:
    """A kind from singular or plural, in any case."""
    for kind in Kind:
        if text.lower() in (kind, kind.removesuffix("s")):
            return kind
    raise typer.BadParameter(f"{text!r} is not one of {', '.join(Kind)}")


KindArgument = Annotated[str, typer.Argument(metavar="tasks|pools|replicas", help="What to look at.")]
FORMS = {
    Kind.TASKS: ("wide", "json", "yaml", "name"),
    Kind.POOLS: ("json", "yaml", "name"),
    Kind.REPLICAS: ("wide", "json", "yaml", "name", "pid"),
}


def get(
    session: Session,
    kind: KindArgument,
    names: Annotated[list[str] | None, typer.Argument(help="Only these.", show_default=False)] = None,
    output: Annotated[str, typer.Option("-o", "--output", help="wide, json, yaml, name; pid for replicas.")] = "",
    watch: Annotated[bool, typer.Option("-w", "--watch", help="Go on with each change, until Ctrl-C.")] = False,
    pool: Annotated[str, typer.Option(help="Only tasks of this pool.")] = "",
    state: Annotated[str, typer.Option(help="Only tasks in this state.")] = "",
    label: Annotated[str, typer.Option("-l", "--selector", help="Only tasks with these labels: KEY=VALUE,KEY=VALUE.")] = "",
    role: Annotated[str, typer.Option(help="Only replicas in this role: leader or follower.")] = "",
) -> None:
    """List tasks, pools or replicas.

    `tally get tasks -w`, `tally get pools`, `tally get replicas -o wide`, `tally get task NAME -o yaml`.
    """
    what = parse_kind(kind)
    out.check_form(output, FORMS[what])
    if state:
        as_usage(lambda: parse_state(state))
    filters: dict[str, Any] = {"pool": pool, "state": state, "labels": _selector(label)}
    if watch and what is not Kind.TASKS:
        raise typer.BadParameter("-w works for tasks only")
    if watch:
        _watch_tasks(session, names or [], output, filters)
    elif what is Kind.TASKS:
        one_by_one = [session.client.get(name) for name in names] if names else session.client.tasks(**filters)
        _print_tasks(one_by_one, output, alone=len(names or ()) == 1)
    elif what is Kind.POOLS:
        _print_pools(_named(session.client.pools(), names, "pool", lambda view: view.name), output, alone=len(names or ()) == 1)
    else:
        views = [view for view in session.client.replicas() if role in ("", view.role)]
        _print_replicas(_named(views, names, "replica", lambda view: view.id), output, alone=len(names or ()) == 1)


def _selector(text: str) -> dict[str, str]:
    labels = {}
    for part in filter(None, text.split(",")):
        key, equals, value = part.partition("=")
        if not equals:
            raise typer.BadParameter(f"--selector: {part!r} is not KEY=VALUE")
        labels[key] = value.removeprefix("=")  # kubectl takes == too
    return labels


def _named(views: list[Any], names: list[str] | None, noun: str, name_of: Any) -> list[Any]:
    by_name = {name_of(view): view for view in views}
    missing = [name for name in names or () if name not in by_name]
    if missing:
        raise NotFound(f"there is no {noun} {missing[0]!r}: there are {', '.join(by_name) or 'none'}")
    return [by_name[name] for name in names] if names else views


def _print_tasks(views: list[TaskView], output: str, *, alone: bool) -> None:
    if output == "name":
        print("".join(f"task/{view.id}\n" for view in views), end="")
    elif output in ("json", "yaml"):
        items = [view.to_builtins() for view in views]
        out.print_document(items[0] if alone else {"items": items}, output)
    elif views:
        _task_table(output).print(out.task_row(view, time.time(), wide=output == "wide") for view in views)
    else:
        print("No tasks found.", file=sys.stderr)


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
            print("".join(f"task/{view.id}\n" for view in shown), end="", flush=True)
        else:
            table.print(out.task_row(view, time.time(), wide=output == "wide") for view in shown)


def _print_pools(views: list[PoolView], output: str, *, alone: bool) -> None:
    if output == "name":
        print("".join(f"pool/{view.name}\n" for view in views), end="")
    elif output in ("json", "yaml"):
        items = [to_builtins(view) for view in views]
        out.print_document(items[0] if alone else {"items": items}, output)
    elif views:
        out.Table(out.POOL_COLUMNS).print(row for view in views for row in out.pool_rows(view))
    else:
        print("No pools found. Create one: tally apply -f pool.yaml", file=sys.stderr)


def _print_replicas(views: list[ReplicaView], output: str, *, alone: bool) -> None:
    if output in ("name", "pid"):
        print("".join(f"replica/{view.id}\n" if output == "name" else f"{view.pid}\n" for view in views), end="")
    elif output in ("json", "yaml"):
        items = [to_builtins(view) for view in views]
        out.print_document(items[0] if alone else {"items": items}, output)
    elif views:
        table = out.Table(out.WIDE_REPLICA_COLUMNS if output == "wide" else out.REPLICA_COLUMNS)
        table.print(out.replica_row(view, time.time(), wide=output == "wide") for view in views)
        for view in views:
            if view.engine_problem:
                print(f"{view.id} does not campaign: {view.engine_problem}", file=sys.stderr)
    else:
        print("No replicas found. Start some: tally dev, or tally controller", file=sys.stderr)


# -- one thing in detail -----------------------------------------------------------------------------------------------


def describe(
    session: Session,
    kind: Annotated[str, typer.Argument(metavar="task|pool", help="What to describe.")],
    name: Annotated[str, typer.Argument(help="Its name.")],
) -> None:
    """Show all about a task or a pool.

    A task's spec, status, history and why it waits; a pool's capacity, what is held, and its tasks by state.
    """
    what = parse_kind(kind)
    if what is Kind.TASKS:
        _describe_task(session, name)
    elif what is Kind.POOLS:
        _describe_pool(session, name)
    else:
        raise typer.BadParameter("a replica has nothing more to tell than `tally get replicas -o wide`")


def _describe_task(session: Session, name: str) -> None:
    view = session.client.get(name)
    status = view.status
    times = {} if status is None else {n: getattr(status, f"{n}_at") for n in ("admitted", "started", "finished", "retry")}
    _fields(
        {
            "Name": view.id,
            "Pool": view.pool,
            "State": view.state,
            "Why": session.client.explain(name),
            "Problem": view.problem,
            "Requests": ", ".join(view.requests),
            "Attempt": view.attempt,
            "Failures": f"{status.failures}, before the start {status.start_failures}" if status is not None else "",
            "Exit code": status.exit_code if status is not None else None,
            "Node": status.node if status is not None else "",
            "Holds": status.hold if status is not None and status.is_holding else "",
            "Submitted": at(view.submitted_at) if view.submitted_at else "",
            **{name.capitalize(): at(when) for name, when in times.items() if when is not None},
        }
    )
    if view.spec is not None:
        print("Spec:")
        plain = {key: value for key, value in to_builtins(view.spec).items() if key != "id" and value not in ({}, "")}
        _indented(plain)
    steps = view.history()
    if steps:
        print("History:")
        _print_steps(steps, "  ")
    if status is not None and status.attempt:
        _print_events(session, AttemptId(view.id, status.attempt))


def _print_events(session: Session, attempt: AttemptId) -> None:
    """What Kubernetes says of the pod; nothing for other engines."""
    from controller.cli.engines import open_engine_or_warn
    from controller.engine.base import AttemptUnknown, EngineError

    if not any(replica.engine.get("name") == "kubernetes" for replica in session.client.replicas()):
        return
    engine = open_engine_or_warn(session)
    try:
        events = engine.events(attempt) if engine is not None and hasattr(engine, "events") else []
    except AttemptUnknown:
        events = []
    except EngineError as error:
        print(f"Events: {error}")
        return
    finally:
        if engine is not None:
            engine.close()
    print(f"Events of pod {attempt}:" if events else f"Events of pod {attempt}: none, or too long ago")
    for event in events:
        times = f" (×{event.count})" if event.count > 1 else ""
        print(f"  {at(event.at)}  {event.kind}  {event.reason}{times}  {event.message}")


def _describe_pool(session: Session, name: str) -> None:
    view = next((view for view in session.client.pools(counts=True) if view.name == name), None)
    if view is None:
        raise NotFound(f"there is no pool {name!r}: see `tally get pools`")
    pool = view.definition
    _fields(
        {
            "Name": view.name,
            "Problem": view.problem or ("" if pool is not None else "not defined, but something is held of it"),
            "Policy": pool.policy if pool is not None else "",
            "Backfill": span(pool.backfill_seconds) if pool is not None and pool.policy == "backfill" else "",
            "Paused": "yes" if pool is not None and pool.paused else "",
            "Defaults": pool.default_resources if pool is not None and pool.default_resources else "",
            "Tasks": ", ".join(f"{count} {state}" for state, count in sorted(view.counts.items())) or "none",
            "Overcommitted": ", ".join(view.overcommitted),
        }
    )
    print("Resources:")
    table = out.Table(("  RESOURCE", "CAPACITY", "HELD", "FREE"))
    table.print((f"  {row[2]}", *row[3:6]) for row in out.pool_rows(view) if row[2])
    if pool is not None and pool.engine_options:
        print("Engine options:")
        _indented(to_builtins(pool.engine_options))


def _fields(fields: dict[str, object]) -> None:
    shown = {name: value for name, value in fields.items() if value not in (None, "")}
    width = max(len(name) for name in shown) + 1
    for name, value in shown.items():
        print(f"{name + ':':<{width}} {value}")


def _indented(value: Any) -> None:
    import yaml

    text = yaml.safe_dump(value, sort_keys=False, allow_unicode=True)
    print("".join(f"  {line}\n" for line in text.splitlines()), end="")


def why(
    session: Session,
    names: Annotated[list[str], typer.Argument(help="The tasks.")],
) -> None:
    """Say why a task waits, runs or ended, with numbers."""
    for name in names:
        print(session.client.explain(name))


def history(
    session: Session,
    name: Annotated[str, typer.Argument(help="The task.")],
    verify: Annotated[
        bool, typer.Option("--verify", help="Replay the steps through the lifecycle; exit 1 when they do not fit.")
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
        out.print_document({"items": to_builtins(steps), **({"problems": problems} if verify else {})}, output)
    elif steps:
        _print_steps(steps, "")
    elif not problems:
        print(f"Nothing has happened to {name} yet: `tally explain {name}` says why.", file=sys.stderr)
    for problem in problems:
        complain(problem)
    if problems:
        raise typer.Exit(ERROR)
    if verify and steps and not output:
        print(f"Verified: {len(steps)} steps lead from {steps[0].source} to {view.state}, as it is stored.")


def _print_steps(steps: list[Step], indent: str) -> None:
    table = out.Table((f"{indent}TIME", "FROM", "EVENT", "TO", "ATTEMPT", "TERM", "REASON", "MESSAGE"))
    table.print((indent + at(s.at), s.source, s.event, s.state, s.attempt, s.term, s.reason, s.message) for s in steps)


def logs(
    session: Session,
    name: Annotated[str, typer.Argument(help="The task.")],
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on until the attempt has ended.")] = False,
    attempt: Annotated[int | None, typer.Option(help="Which attempt (default: the last).")] = None,
) -> None:
    """Print the output of a task's attempt, both streams in order of arrival."""
    from controller.cli.engines import open_engine

    engine = open_engine(session)
    for chunk in session.client.logs(name, attempt=attempt, follow=follow, engine=engine):
        sys.stdout.buffer.write(chunk)
        sys.stdout.buffer.flush()
