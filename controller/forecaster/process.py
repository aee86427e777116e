"""The process that looks ahead. `python -m controller.forecaster` reads an Installation and then Questions.

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
from typing import BinaryIO

import msgspec

from controller import bulkhead
from controller.clock import SystemClock
from controller.core.forecast.ahead import Ahead
from controller.core.forecast.durations import Durations
from controller.core.model.model import Model
from controller.errors import TallyError
from controller.forecaster.experience import Experience
from controller.forecaster.wire import Answer, Installation, Question
from controller.runtime.standby import Standby
from controller.store.etcd.store import EtcdStore
from controller.store.keys import Keys
from controller.telemetry.logs import configure_logs
from controller.views.forecast import ForecastView, error_view, forecast_view
from controller.views.freshness import RULE

NICENESS = 10  # whoever asks comes first: a replica that leads may be on this machine
LOAD_SECONDS = 60.0  # until the model must be loaded
CATCH_UP_SECONDS = 2.0  # until the model has what the asker has seen
LOOK_SECONDS = 10.0  # of computing; a look that is not done by then ends where it is
_GRACE_SECONDS = 20.0  # beyond that, to begin and to tell: a fork that takes longer is ended
FRESH_SECONDS = 5.0  # an answer is told again for so long, and for as long as it took REST times
REST = 4.0


class LookFailed(TallyError):
    """A look came to no end. The error says why."""


class Looker:
    """Answers questions about one installation, one at a time."""

    def __init__(self, installation: Installation) -> None:
        self._clock = SystemClock()
        store = EtcdStore(installation.options, self._clock)
        keys = Keys(installation.cluster)
        self._standby = Standby(store, keys, self._clock, RULE, installation.silence_seconds)
        self._experience = Experience(self._standby.reading, self._clock)
        self._standby.subscribe(self._experience)
        self._last: ForecastView | None = None
        self._asked_at = 0.0  # boottime
        self._is_loaded = False

    def start(self) -> None:
        """Begin to load the model."""
        self._standby.start()

    def answer(self, question: Question) -> Answer:
        """The answer. A fault of this question alone is told in it."""
        before = self._last
        try:
            view = self._whole(question.revision)
        except LookFailed as error:
            return Answer(problem=str(error), starts=self._experience.take_news())
        names = [name for name in question.tasks if name in view.tasks]
        chosen = msgspec.structs.replace(view, tasks={name: view.tasks[name] for name in names})
        return Answer(forecast=chosen, is_new=view is not before, starts=self._experience.take_news())

    def _whole(self, revision: int) -> ForecastView:
        """What is to come of all tasks, as of the asker's revision or newer; or what was told just now."""
        last = self._last
        if last is not None:
            age = self._clock.boottime() - self._asked_at
            if age < max(FRESH_SECONDS, REST * last.computed_seconds):
                return last
        if not self._is_loaded and not self._experience.wait_for(1, LOAD_SECONDS):
            raise LookFailed("its model could not be loaded from etcd: see the log")
        self._is_loaded = True
        # a replica's model may be at a revision at which nothing of this installation has changed
        self._experience.wait_for(revision, CATCH_UP_SECONDS)
        if last is not None and last.revision == self._standby.revision and age < LOOK_SECONDS * REST:
            return last
        self._asked_at = self._clock.boottime()
        found = self._look()
        found = msgspec.structs.replace(found, starts=error_view(self._experience.error))
        self._experience.note(found)
        self._last = found
        return found

    def _look(self) -> ForecastView:
        """A look of a fork of this process, from the model as it is now. Raises LookFailed."""
        reading, writing = os.pipe()
        with self._standby.reading() as model, warnings.catch_warnings():
            # Python 3.12 warns of forks beside threads; see the module's docstring
            warnings.simplefilter("ignore", DeprecationWarning)
            fork = os.fork()
            if not fork:
                self._compute(model, writing)
        os.close(writing)
        try:
            told = _read(reading, time.monotonic() + LOOK_SECONDS + _GRACE_SECONDS)
        finally:
            os.close(reading)
            with contextlib.suppress(ProcessLookupError):
                os.kill(fork, signal.SIGKILL)
            os.waitpid(fork, 0)
        try:
            return msgspec.json.decode(told, type=ForecastView)
        except msgspec.MsgspecError as error:
            raise LookFailed(
                f"the look ended without an answer: {told[-500:].decode(errors='replace')}"
            ) from error

    def _compute(self, model: Model, writing: int) -> None:
        """In the fork, which ends here."""
        status = 1
        try:
            os.close(0)  # who asks must see the end of the process, not of its fork
            os.close(1)
            gc.disable()  # it ends soon
            signal.alarm(int(LOOK_SECONDS + _GRACE_SECONDS))
            view = look(model, self._experience.durations, self._clock.now(), os.getppid())
            with open(writing, "wb") as pipe:
                pipe.write(msgspec.json.encode(view))
            status = 0
        # told to the process that waits for it, which counts and tells it
        except Exception as error:  # noqa: BLE001
            bulkhead.caught("forecast", error)
        finally:
            os._exit(status)


def look(model: Model, durations: Durations, now: float, parent: int) -> ForecastView:
    """A whole look, which uses up the model. It ends with the process `parent`."""
    begun = time.monotonic()

    def goes_on() -> bool:
        return time.monotonic() - begun < LOOK_SECONDS and os.getppid() == parent

    epoch = max((int(each) for each in model.terms if each.isdecimal()), default=0) + 1
    told = Ahead(model, durations, now, epoch).run(goes_on=goes_on)
    view = forecast_view(told, durations.error, model.pools)
    return msgspec.structs.replace(view, computed_seconds=round(time.monotonic() - begun, 3))


def _read(pipe: int, until: float) -> bytes:
    """All that comes out of it, until it is closed or the time has come."""
    parts = []
    while select.select([pipe], [], [], max(0.0, until - time.monotonic()))[0]:
        part = os.read(pipe, 1 << 20)
        if not part:
            break
        parts.append(part)
    return b"".join(parts)


def serve(questions: BinaryIO, answers: BinaryIO) -> None:
    """Answer until nobody is left who asks, or nobody has asked for long."""
    installation = msgspec.json.decode(questions.readline(), type=Installation)
    configure_logs(replica=f"{installation.name}/forecaster", cluster=installation.cluster)
    os.nice(NICENESS)
    looker = Looker(installation)
    looker.start()
    while select.select([questions], [], [], installation.idle_seconds)[0]:
        line = questions.readline()
        if not line:
            break
        answers.write(msgspec.json.encode(looker.answer(msgspec.json.decode(line, type=Question))) + b"\n")
        answers.flush()


def main() -> None:
    """See the module's docstring."""
    serve(sys.stdin.buffer, sys.stdout.buffer)
