"""The null engine runs nothing, so that measurements show the cost of Tally alone.

It lives in the memory of one process. An attempt is observed Running at once, and Succeeded after
`run_seconds`, or after TALLY_NULL_SECONDS of its environment. Attempts end only while a watch runs.

Cost: an ended attempt takes about 0.5 KB until `forget`, with what a leader knows of it. So 1,000 attempts a
second take less than 2 GB in the hour for which their names are kept.
"""

from __future__ import annotations

import heapq
import math
import threading
from collections.abc import Callable, Iterator

from msgspec.structs import replace

from controller.clock import Clock
from controller.core.model.installation import EngineIdentity, Installation
from controller.core.model.task import AttemptId, Launch, Observation, Phase
from controller.engine.base import ALL_LOGS, AttemptRefused, AttemptUnknown, LogOptions, gone


class NullEngine:
    """See the module's docstring. Safe to use from several threads; one watch at a time."""

    name = "null"

    def __init__(self, clock: Clock, run_seconds: float = 0.0) -> None:
        self._clock = clock
        self._run_seconds = run_seconds
        self._changed = threading.Condition()
        self._attempts: dict[AttemptId, Observation] = {}
        self._due: list[tuple[float, AttemptId]] = []  # a heap: when each ends, on the boottime clock
        self._news: list[Observation] = []
        self._uids: dict[int, str] = {}

    def identity(self) -> EngineIdentity:
        """See Engine."""
        return EngineIdentity(name=self.name, id=self.name)

    def bind(self, installation: Installation, *, claim: bool = False) -> None:
        """See Engine. Does nothing: no other installation can reach this memory."""

    def others(self) -> dict[str, list[str]]:
        """See Engine."""
        return {}

    # `confirm` is not needed: a start is one step
    def start(self, launch: Launch, confirm: Callable[[], None] | None = None) -> Observation:  # noqa: ARG002
        """See Engine. Raises AttemptRefused with the reason InvalidDuration."""
        try:
            seconds = float(launch.environment.get("TALLY_NULL_SECONDS", self._run_seconds))
        except ValueError as error:
            raise AttemptRefused("InvalidDuration", f"env.TALLY_NULL_SECONDS: {error}") from error
        if not 0 <= seconds < math.inf:
            raise AttemptRefused("InvalidDuration", f"env.TALLY_NULL_SECONDS: is {seconds}, expected seconds")
        with self._changed:
            seen = self._attempts.get(launch.attempt)
            if seen is None:
                uid = self._uids.setdefault(launch.term, f"null-{launch.term}")  # one text for all of a term
                seen = Observation(
                    attempt=launch.attempt, phase=Phase.RUNNING, uid=uid, started_at=self._clock.now()
                )
                heapq.heappush(self._due, (self._clock.boottime() + seconds, launch.attempt))
                self._record(seen)
            return seen

    # the grace is not needed: the attempt ends at once
    def stop(self, attempt: AttemptId, *, grace_seconds: float, uid: str = "") -> Observation | None:  # noqa: ARG002
        """See Engine."""
        with self._changed:
            seen = self._attempts.get(attempt)
            if uid and (seen is None or seen.uid != uid):
                return None
            if seen is None:
                self._end(Observation(attempt=attempt, phase=Phase.FAILED, ran=False, reason="NeverStarted"))
            elif not seen.stopped:
                self._end(replace(seen, phase=Phase.FAILED, reason="Stopped"))
            return self._attempts[attempt]

    def find(
        self,
        attempt: AttemptId,
        *,
        uid: str = "",
        grace_seconds: float = 0.0,  # noqa: ARG002  # it sees what still runs
    ) -> Observation:
        """See Engine. An unknown attempt is gone, since nothing runs."""
        with self._changed:
            return self._attempts.get(attempt) or gone(attempt, uid)

    def settle(self, attempt: AttemptId, *, uid: str = "") -> None:  # its name is enough
        """See Engine. Does nothing: an attempt is kept until `forget`."""

    def forget(self, attempt: AttemptId, *, uid: str = "") -> None:  # noqa: ARG002  # it looks
        """See Engine."""
        with self._changed:
            seen = self._attempts.get(attempt)
            if seen is not None and seen.stopped:
                del self._attempts[attempt]

    def attempts(self) -> list[Observation]:
        """See Engine."""
        with self._changed:
            return [*self._attempts.values()]

    def watch(self, sink: Callable[[Observation], None], stop: threading.Event) -> None:
        """See Engine."""
        while not stop.is_set():
            with self._changed:
                while self._due and self._due[0][0] <= self._clock.boottime():
                    _, attempt = heapq.heappop(self._due)
                    seen = self._attempts.get(attempt)
                    if seen is not None and not seen.stopped:
                        self._end(replace(seen, phase=Phase.SUCCEEDED, exit_code=0, reason="Completed"))
                if not self._news:
                    # Setting `stop` does not wake this wait, so `stop` is checked ten times a second.
                    left = self._due[0][0] - self._clock.boottime() if self._due else 0.1
                    self._changed.wait(min(max(left, 0.0), 0.1))
                news, self._news = self._news, []
            for seen in news:
                sink(seen)

    def logs(
        self,
        attempt: AttemptId,
        *,
        follow: bool,  # noqa: ARG002
        stop: threading.Event | None = None,  # noqa: ARG002
        options: LogOptions = ALL_LOGS,  # noqa: ARG002
    ) -> Iterator[bytes]:
        """No output, since nothing ran. Raises AttemptUnknown."""
        with self._changed:
            if attempt not in self._attempts:
                raise AttemptUnknown(f"the null engine has no attempt {attempt}")
        return iter(())

    def close(self) -> None:
        """See Engine. Does nothing: there are no connections."""

    def _end(self, seen: Observation) -> None:
        self._record(replace(seen, stopped=True, finished_at=self._clock.now()))

    def _record(self, seen: Observation) -> None:
        self._attempts[seen.attempt] = seen
        self._news.append(seen)
        self._changed.notify_all()
