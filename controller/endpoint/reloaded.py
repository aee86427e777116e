"""What is made of files, and made again when one of them has changed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Generic, TypeVar

import structlog

from controller import bulkhead
from controller.errors import InvalidField

_log = structlog.get_logger(__name__)

T = TypeVar("T")


class Reloaded(Generic[T]):
    """The value that `load` makes of some files, loaded again when one of them has changed.

    `error` is why the files as they are now cannot be used; "" if they can.
    """

    def __init__(self, files: Iterable[Path], load: Callable[[], T], on_failure: Callable[[T], T]) -> None:
        self._files = tuple(files)
        self._load = load
        self._on_failure = on_failure
        self._stamp = self._look()
        self._value = load()  # raises here, and never later
        self.error = ""

    def current(self) -> T:
        """The value of the current files; after a failure, what `on_failure` returns."""
        stamp = self._look()
        if stamp != self._stamp:
            self._stamp = stamp
            try:
                self._value = self._load()
                if self.error:
                    _log.info("a file is used again", files=list(map(str, self._files)))
                self.error = ""
            except (OSError, ValueError, InvalidField) as error:  # an SSLError is an OSError
                self._fail(str(error))
            except Exception as error:  # noqa: BLE001  # counted, logged and shown; a file ends no process
                bulkhead.caught("file", error, files=" ".join(map(str, self._files)))
                self._fail(f"{type(error).__name__}, which is unexpected: the log shows it")
        return self._value

    def _fail(self, why: str) -> None:
        self._value = self._on_failure(self._value)
        self.error = why
        _log.warning("a file cannot be used", files=list(map(str, self._files)), error=why)

    def _look(self) -> tuple[object, ...]:
        try:
            return tuple(
                (status.st_mtime_ns, status.st_size, status.st_ino) for status in map(os.stat, self._files)
            )
        except OSError:
            return ()


def reloaded_file(
    file: Path, field: str, parse: Callable[[str], T], on_failure: Callable[[T], T]
) -> Reloaded[T]:
    """What `parse` makes of a text file, and raises InvalidField for. The error names the file.

    Raises InvalidField with `field` for a file that cannot be used now.
    """

    def load() -> T:
        try:
            text = file.read_text(encoding="utf-8")
        except OSError as error:
            raise InvalidField(field, f"{file} cannot be read: {error.strerror}") from None
        except UnicodeDecodeError as error:
            raise InvalidField(field, f"{file} is not text in UTF-8: {error}") from None
        try:
            return parse(text)
        except InvalidField as error:
            raise InvalidField(field, f"{file}: {error}") from None

    return Reloaded([file], load, on_failure)
