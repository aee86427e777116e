"""Ports of 127.0.0.1 that stay a test's own while nobody listens there: its servers are killed, and start
again on them.

A port that the system chose is anybody's again as soon as its server is dead, for the next connection of
whatever process. These lie below those that the system chooses from, and each test process has a range of its
own, which it holds by its first.
"""

from __future__ import annotations

import itertools
import socket
from collections.abc import Iterator
from functools import cache

from controller.dev.ports import is_free

FIRST, RANGES, SIZE = 12_000, 70, 250  # up to 29,500; Linux chooses from 32,768 on


def free_ports(count: int) -> list[int]:
    """Ports on which nobody listens, all different."""
    return list(itertools.islice(filter(is_free, _own_range()), count))


@cache
def _own_range() -> Iterator[int]:
    for first in range(FIRST, FIRST + RANGES * SIZE, SIZE):
        lock = socket.socket()
        try:
            lock.bind(("127.0.0.1", first))
        except OSError:
            lock.close()
            continue
        lock.detach()  # kept until this process ends
        return itertools.cycle(range(first + 1, first + SIZE))
    raise AssertionError(f"more than {RANGES} test processes at once")
