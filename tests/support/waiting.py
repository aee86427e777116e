"""Waiting for a condition, with a bound that only a hung test reaches."""

from __future__ import annotations

import signal
import subprocess
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

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


def signalled_to_its_end(
    process: subprocess.Popen[Any], number: signal.Signals, *, timeout: float = 60.0
) -> int:
    """The exit code of a program that gets the signal again and again, until it has ended."""

    def has_ended() -> bool:
        process.send_signal(number)
        return process.poll() is not None

    wait_until(has_ended, f"the end after {number.name}", timeout=60.0, poll=0.001)
    assert process.returncode is not None
    return process.returncode
