"""Tells the service manager the state of this replica (sd_notify(3)): ready, alive, its status, stopping.

It wraps other instruments, and passes all calls on to them. Without a manager (`NOTIFY_SOCKET`), it does
nothing else.

The turns of the control loop feed the watchdog, not a thread of its own: a replica whose loop is stuck is
restarted (fault 6), even if its other threads are alive. A start lasts until etcd has answered; meanwhile,
the same turns extend the manager's time limit for it.
"""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping, Sequence

import structlog

from controller.clock import Clock
from controller.core.model.schedules import TickOutcome
from controller.runtime.instruments import Instruments, Taken
from controller.views.replica import Facts, ReadableReplica

BEATS_PER_WATCHDOG = 4  # one lost message, or a turn as long as a request to etcd, must not end the process
STATUS_SECONDS = 10.0  # how often the status line is renewed where there is no watchdog
START_EXTENSION_SECONDS = 60.0

log = structlog.get_logger(__name__)


class ServiceNotifier:
    """Instruments; see the module's docstring.

    `entered` may come from any thread, the rest from the control loop's.
    """

    def __init__(
        self, inner: Instruments, clock: Clock, environ: MutableMapping[str, str] = os.environ
    ) -> None:
        """Remove the manager's variables from `environ`, so that no child process uses them."""
        self._inner = inner
        self._clock = clock
        self._address = environ.pop("NOTIFY_SOCKET", "")
        limit, process = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", "")
        watched = limit.isdecimal() and process in ("", str(os.getpid()))
        self._beat = ["WATCHDOG=1"] if watched else []
        self._interval = int(limit) / 1e6 / BEATS_PER_WATCHDOG if watched else STATUS_SECONDS
        self._due = 0.0  # boottime
        self._starting = True
        self._failed = False
        self._view: ReadableReplica | None = None

    def observe(self, view: ReadableReplica) -> None:
        """Take the view whose facts the status line shows."""
        self._view = view

    def entered(self, phase: str) -> None:
        """See Instruments."""
        self._inner.entered(phase)
        if phase == "following" and self._starting:
            self._starting = False
            self._send("READY=1")
        elif phase == "stopping":
            self._send("STOPPING=1")
        self._due = 0.0  # the next turn reports it

    def turned(self) -> None:
        """See Instruments."""
        self._inner.turned()
        now = self._clock.boottime()
        if not self._address or self._view is None or now < self._due:
            return
        self._due = now + self._interval
        extension = [f"EXTEND_TIMEOUT_USEC={int(START_EXTENSION_SECONDS * 1e6)}"] if self._starting else []
        self._send(*self._beat, *extension, f"STATUS={status_line(self._view.facts())}")

    def took_over(self, seconds: float) -> None:
        """See Instruments."""
        self._inner.took_over(seconds)

    def transitioned(self, taken: Sequence[Taken]) -> None:
        """See Instruments."""
        self._inner.transitioned(taken)

    def unnoticed(self, ends: int) -> None:
        """See Instruments."""
        self._inner.unnoticed(ends)

    def ticked(self, outcome: TickOutcome) -> None:
        """See Instruments."""
        self._inner.ticked(outcome)

    def _send(self, *assignments: str) -> None:
        """Send without waiting, since the control loop calls this; a message for a full queue is dropped."""
        if not self._address:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notify:
                notify.setblocking(False)
                notify.sendto("\n".join(assignments).encode(), address)
        except OSError as error:
            if not self._failed:
                log.warning(
                    "the service manager cannot be notified",
                    socket=self._address,
                    error=str(error),
                )
            self._failed = True
        else:
            self._failed = False


def status_line(facts: Facts) -> str:
    """One line with the phase of the replica, and its problems."""
    leader = "" if facts.role == "leader" else f"; {facts.leader} leads" if facts.leader else ""
    wrong = "".join(
        f"; {check.name}: {check.detail}" for check in (*facts.live, *facts.ready) if not check.ok
    )
    return " ".join(f"{facts.phase}, epoch {facts.epoch}, revision {facts.revision}{leader}{wrong}".split())
