"""Wrappers that measure the calls of any store and any engine, and change nothing else."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Self

from controller.clock import Clock
from controller.core.model.installation import EngineIdentity, Installation
from controller.core.model.nodes import NodeRoom
from controller.core.model.task import AttemptId, Launch, Observation
from controller.election.term import LeadershipLost
from controller.engine.base import (
    ALL_LOGS,
    AttemptRefused,
    AttemptUnknown,
    Engine,
    EngineUnavailable,
    LogOptions,
    Surveying,
)
from controller.store.base import (
    ClusterChanged,
    Committed,
    Compacted,
    KeyValue,
    LeaseNotFound,
    OutcomeUnknown,
    Page,
    Pending,
    Refused,
    RequestTooLarge,
    Snapshot,
    Store,
    StoreDenied,
    StoreFull,
    StoreUnavailable,
    Transaction,
    Watch,
)
from controller.telemetry.metrics import Metrics

NO_NODES_SECONDS = 600.0  # until it is asked again: its engine does not change

# The first match counts, so the more specific ones come first.
_STORE_OUTCOMES: tuple[tuple[type[Exception], str], ...] = (
    (StoreFull, "full"),
    (StoreUnavailable, "unavailable"),
    (OutcomeUnknown, "ambiguous"),
    (RequestTooLarge, "too_large"),
    (LeaseNotFound, "lease_missing"),
    (StoreDenied, "denied"),
    (Compacted, "compacted"),
    (ClusterChanged, "cluster_changed"),
)


class MeasuredStore:
    """A Store; see the module's docstring."""

    def __init__(self, store: Store, metrics: Metrics, clock: Clock) -> None:
        self._store = store
        self._metrics = metrics
        self._clock = clock

    def get(self, key: str, *, deadline: float) -> tuple[KeyValue | None, int]:
        """See Store."""
        with self._timed("get"):
            return self._store.get(key, deadline=deadline)

    def load(self, prefix: str, *, deadline: float, revision: int = 0) -> Snapshot:
        """See Store."""
        with self._timed("load"):
            return self._store.load(prefix, deadline=deadline, revision=revision)

    def pages(self, prefix: str, *, deadline: Callable[[], float]) -> Iterator[Page]:
        """See Store; all pages are one load, without the time for which they are taken in."""
        with self._timed("load") as elsewhere:
            for page in self._store.pages(prefix, deadline=deadline):
                handed_over = self._clock.boottime()
                yield page
                elsewhere.append(self._clock.boottime() - handed_over)

    def watch(self, prefix: str, *, after: int, silence_seconds: float = 0.0, once: bool = False) -> Watch:
        """See Store."""
        return self._store.watch(prefix, after=after, silence_seconds=silence_seconds, once=once)

    def begin(self, transaction: Transaction, *, deadline: float) -> MeasuredPending:
        """See Store."""
        kind = transaction.purpose
        self._metrics.time("tally_transaction_operations", transaction.operations(), kind)
        self._metrics.time("tally_transaction_bytes", transaction.size(), kind)
        timed = _TimedTransaction(self._metrics, self._clock, kind)
        with timed.failing():
            return MeasuredPending(self._store.begin(transaction, deadline=deadline), timed)

    def commit(self, transaction: Transaction, *, deadline: float) -> Committed | Refused:
        """See Store."""
        with self.begin(transaction, deadline=deadline) as pending:
            return pending.result()

    def grant(self, lease: int, ttl_seconds: int, *, deadline: float) -> int:
        """See Store."""
        with self._timed("grant"):
            return self._store.grant(lease, ttl_seconds, deadline=deadline)

    def keep_alive(self, lease: int, *, deadline: float) -> int:
        """See Store."""
        with self._timed("keep_alive"):
            return self._store.keep_alive(lease, deadline=deadline)

    def revoke(self, lease: int, *, deadline: float) -> None:
        """See Store."""
        with self._timed("revoke"):
            self._store.revoke(lease, deadline=deadline)

    def renounce(self, why: str) -> None:
        """See Store."""
        self._store.renounce(why)

    def close(self) -> None:
        """See Store."""
        self._store.close()

    @contextmanager
    def _timed(self, verb: str) -> Iterator[list[float]]:
        began, outcome, elsewhere = self._clock.boottime(), "ok", list[float]()
        try:
            yield elsewhere
        except Exception as error:
            outcome = _store_outcome(error)
            raise
        finally:
            seconds = self._clock.boottime() - began - sum(elsewhere)
            self._metrics.time("tally_store_request_seconds", seconds, verb, outcome)


class _TimedTransaction:
    """Counts a transaction once, when its outcome is known."""

    def __init__(self, metrics: Metrics, clock: Clock, kind: str) -> None:
        self._metrics = metrics
        self._clock = clock
        self._kind = kind
        self._began = clock.boottime()

    @contextmanager
    def failing(self) -> Iterator[None]:
        """Count an error that is raised inside as the outcome."""
        try:
            yield
        except Exception as error:
            self.ended(_store_outcome(error))
            raise

    def ended(self, outcome: str) -> None:
        """Count the transaction with this outcome."""
        seconds = self._clock.boottime() - self._began
        self._metrics.time("tally_transaction_seconds", seconds, self._kind, outcome)


class MeasuredPending:
    """A Pending. Its duration counts from `begin`, with the time that the caller spent in between."""

    def __init__(self, pending: Pending, timed: _TimedTransaction) -> None:
        self._pending = pending
        self._timed = timed

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._pending.__exit__(*error)

    def result(self) -> Committed | Refused:
        """See Pending."""
        with self._timed.failing():
            result = self._pending.result()
        recovered = isinstance(result, Committed) and result.recovered
        outcome = "conflict" if isinstance(result, Refused) else "recovered" if recovered else "applied"
        self._timed.ended(outcome)
        return result


class MeasuredEngine:
    """An Engine; see the module's docstring.

    What it answers is also the last sign of life that the metrics show.
    """

    def __init__(self, engine: Engine, metrics: Metrics, clock: Clock) -> None:
        self.name = engine.name
        self._engine = engine
        self._metrics = metrics
        self._clock = clock

    def identity(self) -> EngineIdentity:
        """See Engine."""
        with self._timed("identity"):
            return self._engine.identity()

    def bind(self, installation: Installation, *, claim: bool = False) -> None:
        """See Engine."""
        self._engine.bind(installation, claim=claim)

    def others(self) -> Mapping[str, Sequence[str]]:
        """See Engine."""
        return self._engine.others()

    def start(self, launch: Launch, confirm: Callable[[], None] | None = None) -> Observation:
        """See Engine."""
        with self._timed("start"):
            return self._engine.start(launch, confirm)

    def stop(self, attempt: AttemptId, *, grace_seconds: float, uid: str = "") -> Observation | None:
        """See Engine."""
        with self._timed("stop"):
            return self._engine.stop(attempt, grace_seconds=grace_seconds, uid=uid)

    def find(self, attempt: AttemptId, *, uid: str = "", grace_seconds: float = 0.0) -> Observation:
        """See Engine."""
        with self._timed("find"):
            return self._engine.find(attempt, uid=uid, grace_seconds=grace_seconds)

    def settle(self, attempt: AttemptId, *, uid: str = "") -> None:
        """See Engine."""
        with self._timed("settle"):
            self._engine.settle(attempt, uid=uid)

    def forget(self, attempt: AttemptId, *, uid: str = "") -> None:
        """See Engine."""
        with self._timed("forget"):
            self._engine.forget(attempt, uid=uid)

    def attempts(self) -> list[Observation]:
        """See Engine."""
        with self._timed("list"):
            return self._engine.attempts()

    def watch(self, sink: Callable[[Observation], None], stop: threading.Event) -> None:
        """See Engine."""
        try:
            self._engine.watch(sink, stop)
        except Exception as error:
            self._metrics.count("tally_engine_watch_restarts", _engine_code(error))
            raise

    def survey(
        self,
        sink: Callable[[tuple[NodeRoom, ...]], None],
        trouble: Callable[[str], None],
        stop: threading.Event,
    ) -> None:
        """See Surveying. Raises EngineUnavailable if the engine has no nodes."""
        if not isinstance(self._engine, Surveying):
            raise EngineUnavailable(f"the engine {self.name} has no nodes", NO_NODES_SECONDS)
        self._engine.survey(sink, trouble, stop)

    def logs(
        self,
        attempt: AttemptId,
        *,
        follow: bool,
        stop: threading.Event | None = None,
        options: LogOptions = ALL_LOGS,
    ) -> Iterator[bytes]:
        """See Engine."""
        return self._engine.logs(attempt, follow=follow, stop=stop, options=options)

    def close(self) -> None:
        """See Engine."""
        self._engine.close()

    @contextmanager
    def _timed(self, verb: str) -> Iterator[None]:
        began, code = self._clock.boottime(), "ok"
        try:
            yield
        except Exception as error:
            code = _engine_code(error)
            raise
        finally:
            self._metrics.time("tally_engine_request_seconds", self._clock.boottime() - began, verb, code)


def _store_outcome(error: Exception) -> str:
    return next((outcome for kind, outcome in _STORE_OUTCOMES if isinstance(error, kind)), "error")


def _engine_code(error: Exception) -> str:
    if isinstance(error, AttemptRefused):
        return "refused_transient" if error.transient else "refused"
    if isinstance(error, EngineUnavailable):
        return "unavailable"
    if isinstance(error, AttemptUnknown):
        return "unknown_attempt"
    return "lost_leadership" if isinstance(error, LeadershipLost) else "error"
