"""An attempt's folder: its files, its lock, and how they are written. For the engine and the supervisors.

`<state_dir>/<cluster>/attempts/<task-id>-<n>/` has
- `lock`: two of its bytes are locked, each by an open file description (fcntl(2)). The kernel releases such a
  lock with the last process that holds it, however that ends.
  - `SUPERVISED` is held by the supervisor for its whole life, and briefly by a replica that settles or
    removes the folder.
  - `INHERITED` is held by the command, and by all its descendants that keep the descriptor.
- `record.json`: the claim. It is written once, under the lock, *before* the command may run: without a
  record, the attempt never ran. It is rewritten once, with the time of the start.
- `stop.json`: the request to stop. Without a record, it is the tombstone that forbids a start.
- `result.json`: how the attempt ended. It is written under the lock, when no process of the attempt is left.
  It counts once neither byte is locked, and only if it names the inode of this lock, since the task may write
  here, too.
- `wake`: a FIFO for stop requests to the supervisor, which needs no disk space.
- `output.log`, and `work/`, the scratch folder.

The record, the result and the folder's name are changed only under the lock. A file here may have any content
and any type: opening it never blocks, and never follows a link. Only the standard library is imported, since
every supervisor carries this module.
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
"""An environment variable of all processes of an attempt. It names the attempt's folder.

The search finds processes by it when their supervisor has died.
"""

SUPERVISED, INHERITED = 0, 1
"""The bytes of the lock's file; see the module's docstring."""

LARGEST_BYTES = 256 * 1024  # the limit for a file that is read whole; ours are a hundred times smaller
_NOBODY_LISTENS = (  # or the task has replaced the FIFO
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
    """The holder of an attempt's lock; the supervisor if both bytes are locked."""

    FREE = "nobody"
    SUPERVISED = "its supervisor"
    INHERITED = "processes of it, but no supervisor"


class Lock:
    """An attempt's lock, whose byte `SUPERVISED` is held by this process."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    @classmethod
    def take(cls, folder: Path, *, make: bool = False) -> Lock | None:
        """Take the lock. None if another process holds it, or there is no folder; `make` creates the folder.

        Raises OSError.
        """
        while True:
            if make:
                folder.mkdir(exist_ok=True)
            try:
                fd = _open_lock(folder, os.O_RDWR | os.O_CREAT)
            except FileNotFoundError:
                if make and folder.parent.exists():
                    continue  # the folder was removed after it was created
                return None
            except _Irregular:
                if not _put_lock_aside(folder):
                    return None
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
            os.close(fd)  # the folder was removed before we had the lock, which is now useless

    @property
    def inode(self) -> int:
        """The inode of the lock's file, which stays the same when the file is moved."""
        return os.fstat(self._fd).st_ino

    def is_inherited(self) -> bool:
        """Whether a process of the attempt holds `INHERITED`. Raises OSError."""
        return _locked_from(self._fd, INHERITED, 1) is not None

    def release(self) -> None:
        """Release the lock. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Lock:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def open_inherited(folder: Path) -> int:
    """A descriptor that holds the byte `INHERITED`, for the command to inherit. Raises OSError."""
    fd = _open_lock(folder, os.O_RDWR)
    if not _set_lock(fd, INHERITED):
        os.close(fd)
        raise OSError(
            errno.EAGAIN, "is locked by processes of an attempt without a record", str(folder / LOCK)
        )
    return fd


def held(folder: Path | str) -> tuple[Held, int]:
    """The holder of the attempt's lock, and the inode of its file (0: no file, or the task replaced it).

    Does not disturb a process that is about to take the lock. Raises OSError.
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
    """Whether a process holds the byte `SUPERVISED` of the file at this path. Raises OSError."""
    fd = os.open(lock, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return _locked_from(fd, SUPERVISED, 1) is not None
    finally:
        os.close(fd)


def write(folder: Path, name: str, value: dict[str, Any], *, durable: bool = False) -> None:
    """Replace the file `name` atomically, and announce the change to watchers. Raises OSError.

    Changes that the task made to its own folder (its mode, a directory of that name) are undone first. With
    `durable`, the file survives a crash of the machine once this returns.
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
    """Announce a change to watchers, by the folder's time: a watch of its parent sees nothing else."""
    os.utime(folder)


def read_bytes(folder: Path, name: str) -> bytes | None:
    """The content of the file `name`; None if it is absent.

    Raises OSError, also for a file that is not regular or too large.
    """
    return read_versioned(f"{folder}/{name}")[1]


def read_versioned(path: str) -> tuple[tuple[int, int], bytes | None]:
    """As `read_bytes`, with the inode and change time of the file that was read.

    Uses no pathlib, for speed: a take-over waits for these reads.
    """
    try:
        fd = os.open(path, _READING)
    except FileNotFoundError:
        return (0, 0), None
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "is not a regular file", path)
        if status.st_size > LARGEST_BYTES:
            raise OSError(errno.EFBIG, f"is larger than {LARGEST_BYTES} bytes ({status.st_size})", path)
        return (status.st_ino, status.st_mtime_ns), os.read(fd, LARGEST_BYTES)
    finally:
        os.close(fd)


def read_request(folder: Path) -> dict[str, Any] | None:
    """The request to stop; None if there is none, {} if it is invalid. Raises OSError."""
    data = read_bytes(folder, STOP)
    return None if data is None else parse(data)


def parse(data: bytes) -> dict[str, Any]:
    """The JSON object in `data`; {} if it is none."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def exists(folder: Path, name: str) -> bool:
    """Whether the folder has an entry of this name, of any type. Raises OSError."""
    try:
        os.lstat(folder / name)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def send(folder: Path, request: dict[str, Any]) -> bool:
    """Send a stop request to the attempt's supervisor; False if none listens.

    Needs no disk space. Raises OSError.
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
        with suppress(BlockingIOError):  # a full FIFO has enough requests
            os.write(fd, json.dumps(request).encode() + b"\n")
    except BrokenPipeError:
        return False  # the supervisor has ended since
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
        with suppress(OSError):  # the first error is the one to report
            temporary.unlink(missing_ok=True)
        raise
    if durable:
        directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


class _Irregular(OSError):
    """The task has replaced one of our files by something else."""


def _open_lock(folder: Path | str, flags: int) -> int:
    """Open the lock's file. Raises OSError, including FileNotFoundError and _Irregular."""
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
        raise _Irregular(errno.EINVAL, "is not a regular file", str(path))
    return fd


def _put_aside(folder: Path, name: str) -> None:
    """Move away what has the name of one of our files."""
    os.rename(folder / name, folder / f".{name}.{uuid.uuid4().hex}")


def _put_lock_aside(folder: Path) -> bool:
    """Move away what is no lock; False if another does so just now.

    One at a time, and only what is no lock: who comes second would move away the lock that the first one has
    taken, and have one of its own. Raises OSError.
    """
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return True  # the folder was removed, and all that was in it
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not stat.S_ISREG(os.lstat(folder / LOCK).st_mode):
            _put_aside(folder, LOCK)
    except BlockingIOError:
        return False
    except FileNotFoundError:
        pass  # another has done so
    finally:
        os.close(fd)
    return True


def _set_lock(fd: int, byte: int) -> bool:
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0))
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise
    return True


def _locked_from(fd: int, byte: int, length: int) -> int | None:
    """The start of a lock that another file description has on these bytes; None if they are free."""
    answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, byte, length, 0))
    kind, _, start, *_ = _FLOCK.unpack(answer)
    return None if kind == fcntl.F_UNLCK else start


def _is_at(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.lstat(path))
    except (FileNotFoundError, NotADirectoryError):
        return False
