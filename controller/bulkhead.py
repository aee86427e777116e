"""What nobody expected, kept where it happened: counted, logged with its traceback, and shown by whoever it
belongs to.

Nothing that belongs to one task, attempt, request, pool or key may end a thread, a replica or a term. Where
such a thing is handled, every error is caught, and `caught` is told.
"""

from __future__ import annotations

import threading
import traceback
from collections import Counter

counts: Counter[tuple[str, str]] = Counter()
"""(where, class of the error) → times, in this process; for the metrics."""

FRAMES = 20  # of the innermost, in the log
_lock = threading.Lock()


def count(where: str, error: BaseException) -> None:
    """Count an error that goes no further, and that its catcher logs: what went wrong is elsewhere."""
    with _lock:
        counts[where, type(error).__name__] += 1


def caught(where: str, error: BaseException, **about: str) -> None:
    """Count and log an error that goes no further. `about` names what it belongs to."""
    count(where, error)
    import structlog  # no command of the shell needs it to start

    # Bounded, and without the values of variables, whatever logs are set up: a leader must not spend its
    # lease on it.
    trace = "".join(traceback.format_exception(error, limit=-FRAMES))
    structlog.get_logger(__name__).error(
        "unexpected error: a fault of Tally, kept to what it belongs to", where=where, **about, trace=trace
    )
