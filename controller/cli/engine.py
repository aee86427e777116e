"""The commands `tally engine show` and `adopt`: the recorded engine, and how to change it."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from controller.cli import output as out
from controller.cli.session import ERROR, Session, confirm
from controller.core.model.printable import counted, one_line
from controller.errors import TallyError, UserError
from controller.terminal import say, say_lines

if TYPE_CHECKING:
    from controller.client import Client
    from controller.core.model.task import Observation
    from controller.engine.base import Engine

SETTINGS = ("engine", "state_dir", "kubeconfig", "kube_context", "kube_namespaces")
SHOWN = 20
STOP_SECONDS = 30.0  # to wait for stopped attempts, after the grace


def show(
    session: Session, output: Annotated[str, typer.Option("-o", "--output", help="json or yaml.")] = ""
) -> None:
    """Show the recorded engine, and compare it with the one within reach.

    This is the engine that the flags name; without flags, the one that the replicas have registered.
    """
    from controller.audit.adoption import standing, to_json
    from controller.core.model.installation import difference
    from controller.core.promise.identity_findings import recorded_engine

    out.check_form(output, ("json", "yaml"))
    client = _asked(session)
    before = standing(client.store, client.keys, client.clock)
    document: dict[str, Any] = to_json(before)
    lines = [f"installation: {before.installation.id}"]
    recorded = recorded_engine(before.model)
    gone = (
        ""
        if before.record is not None
        else " (from the last term: the key is gone or damaged; this leader, or the next one, writes it back)"
    )
    lines.append(f"recorded:     {f'{recorded}{gone}' if recorded is not None else 'none yet'}")
    try:
        engine = _open(session)
    except TallyError as error:
        lines.append(f"from here:    cannot be reached: {error}")
    else:
        try:
            own = engine.identity()
            why = difference(recorded, own) if recorded is not None else "none is recorded"
            lines.append(f"from here:    {own}: {why or 'the recorded one'}")
            document["here"] = {"engine": str(own), "difference": why}
            others = {} if why else _others(engine, before.installation)
        except TallyError as error:
            others = {}
            lines.append(f"from here:    cannot be queried: {error}")
        finally:
            engine.close()
        document["others"] = {mark: list(names) for mark, names in others.items()}
        lines += [
            f"left alone:   {counted(len(names), 'attempt')} of installation {mark or '(none)'}"
            for mark, names in others.items()
        ]
    if output:
        out.print_document(document, output)
    else:
        say_lines("\n".join(map(one_line, lines)))


def adopt(
    session: Session,
    names: Annotated[
        list[str] | None, typer.Argument(metavar="ATTEMPT…", help="With --installation: only these attempts.")
    ] = None,
    forget_running: Annotated[
        bool,
        typer.Option(
            "--forget-running",
            help=(
                "Change the engine even if tasks hold resources. Tally no longer looks at the old engine:"
                " the holds end as if "
                "the attempts were gone, and retries run BESIDE what still runs there. Two"
                " attempts of one task may "
                "run at the same time. Stop what runs there first."
            ),
        ),
    ] = False,
    installation: Annotated[
        str,
        typer.Option(
            metavar="OLD-ID",
            help=(
                "Stop and remove the attempts of another installation, whose etcd is lost for good."
                " Lists "
                "them and asks first. Stop that installation's replicas, or they start its attempts again."
            ),
        ),
    ] = "",
    yes: Annotated[
        bool, typer.Option("--yes", help="With --installation: do not ask for confirmation.")
    ] = False,
    grace_seconds: Annotated[
        float, typer.Option(min=0.0, help="With --installation: seconds from SIGTERM to SIGKILL.")
    ] = 30.0,
) -> None:
    """Record another engine as this installation's.

    The flags name the engine. A replica with another engine than the recorded one does not lead, since all
    attempts would seem gone there. The command is refused while tasks hold resources. Run it where the engine
    can be reached, with the flags of the replicas (--engine, --state-dir, …).
    """
    if not math.isfinite(grace_seconds):
        raise typer.BadParameter("--grace-seconds: expected a number of seconds, such as 30")
    if installation:
        _take_over(session, installation, names or (), grace_seconds, yes=yes)
        return
    if names or yes:
        raise typer.BadParameter("ATTEMPT and --yes need --installation")
    from controller.audit.adoption import CONSEQUENCE, adopt_engine
    from controller.client.requests import requester

    if session.given("engine") is None:
        raise typer.BadParameter("--engine is missing: name the engine to record, with its flags")
    engine = _open(session)
    try:
        own = engine.identity()
    finally:
        engine.close()
    client = _asked(session)
    before = adopt_engine(
        client.store, client.keys, client.clock, own, requester(), forget_running=forget_running
    )
    if before.holding:
        say(f"given up: {_named(task.id for task in before.holding)}. {CONSEQUENCE}.")
    say(f"recorded: {own}")
    say(f"before:   {before.record.engine if before.record is not None else 'none'}")


def _asked(session: Session) -> Client:
    """The client, after etcd has answered it once.

    A load of all records waits longer for a silent etcd than a user would.
    """
    session.client.replicas.leader()
    return session.client


def _take_over(session: Session, lost: str, names: Iterable[str], grace_seconds: float, *, yes: bool) -> None:
    from controller.audit.adoption import left_by, standing, take_over

    client = _asked(session)
    before = standing(client.store, client.keys, client.clock)
    if before.installation.id == lost:
        raise UserError(f"{lost} is this installation itself: end its tasks with `tally cancel`")
    engine = _open(session)
    try:
        others = _others(engine, before.installation)
        if lost not in others:
            raise UserError(
                f"the engine has no attempts of installation {lost}; it has those of:"
                f" {', '.join(filter(None, others)) or 'none'}"
            )
        found = left_by(engine, lost, set(names))
        for seen in found:
            say(f"{seen.attempt}  {seen.phase}{', has stopped' if seen.stopped else ''}")
        _make_sure(lost, found, yes=yes)
        left = take_over(engine, found, grace_seconds, STOP_SECONDS, client.clock)
    finally:
        engine.close()
    if left:
        say(
            f"still there, without proof that they stopped: {', '.join(map(str, left))}. Run the command"
            " again."
        )
        raise typer.Exit(ERROR)
    say(f"Stopped and removed: {counted(len(found), 'attempt')} of installation {lost}.")


def _make_sure(lost: str, found: Sequence[Observation], *, yes: bool) -> None:
    """Say what would be stopped, and ask for confirmation. Raises UserError without a terminal."""
    running = sum(not seen.stopped for seen in found)
    tasks = _named({seen.attempt.task_id for seen in found})
    say(
        f"To be stopped and removed: {counted(len(found), 'attempt')} of {tasks}, of which"
        f" {running or 'none'} may still run."
    )
    if not yes:
        if not sys.stdin.isatty():
            raise UserError(
                "nothing was done: if that installation's etcd is lost for good, confirm it with --yes"
            )
        confirm(f"Is the etcd of installation {lost} lost for good?")


def _open(session: Session) -> Engine:
    """The engine that the flags name; without --engine, the one that the replicas have registered."""
    from controller.app import make_engine
    from controller.cli.engines import open_engine

    if session.given("engine") is not None:
        return make_engine(session.settings.engine, session.settings, session.client.clock)
    engine = open_engine(session)
    if engine is None:
        raise UserError(
            "no registered replica has an engine that can be reached from here: give --engine, and its flags"
        )
    return engine


def _others(engine: Engine, installation: Any) -> dict[str, list[str]]:
    engine.bind(installation)
    engine.attempts()
    return {mark: list(names) for mark, names in engine.others().items()}


def _named(tasks: Iterable[str]) -> str:
    found = sorted(tasks)
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return f"{counted(len(found), 'task')}: {', '.join(found[:SHOWN])}{more}"
