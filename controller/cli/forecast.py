"""The commands `tally explain`, `plan` and `what-if`: why, and what would come. Nothing is written."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Annotated, Any, NoReturn

import typer

from controller.cli import output as out
from controller.cli.documents import Document, read_documents
from controller.cli.drain import parse_window
from controller.cli.names import TaskNames, complete_tasks, named
from controller.cli.schedules import hinting_at_schedule, is_schedule
from controller.cli.session import ERROR, NOT_FOUND, Session, as_usage, complain
from controller.client import NotFound
from controller.client.pools import no_pool
from controller.core.model.codec import to_builtins
from controller.core.model.maintenance import MaintenanceWindow, not_passed
from controller.core.model.resources import Vector
from controller.core.model.scalars import parse_duration
from controller.errors import InvalidField, UserError
from controller.terminal import say
from controller.views.ahead import ChangedView, ComparedView, WaitsView, parse_horizon
from controller.views.explain_forecast import explain_coming, explain_compared, explain_error, rests_on
from controller.views.forecast import ComingView
from controller.views.words import at, listed, span

PLAN_COLUMNS = ("TASK", "POOL", "BEGINS", "ENDS", "RESTS-ON")
CHANGE_COLUMNS = ("TASK", "POOL", "BEGINS", "THEN-BEGINS", "ENDS", "THEN-ENDS")
WAIT_COLUMNS = ("POOL", "OWNER", "WAITING", "MEAN-WAIT", "THEN-MEAN-WAIT")
DELAYED = 10  # stored tasks that `tally plan` lists, of those that begin later
_OPTIONS = {
    "cancelled": "--cancel",
    "held": "--hold",
    "released": "--release",
    "priorities": "--priority",
    "pools": "--pool",
}
_FIELD = re.compile(
    rf"(?:supposed\.)?(?P<field>{'|'.join(_OPTIONS)})"
    r"(?:\[(?P<number>\d+)\]\.?(?P<rest>[^: ]*)|\.(?P<name>[^: ]+))?:\s"
)
_PLACE = re.compile(r"(tasks|pools)\[(\d+)\]\.?")

Horizon = Annotated[str, typer.Option(help="Look ahead so far, such as 12h or 30d.")]
Drained = Annotated[
    list[str] | None,
    typer.Option(
        metavar="POOL@TIME+SPAN",
        help="A pool has this maintenance window, too: gpu@22:00+2h. TIME as of `tally drain --at`.",
    ),
]
Output = Annotated[str, typer.Option("-o", "--output", help="json or yaml.")]
SEVEN_DAYS = "7d"
_OF_POOLS = ("name", "capacity")


def plan(
    session: Session,
    file: Annotated[
        str,
        typer.Option(
            "--file",
            "-f",
            help="Tasks, and pools that differ: YAML, JSON or JSON lines; - for standard input.",
        ),
    ],
    horizon: Horizon = SEVEN_DAYS,
    output: Output = "",
) -> None:
    """Tell when tasks would begin and end if they were submitted now, and what that does to others.

    A file is read as `tally submit -f` reads it. It may also have pools, or of a stored pool its name and the
    fields that differ. Nothing is stored.
    """
    out.check_form(output, ("json", "yaml"))
    given = _File.read(file)
    found = given.suppose(session, horizon)
    if output:
        out.print_document(to_builtins(found), output)
        return
    _print_tasks(found)
    _print_delayed(found)
    _print_sentences(found)


def what_if(
    session: Session,
    pools: Annotated[
        list[str] | None,
        typer.Option(
            "--pool",
            metavar="POOL:RESOURCE=AMOUNT,…",
            help="A pool has so much: default:cpu=16,memory=64Gi.",
        ),
    ] = None,
    drain: Drained = None,
    cancel: Annotated[
        list[str] | None,
        typer.Option(metavar="TASK", help="A task is cancelled.", autocompletion=complete_tasks),
    ] = None,
    priority: Annotated[
        list[str] | None, typer.Option(metavar="TASK=PRIORITY", help="A task has this priority.")
    ] = None,
    hold: Annotated[
        list[str] | None,
        typer.Option(metavar="TASK", help="A task is put on hold.", autocompletion=complete_tasks),
    ] = None,
    release: Annotated[
        list[str] | None,
        typer.Option(metavar="TASK", help="A task is released.", autocompletion=complete_tasks),
    ] = None,
    file: Annotated[
        str | None,
        typer.Option("--file", "-f", help="Tasks that are submitted, and pools, as for `tally plan`."),
    ] = None,
    horizon: Horizon = SEVEN_DAYS,
    output: Output = "",
) -> None:
    """Tell what would come if things were otherwise: before, and after.

    Each option may be repeated, and all of them hold together. Nothing is stored.

    `tally what-if --pool default:cpu=16 --cancel train-1 --priority train-2=9`
    """
    out.check_form(output, ("json", "yaml"))
    if not any((pools, drain, cancel, priority, hold, release, file)):
        raise typer.BadParameter("give --pool, --drain, --cancel, --priority, --hold, --release or -f")
    given = _File.read(file) if file is not None else _File()
    found = given.suppose(
        session,
        horizon,
        pools=[*_pools(session, pools or [], drain or [])],
        cancelled=[named(name) for name in cancel or []],
        held=[named(name) for name in hold or []],
        released=[named(name) for name in release or []],
        priorities=_priorities(priority or []),
    )
    if output:
        out.print_document(to_builtins(found), output)
        return
    if found.changed:
        _print_changes(found)
        say("")
    if found.tasks:
        _print_tasks(found)
        say("")
    if found.waits:
        out.Table(WAIT_COLUMNS).print(map(_wait_row, found.waits))
        say("")
    _print_sentences(found)


def why(
    session: Session,
    names: TaskNames,
    eta: Annotated[
        bool, typer.Option("--eta", help="Look ahead: when it is expected to begin and to end, and why.")
    ] = False,
) -> None:
    """Explain why a task waits, runs or ended, with numbers."""
    said = dict[str, str]()
    for name in names:
        try:
            with hinting_at_schedule(session, name):
                said[name] = session.client.explain(name)
        except NotFound as error:
            complain(str(error))
    if eta and said:
        told = session.client.forecasts.of(*said)
        for name in said:
            said[name] += f" {explain_coming(told, name)}"
    for text in said.values():
        say(text)
    if len(said) < len(dict.fromkeys(names)):
        raise typer.Exit(NOT_FOUND)


class _File:
    """What a file supposes: tasks, and pools."""

    def __init__(self) -> None:
        self._documents: dict[str, list[Document]] = {"tasks": [], "pools": []}

    @classmethod
    def read(cls, source: str) -> _File:
        """Raises UserError for what is neither."""
        found = cls()
        for chunk in read_documents(source, "tasks or pools"):
            for document in chunk:
                found._add(document)
        return found

    def _add(self, document: Document) -> None:
        value = document.value
        try:
            if document.problem:
                raise UserError(document.problem)
            if is_schedule(value):
                raise InvalidField("kind", "is Schedule: give the task that it makes, as a task of its own")
        except UserError as error:
            field = error.field if isinstance(error, InvalidField) else ""
            raise UserError(f"{document.place_of(field)}: {error}") from None
        is_pool = isinstance(value, Mapping) and "id" not in value and not value.keys().isdisjoint(_OF_POOLS)
        self._documents["pools" if is_pool else "tasks"].append(document)

    def suppose(self, session: Session, horizon: str, **more: Any) -> ComparedView:
        """What would come. An error of a document names its place."""
        seconds = as_usage(lambda: parse_horizon(parse_duration(horizon, "--horizon"), "--horizon"))
        tasks, pools = ([each.value for each in self._documents[kind]] for kind in ("tasks", "pools"))
        more["pools"] = [*pools, *more.get("pools", ())]
        try:
            return session.client.forecasts.suppose(tasks=tasks, horizon_seconds=seconds, **more)
        except UserError as error:
            found = _PLACE.match(error.field) if isinstance(error, InvalidField) else None
            known = self._documents[found[1]] if found is not None else []
            if not isinstance(error, InvalidField) or found is None or int(found[2]) >= len(known):
                _raise_by_option(error, more, len(pools))
            field = error.field[found.end() :]
            problem = InvalidField(field, error.problem)
            complain(f"{known[int(found[2])].place_of(field)}: {problem}")
            raise typer.Exit(ERROR) from None


def _raise_by_option(error: UserError, given: Mapping[str, Any], of_file: int) -> NoReturn:
    """Raise it again, with the option in place of the field that this has given.

    The first `of_file` pools are not of options.
    """
    text = str(error)
    found = _FIELD.match(text)
    if found is None or (found["field"] == "pools" and int(found["number"] or -1) < of_file):
        raise error
    field, number, name = found["field"], found["number"], found["name"] or ""
    option = _OPTIONS[field]
    if number is not None:
        name = given[field][int(number)]
    if isinstance(name, Mapping):
        is_window = "capacity" not in name or found["rest"].startswith("maintenance")
        option, name = "--drain" if is_window else "--pool", name["name"]
    rest = f"{found['rest']}: " if found["rest"] else ""
    told = f"{option}{f' {name}' if name else ''}: {rest}{text[found.end() :]}"
    raise (NotFound if isinstance(error, NotFound) else UserError)(told) from None


def _pools(session: Session, texts: list[str], drained: list[str]) -> Iterator[dict[str, Any]]:
    """Each pool with its whole capacity, of which some is otherwise, and with all of its windows."""
    given: dict[str, dict[str, str]] = {}
    for text in texts:
        name, colon, amounts = text.partition(":")
        pairs = [each.partition("=") for each in amounts.split(",")]
        if not colon or not all(resource and amount for resource, _, amount in pairs):
            raise typer.BadParameter(f"--pool: {text!r} is not POOL:RESOURCE=AMOUNT, such as default:cpu=16")
        given.setdefault(name, {}).update({resource: amount for resource, _, amount in pairs})
    now, windows = time.time(), dict[str, dict[float, MaintenanceWindow]]()
    for text in drained:
        name, window = as_usage(partial(parse_window, text, now, "--drain"))
        windows.setdefault(name, {})[window.starts_at] = window
    names = dict.fromkeys([*given, *windows])
    known = {view.name: view for view in session.client.pools()} if names else {}
    for name in names:
        view = known.get(name)
        if view is None or (name in windows and view.definition is None):
            raise no_pool(session.client.cluster, name)
        pool: dict[str, Any] = {"name": name}
        if amounts_of := given.get(name):
            as_usage(partial(Vector.parse, amounts_of, f"--pool {name}"))
            pool["capacity"] = {**view.capacity.format(), **amounts_of}
        if name in windows and view.definition is not None:
            stored = {each.starts_at: each for each in not_passed(view.definition.maintenance, now)}
            pool["maintenance"] = to_builtins([*{**stored, **windows[name]}.values()])
        yield pool


def _priorities(texts: list[str]) -> dict[str, int]:
    found = {}
    for text in texts:
        name, _, number = text.rpartition("=")
        if not name or re.fullmatch(r"-?\d{1,10}", number, re.ASCII) is None:
            raise typer.BadParameter(f"--priority: {text!r} is not TASK=PRIORITY, such as train-1=9")
        found[named(name)] = int(number)
    return found


def _print_tasks(found: ComparedView) -> None:
    """The supposed tasks, and why some of them do not begin."""
    if not found.tasks:
        return
    out.Table(PLAN_COLUMNS).print(
        (
            each.id,
            each.pool,
            _when(each.begins_at, found.now),
            _end(each, found.now),
            rests_on(each),
        )
        for each in found.tasks
    )
    if unknown := [each.id for each in found.tasks if not each.by]:
        say(
            f"Nothing tells how long {listed(unknown)} will run: none of the kind has succeeded, and there is"
            " no run deadline."
        )
    for each in found.tasks:
        if each.begins_at is None and each.why:
            say(each.why)


def _end(coming: ComingView, now: float) -> str:
    ends = _when(coming.ends_at, now)
    return f"{ends}, {coming.ends_as}" if coming.begins_at is None and coming.ends_as else ends


def _print_delayed(found: ComparedView) -> None:
    """The stored tasks that begin later, or not any more, the most first."""
    delayed = [each for each in found.changed if each.never or _begins_later(each)][:DELAYED]
    if not delayed:
        return
    if found.tasks:
        say("")
    _print_changed(delayed, found.now)
    more = found.later + found.never - len(delayed)
    if more > 0:
        say(f"and {more:,} more that begin later, or not any more", err=True)
    say("")


def _begins_later(each: ChangedView) -> bool:
    if each.begins_now is None or (each.later_seconds or 0) < 0:
        return False
    return each.begins_then is None or each.begins_then > each.begins_now


def _print_changes(found: ComparedView) -> None:
    _print_changed(found.changed, found.now)
    if found.differing > len(found.changed):
        say(f"and {found.differing - len(found.changed):,} more, which differ less", err=True)
    for each in found.changed:
        if each.never and each.why:
            say(each.why)


def _print_changed(changed: Iterable[ChangedView], now: float) -> None:
    out.Table(CHANGE_COLUMNS).print(
        (
            each.id,
            each.pool,
            _soon(each.begins_now, now),
            _soon(each.begins_then, now),
            _soon(each.ends_now, now),
            _soon(each.ends_then, now),
        )
        for each in changed
    )


def _wait_row(view: WaitsView) -> tuple[object, ...]:
    waits = (view.wait_now, view.wait_then)
    return (view.pool, view.owner, view.waiting, *("" if each is None else span(each) for each in waits))


def _print_sentences(found: ComparedView) -> None:
    say(explain_compared(found))
    say(explain_error(found.error))


def _when(time: float | None, now: float) -> str:
    return "" if time is None else f"{at(time)} ({_soon(time, now)})"


def _soon(time: float | None, now: float) -> str:
    if time is None:
        return ""
    if abs(time - now) < 1:
        return "now"
    return f"in {span(time - now)}" if time > now else f"{span(now - time)} ago"
