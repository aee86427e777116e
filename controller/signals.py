"""Signals that tell a program to end. After the first one, the rest are heard in vain, until it has ended."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType


def ending_signals() -> list[signal.Signals]:
    """Ctrl-C, SIGTERM and a closed terminal; not the last if it is ignored (nohup)."""
    closed = [signal.SIGHUP] if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN else []
    return [signal.SIGINT, signal.SIGTERM, *closed]


def ignore(numbers: Iterable[signal.Signals]) -> None:
    """Ignore these signals until the process has ended: the exit code is known, and nothing may change it.

    A handler of ours would not do. Python takes it away before the process ends, and a signal would then
    kill it.
    """
    numbers = list(numbers)
    # What has come is handled here, while there is a handler. Python would report it as lost.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


def call_at_end(stop: Callable[[], None]) -> None:
    """Call `stop` at the first signal that tells the program to end."""
    numbers = ending_signals()

    def handle(_number: int, _frame: FrameType | None) -> None:
        # a second signal during `stop` would wait forever for a lock that the first one has
        ignore(numbers)
        stop()

    for number in numbers:
        signal.signal(number, handle)


class _Hold:
    """Of the main thread, in which Python runs all handlers."""

    depth = 0
    is_late = False  # an interrupt came


def interrupt() -> None:
    """Raise KeyboardInterrupt, for a handler; in `unbroken`, at its end."""
    if _Hold.depth == 0:
        raise KeyboardInterrupt
    _Hold.is_late = True


@contextmanager
def unbroken() -> Iterator[None]:
    """No `interrupt` is raised in the block: one that came is raised at its end.

    While a child is created, nobody knows it yet; it would not be stopped.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _Hold.depth += 1
    try:
        yield
    finally:
        _Hold.depth -= 1
        is_late = _Hold.is_late and _Hold.depth == 0
        _Hold.is_late = _Hold.is_late and not is_late
    if is_late:
        raise KeyboardInterrupt
