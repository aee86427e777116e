"""Watches a folder for changes, by the kernel's events."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import watchfiles

_WATCH_STEP_MS = 5


def changes_in(
    folder: Path, stop: threading.Event, *, timeout_ms: int = 1000, first: bool = False
) -> Iterator[set[Any]]:
    """Yield the changes in the folder as they come, and an empty set at first and after each time-out."""
    if first:
        yield set()
    yield from watchfiles.watch(
        folder,
        watch_filter=None,
        debounce=4 * _WATCH_STEP_MS,
        step=_WATCH_STEP_MS,
        stop_event=stop,
        rust_timeout=timeout_ms,
        yield_on_timeout=True,
        recursive=False,
        raise_interrupt=False,
    )
