"""Keeps the end of an attempt's output, if its task asks for that: reads it and writes it under the fence.

It has a thread of its own, so that slow output delays no Start and no Stop. The thread begins with the first
log that is to be kept. A failure is counted and the log dropped: it is worth neither a retry nor a term.
"""

from __future__ import annotations

import queue
import threading
from collections import deque

import structlog

from controller import bulkhead
from controller.clock import Clock
from controller.core.model import kept_log
from controller.core.model.kept_log import LIMIT_BYTES, KeptLog
from controller.core.model.op import op_of
from controller.core.model.task import AttemptId
from controller.core.planning.events import LogKept
from controller.core.planning.plan import KeepLog
from controller.election.term import Leadership
from controller.engine.base import Engine, EngineError, LogOptions
from controller.errors import TallyError
from controller.runtime.inbox import Inbox
from controller.store.base import Guard, OutcomeUnknown, Put, Refused, Store, StoreError, Transaction
from controller.store.keys import Keys

READ_SECONDS = 10.0  # for one attempt's output; slower output is not kept
MOST_WAITING = 1000  # attempts whose output is still to be read; the output of further ones is not kept

# Each line has at least one byte. So these lines have all the bytes that are kept, and tell whether there
# were more.
_OPTIONS = LogOptions(tail=LIMIT_BYTES + 1)

log = structlog.get_logger(__name__)


class NotKept(TallyError):
    """Why a log is not kept, although neither the engine nor the store has failed."""


class LogKeeper:
    """The log keeper of one tenure.

    It keeps logs in the order in which attempts ended. So the log of a task is that of its last attempt.
    """

    def __init__(
        self, engine: Engine, leadership: Leadership, store: Store, keys: Keys, inbox: Inbox, clock: Clock
    ) -> None:
        self._engine = engine
        self._leadership = leadership
        self._store = store
        self._keys = keys
        self._inbox = inbox
        self._clock = clock
        self._waiting: queue.SimpleQueue[KeepLog | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()  # of the reading that is under way

    def keep(self, effect: KeepLog) -> None:
        """Keep the log soon; the attempt's end is committed. One thread calls this."""
        if self._waiting.qsize() >= MOST_WAITING:
            self._drop(effect, NotKept(f"{MOST_WAITING} other outputs wait to be read"))
            self._inbox.put(LogKept(self._leadership.epoch, effect, 0))
            return
        self._waiting.put(effect)
        if self._thread is None:
            name = f"log-keeper-{self._leadership.epoch}"
            self._thread = threading.Thread(target=self._run, name=name, daemon=True)
            self._thread.start()

    def close(self, timeout_seconds: float) -> bool:
        """Give up what is under way, and drop the others. True if the thread ended within the time.

        The term must have ended.
        """
        if self._thread is None:
            return True
        self._waiting.put(None)
        self._stop.set()
        self._thread.join(timeout_seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while (effect := self._waiting.get()) is not None:
            if not self._leadership.why_ended():
                self._keep(effect)

    def _keep(self, effect: KeepLog) -> None:
        revision = 0
        try:
            revision = self._write(effect, *self._read(effect.attempt))
        except OutcomeUnknown as error:
            # It may still be written. The attempt counts as being kept for the rest of the term, which is
            # about to end. So a removal of its task also deletes the log.
            self._drop(effect, error)
            return
        except (EngineError, StoreError, NotKept) as error:
            self._drop(effect, error)
        except Exception as error:  # noqa: BLE001  # counted; confined to this log
            bulkhead.caught("keep-log", error, attempt=str(effect.attempt))
        self._inbox.put(LogKept(self._leadership.epoch, effect, revision))

    def _read(self, attempt: AttemptId) -> tuple[bytes, bool]:
        """The end of its output, and whether there was more."""
        self._stop = stop = threading.Event()
        if why := self._leadership.why_ended():  # `close` may have set the one before
            raise NotKept(why)
        done = threading.Event()

        def stop_late() -> None:
            if not done.wait(READ_SECONDS):
                stop.set()

        threading.Thread(target=stop_late, name="log-limit", daemon=True).start()
        chunks: deque[bytes] = deque()
        size, is_cut = 0, False
        try:
            for chunk in self._engine.logs(attempt, follow=False, stop=stop, options=_OPTIONS):
                if stop.is_set():
                    break
                chunks.append(chunk)
                size += len(chunk)
                while size - len(chunks[0]) >= LIMIT_BYTES:
                    size -= len(chunks.popleft())
                    is_cut = True
        finally:
            done.set()
        if stop.is_set():
            raise NotKept(f"its output was not read within {READ_SECONDS:g} s")
        return b"".join(chunks)[-LIMIT_BYTES:], is_cut or size > LIMIT_BYTES

    def _write(self, effect: KeepLog, output: bytes, is_cut: bool) -> int:
        """Write the log; returns its revision.

        Raises NotKept if the term has ended, or the task is gone.
        """
        task_id, number = effect.attempt
        key, op = self._keys.log(task_id), op_of("log", self._leadership.revision, effect.attempt)
        before, _ = self._store.get(key, deadline=self._leadership.deadline)
        kept = KeptLog(
            attempt=number, text=output.decode(errors="replace"), truncated=is_cut, at=self._clock.now()
        )
        guards = (
            Guard(self._keys.leader, self._leadership.revision, on_create=True),
            Guard(self._keys.task(effect.spec_id), effect.spec_create, on_create=True),
            Guard(key, before.mod if before is not None else 0),
        )
        writing = Transaction(guards, (Put(key, kept_log.encode(kept, op)),), op)
        result = self._store.commit(writing, deadline=self._leadership.deadline)
        if isinstance(result, Refused):
            raise NotKept("the task is gone, or the term has ended")
        return result.revision

    def _drop(self, effect: KeepLog, error: Exception) -> None:
        bulkhead.count("keep-log", error)
        log.warning("log not kept", attempt=str(effect.attempt), error=str(error))
