"""The engine's seam: what runs attempts. Implementations: `kubernetes`, `docker`, `process`, `null`.

One conformance suite (`tests/conformance/test_engine.py`) holds for all. Contract, in short:
- an attempt's name is its fencing token: `start` of an attempt that exists, or ever existed, starts nothing;
- `stop` leaves behind whatever is needed so that a late `start` of the same attempt never runs;
- a finished attempt stays listed (its tombstone, with its result) until `forget`;
- the watch is a hint, `attempts` is the truth about what it has; what that lacks proves nothing until `find`
  was asked;
- an engine never touches what is not its cluster's, nor what another installation of the same cluster name
  has there (see `core.model.installation`): it neither lists nor stops nor adopts that, and refuses a start
  under a name that it has.
Calls may come from several threads at once, for different attempts.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import msgspec

from controller import bulkhead
from controller.core.model.installation import EngineIdentity, Installation
from controller.core.model.task import AttemptId, Launch, Observation, Phase
from controller.errors import TallyError


class EngineError(TallyError):
    """Root of the engines' errors."""


class EngineUnavailable(EngineError):
    """The engine did not answer, or cannot for now; nothing may be concluded.

    Try again after `retry_after` seconds.
    """

    def __init__(self, message: str, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class AttemptDelayed(EngineUnavailable):
    """What the attempt needs is being made, its image for example: ask again each `retry_after` seconds."""


class AttemptRefused(EngineError):
    """The engine refuses to start this attempt, and certainly has not started it.

    `reason` is a CamelCase word, `transient` tells that the same may be accepted later (a quota, for
    example): it is tried again, without counting as a failure.
    """

    def __init__(self, reason: str, message: str, *, transient: bool = False) -> None:
        super().__init__(message)
        self.reason = reason
        self.transient = transient


class AttemptUnknown(EngineError):
    """The engine has no such attempt (no logs to show, nothing to stop)."""


class LogsRefused(EngineError):
    """The engine has no such part of an attempt's output; the text says what it has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogOptions:
    """Which part of an attempt's output. An engine refuses what it cannot tell apart (LogsRefused)."""

    container: str = ""  # of a pod; "" for the task's own
    tail: int | None = None  # the last so many lines
    since_seconds: float | None = None  # what was printed in the last so many seconds
    previous: bool = False  # of the run before, of a container that was restarted

    def check(self, engine: str, *supported: str) -> None:
        """Raises LogsRefused for an option that is given and not among `supported`."""
        for name, flag in (
            ("container", "-c"),
            ("tail", "--tail"),
            ("since_seconds", "--since"),
            ("previous", "--previous"),
        ):
            if name not in supported and getattr(self, name) not in ("", None, False):
                raise LogsRefused(
                    f"{flag}: the {engine} engine keeps one output for an attempt, {_WHY_NOT[name]}"
                )


ALL_LOGS = LogOptions()

_WHY_NOT = {
    "container": "and no containers",
    "tail": "and only as a whole",
    "since_seconds": "without times",
    "previous": "of its only run",
}


def gone(attempt: AttemptId, uid: str) -> Observation:
    """What `find` says where the engine has the last word, and has no such object."""
    message = "the engine no longer has this attempt: it was removed from outside"
    return Observation(
        attempt=attempt, phase=Phase.FAILED, stopped=True, gone=True, uid=uid, reason="Gone", message=message
    )


_observation = msgspec.json.Decoder(Observation)


def checked(seen: Observation, attempt: AttemptId) -> Observation:
    """What an engine says of `attempt`, if it is what an Observation may be; else one that says that nothing
    is known.

    An engine reads files and servers that others write. What is odd there is no proof of anything: the
    attempt is shown as lost, with the reason, and all others are heard.
    """
    try:
        if type(seen) is Observation and seen.attempt == attempt:
            _observation.decode(msgspec.json.encode(seen))  # every field, and all the way down
            return seen
        problem = f"expected an Observation of {attempt}, got {type(seen).__name__}"
    except (msgspec.MsgspecError, ValueError, TypeError, OverflowError, RecursionError) as error:
        problem = str(error)
    message = f"what the engine says of it cannot be used: {problem}"
    bulkhead.caught("observation", EngineError(message), attempt=str(attempt))
    return Observation(attempt=attempt, phase=Phase.UNKNOWN, reason="Quarantined", message=message)


def all_checked(seen: Iterable[Observation]) -> list[Observation]:
    """Each one `checked`.

    What names no attempt is counted and left out: there is nothing that it could belong to.
    """
    found = []
    for observation in seen:
        attempt = getattr(observation, "attempt", None)
        if isinstance(attempt, AttemptId) and attempt.is_sound:
            found.append(checked(observation, attempt))
        else:
            bulkhead.caught("observation", EngineError(f"it names no attempt: {observation!r:.200}"))
    return found


class Engine(Protocol):
    """See the module's docstring."""

    name: str

    def identity(self) -> EngineIdentity:
        """What this engine is, asked for now: the same for every replica that uses the same one.

        Raises EngineUnavailable.
        """
        ...

    def bind(self, installation: Installation, *, claim: bool = False) -> None:
        """Work for this installation from now on.

        Before, all of the cluster's name is taken for ours. Idempotent.

        `claim` is for a leader: where the engine gives each installation a place of its own, it is made.
        Raises EngineUnavailable.
        """
        ...

    def others(self) -> Mapping[str, Sequence[str]]:
        """What other installations of the cluster's name have here, as the last `attempts` saw it: id ("":
        none) → attempts' names.
        """
        ...

    def start(self, launch: Launch, confirm: Callable[[], None] | None = None) -> Observation:
        """Start the attempt, or adopt it when it exists already; returns what it looks like now.

        `confirm` raises when the caller may no longer start anything. An engine that creates an attempt and
        lets it loose in a second step calls it in between, and passes the error on. Idempotent by
        `launch.attempt`. Raises AttemptRefused, and EngineUnavailable, also where it cannot tell whether
        there is such an attempt: an answer speaks of one that is there, and is not asked for again.
        """
        ...

    def stop(self, attempt: AttemptId, *, grace_seconds: float, uid: str = "") -> Observation | None:
        """Ask the attempt to end: a polite signal now, a kill of all its processes after the grace.

        Does not wait for it.

        Idempotent. An attempt that was never started is marked so that it never will be; the observation that
        is returned (if any) says so. `uid`, when given, must be the attempt's uid, or nothing is touched.
        Raises EngineUnavailable.
        """
        ...

    def find(self, attempt: AttemptId, *, uid: str = "") -> Observation:
        """What became of an attempt that `attempts` should tell and does not: asked for by its name, and by
        its uid if that is known.

        `stopped` and `gone` where that is proven: the engine's own word that there is no such object, where
        it has the last word, or a search for its processes. Phase Unknown, with a reason, where the engine
        cannot tell; what else it is, where it is there after all. Raises EngineUnavailable: then nothing may
        be concluded.
        """
        ...

    def settle(self, attempt: AttemptId) -> None:
        """The attempt's end is committed: let go of what was kept only to prove it
        (`Observation.awaits_commit`).

        Idempotent; one that has not ended is left alone. Raises EngineUnavailable.
        """
        ...

    def forget(self, attempt: AttemptId) -> None:
        """Remove a finished attempt, its result and its logs; a live one is left alone.

        Idempotent. Raises EngineUnavailable.
        """
        ...

    def attempts(self) -> list[Observation]:
        """Every attempt of this cluster that the engine knows of, finished ones included.

        Raises EngineUnavailable.
        """
        ...

    def watch(self, sink: Callable[[Observation], None], stop: threading.Event) -> None:
        """Call `sink` for changes until `stop` is set; may miss, repeat or reorder.

        Returns when `stop` is set.

        Raises EngineUnavailable when the watch cannot go on; the caller starts it again.
        """
        ...

    def logs(
        self,
        attempt: AttemptId,
        *,
        follow: bool,
        stop: threading.Event | None = None,
        options: LogOptions = ALL_LOGS,
    ) -> Iterator[bytes]:
        """The attempt's output (both streams, in order of arrival) in chunks; with `follow` until it has
        ended.

        Raises AttemptUnknown, LogsRefused, EngineUnavailable.
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
