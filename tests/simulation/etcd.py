"""A simulated etcd: the store in memory behind a network, with clients that behave as `EtcdStore` does.

The semantics (revisions, leases, guards, compaction) are those of `MemoryStore`, which
`tests/store/test_twins.py` holds to the real etcd. What is simulated is what lies between: requests and
answers that are lost or late, copies that apply after the caller has given up, watches that are slow, silent,
cut, doubled, and delivered in chunks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

from controller.store.base import (
    Batch,
    Committed,
    KeyValue,
    OutcomeUnknown,
    Page,
    Put,
    Refused,
    Snapshot,
    StoreFull,
    StoreUnavailable,
    Transaction,
)
from controller.store.limits import check_limits
from controller.store.memory import MemoryStore
from tests.simulation.concurrency import SimulatedEvent
from tests.simulation.network import Server, Unanswered
from tests.simulation.scheduler import Process, Scheduler

T = TypeVar("T")

FAR = float("inf")
_TRY_SECONDS = 1.5  # after which a client sends again
_PAGE_KEYS = 20  # of a load: it takes several
_EXPIRY_SECONDS = 0.5  # how often etcd looks at its leases


class _TrueClock:
    """The clock of the etcd cluster."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler

    def boottime(self) -> float:
        return self._scheduler.now

    now = wall = boottime

    def anchor(self) -> None:
        """Nothing to read."""


class SimulatedEtcd(Server):
    """The cluster.

    `on_revision` is told of every revision, and by whom it was written ("": by nobody), before all else
    happens.
    """

    def __init__(self, scheduler: Scheduler, on_revision: Callable[[Batch, str], None]) -> None:
        super().__init__(scheduler, "etcd")
        self.store = MemoryStore(_TrueClock(scheduler))
        self.full = False
        self._on_revision = on_revision
        self._told = 1
        self._changed: list[SimulatedEvent] = []
        self.on_send: Callable[[str, str], None] = lambda process, op: None
        scheduler.after(_EXPIRY_SECONDS, self._look_at_leases)

    @property
    def revision(self) -> int:
        """The newest revision."""
        return self.store.get("", deadline=FAR)[1]

    def do(self, action: Callable[[MemoryStore], T], writer: str = "") -> T:
        """Carry out one request here and now, and tell of the revisions that it made."""
        self.store.expire_leases()
        self._tell("")
        try:
            return action(self.store)
        finally:
            self._tell(writer)

    def transact(self, transaction: Transaction, writer: str) -> Committed | Refused:
        """One copy of a transaction arrives."""
        if self.full and any(isinstance(write, Put) for write in transaction.writes):
            raise StoreFull("etcdserver: mvcc: database space exceeded")
        return self.do(lambda store: store.commit(transaction, deadline=FAR), writer)

    def get(self, key: str) -> KeyValue | None:
        """What stands there now."""
        return self.do(lambda store: store.get(key, deadline=FAR))[0]

    def load(self, prefix: str) -> Snapshot:
        """All that stands under a prefix now."""
        return self.do(lambda store: store.load(prefix, deadline=FAR))

    def compact(self, revision: int) -> None:
        """Forget the history before a revision."""
        self.scheduler.note(f"etcd compacts to {revision}")
        self.do(lambda store: store.compact(revision))
        self._wake()

    def extend_leases(self) -> None:
        """What a newly elected etcd leader does: all leases have their whole time again."""
        self.scheduler.note("etcd elects: all leases are extended")
        for lease in self.store._server.leases.values():
            lease.expires = self.scheduler.now + lease.ttl_seconds

    def lease_of(self, key: str) -> int:
        """The lease that a key is attached to, 0 for none."""
        item = self.get(key)
        return item.lease if item is not None else 0

    def subscribe(self, changed: SimulatedEvent) -> None:
        """Set this event whenever something may have changed for watches."""
        self._changed.append(changed)

    def unsubscribe(self, changed: SimulatedEvent) -> None:
        """No longer."""
        self._changed.remove(changed)

    def _tell(self, writer: str) -> None:
        history = self.store._server.history
        new = []
        for batch in reversed(history):
            if batch.revision <= self._told:
                break
            new.append(batch)
        if not new:
            return
        self._told = new[0].revision
        for batch in reversed(new):
            self._on_revision(batch, writer)
        self._wake()

    def _wake(self) -> None:
        for changed in self._changed:
            changed.set()

    def _look_at_leases(self) -> None:
        if self.up:  # without a quorum nothing expires
            self.do(lambda store: store.expire_leases())
        self.scheduler.after(_EXPIRY_SECONDS, self._look_at_leases)


class SimulatedStore:
    """controller.store.base.Store, as one process has it."""

    def __init__(self, etcd: SimulatedEtcd, process: Process) -> None:
        self._etcd = etcd
        self._process = process
        self._scheduler = etcd.scheduler

    def get(self, key: str, *, deadline: float) -> tuple[KeyValue | None, int]:
        return self._read(
            f"get {key}", lambda: self._etcd.do(lambda store: store.get(key, deadline=FAR)), deadline
        )

    def load(self, prefix: str, *, deadline: float, revision: int = 0) -> Snapshot:
        return self._read(
            "load",
            lambda: self._etcd.do(lambda store: store.load(prefix, deadline=FAR, revision=revision)),
            deadline,
        )

    def pages(self, prefix: str, *, deadline: Callable[[], float]) -> Iterator[Page]:
        revision, items = self.load(prefix, deadline=deadline())
        for first in range(0, max(1, len(items)), _PAGE_KEYS):
            if first:
                revision, items = self.load(prefix, deadline=deadline(), revision=revision)
            yield Page(revision, items[first : first + _PAGE_KEYS], first + _PAGE_KEYS < len(items))

    def watch(
        self, prefix: str, *, after: int, silence_seconds: float = 0.0, once: bool = False
    ) -> SimulatedWatch:
        assert not once, "no process here rests between watches"
        return SimulatedWatch(self._etcd, self._process, prefix, after, silence_seconds)

    def begin(self, transaction: Transaction, *, deadline: float) -> SimulatedPending:
        check_limits(transaction)
        return SimulatedPending(self, transaction, deadline)

    def commit(self, transaction: Transaction, *, deadline: float) -> Committed | Refused:
        return self.begin(transaction, deadline=deadline).result()

    def grant(self, lease: int, ttl_seconds: int, *, deadline: float) -> int:
        return self._read(
            f"grant {lease}",
            lambda: self._etcd.do(lambda store: store.grant(lease, ttl_seconds, deadline=FAR)),
            deadline,
        )

    def keep_alive(self, lease: int, *, deadline: float) -> int:
        return self._read(
            f"keep-alive {lease}",
            lambda: self._etcd.do(lambda store: store.keep_alive(lease, deadline=FAR)),
            deadline,
        )

    def revoke(self, lease: int, *, deadline: float) -> None:
        self._read(
            f"revoke {lease}",
            lambda: self._etcd.do(lambda store: store.revoke(lease, deadline=FAR)),
            deadline,
        )

    def renounce(self, why: str) -> None:
        raise AssertionError(f"this is one history, and a replica takes it for two: {why}")

    def close(self) -> None:
        """Nothing to close."""

    def _read(self, what: str, action: Callable[[], T], deadline: float) -> T:
        """What may be repeated freely."""
        while True:
            left = deadline - self._process.machine.local()
            if left <= 0:
                raise StoreUnavailable("etcd cannot be reached")
            try:
                return self._send(what, action, min(left, _TRY_SECONDS))
            except Unanswered:
                self._pause()

    def _send(self, what: str, action: Callable[[], T], timeout: float) -> T:
        return self._etcd.call(what, action, timeout)

    def _pause(self) -> None:
        fiber = self._scheduler.current
        assert fiber is not None
        fiber.sleep(0.05 + self._scheduler.rng.random() * 0.2)


class SimulatedPending:
    """controller.store.base.Pending: sends again until it is answered, as the gateway does."""

    def __init__(self, store: SimulatedStore, transaction: Transaction, deadline: float) -> None:
        self._store = store
        self._transaction = transaction
        self._deadline = deadline
        self._in_doubt = False
        self._answer: Callable[[], Committed | Refused] | None = None
        self._failure: Unanswered | None = None
        store._etcd.on_send(store._process.name, str(transaction.op))
        if self._left() > 0:
            try:
                self._send()
            except Unanswered as error:
                self._failure = error

    def __enter__(self) -> SimulatedPending:
        return self

    def __exit__(self, *_: object) -> None:
        """What was sent arrives all the same."""

    def result(self) -> Committed | Refused:
        unknown = f"the outcome of {self._transaction.op} is unknown"
        while True:
            try:
                if self._failure is not None:
                    failure, self._failure = self._failure, None
                    raise failure
                if self._answer is None:
                    if self._left() <= 0:
                        raise OutcomeUnknown(unknown) if self._in_doubt else StoreUnavailable("unreachable")
                    self._send()
                answer, self._answer = self._answer, None
                assert answer is not None
                return answer()
            except StoreFull as error:
                if self._in_doubt:
                    raise OutcomeUnknown(unknown) from error
                raise
            except Unanswered as error:
                self._in_doubt = self._in_doubt or error.sent
                self._store._pause()

    def _left(self) -> float:
        return self._deadline - self._store._process.machine.local()

    def _send(self) -> None:
        store, transaction = self._store, self._transaction
        self._answer = store._etcd.begin(
            f"commit {transaction.op}",
            lambda: store._etcd.transact(transaction, store._process.name),
            min(self._left(), _TRY_SECONDS),
        )


class SimulatedWatch:
    """controller.store.base.Watch: resumes after what it delivered, as `EtcdWatch` does."""

    def __init__(
        self, etcd: SimulatedEtcd, process: Process, prefix: str, after: int, silence_seconds: float
    ) -> None:
        self._etcd = etcd
        self._process = process
        self._prefix = prefix
        self._position = after
        self._silence = silence_seconds
        self._closed = False
        self._changed = SimulatedEvent(etcd.scheduler)
        self._delivered: list[Batch] = []  # the last ones, some of which come twice
        etcd.subscribe(self._changed)

    def __iter__(self) -> Iterator[Batch]:
        scheduler, rng = self._etcd.scheduler, self._etcd.scheduler.rng
        fiber = scheduler.current
        assert fiber is not None
        try:
            while not self._closed:
                self._changed.clear()
                link = self._etcd.link(self._process.machine)
                if not self._connected():
                    self._changed.wait(0.2 + rng.random())
                    continue
                batch = self._next_chunk()
                if batch is None:
                    self._changed.wait(5.0)
                    continue
                fiber.sleep(self._etcd.delay(link))
                if not self._connected():
                    continue  # cut in the middle: resumed from where it was
                if self._delivered and rng.random() < link.loss:
                    yield rng.choice(self._delivered)  # once more, late
                self._position = batch.revision
                self._delivered = [*self._delivered[-3:], batch]
                yield batch
        finally:
            self._etcd.unsubscribe(self._changed)

    def close(self) -> None:
        self._closed = True
        self._changed.set()

    def _connected(self) -> bool:
        link = self._etcd.link(self._process.machine)
        return self._etcd.up and link.up and not (link.silent or link.deaf or link.stalled)

    def _next_chunk(self) -> Batch | None:
        """The next revisions that a message brings: one or several, or progress alone."""
        watch = self._etcd.store.watch(self._prefix, after=self._position)
        batch = watch.poll()
        while batch is not None and self._etcd.scheduler.rng.random() < 0.3:
            more = watch.poll()
            if more is None:
                break
            batch = Batch(more.revision, batch.events + more.events)
        return batch
