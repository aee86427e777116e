"""Looks ahead, as they are asked for and answered: what is to come, and what would come otherwise.

Pure: models and times come in, views go out. Each look uses up a model of its own, so it can be computed in
another process than the one that keeps the model. `goes_on` tells whether there is time left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from statistics import fmean
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct

from controller.core.forecast.ahead import HORIZON_SECONDS, Ahead, Forecast, Kept
from controller.core.forecast.durations import Durations
from controller.core.forecast.supposed import Supposed
from controller.core.model.fields import mapping, read_fields
from controller.core.model.lifecycle import State
from controller.core.model.model import Model
from controller.core.model.scalars import in_range, is_number, shown
from controller.errors import InvalidField
from controller.views.explain import explain
from controller.views.forecast import ComingView, ErrorView, ForecastView, forecast_view
from controller.views.supposition import Supposition, parse_names, parse_supposition
from controller.views.words import at

LOOK_SECONDS = 10.0  # of computing; a look that is not done by then ends where it is
MOST_HORIZON_SECONDS = 366 * 86400.0
CHANGED = 100  # tasks that are listed, of those that begin or end otherwise
EXPLAINED = 20  # tasks of which a look says why they have not begun at its end
_SAME = 60.0, 0.01  # seconds, and share of the time ahead, that make no difference


class LookQuestion(Struct, frozen=True, kw_only=True):
    """What is asked: what is to come of these tasks (none: of all), and what would come if it were so.

    With `supposed` and without tasks, the answer's `now` has none.
    """

    tasks: list[str] = []
    horizon_seconds: float = HORIZON_SECONDS
    supposed: Supposition | None = None


class ChangedView(Struct, frozen=True, kw_only=True):
    """A task that begins or ends otherwise than as things stand, in seconds since the epoch; None: not known.

    Of an array that has begun, `begins_now` and `begins_then` are of its last member. `later_seconds`: by how
    much later it begins, or ends if it begins at the same time; below zero for sooner, None if that is not
    known. `never`: it would have begun, and does not. `why` it does not, if that is known.
    """

    id: str
    pool: str
    owner: str
    has_begun: bool
    begins_now: float | None
    begins_then: float | None
    ends_now: float | None
    ends_then: float | None
    later_seconds: float | None = None
    never: bool = False
    ends_as: str = ""
    why: str = ""


class WaitsView(Struct, frozen=True, kw_only=True):
    """The stored tasks of an owner that wait in a pool, as things stand and as is supposed.

    An array waits as long as members are left that have not begun, and begins as the last of them does.
    `begin_now` and `begin_then` are how many of them begin within the look; `wait_now` and `wait_then` the
    mean wait from now on, in seconds, of those that begin in both; None: there are none.
    """

    pool: str
    owner: str
    waiting: int
    begin_now: int
    begin_then: int
    wait_now: float | None = None
    wait_then: float | None = None


class ComparedView(Struct, frozen=True, kw_only=True):
    """What would come if things were as supposed, beside what is to come as they stand.

    `tasks` are the supposed ones, and those that were asked for. `changed` are stored tasks that begin or
    end otherwise by more than a minute and 1 % of the time ahead: the CHANGED of them that differ most, of
    `differing`. Of those that wait, `sooner`, `later` and `never` are how many begin sooner, later, and not
    at all any more.
    """

    revision: int
    now: float
    until: float
    is_whole: bool
    tasks: list[ComingView]
    changed: list[ChangedView]
    differing: int
    sooner: int
    later: int
    never: int
    waits: list[WaitsView]
    endless: dict[str, list[str]] = {}
    error: ErrorView | None = None


class LookAnswer(Struct, frozen=True, kw_only=True):
    """The answer to a LookQuestion."""

    now: ForecastView
    then: ComparedView | None = None


def parse_question(raw: object) -> LookQuestion:
    """The question in a mapping, such as a JSON object. Raises InvalidField, naming the field."""
    given = mapping(raw, "", f"expected a mapping with {', '.join(LookQuestion.__struct_fields__)}")
    return LookQuestion(**read_fields(given, _FIELDS))


def look(
    model: Model,
    now: float,
    goes_on: Callable[[], bool],
    *,
    names: Sequence[str] = (),
    horizon_seconds: float = HORIZON_SECONDS,
    durations: Durations | None = None,
    explained: Sequence[str] | None = None,
) -> ForecastView:
    """What is to come of these tasks, or of all. It uses up the model.

    `durations` are what is known of runs; None: what the model tells. `explained`: it is also said why tasks
    have not begun, these first, and EXPLAINED at most; None: of none.
    """
    known = durations if durations is not None else Durations.of_model(model)
    # the longest number that a term of ours can have; one by another hand may have thousands of digits
    numbers = (int(each) for each in model.terms if each.isdecimal() and len(each) < 20)
    epoch = max(numbers, default=0) + 1
    told = Ahead(model, known, now, epoch).run(
        horizon_seconds=horizon_seconds, wanted=frozenset(names), goes_on=goes_on
    )
    view = forecast_view(told, known, model.pools, dict.fromkeys(names) if names else None)
    if explained is not None:
        _explain(model, told, view, explained)
    return view


def look_as_supposed(
    model: Model,
    supposed: Supposed,
    now: float,
    goes_on: Callable[[], bool],
    *,
    horizon_seconds: float = HORIZON_SECONDS,
    durations: Durations | None = None,
) -> ForecastView:
    """What would come of all tasks, and why some would not begin. It uses up the model."""
    known = durations if durations is not None else Durations.of_model(model)
    supposed.apply(model, now)
    names = [spec.id for spec in supposed.tasks]
    return look(model, now, goes_on, horizon_seconds=horizon_seconds, durations=known, explained=names)


def compare(now: ForecastView, then: ForecastView, supposed: Iterable[str] = ()) -> ComparedView:
    """What differs between two looks at all tasks, from one time. `supposed` tasks are only in `then`."""
    names = dict.fromkeys(supposed)
    pairs = [
        _Pair(coming, then.tasks.get(name), now, then)
        for name, coming in now.tasks.items()
        if name not in names and not coming.is_new
    ]
    changed = sorted((pair for pair in pairs if pair.is_changed), key=_Pair.rank)
    waiting = [pair for pair in pairs if pair.waits]
    return ComparedView(
        revision=now.revision,
        now=now.now,
        until=min(now.until, then.until),
        is_whole=now.is_whole and then.is_whole,
        tasks=[then.tasks[name] for name in names if name in then.tasks],
        changed=[pair.view() for pair in changed[:CHANGED]],
        differing=len(changed),
        sooner=sum(pair.begins_by < 0 for pair in waiting),
        later=sum(pair.begins_by > 0 and not pair.never for pair in waiting),
        never=sum(pair.never for pair in waiting),
        waits=[*_waits(waiting)],
        endless=then.endless,
        error=then.error,
    )


class _Pair(NamedTuple):
    """A task as it is to come, and as it would come; None: nothing would."""

    one: ComingView
    other: ComingView | None
    now: ForecastView
    then: ForecastView

    @property
    def waits(self) -> bool:
        return not self.one.has_begun or self.one.left > 0

    @property
    def begins(self) -> tuple[float | None, float | None]:
        return _begins(self.one), _begins(self.other)

    @property
    def ends(self) -> tuple[float | None, float | None]:
        return self.one.ends_at, self.other.ends_at if self.other is not None else None

    @property
    def begins_by(self) -> float:
        """By how much later it begins; infinite if only one is known, and 0 if that makes no difference."""
        return self._later(*self.begins)

    @property
    def ends_by(self) -> float:
        return self._later(*self.ends)

    @property
    def never(self) -> bool:
        """Whether it would have begun, and does not."""
        before, after = self.begins
        if before is None or after is not None or self.begins_by <= 0:
            return False
        return self.then.is_whole or self.other is None or bool(self.other.ends_as)

    @property
    def is_changed(self) -> bool:
        return bool((self.waits and self.begins_by) or self.ends_by)

    def rank(self) -> tuple[bool, float, str]:
        """Those that differ most come first."""
        return not self.never, -max(abs(self.begins_by), abs(self.ends_by)), self.one.id

    def view(self) -> ChangedView:
        begins, ends, other = self.begins, self.ends, self.other
        known = begins if self.waits and self.begins_by else ends
        before, after = known
        return ChangedView(
            id=self.one.id,
            pool=self.one.pool,
            owner=self.one.owner,
            has_begun=self.one.has_begun,
            begins_now=begins[0],
            begins_then=begins[1],
            ends_now=ends[0],
            ends_then=ends[1],
            later_seconds=after - before if before is not None and after is not None else None,
            never=self.never,
            ends_as=other.ends_as if other is not None else "",
            why=other.why if other is not None else "",
        )

    def _later(self, before: float | None, after: float | None) -> float:
        if before is None and after is None:
            return 0.0
        # what is not within a look comes after its end
        first = before if before is not None else self.now.until
        second = after if after is not None else self.then.until
        by = second - first
        if before is not None and after is not None:
            least, share = _SAME
            return by if abs(by) > max(least, share * (before - self.now.now)) else 0.0
        if before is None:
            is_sooner = self.now.is_whole or by < 0
            return -_FAR if is_sooner else 0.0
        ends_otherwise = self.other is None or bool(self.other.ends_as)
        return _FAR if self.then.is_whole or by > 0 or ends_otherwise else 0.0


_FAR = float("inf")


def _begins(coming: ComingView | None) -> float | None:
    if coming is None:
        return None
    return coming.last_at if coming.has_begun and coming.left else coming.begins_at


def _waits(pairs: Iterable[_Pair]) -> Iterator[WaitsView]:
    found = dict[tuple[str, str], list[_Pair]]()
    for pair in pairs:
        found.setdefault((pair.one.pool, pair.one.owner), []).append(pair)
    for (pool, owner), group in sorted(found.items()):
        begins = [pair.begins for pair in group]
        both = [(one - group[0].now.now, two - group[0].now.now) for one, two in begins if one and two]
        yield WaitsView(
            pool=pool,
            owner=owner,
            waiting=len(group),
            begin_now=sum(one is not None for one, _ in begins),
            begin_then=sum(two is not None for _, two in begins),
            wait_now=round(fmean(one for one, _ in both), 3) if both else None,
            wait_then=round(fmean(two for _, two in both), 3) if both else None,
        )


def _explain(model: Model, told: Forecast, view: ForecastView, first: Sequence[str]) -> None:
    """Say of tasks that have not begun why that is so at the end of the look."""
    left = EXPLAINED
    for name in dict.fromkeys([*first, *view.tasks]):
        coming = view.tasks.get(name)
        if coming is None or coming.has_begun or coming.begins_at is not None:
            continue
        if not left:
            return
        left -= 1
        view.tasks[name] = msgspec.structs.replace(coming, why=_why(model, told, coming))


def _why(model: Model, told: Forecast, coming: ComingView) -> str:
    """Why it does not begin, in a sentence of what would be: nobody has done yet what is supposed."""
    name, pool = coming.id, model.pools.get(coming.pool)
    if coming.ends_as:
        task = model.tasks.get(name)
        reason = task.status.reason if task is not None and task.status is not None else ""
        if coming.ends_as == State.CANCELLED and reason in ("", State.CANCELLED):
            return f"{name} would be cancelled."
        return f"{name} would end as {coming.ends_as}{f' ({reason})' if reason else ''}."
    if coming.kept == Kept.HOLD:
        return f"{name} would be on hold."
    if coming.kept == Kept.POOL and pool is not None and pool.pool.paused:
        return f"{name} does not begin while pool {coming.pool} is paused."
    if coming.kept in (Kept.POOL, Kept.SIZE):
        return explain(model, name, told.until)
    further = "" if told.is_whole else "; no further was looked ahead"
    begins = f"{name} does not begin before {at(told.until)}{further}"
    if coming.kept == Kept.TASKS and coming.after:
        rest = coming.waits_for - len(coming.after)
        return (
            f"{begins}: it would wait for {', '.join(coming.after)}{f' and {rest} more' if rest > 0 else ''}."
        )
    return f"{begins}: by then, {explain(model, name, told.until)}"


def parse_horizon(raw: object, field: str) -> float:
    """How far ahead to look, in seconds. Raises InvalidField."""
    if not is_number(raw):
        raise InvalidField(field, f"is {shown(raw)}, expected a number of seconds")
    return in_range(float(raw), field, 1.0, MOST_HORIZON_SECONDS)


_FIELDS: dict[str, Callable[[object, str], Any]] = {
    "tasks": parse_names,
    "horizon_seconds": parse_horizon,
    "supposed": lambda raw, field: parse_supposition(raw, f"{field}."),
}
