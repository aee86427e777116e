"""The process that looks ahead. `python -m controller.forecaster` reads an Subject and then Questions.

It keeps a model of its own. Each look needs one that it may use up: a fork of this process has it, for the
time of the look. The fork has one thread, which computes, writes its answer to a pipe, and ends; it touches
neither the store nor a lock that another thread may have held.
"""

from __future__ import annotations

import contextlib
import gc
import os
import select
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO, NamedTuple

import msgspec

from controller import bulkhead
from controller.clock import SystemClock
from controller.core.forecast.ahead import HORIZON_SECONDS
from controller.core.forecast.supposed import Supposed
from controller.core.model.lifecycle import FINISHED
from controller.core.model.model import Model
from controller.errors import InvalidField, TallyError
from controller.forecaster.experience import Experience
from controller.forecaster.wire import Question, RefusedSupposition, Reply, Subject
from controller.runtime.standby import Standby
from controller.store.etcd.store import EtcdStore
from controller.store.keys import Keys
from controller.telemetry.logs import configure_logs
from controller.views.ahead import LOOK_SECONDS, look, look_as_supposed
from controller.views.forecast import ForecastView, error_view
from controller.views.freshness import RULE
from controller.views.supposition import NoSuchTask, Supposition, judge

NICENESS = 10  # whoever asks comes first: a replica that leads may be on this machine
LOAD_SECONDS = 60.0  # until the model must be loaded
REST_SECONDS = 1.0  # between what the model takes in, unless a question needs it: see Follower
CATCH_UP_SECONDS = 5.0  # until the model has what the asker has seen
_GRACE_SECONDS = 20.0  # beyond that, to begin and to tell: a fork that takes longer is ended
FRESH_SECONDS = 5.0  # an answer is told again for so long, and for as long as it took REST times
REST = 4.0
UNCHANGED_SECONDS = 30.0  # the same, if nothing has changed since
IDLE_SECONDS = 300.0  # without a question, after which the process ends


class LookFailed(TallyError):
    """A look came to no end. The error says why."""


class Looker:
    """Answers questions about one installation, one at a time."""

    def __init__(self, subject: Subject) -> None:
        self._clock = SystemClock()
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
        except (LookFailed, OSError) as error:  # OSError: no more processes or files
            return Reply(problem=str(error), starts=self._experience.take_news())
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
            fork = self._fork(model, self._looking(horizon))
        view = fork.told()
        return self._note(view, asked_at) if horizon == HORIZON_SECONDS else view

    def _suppose(self, question: Question, supposed: Supposition) -> tuple[ForecastView, ForecastView]:
        """Two looks from one time. Raises InvalidField for what cannot be done."""
        horizon, asked_at, now = question.horizon_seconds, self._clock.boottime(), self._clock.now()
        with self._whole(question) as model:
            judged = judge(model, supposed, now, question.by)
            before = self._fork(model, self._looking(horizon, now))
            after = self._fork(model, self._looking(horizon, now, judged))
        view, other = before.told(), after.told()
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

    def _fork(self, model: Model, looks: Callable[[Model, Callable[[], bool]], ForecastView]) -> _Fork:
        """A fork of this process that looks ahead. The caller holds the model: the copy is whole."""
        reading, writing = os.pipe()
        parent, begun = os.getpid(), time.monotonic()
        with warnings.catch_warnings():
            # Python 3.12 warns of forks beside threads; see the module's docstring
            warnings.simplefilter("ignore", DeprecationWarning)
            fork = os.fork()
        if fork:
            os.close(writing)
            return _Fork(fork, reading)
        status = 1
        try:
            # Who asks must see the end of the process, not of its fork; and a fork whose answer nobody can
            # read any more must see that.
            for first, after in ((0, 2), (3, writing), (writing + 1, os.sysconf("SC_OPEN_MAX"))):
                os.closerange(first, after)
            gc.disable()  # it ends soon
            signal.alarm(int(LOOK_SECONDS + _GRACE_SECONDS))
            view = looks(model, lambda: time.monotonic() - begun < LOOK_SECONDS and os.getppid() == parent)
            view = msgspec.structs.replace(view, computed_seconds=round(time.monotonic() - begun, 3))
            with open(writing, "wb") as pipe:
                pipe.write(msgspec.json.encode(view))
            status = 0
        # the process that waits for it sees that nothing came
        except Exception as error:  # noqa: BLE001
            bulkhead.caught("forecast", error)
        finally:
            os._exit(status)


class _Fork(NamedTuple):
    """A fork that looks ahead, and the pipe that it writes to."""

    pid: int
    pipe: int

    def told(self) -> ForecastView:
        """What it has found. It is waited for, and ended. Raises LookFailed."""
        try:
            found = _read(self.pipe, time.monotonic() + LOOK_SECONDS + _GRACE_SECONDS)
        finally:
            os.close(self.pipe)
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        try:
            return msgspec.json.decode(found, type=ForecastView)
        except msgspec.MsgspecError as error:
            raise LookFailed("it ended without an answer; the log may say why") from error


def _has_changed(model: Model, view: ForecastView, names: Iterable[str]) -> bool:
    """Whether the view does not tell of one of these tasks as it is now."""
    for name in names:
        task, is_told = model.tasks.get(name) or model.arrays.task_of(name), name in view.tasks
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
    chosen = {name: view.tasks[name] for name in names if name in view.tasks}
    return msgspec.structs.replace(view, tasks=chosen)


def _read(pipe: int, until: float) -> bytes:
    """All that comes out of it, until it is closed or the time has come."""
    parts = []
    while select.select([pipe], [], [], max(0.0, until - time.monotonic()))[0]:
        part = os.read(pipe, 1 << 20)
        if not part:
            break
        parts.append(part)
    return b"".join(parts)


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
    """Answer until nobody is left who asks, or nobody has asked for long."""
    lines = _lines(source, IDLE_SECONDS)
    subject = msgspec.json.decode(next(lines), type=Subject)
    configure_logs(replica=f"{subject.name}/forecaster", cluster=subject.cluster)
    os.nice(NICENESS)
    looker = Looker(subject)
    looker.start()
    for line in lines:
        answers.write(msgspec.json.encode(looker.answer(msgspec.json.decode(line, type=Question))) + b"\n")
        answers.flush()


def main() -> None:
    """See the module's docstring."""
    serve(sys.stdin.fileno(), sys.stdout.buffer)
