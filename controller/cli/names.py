"""Names on the command line, bare or as `-o name` prints them, and their completion by the shell.

A completion asks etcd for at most COMPLETION_SECONDS. On any error it is an empty list, since it has no way
to report one.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from controller.cli.session import CONNECTION, Session, settings_given
from controller.core.model.arrays import MAX_SIZE, MemberName, Ranges, split_member
from controller.core.model.lifecycle import State
from controller.errors import InvalidField, TallyError, UserError
from controller.terminal import say
from controller.views.tasks import HELD_BACK, STATE_GROUPS

if TYPE_CHECKING:
    from controller.client import Client, TaskView

COMPLETION_SECONDS = 1.0
OF_SCHEDULE = (
    "A schedule has tasks: `tally get tasks -l tally.dev/schedule={name}` lists them, and"
    " `tally describe schedule {name}` tells of its ticks"
)
NAMES_OR_FLAGS = "give names, or flags that select tasks, not both"
MAX_NAMED = 10_000  # members, one by one
SHOWN = 200  # completions; more do not help, and the shell asks before it shows them


class Kind(StrEnum):
    """The kinds of objects. Singular and plural mean the same."""

    TASKS = "tasks"
    POOLS = "pools"
    OWNERS = "owners"
    REPLICAS = "replicas"
    GATEWAYS = "gateways"
    SCHEDULES = "schedules"


def parse_kind(text: str) -> Kind:
    """The kind that a word names, in singular or plural and in any case."""
    for kind in Kind:
        if text.lower() in (kind, kind.removesuffix("s")):
            return kind
    raise typer.BadParameter(f"{text!r} is not one of {', '.join(Kind)}")


def parse_kind_and_names(kind: str, names: list[str]) -> tuple[Kind, list[str]]:
    """Parse `task a b`, `task/a task/b` or a mixture."""
    word, slash, name = kind.partition("/")
    what = parse_kind(word)
    given = ([name] if slash else []) + names
    return what, [named(each) if what is Kind.TASKS else bare(each, what) for each in given]


def bare(text: str, kind: Kind) -> str:
    """The name without its kind, if it has one. Raises BadParameter for another kind."""
    word, slash, name = text.partition("/")
    if not slash:
        return text
    if kind is Kind.TASKS and _is_schedule(text):
        raise typer.BadParameter(f"{text!r} is no task. {OF_SCHEDULE.format(name=name)}")
    if word.lower() not in (kind, kind.removesuffix("s")) or not name:
        raise typer.BadParameter(
            f"{text!r} does not name one of the {kind}: give NAME or {kind.removesuffix('s')}/NAME"
        )
    return name


def named(text: str) -> str:
    """The name of a task, or of a member that is named in brackets: `render[7]` is `render-i7`.

    Raises BadParameter for several members.
    """
    name, members = split_members(text)
    if not members:
        return name
    if not members.isdecimal():
        raise typer.BadParameter(f"{text!r} names several members: name one, as in {name}[7]")
    return str(MemberName(name, int(members)))


def parse_members(kind: str, names: list[str], *, alone: bool) -> tuple[str, str] | None:
    """The array and the ranges that `task 'render[10-20]'` names; None if no members are named so.

    `alone`: one member, which is a task like others, is also meant as a part of its array. Raises
    BadParameter for ranges among other names.
    """
    word, slash, name = kind.partition("/")
    if parse_kind(word) is not Kind.TASKS:
        return None
    texts = ([name] if slash else []) + names
    parts = [split_members(text) for text in texts]
    found = [part for part in parts if part[1] and (alone or not part[1].isdecimal())]
    if found and len(parts) > 1:
        raise typer.BadParameter(f"{found[0][0]}[{found[0][1]}] is listed alone: leave the other names out")
    return found[0] if found else None


def _each_member(texts: list[str]) -> list[str]:
    """The names of tasks, and of all members that are named in brackets, each as a task.

    Raises BadParameter for more than MAX_NAMED members.
    """
    names: list[str] = []
    for text in texts:
        name, members = split_members(text)
        if not members:
            names.append(name)
            continue
        ranges = Ranges.parse(members)
        if (count := ranges.count(MAX_SIZE)) > MAX_NAMED:
            raise typer.BadParameter(
                f"{text!r} names {count:,} members, but at most {MAX_NAMED:,} at once can be named: name"
                f" fewer, or the whole array, {name}"
            )
        for first, last in ranges.within(MAX_SIZE):
            names += (str(MemberName(name, index)) for index in range(first, last + 1))
    return names


def split_members(text: str) -> tuple[str, str]:
    """The name of a task, and the members that are named in brackets behind it; "" for none.

    Raises BadParameter for what are none.
    """
    try:
        return split_member(bare(text, Kind.TASKS))
    except InvalidField as error:
        raise typer.BadParameter(str(error)) from None


def note_taken(session: Session, view: TaskView) -> None:
    """Say so if a member of an array has the name of this task, and never ran since the task has it."""
    name, member = view.id, MemberName.parse(view.id)
    if member is None or view.member_of:
        return
    with suppress(UserError):  # there is no such array
        found = session.client.members.page(member.array, members=str(member.index)).items
        if found and found[0].reason == "NameTaken" and not found[0].attempts:
            say(
                f"{name} is a task of its own, and this is told of it. Member {member.index} of"
                f" {member.array} never ran, since that task has its name.",
                err=True,
            )


def _is_schedule(text: str) -> bool:
    word, slash, name = text.partition("/")
    return bool(slash and name) and word.lower() in (Kind.SCHEDULES, Kind.SCHEDULES.removesuffix("s"))


def _switched(texts: list[str]) -> list[str]:
    """Pools, and schedules as `schedule/NAME`; also `schedule NAME …`, as other commands take it."""
    if len(texts) > 1 and texts[0].lower() in (Kind.SCHEDULES, Kind.SCHEDULES.removesuffix("s")):
        one = Kind.SCHEDULES.removesuffix("s")
        return [f"{one}/{bare(text, Kind.SCHEDULES)}" for text in texts[1:]]
    return [text if _is_schedule(text) else bare(text, Kind.POOLS) for text in texts]


def _tasks(texts: list[str]) -> list[str]:
    return [named(text) for text in texts]


def complete_tasks(context: typer.Context, incomplete: str) -> list[str]:
    """The tasks whose names begin with `incomplete`."""
    prefix = "task/" if incomplete.startswith("task/") else ""
    return [prefix + name for name in _stored(context, "tasks/", incomplete.removeprefix(prefix))]


def complete_pools(context: typer.Context, incomplete: str) -> list[str]:
    """The pools whose names begin with `incomplete`."""
    return _stored(context, "pools/", incomplete)


def complete_names(context: typer.Context, incomplete: str) -> list[str]:
    """The names of the kind before, which begin with `incomplete`."""
    try:
        kind = parse_kind(str(context.params.get("kind") or ""))
    except typer.BadParameter:
        return []
    return _stored(context, f"{kind}/", incomplete)


def complete_of(*words: str) -> Callable[[str], list[str]]:
    """A completion with one of these words."""
    return lambda incomplete: [word for word in words if word.lower().startswith(incomplete.lower())]


States = Annotated[
    list[str] | None,
    typer.Option(
        "--state",
        help="Tasks in these states, separated by commas or repeated; also waiting, holding, finished,"
        " on-hold.",
        autocompletion=complete_of(*State, *STATE_GROUPS, HELD_BACK),
    ),
]
Selectors = Annotated[
    list[str] | None,
    typer.Option(
        "--selector",
        "-l",
        help="Tasks with these labels, as for kubectl: a=1,b!=2,c in (3,4),d,!e. Repeated: all must hold.",
    ),
]


def _stored(context: typer.Context, part: str, begin: str) -> list[str]:
    """The names under this part of the cluster's prefix that begin with `begin`."""
    with suppress(TallyError, OSError, ValueError):
        flags: dict[str, Any] = {}
        for each in filter(None, (context.parent, context)):
            flags |= settings_given({name: each.params.get(name) for name in ("config", *CONNECTION)})
        session = Session({**flags, "request_timeout_seconds": str(COMPLETION_SECONDS)})
        try:
            client = session.client
            if session.uses_gateway:
                known = _of_gateway(client, part)
                return [name for name in known if name.startswith(begin) and name.isprintable()][:SHOWN]
            prefix = client.keys.prefix + part
            snapshot = client.store.load(
                prefix + begin, deadline=client.clock.boottime() + COMPLETION_SECONDS
            )
            names = dict.fromkeys(item.key.removeprefix(prefix) for item in snapshot.items)
            return [name for name in names if "/" not in name and name.isprintable()][:SHOWN]
        finally:
            session.close()
    return []


def _of_gateway(client: Client, part: str) -> list[str]:
    if part == "pools/":
        return [view.name for view in client.pools()]
    if part == "replicas/":
        return [view.id for view in client.replicas.all()]
    if part == "schedules/":
        return [view.name for view in client.schedules.all()]
    if part == "gateways/":
        return [view.id for view in client.replicas.gateways()]
    return [view.id for view in client.tasks()] if part == "tasks/" else []


TaskName = Annotated[
    str,
    typer.Argument(
        help="The task, or a member of an array as NAME[7].", callback=named, autocompletion=complete_tasks
    ),
]
TaskNames = Annotated[
    list[str], typer.Argument(help="The tasks.", callback=_tasks, autocompletion=complete_tasks)
]
MemberNames = Annotated[
    list[str],
    typer.Argument(
        help="The tasks, or members of an array as NAME[5-9].",
        callback=_each_member,
        autocompletion=complete_tasks,
    ),
]
PoolNames = Annotated[
    list[str],
    typer.Argument(
        help="The pools.",
        callback=lambda texts: [bare(text, Kind.POOLS) for text in texts],
        autocompletion=complete_pools,
    ),
]
SwitchedNames = Annotated[
    list[str],
    typer.Argument(
        help="The pools; or schedules, as schedule/NAME or schedule NAME.",
        callback=_switched,
        autocompletion=complete_pools,
    ),
]
KindName = Annotated[
    str,
    typer.Argument(
        metavar="tasks|pools|owners|replicas|gateways|schedules",
        help="The kind, or KIND/NAME.",
        autocompletion=complete_of(*Kind),
    ),
]
