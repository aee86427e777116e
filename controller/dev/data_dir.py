"""The data directory of `tally dev`: claimed by one command, and marked as its own."""

from __future__ import annotations

import fcntl
import json
import os
from contextlib import suppress
from pathlib import Path

from controller.errors import TallyError

DATA_VERSION = 1
_BEFORE_MARKER = {"lock", "logs", ".version.json.new"}  # what a folder of ours may have before it is marked
_LAST_BYTES = 4096


class DevError(TallyError):
    """The local cluster cannot run as requested; the message says what to do."""


class DataDir:
    """The folder at `path`, which need not exist."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._marker = path / "version.json"

    def claim(self) -> int:
        """Claim the folder for one command; returns the lock's file.

        Raises DevError. A folder that a newer version or another program wrote is refused, and left as
        it was.
        """
        try:
            # other users must not read logs and attempts
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not self._marker.exists() and (foreign := {*os.listdir(self.path)} - _BEFORE_MARKER):
                raise DevError(
                    f"{self.path} is no folder of `tally dev`, since it has {min(foreign)!r} and no"
                    f" {self._marker.name}: choose another --data-dir"
                )
            lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise self._unusable(error) from error
        try:
            self._lock(lock)
            self._check_version()
            os.truncate(lock, 0)
            os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
            (self.path / "logs").mkdir(mode=0o700, exist_ok=True)
        except BaseException as error:
            os.close(lock)
            if isinstance(error, OSError):
                raise self._unusable(error) from error
            raise
        return lock

    def log(self, name: str) -> Path:
        """The log of a process."""
        return self.path / "logs" / f"{name}.log"

    def open_log(self, name: str) -> int:
        """A descriptor that appends to that log. Raises DevError."""
        try:
            return os.open(self.log(name), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise self._unusable(error) from error

    def last_word(self, name: str) -> str:
        """What that log says last, or the last error in its end, and where it is."""
        log = self.log(name)
        with suppress(OSError), log.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _LAST_BYTES))
            lines = [line for line in file.read().decode(errors="replace").split("\n") if line.strip()]
            if lines:
                errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
                return f"{(errors or lines)[-1].strip()} ({log})"
        return f"see {log}"

    def _unusable(self, error: OSError) -> DevError:
        where = error.filename or self.path
        return DevError(f"{where} cannot be written ({error.strerror}): choose another --data-dir")

    def _lock(self, lock: int) -> None:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            pid = os.pread(lock, 32, 0).decode(errors="replace").strip()
            raise DevError(
                f"another `tally dev` (pid {pid or 'unknown'}) uses {self.path}: stop it, or choose"
                " another --data-dir"
            ) from None

    def _check_version(self) -> None:
        if not self._marker.exists():
            new = self._marker.with_name(f".{self._marker.name}.new")
            new.write_text(json.dumps({"data_version": DATA_VERSION}) + "\n")
            new.rename(self._marker)  # at once: a folder with half a marker would be nobody's
        try:
            version = json.loads(self._marker.read_text())["data_version"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            raise DevError(
                f"{self._marker} cannot be read: move {self.path} away, or choose another --data-dir"
            ) from None
        if version != DATA_VERSION:
            raise DevError(
                f"{self.path} was written by another version of Tally (data version {version}, this one"
                f" has {DATA_VERSION}): move it away, or choose another --data-dir"
            )
