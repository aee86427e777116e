"""Requests to stop an attempt: a file in its folder, a line in its FIFO, or a signal to its supervisor."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from controller.engine.process import attempt_folder as files
from controller.engine.process.limits import over_memory
from controller.engine.process.search import supervisor_of

_WORDS = 1000  # of a message that is sent through a FIFO, which takes 4096 bytes at once


def request_stop(folder: Path, reason: str, grace_seconds: float, message: str = "") -> None:
    """Request the end of an attempt. Needs no disk space if a supervisor listens.

    Raises OSError if the request could neither be written nor sent.
    """
    request = {"reason": reason, "grace_seconds": grace_seconds, "message": message[:_WORDS]}
    failure = None
    try:
        folder.mkdir(exist_ok=True)
        files.write(folder, files.STOP, request)
    except OSError as error:
        failure = error
    if files.send(folder, request):
        return
    # No supervisor listens. Either there is none, and the next observation settles the attempt; or it has not
    # opened the FIFO yet, and will find the written request before it starts anything; or the FIFO or the
    # whole folder was removed.
    supervisor = supervisor_of(folder, None)
    if supervisor and (failure is not None or not _is_claiming(folder)):
        interrupt(supervisor)
    elif failure is not None:
        raise failure


def enforce_memory(folders: Iterable[Path]) -> None:
    """Stop the attempts that use more memory than they asked for."""
    for excess in over_memory(folders):
        message = (
            f"used {excess.used // 2**20} MiB of memory, more than the {excess.limit // 2**20} MiB that"
            " it requested"
        )
        with suppress(OSError):  # reported when its folder is read, and tried again in the next round
            request_stop(excess.folder, "OOMKilled", 0.0, message)


def interrupt(supervisor: int) -> None:
    """Signal the supervisor to end its attempt. It reads the stop request, if it can."""
    with suppress(ProcessLookupError):
        os.kill(supervisor, signal.SIGTERM)


def _is_claiming(folder: Path) -> bool:
    """Whether a supervisor has just taken the attempt's lock, and recorded nothing yet. Raises OSError."""
    return not files.exists(folder, files.RECORD) and files.held(folder)[0] is files.Held.SUPERVISED
