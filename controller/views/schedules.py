"""The facts of schedules: what is due next, what became of their last ticks, and what waits."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from itertools import islice
from typing import Any

from msgspec import Struct

from controller.core.model.cron import ticks_after
from controller.core.model.lifecycle import FINISHED
from controller.core.model.model import Model
from controller.core.model.printable import counted
from controller.core.model.records import is_listed
from controller.core.model.schedule_records import may_have_made
from controller.core.model.schedules import (
    KIND,
    MAX_LIVE,
    STATES,
    Concurrency,
    Schedule,
    TickOutcome,
    bare_task,
    fields_of,
    task_id_of,
)
from controller.core.model.task import Spec
from controller.views.tasks import UNREADABLE, state_of

UPCOMING = 5
AHEAD_SECONDS = 60
MAX_SHOWN = 50


class ScheduleView(Struct, frozen=True, kw_only=True):
    """A schedule as it stands. Times are seconds since the Unix epoch.

    `definition` is as `tally apply` takes it; None if it cannot be read, and `problem` then says why.
    `upcoming` are the next ticks, none while it is suspended, or its state cannot be read. `live` are its
    tasks of its ticks that have not ended, and `waiting` is the tick that waits for their end; 0 for none.
    `outlook` says, if it is asked for, what keeps the next tick from making a task that can run, as things
    stand; "" for nothing. `recent` are the last outcomes, oldest first, and `counts` all ticks by result,
    since `since`, when the leader first saw the schedule.
    """

    name: str
    definition: dict[str, Any] | None = None
    problem: str = ""
    owner: str = ""
    pool: str = ""
    attested_by: str = ""
    suspended: bool = False
    upcoming: tuple[int, ...] = ()
    waiting: int = 0
    live: tuple[str, ...] = ()
    outlook: str = ""
    recent: tuple[TickOutcome, ...] = ()
    counts: dict[str, int] = {}
    cursor: int = 0
    since: float | None = None
    create_revision: int = 0

    def says(self, field: str) -> str:
        """A field of its definition, as text; "" if it cannot be read."""
        return str(self.definition.get(field, "")) if self.definition is not None else ""

    @property
    def last(self) -> TickOutcome | None:
        """The last outcome."""
        return self.recent[-1] if self.recent else None


def schedule_names(model: Model) -> list[str]:
    """Those that have a record, readable or not, sorted."""
    unreadable = (names[0] for kind, names in model.quarantine if kind in (KIND, STATES))
    return sorted({*model.schedules.defined, *model.schedules.states, *unreadable})


def plain_task(schedule: Schedule) -> dict[str, Any]:
    """The definition, with the values of its environment."""
    return fields_of(schedule)


def masked_task(mask: Callable[[Spec], dict[str, Any]]) -> Callable[[Schedule], dict[str, Any]]:
    """The definition, with its task as `mask` shows it."""

    def shown(schedule: Schedule) -> dict[str, Any]:
        return {**fields_of(schedule), "task": bare_task(mask(schedule.task))}

    return shown


def schedule_view(
    model: Model,
    name: str,
    now: float,
    shown: Callable[[Schedule], dict[str, Any]] = plain_task,
    *,
    upcoming: int = UPCOMING,
    foresee: bool = False,
    tasks: Model | None = None,
) -> ScheduleView | None:
    """One schedule, with so many of its next ticks; None if there is none.

    `shown`: its definition, as whoever asks may see it. `foresee`: with its outlook; the model then has its
    pool. `tasks` has the tasks that its state names as live; None: so has the model.
    """
    records = model.schedules
    record, state = records.defined.get(name), records.states.get(name)
    problems = [f"{kind}: {why}" for kind in (KIND, STATES) if (why := model.quarantine.get((kind, (name,))))]
    if record is None and state is None and not problems:
        return None
    facts: dict[str, Any] = {"name": name, "problem": "; ".join(problems)}
    if state is not None:
        facts |= {
            "waiting": state.waiting,
            "live": live_tasks(tasks or model, name, state.live),
            "recent": state.recent,
            "counts": {result.value: count for result, count in sorted(state.counts.items())},
            "cursor": state.cursor,
            "since": state.since,
        }
    if record is not None:
        schedule, word = record.schedule, records.attestation_of(record)
        after = max(state.cursor if state is not None else 0, int(now))
        ticks = () if schedule.suspended or problems else ticks_after(schedule.cron, schedule.timezone, after)
        facts |= {
            "definition": {"kind": "Schedule", **shown(schedule)},
            "owner": schedule.task.owner,
            "pool": schedule.task.pool,
            "attested_by": word.by if word is not None else "",
            "suspended": schedule.suspended,
            "upcoming": tuple(islice(ticks, upcoming)),
            "create_revision": record.create,
        }
        if foresee and facts["upcoming"]:
            facts["outlook"] = _outlook(model, schedule)
    return ScheduleView(**facts)


def live_tasks(model: Model, schedule: str, names: Iterable[str]) -> tuple[str, ...]:
    """Of these tasks, those that there are, that the schedule may have made, and that have not ended."""
    found = ((name, model.tasks.get(name)) for name in names)
    return tuple(
        name
        for name, task in found
        if task and is_listed(task) and may_have_made(schedule, task) and state_of(task) not in FINISHED
    )


def named_live(model: Model) -> list[str]:
    """The tasks that the states of schedules name as live; some may have ended since."""
    return [name for state in model.schedules.states.values() for name in state.live]


def foreseen_by(model: Model, name: str) -> tuple[str, ...]:
    """The tasks on which the outlook of a schedule rests."""
    record, state = model.schedules.defined.get(name), model.schedules.states.get(name)
    if record is None or state is None:
        return ()
    overlaps = record.schedule.concurrency is Concurrency.ALLOW and len(state.live) < MAX_LIVE
    return state.live if not overlaps else ()


def _outlook(model: Model, schedule: Schedule) -> str:
    """As `Ticks` will decide, if nothing changes until then."""
    listed = live_tasks(model, schedule.name, foreseen_by(model, schedule.name))
    live = [model.tasks[task_id] for task_id in listed]
    pool = schedule.task.pool
    told = [f"its pool {pool!r} is not defined"] if pool not in model.pools else []
    if live:
        first = live[0]
        state = state_of(first) or UNREADABLE
        more = f" and {counted(len(live) - 1, 'other')}" if live[1:] else ""
        until = f"{first.id} ({state}){more}"
        if schedule.concurrency is Concurrency.REPLACE:
            told.append(f"it waits until {until} has stopped, which it replaces")
        elif schedule.concurrency is Concurrency.FORBID:
            told.append(f"it is skipped unless {until} has ended by then: see `tally explain {first.id}`")
        elif len(live) >= MAX_LIVE:
            told.append(f"it is skipped while {len(live)} of its tasks have not ended")
    return "; ".join(told)


def schedule_views(model: Model, now: float, tasks: Model) -> list[ScheduleView]:
    """All schedules, sorted by name; `tasks` has the tasks that their states name as live."""
    views = (schedule_view(model, name, now, tasks=tasks) for name in schedule_names(model))
    return [view for view in views if view is not None]


class ScheduleSummary(Struct, frozen=True, kw_only=True):
    """A schedule as the live page shows it. Times are seconds since the Unix epoch; 0: never."""

    name: str
    cron: str
    timezone: str
    suspended: bool
    next: int
    waiting: int
    live: int
    last: str  # what became of its last tick, in words
    last_tick: int
    problem: str


def schedule_summaries(model: Model, now: float) -> list[ScheduleSummary]:
    """The first MAX_SHOWN of them, by name."""
    found = []
    for name in schedule_names(model)[:MAX_SHOWN]:
        view = schedule_view(model, name, now, upcoming=1)
        if view is not None:
            found.append(
                ScheduleSummary(
                    name=name,
                    cron=view.says("cron"),
                    timezone=view.says("timezone"),
                    suspended=view.suspended,
                    next=view.upcoming[0] if view.upcoming else 0,
                    waiting=view.waiting,
                    live=len(view.live),
                    last=outcome_text(view.last) if view.last is not None else "",
                    last_tick=view.last.tick if view.last is not None else 0,
                    problem=view.problem,
                )
            )
    return found


def explain_schedule(view: ScheduleView, now: float) -> str:
    """One sentence: what it will make next, or why it makes nothing."""
    if view.problem:
        return f"{view.name} makes nothing: it cannot be read ({view.problem})"
    if view.definition is None:
        return f"{view.name} was deleted, and a leader has yet to remove its state"
    if view.suspended:
        return f"{view.name} makes nothing: it is suspended, until `tally resume schedule/{view.name}`"
    if view.waiting and not view.live:
        return f"{view.name} makes the tick of {tick_time(view.waiting)} in the leader's next pass"
    if view.waiting:
        waits = f"the tick of {tick_time(view.waiting)} waits until {', '.join(view.live[:3])}"
        more = f" and {len(view.live) - 3} others have" if len(view.live) > 3 else " has"
        return f"{view.name}: {waits}{more} stopped, which it replaces"
    if not view.upcoming:
        return f"{view.name} makes nothing more: its expression does not come true again"
    tick = view.upcoming[0]
    seconds = max(0, round(tick - now))
    ahead = round(view.cursor - now)
    then = f"; all before is decided, by a clock that was {ahead} s ahead" if ahead > AHEAD_SECONDS else ""
    when = f"at {tick_time(tick)}, in {seconds} s"
    if view.outlook:
        return f"{view.name}: the next tick is {when}, and as things stand: {view.outlook}{then}"
    return f"{view.name} makes {task_id_of(view.name, tick)} {when}{then}"


def tick_time(tick: int) -> str:
    """The time of a tick, by UTC."""
    return f"{datetime.fromtimestamp(tick, UTC):%Y-%m-%d %H:%M} UTC"


def outcome_text(outcome: TickOutcome) -> str:
    """What became of a tick, or of several, in words."""
    times = f" ×{outcome.count}{' or more' if outcome.more else ''}" if outcome.count > 1 else ""
    why = f": {outcome.why}" if outcome.why else ""
    return f"{outcome.result.value}{times}{why}{f' {outcome.task}' if outcome.task else ''}"
