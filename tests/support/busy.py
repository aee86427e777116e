"""Threads that are busy, for tests of what must not wait for them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager


@contextmanager
def kept_busy(threads: ThreadPoolExecutor) -> Iterator[None]:
    """All of these threads work until the end of the context."""
    count = threads._max_workers
    begun, ended = threading.Barrier(count + 1), threading.Event()

    def work() -> None:
        begun.wait(30)
        ended.wait()

    held = [threads.submit(work) for _ in range(count)]
    try:
        begun.wait(30)
        yield
    finally:
        ended.set()
        wait(held)
