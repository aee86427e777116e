"""The command `tally auth init`: creates the roles of a cluster in etcd, and gives them to users."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from controller.cli.session import Session
from controller.config.values import parse_path
from controller.terminal import say

if TYPE_CHECKING:
    from controller.store.etcd.auth import Member

WARNING = "authentication is off: anyone who can reach etcd has full access. Turn it on with --enable"


def init(
    session: Session,
    grant: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ROLE=USER",
            help="Give a user a role: controller, user, admin, reader, gateway or notifier; or root=root."
            " May be repeated.",
        ),
    ] = None,
    passwords: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder of password files: a new user gets the password in DIR/USER, which is created if"
            " missing.",
        ),
    ] = None,
    enable: Annotated[
        bool, typer.Option("--enable", help="Enable etcd's authentication, if it is off.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be done; do nothing.")] = False,
) -> None:
    """Create the roles of this cluster in etcd.

    The roles are controller for replicas, user to submit and cancel tasks, admin for pools and repairs, and
    reader to read only. A repeated run changes nothing that is in order. If authentication is enabled, use
    etcd's root as --user.
    """
    from controller.store.etcd.auth import EtcdAuth
    from controller.store.etcd.store import EtcdStore

    members = [parse_member(text) for text in grant or ()]
    client = session.client
    assert isinstance(client.store, EtcdStore)
    auth = EtcdAuth(client.store.gateway, client.keys, session.settings.request_timeout_seconds)
    asks_for_users = enable or auth.is_enabled()
    steps = auth.plan(
        members, parse_path(passwords, "passwords") if passwords is not None else None, enable=enable
    )
    for step in steps:
        if not dry_run:
            auth.take(step)
        say(step.what + (" (dry run)" if dry_run else ""), flush=True)
    if not steps:
        say(f"all roles of cluster {client.keys.cluster} are in order")
    if not asks_for_users:
        say(WARNING)


def parse_member(text: str) -> Member:
    """Parse `ROLE=USER` or `root=root`."""
    from controller.store.etcd.auth import ROOT, Member
    from controller.store.etcd.roles import Role

    role, _, user = text.partition("=")
    if text == f"{ROOT}={ROOT}":
        return Member(None, ROOT)
    if (
        role not in tuple(Role)
        or not user
        or not user.isprintable()
        or "/" in user
        or user in (".", "..", ROOT)
    ):
        raise typer.BadParameter(
            f"--grant {text[:80]!r} is neither {ROOT}={ROOT} nor ROLE=USER, where ROLE is one of"
            f" {', '.join(Role)}, and USER is any name but {ROOT}"
        )
    return Member(Role(role), user)
