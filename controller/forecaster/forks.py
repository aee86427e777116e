"""Forks of a process that compute, on what others leave of the machine's processors.

It is computed in a fork of a fork, on processors that nobody else wants: so a leader beside it waits for none
longer than without it. If others leave it too little, it is ended, and the first fork computes: nice as it
is, it gets its share.
"""

from __future__ import annotations

import contextlib
import gc
import os
import select
import signal
import time
import warnings
from collections.abc import Callable

from controller import bulkhead
from controller.forecaster.surroundings import END_FORKS, cpu_seconds, yield_cores

STARVED_SHARE = 0.25  # of a processor: one that gets less does not come to an end
LOOK_SECONDS = 1.0  # so often it is looked at


class Fork:
    """A fork that computes, and the pipe that it writes to. It must be ended."""

    def __init__(self, pid: int, pipe: int) -> None:
        self.pid = pid
        self.pipe = pipe
        self._has_ended = False

    def written(self, seconds: float, goes_on: Callable[[], bool] = lambda: True) -> bytes | None:
        """All that it has written, which is nothing if it failed; it has ended then.

        None if it has taken longer, or shall not go on, which is asked each LOOK_SECONDS.
        """
        try:
            return self._read(time.monotonic() + seconds, goes_on)
        finally:
            self.end()

    def end(self) -> None:
        """End it, if it has not ended. Idempotent."""
        if self._has_ended:
            return
        self._has_ended = True
        os.close(self.pipe)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)

    def _read(self, until: float, goes_on: Callable[[], bool]) -> bytes | None:
        parts = list[bytes]()
        while time.monotonic() < until:
            if select.select([self.pipe], [], [], LOOK_SECONDS)[0]:
                part = os.read(self.pipe, 1 << 20)
                if not part:
                    return b"".join(parts)
                parts.append(part)
            elif not goes_on():
                break
        return None


def fork(compute: Callable[[], bytes], seconds: float) -> Fork:
    """A fork of this process, which writes what it computes, and ends after so long at the latest.

    It has one thread, and must touch no lock that another thread may have held. Raises OSError.
    """
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        # Python 3.12 warns of forks beside threads
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            pid = os.fork()
        except OSError:  # no more processes
            os.close(reading)
            os.close(writing)
            raise
    if pid:
        os.close(writing)
        return Fork(pid, reading)
    status = 1
    try:
        # Who asks must see the end of the process, not of its fork; and a fork whose answer nobody can read
        # any more must see that. The log stays.
        os.dup2(writing, 1)
        os.closerange(0, 1)
        os.closerange(3, os.sysconf("SC_OPEN_MAX"))
        gc.disable()  # it ends soon
        signal.signal(END_FORKS, signal.SIG_DFL)
        signal.alarm(int(seconds))
        written = compute()
        with open(1, "wb") as pipe:
            pipe.write(written)
        status = 0
    # the process that waits for it sees that nothing came
    except Exception as error:  # noqa: BLE001
        bulkhead.caught("forecast", error)
    finally:
        os._exit(status)


def is_awaited() -> bool:
    """Whether anybody is left who can read what this process writes to its standard output, a pipe.

    Who asks for its parent instead asks too late, if that has ended before it has asked for the first time.
    """
    standard_output = select.poll()
    standard_output.register(1, 0)  # errors are always told
    return not standard_output.poll(0)


def computed_modestly(compute: Callable[[], bytes], seconds: float) -> bytes:
    """What is computed on processors that others do not want; or, if that comes to no end, here.

    Nothing if nobody is left who waits for it: see is_awaited.
    """
    begun = time.monotonic()

    def on_idle_processors() -> bytes:
        yield_cores()
        return compute()

    try:
        modest = fork(on_idle_processors, seconds)
    except OSError:  # no more processes: this one is there
        return compute()

    def goes_on() -> bool:
        with contextlib.suppress(OSError):  # it has just ended
            used = cpu_seconds(modest.pid)
            return is_awaited() and used >= STARVED_SHARE * (time.monotonic() - begun)
        return True

    found = modest.written(seconds, goes_on)
    if found is not None or not is_awaited():
        return found or b""
    return compute()
