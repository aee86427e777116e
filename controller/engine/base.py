"""The interface of the engines, which run attempts: `kubernetes`, `docker`, `process` and `null`.

All engines pass one conformance suite (`tests/conformance/test_engine.py`). The contract in short:
- An attempt's name is its fencing token: `start` of an attempt that exists, or ever existed, starts nothing.
- `stop` of an attempt prevents every later `start` of it from running anything.
- A finished attempt stays listed, as a tombstone with its result, until `forget`.
- The watch is a hint. `attempts` is authoritative for the attempts that it lists. An attempt that it does not
  list proves nothing; `find` decides.
- An engine leaves alone what belongs to another cluster, or to another installation with the same cluster
  name (see `core.model.installation`). It does not list, stop or adopt such attempts, and refuses to start an
  attempt whose name one of them has.
Several threads may call at once, for different attempts.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import msgspec

from controller import bulkhead
from controller.core.model.installation import EngineIdentity, Installation
from controller.core.model.nodes import NodeRoom
from controller.core.model.scalars import is_number, parse_integer, shown
from controller.core.model.task import AttemptId, Launch, Observation, Phase
from controller.errors import InvalidField, TallyError


class EngineError(TallyError):
    """The base class of the engines' errors."""


class EngineUnavailable(EngineError):
    """The engine did not answer, or cannot answer for now. No conclusion may be drawn from that.

    Try again after `retry_after` seconds.
    """

    def __init__(self, message: str, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class AttemptDelayed(EngineUnavailable):
    """The engine still prepares what the attempt needs, such as its image; retry after `retry_after`."""


class AttemptRefused(EngineError):
    """The engine refuses to start this attempt, and certainly has not started it.

    `reason` is a CamelCase word. `transient` means that the engine may accept the same attempt later, for
    example because of a quota; it is then retried, and does not count as a failure.
    """

    def __init__(self, reason: str, message: str, *, transient: bool = False) -> None:
        super().__init__(message)
        self.reason = reason
        self.transient = transient


class AttemptUnknown(EngineError):
    """The engine has no such attempt, and so no logs of it."""


class LogsRefused(EngineError):
    """The engine cannot select this part of an attempt's output; the message says what it has."""


MOST_LINES = MOST_SECONDS = 10**9  # of an output that is selected


@dataclass(frozen=True, slots=True, kw_only=True)
class LogOptions:
    """Selects a part of an attempt's output. An engine refuses what it does not support (LogsRefused)."""

    container: str = ""  # a container of the pod; "": the main container
    tail: int | None = None  # only this many lines, the last ones
    since_seconds: float | None = None  # only the output of this many last seconds
    previous: bool = False  # the output of a restarted container's previous run

    def __post_init__(self) -> None:
        """Raises InvalidField."""
        if self.tail is not None:
            parse_integer(self.tail, "tail", 0, MOST_LINES)
        seconds = self.since_seconds
        if seconds is not None and not (is_number(seconds) and 0 < seconds <= MOST_SECONDS):
            problem = f"is {shown(seconds)}, expected seconds above 0, at most {MOST_SECONDS}"
            raise InvalidField("since_seconds", problem)

    def check(self, engine: str, *supported: str) -> None:
        """Raise LogsRefused for an option that is set and not in `supported`."""
        for name, flag in (
            ("container", "-c"),
            ("tail", "--tail"),
            ("since_seconds", "--since"),
            ("previous", "--previous"),
        ):
            if name not in supported and getattr(self, name) not in ("", None, False):
                raise LogsRefused(
                    f"{flag}: the {engine} engine keeps one output for each attempt, {_WHY_NOT[name]}"
                )


ALL_LOGS = LogOptions()

_WHY_NOT = {
    "container": "and has no containers",
    "tail": "which it returns as a whole",
    "since_seconds": "without times",
    "previous": "and runs it only once",
}


def without_first(count: int, parts: Iterable[bytes]) -> Iterator[bytes]:
    """The output without its first `count` bytes; in place of each part that is left out, an empty one."""
    for part in parts:
        yield part[count:]
        count = max(0, count - len(part))


def gone(attempt: AttemptId, uid: str) -> Observation:
    """The answer of `find` when the engine is authoritative and has no such object."""
    message = "the engine no longer has this attempt: it was removed from outside"
    return Observation(
        attempt=attempt, phase=Phase.FAILED, stopped=True, gone=True, uid=uid, reason="Gone", message=message
    )


_observation = msgspec.json.Decoder(Observation)


def checked(seen: Observation, attempt: AttemptId) -> Observation:
    """The engine's observation of `attempt` if it is valid, else one with phase Unknown and the reason.

    An engine reads files and servers that others write. An invalid value there proves nothing: its attempt is
    shown as lost, with the reason, and the other observations are used.
    """
    try:
        if type(seen) is Observation and seen.attempt == attempt:
            _observation.decode(msgspec.json.encode(seen))  # checks every field, at every depth
            return seen
        problem = f"expected an Observation of {attempt}, got {type(seen).__name__}"
    except (msgspec.MsgspecError, ValueError, TypeError, OverflowError, RecursionError) as error:
        problem = str(error)
    message = f"the engine's answer about it cannot be used: {problem}"
    bulkhead.caught("observation", EngineError(message), attempt=str(attempt))
    return Observation(attempt=attempt, phase=Phase.UNKNOWN, reason="Quarantined", message=message)


def all_checked(seen: Iterable[Observation]) -> list[Observation]:
    """The observations, each `checked`. One that names no attempt is counted as an error and left out."""
    found = []
    for observation in seen:
        attempt = getattr(observation, "attempt", None)
        if isinstance(attempt, AttemptId) and attempt.is_sound:
            found.append(checked(observation, attempt))
        else:
            bulkhead.caught(
                "observation", EngineError(f"the observation names no attempt: {observation!r:.200}")
            )
    return found


class Engine(Protocol):
    """See the module's docstring."""

    name: str

    def identity(self) -> EngineIdentity:
        """The identity of this engine, asked for now; equal for all replicas that use the same engine.

        Raises EngineUnavailable.
        """
        ...

    def bind(self, installation: Installation, *, claim: bool = False) -> None:
        """Work for this installation from now on. Idempotent.

        Before `bind`, everything with the cluster's name counts as ours. A leader sets `claim`: an engine
        that keeps a separate place for each installation then creates it. Raises EngineUnavailable.
        """
        ...

    def others(self) -> Mapping[str, Sequence[str]]:
        """The attempts of other installations with the cluster's name, as the last `attempts` saw them.

        Maps an installation's id ("": none) to the names of its attempts.
        """
        ...

    def start(self, launch: Launch, confirm: Callable[[], None] | None = None) -> Observation:
        """Start the attempt, or adopt it if it exists; returns its observation. Idempotent by attempt.

        `confirm` raises when the caller may no longer start anything. An engine that creates an attempt in
        one step and releases it in a second one calls `confirm` between the two, and passes its error on.
        Raises AttemptRefused. Raises EngineUnavailable, also when the engine cannot tell whether the attempt
        exists: an observation that is returned is final, and `start` is not called again.
        """
        ...

    def stop(self, attempt: AttemptId, *, grace_seconds: float, uid: str = "") -> Observation | None:
        """Stop the attempt: signal it to end now, and kill all its processes after the grace. Idempotent.

        Does not wait for the end. An attempt that was never started is marked, so that it never starts; the
        returned observation, if any, says so. If `uid` is given and is not the attempt's uid, nothing is
        stopped. Raises EngineUnavailable.
        """
        ...

    def find(self, attempt: AttemptId, *, uid: str = "", grace_seconds: float = 0.0) -> Observation:
        """Look up one attempt that `attempts` should list and does not, by its name and, if known, its uid.

        `grace_seconds` is what its end may take: who ends it, if it is not this controller, gives it that.

        Returns an observation with `stopped` and `gone` if that is proven: an authoritative engine has no
        such object, or a search found none of its processes. Returns phase Unknown with a reason if the
        engine cannot tell, and the attempt's observation if it exists after all. Raises EngineUnavailable,
        from which nothing may be concluded.
        """
        ...

    def settle(self, attempt: AttemptId, *, uid: str = "") -> None:
        """Release what was kept only to prove the attempt's end, which is now committed. Idempotent.

        See `Observation.awaits_commit`. An attempt that has not ended is left alone. Raises
        EngineUnavailable.
        """
        ...

    def forget(self, attempt: AttemptId, *, uid: str = "") -> None:
        """Remove a finished attempt, its result and its logs. Idempotent.

        `uid`: that of an attempt that is proven to have stopped, so that an engine need not look. Any other
        one is left alone while it runs. Raises EngineUnavailable.
        """
        ...

    def attempts(self) -> list[Observation]:
        """All attempts of this cluster that the engine has, with the finished ones.

        Raises EngineUnavailable.
        """
        ...

    def watch(self, sink: Callable[[Observation], None], stop: threading.Event) -> None:
        """Call `sink` for each change, and return when `stop` is set.

        May miss, repeat or reorder changes. Raises EngineUnavailable when the watch cannot continue; the
        caller starts it again.
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
        """The attempt's output in chunks, both streams in order of arrival.

        With `follow`, it continues until the attempt has ended. Raises AttemptUnknown, LogsRefused,
        EngineUnavailable.
        """
        ...

    def close(self) -> None:
        """Close connections; running attempts continue. Idempotent."""
        ...


@runtime_checkable
class Surveying(Protocol):
    """An engine that has nodes, which the capacity of pools may follow."""

    def survey(
        self,
        sink: Callable[[tuple[NodeRoom, ...]], None],
        trouble: Callable[[str], None],
        stop: threading.Event,
    ) -> None:
        """Call `sink` with all nodes, and again after changes, and return when `stop` is set.

        `trouble` gets why the nodes cannot be seen now; the next call of `sink` ends that. Raises
        EngineUnavailable when the survey cannot continue; the caller starts it again.
        """
        ...


@runtime_checkable
class Counting(Protocol):
    """What an engine with a server also counts, for the metrics."""

    faults: Mapping[str, int]  # failed calls by kind: HTTP codes, "timeout", …
    waited_seconds: Callable[[], float]  # the total time for which calls waited under our own rate limit
