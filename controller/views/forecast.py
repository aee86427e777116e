"""What is to come, as users are told: times, what they rest on, and how far off such times have been."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from msgspec import Struct
from msgspec.structs import replace

from controller.core.forecast.ahead import Coming, Forecast
from controller.core.forecast.course import PoolPoint
from controller.core.forecast.durations import Durations, Error
from controller.core.model.arrays import MemberName
from controller.core.model.maintenance import MaintenanceWindow, not_passed
from controller.core.model.records import PoolRecord
from controller.core.model.resources import ZERO, Vector
from controller.core.model.task import DEFAULT_OWNER, Pool


class ComingView(Struct, frozen=True, kw_only=True):
    """When a task is expected to begin and to end, in seconds since the epoch; None: not within the forecast.

    `has_begun`: it has begun already; of an array, it may not be known when. `before`: how many attempts are
    expected to end before it begins, by what their durations rest on. `by`: what its own duration rests on,
    "" for nothing, and `runs`: how many runs of its kind that is. `ends_as`: the state in which it ends; ""
    if it does not. `kept`: what keeps it, or members of it, from beginning at the end of the forecast:
    `hold`, `tasks`, `pool` or `size`; "" if it is its turn. `after`: the first tasks that it waits for, of
    `waits_for`. `left`: members of an array that are to begin, the last one at `last_at`. `why`: where that
    was asked for, why it has not begun at the end of the forecast. `is_new`: a run of a schedule, which is
    not stored yet.
    """

    id: str
    pool: str
    has_begun: bool
    begins_at: float | None = None
    ends_at: float | None = None
    before: dict[str, int] = {}
    by: str = ""
    runs: int = 0
    owner: str = DEFAULT_OWNER
    ends_as: str = ""
    kept: str = ""
    after: list[str] = []
    waits_for: int = 0
    left: int = 0
    last_at: float | None = None
    why: str = ""
    is_new: bool = False


class CourseView(Struct, frozen=True, kw_only=True):
    """What a pool is expected to hold from each time of `at` on, in seconds since the epoch.

    `running` is of attempts that have begun before the forecast, `planned` of those that begin in it: by
    resource, an amount in units (milli-cpu, bytes, counts) for each time. `waiting`: tasks in its queue then.
    `guaranteed`: of its capacity, what is guaranteed to owners. `maintenance`: its windows that have not
    passed; who has set them is left out.
    """

    at: list[float]
    running: dict[str, list[int]]
    planned: dict[str, list[int]]
    waiting: list[int]
    capacity: dict[str, int]
    guaranteed: dict[str, int] = {}
    maintenance: list[MaintenanceWindow] = []


class ErrorView(Struct, frozen=True, kw_only=True):
    """By how much what was expected was wrong, as a share of what came.

    `of`: how many were judged; 0: that is not told.
    """

    median: float
    p90: float
    of: int


class ForecastView(Struct, frozen=True, kw_only=True):
    """A look ahead from the time `now` to `until`, from the store at `revision`.

    `endless`: the tasks that run, and of which nothing tells how long they take, by their pools. `error`
    None: it is not known how far off expectations are. `errors`: the same by what they rested on. `is_whole`:
    the look went on to its horizon; else it ended at `until`, since it had what was asked for, or took too
    long. `starts`: how far off beginnings were that were told before; None: not known. `computed_seconds`:
    what the look took.
    """

    revision: int
    now: float
    until: float
    is_whole: bool
    tasks: dict[str, ComingView]
    endless: dict[str, list[str]] = {}
    error: ErrorView | None = None
    errors: dict[str, ErrorView] = {}
    starts: ErrorView | None = None
    computed_seconds: float = 0.0
    pools: dict[str, CourseView] = {}

    def told_as(self, name: str) -> str:
        """By which name the task is told: a member that has not begun by its array's; "" if it is not."""
        if name in self.tasks:
            return name
        member = MemberName.parse(name)
        return member.array if member is not None and member.array in self.tasks else ""


def forecast_view(
    forecast: Forecast,
    durations: Durations,
    pools: Mapping[str, PoolRecord],
    names: Mapping[str, object] | None = None,
) -> ForecastView:
    """The forecast of these tasks; None: of all. `pools` and `durations` are those that it used."""
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
        error=error_view(durations.error),
        errors={str(basis): _view(each) for basis, each in durations.errors().items()},
        pools={name: _course(each, pools[name].pool, forecast.now) for name, each in forecast.pools.items()},
    )


def error_view(error: Error | None) -> ErrorView | None:
    """As it is told."""
    return _view(error) if error is not None else None


def _view(error: Error) -> ErrorView:
    return ErrorView(median=error.median, p90=error.p90, of=error.of)


def _course(points: Sequence[PoolPoint], pool: Pool, now: float) -> CourseView:
    guaranteed = pool.sharing.guaranteed if pool.sharing is not None else ZERO
    names = dict.fromkeys(name for vector in (pool.capacity, *_vectors(points)) for name in vector)
    return CourseView(
        at=[point.at for point in points],
        running={name: [point.running.get(name) for point in points] for name in names},
        planned={name: [point.planned.get(name) for point in points] for name in names},
        waiting=[point.waiting for point in points],
        capacity=dict(pool.capacity.items()),
        guaranteed={name: min(amount, pool.capacity.get(name)) for name, amount in guaranteed.items()},
        maintenance=[replace(window, by="") for window in not_passed(pool.maintenance, now)],
    )


def _vectors(points: Sequence[PoolPoint]) -> Iterator[Vector]:
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
        owner=coming.owner,
        ends_as=coming.ends_as or "",
        kept=coming.kept or "",
        after=[*coming.after],
        waits_for=coming.waits_for,
        left=coming.left,
        last_at=coming.last_at,
        is_new=coming.is_new,
    )
