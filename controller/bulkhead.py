"""What nobody expected, kept where it happened: counted, logged with its traceback, and shown by whoever it belongs to.

Nothing that belongs to one task, attempt, request, pool or key may end a thread, a replica or a term. Where such a thing is
handled, every error is caught, and `caught` is told.
"""

from __future__ import annotations

import threading
from collections import Counter

import structlog

counts: Counter[tuple[str, str]] = Counter()
"""(where, class of the error) → times, in this process; for the metrics."""

_lock = threading.Lock()
log = structlog.get_logger(__name__)


def caught(where: str, error: BaseException, **about: str) -> None:
    """Count and log an error that goes no further. `about` names what it belongs to."""
    with _lock:
        counts[where, type(error).__name__] += 1
    log.error("unexpected error: a fault of Tally, kept to what it belongs to", where=where, **about, exc_info=error)
