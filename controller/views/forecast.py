"""What is to come, as users are told: times, what they rest on, and how far off such times have been."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from msgspec import Struct

from controller.core.forecast.ahead import Coming, Forecast
from controller.core.forecast.course import Point
from controller.core.forecast.durations import NAME_LABEL, Basis, Error
from controller.core.model.printable import counted
from controller.core.model.records import PoolRecord
from controller.core.model.resources import ZERO, Vector
from controller.core.model.task import Pool
from controller.views.words import at, listed, span

_OF_ITS = {
    Basis.ARRAY: "of its array",
    Basis.NAME: f"of its owner's of the same {NAME_LABEL}",
    Basis.COMMAND: "of the same command",
    Basis.POOL: "of its pool",
}


class ComingView(Struct, frozen=True, kw_only=True):
    """When a task is expected to begin and to end, in seconds since the epoch; None: not within the forecast.

    `has_begun`: it has begun already. `before`: how many attempts are expected to end before it begins, by
    what their durations rest on. `by`: what its own duration rests on, "" for nothing, and `runs`: how many
    runs of its kind that is.
    """

    id: str
    pool: str
    has_begun: bool
    begins_at: float | None = None
    ends_at: float | None = None
    before: dict[str, int] = {}
    by: str = ""
    runs: int = 0


class CourseView(Struct, frozen=True, kw_only=True):
    """What a pool is expected to hold from each time of `at` on, in seconds since the epoch.

    `running` is of attempts that have begun before the forecast, `planned` of those that begin in it: by
    resource, an amount in units (milli-cpu, bytes, counts) for each time. `waiting`: tasks in its queue then.
    `guaranteed`: of its capacity, what is guaranteed to owners.
    """

    at: list[float]
    running: dict[str, list[int]]
    planned: dict[str, list[int]]
    waiting: list[int]
    capacity: dict[str, int]
    guaranteed: dict[str, int] = {}


class ErrorView(Struct, frozen=True, kw_only=True):
    """By how much what was expected was wrong, as a share of what came; `of`: so many were judged."""

    median: float
    p90: float
    of: int


class ForecastView(Struct, frozen=True, kw_only=True):
    """A look ahead from the time `now` to `until`, from the store at `revision`.

    `endless`: the tasks that run, and of which nothing tells how long they take, by their pools. `error`
    None: it is not known how far off expectations are. `is_whole`: the look went on to its horizon; else it
    ended at `until`, since it had what was asked for, or took too long. `starts`: how far off beginnings were
    that were told before; None: not known. `computed_seconds`: what the look took.
    """

    revision: int
    now: float
    until: float
    is_whole: bool
    tasks: dict[str, ComingView]
    endless: dict[str, list[str]] = {}
    error: ErrorView | None = None
    starts: ErrorView | None = None
    computed_seconds: float = 0.0
    pools: dict[str, CourseView] = {}


def forecast_view(
    forecast: Forecast,
    error: Error | None,
    pools: Mapping[str, PoolRecord],
    names: Mapping[str, object] | None = None,
) -> ForecastView:
    """The forecast of these tasks; None: of all. `pools` as they are in it."""
    chosen = forecast.tasks if names is None else {n: forecast.tasks[n] for n in names if n in forecast.tasks}
    endless = dict[str, list[str]]()
    for task_id, pool in forecast.endless.items():
        endless.setdefault(pool, []).append(task_id)
    return ForecastView(
        revision=forecast.revision,
        now=forecast.now,
        until=forecast.until,
        is_whole=forecast.is_whole,
        tasks={name: _coming(name, coming) for name, coming in chosen.items()},
        endless=endless,
        error=error_view(error),
        pools={name: _course(points, pools[name].pool) for name, points in forecast.pools.items()},
    )


def error_view(error: Error | None) -> ErrorView | None:
    """As it is told."""
    return ErrorView(median=error.median, p90=error.p90, of=error.of) if error is not None else None


def _course(points: Sequence[Point], pool: Pool) -> CourseView:
    guaranteed = pool.sharing.guaranteed if pool.sharing is not None else ZERO
    names = dict.fromkeys(name for vector in (pool.capacity, *_vectors(points)) for name in vector)
    return CourseView(
        at=[point.at for point in points],
        running={name: [point.running.get(name) for point in points] for name in names},
        planned={name: [point.planned.get(name) for point in points] for name in names},
        waiting=[point.waiting for point in points],
        capacity=dict(pool.capacity.items()),
        guaranteed={name: min(amount, pool.capacity.get(name)) for name, amount in guaranteed.items()},
    )


def _vectors(points: Sequence[Point]) -> Iterator[Vector]:
    for point in points:
        yield from (point.running, point.planned)


def _coming(name: str, coming: Coming) -> ComingView:
    return ComingView(
        id=name,
        pool=coming.pool,
        has_begun=coming.has_begun,
        begins_at=coming.begins_at,
        ends_at=coming.ends_at,
        before={basis.value: number for basis, number in coming.rests_on.items()},
        by=coming.by.value if coming.by is not None else "",
        runs=coming.runs,
    )


def explain_coming(view: ForecastView, task_id: str) -> str:
    """When the task is expected to begin and to end, and what that rests on, in a few sentences."""
    coming = view.tasks.get(task_id)
    if coming is None:
        return f"Nothing is to come of {task_id}: it neither waits nor runs."
    parts = []
    if not coming.has_begun:
        parts.append(_begins(view, coming))
    parts.append(_ends(view, coming))
    if coming.before and not coming.has_begun:
        number = sum(coming.before.values())
        by = ", ".join(f"{count:,} by {basis}" for basis, count in coming.before.items())
        parts.append(
            f"Before it begins, {counted(number, 'attempt')} {'is' if number == 1 else 'are'} to end: {by}."
        )
    if view.error is not None and any(each.runs for each in view.tasks.values()):
        parts.append(
            f"Durations were off by {view.error.median:.0%} (median; {view.error.p90:.0%} in one of ten), of"
            f" {counted(view.error.of, 'run')}."
        )
    else:
        parts.append("How far off such times are is not known yet.")
    return " ".join(part for part in parts if part)


def _begins(view: ForecastView, coming: ComingView) -> str:
    name = coming.id
    if coming.begins_at is not None:
        return (
            f"{name} is expected to begin at {at(coming.begins_at)}, in {span(coming.begins_at - view.now)}."
        )
    endless = view.endless.get(coming.pool, [])
    if endless:
        return (
            f"When {name} begins is not known: nothing tells how long {listed(endless)} of pool {coming.pool}"
            f" will run. A run deadline, or the label {NAME_LABEL} on tasks of one kind, would."
        )
    if not view.is_whole:
        return f"{name} is not expected to begin before {at(view.until)}; no further was looked ahead."
    return f"As things stand, {name} does not begin before {at(view.until)}."


def _ends(view: ForecastView, coming: ComingView) -> str:
    if not coming.by:
        return (
            f"Nothing tells how long {coming.id} runs: none of its kind has succeeded, and it has no run"
            " deadline."
        )
    if coming.ends_at is None:
        return ""
    rests = (
        "by its run deadline at the latest"
        if coming.by == Basis.DEADLINE
        else f"as {counted(coming.runs, 'run')} {_OF_ITS[Basis(coming.by)]} did"
    )
    return f"It is expected to end at {at(coming.ends_at)}, in {span(coming.ends_at - view.now)}, {rests}."
