"""The commands `tally login`, `logout`, `whoami` and `auth can-i`: for who comes by a gateway."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from getpass import getpass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

import typer

from controller.cli import output as out
from controller.cli.names import Kind, bare
from controller.cli.session import ERROR, Session
from controller.core.model.toml import parse_toml
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

_BEGIN = "# `tally login` writes these lines anew, and `tally logout` removes them:"
_END = "# end of those lines"


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
    _keep(calls.url, text, ca_file)
    say(f"signed in at {calls.url} as {found['name']}, for cluster {found['cluster']}")
    if session.flags or os.environ.get("TALLY_SERVER"):
        say("flags and the environment go before the file that was written", err=True)


def logout(session: Session) -> None:  # noqa: ARG001  # it needs no settings
    """Forget the gateway and the token that `tally login` has kept.

    The token stays valid: whoever keeps the gateway's tokens revokes it.
    """
    token, file = _folder() / "token", (_folder() / "tally.toml").resolve()
    with _naming(token, "removed"):
        had = token.exists()
        for kept in (token, *_folder().glob(".token.*")):  # also of a login that was killed
            kept.unlink(missing_ok=True)
    lines = _lines(file)
    others = _lines_of_others(lines, token)
    if len(others) < len(lines):
        had = True
        with _naming(file, "written"):
            if others:
                with _staged(file, "\n".join(others) + "\n") as staged:
                    staged.replace(file)
            else:
                file.unlink()
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


def _keep(url: str, token: str, ca_file: str) -> None:
    """Write both files, or neither. At no moment does the file of settings name one gateway, and the token's
    file hold the token of another. Raises InvalidField, UserError.
    """
    folder = _folder()
    kept, file = folder / "token", (folder / "tally.toml").resolve()  # a symbolic link stays one
    ours = {"server": url, "token_file": str(kept)} | ({"ca_file": ca_file} if ca_file else {})
    others = _lines_of_others(_lines(file), kept)
    if any("ca_file" in _assigned(line) for line in others) and ca_file:
        say(f"{file} named another ca_file, for etcd: give that by --ca-file when you go by etcd", err=True)
    others = [line for line in others if not ours.keys() & _assigned(line).keys()]
    settings = [_BEGIN, *(f"{name} = {_toml(value)}" for name, value in ours.items()), _END, *others]
    text = "\n".join(settings) + "\n"
    try:
        parse_toml(text)
    except InvalidField as error:
        raise InvalidField("config", f"{file} cannot take {', '.join(ours)}: it {error}: mend it") from None
    with _naming(folder, "made"):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    before = folder / f".token.before.{os.getpid()}"
    with _naming(file, "written"), _staged(kept, token + "\n") as new, _staged(file, text) as staged:
        with suppress(FileNotFoundError):
            kept.replace(before)  # from here on, no token is sent
        try:
            staged.replace(file)
        except BaseException:
            with suppress(FileNotFoundError):
                before.replace(kept)
            raise
        before.unlink(missing_ok=True)
        new.replace(kept)


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidField("config", f"{file} cannot be read: {error}: mend or remove it") from None


def _lines_of_others(lines: list[str], token: Path) -> list[str]:
    """The lines without those of a login, which a person may have moved out of their marks."""
    if _BEGIN in lines and _END in lines[(begin := lines.index(_BEGIN)) :]:
        lines = lines[:begin] + lines[lines.index(_END, begin) + 1 :]
    if any(_assigned(line).get("token_file") == str(token) for line in lines):
        lines = [line for line in lines if not {"server", "token_file"} & _assigned(line).keys()]
    return lines


def _assigned(line: str) -> dict[str, Any]:
    """What a line of TOML assigns; nothing if it is none by itself."""
    try:
        return parse_toml(line)
    except InvalidField:
        return {}


@contextmanager
def _naming(file: Path, done: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"{file} cannot be {done}: {error.strerror}") from None


@contextmanager
def _staged(file: Path, text: str) -> Iterator[Path]:
    """A file beside it with this text, to replace it at once. From the beginning, only its owner reads it."""
    beside = file.with_name(f".{file.name}.{os.getpid()}")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as written:
            written.write(text)
        yield beside
    finally:
        beside.unlink(missing_ok=True)


def _toml(text: str) -> str:
    import json

    return json.dumps(text, ensure_ascii=False)
