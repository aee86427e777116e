"""Writes the result of attempts whose supervisor is gone without having done so (killed, or the machine was rebooted).

Any replica may do it at any time: each attempt is settled under its lock, once. No result is written before a pass over
all processes has found none of the attempt's: those whose environment names its folder, and those of the session that its
command was started in. What neither shows would be a process that left the session *and* cleared its environment *and*
outlived its supervisor; nothing escapes a supervisor that lives.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from controller.engine import attempt_folder as files
from controller.engine.process_table import Process, environment_value, kill_and_wait, processes

_ROUNDS = 3  # passes of find and kill in one call; what is left then is tried again by the next
_KILL_WAIT_SECONDS = 0.5
_LOCKS_AT_ONCE = 200  # each is an open file


def never_started(now: float) -> dict[str, Any]:
    """The result of an attempt that was stopped before it was started: the tombstone that keeps it from ever running."""
    return {
        "uid": "",
        "phase": "Failed",
        "ran": False,
        "reason": "NeverStarted",
        "message": "a stop was requested before the attempt had started",
        "started_at": None,
        "finished_at": now,
    }


def settle(folders: Iterable[Path], now: float) -> dict[Path, OSError]:
    """Settle those of the attempts that nobody supervises, and that can be; the others stay as they are.

    Returns those whose result could not be written (a full disk): one of them keeps nobody from seeing the others. Raises
    OSError for what cannot be read.
    """
    failures: dict[Path, OSError] = {}
    remaining = list(folders)
    while remaining:
        batch, remaining = remaining[:_LOCKS_AT_ONCE], remaining[_LOCKS_AT_ONCE:]
        with ExitStack() as locks:
            lost = {}
            for folder in batch:
                lock = files.Lock.take(folder)
                if lock is not None:
                    locks.enter_context(lock)
                    record = _settle_without_search(folder, now, failures)
                    if record is not None:
                        lost[folder] = record
            _settle_lost(lost, now, failures)
    return failures


def _settle_without_search(folder: Path, now: float, failures: dict[Path, OSError]) -> dict[str, Any] | None:
    """Under the lock: write the result, if no search for processes is needed; returns the record if one is."""
    if files.read_result(folder) is not None:
        return None
    record = files.read(folder, files.RECORD)
    if record is None:
        if files.read(folder, files.STOP) is not None:
            _write(folder, never_started(now), failures)
        return None
    if record.get("boot_id", files.boot_id()) != files.boot_id():
        message = "the machine was restarted while the attempt ran"
        _write(folder, _failure(record, now, "MachineRebooted", message, disrupted=True), failures)
        return None
    return record


def _settle_lost(lost: dict[Path, dict[str, Any]], now: float, failures: dict[Path, OSError]) -> None:
    for _ in range(_ROUNDS):
        if not lost:
            return
        found = _leftovers(lost)
        for folder in [folder for folder in lost if folder not in found]:
            message = "the attempt's supervisor was killed; what was left of the attempt has ended"
            _write(folder, _failure(lost.pop(folder), now, "SupervisorLost", message), failures)
        kill_and_wait([process for group in found.values() for process in group], _KILL_WAIT_SECONDS)


def _leftovers(lost: dict[Path, dict[str, Any]]) -> dict[Path, list[Process]]:
    """The processes of each attempt that still run, in one pass over all processes."""
    by_folder = {str(folder): folder for folder in lost}
    by_session = {record["session"]: folder for folder, record in lost.items() if "session" in record}
    found = defaultdict(list)
    for process in processes():
        folder = by_folder.get(environment_value(process.pid, files.MARKER) or "")
        if folder is None and process.session in by_session:
            folder = by_session[process.session]
            # A session's number comes free when its last process has ended: with another leader, or one from
            # before our time, it is not the session that we mean.
            started = lost[folder].get("session_started", 0)
            if process.started < started or (process.pid == process.session and process.started != started):
                by_session.pop(process.session)
                folder = None
        if folder is not None:
            found[folder].append(process)
    return found


def _failure(record: dict[str, Any], now: float, reason: str, message: str, *, disrupted: bool = False) -> dict[str, Any]:
    return {
        "uid": record.get("uid", ""),
        "phase": "Failed",
        "ran": True,
        "reason": reason,
        "message": message,
        "started_at": record.get("started_at"),
        "finished_at": now,
        "disrupted": disrupted,
    }


def _write(folder: Path, result: dict[str, Any], failures: dict[Path, OSError]) -> None:
    try:
        files.write(folder, files.RESULT, result, durable=True)
    except OSError as error:
        failures[folder] = error
