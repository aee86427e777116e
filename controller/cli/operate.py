"""Commands for operators: controller, dev, check, config show, completion, version."""

from __future__ import annotations

import os
import sys
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import typer

from controller import __version__
from controller.cli import output as out
from controller.cli.session import ERROR, Session
from controller.config import ENGINES, Settings, settings_in_use, text_of, variable_of
from controller.terminal import say, say_lines

SHELLS = ("bash", "zsh", "fish")
ALL_SETTINGS = tuple(spec.name for spec in fields(Settings))
REPLICA_SETTINGS = tuple(
    name
    for name in ALL_SETTINGS
    if name.endswith("_seconds") or name.startswith("kube") or name == "fast_takeover"
)
"""Settings that `tally dev` passes to the replicas that it starts."""
INSTEAD = {
    "state_dir": "--data-dir",
    "engine": "--engine",
    "etcd": "--etcd-port",
    "status": "--status-port",
    "replica": "--replicas",
}
"""Settings that `tally dev` chooses itself, by flags of its own."""


def controller(session: Session) -> None:
    """Run one replica of the controller in the foreground.

    SIGTERM, Ctrl-C and a closed terminal end it. It first hands over its leadership.
    """
    from controller.app import run_controller

    with settings_in_use():
        raise typer.Exit(run_controller(session.settings))


def dev(
    session: Session,
    replicas: Annotated[int, typer.Option(min=1, max=9, help="Number of replicas of the controller.")] = 3,
    engine: Annotated[str, typer.Option(help="The engine: process, kubernetes, docker or null.")] = "process",
    fake_cluster: Annotated[
        bool,
        typer.Option(
            help=("With --engine kubernetes: run a fake Kubernetes inside this command, to try Tally out.")
        ),
    ] = False,
    data_dir: Annotated[Path, typer.Option(help="Folder that keeps all data between runs.")] = Path(".tally"),
    samples: Annotated[bool, typer.Option(help="Submit sample tasks.")] = True,
    etcd_port: Annotated[
        int, typer.Option(min=1, max=65534, help="Port of etcd, which also uses the next one.")
    ] = 2379,
    status_port: Annotated[
        int,
        typer.Option(
            min=1, max=65526, help="Port of the first replica's status endpoint; the others take the next."
        ),
    ] = 9180,
) -> None:
    """Run a whole local cluster in the foreground.

    It has etcd, replicas, an engine and sample tasks. Ctrl-C stops all that it started; the data is kept.
    """
    from controller.dev.cluster import DevOptions
    from controller.dev.run import run_dev

    if engine not in ENGINES:
        raise typer.BadParameter(f"--engine: {engine!r} is not one of {', '.join(ENGINES)}")
    _tell_ignored(session)
    handed_on = {
        variable_of(name): text_of(session.given(name))
        for name in REPLICA_SETTINGS
        if session.given(name) is not None
    }
    options = DevOptions(
        replicas=replicas,
        engine=engine,
        fake_cluster=fake_cluster,
        data_dir=data_dir,
        samples=samples,
        etcd_port=etcd_port,
        status_port=status_port,
        settings=handed_on,
    )
    raise typer.Exit(run_dev(options))


def _tell_ignored(session: Session) -> None:
    """Warn of flags and variables that `tally dev` ignores; a settings file may be for other commands."""
    origins = {
        name: session.loaded.origins[name].split() for name in ALL_SETTINGS if name not in REPLICA_SETTINGS
    }
    ignored = {name: origin[1] for name, origin in origins.items() if origin[0] in ("flag", "environment")}
    if ignored:
        instead = ", ".join(INSTEAD[name] for name in ignored if name in INSTEAD)
        use = f"use {instead}" if instead else "`tally controller` accepts them"
        say(
            f"warning: ignored, since `tally dev` sets these itself: {', '.join(ignored.values())}; {use}",
            err=True,
        )


def check(
    session: Session,
    output: Annotated[str, typer.Option("-o", "--output", help="json or yaml.")] = "",
) -> None:
    """Check what Tally depends on.

    The points are etcd's version, rights, space, history and clock, the engine, the replicas and the leader.
    Exits with 1 if something keeps Tally from working.
    """
    from controller.cli.check import check as points
    from controller.cli.check_point import CheckStatus

    out.check_form(output, ("json", "yaml"))
    found = []
    for point in points(session):
        found.append(point)
        if not output:
            say(f"{point.verdict:<8} {point.name}: {point.seen}", flush=True)
    if output:
        out.print_document(
            {"points": [{**point._asdict(), "verdict": point.verdict.value} for point in found]}, output
        )
    if any(point.verdict is CheckStatus.WRONG for point in found):
        raise typer.Exit(ERROR)


def config_show(
    session: Session,
    output: Annotated[str, typer.Option("-o", "--output", help="json or yaml.")] = "",
) -> None:
    """Print each setting, its value and its origin."""
    out.check_form(output, ("json", "yaml"))
    settings, origins = session.loaded
    rows = [(name, text_of(getattr(settings, name)), origins[name]) for name in ALL_SETTINGS]
    if output:
        out.print_document({name: {"value": value, "from": origin} for name, value, origin in rows}, output)
    else:
        out.Table(("SETTING", "VALUE", "FROM")).print(rows)


def completion(shell: Annotated[str, typer.Argument(metavar="bash|zsh|fish", help="The shell.")]) -> None:
    """Print a shell's completion script.

    `source <(tally completion bash)`
    """
    from typer.completion import get_completion_script  # type: ignore[attr-defined]  # what its --show-completion prints

    if shell not in SHELLS:
        raise typer.BadParameter(f"{shell!r} is not one of {', '.join(SHELLS)}")
    say_lines(get_completion_script(prog_name="tally", complete_var="_TALLY_COMPLETE", shell=shell))


def version(
    output: Annotated[str, typer.Option("-o", "--output", help="json or yaml.")] = "",
) -> None:
    """Print the version."""
    value: dict[str, Any] = {
        "tally": __version__,
        "python": ".".join(map(str, sys.version_info[:3])),
        "system": os.uname().sysname,
    }
    if output in ("json", "yaml"):
        out.print_document(value, output)
    elif output:
        raise typer.BadParameter(f"-o {output} is not supported here: use json or yaml")
    else:
        say(f"tally {__version__} (Python {value['python']}, {value['system']})")
