"""Leadership as a value: which term, and until when it may act."""

from __future__ import annotations

import threading

from controller.clock import Clock
from controller.errors import TallyError


class LeadershipLost(TallyError):
    """This replica no longer leads, or cannot know that it does: no effect may start."""


class Leadership:
    """One term of this replica.

    `revision` is the leader key's create revision: the term, which fences every write. `epoch` counts
    elections, and keeps rising across a restore from a backup.

    Invariant: `deadline` is the time (boottime seconds) at which the last good keep-alive was *sent*, plus
    the TTL, less a margin. etcd cannot have let the lease expire before it, because the count begins when the
    keep-alive is sent. Source: etcd's client/v3/concurrency and river's leadership notes.
    """

    def __init__(self, revision: int, epoch: int, lease: int, deadline: float, clock: Clock) -> None:
        self.revision = revision
        self.epoch = epoch
        self.lease = lease
        self._deadline = deadline
        self._clock = clock
        self._lock = threading.Lock()
        self._ended = ""

    @property
    def deadline(self) -> float:
        """Until when effects may start, in boottime seconds."""
        return self._deadline

    def extend(self, deadline: float) -> None:
        """A keep-alive was answered. Deadlines never go back, and a term that has ended stays ended."""
        with self._lock:
            if not self.why_ended():
                self._deadline = max(self._deadline, deadline)

    def end(self, why: str) -> None:
        """End the term: no effect starts from now on. The first reason is kept."""
        with self._lock:
            self._ended = self.why_ended() or why

    def why_ended(self) -> str:
        """Why it has ended; "" while it has not."""
        expired = self._clock.boottime() >= self._deadline
        return self._ended or ("the lease could not be renewed in time" if expired else "")

    def remaining(self) -> float:
        """Seconds for which effects may still start; 0 if it has ended."""
        return 0.0 if self.why_ended() else max(0.0, self._deadline - self._clock.boottime())

    def check(self) -> None:
        """Raise LeadershipLost if it has ended. Call this before every effect."""
        if why := self.why_ended():
            raise LeadershipLost(why)
