"""The commands `tally login`, `logout`, `whoami` and `auth can-i`: for who comes by a gateway."""

from __future__ import annotations

import os
import re
import sys
import tomllib
from getpass import getpass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import typer

from controller.cli import output as out
from controller.cli.names import Kind, bare
from controller.cli.session import ERROR, Session
from controller.errors import InvalidField, UserError
from controller.terminal import say

if TYPE_CHECKING:
    from controller.client.gateway_client import GatewayClient

ACTS = {
    "submit": "submit",
    **dict.fromkeys(("get", "describe", "explain", "logs", "history", "wait"), "read"),
    **dict.fromkeys(("cancel", "retry", "hold", "release", "set-priority"), "cancel"),
    **dict.fromkeys(
        ("apply", "delete", "pause", "resume", "drain", "step-down", "features", "confirm-stopped"), "admin"
    ),
}
"""What a user types → the right that it needs."""

_OURS = re.compile(r"\s*(server|token_file)\s*=")
_AUTHORITY = re.compile(r"\s*ca_file\s*=")


def login(
    session: Session,
    server: Annotated[str, typer.Argument(metavar="URL", help="The gateway, such as https://tally:9190.")],
    token: Annotated[
        Path, typer.Option("--token", metavar="FILE", help="File with the token; - for standard input.")
    ] = Path("-"),
    authority: Annotated[
        Path | None,
        typer.Option("--authority", metavar="FILE", help="Authority of the gateway's certificate."),
    ] = None,
) -> None:
    """Use a gateway from now on: check the token there, and keep it.

    Writes the token to ~/.config/tally/token, readable by you only, and the URL to tally.toml beside it.
    """
    from controller.client.gateway_calls import GatewayCalls, parse_token
    from controller.client.gateway_client import GatewayClient
    from controller.config.values import is_loopback, parse_path

    if str(token) == "-":
        # a terminal shows nothing of it
        given = getpass("Token: ") if sys.stdin.isatty() else sys.stdin.read()
        text = parse_token(given, "standard input")
    else:
        path = parse_path(token, "--token")
        try:
            text = parse_token(path.read_text(encoding="utf-8"), str(path))
        except OSError as error:
            raise InvalidField("--token", f"{path} cannot be read: {error.strerror}") from None
    ca_file = str(parse_path(authority, "--authority")) if authority is not None else ""
    calls = GatewayCalls(server, lambda: text, ca_file=ca_file)
    address = urlsplit(calls.url)
    if address.scheme == "http" and not is_loopback(address.hostname or ""):
        say(
            "warning: by http the token is sent unencrypted: use https if others share the network",
            err=True,
        )
    with GatewayClient(calls) as client:
        found = client.access.whoami()
    folder = _folder()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    _write(folder / "token", text + "\n", 0o600)
    lines = [f"server = {_toml(calls.url)}", f"token_file = {_toml(str(folder / 'token'))}"]
    if ca_file:
        lines.append(f"ca_file = {_toml(ca_file)}")
    file = (folder / "tally.toml").resolve()  # a symbolic link stays one
    kept = _lines_of_others(file)
    if ca_file and any(map(_AUTHORITY.match, kept)):
        kept = [line for line in kept if not _AUTHORITY.match(line)]
        say(f"{file} named another ca_file, for etcd: give that by --ca-file when you go by etcd", err=True)
    text = "\n".join([*lines, *kept]) + "\n"
    tomllib.loads(text)  # what was there is TOML still
    _write(file, text, 0o600)
    say(f"signed in at {calls.url} as {found['name']}, for cluster {found['cluster']}")
    if session.flags or os.environ.get("TALLY_SERVER"):
        say("flags and the environment go before the file that was written", err=True)


def logout(session: Session) -> None:  # noqa: ARG001  # it needs no settings
    """Forget the gateway and the token that `tally login` has kept.

    The token stays valid: whoever keeps the gateway's tokens revokes it.
    """
    token, file = _folder() / "token", (_folder() / "tally.toml").resolve()
    kept = _lines_of_others(file)
    had = token.exists() or len(kept) < len(_lines(file))
    token.unlink(missing_ok=True)
    if kept:
        _write(file, "\n".join(kept) + "\n", 0o600)
    else:
        file.unlink(missing_ok=True)
    say("signed out" if had else "nothing to do: `tally login` has kept nothing")


def whoami(
    session: Session,
    output: Annotated[str, typer.Option("-o", "--output", help="json or yaml.")] = "",
) -> None:
    """Show who the gateway takes you for, and what you may do."""
    out.check_form(output, ("json", "yaml"))
    found = _gateway(session).access.whoami()
    if output:
        out.print_document(found, output)
        return
    say(f"name:     {found['name']} ({found['method']})")
    say(f"groups:   {', '.join(found['groups']) or 'none'}")
    say(f"cluster:  {found['cluster']}")
    if found["is_admin"]:
        say("may:      everything")
        return
    for owner, pools in found["pools"].items():
        say(f"submit:   for {owner}, to {'all pools' if pools is None else ', '.join(pools) or 'no pool'}")
    for act, owners in found["owners"].items():
        say(f"{act + ':':<9} tasks of {'all owners' if owners is None else ', '.join(owners) or 'nobody'}")


def can_i(
    session: Session,
    verb: Annotated[str, typer.Argument(metavar="VERB", help=f"One of {', '.join(ACTS)}.")],
    task: Annotated[str, typer.Argument(metavar="[TASK]", help="With this task.")] = "",
    owner: Annotated[str, typer.Option(help="With a task of this owner.")] = "",
    pool: Annotated[str, typer.Option(help="In this pool, for submit.")] = "",
) -> None:
    """Say whether the gateway lets you do something. Exits with 1 if it does not."""
    if verb not in ACTS:
        raise typer.BadParameter(f"{verb!r} is not one of {', '.join(ACTS)}")
    name = bare(task, Kind.TASKS) if task else ""
    allowed = _gateway(session).access.may(
        ACTS[verb], task=name, owner=bare(owner, Kind.OWNERS), pool=bare(pool, Kind.POOLS)
    )
    say("yes" if allowed else "no")
    if not allowed:
        raise typer.Exit(ERROR)


def _gateway(session: Session) -> GatewayClient:
    from controller.client.gateway_client import GatewayClient

    client = session.client
    if not isinstance(client, GatewayClient):
        raise UserError("there is no gateway to ask: give --server, or `tally login URL`")
    return client


def _folder() -> Path:
    """Where `tally login` keeps what it keeps."""
    from controller.config.values import expanded

    return expanded(Path("~/.config/tally"), "HOME")


def _lines(file: Path) -> list[str]:
    return file.read_text(encoding="utf-8").splitlines() if file.exists() else []


def _lines_of_others(file: Path) -> list[str]:
    """The lines of the file without those of a login: server, token_file, and a ca_file that comes next."""
    kept: list[str] = []
    follows = False
    for line in _lines(file):
        if _OURS.match(line) or (follows and _AUTHORITY.match(line)):
            follows = True
        else:
            follows = False
            kept.append(line)
    return kept


def _write(file: Path, text: str, mode: int) -> None:
    """Replace the file at once, readable by its owner only from the beginning."""
    beside = file.with_name(f".{file.name}.{os.getpid()}")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as written:
            written.write(text)
        beside.replace(file)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def _toml(text: str) -> str:
    import json

    return json.dumps(text, ensure_ascii=False)
