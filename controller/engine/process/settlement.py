"""Writes the results of attempts whose supervisor was killed, or whose machine was rebooted.

Any replica may do this at any time: each attempt is settled once, under its lock. A result is written only
when no process holds the inherited lock, and a search of all processes (`search`) has found none of the
attempt. Only a process that closed what it inherited and hides from the search escapes; nothing escapes a
supervisor that lives.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from controller.engine.process import attempt_folder as files
from controller.engine.process.attempt_origin import Origin, this_boot
from controller.engine.process.attempt_values import Record, parse_record, parse_result
from controller.engine.process.search import Unproven, end_all

_LOCKS_AT_ONCE = 200  # each is an open file
OF_THE_REPLICA = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
"""Errors that say nothing about the attempt whose file could not be opened."""


def never_started(now: float) -> dict[str, Any]:
    """The result of an attempt that was stopped before its start: the tombstone that forbids a start."""
    return {
        "uid": "",
        "phase": "Failed",
        "ran": False,
        "reason": "NeverStarted",
        "message": "a stop was requested before the attempt had started",
        "started_at": None,
        "finished_at": now,
    }


def settle(folders: Iterable[Path], now: float) -> dict[Path, Unproven]:
    """Settle the attempts that have no supervisor; returns why, for those that cannot be settled.

    One such attempt does not stop the others. Raises OSError for errors of the machine or of this replica.
    """
    unproven: dict[Path, Unproven] = {}
    remaining = list(folders)
    while remaining:
        batch, remaining = remaining[:_LOCKS_AT_ONCE], remaining[_LOCKS_AT_ONCE:]
        with ExitStack() as locks:
            taken: dict[Path, files.Lock] = {}
            origins: dict[Path, Origin | None] = {}
            for folder in batch:
                try:
                    lock = files.Lock.take(folder)
                    if lock is None:
                        continue
                    taken[folder] = locks.enter_context(lock)
                    end = _end_without_supervisor(folder, lock, now)
                except OSError as error:
                    unproven[folder] = _unusable(error, "its folder cannot be used")
                    continue
                if end is not None:
                    origins[folder] = end[1]
            unproven |= end_all(origins)
            for folder in origins.keys() - unproven.keys():
                why = _write(folder, taken[folder], now)
                if why is not None:
                    unproven[folder] = why
    return unproven


def _end_without_supervisor(
    folder: Path, lock: files.Lock, now: float
) -> tuple[dict[str, Any], Origin | None] | None:
    """The result to write once no process of the attempt is left, and its origin; None for no result.

    The caller holds the lock.
    """
    data = _read(folder, files.RESULT) or b""
    result = parse_result(data)
    if result is not None and result.lock_inode == lock.inode and not lock.is_inherited():
        return None
    record_data = _read(folder, files.RECORD)
    record = parse_record(record_data or b"")
    origin = record.origin
    if result is not None:
        # of an older version, or the task's own doing: it counts once nothing runs
        return files.parse(data), origin
    if record_data is None:
        return (never_started(now), None) if files.exists(folder, files.STOP) else None
    if origin is not None and origin.boot != this_boot():
        message = "the machine was restarted while the attempt ran"
        return _failure(record, now, "MachineRebooted", message, disrupted=True), origin
    message = "the attempt's supervisor was killed; what was left of the attempt has ended"
    return _failure(record, now, "SupervisorLost", message), origin


def _read(folder: Path, name: str) -> bytes | None:
    """The file's content; b"" if the task has replaced the file."""
    try:
        return files.read_bytes(folder, name)
    except OSError as error:
        if error.errno in OF_THE_REPLICA:
            raise
        return b""


def _failure(
    record: Record, now: float, reason: str, message: str, *, disrupted: bool = False
) -> dict[str, Any]:
    return {
        "uid": record.uid,
        "phase": "Failed",
        "ran": True,
        "reason": reason,
        "message": message,
        "started_at": record.started_at,
        "finished_at": now,
        "disrupted": disrupted,
    }


def _write(folder: Path, lock: files.Lock, now: float) -> Unproven | None:
    """Write the result; returns why it could not be written, or None."""
    try:
        if lock.is_inherited():
            return Unproven(
                "SupervisorLost", "it has no supervisor, and a process that cannot be seen holds its lock"
            )
        # Read again: a supervisor whose lock the task had removed may have ended by itself during the search.
        end = _end_without_supervisor(folder, lock, now)
        if end is not None:
            files.write(folder, files.RESULT, {**end[0], "lock_inode": lock.inode}, durable=True)
    except OSError as error:
        return _unusable(error, "its end cannot be recorded")
    return None


def _unusable(error: OSError, what: str) -> Unproven:
    if error.errno in OF_THE_REPLICA:
        raise error
    return Unproven("SupervisorLost", f"it has no supervisor, and {what}: {error}")
