"""Unexpected errors, confined to what they belong to: counted, logged with a traceback, and shown.

An error that belongs to one task, attempt, request, pool or key must not end a thread, a replica or a term.
The code that handles such a thing catches every error and reports it with `caught`.
"""

from __future__ import annotations

import os
import threading
import traceback
from collections import Counter

counts: Counter[tuple[str, str]] = Counter()
"""(where, class of the error) → count in this process. For the metrics."""

EXIT_TORN = 70
"""The exit code of a process that ends because it lacks one of its parts."""
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


def end_with_thread(args: threading.ExceptHookArgs) -> None:
    """End the process when a thread dies of a bug: without one of its parts it must not stay in office.

    For `threading.excepthook`.
    """
    import structlog

    name = args.thread.name if args.thread is not None else "?"
    exc = (args.exc_type, args.exc_value or args.exc_type(), args.exc_traceback)
    try:
        structlog.get_logger(__name__).critical("a thread died", thread=name, exc_info=exc)
    finally:  # whatever it died of, such as a lack of memory, may also keep it from being told
        os._exit(EXIT_TORN)
