"""Unexpected errors, confined to what they belong to: counted, logged with a traceback, and shown.

An error that belongs to one task, attempt, request, pool or key must not end a thread, a replica or a term.
The code that handles such a thing catches every error and reports it with `caught`.
"""

from __future__ import annotations

import threading
import traceback
from collections import Counter

counts: Counter[tuple[str, str]] = Counter()
"""(where, class of the error) → count in this process. For the metrics."""

FRAMES = 20  # of the innermost, in the log
_lock = threading.Lock()


def count(where: str, error: BaseException) -> None:
    """Count an error that goes no further. Its catcher logs it, and the cause is elsewhere."""
    with _lock:
        counts[where, type(error).__name__] += 1


def caught(where: str, error: BaseException, **about: str) -> None:
    """Count and log an error that goes no further. `about` names what it belongs to."""
    count(where, error)
    import structlog  # imported late, so that shell commands start fast

    # The trace is bounded and has no values of variables, however logs are set up: a leader must not spend
    # its lease on it.
    trace = "".join(traceback.format_exception(error, limit=-FRAMES))
    structlog.get_logger(__name__).error(
        "unexpected error: a bug in Tally, contained where it happened", where=where, **about, trace=trace
    )
