"""One attempt's folder: its files, its lock, and how they are written. Shared by the engine and the supervisors.

`<state_dir>/<cluster>/attempts/<task-id>-<n>/` holds
- `lock`: locked by the supervisor for its whole life (and, for an instant, by whoever settles or removes the folder). The
  kernel drops the lock with its holder, however it dies: locked and recorded means supervised.
- `record.json`: the claim. Written once under the lock *before* the command may run, so: no record, never ran.
  Rewritten once, with the time at which the command was started.
- `stop.json`: the request to stop; without a record it is the tombstone that forbids to start.
- `result.json`: how it ended. Written under the lock, and only when no process of the attempt is left. Never changed.
- `wake`: a FIFO on which the supervisor hears that there is a request; `output.log`; `work/`, the scratch folder.

Whoever changes record, result or the folder's name holds the lock. Only the standard library is imported here, since
every supervisor carries this module with it.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import struct
import uuid
from pathlib import Path
from typing import Any

LOCK = "lock"
RECORD = "record.json"
STOP = "stop.json"
RESULT = "result.json"
WAKE = "wake"
LOG = "output.log"
WORK = "work"

MARKER = "TALLY_ATTEMPT_FOLDER"
"""Environment variable of every process of an attempt: the attempt's folder. By it they are found when a supervisor died."""

_WHOLE_FILE = struct.Struct("hhqqi4x")  # struct flock of 64-bit Linux: type, whence, start, len, pid


class Lock:
    """An attempt's lock, held; an open file description lock (fcntl(2)), so that asking whether it is held never takes it."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    @classmethod
    def take(cls, folder: Path, *, make: bool = False) -> Lock | None:
        """The lock; None while another holds it, or when there is no such folder (with `make`, it is made). Raises OSError."""
        while True:
            if make:
                folder.mkdir(exist_ok=True)
            try:
                fd = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            except FileNotFoundError:
                if make and folder.parent.exists():
                    continue  # removed since it was made
                return None
            try:
                fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _WHOLE_FILE.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
            except OSError as error:
                os.close(fd)
                if error.errno in (errno.EAGAIN, errno.EACCES):
                    return None
                raise
            if _is_at(fd, folder / LOCK):
                return cls(fd)
            os.close(fd)  # the folder was removed before we had its lock: what we hold is nobody's

    def release(self) -> None:
        """Let go; idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Lock:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def is_locked(folder: Path) -> bool:
    """Whether someone holds the attempt's lock; does not disturb anyone who is about to take it. Raises OSError."""
    try:
        fd = os.open(folder / LOCK, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _WHOLE_FILE.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
        return bool(_WHOLE_FILE.unpack(answer)[0] != fcntl.F_UNLCK)
    finally:
        os.close(fd)


def write(folder: Path, name: str, value: dict[str, Any], *, durable: bool = False) -> None:
    """Put `value` in place of the file `name`, whole or not at all, and tell who watches. Raises OSError.

    `durable`: it survives the machine's crash once this returns.
    """
    temporary = folder / f".{name}.{uuid.uuid4().hex}"
    try:
        with open(temporary, "x", encoding="utf-8") as file:
            json.dump(value, file)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.rename(temporary, folder / name)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    if durable:
        directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    # The folder's own change of time is what a watch of its parent sees: a write inside it would not be.
    os.utime(folder)


def read(folder: Path, name: str) -> dict[str, Any] | None:
    """The JSON object in the file `name`; None when it is absent; {} when it is not a JSON object. Raises OSError."""
    try:
        return _parse((folder / name).read_bytes())
    except FileNotFoundError:
        return None


def parse_result(data: bytes) -> dict[str, Any] | None:
    """The result in what a result's file holds; None when that does not say how the attempt ended."""
    result = _parse(data)
    return result if result.get("phase") in ("Succeeded", "Failed") else None


def read_result(folder: Path) -> dict[str, Any] | None:
    """The result, None when there is none, or none that says how the attempt ended. Raises OSError."""
    try:
        return parse_result((folder / RESULT).read_bytes())
    except FileNotFoundError:
        return None


def _parse(data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def wake(folder: Path) -> bool:
    """Tell the attempt's supervisor to look for a request; False when none listens. Raises OSError."""
    try:
        fd = os.open(folder / WAKE, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENXIO):
            return False
        raise
    with os.fdopen(fd, "wb", buffering=0) as fifo:
        fifo.write(b"!")  # a full FIFO takes nothing, and has wakes enough
    return True


def boot_id() -> str:
    """Names this boot of the machine: another one means that no process of then is left."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _is_at(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False
