"""Watches a folder for changes, by the kernel's events."""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterator
from pathlib import Path

from inotify_simple import INotify, flags

_CHANGES = (
    flags.CREATE
    | flags.DELETE
    | flags.MODIFY
    | flags.ATTRIB
    | flags.MOVED_FROM
    | flags.MOVED_TO
    | flags.DELETE_SELF
    | flags.MOVE_SELF
)
_STOP_MS = 20  # after at most this time a stop is seen
_GATHER_MS = 5  # what comes within this time of a change is told with it


def changes_in(
    folder: Path, stop: threading.Event, *, timeout_ms: int = 1000, first: bool = False
) -> Iterator[set[str]]:
    """Yield the names of what changes in the folder, as it comes.

    Yields an empty set once the folder is watched, and after each time-out; if `first`, also before that.
    What is in a folder's folders is not watched. Raises OSError if the folder cannot be watched, or if
    changes were lost.
    """
    if first:
        yield set()
    with INotify() as watch:
        try:
            watch.add_watch(folder, flags.ONLYDIR | _CHANGES)
        except OSError as error:  # the library's names no file
            raise OSError(error.errno, error.strerror, str(folder)) from error
        yield set()
        waited_ms = 0
        while not stop.is_set():
            events = watch.read(timeout=_STOP_MS, read_delay=_GATHER_MS)
            waited_ms = 0 if events else waited_ms + _STOP_MS
            if any(event.mask & flags.Q_OVERFLOW for event in events):
                raise OSError(errno.EOVERFLOW, "more changes than the kernel keeps", str(folder))
            if events or waited_ms >= timeout_ms:
                waited_ms = 0
                yield {event.name for event in events if event.name}
