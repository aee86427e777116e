"""How long tasks run, as those of their kind have run.

The runs of the same owner's tasks that have succeeded count: those of the same array, of the same name (the
label `app.kubernetes.io/name`), with the same image, command and arguments, or of the same pool. The first of
these that has enough runs tells. If none has, the run deadline does, as a bound. What tasks of others tell is
not used: whoever may ask for a forecast could try what others run, and for how long.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict, deque
from collections.abc import Collection, Hashable, Iterator
from enum import StrEnum
from statistics import median
from typing import NamedTuple

from controller.core.model.lifecycle import State
from controller.core.model.model import Model
from controller.core.model.records import Task
from controller.core.model.task import Status

NAME_LABEL = "app.kubernetes.io/name"
"""The label by which tasks of one kind are known: https://kubernetes.io/docs/concepts/overview/working-with-objects/common-labels/."""

KINDS = 4_096  # kinds of which runs are kept; the one that was heard of least recently gives way
RUNS = 64  # the newest runs of a kind that are kept
JUDGED, FEWEST_JUDGED = 1_000, 5  # runs whose expectations are judged
_OVERRUN = 0.1, 1.0  # as a share, and in seconds: by so much a run may be longer than all that are known


class Basis(StrEnum):
    """What an expected duration rests on, from the best to the weakest."""

    ARRAY = "array"
    NAME = "name"
    COMMAND = "command"
    POOL = "pool"
    DEADLINE = "run deadline"


FEWEST = {Basis.ARRAY: 3, Basis.NAME: 3, Basis.COMMAND: 1, Basis.POOL: 10}
"""Runs of a kind that must have ended before it tells anything."""


class Expected(NamedTuple):
    """The expected duration of a run in seconds, and what it rests on: so many runs of its kind."""

    seconds: float
    basis: Basis
    runs: int


class Error(NamedTuple):
    """By how much past expectations were wrong, as a share of what came: median and 90th percentile."""

    median: float
    p90: float
    of: int  # the newest runs that were expected when they began to be known


def error_of(shares: Collection[float]) -> Error | None:
    """Median and 90th percentile of these errors; None if they are too few to tell."""
    if len(shares) < FEWEST_JUDGED:
        return None
    ordered = sorted(shares)
    return Error(median(ordered), ordered[int(len(ordered) * 0.9)], len(ordered))


class _Kind:
    """The newest runs of one kind, in seconds."""

    __slots__ = ("_ordered", "_runs")

    def __init__(self) -> None:
        self._runs = deque[float](maxlen=RUNS)
        self._ordered: list[float] | None = None

    def add(self, seconds: float) -> None:
        self._runs.append(seconds)
        self._ordered = None

    def __len__(self) -> int:
        return len(self._runs)

    def expected(self, elapsed: float) -> float | None:
        """The median of the runs that took longer than what has elapsed.

        If none did, a little longer than the longest; None if that has passed, too.
        """
        if self._ordered is None:
            self._ordered = sorted(self._runs)
        longer = self._ordered[bisect_right(self._ordered, elapsed) :] if elapsed > 0 else self._ordered
        if longer:
            return median(longer)
        share, seconds = _OVERRUN
        latest = self._ordered[-1] * (1 + share) + seconds
        return latest if elapsed < latest else None


class Durations:
    """See the module's docstring. Its memory is bounded."""

    def __init__(self) -> None:
        self._kinds: OrderedDict[Hashable, _Kind] = OrderedDict()
        self._errors = deque[float](maxlen=JUDGED)
        self._errors_by: dict[Basis, deque[float]] = {}

    @classmethod
    def of_model(cls, model: Model) -> Durations:
        """What the tasks tell that have ended and are still stored, in the order of their ends."""
        durations = cls()
        ended = [task for task in model.tasks.values() if task.state is State.SUCCEEDED]
        for task in sorted(ended, key=lambda task: task.status.finished_at or 0.0 if task.status else 0.0):
            durations.hear(task)
        return durations

    @property
    def error(self) -> Error | None:
        """How far off expectations of the newest runs were, each by the runs before it; None if unknown."""
        return error_of(self._errors)

    def errors(self) -> dict[Basis, Error]:
        """The same by what they rested on, of which enough is known."""
        found = {basis: error_of(shares) for basis, shares in self._errors_by.items()}
        return {basis: error for basis, error in found.items() if error is not None}

    def hear(self, task: Task, status: Status | None = None) -> None:
        """Count the run of a task, or member, that has succeeded. Others are passed over.

        `status`: of that run, where the task is the member's array; else the task's own.
        """
        status = status or task.status
        if status is None or status.state is not State.SUCCEEDED:
            return
        if status.started_at is None or status.finished_at is None or status.finished_at < status.started_at:
            return
        seconds = status.finished_at - status.started_at
        told = self.expected(task)
        if told is not None and told.runs and seconds:
            error = abs(told.seconds - seconds) / seconds
            self._errors.append(error)
            self._errors_by.setdefault(told.basis, deque(maxlen=JUDGED)).append(error)
        for _, kind in _kinds_of(task):
            known = self._kinds.get(kind)
            if known is None:
                known = self._kinds[kind] = _Kind()
                if len(self._kinds) > KINDS:
                    self._kinds.popitem(last=False)
            else:
                self._kinds.move_to_end(kind)
            known.add(seconds)

    def expected(self, task: Task, elapsed: float = 0.0) -> Expected | None:
        """How long a run of the task takes that has taken `elapsed` seconds so far; None: nothing tells.

        Of what has outlived all runs of a kind, that kind tells nothing.
        """
        limit = task.spec.deadlines.run_seconds if task.spec is not None else None
        for basis, kind in _kinds_of(task):
            known = self._kinds.get(kind)
            if known is not None and len(known) >= FEWEST[basis]:
                seconds = known.expected(elapsed)
                if seconds is None:
                    continue
                return Expected(seconds if limit is None else min(seconds, limit), basis, len(known))
        return Expected(limit, Basis.DEADLINE, 0) if limit is not None else None


def _kinds_of(task: Task) -> Iterator[tuple[Basis, Hashable]]:
    spec = task.spec
    if spec is None:
        return
    if task.source is not None:
        yield Basis.ARRAY, ("array", task.source.id, task.source.spec_create)
    elif spec.array is not None:
        yield Basis.ARRAY, ("array", task.id, task.spec_create)
    name = spec.labels.get(NAME_LABEL)
    if name:
        yield Basis.NAME, ("name", task.owner, name)
    if spec.image or spec.command or spec.args:
        yield Basis.COMMAND, ("command", task.owner, spec.image, spec.command, spec.args)
    yield Basis.POOL, ("pool", task.owner, task.pool)
