"""Waiting for a condition, with a bound that only a hung test reaches."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_until(
    condition: Callable[[], T | None],
    what: str = "the condition",
    *,
    timeout: float = 30.0,
    poll: float = 0.01,
) -> T:
    """The first true value of `condition`; AssertionError naming `what` when there is none within
    `timeout` seconds.
    """
    ends = time.monotonic() + timeout
    pause = threading.Event()
    while not (value := condition()):
        assert time.monotonic() < ends, f"{what} did not come true within {timeout:g} s"
        pause.wait(poll)
    return value
