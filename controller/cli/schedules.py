"""What commands print of schedules, and how they apply one."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from typing import Any

from controller.cli import output as out
from controller.cli.names import OF_SCHEDULE
from controller.cli.session import Session
from controller.client import NotFound
from controller.client.views import ApplyResult
from controller.core.model.codec import to_builtins
from controller.core.model.cron import ticks_after
from controller.core.model.scalars import shown
from controller.core.model.schedules import parse_schedule
from controller.errors import InvalidField, TallyError
from controller.terminal import say
from controller.views.explain import span
from controller.views.schedules import (
    UPCOMING,
    ScheduleView,
    outcome_text,
    tick_time,
)

SCHEDULE_COLUMNS = ("NAME", "CRON", "TIMEZONE", "SUSPENDED", "NEXT", "LAST", "LIVE", "AGE")
WIDE_SCHEDULE_COLUMNS = (
    *SCHEDULE_COLUMNS,
    "POOL",
    "OWNER",
    "CONCURRENCY",
    "CATCH-UP",
    "MADE",
    "SKIPPED",
    "NAME-TAKEN",
)


def is_schedule(document: object) -> bool:
    """Whether a document says that it is one, and not a pool. Raises InvalidField if it says neither."""
    if not isinstance(document, Mapping):
        return False
    kind = document.get("kind")
    if kind is None:
        if "cron" in document:
            raise InvalidField("kind", "is missing: a document with `cron` needs `kind: Schedule`")
        return False
    if str(kind).lower() != "schedule":
        raise InvalidField("kind", f"is {shown(kind)}, expected Schedule; a pool has no kind")
    return True


@contextmanager
def hinting_at_schedule(session: Session, name: str, hint: str = OF_SCHEDULE) -> Iterator[None]:
    """If nothing of that name is found, and there is a schedule of that name, the error also has the hint."""
    try:
        yield
    except NotFound as error:
        try:
            session.client.schedules.get(name)
        except TallyError:
            raise error from None
        raise NotFound(f"{error}. {hint.format(name=name)}") from None


def apply_schedule(session: Session, document: Any, *, dry_run: bool) -> ApplyResult | None:
    """Apply it; with `dry_run` only check it, print its next ticks, and return None. Raises UserError."""
    result = session.client.schedules.apply(document, dry_run=dry_run)
    if not dry_run:
        return result
    schedule = parse_schedule(document)
    say(f"schedule/{schedule.name} is valid (dry run); its next ticks:")
    for tick in islice(ticks_after(schedule.cron, schedule.timezone, int(time.time())), UPCOMING):
        say(f"  {tick_time(tick)}")
    return None


def print_schedules(views: list[ScheduleView], output: str, *, alone: bool) -> None:
    """Print them in the form that `-o` names."""
    if output == "name":
        for view in views:
            say(f"schedule/{view.name}")
    elif output in ("json", "yaml"):
        items = [to_builtins(view) for view in views]
        out.print_document(items[0] if alone else {"items": items}, output)
    elif views:
        wide, now = output == "wide", time.time()
        out.Table(WIDE_SCHEDULE_COLUMNS if wide else SCHEDULE_COLUMNS).print(
            _row(view, now, wide=wide) for view in views
        )
        for view in views:
            if view.problem:
                say(f"{view.name} makes nothing: it cannot be read ({view.problem})", err=True)
    else:
        say("No schedules found. Create one: tally apply -f schedule.yaml", err=True)


def _row(view: ScheduleView, now: float, *, wide: bool) -> tuple[object, ...]:
    last = f"{outcome_text(view.last)}" if view.last is not None else ""
    row = (
        view.name,
        view.says("cron"),
        view.says("timezone"),
        "yes" if view.suspended else "no",
        "cannot be read" if view.problem else tick_time(view.upcoming[0]) if view.upcoming else "",
        last,
        len(view.live),
        span(now - view.since) if view.since is not None else "",
    )
    if not wide:
        return row
    counts = view.counts
    made = counts.get("made", 0) + counts.get("replaced", 0)
    return (
        *row,
        view.pool,
        view.owner,
        view.says("concurrency"),
        view.says("catch_up"),
        made,
        counts.get("skipped", 0),
        counts.get("name-taken", 0),
    )


def outcome_rows(view: ScheduleView) -> Iterator[tuple[object, ...]]:
    """The last outcomes, newest first."""
    for outcome in reversed(view.recent):
        times = f"{outcome.count}{'+' if outcome.more else ''}"
        yield f"  {tick_time(outcome.tick)}", outcome.result.value, times, outcome.task, outcome.why
