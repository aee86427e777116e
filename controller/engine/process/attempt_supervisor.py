"""The supervisor of an attempt: a detached process, like a container's shim.

A fork server (`supervisor`) forks it. It has a session of its own and none of the controller's open files,
and it ends only after its attempt.

Its steps are safe at whatever point it is killed:
1. It takes the attempt's lock, and holds it for life. If another process has the lock, or there is a record,
   nothing is to be done.
2. If there is a stop request, it writes the result NeverStarted.
3. It forks the command's process, which inherits a lock of its own, and waits at a gate before it executes
   anything.
4. It writes the record (the claim), and opens the gate. If it is killed before, the child never executes, and
   there is no record. If it is killed after, the child dies, too (PR_SET_PDEATHSIG), and the record helps to
   find what is left.
5. It waits for the end of the command, for a stop request (through the FIFO, as a file if there was space, or
   as SIGTERM if the task removed both), or for SIGTERM from a shutdown of the machine.
6. It kills what is left, until the kernel reports that it has no more children (ECHILD). It is a subreaper,
   so orphans of any session become its children. Only then it writes the result, which counts once the lock
   is released.
"""

from __future__ import annotations

import ctypes
import errno
import math
import os
import select
import signal
import time
import traceback
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from controller.engine.process import attempt_folder as files
from controller.engine.process.attempt_command import execute, why_not_executed
from controller.engine.process.attempt_origin import BOOT_LETTERS, Origin, boot_id
from controller.engine.process.table import pid_namespace, processes, read_process

INTERRUPT_GRACE_SECONDS = 5.0
"""The time from SIGTERM to SIGKILL when the supervisor itself is told to end.

A machine that shuts down gives about this long.
"""

# how long another process may hold the lock of an attempt without a record before the start gives up
_CLAIM_SECONDS = 5.0
# the pause between checks of what no event announces: a free lock, a process that does not die, a full disk
_RETRY_SECONDS = 0.1
_RECORD_RETRY_SECONDS = 1.0
_PR_SET_CHILD_SUBREAPER = 36

_libc = ctypes.CDLL(None, use_errno=True)

Reply = Callable[[dict[str, Any]], None]


class Supervisor:
    """Runs one attempt from claim to result. `launch` is what `ProcessEngine.start` sends."""

    def __init__(self, launch: dict[str, Any], reply: Reply) -> None:
        self._launch = launch
        self._folder = Path(launch["folder"])
        self._reply = reply
        # Invariant: it is reaped only after the last signal to its group, so that the pid stays its own
        self._main = 0
        self._main_status: int | None = None  # from os.waitid: the exit code, or minus the signal
        self._finished_at = 0.0
        self._stop: dict[str, Any] | None = None
        self._kill_at = 0.0  # on the monotonic clock; set when stopping
        self._is_interrupted = False  # whether SIGTERM told the supervisor to end
        self._lock: files.Lock | None = None
        self._record: dict[str, Any] = {}
        self._is_recorded_whole = True
        self._signals, self._signals_in = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._wake = -1

    def run(self) -> None:
        """Take steps 1 to 6 of the module's docstring.

        `reply` is called once: started, exists, or error.
        """
        try:
            self._lock = self._claim()
            if self._lock is None:
                return
            failure = self._start()
        except OSError as error:
            self._abandon_child()
            self._reply({"error": f"{error.strerror or error}: {error.filename or self._folder}"})
            return
        if failure is not None:
            self._finish({"phase": "Failed", "ran": False, "reason": failure[0], "message": failure[1]})
            self._reply({"started": True})
            return
        self._reply({"started": True})
        outcome = self._wait_for_end()
        self._end_everything()
        self._finish(outcome)

    def _claim(self) -> files.Lock | None:
        give_up_at = time.monotonic() + _CLAIM_SECONDS
        while (lock := files.Lock.take(self._folder, make=True)) is None:
            if self._is_recorded():
                self._reply({"exists": True})
                return None
            if time.monotonic() > give_up_at:
                self._reply(
                    {
                        "error": (
                            f"the lock of {self._folder} is held by another process, which has written no"
                            " record"
                        )
                    }
                )
                return None
            time.sleep(_RETRY_SECONDS / 10)
        if not self._is_recorded():
            return lock
        self._reply({"exists": True})
        lock.release()
        return None

    def _is_recorded(self) -> bool:
        return any(files.exists(self._folder, name) for name in (files.RECORD, files.RESULT))

    def _start(self) -> tuple[str, str] | None:
        """Take steps 2 to 4; returns why the command could not be executed (reason and message), or None.

        Raises OSError.
        """
        signal.set_wakeup_fd(self._signals_in, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, self._on_signal)
        signal.signal(signal.SIGTERM, self._on_signal)
        if _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "cannot become a subreaper")
        fifo = self._folder / files.WAKE
        if not fifo.exists():
            os.mkfifo(fifo, 0o600)
        self._wake = os.open(fifo, os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        # Checked after the FIFO was opened: a request is either seen here, or arrives there.
        if files.exists(self._folder, files.STOP):
            return "NeverStarted", "a stop was requested before the attempt had started"
        inherited = files.open_inherited(self._folder)
        gate_out, self._gate = os.pipe2(os.O_CLOEXEC)
        failure_out, failure_in = os.pipe2(os.O_CLOEXEC)
        parent = os.getpid()
        self._main = os.fork()
        if self._main == 0:
            os.close(self._gate)
            execute(self._launch, parent, gate_out, failure_in, inherited)
        for descriptor in (gate_out, failure_in, inherited):
            os.close(descriptor)
        process = read_process(self._main)
        started, boot = process.started if process else 0, boot_id()
        assert self._lock is not None
        origin = Origin(self._main, started, pid_namespace(), self._lock.inode, boot[:BOOT_LETTERS])
        self._record = {
            "uid": origin.to_uid(uuid.uuid4().hex[:8]),
            "boot_id": boot,
            "supervisor": parent,
            "session": origin.session,
            "session_started": origin.session_started,
            "term": self._launch["term"],
            "memory_bytes": self._launch["memory_bytes"],
            "started_at": None,
        }
        files.write(self._folder, files.RECORD, self._record, durable=True)
        with suppress(BrokenPipeError):  # the child was killed already; its end is handled like any other
            os.write(self._gate, b"!")
        with os.fdopen(failure_out, "rb") as stream:
            failure = stream.read()  # ends when the command is executed, or could not be
        if failure:
            os.waitpid(self._main, 0)
            return why_not_executed(failure)
        self._record["started_at"] = time.time()
        self._complete_record()
        return None

    def _complete_record(self) -> None:
        """Add the start time to the record; do not wait for the disk, since a stop request may come."""
        try:
            files.write(self._folder, files.RECORD, self._record)
            self._is_recorded_whole = True
        except OSError:
            if self._is_recorded_whole:
                show_error()
            self._is_recorded_whole = False

    def _abandon_child(self) -> None:
        if self._main and not self._record.get("started_at"):
            os.close(self._gate)  # a closed gate ends the child
            os.waitpid(self._main, 0)

    def _on_signal(self, number: int, _frame: object) -> None:
        self._is_interrupted = self._is_interrupted or number == signal.SIGTERM

    def _wait_for_end(self) -> dict[str, Any]:
        """Take step 5: wait for the main process to end, and forward stop requests to its group.

        Returns what to record.
        """
        poll = select.poll()
        poll.register(self._signals, select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        announced = False
        while True:
            self._reap()
            if self._main_status is not None:
                return self._outcome(self._main_status, announced)
            self._read_request()
            if self._stop is not None and not announced:
                if self._stop["grace_seconds"] > 0:
                    _send_signal(os.killpg, self._main, signal.SIGTERM)
                announced = True
                self._kill_at = time.monotonic() + self._stop["grace_seconds"]
            timeout = None if self._is_recorded_whole else _RECORD_RETRY_SECONDS * 1000
            if announced:
                left = self._kill_at - time.monotonic()
                if left <= 0:
                    _send_signal(os.killpg, self._main, signal.SIGKILL)
                timeout = max(left, _RETRY_SECONDS) * 1000
            poll.poll(timeout)
            _drain(self._signals)
            if not self._is_recorded_whole:
                self._complete_record()

    def _read_request(self) -> None:
        """Take up a stop request. A repeated one can only shorten the grace."""
        requests = [files.parse(line) for line in _drain(self._wake).splitlines()]
        try:
            requests.append(files.read_request(self._folder) or {})
        except OSError:
            show_error()  # the task has replaced the file
        if self._is_interrupted and not any(requests):
            requests.append({"reason": "Interrupted", "grace_seconds": INTERRUPT_GRACE_SECONDS})
        for request in filter(None, requests):
            grace = _seconds(request.get("grace_seconds"))
            if self._stop is None:
                reason, message = str(request.get("reason", "Stopped")), str(request.get("message", ""))
                self._stop = {"reason": reason, "grace_seconds": grace, "message": message}
            self._stop["grace_seconds"] = min(self._stop["grace_seconds"], grace)
            self._kill_at = min(self._kill_at, time.monotonic() + grace) if self._kill_at else 0.0

    def _reap(self) -> None:
        """Reap orphans that became our children, and note the end of the main process without reaping it."""
        while True:
            try:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                raise AssertionError("the main process was reaped by another process") from None
            if ended is None:
                return
            if ended.si_pid == self._main:
                self._main_status = ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status
                self._finished_at = time.time()
                return
            os.waitpid(ended.si_pid, 0)

    def _end_everything(self) -> None:
        """Take step 6: return when no process of the attempt is left.

        After a stop request, the other processes have the rest of the grace.
        """
        poll = select.poll()
        poll.register(self._signals, select.POLLIN)
        asked: set[int] = set()
        while self._kill_at and time.monotonic() < self._kill_at:
            rest = self._rest()
            if not rest:
                break
            for pid in rest - asked:
                # an unreaped child of ours: the pid is its own
                _send_signal(os.kill, pid, signal.SIGTERM)
            asked |= rest
            poll.poll(_RETRY_SECONDS * 1000)
            _drain(self._signals)
            self._read_request()
        _send_signal(os.killpg, self._main, signal.SIGKILL)
        os.waitpid(self._main, 0)
        while True:
            try:
                pid, _ = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                # the proof of stop: we reap all that the attempt forked, and nothing is left to reap
                return
            if pid == 0:
                for child in self._rest():
                    _send_signal(os.kill, child, signal.SIGKILL)
                poll.poll(_RETRY_SECONDS * 1000)
                _drain(self._signals)

    def _rest(self) -> set[int]:
        """Our children that still run. Orphans join them when their parents end."""
        me = os.getpid()
        return {process.pid for process in processes() if process.parent == me}

    def _outcome(self, status: int, announced: bool) -> dict[str, Any]:
        number = -status if status < 0 else None
        result: dict[str, Any] = {
            "ran": True,
            "exit_code": 128 + number if number else status,
            "signal": number,
        }
        how = (
            f"was killed by signal {number} ({signal.strsignal(number)})"
            if number
            else f"exited with code {status}"
        )
        # A command that ended by itself before the request was not stopped by it. A machine that shuts down
        # may have sent the signal to both processes.
        if self._stop is not None and (announced or number):
            reason = self._stop["reason"]
            message = self._stop.get("message") or how
            return {
                **result,
                "phase": "Failed",
                "reason": reason,
                "message": message,
                "disrupted": reason == "Interrupted",
            }
        if status == 0:
            return {**result, "phase": "Succeeded", "reason": "Completed"}
        return {**result, "phase": "Failed", "reason": "Error", "message": how}

    def _finish(self, result: dict[str, Any]) -> None:
        times = {
            "started_at": self._record.get("started_at"),
            "finished_at": self._finished_at or time.time(),
        }
        assert self._lock is not None
        self._write_result(
            {"uid": self._record.get("uid", ""), "lock_inode": self._lock.inode, **times, **result}
        )
        self._lock.release()  # from now on, the result counts
        with suppress(OSError):  # a watcher that misses this finds the result by its next check
            files.announce(self._folder)

    def _write_result(self, result: dict[str, Any]) -> None:
        """Write the result, however long it takes.

        While the disk is full, the attempt is shown as before, and its hold is not released.
        """
        shown = False
        while True:
            try:
                return files.write(self._folder, files.RESULT, result, durable=True)
            except OSError as error:
                if error.errno in (errno.ENOENT, errno.ENOTDIR) and not self._folder.is_dir():
                    raise  # the folder was removed by hand: there is nowhere to write
                if not shown:
                    show_error()
                    shown = True
                time.sleep(_RETRY_SECONDS)


def show_error() -> None:
    """Write the error to the supervisors' log. A full disk must not end a supervisor."""
    with suppress(OSError):
        os.write(2, f"supervisor {os.getpid()}: {traceback.format_exc()}".encode())


_told: set[int] = set()
"""Processes that refused a signal."""


def _send_signal(send: Callable[[int, int], None], target: int, number: int) -> None:
    """Send a signal. A refusal, by a process with another user, is logged: its end must be waited for."""
    try:
        send(target, number)
    except PermissionError:
        if target not in _told:  # it is tried again and again, until the process has ended
            _told.add(target)
            show_error()


def _seconds(value: object) -> float:
    """A grace in seconds; 0 for an invalid value."""
    return max(0.0, value) if isinstance(value, int | float) and math.isfinite(value) else 0.0


def _drain(descriptor: int) -> bytes:
    parts = []
    try:
        while part := os.read(descriptor, 65536):
            parts.append(part)
    except BlockingIOError:
        pass
    return b"".join(parts)
