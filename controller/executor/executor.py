"""`TallyExecutor`: see the class."""

from __future__ import annotations

import itertools
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar

import structlog

from controller.client import Client, NotFound, TaskView
from controller.core.model.lifecycle import State
from controller.core.model.own_labels import EXECUTOR
from controller.core.model.requests import RequestKind
from controller.errors import Closed, InvalidField, TallyError
from controller.executor.call_folder import RUN, CallError, CallFolder

READERS = 8  # results that are read at the same time
PAUSE_SECONDS = 1.0  # before a watch that broke off is begun again

T = TypeVar("T")
Call = tuple[Callable[..., Any], Sequence[Any], Mapping[str, Any]]
_log = structlog.get_logger(__name__)


class CallFailed(Exception):
    """A call has no result: its task failed before it could write one, or was removed."""


class TallyFuture(Future[T]):
    """A call. `task_id` is its task: `tally explain` says why it waits."""

    def __init__(self, executor: TallyExecutor, task_id: str) -> None:
        super().__init__()
        self._executor = executor
        self.task_id = task_id
        self.is_stored = False  # whether its task has been submitted
        self.turn = threading.RLock()  # of whoever ends it
        self._is_running = False

    def cancel(self) -> bool:
        """Cancel the call, also while it runs: Tally stops its attempt.

        Returns False if it has ended, also if its result has not been read yet. Raises a TallyError if that
        could not be asked for.
        """
        if self.done():
            return self.cancelled()
        with suppress(NotFound):
            asked = self._executor.client.cancel(self.task_id, reason="its future was cancelled")
            if asked.outcome == "already finished":
                return False
        with self.turn:
            if not self.done() and super().cancel():
                self.set_running_or_notify_cancel()
        return self.cancelled()

    def running(self) -> bool:
        """Whether an attempt of it runs."""
        return self._is_running and not self.done()

    def see(self, view: TaskView) -> None:
        """Its task is like this now."""
        self._is_running = view.state is State.RUNNING

    def end(self, value: Any) -> None:
        """It has ended with a value, or with a CallError, unless it was cancelled."""
        with self.turn:
            if self.cancelled() or not self.set_running_or_notify_cancel():
                return
            if isinstance(value, CallError):
                self.set_exception(value.error)
            else:
                self.set_result(value)


class TallyExecutor(Executor):
    """Runs calls as tasks of Tally.

        with TallyExecutor(connect(), folder="/shared/calls", resources={"cpu": 1}) as executor:
            for loss in executor.map(train, rates):
                print(loss)

    `folder` is where calls and results are kept: a folder that all machines share, or a URL that fsspec
    knows. It should be yours alone: pickles are code. `python` is the interpreter of the tasks; in an image
    it must have cloudpickle and fsspec. `task` has further fields of each task, such as `pool`, `owner`,
    `image` and `retry`: a call whose function raises is tried again as `retry` says. With `keep`, calls and
    results stay in the folder.

    Any thread may use it. Raises InvalidField, Conflict and the errors of the client at `submit` and `map`.
    If the client is closed, futures that wait raise Closed, and their calls run on.
    """

    def __init__(
        self,
        client: Client,
        *,
        folder: str,
        resources: Mapping[str, Any] | None = None,
        python: Sequence[str] = (sys.executable,),
        name: str = "call",
        keep: bool = False,
        **task: Any,
    ) -> None:
        taken = [field for field in ("id", "command", "args") if field in task]
        if taken:
            raise InvalidField(taken[0], "is the executor's to choose: leave it out")
        self.client = client
        self._calls = CallFolder(folder)
        self._run = uuid.uuid4().hex[:8]
        self._name = name
        self._keep = keep
        self._python = list(python)
        labels = {**task.pop("labels", {}), EXECUTOR: self._run}
        self._task = {"labels": labels, "resources": dict(resources or {"cpu": 1}), **task}
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._futures: dict[str, TallyFuture[Any]] = {}
        self._settled = threading.Condition(self._lock)
        self._readers = ThreadPoolExecutor(READERS, "tally-executor-results")
        self._watcher: threading.Thread | None = None
        self._is_shut_down = False

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> TallyFuture[T]:
        """See Executor. The call has been stored when this returns: it runs even if this program ends."""
        sent: list[TallyFuture[T]] = self._send([(fn, args, kwargs)])
        return sent[0]

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        **_: Any,
    ) -> Iterator[T]:
        """See Executor. All calls are submitted together; `chunksize` of them run in one task each."""
        until = None if timeout is None else time.monotonic() + timeout
        calls = list(zip(*iterables, strict=False))
        if chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        chunks = [calls[begin : begin + chunksize] for begin in range(0, len(calls), chunksize)]
        futures: list[TallyFuture[list[T]]] = self._send([(_each, (fn, chunk), {}) for chunk in chunks])

        def results() -> Iterator[T]:
            try:
                for future in futures:
                    yield from future.result(None if until is None else until - time.monotonic())
            finally:
                for future in futures:
                    if not future.done():
                        future.cancel()

        return results()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """See Executor. `cancel_futures` cancels what does not run yet; the rest runs on."""
        with self._lock:
            self._is_shut_down = True
            futures = list(self._futures.values())
        if cancel_futures:
            for future in futures:
                if not future.running():
                    future.cancel()
        if wait:
            with self._settled:
                self._settled.wait_for(lambda: not self._futures)
            self._readers.shutdown()

    # -- details

    def _send(
        self, calls: Sequence[tuple[Callable[..., Any], Sequence[Any], Mapping[str, Any]]]
    ) -> list[Any]:
        """Store the calls, and submit their tasks. All have futures; or the error is raised, and of those
        that were submitted by then each is cancelled.
        """
        futures, tasks = [], []
        try:
            for function, args, kwargs in calls:
                task_id = f"{self._name}-{self._run}-{next(self._numbers)}"
                futures.append(TallyFuture[Any](self, task_id))
                url = self._calls.store(task_id, function, args, kwargs)
                tasks.append({**self._task, "id": task_id, "command": [*self._python, "-c", RUN, url]})
            with self._lock:
                if self._is_shut_down:
                    raise RuntimeError("cannot schedule new futures after shutdown")
                self._futures |= {future.task_id: future for future in futures}
            for result in self.client.submit_many(tasks):
                if result.outcome not in ("created", "unchanged"):
                    field = result.field or "task"
                    raise InvalidField(field, result.message.removeprefix(f"{field}: "))
        except BaseException as error:
            names = {future.task_id for future in futures}
            with self._settled:
                was_sent = not self._futures.keys().isdisjoint(names)
                for name in names:
                    self._futures.pop(name, None)
                self._settled.notify_all()
            self._take_back(names, error, was_sent=was_sent)
            raise
        with self._lock:
            for future in futures:
                future.is_stored = True
            if self._watcher is None:
                self._watcher = threading.Thread(target=self._watch, name="tally-executor", daemon=True)
                self._watcher.start()
        return futures

    def _take_back(self, names: set[str], why: BaseException, *, was_sent: bool) -> None:
        """Cancel those of these tasks that were submitted, and remove their calls: nobody waits for them."""
        try:
            found = self.client.tasks(selector=f"{EXECUTOR}={self._run}") if was_sent else []
            stored = [view.id for view in found if view.id in names]
            for name in stored:
                self.client.cancel(name, reason="other calls of its kind could not be submitted")
        except TallyError as error:
            why.add_note(f"calls that were submitted before may run, and could not be cancelled: {error}")
            return  # they need what they call
        if stored:
            why.add_note(f"{len(stored)} calls were submitted before, and are cancelled")
        for name in sorted(names):
            self._remove(name)

    def _remove(self, name: str) -> None:
        if self._keep:
            return
        try:
            self._calls.remove(name)
        except FileNotFoundError:
            pass  # it could not be stored
        except OSError as error:
            _log.warning("a call was not removed", task=name, error=str(error))

    def _watch(self) -> None:
        while not self._is_over():
            try:
                self._follow()
            except Closed as error:
                self._give_up(error)
                return
            except Exception as error:  # noqa: BLE001  # whatever it is, calls are waited for
                if not self._is_over():
                    _log.warning(
                        "the watch of an executor's tasks broke off", error=f"{type(error).__name__}: {error}"
                    )
                    time.sleep(PAUSE_SECONDS)

    def _give_up(self, why: Closed) -> None:
        """Nobody can hear any more of the calls, which run on."""
        with self._settled:
            futures, self._futures = self._futures, {}
            self._settled.notify_all()
        for future in futures.values():
            future.end(CallError(why, ""))

    def _follow(self) -> None:
        known = self._stored()
        looks = self.client.watch_tasks(selector=f"{EXECUTOR}={self._run}")
        try:
            for views in looks:
                for view in views:
                    self._see(view)
                # a whole look lacks, of what was there before it, what is gone; others name it
                shown = {view.id for view in views}
                for task_id in sorted(known - shown if views.is_whole else known & views.gone):
                    self._lose(task_id)
                known = self._stored()
                if self._is_over():
                    return
        finally:
            looks.close()

    def _stored(self) -> set[str]:
        with self._lock:
            return {task_id for task_id, future in self._futures.items() if future.is_stored}

    def _is_over(self) -> bool:
        with self._lock:
            return self._is_shut_down and not self._futures

    def _see(self, view: TaskView) -> None:
        future = self._futures.get(view.id)
        if future is None:
            return
        future.see(view)
        if view.finished and RequestKind.RETRY not in view.requests:
            with self._settled:  # `shutdown` ends the readers once no call is left
                if self._futures.pop(view.id, None) is not None:
                    self._readers.submit(self._settle, future, view)
                self._settled.notify_all()

    def _settle(self, future: TallyFuture[Any], view: TaskView) -> None:
        """Give the future its result, and remove the call."""
        try:
            outcome = self._outcome(view)
        except Exception as error:  # noqa: BLE001  # whatever it is, the caller of `result` must learn of it
            outcome = CallError(error, "")
        self._tell(future, outcome)

    def _tell(self, future: TallyFuture[Any], outcome: Any) -> None:
        if isinstance(outcome, CallError) and outcome.trace:
            outcome.error.add_note(f"In task {future.task_id}:\n{outcome.trace}")
        future.end(outcome)
        self._remove(future.task_id)

    def _outcome(self, view: TaskView) -> Any:
        if view.state is State.CANCELLED:
            return CallError(CallFailed(f"task {view.id} was cancelled: {view.message}"), "")
        try:
            return self._calls.result(view.id, view.attempt)
        except FileNotFoundError:
            why = f"{view.state}, {view.reason}: {view.message}".strip(", :")
            return CallError(
                CallFailed(f"task {view.id} wrote no result ({why}): see `tally logs {view.id}`"), ""
            )

    def _lose(self, task_id: str) -> None:
        with self._settled:
            future = self._futures.pop(task_id, None)
            if future is not None:
                self._readers.submit(self._settle_lost, future)
            self._settled.notify_all()

    def _settle_lost(self, future: TallyFuture[Any]) -> None:
        """Give the future the newest result, which its task may have written before it was removed."""
        name = future.task_id
        try:
            attempt = self._calls.newest(name)
            outcome = self._calls.result(name, attempt) if attempt else None
        except Exception as error:  # noqa: BLE001  # whatever it is, the caller of `result` must learn of it
            attempt, outcome = 1, CallError(error, "")
        if attempt:
            self._tell(future, outcome)
        else:
            future.end(CallError(CallFailed(f"task {name} was removed before its result was read"), ""))


def _each(function: Callable[..., T], calls: Iterable[Sequence[Any]]) -> list[T]:
    return [function(*args) for args in calls]
