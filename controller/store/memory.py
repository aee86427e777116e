"""The store in memory, with etcd's semantics, for tests and simulations: several clients share one history.

`MemoryStore(clock)` is a server and its first client. `client()` returns further clients of the same server.
Leases expire by the given clock. Each operation expires leases first; `expire_leases` does so after the clock
was moved by hand.
"""

# ruff: noqa: ARG002  # the seam's arguments: nothing here can be late or fall silent

from __future__ import annotations

import threading
import weakref
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Self

from sortedcontainers import SortedDict

from controller.clock import Clock
from controller.store.base import (
    MOST_SHOWN,
    Batch,
    ClusterChanged,
    Committed,
    Compacted,
    Delete,
    Guard,
    KeyEvent,
    KeyValue,
    LeaseNotFound,
    Page,
    Put,
    Refused,
    Snapshot,
    StoreClosed,
    StoreUnavailable,
    Transaction,
    Write,
)
from controller.store.limits import check_limits, guarded_keys, guarded_prefixes

_PAGE_KEYS = 500
_MIN_TTL_SECONDS = 2  # etcd's, with its default election time-out


@dataclass(slots=True)
class _Lease:
    ttl_seconds: int
    expires: float
    keys: set[str] = field(default_factory=set)


class _Server:
    """The state that clients share. Its methods are called with `changed` held."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.changed = threading.Condition()
        self.revision = 1  # as a new etcd has
        self.compacted = 0  # history below this revision is gone
        # Invariant: each key's list is not empty, ascending by revision
        self.changes_by_key: SortedDict[str, list[KeyEvent]] = SortedDict()
        self.history: list[Batch] = []  # Invariant: one batch a revision, ascending, none below `compacted`
        self.leases: dict[int, _Lease] = {}

    def current(self, key: str) -> KeyValue | None:
        """The present value of the key."""
        changes: list[KeyEvent] | None = self.changes_by_key.get(key)
        return changes[-1].item if changes else None

    def apply(self, writes: Iterable[Write]) -> None:
        """Write in one new revision. If nothing changes, no revision is made."""
        revision = self.revision + 1
        events = []
        for write in writes:
            old = self.current(write.key)
            if old is not None and old.lease in self.leases:
                self.leases[old.lease].keys.discard(write.key)
            if isinstance(write, Put):
                create, version = (old.create, old.version + 1) if old is not None else (revision, 1)
                events.append(
                    KeyEvent(
                        write.key,
                        revision,
                        KeyValue(write.key, write.value, create, revision, version, write.lease),
                    )
                )
                if write.lease:
                    self.leases[write.lease].keys.add(write.key)
            elif old is not None:
                events.append(KeyEvent(write.key, revision, None))
        for event in events:
            self.changes_by_key.setdefault(event.key, []).append(event)
        if events:
            self.revision = revision
            self.history.append(Batch(revision, tuple(events)))
            self.changed.notify_all()

    def expire(self) -> None:
        """Revoke the leases that have expired, in the order of expiry."""
        now = self.clock.boottime()
        for lease in sorted(self.leases, key=lambda lease: self.leases[lease].expires):
            if self.leases[lease].expires > now:
                return
            self.revoke(lease)

    def revoke(self, lease: int) -> None:
        """End a lease. Its keys are deleted in one revision."""
        keys = self.leases.pop(lease).keys
        self.apply(Delete(key) for key in sorted(keys))

    def holds(self, guard: Guard) -> bool:
        """Whether a guard holds now."""
        if guard.is_prefix:
            return next(self.newer(guard), None) is None
        found = self.current(guard.key)
        return (0 if found is None else found.create if guard.on_create else found.mod) == guard.revision

    def newer(self, guard: Guard) -> Iterator[KeyValue]:
        """The keys that a guard of a prefix does not allow, sorted."""
        return (item for item in self.at(guard.key, self.revision) if item.mod > guard.revision)

    def shown(self, transaction: Transaction) -> dict[str, KeyValue | None]:
        """What a refusal shows."""
        current = {key: self.current(key) for key in guarded_keys(transaction)}
        for guard in guarded_prefixes(transaction):
            current.update((item.key, item) for item in islice(self.newer(guard), MOST_SHOWN))
        return current

    def at(self, prefix: str, revision: int) -> Iterator[KeyValue]:
        """The keys under a prefix at a revision, sorted."""
        for key in self.changes_by_key.irange(minimum=prefix):
            if not key.startswith(prefix):
                return
            changes = self.changes_by_key[key]
            position = bisect_right(changes, revision, key=lambda event: event.mod)
            if position and (item := changes[position - 1].item) is not None:
                yield item

    def compact(self, revision: int) -> None:
        """Forget the history below a revision, and deletions up to it, as etcd does."""
        self.compacted = revision
        self.history = self.history[bisect_left(self.history, revision, key=lambda batch: batch.revision) :]
        for key, changes in list(self.changes_by_key.items()):
            kept = changes[max(0, bisect_right(changes, revision, key=lambda event: event.mod) - 1) :]
            if kept[0].item is None and kept[0].mod <= revision:
                kept = kept[1:]
            if kept:
                self.changes_by_key[key] = kept
            else:
                del self.changes_by_key[key]
        self.changed.notify_all()

    def seconds_to_next_expiry(self) -> float | None:
        """How long a watch may wait before it must look for expired leases; None if there is no lease."""
        next_expiry = min((lease.expires for lease in self.leases.values()), default=None)
        return None if next_expiry is None else max(0.0, next_expiry - self.clock.boottime())


class MemoryPending:
    """See Pending."""

    def __init__(self, result: Callable[[], Committed | Refused]) -> None:
        self.result = result

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing was sent."""


class MemoryWatch:
    """Implements `controller.store.base.Watch`, with one batch for each revision."""

    def __init__(self, server: _Server, prefix: str, after: int, until: int | None = None) -> None:
        self._server = server
        self._prefix = prefix
        self._until = until
        self._closed = False
        self.revision = after

    def __iter__(self) -> Iterator[Batch]:
        """See Watch."""
        while (batch := self._next()) is not None:
            yield batch

    def close(self) -> None:
        """See Watch."""
        with self._server.changed:
            self._closed = True
            self._server.changed.notify_all()

    def poll(self) -> Batch | None:
        """The next batch if there is one already; None otherwise.

        Raises Compacted. For callers that do their own waiting.
        """
        server = self._server
        with server.changed:
            server.expire()
            # As on etcd, where deletions at the compacted revision itself are lost: see EtcdWatch.
            if max(1, self.revision) < server.compacted:
                raise Compacted(server.compacted)
            start = bisect_right(server.history, self.revision, key=lambda batch: batch.revision)
            for batch in islice(server.history, start, None):
                self.revision = batch.revision
                events = tuple(event for event in batch.events if event.key.startswith(self._prefix))
                if events:
                    return Batch(batch.revision, events)
        return None

    def _next(self) -> Batch | None:
        server = self._server
        with server.changed:
            while not self._closed:
                if (batch := self.poll()) is not None:
                    return batch
                if self._until is not None and self.revision >= self._until:
                    break
                server.changed.wait(server.seconds_to_next_expiry())
        return None


class MemoryStore:
    """Implements `controller.store.base.Store`. Deadlines have no effect: every call answers at once."""

    def __init__(self, clock: Clock, *, server: _Server | None = None) -> None:
        self._clock = clock
        self._server = server or _Server(clock)
        self._watches: weakref.WeakSet[MemoryWatch] = weakref.WeakSet()
        self._closed = False
        self._renounced = ""  # why
        self._era = 0

    def client(self) -> MemoryStore:
        """Another client of the same server. Closing it closes nothing else."""
        return MemoryStore(self._clock, server=self._server)

    def compact(self, revision: int) -> None:
        """Forget the history below `revision`."""
        with self._use() as server:
            server.compact(revision)

    def expire_leases(self) -> None:
        """Expire leases after the clock was moved by hand. This wakes the watches."""
        with self._use():
            pass

    def get(self, key: str, *, deadline: float) -> tuple[KeyValue | None, int]:
        """See Store."""
        with self._use() as server:
            return server.current(key), server.revision

    def load(self, prefix: str, *, deadline: float, revision: int = 0) -> Snapshot:
        """See Store."""
        if self._renounced and not revision:
            self._renounced, self._era = "", self._era + 1
        with self._use() as server:
            revision = revision or server.revision
            if revision < server.compacted:
                raise Compacted(server.compacted)
            if revision > server.revision:
                raise StoreUnavailable(
                    f"revision {revision} does not exist yet: the newest is {server.revision}"
                )
            return Snapshot(revision, tuple(server.at(prefix, revision)))

    def pages(self, prefix: str, *, deadline: Callable[[], float]) -> Iterator[Page]:
        """See Store."""
        revision, items = self.load(prefix, deadline=deadline())
        for first in range(0, max(1, len(items)), _PAGE_KEYS):
            page = items[first : first + _PAGE_KEYS]
            yield Page(revision, page, first + _PAGE_KEYS < len(items), era=self._era)

    def watch(
        self, prefix: str, *, after: int, silence_seconds: float = 0.0, once: bool = False
    ) -> MemoryWatch:
        """See Store. There is no connection that could fall silent."""
        with self._use():
            pass
        watch = MemoryWatch(self._server, prefix, after, self._server.revision if once else None)
        self._watches.add(watch)
        return watch

    def begin(self, transaction: Transaction, *, deadline: float) -> MemoryPending:
        """See Store. The transaction is applied when its result is requested."""
        check_limits(transaction)
        return MemoryPending(lambda: self.commit(transaction, deadline=deadline))

    def commit(self, transaction: Transaction, *, deadline: float) -> Committed | Refused:
        """See Store."""
        check_limits(transaction)
        with self._use() as server:
            if not all(map(server.holds, transaction.guards)):
                current = server.shown(transaction)
                refusal = Refused(server.revision, current)
                return Committed.recover(transaction, refusal) if transaction.applied_in(current) else refusal
            for write in transaction.writes:
                if isinstance(write, Put) and write.lease and write.lease not in server.leases:
                    raise LeaseNotFound("the lease has expired, so nothing was written")
            server.apply(transaction.writes)
            return Committed(server.revision)

    def grant(self, lease: int, ttl_seconds: int, *, deadline: float) -> int:
        """See Store."""
        with self._use() as server:
            server.leases.setdefault(lease, _Lease(max(_MIN_TTL_SECONDS, ttl_seconds), 0.0))
            return self._renew(server, lease)

    def keep_alive(self, lease: int, *, deadline: float) -> int:
        """See Store."""
        with self._use() as server:
            return self._renew(server, lease) if lease in server.leases else 0

    def revoke(self, lease: int, *, deadline: float) -> None:
        """See Store."""
        with self._use() as server:
            if lease in server.leases:
                server.revoke(lease)

    def renounce(self, why: str) -> None:
        """See Store."""
        self._renounced = why

    def close(self) -> None:
        """See Store."""
        self._closed = True
        for watch in list(self._watches):
            watch.close()

    def _renew(self, server: _Server, lease: int) -> int:
        found = server.leases[lease]
        found.expires = self._clock.boottime() + found.ttl_seconds
        server.changed.notify_all()  # a waiting watch waits for the next expiry
        return found.ttl_seconds

    @contextmanager
    def _use(self) -> Iterator[_Server]:
        if self._closed:
            raise StoreClosed
        if self._renounced:
            raise ClusterChanged(self._renounced)
        with self._server.changed:
            self._server.expire()
            yield self._server
