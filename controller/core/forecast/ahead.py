"""The planner run ahead: when what waits will begin, if all that runs takes as long as is expected.

It is the planner that admits, on a model of its own, with an engine that runs nothing: an attempt ends once
its expected duration has passed, and well. What nobody knows ahead is left out, such as submissions.
An attempt of which nothing tells how long it takes runs on to the end of the forecast.

Ends that are near to each other, as seen from now, are taken together: those within 0.5 % of the time ahead,
and within a tenth of a second.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from itertools import islice
from statistics import fmean
from typing import NamedTuple

from controller.core.forecast.course import PoolCourse, PoolPoint
from controller.core.forecast.durations import Basis, Durations, Expected
from controller.core.forecast.pretended_engine import PretendedEngine
from controller.core.model.array import has_run
from controller.core.model.arrays import MemberName
from controller.core.model.lifecycle import FINISHED, WAITING, State
from controller.core.model.model import Model
from controller.core.model.records import Task
from controller.core.model.task import DEFAULT_OWNER, AttemptId, Observation, Phase
from controller.core.planning.draft import Limits
from controller.core.planning.events import EngineEvent, Found, Listed, LogKept, Observed, Started, StopSent
from controller.core.planning.plan import Effect, KeepLog, Plan, Prove, Start, Stop, Term
from controller.core.planning.planner import Planner

HORIZON_SECONDS = 7 * 86400.0
_LIMITS = Limits(10_000, 10**9, writes=False)  # between two plans, it is asked whether there is time
_STOP_SECONDS = 1.0  # until an attempt that is told to stop has ended, or its grace, if that is shorter
NEAR = 0.1, 0.005  # seconds, and share of the time ahead
_NEVER = float("inf")
_NOT: tuple[float | None, Mapping[Basis, int]] = None, {}
_MANY = 1_000  # changes of a plan, after which it is asked whether there is time left
RUNS = 1_000  # of schedules, that are looked at after all that there was has ended
_SOME = 100  # of them, after which it is looked again whether that is so
NAMED = 3  # of the tasks that a task waits for, those that are named


class Kept(StrEnum):
    """What keeps a task at the end of a forecast that has not begun until then, whatever ends."""

    HOLD = "hold"  # it is on hold
    TASKS = "tasks"  # those that it waits for have not ended
    POOL = "pool"  # its pool admits nothing
    SIZE = "size"  # it asks for more than its pool has


class Coming(NamedTuple):
    """What is to become of a task. Times are seconds since the epoch; None: not within the forecast.

    `rests_on`: how many attempts are expected to end before it begins, by what their durations rest on.
    `by`: what its own duration rests on, and `runs`: how many runs of its kind that is; None: on nothing.
    `has_begun`: that was before the forecast; of an array, nobody may know when. `ends_as`: the state in
    which it ends. `kept`: what keeps it, or members of it, at the end of the forecast. `after`: the tasks
    that it waits for, by first names; and `waits_for`: how many. `left`: members of an array that have not
    begun before the forecast; `last_at`: when the last one of them does. `owner`: whom it is charged to.
    `is_new`: it is not stored yet: a run of a schedule, which is to be submitted within the forecast.
    """

    pool: str
    has_begun: bool
    begins_at: float | None
    ends_at: float | None
    rests_on: Mapping[Basis, int]
    by: Basis | None
    runs: int
    owner: str = DEFAULT_OWNER
    ends_as: State | None = None
    kept: Kept | None = None
    after: tuple[str, ...] = ()
    waits_for: int = 0
    left: int = 0
    last_at: float | None = None
    is_new: bool = False


class Forecast(NamedTuple):
    """What is to come of a model at `revision`, as seen at `now`, up to the time `until`.

    `tasks` has all that wait or run; of an array, the beginning of the first member that it has not
    forgotten, and its last one's end. Members are among them if they run, or were asked for. `endless`:
    tasks that run and hold resources of their pools, and of which nothing tells how long they take.
    `is_whole`: the look went on to its horizon, for which there may have been no time; or nothing but runs of
    schedules was left, of which it has had many. `pools`: what each is expected to hold over time.
    """

    revision: int
    now: float
    until: float
    is_whole: bool
    tasks: Mapping[str, Coming]
    endless: Mapping[str, str]  # the task, and its pool
    pools: Mapping[str, Sequence[PoolPoint]]


class Ahead:
    """One look ahead. It uses up the model: give it one of its own."""

    def __init__(
        self,
        model: Model,
        durations: Durations,
        now: float,
        epoch: int,
        near: tuple[float, float] = NEAR,
    ) -> None:
        """`near`: ends within so many seconds, or this share of the time ahead, are taken together."""
        self._model = model
        self._durations = durations
        self._near = near
        self._revision = model.revision
        self._begun: dict[str, tuple[float | None, Mapping[Basis, int]]] = {}
        self._ended: dict[str, tuple[float, State]] = {}
        self._expected: dict[str, Expected] = {}  # of tasks that begin within the forecast
        self._last: dict[str, float] = {}  # when a member of this array began last
        self._wanted: frozenset[str] = frozenset()
        self._members: list[str] = []  # wanted ones that have not begun before the forecast
        self._began_at = self._now = now
        self._epoch = epoch
        self._engine = PretendedEngine(durations)
        model.timers.keeps_finished = True
        model.sight(now)
        for task in model.tasks.values():
            if task.state in FINISHED:
                model.timers.schedule(task, None)
            elif task.status is None and task.seen_at is not None:
                # who leads has seen it long ago, and counts its wait from then
                task.seen_at = min(task.seen_at, task.submitted_at)
        # a term of no leader: what it plans is written nowhere
        self._planner = Planner(model, Term(0, epoch, "forecast", "forecast"), _LIMITS)
        self._waiting = {
            name: _Waits.of(task)
            for name, task in model.tasks.items()
            if task.state in WAITING and not task.member_of and task.exists
        }
        self._course = PoolCourse(model, now)
        self._had: frozenset[str] = frozenset()  # what has begun before the forecast
        self._open: set[str] = set()  # what waited or ran, and has not ended
        self._looked_on = 0  # how many have begun when it was looked last what of that is left
        # What is asked for, or supposed, counts before anything is admitted, which waits for a list.
        self._settle(lambda: True)
        self._list()

    def run(
        self,
        *,
        horizon_seconds: float = HORIZON_SECONDS,
        wanted: frozenset[str] = frozenset(),
        goes_on: Callable[[], bool] = lambda: True,
    ) -> Forecast:
        """Look ahead until nothing more happens, `wanted` (if any) have ended, or `goes_on` is false; or
        until all that there was has ended, and RUNS of schedules were looked at since.

        What is wanted and neither runs nor waits, or is on hold, is not looked for.
        """
        self._wanted = wanted
        self._members = [name for name in sorted(wanted) if self._waits_as_member(name)]
        left, until = {name for name in wanted if self._is_to_come(name)}, self._began_at + horizon_seconds
        while True:
            is_settled = self._settle(goes_on)
            left = {name for name in left if name not in self._ended}
            at = min(self._engine.next_end(), self._wake())
            is_over = (wanted and not left) or self._only_schedules_go_on()
            if at > until or is_over or not is_settled or not goes_on():
                self._course.note(self._now, at)
                break
            near = max(self._near[0], self._near[1] * (at - self._began_at))
            ends = self._engine.take_ends(at + near)
            # in their middle: always at the last of them, each generation of tasks would begin later
            now = max(self._now, at, fmean(seen.finished_at or at for seen in ends) if ends else at)
            self._course.note(self._now, now)
            self._now = now
            for seen in ends:
                self._hear(Observed(self._epoch, seen))
        is_whole, endless = is_settled and at > until, dict(self._engine.endless)
        reached = until if is_whole else self._now
        return Forecast(
            self._revision, self._began_at, reached, is_whole, self._coming(), endless, self._course.points
        )

    # -- details

    def _only_schedules_go_on(self) -> bool:
        if len(self._begun) < self._looked_on:
            return False
        if not self._looked_on:
            self._open = {*self._had, *self._waiting}
            self._looked_on = len(self._open) + RUNS
            return False
        self._looked_on = len(self._begun) + _SOME
        self._open -= self._ended.keys()
        return not any(map(self._can_change, self._open))

    def _can_change(self, name: str) -> bool:
        """Whether what has not ended may begin, or end."""
        task = self._task_of(name)
        if task is None or name in self._engine.endless:
            return False
        return task.state not in WAITING or self._kept(task) is None

    def _is_to_come(self, name: str) -> bool:
        """Whether the task runs or waits, and is not on hold."""
        task = self._model.tasks.get(name)
        if task is None:
            return name in self._members
        return task.state not in FINISHED and not (task.on_hold and task.state in WAITING)

    def _waits_as_member(self, name: str) -> bool:
        """Whether it is a member of an array, and has not begun."""
        array, member = self._model.arrays.task_of(name), MemberName.parse(name)
        if array is None or array.array is None or member is None or name in self._model.tasks:
            return False
        return member.index < array.array.size and not array.array.fate(member.index).has_ended

    def _task_of(self, name: str) -> Task | None:
        """The task; of a member that has not begun or has ended, its array."""
        return self._model.tasks.get(name) or self._model.arrays.task_of(name)

    def _list(self) -> None:
        """What the engine has: the attempts that hold something, as their statuses say."""
        running = []
        for task in self._model.holding.values():
            status = task.status
            assert status is not None
            begun_at = status.started_at or self._now
            for name in (task.id, task.member_of):
                if name and begun_at < (self._begun.get(name, _NOT)[0] or _NEVER):
                    self._begun[name] = (begun_at, {})
            if status.reserved:
                continue  # a gang, which has members in place of an attempt
            attempt = AttemptId(task.id, status.attempt)
            self._engine.begin(attempt, task, self._now, status.started_at, self._latest(task))
            phase = Phase.RUNNING if status.started_at is not None else Phase.PENDING
            running.append(
                Observation(
                    attempt=attempt,
                    phase=phase,
                    uid=status.uid,
                    node=status.node,
                    started_at=status.started_at,
                )
            )
        for array in self._model.arrays:  # when its first member began, which has ended, nobody knows
            if array.name in self._waiting and not array.is_gang and has_run(array):
                self._begun.setdefault(array.name, _NOT)
        self._had = frozenset(self._begun)
        self._hear(Listed(self._epoch, running, self._now))

    def _latest(self, task: Task) -> float:
        """When a member has ended at the latest: of a gang, which alone has a run deadline, by that."""
        gang = self._model.tasks.get(task.member_of) if task.member_of else None
        limit = gang.spec.deadlines.run_seconds if gang is not None and gang.spec is not None else None
        if gang is None or limit is None or task.status is None or not task.status.of_gang:
            return _NEVER
        started_at = gang.status.started_at if gang.status is not None else None
        return (started_at if started_at is not None else self._now) + limit

    def _hear(self, event: EngineEvent) -> None:
        self._planner.intake.hear(event, self._now)

    def _wake(self) -> float:
        wake = self._planner.next_wake()
        return wake if wake is not None else _NEVER

    def _settle(self, goes_on: Callable[[], bool]) -> bool:
        """Plan and carry out, until nothing is left to do at this time; False: there was no time for it."""
        while plan := self._planner.plan(self._now):
            self._revision_of(plan)
            for effect in plan.effects:
                self._carry_out(effect)
            if len(plan.changes) > _MANY and not goes_on():
                return False
        return True

    def _revision_of(self, plan: Plan) -> None:
        self._course.before(plan, self._now)
        self._planner.committed(plan, self._model.revision + 1)
        self._course.after(plan)
        self._model.advance_revision(self._model.revision + 1)
        for change in plan.changes:
            status = change.status
            if status is None or not status.is_finished:
                continue
            if not status.array or change.task_id in self._wanted or change.task_id in self._had:
                self._ended.setdefault(change.task_id, (self._now, status.state))

    def _carry_out(self, effect: Effect) -> None:
        now = self._now
        match effect:
            case Start():
                task = self._model.tasks[effect.attempt.task_id]
                array = task.member_of
                if array:  # of a million members, a look keeps what is told of their array
                    self._last[array] = now
                    self._begun.setdefault(array, (now, self._engine.ended(task.pool)))
                if not array or task.id in self._wanted:
                    self._begun.setdefault(task.id, (now, self._engine.ended(task.pool)))
                expected = self._engine.begin(effect.attempt, task, now, latest=self._latest(task))
                if expected is not None and not array:
                    self._expected[task.id] = expected
                limited = task.spec is not None and task.spec.deadlines.start_seconds is not None
                is_seen = limited or (task.status is not None and task.status.of_gang)
                seen = Observation(
                    attempt=effect.attempt,
                    phase=Phase.RUNNING if is_seen else Phase.PENDING,
                    started_at=now if is_seen else None,
                )
                self._hear(Started(self._epoch, effect, seen))
            case Stop():
                self._engine.stop(effect.attempt, now + min(effect.grace_seconds, _STOP_SECONDS))
                self._hear(StopSent(self._epoch, effect, None))
            case KeepLog():
                self._hear(LogKept(self._epoch, effect, 0))
            case Prove():
                gone = Observation(
                    attempt=effect.attempt, phase=Phase.FAILED, stopped=True, gone=True, reason="Gone"
                )
                self._hear(Found(self._epoch, effect, gone))
            case _:
                pass  # what is settled or forgotten is over

    def _coming(self) -> dict[str, Coming]:
        names = dict.fromkeys([*self._begun, *self._waiting, *self._members])
        return {name: self._coming_of(name) for name in names}

    def _coming_of(self, name: str) -> Coming:
        task, waits = self._task_of(name), self._waiting.get(name) or self._waiting_as_member(name)
        pool = task.pool if task is not None else ""
        begins_at, rests_on = self._begun.get(name, (None, self._engine.ended(pool)))
        ends_at, ends_as = self._ended.get(name, (None, None))
        expected = self._expected.get(name)
        if expected is None and task is not None:
            expected = self._durations.expected(task)
        by, runs = (expected.basis, expected.runs) if expected is not None else (None, 0)
        is_open = task is not None and ends_at is None and (begins_at is None or bool(waits.left))
        kept = self._kept(task) if task is not None and is_open else None
        is_over = task is not None and (ends_at is not None or task.array is None or not task.array.waiting)
        return Coming(
            pool=pool,
            has_begun=name in self._had,
            begins_at=begins_at,
            ends_at=ends_at,
            rests_on=rests_on,
            by=by,
            runs=runs,
            owner=task.owner if task is not None else DEFAULT_OWNER,
            ends_as=ends_as,
            kept=kept,
            after=waits.after,
            waits_for=waits.waits_for,
            left=waits.left,
            last_at=self._last.get(name) if is_over and waits.left else None,
            is_new=name not in self._had and name not in self._waiting and name not in self._wanted,
        )

    def _waiting_as_member(self, name: str) -> _Waits:
        """What the array waits for of whose members this is one."""
        task = self._task_of(name)
        found = self._waiting.get(task.id) if task is not None and task.id != name else None
        return found._replace(left=0) if found is not None else _NOTHING

    def _kept(self, task: Task) -> Kept | None:
        record = self._model.pools.get(task.pool)
        if task.on_hold:
            return Kept.HOLD
        if task.gate is not None and not task.gate.is_open:
            return Kept.TASKS
        if record is None or record.pool.paused or self._model.pool_is_frozen(task.pool):
            return Kept.POOL
        return None if task.demand.fits(record.pool.capacity) else Kept.SIZE


class _Waits(NamedTuple):
    """What a task waits for at the beginning of a forecast: see Coming."""

    after: tuple[str, ...] = ()
    waits_for: int = 0
    left: int = 0

    @classmethod
    def of(cls, task: Task) -> _Waits:
        gate, array = task.gate, task.array
        awaited = {**gate.unfinished, **gate.partly} if gate is not None else {}
        left = array.waiting if array is not None and not array.is_gang else 0
        return cls(tuple(islice(awaited, NAMED)), len(awaited), left)


_NOTHING = _Waits()
