"""Watches a folder for changes, by the kernel's events."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

from inotify_simple import INotify, flags

_STEP_MS = 50  # so often it looks whether it is to stop
_GATHER_MS = 20  # changes that come together are told together
_CHANGES = flags.CREATE | flags.DELETE | flags.MODIFY | flags.ATTRIB | flags.CLOSE_WRITE
_MOVES = flags.MOVED_FROM | flags.MOVED_TO


def changes_in(
    folder: Path, stop: threading.Event, *, timeout_ms: int = 1000, first: bool = False
) -> Iterator[set[str]]:
    """Yield the names that change in the folder, as they do; an empty set at first, and after each time-out.

    Raises OSError if the folder cannot be watched, or if events were lost.
    """
    if first:
        yield set()
    with INotify() as watch:
        watch.add_watch(folder, _CHANGES | _MOVES)
        waited_ms = 0
        while not stop.is_set():
            events = watch.read(timeout=_STEP_MS, read_delay=_GATHER_MS)
            waited_ms += _STEP_MS
            if any(event.mask & flags.Q_OVERFLOW for event in events):
                raise OSError(f"{folder}: the kernel has dropped events of it")
            if events or waited_ms >= timeout_ms:
                waited_ms = 0
                yield {event.name for event in events if event.name}
