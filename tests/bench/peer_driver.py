"""What the drivers of the peers share: workers as processes that can be killed, and the count of ends over
time.

Runs in the peers' virtual environment, beside this file and without Tally.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable

POLL_SECONDS = 0.02
STILL_SECONDS = 30.0
"""Nothing has ended for so long: what is left is left behind."""


class Workers:
    """Worker processes, each a session of its own, so that all of it can be killed."""

    def __init__(self, command: list[str], count: int, **environment: str) -> None:
        self._processes = [
            subprocess.Popen(
                command,
                env={**os.environ, **environment},
                start_new_session=True,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            for _ in range(count)
        ]

    def kill(self) -> None:
        """SIGKILL to all of them and their children."""
        for process in self._processes:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def rate(start: Callable[[], Workers], ended: Callable[[], int], count: int) -> float:
    """Tasks a second, from the first end that is seen to the last."""
    workers = start()
    try:
        first = _until(ended, lambda done: done > 0)
        began = time.monotonic()
        _until(ended, lambda done: done >= count)
        return (count - first) / (time.monotonic() - began)
    finally:
        workers.kill()


def left_behind(start: Callable[[], Workers], ended: Callable[[], int], count: int) -> int:
    """Kill the workers once a tenth of the tasks have ended, start new ones, and count what never ends."""
    workers = start()
    try:
        _until(ended, lambda done: done >= count // 10)
    finally:
        workers.kill()
    workers = start()
    try:
        done, changed = ended(), time.monotonic()
        while done < count and time.monotonic() - changed < STILL_SECONDS:
            time.sleep(POLL_SECONDS)
            if (now := ended()) != done:
                done, changed = now, time.monotonic()
        return count - done
    finally:
        workers.kill()


def _until(ended: Callable[[], int], enough: Callable[[int], bool]) -> int:
    gives_up = time.monotonic() + 600.0
    while not enough(done := ended()):
        if time.monotonic() > gives_up:
            raise SystemExit(f"only {done} tasks have ended after ten minutes")
        time.sleep(POLL_SECONDS)
    return done


def tell(version: str, tasks_a_second: float, left: int) -> None:
    """The last line of a driver's output."""
    print(json.dumps({"version": version, "rate": tasks_a_second, "left_behind": left}))
