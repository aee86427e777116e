"""The asker's end of a process that looks ahead: the first question begins it, and again if it has died."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable
from typing import Protocol

import msgspec
import structlog

from controller.errors import TallyError
from controller.forecaster.surroundings import EXIT_MEMORY, MORE_PROCESSES, RESERVE_BYTES, lacking_memory
from controller.forecaster.wire import Question, Reply, Subject
from controller.views.forecast import ForecastView

MOST_ASKERS = 16  # that wait at a time
FIRST_SECONDS = 100.0  # a process that takes longer to load and to look is ended
ANSWER_SECONDS = 45.0  # the same, once it has answered before
_MORE_MEMORY = "raise the memory limit, or ask by etcd from another machine (`tally explain --eta`)"
log = structlog.get_logger(__name__)


class NoForecast(TallyError):
    """Nothing can be told of what is to come now. The error says why, and what to do."""


class _Ended(NoForecast):
    """The process has ended before it answered."""


class Meter(Protocol):
    """Hears of looks ahead, from any thread."""

    def looked_ahead(self, seconds: float) -> None:
        """A look took so many seconds to compute."""

    def begun_as_told(self, seconds: float, share: float) -> None:
        """A task has begun, so many seconds from what was told of it; and what share of its wait that is."""


class Forecaster:
    """Looks ahead for whoever asks. Safe to use from several threads; questions are answered one by one.

    If `every_seconds` is not 0, it also asks itself so often, between `start` and `close`.
    """

    def __init__(self, subject: Subject, meter: Meter, every_seconds: float = 0.0) -> None:
        self._subject = subject
        self._meter = meter
        self._every_seconds = every_seconds
        self._habit = threading.Thread(target=self._ask_again, name="forecasts", daemon=True)
        self._lock = threading.Lock()
        self._askers = threading.Semaphore(MOST_ASKERS)
        self._process: subprocess.Popen[bytes] | None = None
        self._has_answered = False
        self._closed = threading.Event()

    def start(self) -> None:
        """Begin to ask as often as is set, if at all."""
        if self._every_seconds:
            self._habit.start()

    def ask(self, tasks: Iterable[str], revision: int, at_least: int = 0) -> ForecastView:
        """What is to come of these tasks, and of all pools, by a question with these revisions.

        It may be some seconds old; its `now` says. Raises NoForecast.
        """
        reply = self.answer(Question(tasks=[*tasks], revision=revision, at_least=at_least))
        assert reply.forecast is not None
        return reply.forecast

    def answer(self, question: Question) -> Reply:
        """The answer: it has a forecast, or says what was refused. Raises NoForecast."""
        if not self._askers.acquire(blocking=False):
            raise NoForecast(f"{MOST_ASKERS} others wait for a forecast: try again")
        try:
            with self._lock:
                reply = self._ask(question)
        finally:
            self._askers.release()
        for error in reply.starts:
            self._meter.begun_as_told(error.seconds, error.share)
        if reply.forecast is not None:
            if reply.is_new:
                self._meter.looked_ahead(reply.forecast.computed_seconds)
        elif reply.refused is None:
            raise NoForecast(f"no look ahead was possible: {reply.problem}")
        return reply

    def close(self) -> None:
        """End the process, also while it computes. Idempotent."""
        self._closed.set()
        process = self._process
        if process is not None:
            process.kill()
        with self._lock:
            self._end()
        if self._habit.ident is not None:
            self._habit.join(5.0)

    def _ask_again(self) -> None:
        told = ""
        while not self._closed.wait(self._every_seconds):
            try:
                self.ask((), 0)
                told = ""
            except NoForecast as error:
                if str(error) != told:
                    log.warning("no look ahead was possible", why=str(error))
                told = str(error)

    # -- details; the caller holds the lock

    def _ask(self, question: Question) -> Reply:
        if self._process is not None:
            with contextlib.suppress(_Ended):  # it had nothing to do for long, or was killed
                return self._ask_of(self._process, question)
        return self._ask_of(self._begin(), question)

    def _ask_of(self, process: subprocess.Popen[bytes], question: Question) -> Reply:
        assert process.stdin is not None
        assert process.stdout is not None
        is_late = threading.Event()

        def give_up() -> None:
            is_late.set()
            process.kill()

        patience = ANSWER_SECONDS if self._has_answered else FIRST_SECONDS
        limit = threading.Timer(patience, give_up)
        limit.daemon = True
        try:
            limit.start()
        except RuntimeError as error:
            raise NoForecast(f"no look ahead was possible: {error}: {MORE_PROCESSES}") from error
        try:
            process.stdin.write(msgspec.json.encode(question) + b"\n")
            process.stdin.flush()
            reply = msgspec.json.decode(process.stdout.readline(), type=Reply)
            self._has_answered = True
            return reply
        except (OSError, ValueError) as error:  # ValueError: closed, or no JSON, since it was killed
            self._end()
            if self._closed.is_set():
                raise NoForecast("no look ahead was possible: this replica ends") from error
            if is_late.is_set():
                why = f"it took longer than {patience:g} s: ask again; the log may say why"
                raise NoForecast(f"no look ahead was possible: {why}") from error
            raise _Ended(f"no look ahead was possible: {_why_ended(process.returncode)}") from error
        finally:
            limit.cancel()

    def _begin(self) -> subprocess.Popen[bytes]:
        if self._closed.is_set():
            raise NoForecast("this replica ends")
        if lacking := lacking_memory():
            raise NoForecast(f"no look ahead was possible: {lacking}: {_MORE_MEMORY}")
        path = os.pathsep.join(filter(None, sys.path))  # a launcher may have put the packages there
        try:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "controller.forecaster"],
                env={**os.environ, "PYTHONPATH": path},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                # Ctrl-C is for the asker, whose end ends it. It stays in the asker's session: where Linux
                # shares the processors among sessions (sched_autogroup), a niceness counts only within one.
                process_group=0,
            )
            self._process, self._has_answered = process, False
            # no zombie stays of a process that ends because nobody asks
            threading.Thread(target=process.wait, name="forecaster-end", daemon=True).start()
            assert process.stdin is not None
            process.stdin.write(msgspec.json.encode(self._subject) + b"\n")
        except (OSError, RuntimeError) as error:  # RuntimeError: no more threads
            self._end()
            raise NoForecast(
                f"no process could be begun that looks ahead: {error}: {MORE_PROCESSES}"
            ) from error
        log.info("forecaster begun", pid=process.pid)
        return process

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):
                pipe.close()
        process.wait()


def _why_ended(code: int) -> str:
    """Why a process has ended that shall look ahead, by its exit code."""
    if code == EXIT_MEMORY:
        return f"less than {RESERVE_BYTES >> 20} MiB of memory were left: {_MORE_MEMORY}"
    if code == -signal.SIGKILL:
        return f"its process was killed, as the kernel does when memory runs out: {_MORE_MEMORY}"
    if code < 0:
        return f"its process was ended by signal {-code} ({signal.strsignal(-code)})"
    return "its process has ended; the log may say why"
