"""Threads that are busy, for tests of what must not wait for them."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager

from controller.gateway.identity import Identity
from controller.gateway.sign_in import Provider, SignIn


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


def stays_known(token: str, provider: Provider) -> bool:
    """Whether who has this token is known at once to a gateway whose threads for this are all busy."""
    sign_in = SignIn(None, time.time, [provider])
    [(_, threads)] = sign_in._providers

    async def known() -> Identity | None:
        return await asyncio.wait_for(sign_in.identify(f"Bearer {token}", {}), 20)

    first = asyncio.run(known())
    with kept_busy(threads):
        again = asyncio.run(known())
    sign_in.close()
    return again == first is not None
