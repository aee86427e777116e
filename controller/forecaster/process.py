"""The process that looks ahead. `python -m controller.forecaster` reads an Subject and then Questions.

It keeps a model of its own. Each look needs one that it may use up: a fork of this process has it, for the
time of the look. The fork has one thread, which computes, writes its answer to a pipe, and ends; it touches
neither the store nor a lock that another thread may have held.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import BinaryIO

import msgspec

from controller.clock import WallClock
from controller.core.forecast.ahead import HORIZON_SECONDS
from controller.core.forecast.supposed import Supposed
from controller.core.model.lifecycle import FINISHED
from controller.core.model.model import Model
from controller.errors import InvalidField, TallyError
from controller.forecaster.experience import Experience
from controller.forecaster.forks import Fork, computed_modestly, fork, is_awaited
from controller.forecaster.surroundings import MORE_PROCESSES, leave_before_memory_ends, step_back
from controller.forecaster.wire import Question, RefusedSupposition, Reply, Subject
from controller.interpreter import hold_large_models
from controller.runtime.standby import Standby
from controller.store.etcd.store import EtcdStore
from controller.store.keys import Keys
from controller.telemetry.logs import configure_logs
from controller.views.ahead import LOOK_SECONDS, look, look_as_supposed
from controller.views.forecast import ForecastView, error_view
from controller.views.freshness import RULE
from controller.views.supposition import NoSuchTask, Supposition, judge

LOAD_SECONDS = 60.0  # until the model must be loaded
REST_SECONDS = 1.0  # between what the model takes in, unless a question needs it: see Follower
CATCH_UP_SECONDS = 5.0  # until the model has what the asker has seen
IDLE_LOOK_SECONDS = 2 * LOOK_SECONDS  # a look on idle processors that takes longer is begun again
FORK_SECONDS = IDLE_LOOK_SECONDS + 2 * LOOK_SECONDS  # a fork that takes longer is ended
FRESH_SECONDS = 5.0  # an answer is told again for so long, and for as long as it took REST times
REST = 4.0
UNCHANGED_SECONDS = 30.0  # the same, if nothing has changed since
IDLE_SECONDS = 300.0  # without a question, after which the process ends


class LookFailed(TallyError):
    """A look came to no end. The error says why."""


class Looker:
    """Answers questions about one installation, one at a time."""

    def __init__(self, subject: Subject) -> None:
        self._clock = WallClock()
        store = EtcdStore(subject.options, self._clock)
        keys = Keys(subject.cluster)
        self._standby = Standby(store, keys, self._clock, RULE, subject.silence_seconds, REST_SECONDS)
        self._experience = Experience(self._standby.reading)
        self._standby.subscribe(self._experience)
        self._last: ForecastView | None = None
        self._asked_at = 0.0  # boottime
        self._is_loaded = False

    def start(self) -> None:
        """Begin to load the model."""
        self._standby.start()

    def answer(self, question: Question) -> Reply:
        """The answer. A fault of this question alone is told in it."""
        before = self._last
        try:
            if question.supposed is not None:
                view, then = self._suppose(question, question.supposed)
            else:
                view, then = self._told(question), None
        except NoSuchTask as error:
            return Reply(refused=RefusedSupposition(error.field, error.problem, is_missing=True))
        except InvalidField as error:
            return Reply(refused=RefusedSupposition(error.field, error.problem, is_missing=False))
        except LookFailed as error:
            return Reply(problem=str(error), starts=self._experience.take_news())
        except OSError as error:  # no more processes or files
            return Reply(problem=f"{error}: {MORE_PROCESSES}", starts=self._experience.take_news())
        return Reply(
            forecast=view if question.tasks is None else _of(view, question.tasks),
            then=then,
            is_new=view is not before,
            starts=self._experience.take_news(),
        )

    @contextlib.contextmanager
    def _whole(self, question: Question) -> Iterator[Model]:
        """The model, held still, with all that the asker has seen. Raises LookFailed if it cannot be had.

        While a model is loaded again, it is a mixture: such a one has no revision.
        """
        needed = max(1, question.revision, question.at_least)
        until = self._clock.boottime() + (CATCH_UP_SECONDS if self._is_loaded else LOAD_SECONDS)
        while True:
            if self._standby.revision < needed:
                self._standby.hurry()
                left = until - self._clock.boottime()
                self._experience.wait_for(lambda: self._standby.revision >= needed, left)
            with self._standby.reading() as model:
                if self._standby.revision >= needed:
                    self._is_loaded = True
                    yield model
                    return
            if self._clock.boottime() >= until:
                raise LookFailed(
                    f"etcd has not shown revision {needed} to it within {CATCH_UP_SECONDS:g} s: ask again"
                    if self._is_loaded
                    else "its model could not be loaded from etcd: see the log"
                )

    def _told(self, question: Question) -> ForecastView:
        """What is to come of all tasks, or what was told of them just now."""
        horizon, asked_at, last = question.horizon_seconds, self._clock.boottime(), self._last
        with self._whole(question) as model:
            if (
                last is not None
                and horizon == HORIZON_SECONDS
                and last.revision >= question.at_least
                and self._is_fresh(last)
                and not _has_changed(model, last, question.tasks or [])
            ):
                return last
            looking = self._fork(model, self._looking(horizon))
        view = _view(looking)
        return self._note(view, asked_at) if horizon == HORIZON_SECONDS else view

    def _suppose(self, question: Question, supposed: Supposition) -> tuple[ForecastView, ForecastView]:
        """Two looks from one time. Raises InvalidField for what cannot be done."""
        horizon, asked_at, now = question.horizon_seconds, self._clock.boottime(), self._clock.now()
        with contextlib.ExitStack() as both:
            with self._whole(question) as model:
                judged = judge(model, supposed, now, question.by)
                before = self._fork(model, self._looking(horizon, now))
                both.callback(before.end)
                after = self._fork(model, self._looking(horizon, now, judged))
                both.callback(after.end)
            view, other = _view(before), _view(after)
        if horizon == HORIZON_SECONDS:
            view = self._note(view, asked_at)
        return view, other

    def _note(self, view: ForecastView, asked_at: float) -> ForecastView:
        """It is told again for a while, and it is judged what becomes of it."""
        view = msgspec.structs.replace(view, starts=error_view(self._experience.error))
        self._experience.note(view)
        self._last, self._asked_at = view, asked_at
        return view

    def _looking(
        self, horizon_seconds: float, now: float | None = None, supposed: Supposed | None = None
    ) -> Callable[[Model, Callable[[], bool]], ForecastView]:
        durations, at = self._experience.durations, now if now is not None else self._clock.now()
        if supposed is not None:
            return lambda model, goes_on: look_as_supposed(
                model, supposed, at, goes_on, horizon_seconds=horizon_seconds, durations=durations
            )
        return lambda model, goes_on: look(
            model, at, goes_on, horizon_seconds=horizon_seconds, durations=durations
        )

    def _is_fresh(self, view: ForecastView) -> bool:
        age = self._clock.boottime() - self._asked_at
        if view.revision == self._standby.revision:  # only time has passed
            return age < UNCHANGED_SECONDS
        return age < max(FRESH_SECONDS, REST * view.computed_seconds)

    def _fork(self, model: Model, looks: Callable[[Model, Callable[[], bool]], ForecastView]) -> Fork:
        """A fork of this process that looks ahead. The caller holds the model: the copy is whole."""

        def compute() -> bytes:
            begun = time.monotonic()
            view = looks(model, lambda: time.monotonic() - begun < LOOK_SECONDS and is_awaited())
            view = msgspec.structs.replace(view, computed_seconds=round(time.monotonic() - begun, 3))
            return msgspec.json.encode(view)

        return fork(partial(computed_modestly, compute, IDLE_LOOK_SECONDS), FORK_SECONDS)


def _view(fork: Fork) -> ForecastView:
    """What a fork has found. Raises LookFailed, also once nobody is left who asks."""
    found = fork.written(FORK_SECONDS, is_awaited)
    if found is None:
        raise LookFailed(f"it took longer than {FORK_SECONDS:g} s: ask again")
    try:
        return msgspec.json.decode(found, type=ForecastView)
    except msgspec.MsgspecError as error:
        raise LookFailed("it ended without an answer; the log may say why") from error


def _has_changed(model: Model, view: ForecastView, names: Iterable[str]) -> bool:
    """Whether the view does not tell of one of these tasks as it is now."""
    for name in names:
        task, is_told = model.tasks.get(name) or model.arrays.task_of(name), bool(view.told_as(name))
        if task is None:
            has_changed = is_told
        elif is_told:
            requested = (mod for _, mod in task.requests.values())
            has_changed = max(task.spec_mod, task.status_mod, *requested) > view.revision
        else:
            has_changed = task.state not in FINISHED
        if has_changed:
            return True
    return False


def _of(view: ForecastView, names: Iterable[str]) -> ForecastView:
    chosen = {told: view.tasks[told] for told in map(view.told_as, names) if told}
    return msgspec.structs.replace(view, tasks=chosen)


def _lines(source: int, idle_seconds: float) -> Iterator[bytes]:
    """The lines that come, until the source ends, or none has come for so long."""
    waiting = b""
    while select.select([source], [], [], idle_seconds)[0]:
        part = os.read(source, 1 << 20)
        if not part:
            return
        *lines, waiting = (waiting + part).split(b"\n")
        yield from lines


def serve(source: int, answers: BinaryIO) -> None:
    """Answer until nobody is left who asks, or nobody has asked for long.

    Raises BrokenPipeError if nobody is left who could read an answer.
    """
    lines = _lines(source, IDLE_SECONDS)
    subject = msgspec.json.decode(next(lines), type=Subject)
    configure_logs(replica=f"{subject.name}/forecaster", cluster=subject.cluster)
    step_back()
    leave_before_memory_ends()
    hold_large_models()
    looker = Looker(subject)
    looker.start()
    for line in lines:
        answers.write(msgspec.json.encode(looker.answer(msgspec.json.decode(line, type=Question))) + b"\n")
        answers.flush()


def main() -> None:
    """See the module's docstring."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # forks are waited for, whatever a launcher has set
    try:
        serve(sys.stdin.fileno(), sys.stdout.buffer)
    except BrokenPipeError:  # who asked has ended; nor is anybody there for what is left in the buffer
        os._exit(0)
