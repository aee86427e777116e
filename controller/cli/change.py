"""Commands that make a request of the leader, or change a pool or the pods.

They are cancel, retry, hold, release, set priority, confirm-stopped, step-down, apply, pause, resume,
delete and release-finalizers.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Annotated

import typer

from controller.cli.documents import read_documents
from controller.cli.names import (
    Kind,
    SwitchedNames,
    TaskName,
    complete_names,
    parse_kind_and_names,
)
from controller.cli.schedules import apply_schedule, hinting_at_schedule, is_schedule
from controller.cli.selection import Selection
from controller.cli.session import ERROR, Session, complain, confirm
from controller.client import TaskAct, TaskView
from controller.core.model.installation import Installation
from controller.core.model.lifecycle import State
from controller.core.model.printable import counted
from controller.core.model.requests import RequestKind
from controller.errors import InvalidField, UserError
from controller.store.base import StoreError
from controller.terminal import say

Reason = Annotated[str, typer.Option(help="The reason, recorded in the task's history.")]


def cancel(session: Session, tasks: Selection, reason: Reason = "") -> None:
    """Cancel tasks.

    A waiting task ends at once; a running task is stopped. A finished task is left as it is (exit code 0).
    Of an array, `render[100-200]` cancels only these members.
    """
    tasks.for_each(
        session,
        TaskAct.CANCEL,
        lambda view: not view.finished or RequestKind.RETRY in view.requests,
        reason,
    )


def retry(
    session: Session,
    tasks: Selection,
    reason: Reason = "",
    downstream: Annotated[
        bool, typer.Option("--downstream", help="Also what waits for the named tasks, and did not succeed.")
    ] = False,
    failed: Annotated[
        bool, typer.Option("--failed", help="Of the named arrays, only the members that are Failed.")
    ] = False,
) -> None:
    """Run Failed or Cancelled tasks again.

    A Succeeded task is not run again (exit code 1). Of an array, its Failed and Cancelled members run again,
    also while others run: all, with `--failed` those that are Failed, or as `render[3,7]` only these.

    With `--downstream`, tasks that wait for a named task, directly or not, are retried after it if they are
    Failed, or were skipped. A named task that has not ended, or is Succeeded, is then left as it is.
    """
    if downstream and failed:
        raise typer.BadParameter("--failed is about members of arrays: leave out --downstream")
    if downstream:
        tasks.with_downstream(session, reason)
        return
    tasks.for_each(
        session,
        TaskAct.RETRY,
        lambda view: view.state in (State.FAILED, State.CANCELLED),
        reason,
        only_failed=failed,
    )


def hold(session: Session, tasks: Selection, reason: Reason = "") -> None:
    """Put waiting tasks on hold: they are not admitted until they are released.

    What is submitted later is not on hold. A queue deadline does not count the time on hold. This needs the
    feature `changes` (`tally features enable changes`).
    """
    tasks.for_each(
        session,
        TaskAct.HOLD,
        lambda view: view.can_be_changed and (not view.on_hold or _is_asked(view)),
        reason,
    )


def release(session: Session, tasks: Selection, reason: Reason = "") -> None:
    """Release tasks that are on hold: they wait in their queue again, at the place that they had.

    `tally release --owner vision --state on-hold`
    """
    tasks.for_each(
        session,
        TaskAct.RELEASE,
        lambda view: view.can_be_changed and (view.on_hold or _is_asked(view)),
        reason,
    )


def set_priority(
    session: Session,
    priority: Annotated[int, typer.Argument(help="Higher goes first; it may be below zero.")],
    tasks: Selection,
    reason: Reason = "",
) -> None:
    """Give waiting tasks another priority. Needs the feature `changes`.

    In a pool with `sharing` it counts within its owner, unless the pool says across-owners.

    `tally set priority 10 train-7`, `tally set priority -5 --owner vision --state waiting`
    """
    tasks.for_each(
        session,
        TaskAct.SET_PRIORITY,
        lambda view: view.can_be_changed and (view.priority != priority or _is_asked(view)),
        reason,
        priority,
    )


def _is_asked(view: TaskView) -> bool:
    """Whether a change of it waits for the leader, so that it may be otherwise in a moment."""
    return RequestKind.CHANGE in view.requests


def confirm_stopped(
    session: Session,
    name: TaskName,
    reason: Reason = "",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
) -> None:
    """Confirm that a lost attempt no longer runs.

    The leader releases its resources, and may retry the task. If the confirmation is wrong, two attempts of
    the task may run at the same time.
    """
    view = session.client.get(name)
    if not yes:
        if not sys.stdin.isatty():
            raise UserError("this confirms that the attempt has stopped, which Tally cannot check: add --yes")
        confirm(f"Are you sure that attempt {view.attempt} of {name} has stopped, and cannot come back?")
    result = session.client.confirm_stopped(name, reason=reason)
    say(f"task/{name} confirm-stopped {result.outcome}")


def step_down(session: Session) -> None:
    """Make the leader step down.

    Another replica, or the same one, is elected at once. Attempts keep running.
    """
    leader = session.client.replicas.step_down()
    say(
        f"replica/{leader.id} no longer leads (it led epoch {leader.epoch}); `tally get replicas` shows the"
        " new leader"
    )


def apply(
    session: Session,
    file: Annotated[
        str,
        typer.Option(
            "-f", "--file", help="YAML or JSON file with pools and schedules; - for standard input."
        ),
    ],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Of schedules: only check them, and print their next ticks.")
    ] = False,
) -> None:
    """Create pools and schedules, or replace their definitions.

    An example of a pool: `{name: gpu, capacity: {cpu: 8, nvidia.com/gpu: 2}, policy: backfill}`. A pool has
    these fields: name, capacity, policy (strict or backfill), backfill_seconds, default_resources, paused,
    maintenance, keep_logs, reserve, sharing, preemption, require_attested, notify and engine_options. Fields
    that are left out get their defaults. A document with `kind: Schedule` is a schedule: it has name, cron,
    timezone, task, concurrency, catch_up and suspended (deploy/schedules.md).
    """
    counts: Counter[str] = Counter()
    for chunk in read_documents(file, "pools or schedules"):
        for document in chunk:
            try:
                if document.problem:
                    raise UserError(document.problem)
                if is_schedule(document.value):
                    kind, result = "schedule", apply_schedule(session, document.value, dry_run=dry_run)
                elif dry_run:
                    raise UserError("--dry-run is for schedules: leave it out to apply a pool")
                else:
                    kind, result = "pool", session.client.apply_pool(document.value)
            except UserError as error:
                complain(
                    f"{document.place_of(error.field if isinstance(error, InvalidField) else '')}: {error}"
                )
                counts["invalid"] += 1
            else:
                if result is None:
                    continue
                counts[result.outcome] += 1
                say(f"{kind}/{result.name} {result.outcome}")
                for feature in result.turned_on:
                    say(f"feature/{feature} turned on: replicas of a release without it no longer lead")
                if result.message:
                    say(f"warning: {result.message}", err=True)
    if counts["invalid"]:
        if counts.total() > 1:
            say(", ".join(f"{number:,} {outcome}" for outcome, number in sorted(counts.items())), err=True)
        raise typer.Exit(ERROR)


def pause(session: Session, names: SwitchedNames) -> None:
    """Admit no more tasks to pools, or suspend schedules. Running tasks continue."""
    client = session.client
    _switch(session, names, client.admission.pause, client.schedules.suspend, ("paused", "suspended"))


def resume(session: Session, names: SwitchedNames) -> None:
    """Admit tasks to pools again, or let schedules go on."""
    client = session.client
    _switch(session, names, client.admission.resume, client.schedules.resume, ("resumed", "resumed"))


def _switch(
    session: Session,
    names: list[str],
    pools: Callable[[str], bool],
    schedules: Callable[[str], bool],
    done: tuple[str, str],
) -> None:
    for text in dict.fromkeys(names):
        _, slash, name = text.partition("/")
        if slash:
            say(f"schedule/{name} {done[1] if schedules(name) else 'unchanged'}")
        else:
            with hinting_at_schedule(session, text, "There is schedule/{name}"):
                say(f"pool/{text} {done[0] if pools(text) else 'unchanged'}")


def delete(
    session: Session,
    kind: Annotated[str, typer.Argument(metavar="pool|schedule", help="The kind, or KIND/NAME.")],
    names: Annotated[
        list[str] | None,
        typer.Argument(help="The names.", show_default=False, autocompletion=complete_names),
    ] = None,
) -> None:
    """Delete the definitions of pools, or schedules.

    Running tasks continue; waiting tasks wait until the pool is defined again. The tasks of a schedule stay.
    """
    what, given = parse_kind_and_names(kind, names or [])
    if what not in (Kind.POOLS, Kind.SCHEDULES):
        raise UserError(
            "only pools and schedules can be deleted: finished tasks are removed when their retention ends,"
            " and others can be cancelled"
        )
    one = what.removesuffix("s")
    if not given:
        raise typer.BadParameter(f"give NAME, or {one}/NAME")
    client = session.client
    remove = client.schedules.delete if what is Kind.SCHEDULES else client.delete_pool
    for name in dict.fromkeys(given):
        remove(name)
        say(f"{one}/{name} deleted")


def release_finalizers(
    session: Session,
    yes: Annotated[bool, typer.Option("--yes", help="Continue even if replicas are registered.")] = False,
    installation: Annotated[
        str,
        typer.Option(
            "--installation", metavar="ID", help="The installation that owns the pods, if etcd is gone."
        ),
    ] = "",
) -> None:
    """Remove Tally's finalizer from all of its pods, to uninstall Tally.

    The finalizer keeps a deleted pod until its end is committed. Stop the replicas first: while they run,
    deleted pods would vanish too early. The command works after etcd was uninstalled, if the flags name the
    cluster (--cluster, --kube-namespaces).
    """
    from controller.cli.engines import open_kubernetes, registered_or_warn

    session.need_etcd()
    replicas = registered_or_warn(session)
    if replicas and not yes:
        raise UserError(
            f"still registered: {counted(len(replicas), 'replica')}. Stop all replicas first, or give --yes"
        )
    engine = open_kubernetes(session, replicas)
    try:
        if installation:
            engine.bind(Installation(id=installation))
        else:
            # Without etcd, all pods with the cluster's name are taken, if they are of one installation.
            with suppress(StoreError):
                session.client.outputs.bind(engine)
        released = engine.release_finalizers()
    finally:
        engine.close()
    say(f"{counted(released, 'pod')} released")
