"""Writes the result of attempts whose supervisor is gone without having done so (killed, or the machine was
rebooted).

Any replica may do it at any time: each attempt is settled under its lock, once. No result is written before
nobody has inherited the attempt's lock any more, and a search of all processes (`process_search`) has found
none of the attempt's. Only a process that closed what it inherited and hides from the search escapes; nothing
escapes a supervisor that lives.
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
"""Errors that tell nothing of the attempt whose file could not be opened."""


def never_started(now: float) -> dict[str, Any]:
    """The result of an attempt that was stopped before it was started: the tombstone that keeps it from
    ever running.
    """
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
    """Settle those of the attempts that nobody supervises, and that can be; returns why not, of the others.

    One that cannot be settled keeps nobody from being settled. Raises OSError for what is the machine's or
    this replica's.
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
    """Under the lock: the result to write once nothing of it runs any more, and where to look for that;
    None for nothing.
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
    """What the file says; b"" for what the task put in its place."""
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
    """Returns why not."""
    try:
        if lock.is_inherited():
            return Unproven(
                "SupervisorLost", "nobody supervises it, and a process that cannot be seen holds its lock"
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
    return Unproven("SupervisorLost", f"nobody supervises it, and {what}: {error}")
