"""`tally drain`: pools that are emptied, now or in a maintenance window."""

from __future__ import annotations

import re
import time
from datetime import datetime, timedelta
from typing import Annotated

import typer

from controller.cli.change import pause
from controller.cli.names import PoolNames
from controller.cli.session import STILL_WAITING, Session, as_usage, parse_timeout
from controller.client import NotFound, TaskAct
from controller.client.maintenance import new_window
from controller.client.pools import no_pool
from controller.core.model.maintenance import MaintenanceWindow, Windows, not_passed
from controller.core.model.printable import counted
from controller.core.model.scalars import parse_duration
from controller.errors import InvalidField, UserError
from controller.terminal import say

LOOK_SECONDS = 0.5
_OF_DAY = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)", re.ASCII)


def drain(
    session: Session,
    names: PoolNames,
    timeout: Annotated[
        str | None, typer.Option(help="Wait at most this long, such as 90s or 1h; then exit with 4.")
    ] = None,
    cancel_running: Annotated[
        bool, typer.Option("--cancel", help="Also cancel the tasks that run, which wait for nobody.")
    ] = False,
    at: Annotated[
        str | None,
        typer.Option(
            "--at", help="When a window begins: now, 22:00 (the next, of this machine), or an ISO time."
        ),
    ] = None,
    length: Annotated[
        str | None, typer.Option("--for", help="How long the window is, such as 2h or 90m.")
    ] = None,
    list_windows: Annotated[bool, typer.Option("--list", help="Only show the windows.")] = False,
    remove: Annotated[
        bool, typer.Option("--remove", help="Remove the windows, or the one that begins --at.")
    ] = False,
    reason: Annotated[str, typer.Option(help="The reason, which is shown to whom it keeps waiting.")] = "",
) -> None:
    """Pause pools, and wait until none of their tasks holds anything; or set a maintenance window.

    Tasks that wait stay where they are: `tally resume POOL` goes on with them.

    With `--at` and `--for`, nothing is paused: what would reach into that window, by its run deadline, is not
    admitted before it, and within it nothing is. What runs goes on.
    """
    if at is None and length is None and not list_windows and not remove:
        _empty(session, names, parse_timeout(timeout), reason, cancel_running=cancel_running)
        return
    if timeout is not None or cancel_running:
        raise typer.BadParameter("a window is only set: leave out --timeout and --cancel")
    if list_windows or remove:
        if length is not None or (list_windows and (at is not None or remove)):
            raise typer.BadParameter("give --list alone, or --remove with --at or without")
        starts_at = as_usage(lambda: parse_start(at, time.time())) if at is not None else None
        for name in dict.fromkeys(names):
            (_list if list_windows else _remove)(session, name, starts_at)
        return
    if at is None or length is None:
        raise typer.BadParameter("a window needs --at and --for, such as --at 22:00 --for 2h")
    begin, seconds = _parsed(at, length)
    for name in dict.fromkeys(names):
        result = session.client.maintenance.drain(name, begin, begin + seconds, reason=reason)
        say(f"pool/{name} maintenance {_shown(result.window)}")
        if result.kept_back:
            kept = counted(result.kept_back, "waiting task")
            say(
                f"pool/{name} keeps back {kept} from now until it has ended, without a run deadline or with a"
                " long one: `tally explain TASK` says which deadline would do"
            )
        elif result.kept_back is None:
            say(f"pool/{name}: how many waiting tasks it keeps back could not be counted")
        for feature in result.turned_on:
            say(f"feature/{feature} turned on: replicas of a release without it no longer lead")


def parse_window(text: str, now: float, field: str) -> tuple[str, MaintenanceWindow]:
    """The pool and the window of `POOL@TIME+SPAN`, TIME as `parse_start` reads it. Raises InvalidField."""
    pool, _, times = text.partition("@")
    begin, _, length = times.rpartition("+")  # the zone of an ISO time may have a + of its own
    if not (pool and begin and length):
        raise InvalidField(field, f"{text[:80]!r} is not POOL@TIME+SPAN, such as gpu@22:00+2h")
    starts_at, seconds = parse_start(begin, now, field), _length(length, field)
    try:
        return pool, new_window(starts_at, starts_at + seconds, "", "", now)
    except InvalidField as error:
        raise InvalidField(field, f"{text[:80]!r}: {error}") from None


def _length(text: str, field: str) -> float:
    seconds = parse_duration(text, field)
    if seconds <= 0:
        raise InvalidField(field, "is 0: a window has a length, such as 2h")
    return seconds


def parse_start(text: str, now: float, field: str = "--at") -> float:
    """Seconds since the Unix epoch of `now`, of the next such time of the day, or of an ISO time.

    What has no zone is in that of this machine. Raises InvalidField.
    """
    if text == "now":
        return float(int(now))
    if found := _OF_DAY.fullmatch(text):
        today = datetime.fromtimestamp(now).astimezone().replace(tzinfo=None)
        when = today.replace(hour=int(found[1]), minute=int(found[2]), second=0, microsecond=0)
        return (when if when > today else when + timedelta(days=1)).timestamp()
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError, OSError):
        expected = "expected now, a time such as 22:00, or an ISO time such as 2026-11-27T22:00+01:00"
        raise InvalidField(field, f"is {text[:80]!r}, {expected}") from None


def _parsed(at: str, length: str) -> tuple[float, float]:
    seconds = as_usage(lambda: _length(length, "--for"))
    return as_usage(lambda: parse_start(at, time.time())), seconds


def _shown(window: MaintenanceWindow) -> str:
    """From when to when, with this machine's zone, and why."""
    times = (datetime.fromtimestamp(each).astimezone() for each in (window.starts_at, window.ends_at))
    first, last = (f"{each.isoformat(timespec='seconds')} ({each:%Z})" for each in times)
    by = f", set by {window.by}" if window.by else ""
    return f"from {first} to {last}{f': {window.reason}' if window.reason else ''}{by}"


def _stored(session: Session, name: str) -> Windows:
    """The windows that have not passed. Raises NotFound."""
    view = next((view for view in session.client.pools() if view.name == name and view.definition), None)
    if view is None or view.definition is None:
        raise no_pool(session.client.cluster, name)
    return not_passed(view.definition.maintenance, time.time())


def _list(session: Session, name: str, _: float | None) -> None:
    windows = _stored(session, name)
    for window in windows:
        say(f"pool/{name} maintenance {_shown(window)}")
    if not windows:
        say(f"pool/{name} has no maintenance window")


def _remove(session: Session, name: str, starts_at: float | None) -> None:
    removed = session.client.maintenance.undrain(name, starts_at)
    for window in removed:
        say(f"pool/{name} maintenance removed: {_shown(window)}")
    if not removed and starts_at is not None:
        others = "; ".join(map(_shown, _stored(session, name)))
        when = datetime.fromtimestamp(starts_at).astimezone().isoformat(timespec="seconds")
        raise UserError(f"pool {name!r} has no window that begins at {when}: it has {others or 'none'}")
    if not removed:
        say(f"pool/{name} unchanged")


def _empty(
    session: Session, names: list[str], limit: float | None, reason: str, *, cancel_running: bool
) -> None:
    """Pause the pools, and wait until nothing of them is held."""
    until = None if limit is None else time.monotonic() + limit
    pause(session, names)
    cancelled: set[str] = set()
    for name in dict.fromkeys(names):
        told = -1
        while views := session.client.tasks(pool=name, state="holding"):
            if cancel_running:
                asked = [view for view in views if view.id not in cancelled]
                cancelled.update(view.id for view in asked)
                for result in session.client.bulk.act(TaskAct.CANCEL, asked, reason=reason):
                    # who is not found has ended, and was removed since
                    if isinstance(result, UserError) and not isinstance(result, NotFound):
                        raise result
            if len(views) != told:
                told = len(views)
                say(f"pool/{name}: {counted(told, 'task')} still hold{'s' if told == 1 else ''} resources")
            if until is not None and time.monotonic() >= until:
                raise typer.Exit(STILL_WAITING)
            time.sleep(LOOK_SECONDS)
        say(f"pool/{name} drained")
