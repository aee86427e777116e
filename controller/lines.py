"""Lines of the log: each is written at once; those of `together`, at its end.

Each write gives way to other threads. For a line of its own for each transition, that took a tenth of a
burn-down.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

EACH = "each"
"""A field of an event that stands for several lines: mappings, of which each line has the fields of one."""


class _Kept(threading.local):
    """What this thread has logged within `together`: None outside of it."""

    lines: list[tuple[BinaryIO, bytes]] | None = None


_kept = _Kept()


class LineStream:
    """A stream for a logger: safe for threads, as each line is one write."""

    def __init__(self, raw: BinaryIO) -> None:
        self._raw = raw

    def write(self, line: bytes) -> None:
        """Write the line, or keep it until the end of `together`."""
        if _kept.lines is None:
            self._raw.write(line)
        else:
            _kept.lines.append((self._raw, line))

    def flush(self) -> None:
        """See above: what is kept is flushed later."""
        if _kept.lines is None:
            self._raw.flush()


@contextmanager
def together() -> Iterator[None]:
    """Write what this thread logs meanwhile at the end, also if an error is raised. Raises OSError."""
    if _kept.lines is not None:
        yield
        return
    lines = _kept.lines = []
    try:
        yield
    finally:
        _kept.lines = None
        for raw in dict.fromkeys(raw for raw, _ in lines):
            raw.write(b"".join(line for of, line in lines if of is raw))
            raw.flush()
