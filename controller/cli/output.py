"""Output formats: columns as in kubectl, JSON, YAML and names."""

from __future__ import annotations

import codecs
import json
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import typer

from controller.client.replica_views import ReplicaView
from controller.client.views import OwnerView, PoolView, TaskView
from controller.core.model.lifecycle import State
from controller.core.model.notify_rules import NotifyRule
from controller.core.model.notify_url import shown_receiver
from controller.core.model.resources import Vector, format_quantity
from controller.terminal import say, say_lines
from controller.views.arrays import ArrayProgress, MemberView
from controller.views.dependencies import NodeView
from controller.views.explain import span
from controller.views.freshness import Freshness
from controller.views.gangs import is_gang
from controller.views.gateways import GatewayView
from controller.views.maintenance import window_note
from controller.views.tasks import UNREADABLE, WAITS_FOR_TASKS
from controller.views.words import share_text

TASK_COLUMNS = ("NAME", "STATE", "POOL", "ATTEMPT", "REASON", "AGE")
WIDE_TASK_COLUMNS = (
    "NAME",
    "STATE",
    "POOL",
    "OWNER",
    "ATTEMPT",
    "REASON",
    "PRIORITY",
    "RESOURCES",
    "NODE",
    "EXIT",
    "MESSAGE",
    "AGE",
)
MEMBER_COLUMNS = ("INDEX", "NAME", "STATE", "ATTEMPTS", "EXIT", "REASON", "NODE", "AGE")
POOL_COLUMNS = ("NAME", "POLICY", "RESOURCE", "CAPACITY", "HELD", "FREE", "NOTE")
OWNER_COLUMNS = (
    "POOL",
    "OWNER",
    "WEIGHT",
    "HELD",
    "GUARANTEE",
    "LIMIT",
    "SHARE",
    "RUNNING",
    "WAITING",
    "ON-HOLD",
)
WIDE_OWNER_COLUMNS = (*OWNER_COLUMNS, "MAX-RUNNING", "MAX-QUEUED", "NOTE")
REPLICA_COLUMNS = ("NAME", "ROLE", "ENGINE", "STATUS-URL", "PID", "HEARD", "AGE")
WIDE_REPLICA_COLUMNS = (
    "NAME",
    "ROLE",
    "ENGINE",
    "STATUS-URL",
    "HOST",
    "PID",
    "VERSION",
    "REVISION",
    "INSTANCE",
    "HEARD",
    "AGE",
)
GATEWAY_COLUMNS = ("NAME", "READY", "URL", "PID", "AGE", "PROBLEMS")
WIDE_GATEWAY_COLUMNS = (
    "NAME",
    "READY",
    "URL",
    "HOST",
    "PID",
    "VERSION",
    "REVISION",
    "INSTANCE",
    "AGE",
    "PROBLEMS",
)
MESSAGE_WIDTH = 60
NAME_WIDTH = 63  # the longest valid name; a key that was written by hand may be longer


class Table:
    """Left-aligned columns, three spaces apart. Later rows stay aligned with earlier ones."""

    def __init__(self, columns: Sequence[str]) -> None:
        self._rows: list[Sequence[object]] = [columns]  # not yet printed
        self._widths = [0] * len(columns)

    def print(self, rows: Iterable[Sequence[object]]) -> None:
        """Print the rows; before the first ones, the names of the columns."""
        cells = [[_cell(value) for value in row] for row in (*self._rows, *rows)]
        self._rows = []
        self._widths = [max([width, *(len(row[i]) for row in cells)]) for i, width in enumerate(self._widths)]
        for row in cells:
            say("   ".join(text.ljust(width) for text, width in zip(row, self._widths, strict=True)).rstrip())
        sys.stdout.flush()


def _cell(value: object) -> str:
    text = str(value) if value not in (None, "") else "-"
    # a control character would break the table
    return text if text.isprintable() else "".join(c if c.isprintable() else " " for c in text)


def state_text(view: TaskView) -> str | None:
    """A task's state, and what is special about it; None if it cannot be read."""
    status = view.status
    more = (
        " (lost)"
        if view.lost
        else " (stopping)"
        if status and status.stopping
        else " (on hold)"
        if view.on_hold
        else ""
    )
    return f"{view.state}{more}" if more else view.state


def reason_text(view: TaskView | NodeView) -> str:
    """Why a task is in its state, in one word, or by how many others it waits for; how far an array is."""
    reason = f"Waits for {view.waits_for}" if view.reason == WAITS_FOR_TASKS else view.reason
    progress = view.progress if isinstance(view, TaskView) else None
    if progress is None:
        return reason
    is_starting = isinstance(view, TaskView) and view.state is State.PENDING and is_gang(view.spec)
    told = f"{progress.running}/{progress.size} running" if is_starting else progress_text(progress)
    return ", ".join(filter(None, (reason, told)))


def progress_text(progress: ArrayProgress) -> str:
    """How many members have ended, of all, and how many of these did not succeed: `12/100, 3 failed`.

    And how many of them are all that is under way, in back-off: the array is Running, though none runs.
    """
    ends = ((progress.failed, "failed"), (progress.cancelled, "cancelled"))
    told = [f"{progress.ended}/{progress.size}", *(f"{n} {word}" for n, word in ends if n)]
    if progress.retrying and not progress.running + progress.pending:
        one = progress.retrying == 1
        told.append(f"{progress.retrying} {'waits for its' if one else 'wait for their'} next attempt")
    return ", ".join(told)


def member_rows(
    views: list[MemberView], now: float, columns: tuple[str, ...]
) -> Iterator[tuple[object, ...]]:
    """The members' values for these columns."""
    for view in views:
        age = span(now - view.started_at) if view.started_at else ""
        more = view.state, view.attempts, view.exit_code, view.reason, view.node, age
        row = dict(
            zip(
                (*MEMBER_COLUMNS[:2], "ROLE", *MEMBER_COLUMNS[2:]),
                (view.index, view.name, view.role, *more),
                strict=True,
            )
        )
        yield tuple(row[column] for column in columns)


def member_columns(views: list[MemberView], *, are_all: bool) -> tuple[str, ...]:
    """The columns of a table that begins with these members: with ROLE if they have roles.

    NODE and AGE are known of members under way. They are left out if these are all, and none of them is.
    """
    known = any(view.node or view.started_at for view in views) or not are_all
    role = ["ROLE"] if views[0].role else []
    return (*MEMBER_COLUMNS[:2], *role, *(MEMBER_COLUMNS[2:] if known else MEMBER_COLUMNS[2:-2]))


def task_row(view: TaskView, now: float, *, wide: bool) -> tuple[object, ...]:
    """A task's row."""
    status, spec, state = view.status, view.spec, state_text(view)
    reason = UNREADABLE if view.problem and not view.status else reason_text(view)
    age = span(now - view.submitted_at) if view.submitted_at else ""
    name = _cut(view.id, NAME_WIDTH)
    if not wide:
        return name, state, view.pool, view.attempt, reason, age
    resources = amounts((spec.resources if spec else Vector()).format())
    short = _cut(view.problem or view.message, MESSAGE_WIDTH)
    exit_code = status.exit_code if status is not None else None
    node = status.node if status is not None else ""
    return (
        name,
        state,
        view.pool,
        _cut(view.owner, NAME_WIDTH),
        view.attempt,
        reason,
        view.priority,
        resources,
        node,
        exit_code,
        short,
        age,
    )


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"


def pool_rows(view: PoolView) -> list[tuple[object, ...]]:
    """A pool's rows, one for each resource."""
    notes = [view.problem] if view.problem else [] if view.definition else ["not defined"]
    if view.definition is not None and view.definition.paused:
        notes.append("paused")
    if view.definition is not None and (window := window_note(view.definition.maintenance, time.time())):
        notes.append(window)
    rows: list[tuple[object, ...]] = []
    for name in view.resources:
        amounts = [
            format_quantity(name, vector.get(name)) for vector in (view.capacity, view.held, view.free)
        ]
        note = ", ".join([*notes, *(["overcommitted"] if name in view.overcommitted else [])])
        rows.append((view.name, view.definition.policy if view.definition else "", name, *amounts, note))
    return rows or [
        (view.name, view.definition.policy if view.definition else "", "", "", "", "", ", ".join(notes))
    ]


def rule_text(rule: NotifyRule) -> str:
    """Whom a rule of a pool tells about what."""
    labels = "".join(f", {name}={value}" for name, value in rule.labels.items())
    return f"{shown_receiver(rule.url)} ({', '.join(rule.on)}{labels})"


def owner_row(view: OwnerView, *, wide: bool) -> tuple[object, ...]:
    """An owner's row."""
    resources = [amounts(each) for each in (view.held.format(), view.guarantee.format(), view.limit)]
    row = (
        view.pool,
        view.owner,
        f"{view.weight:g}",
        *resources,
        share_text(view.share),
        view.running,
        view.waiting,
        view.on_hold,
    )
    return (*row, view.max_running, view.max_queued, view.problem) if wide else row


def amounts(texts: Mapping[str, str]) -> str:
    """Quantities by resource, in one cell."""
    return ",".join(f"{name}={text}" for name, text in texts.items())


def replica_row(view: ReplicaView, now: float, *, wide: bool) -> tuple[object, ...]:
    """A replica's row."""
    age = span(now - view.started_at) if view.started_at else ""
    engine = view.engine.get("name", "")
    role = f"{view.role} (no candidate)" if view.engine_problem else view.role
    heard, freshness = view.age_seconds(now), view.freshness(now)
    note = "" if freshness is Freshness.FRESH else f", {freshness}"
    when = f"{span(heard)} ago{note}" if heard is not None else ""
    if not wide:
        return view.id, role, engine, view.status_url, view.pid, when, age
    return (
        view.id,
        role,
        engine,
        view.status_url,
        view.host,
        view.pid,
        view.version,
        view.applied_revision,
        view.instance,
        when,
        age,
    )


def gateway_row(view: GatewayView, now: float, *, wide: bool) -> tuple[object, ...]:
    """A gateway's row."""
    age = span(now - view.started_at) if view.started_at else ""
    ready, problems = "yes" if view.ready else "no", ", ".join(view.problems) or "-"
    if not wide:
        return view.id, ready, view.url, view.pid, age, problems
    told = view.host, view.pid, view.version, view.applied_revision, view.instance
    return view.id, ready, view.url, *told, age, problems


def print_document(value: Any, form: str) -> None:
    """Print a value of builtins as JSON or YAML, with their own escapes if stdout is not UTF-8."""
    only_ascii = codecs.lookup(sys.stdout.encoding).name != "utf-8"
    if form == "json":
        text = json.dumps(value, indent=2, ensure_ascii=only_ascii)
        say_lines(
            text
            if text.isprintable()
            else "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)
        )
    else:
        from controller.cli.yaml12 import write_yaml

        say_lines(write_yaml(value, only_ascii=only_ascii))


def fields(fields: Mapping[str, object]) -> None:
    """Print the fields that are not empty, aligned."""
    shown = {name: value for name, value in fields.items() if value not in (None, "")}
    width = max(len(name) for name in shown) + 1
    for name, value in shown.items():
        say(f"{name + ':':<{width}} {value}")


def indented(value: Any) -> None:
    """Print a value of builtins as YAML, indented."""
    from controller.cli.yaml12 import write_yaml

    say_lines("".join(f"  {line}\n" for line in write_yaml(value).split("\n")[:-1]))


def check_form(form: str, known: Sequence[str]) -> str:
    """The given `-o`, if this command supports it. Raises BadParameter."""
    if form not in ("", *known):
        raise typer.BadParameter(f"-o {form} is not supported here: use one of {', '.join(known)}")
    return form
