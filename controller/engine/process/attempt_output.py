"""Reads an attempt's output from its file. It never blocks, even if the task has replaced the file."""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from controller.engine.process import attempt_folder as files

_CHUNK_BYTES = 64 * 1024


def start_of_tail(path: Path, lines: int, stop: threading.Event) -> int:
    """The position at which the last `lines` lines begin; the end, if `stop` is set before that is found.

    An incomplete line counts. Raises OSError.
    """
    if not files.exists(path.parent, path.name):
        return 0
    with _open(path) as file:
        end = position = file.seek(0, os.SEEK_END)
        if lines == 0 or position == 0:
            return position
        file.seek(position - 1)
        ends = lines + (file.read(1) == b"\n")  # the lines begin after this line end, counted from the back
        while position:
            if stop.is_set():
                return end
            begin = max(0, position - _CHUNK_BYTES)
            file.seek(begin)
            block = file.read(position - begin)
            at = len(block)
            while ends and (at := block.rfind(b"\n", 0, at)) >= 0:
                ends -= 1
            if not ends:
                return begin + at + 1
            position = begin
    return 0


def chunks_of(path: Path, position: int) -> Iterator[bytes]:
    """The content of a file from `position` on. Raises OSError, also for a file that is not regular."""
    if not files.exists(path.parent, path.name):
        return
    with _open(path) as file:
        file.seek(position)
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk


def _open(path: Path) -> BinaryIO:
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "is not a regular file", str(path))
    return os.fdopen(fd, "rb")
