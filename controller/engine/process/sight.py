"""Observes the attempts of the process engine, by their folders.

The content of a folder affects its attempt alone: if it cannot be read, the attempt is reported as Unknown,
with the reason.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from msgspec.structs import replace

from controller.clock import Clock
from controller.core.model.task import AttemptId, Observation, Phase
from controller.engine.process import attempt_folder as files
from controller.engine.process.attempt_values import parse_record, parse_result
from controller.engine.process.search import Unproven
from controller.engine.process.settlement import OF_THE_REPLICA, settle
from controller.engine.process.table import read_process

# before an attempt that could not be settled is tried again
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.1, 10.0
_NODE = os.uname().nodename


class _Unsettled(NamedTuple):
    """Why an attempt's end could not be proven; times on the boottime clock."""

    why: Unproven
    retry_at: float
    pause_seconds: float


class ProcessSight:
    """Safe to use from several threads. Methods raise OSError if an error concerns more than one attempt."""

    def __init__(self, attempts: Path, clock: Clock) -> None:
        self._attempts = attempts
        self._clock = clock
        self._listing = threading.Lock()
        # by name; with its result's inode and time
        self._finished: dict[str, tuple[tuple[int, int], Observation]] = {}
        self._unsettled: dict[str, _Unsettled] = {}

    def observe_all(self) -> list[Observation]:
        """All attempts. A finished one is read once, and costs one stat afterwards."""
        with self._listing:  # one at a time: the second finds what the first has read
            return self.observe(_names_in(self._attempts))

    def observe_one(self, name: str) -> Observation | None:
        """The attempt of this name; None if there is no claim."""
        return next(iter(self.observe([name])), None)

    def observe(self, names: Iterable[str]) -> list[Observation]:
        """The attempts of these names; those without a supervisor are settled first."""
        attempts = dict(_parsed(names))
        found = {name: self._look(name, attempt) for name, attempt in attempts.items()}
        now = self._clock.boottime()
        due = [name for name, seen in found.items() if _is_unsettled(seen) and self._retry_at(name) <= now]
        unproven = settle((self._attempts / name for name in due), self._clock.now())
        for name in due:
            before = self._unsettled.pop(name, None)
            why = unproven.get(self._attempts / name)
            if why is not None:
                pause = (
                    min(2 * before.pause_seconds, _LONGEST_PAUSE_SECONDS)
                    if before is not None
                    else _FIRST_PAUSE_SECONDS
                )
                self._unsettled[name] = _Unsettled(why, self._clock.boottime() + pause, pause)
            found[name] = self._look(name, attempts[name])
        return [seen for seen in found.values() if seen is not None]

    def ended_before(self, name: str, time_seconds: float) -> bool:
        """Whether it is known to have ended before that time, in seconds since the epoch."""
        finished = self._finished.get(name)
        return finished is not None and finished[0][1] < time_seconds * 1e9

    def forget(self, name: str) -> None:
        """Note that the attempt was removed."""
        self._finished.pop(name, None)
        self._unsettled.pop(name, None)

    def _retry_at(self, name: str) -> float:
        unsettled = self._unsettled.get(name)
        return unsettled.retry_at if unsettled is not None else 0.0

    def _look(self, name: str, attempt: AttemptId) -> Observation | None:
        """The observation of a folder: None without a claim, phase Unknown if it has no supervisor."""
        try:
            try:
                return self._look_inside(name, attempt)
            except PermissionError:
                os.chmod(self._attempts / name, 0o700)  # the task may have closed its own folder to us
                return self._look_inside(name, attempt)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            if error.errno in OF_THE_REPLICA:
                raise
            if error.errno == errno.EPERM:
                return None  # another user's folder: left alone
            return lost(attempt, Unproven("FolderUnusable", f"its folder cannot be read: {error}"))

    def _look_inside(self, name: str, attempt: AttemptId) -> Observation | None:
        folder = f"{self._attempts}/{name}"  # no pathlib: a take-over waits until all were read
        path = f"{folder}/{files.RESULT}"
        known = self._finished.get(name)
        if known is not None:
            with suppress(FileNotFoundError):
                status = os.lstat(path)
                if known[0] == (status.st_ino, status.st_mtime_ns):
                    return known[1]
        if not is_folder(folder):
            return None
        # Checked before reading: only what was written before the lock was free counts.
        held, lock_inode = files.held(folder)
        seen = (
            self._result(name, attempt, path, lock_inode) if held is files.Held.FREE and lock_inode else None
        )
        return seen or self._claimed(self._attempts / name, attempt, held)

    def _result(self, name: str, attempt: AttemptId, path: str, lock_inode: int) -> Observation | None:
        """The observation of an ended attempt; None if it has no valid result."""
        try:
            version, data = files.read_versioned(path)
        except OSError as error:
            if error.errno in OF_THE_REPLICA:
                raise
            return None  # something that the task put in its place is not a result
        result = parse_result(data) if data is not None else None
        if result is None or result.lock_inode != lock_inode:
            return None
        seen = result.observation(attempt, _NODE)
        self._finished[name] = (version, seen)
        return seen

    def _claimed(self, folder: Path, attempt: AttemptId, held: files.Held) -> Observation | None:
        """The observation by the attempt's record."""
        trouble = "it cannot be parsed"
        try:
            data = files.read_bytes(folder, files.RECORD)
        except OSError as error:
            if error.errno in OF_THE_REPLICA:
                raise
            data, trouble = b"", str(error)
        unsettled = self._unsettled.get(folder.name)
        # nothing was claimed; where it is being stopped, something of it may run all the same
        if data is None:
            return lost(attempt, unsettled.why) if unsettled is not None else None
        record = parse_record(data)
        phase = Phase.RUNNING if record.started_at else Phase.PENDING
        seen = Observation(
            attempt=attempt, phase=phase, uid=record.uid, node=_NODE, started_at=record.started_at
        )
        if held is not files.Held.SUPERVISED:
            why = (
                unsettled.why
                if unsettled is not None
                else Unproven("SupervisorLost", "its processes may still run")
            )
            return replace(seen, phase=Phase.UNKNOWN, reason=why.reason, message=why.message)
        if not record.uid:
            return replace(
                seen,
                phase=Phase.UNKNOWN,
                reason="RecordUnreadable",
                message=f"its record cannot be used: {trouble}",
            )
        supervisor = read_process(record.supervisor)
        if supervisor is not None and supervisor.is_stopped:
            pid = supervisor.pid
            message = (
                f"its supervisor is stopped: resume it (kill -CONT {pid}), or end the attempt (kill -KILL"
                f" {pid})"
            )
            return replace(seen, phase=Phase.UNKNOWN, reason="SupervisorStopped", message=message)
        return seen


def lost(attempt: AttemptId, why: Unproven, uid: str = "") -> Observation:
    """The observation of an attempt that may still run."""
    return Observation(
        attempt=attempt, phase=Phase.UNKNOWN, uid=uid, node=_NODE, reason=why.reason, message=why.message
    )


def is_folder(path: Path | str) -> bool:
    """Whether the path is a folder, and not a link to one. Raises OSError."""
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def _is_unsettled(seen: Observation | None) -> bool:
    """Whether the attempt may need to be settled: it is not shown, or has no supervisor."""
    supervised = ("SupervisorStopped", "RecordUnreadable")
    return seen is None or (seen.phase is Phase.UNKNOWN and seen.reason not in supervised)


def _names_in(folder: Path) -> list[str]:
    """The names in the folder, whose permissions a task may have changed."""
    try:
        return os.listdir(folder)
    except PermissionError:
        os.chmod(folder, 0o700)
        return os.listdir(folder)


def _parsed(names: Iterable[str]) -> Iterator[tuple[str, AttemptId]]:
    for name in names:
        try:
            yield name, AttemptId.parse(name)
        except ValueError:
            continue  # not ours: left alone
