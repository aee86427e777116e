"""What a forecaster learns while it lives: how long tasks run, and how far off its told beginnings were."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple

from controller.core.forecast.durations import JUDGED, Durations, Error, error_of
from controller.core.model import codec
from controller.core.model.lifecycle import WAITING, State
from controller.core.model.model import Model
from controller.core.model.records import Change, Task
from controller.core.model.task import Status
from controller.errors import CorruptValue
from controller.forecaster.wire import StartError
from controller.views.forecast import ForecastView

MOST_TOLD = 20_000  # tasks of which it is kept what was told; of the others, nothing is judged
_SHORTEST = 1.0  # seconds; waits that are shorter count as so long


class _Told(NamedTuple):
    at: float
    begins_at: float


class Experience:
    """See the module's docstring. A Listener of the model that `reading` gives; its memory is bounded.

    Of each task, the first beginning that was told counts: it looked furthest ahead.
    """

    def __init__(self, reading: Callable[[], AbstractContextManager[Model]]) -> None:
        self._reading = reading
        self._told: dict[str, _Told] = {}
        self._shares = deque[float](maxlen=JUDGED)
        self._news: list[StartError] = []
        self._moved = threading.Condition()
        self.durations = Durations()

    def reloaded(self, revision: int) -> None:  # noqa: ARG002  # of Listener
        """See Listener. What was told of tasks that changed meanwhile cannot be judged."""
        with self._reading() as model:
            self.durations = Durations.of_model(model)
            self._told = {
                name: told
                for name, told in self._told.items()
                if (task := model.tasks.get(name)) is not None and task.state in WAITING
            }
        self._notify()

    def changed(self, changes: Sequence[Change], revision: int) -> None:  # noqa: ARG002  # of Listener
        """See Listener."""
        with self._reading() as model:
            for ended, status in _succeeded(model, changes):
                self.durations.hear(ended, status)
            for name in dict.fromkeys(change.names[0] for change in changes if change.kind == "states"):
                task = model.tasks.get(name)
                told = self._told.get(name)
                if told is None:
                    continue
                begun_at = task.status.admitted_at if task is not None and task.status is not None else None
                if begun_at is not None and begun_at > told.at:
                    self._judge(told, begun_at)
                elif task is not None and task.state in WAITING:
                    continue
                del self._told[name]
        self._notify()

    def note(self, view: ForecastView) -> None:
        """That was told."""
        with self._reading() as model:
            for name, coming in view.tasks.items():
                if coming.begins_at is None or coming.has_begun or len(self._told) >= MOST_TOLD:
                    continue
                task = model.tasks.get(name)
                if task is not None and task.state in WAITING:
                    self._told.setdefault(name, _Told(view.now, coming.begins_at))

    @property
    def error(self) -> Error | None:
        """By how much told beginnings were off, as a share of the wait; None: too few are known."""
        with self._moved:
            return error_of(self._shares)

    def take_news(self) -> list[StartError]:
        """The errors since the last call."""
        with self._moved:
            news, self._news = self._news, []
        return news

    def wait_for(self, reached: Callable[[], bool], seconds: float) -> None:
        """Wait until the model is where `reached` is true, or so many seconds have passed."""
        with self._moved:
            self._moved.wait_for(reached, max(0.0, seconds))

    def _notify(self) -> None:
        with self._moved:
            self._moved.notify_all()

    def _judge(self, told: _Told, begun_at: float) -> None:
        seconds = abs(begun_at - told.begins_at)
        wait = max(begun_at - told.at, told.begins_at - told.at, _SHORTEST)
        error = StartError(seconds, seconds / wait)
        with self._moved:
            self._shares.append(error.share)
            self._news = [*self._news[-JUDGED:], error]


def _succeeded(model: Model, changes: Sequence[Change]) -> Iterator[tuple[Task, Status]]:
    """Each task that has succeeded, once; of a member that is gone, its array.

    A member is soon gone, once its array has counted it: how long it ran is told by the changes alone.
    """
    found = dict[str, tuple[Task, Status]]()
    for change in changes:
        if change.kind != "states" or change.value is None:
            continue
        name = change.names[0]
        task = model.tasks.get(name) or model.arrays.task_of(name)
        with contextlib.suppress(CorruptValue):  # the model tells of it
            status, _ = codec.read_status(change.value)
            if task is not None and status.state is State.SUCCEEDED:
                found[name] = task, status
    yield from found.values()
