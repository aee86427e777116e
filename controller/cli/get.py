"""The command `tally get`: lists objects, and watches them for changes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Annotated, Any

import typer

from controller.cli import output as out
from controller.cli.members import print_members, watch_members
from controller.cli.names import (
    NAMES_OR_FLAGS,
    Kind,
    KindName,
    Selectors,
    States,
    bare,
    complete_names,
    complete_of,
    complete_pools,
    note_taken,
    parse_kind_and_names,
    parse_members,
)
from controller.cli.schedules import print_schedules
from controller.cli.session import Session, as_usage, joined
from controller.cli.tree import print_tree
from controller.client import NotFound, OwnerView, PoolView, ReplicaView, TaskView
from controller.client.reading import wanted_states
from controller.client.wire import as_given, task_document
from controller.core.model.codec import to_builtins
from controller.core.model.lifecycle import State
from controller.core.model.selector import parse_selector
from controller.errors import UserError
from controller.terminal import say
from controller.views.gateways import GatewayView

FORMS = {
    Kind.TASKS: ("wide", "json", "yaml", "name"),
    Kind.POOLS: ("json", "yaml", "name"),
    Kind.OWNERS: ("wide", "json", "yaml", "name"),
    Kind.REPLICAS: ("wide", "json", "yaml", "name", "pid"),
    Kind.GATEWAYS: ("wide", "json", "yaml", "name"),
    Kind.SCHEDULES: ("wide", "json", "yaml", "name"),
}


_ALONE = "members are listed alone, of one array, without --spec and --tree"
Sort = Callable[[TaskView], Any]
SORTS: dict[str, Sort] = {
    "name": lambda view: view.id,
    "state": lambda view: [*State, None].index(view.state),
    "pool": lambda view: view.pool,
    "priority": lambda view: view.priority,
    "attempt": lambda view: view.attempt,
    "age": lambda view: -view.submitted_at,
}


def get(
    session: Session,
    kind: KindName,
    names: Annotated[
        list[str] | None,
        typer.Argument(help="Only these; NAME[7-9].", show_default=False, autocompletion=complete_names),
    ] = None,
    output: Annotated[
        str, typer.Option("-o", "--output", help="wide, json, yaml or name; also pid for replicas.")
    ] = "",
    watch: Annotated[bool, typer.Option("-w", "--watch", help="Print each change, until Ctrl-C.")] = False,
    pool: Annotated[
        str, typer.Option(help="Only tasks or owners of this pool.", autocompletion=complete_pools)
    ] = "",
    owner: Annotated[str, typer.Option(help="Only tasks of this owner.")] = "",
    states: States = None,
    selectors: Selectors = None,
    sort_by: Annotated[
        str,
        typer.Option(
            help=f"Sort tasks by {', '.join(SORTS)}; a leading '-' reverses the order.",
            autocompletion=complete_of(*SORTS),
        ),
    ] = "",
    role: Annotated[str, typer.Option(help="Only replicas in this role: leader or follower.")] = "",
    spec: Annotated[
        bool, typer.Option("--spec", help="Print the specs of tasks, as `tally submit -f` takes them.")
    ] = False,
    members: Annotated[bool, typer.Option("--members", help="Show the members of an array.")] = False,
    tree: Annotated[
        bool, typer.Option("--tree", help="Show what a task waits for, and what waits for it.")
    ] = False,
) -> None:
    """List tasks, pools, owners of pools with `sharing`, replicas, gateways, or schedules.

    `tally get tasks -w`, `tally get pools`, `tally get replicas -o wide`, `tally get task NAME -o yaml`,
    `tally get task NAME -o yaml --spec | tally submit -f -`.
    """
    state, selector = joined(states), joined(selectors)
    if found := _members_asked(kind, names or [], members, others=spec or tree):
        (watch_members if watch else print_members)(session, *found, state, output)
        return
    what, only = parse_kind_and_names(kind, names or [])
    if tree and (what is not Kind.TASKS or len(only) != 1 or watch or spec):
        raise typer.BadParameter("--tree is for one task, without -w and --spec")
    out.check_form(output, ("json", "yaml") if tree else FORMS[what])
    _check_spec(what, output, spec=spec, watch=watch)
    _check_filters(state, selector, sort_by, role)
    _check_kind(what, owner=owner, state=state, selector=selector, sort_by=sort_by, pool=pool, role=role)
    _check_selection(what, only, state or selector or pool or owner)
    filters: dict[str, Any] = {"pool": bare(pool, Kind.POOLS), "state": state}
    filters |= {"selector": selector, "owner": bare(owner, Kind.OWNERS)}
    if watch:
        _check_watch(what, sort_by)
        _watch_tasks(session, only, output, filters)
    elif tree:
        print_tree(session, only[0], output)
    elif what is Kind.TASKS:
        views = [session.client.get(name) for name in only] if only else session.client.tasks(**filters)
        if sort_by:
            views.sort(key=SORTS[sort_by.removeprefix("-")], reverse=sort_by.startswith("-"))
        if not views and filters["pool"]:
            _check_pool(session, filters["pool"])
        (_print_specs if spec else _print_tasks)(views, output, alone=len(only) == 1)
        for view in views if only else ():
            note_taken(session, view)
    elif what is Kind.OWNERS:
        _print_owners(_owners(session, filters["pool"], only), output)
    else:
        _list_others(session, what, only, output, role)


def _check_kind(what: Kind, **flags: str) -> None:
    """Raises BadParameter for a flag that does not select objects of this kind."""
    taken = {Kind.TASKS: {*flags} - {"role"}, Kind.OWNERS: {"pool"}, Kind.REPLICAS: {"role"}}
    for name, value in flags.items():
        if value and name not in taken.get(what, ()):
            raise typer.BadParameter(f"--{name.replace('_', '-')} does not select {what}")


def _members_asked(kind: str, names: list[str], flag: bool, *, others: bool) -> tuple[str, str] | None:
    """The array and the ranges whose members are to be listed; None if tasks are."""
    part = parse_members(kind, names, alone=flag)
    if part is None and flag:
        what, only = parse_kind_and_names(kind, names)
        part = (only[0], "") if what is Kind.TASKS and len(only) == 1 else None
    if (flag and part is None) or (part is not None and others):
        raise typer.BadParameter(_ALONE)
    return part


def _check_spec(what: Kind, output: str, *, spec: bool, watch: bool) -> None:
    if spec and (what is not Kind.TASKS or output not in ("json", "yaml") or watch):
        raise typer.BadParameter("--spec is for tasks, with -o yaml or -o json, and without -w")


def _check_watch(what: Kind, sort_by: str) -> None:
    if what is not Kind.TASKS:
        raise typer.BadParameter("-w works for tasks only")
    if sort_by:
        raise typer.BadParameter("-w shows tasks as they change: leave out --sort-by")


def _check_filters(state: str, selector: str, sort_by: str, role: str) -> None:
    if state:
        as_usage(lambda: wanted_states(state))
    as_usage(lambda: parse_selector(selector) if selector else ())
    if sort_by.removeprefix("-") not in ("", *SORTS):
        raise typer.BadParameter(
            f"--sort-by: {sort_by!r} is not one of {', '.join(SORTS)}, with or without '-' before it"
        )
    if role not in ("", "leader", "follower"):
        raise typer.BadParameter(f"--role: {role!r} is neither leader nor follower")


def _list_others(session: Session, what: Kind, names: list[str], output: str, role: str) -> None:
    if what is Kind.POOLS:
        pools = _named(session.client.pools(), names, "pool", lambda view: view.name)
        _print_pools(pools, output, alone=len(names) == 1)
    elif what is Kind.SCHEDULES:
        schedules = _named(session.client.schedules.all(), names, "schedule", lambda view: view.name)
        print_schedules(schedules, output, alone=len(names) == 1)
    elif what is Kind.GATEWAYS:
        _print_gateways(_named(session.client.replicas.gateways(), names, "gateway", lambda v: v.id), output)
    else:
        replicas = [view for view in session.client.replicas.all() if role in ("", view.role)]
        replicas = _named(replicas, names, "replica", lambda view: view.id)
        _print_replicas(replicas, output, alone=len(names) == 1)


def _owners(session: Session, pool: str, names: list[str]) -> list[OwnerView]:
    """The owners of these names; an owner may have a part of several pools."""
    views = session.client.owners.all(pool)
    _named(views, names, "owner", lambda view: view.owner)  # raises NotFound
    return [view for view in views if not names or view.owner in names]


def _print_owners(views: list[OwnerView], output: str) -> None:
    if output == "name":
        for owner in dict.fromkeys(view.owner for view in views):
            say(f"owner/{owner}")
    elif output in ("json", "yaml"):
        out.print_document({"items": [to_builtins(view) for view in views]}, output)
    elif views:
        wide = output == "wide"
        table = out.Table(out.WIDE_OWNER_COLUMNS if wide else out.OWNER_COLUMNS)
        table.print(out.owner_row(view, wide=wide) for view in views)
    else:
        say("No owners found: only pools with `sharing` have owners.", err=True)


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
        items = [task_document(view) for view in views]
        out.print_document(items[0] if alone else {"items": items}, output)
    elif views:
        _task_table(output).print(out.task_row(view, time.time(), wide=output == "wide") for view in views)
    else:
        say("No tasks found.", err=True)


def _print_specs(views: list[TaskView], output: str, *, alone: bool) -> None:
    """What was submitted, without what is as it would be anyway. Raises UserError if one cannot be read."""
    for view in views:
        if view.spec is None:
            raise UserError(f"the spec of task {view.id!r} cannot be read: {view.problem}")
    documents = [to_builtins(as_given(view.spec)) for view in views if view.spec is not None]
    out.print_document(documents[0] if alone else documents, output)


def _task_table(output: str) -> out.Table:
    return out.Table(out.WIDE_TASK_COLUMNS if output == "wide" else out.TASK_COLUMNS)


def _watch_tasks(session: Session, names: list[str], output: str, filters: dict[str, Any]) -> None:
    if output not in ("", "wide", "name"):
        stream = "the event stream of the status endpoint, /v1/events"
        raise typer.BadParameter(f"-w cannot print {output}: use -o wide or -o name, or {stream}")
    table = _task_table(output)
    only = names[0] if len(names) == 1 else ""
    printed: dict[str, tuple[object, ...]] = {}  # the last line of each task, without its age
    for views in session.client.watch_tasks(task_id=only, **filters):
        shown = [view for view in views if not names or view.id in names]
        if views.is_whole:
            _check_there(session, names, {view.id for view in shown})
        if output == "name":
            for view in shown:
                say(f"task/{view.id}", flush=True)
            continue
        rows = []
        for view in shown:
            row = out.task_row(view, time.time(), wide=output == "wide")
            ageless = out.task_row(view, view.submitted_at, wide=output == "wide")
            if printed.get(view.id) != ageless:
                printed[view.id] = ageless
                rows.append(row)
        table.print(rows)


def _check_selection(what: Kind, names: list[str], flags: str) -> None:
    if what is Kind.TASKS and names and flags:
        raise typer.BadParameter(NAMES_OR_FLAGS)


def _check_pool(session: Session, name: str) -> None:
    """Say so if there is no such pool, of which no task was found."""
    if name not in {view.name for view in session.client.pools()}:
        say(f"There is no pool {name}: see `tally get pools`.", err=True)


def _check_there(session: Session, names: list[str], there: set[str]) -> None:
    """Raises NotFound for one of these that a look at all tasks lacks; members of arrays are asked for."""
    for name in names:
        if name not in there:
            session.client.get(name)


def _print_pools(views: list[PoolView], output: str, *, alone: bool) -> None:
    if output == "name":
        for view in views:
            say(f"pool/{view.name}")
    elif output in ("json", "yaml"):
        items = [{**to_builtins(view), "free": view.free.format(view.resources)} for view in views]
        out.print_document(items[0] if alone else {"items": items}, output)
    elif views:
        out.Table(out.POOL_COLUMNS).print(row for view in views for row in out.pool_rows(view))
    else:
        say("No pools found. Create one: tally apply -f pool.yaml", err=True)


def _print_gateways(views: list[GatewayView], output: str) -> None:
    if output == "name":
        for view in views:
            say(f"gateway/{view.id}")
    elif output in ("json", "yaml"):
        out.print_document({"items": [to_builtins(view) for view in views]}, output)
    elif views:
        table = out.Table(out.WIDE_GATEWAY_COLUMNS if output == "wide" else out.GATEWAY_COLUMNS)
        table.print(out.gateway_row(view, time.time(), wide=output == "wide") for view in views)
    else:
        say("No gateways found. Start one: tally gateway", err=True)


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
