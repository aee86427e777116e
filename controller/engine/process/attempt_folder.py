"""One attempt's folder: its files, its lock, and how they are written.

Shared by the engine and the supervisors.

`<state_dir>/<cluster>/attempts/<task-id>-<n>/` holds
- `lock`, of which two bytes are locked, each by an open file description (fcntl(2)), so that the kernel drops
  a lock with the last process that has it, however it ends:
  - `SUPERVISED`, by the supervisor for its whole life (and, for an instant, by whoever settles or removes the
    folder);
  - `INHERITED`, by the command and by all that it forks and that keeps the descriptor.
- `record.json`: the claim. Written once under the lock *before* the command may run, so: no record, never
  ran. Rewritten once, with the time at which the command was started.
- `stop.json`: the request to stop; without a record it is the tombstone that forbids to start.
- `result.json`: how it ended. Written under the lock, and only when no process of the attempt is left. It
  counts once neither byte is locked any more, if it names the file of this very lock: the task may write here
  too.
- `wake`: a FIFO that carries requests to stop to the supervisor, since a disk may be full; `output.log`;
  `work/`, the scratch folder.

Whoever changes record, result or the folder's name holds the lock. What is read here may be anything, of any
type: opening it never blocks and never follows a link. Only the standard library is imported, since every
supervisor carries this module.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import stat
import struct
import uuid
from contextlib import suppress
from enum import Enum
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
"""Environment variable of every process of an attempt: the attempt's folder.

By it they are found when a supervisor died.
"""

SUPERVISED, INHERITED = 0, 1
"""The bytes of the lock's file; see the module's docstring."""

LARGEST_BYTES = 256 * 1024  # of a file that is read whole; ours have less than a hundredth
_NOBODY_LISTENS = (  # or the task put something else in the place of the FIFO
    errno.ENOENT,
    errno.ENXIO,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ELOOP,
    errno.EACCES,
    errno.EPERM,
)
_FLOCK = struct.Struct("hhqqi4x")  # struct flock of 64-bit Linux: type, whence, start, len, pid
_READING = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC


class Held(Enum):
    """Who holds an attempt's lock; the supervisor, where both do."""

    FREE = "nobody"
    SUPERVISED = "its supervisor"
    INHERITED = "processes of it, but no supervisor"


class Lock:
    """An attempt's lock, its byte `SUPERVISED` held."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    @classmethod
    def take(cls, folder: Path, *, make: bool = False) -> Lock | None:
        """The lock; None while another holds it, or when there is no such folder (with `make`, it is made).

        Raises OSError.
        """
        while True:
            if make:
                folder.mkdir(exist_ok=True)
            try:
                fd = _open_lock(folder, os.O_RDWR | os.O_CREAT)
            except FileNotFoundError:
                if make and folder.parent.exists():
                    continue  # removed since it was made
                return None
            except _Irregular:
                _put_aside(folder, LOCK)
                continue
            try:
                if not _set_lock(fd, SUPERVISED):
                    os.close(fd)
                    return None
            except OSError:
                os.close(fd)
                raise
            if _is_at(fd, folder / LOCK):
                return cls(fd)
            os.close(fd)  # the folder was removed before we had its lock: what we hold is nobody's

    @property
    def inode(self) -> int:
        """Of the lock's file, which names it wherever it is moved."""
        return os.fstat(self._fd).st_ino

    def is_inherited(self) -> bool:
        """Whether a process of the attempt has kept its lock. Raises OSError."""
        return _locked_from(self._fd, INHERITED, 1) is not None

    def release(self) -> None:
        """Let go; idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Lock:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def open_inherited(folder: Path) -> int:
    """A descriptor that holds the byte `INHERITED`, for the command: closed in all but what inherits it.

    Raises OSError.
    """
    fd = _open_lock(folder, os.O_RDWR)
    if not _set_lock(fd, INHERITED):
        os.close(fd)
        raise OSError(
            errno.EAGAIN, "is locked by processes of an attempt that nobody has recorded", str(folder / LOCK)
        )
    return fd


def held(folder: Path | str) -> tuple[Held, int]:
    """Who holds the attempt's lock, and the number of its file (0: there is none, or the task put something
    else there).

    Does not disturb anyone who is about to take it. Raises OSError.
    """
    try:
        fd = _open_lock(folder, os.O_RDONLY)
    except (FileNotFoundError, _Irregular):
        return Held.FREE, 0
    try:
        inode, first = os.fstat(fd).st_ino, _locked_from(fd, SUPERVISED, 2)
        if first is None:
            return Held.FREE, inode
        if first == SUPERVISED or _locked_from(fd, SUPERVISED, 1) is not None:
            return Held.SUPERVISED, inode
        return Held.INHERITED, inode
    finally:
        os.close(fd)


def is_supervised(lock: str) -> bool:
    """Whether anybody holds the byte `SUPERVISED` of the file at this path. Raises OSError."""
    fd = os.open(lock, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return _locked_from(fd, SUPERVISED, 1) is not None
    finally:
        os.close(fd)


def write(folder: Path, name: str, value: dict[str, Any], *, durable: bool = False) -> None:
    """Put `value` in place of the file `name`, whole or not at all, and tell who watches. Raises OSError.

    What the task did to its own folder (its mode, a directory of that name) is put right first. `durable`: it
    survives the machine's crash once this returns.
    """
    try:
        _write(folder, name, value, durable)
    except PermissionError:
        os.chmod(folder, 0o700)
        _write(folder, name, value, durable)
    except IsADirectoryError:
        _put_aside(folder, name)
        _write(folder, name, value, durable)
    announce(folder)


def announce(folder: Path) -> None:
    """Tell who watches that something changed: a watch of the parent sees the folder's own change of time
    alone.
    """
    os.utime(folder)


def read_bytes(folder: Path, name: str) -> bytes | None:
    """What the file `name` holds; None when it is absent.

    Raises OSError, for what is no regular file too, or too large.
    """
    return read_versioned(f"{folder}/{name}")[1]


def read_versioned(path: str) -> tuple[tuple[int, int], bytes | None]:
    """The same with the inode and time of change that it was read at.

    No pathlib: a take-over waits until all were read.
    """
    try:
        fd = os.open(path, _READING)
    except FileNotFoundError:
        return (0, 0), None
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "is no regular file", path)
        if status.st_size > LARGEST_BYTES:
            raise OSError(errno.EFBIG, f"has {status.st_size} bytes, more than {LARGEST_BYTES}", path)
        return (status.st_ino, status.st_mtime_ns), os.read(fd, LARGEST_BYTES)
    finally:
        os.close(fd)


def read_request(folder: Path) -> dict[str, Any] | None:
    """The request to stop; None when there is none, {} when it cannot be understood. Raises OSError."""
    data = read_bytes(folder, STOP)
    return None if data is None else parse(data)


def parse(data: bytes) -> dict[str, Any]:
    """The JSON object in it; {} when it is none."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def exists(folder: Path, name: str) -> bool:
    """Whether there is something of this name, whatever it is. Raises OSError."""
    try:
        os.lstat(folder / name)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def send(folder: Path, request: dict[str, Any]) -> bool:
    """Hand a request to stop to the attempt's supervisor; False when none listens.

    Needs no room on the disk. Raises OSError.
    """
    try:
        fd = os.open(folder / WAKE, os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in _NOBODY_LISTENS:
            return False
        raise
    try:
        if not stat.S_ISFIFO(os.fstat(fd).st_mode):
            return False
        with suppress(BlockingIOError):  # a full FIFO holds requests enough
            os.write(fd, json.dumps(request).encode() + b"\n")
    except BrokenPipeError:
        return False  # it has ended since
    finally:
        os.close(fd)
    return True


def _write(folder: Path, name: str, value: dict[str, Any], durable: bool) -> None:
    temporary = folder / f".{name}.{uuid.uuid4().hex}"
    try:
        with open(temporary, "x", encoding="utf-8") as file:
            json.dump(value, file)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.rename(temporary, folder / name)
    except OSError:
        with suppress(OSError):  # the first error is the one to tell
            temporary.unlink(missing_ok=True)
        raise
    if durable:
        directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


class _Irregular(OSError):
    """The task put something else in the place of a file of ours."""


def _open_lock(folder: Path | str, flags: int) -> int:
    """Raises OSError, FileNotFoundError and _Irregular among them."""
    path, flags = f"{folder}/{LOCK}", flags | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        try:
            fd = os.open(path, flags, 0o600)
        except PermissionError:
            if not stat.S_ISREG(os.lstat(path).st_mode):
                raise
            os.chmod(path, 0o600)
            fd = os.open(path, flags, 0o600)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO, errno.EISDIR):
            raise _Irregular(error.errno, error.strerror, str(path)) from error
        raise
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise _Irregular(errno.EINVAL, "is no regular file", str(path))
    return fd


def _put_aside(folder: Path, name: str) -> None:
    """Make room for a file of ours."""
    os.rename(folder / name, folder / f".{name}.{uuid.uuid4().hex}")


def _set_lock(fd: int, byte: int) -> bool:
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0))
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise
    return True


def _locked_from(fd: int, byte: int, length: int) -> int | None:
    """Where a lock begins that another description has on these bytes; None when they are free."""
    answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, byte, length, 0))
    kind, _, start, *_ = _FLOCK.unpack(answer)
    return None if kind == fcntl.F_UNLCK else start


def _is_at(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.lstat(path))
    except (FileNotFoundError, NotADirectoryError):
        return False
