"""The command `tally notifier`, and those on notices about ended tasks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import typer

from controller.cli import output as out
from controller.cli.session import CONNECTION, Session
from controller.client.errors import NotFound
from controller.client.notices import NoticeView
from controller.core.model.codec import to_builtins
from controller.core.model.notify_url import host_of, shown_receiver
from controller.terminal import say
from controller.views.words import at

NOTICE_COLUMNS = ("TASK", "ENDED", "AT", "STATE", "RECEIVERS", "WHY")
SETTINGS = (
    *CONNECTION,
    "replica",
    "notifier",
    "notifier_secrets_file",
    "notifier_ca_file",
    "notifier_allow_http",
    "notifier_allowed_networks",
    "notifier_give_up_seconds",
)


def serve(session: Session) -> None:
    """Tell receivers about ended tasks (`notify` of their pools), in the foreground.

    Several may run: one delivers, and the others wait for their turn. SIGTERM, Ctrl-C and a closed terminal
    end it; what it was about to deliver, the next one delivers.
    """
    from controller.app import make_store
    from controller.clock import SystemClock
    from controller.config import settings_in_use
    from controller.notifier.run import run_notifier

    session.need_etcd()
    with settings_in_use():
        raise typer.Exit(run_notifier(session.settings, make_store(session.settings, SystemClock())))


def secret() -> None:
    """Print a new secret, for the file of secrets and for the receiver that checks signatures with it."""
    from controller.notifier.signing import new_secret

    say(new_secret())


Tasks = Annotated[list[str] | None, typer.Argument(help="Tasks.", show_default=False)]


def list_notices(
    session: Session,
    tasks: Tasks = None,
    output: Annotated[str, typer.Option("-o", "--output", help="json or yaml.")] = "",
) -> None:
    """List the notices that have yet to be told, and the dead letters, which were given up."""
    out.check_form(output, ("json", "yaml"))
    session.need_etcd()
    views = [view for view in session.client.notices.all() if not tasks or view.notice.task in tasks]
    failing = session.client.notices.summary().failing
    if output:
        out.print_document({"items": [to_builtins(view) for view in views], "failing": failing}, output)
    elif views:
        out.Table(NOTICE_COLUMNS).print(_row(view, failing) for view in views)
    else:
        say("No notices found.", err=True)


def retry_notices(session: Session, tasks: Tasks = None) -> None:
    """Have dead letters told again: those of these tasks, or all. Each receiver is tried once more."""
    for view in _chosen(session, tasks):
        session.client.notices.retry(view)
        say(f"notice/{view.notice.task} is told again")


def drop_notices(
    session: Session,
    tasks: Tasks = None,
    waiting: Annotated[bool, typer.Option("--waiting", help="Also those that are still to be told.")] = False,
) -> None:
    """Have dead letters deleted: those of these tasks, or all.

    With --waiting, also notices that are still to be told, such as those for a receiver that `notify` should
    not have named.
    """
    for view in _chosen(session, tasks, waiting=waiting):
        session.client.notices.drop(view)
        say(f"notice/{view.notice.task} dropped")


def _chosen(session: Session, tasks: list[str] | None, *, waiting: bool = False) -> list[NoticeView]:
    """The dead letters of these tasks, or all; also the notices that wait, if they count."""
    session.need_etcd()
    views = [view for view in session.client.notices.all() if waiting or view.is_dead]
    known = {view.notice.task for view in views}
    missing = [task for task in tasks or () if task not in known]
    if missing:
        what = "notice" if waiting else "dead letter"
        raise NotFound(f"nothing was asked for: there is no {what} of task {', '.join(missing)}")
    return [view for view in views if not tasks or view.notice.task in tasks]


def _row(view: NoticeView, failing: Mapping[str, str]) -> tuple[object, ...]:
    """A notice's row. `failing`: why hosts could not be told at the last try."""
    notice = view.notice
    receivers = ", ".join(dict.fromkeys(map(shown_receiver, notice.urls)))
    whys = list(notice.dead.why.values()) if notice.dead is not None else []
    if notice.dead is None:
        hosts = dict.fromkeys(map(host_of, notice.urls))
        told = ((host, failing[host]) for host in hosts if host in failing)
        whys = [why if why.startswith(host) else f"{host}: {why}" for host, why in told]
    why = "; ".join(dict.fromkeys(whys))
    state = "dead" if notice.dead is not None else "waiting"
    return notice.task, notice.ending, at(notice.at), state, receivers, why or "-"
