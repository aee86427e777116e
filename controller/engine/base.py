"""The engine's seam: what runs attempts. Implementations: `kubernetes`, `docker`, `process`, `null`.

One conformance suite (`tests/conformance/test_engine.py`) holds for all. Contract, in short:
- an attempt's name is its fencing token: `start` of an attempt that exists, or ever existed, starts nothing;
- `stop` leaves behind whatever is needed so that a late `start` of the same attempt never runs;
- a finished attempt stays listed (its tombstone, with its result) until `forget`;
- the watch is a hint, a full `list` is the truth;
- an engine never touches what is not its cluster's, nor what another installation of the same cluster name has there
  (see `core.installation`): it neither lists nor stops nor adopts that, and refuses a start under a name that it has.
Calls may come from several threads at once, for different attempts.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol, runtime_checkable

from controller.core.errors import TallyError
from controller.core.installation import EngineIdentity, Installation
from controller.core.task import AttemptId, Launch, Observation


class EngineError(TallyError):
    """Root of the engines' errors."""


class EngineUnavailable(EngineError):
    """The engine did not answer, or cannot for now; nothing may be concluded. Try again after `retry_after` seconds."""

    def __init__(self, message: str, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class AttemptRefused(EngineError):
    """The engine refuses to start this attempt, and certainly has not started it.

    `reason` is a CamelCase word, `transient` tells that the same may be accepted later (a quota, for example): it is tried
    again, without counting as a failure.
    """

    def __init__(self, reason: str, message: str, *, transient: bool = False) -> None:
        super().__init__(message)
        self.reason = reason
        self.transient = transient


class AttemptUnknown(EngineError):
    """The engine has no such attempt (no logs to show, nothing to stop)."""


class Engine(Protocol):
    """See the module's docstring."""

    name: str

    def identity(self) -> EngineIdentity:
        """What this engine is, asked for now: the same for every replica that uses the same one. Raises EngineUnavailable."""
        ...

    def bind(self, installation: Installation, *, claim: bool = False) -> None:
        """Work for this installation from now on. Before, all of the cluster's name is taken for ours. Idempotent.

        `claim` is for a leader: where the engine gives each installation a place of its own, it is made.
        Raises EngineUnavailable.
        """
        ...

    def others(self) -> Mapping[str, Sequence[str]]:
        """What other installations of the cluster's name have here, as the last `list` saw it: id ("": none) → attempts' names."""
        ...

    def start(self, launch: Launch, confirm: Callable[[], None] | None = None) -> Observation:
        """Start the attempt, or adopt it when it exists already; returns what it looks like now.

        `confirm` raises when the caller may no longer start anything. An engine that creates an attempt and lets it loose in
        a second step calls it in between, and passes the error on. Idempotent by `launch.attempt`. Raises EngineUnavailable,
        AttemptRefused.
        """
        ...

    def stop(self, attempt: AttemptId, *, grace_seconds: float, uid: str = "") -> Observation | None:
        """Ask the attempt to end: a polite signal now, a kill of all its processes after the grace. Does not wait for it.

        Idempotent. An attempt that was never started is marked so that it never will be; the observation that is
        returned (if any) says so. `uid`, when given, must be the attempt's uid, or nothing is touched.
        Raises EngineUnavailable.
        """
        ...

    def settle(self, attempt: AttemptId) -> None:
        """The attempt's end is committed: let go of what was kept only to prove it (`Observation.awaits_commit`).

        Idempotent; one that has not ended is left alone. Raises EngineUnavailable.
        """
        ...

    def forget(self, attempt: AttemptId) -> None:
        """Remove a finished attempt, its result and its logs; a live one is left alone. Idempotent. Raises EngineUnavailable."""
        ...

    def list(self) -> list[Observation]:
        """Every attempt of this cluster that the engine knows of, finished ones included. Raises EngineUnavailable."""
        ...

    def watch(self, sink: Callable[[Observation], None], stop: threading.Event) -> None:
        """Call `sink` for changes until `stop` is set; may miss, repeat or reorder. Returns when `stop` is set.

        Raises EngineUnavailable when the watch cannot go on; the caller starts it again.
        """
        ...

    def logs(self, attempt: AttemptId, *, follow: bool, stop: threading.Event | None = None) -> Iterator[bytes]:
        """The attempt's output (both streams, in order of arrival) in chunks; with `follow` until it has ended.

        Raises AttemptUnknown, EngineUnavailable.
        """
        ...

    def close(self) -> None:
        """Let go of connections; running attempts are left running. Idempotent."""
        ...


@runtime_checkable
class Counting(Protocol):
    """What an engine that speaks to a server also tells, for the metrics."""

    faults: Mapping[str, int]  # what went wrong with calls, by kind: HTTP codes, "timeout", …
    waited_seconds: Callable[[], float]  # for which calls waited for their turn under our own limit, in all
