"""The command `tally demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from controller.cli.session import Session
from controller.terminal import say


def demo(
    session: Session,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a page with the curves to this file.")
    ] = None,
    lang: Annotated[str, typer.Option(help="The language: en or zh.")] = "en",
) -> None:
    """Show the problem that Tally exists for.

    Naive backends run on a real etcd, and give back or give out more than there is. Then Tally does the same
    work; one leader of it is killed, and one is suspended. This takes about 20 seconds on an idle machine,
    needs no root, and uses no settings. It leaves nothing, unless it is killed. Exits with 1 if a design was
    not right or wrong as claimed.
    """
    from controller.dev.demo.run import run_demo
    from controller.dev.demo.words import Language

    if lang not in list(Language):
        raise typer.BadParameter(f"--lang: {lang!r} is not one of {', '.join(Language)}")
    if html is not None:
        _check_writable(html)
    if session.flags:
        say(
            f"warning: ignored, since `tally demo` runs an etcd of its own: {', '.join(session.flags)}",
            err=True,
        )
    raise typer.Exit(run_demo(Language(lang), html))


def _check_writable(file: Path) -> None:
    """Before anything runs, and without a trace."""
    is_new = not file.exists()
    try:
        if not is_new and not file.is_file():
            raise typer.BadParameter(f"--html: {file} is not a regular file")
        with file.open("ab"):
            pass
        if is_new:
            file.unlink()
    except OSError as error:
        raise typer.BadParameter(f"--html: {file} cannot be written: {error.strerror}") from error
