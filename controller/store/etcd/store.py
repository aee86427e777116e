"""The store on etcd, through its JSON gateway."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import NoReturn, TypeVar

import msgspec

from controller.clock import Clock
from controller.store.base import (
    Committed,
    Compacted,
    KeyValue,
    Page,
    Refused,
    Snapshot,
    StoreClosed,
    StoreDenied,
    StoreSize,
    StoreUnavailable,
    Transaction,
)
from controller.store.etcd import wire
from controller.store.etcd.faults import ConnectionFailed, stream_error
from controller.store.etcd.gateway import (
    Call,
    ErrorClass,
    Gateway,
    GatewayOptions,
    RpcError,
    Unanswered,
    translate,
)
from controller.store.etcd.identity import ClusterIdentity
from controller.store.etcd.transaction import PendingTransaction
from controller.store.etcd.watch import EtcdWatch
from controller.store.limits import check_limits

T = TypeVar("T")

_FIRST_PAGE_KEYS = 500
_MAX_PAGE_KEYS = 5000
_PAGE_BYTES = 2 * 1024 * 1024  # a target: keys differ in size, so the page after a large one is smaller
_AT_ONCE = 500  # keys of an answer that are decoded: they take more memory than the answer itself


class EtcdStore:
    """Implements `controller.store.base.Store`. The constructor does no I/O."""

    def __init__(self, options: GatewayOptions, clock: Clock) -> None:
        self.gateway = Gateway(options, clock)
        self.identity = ClusterIdentity()
        self.reconnects: Counter[str] = Counter()  # of all watches, by cause
        self._watches: weakref.WeakSet[EtcdWatch] = weakref.WeakSet()

    def get(self, key: str, *, deadline: float) -> tuple[KeyValue | None, int]:
        """See Store."""
        answer = self._range(wire.encode_range(key.encode()), key, deadline)
        return (wire.key_value(answer.kvs[0]) if answer.kvs else None), answer.header.revision

    def load(self, prefix: str, *, deadline: float, revision: int = 0) -> Snapshot:
        """See Store.

        After ClusterChanged, a load of the newest revision is a new start. Until then, every call raises it.
        """
        items: list[KeyValue] = []
        for page in self._pages(prefix, lambda: deadline, revision):
            items += page.items
            revision = page.revision
        return Snapshot(revision, tuple(items))

    def pages(self, prefix: str, *, deadline: Callable[[], float]) -> Iterator[Page]:
        """See Store, and `load`."""
        return self._pages(prefix, deadline, 0)

    def _pages(self, prefix: str, deadline: Callable[[], float], revision: int) -> Iterator[Page]:
        """The next answer is asked for before the keys of the last one are handed over."""
        era = self.identity.renew() if revision == 0 else 0
        start, end = wire.prefix_range(prefix.encode())
        limit, size = _FIRST_PAGE_KEYS, 0

        def decode(data: bytes) -> wire.PageAnswer:
            nonlocal size
            size = len(data)
            return wire.decode_page(data)

        def ask(first: bytes) -> Call[wire.PageAnswer]:
            body = wire.encode_range(first, end, revision=revision, limit=limit)
            return self.gateway.begin("/kv/range", body, decode, deadline=deadline())

        floor, call = self.identity.floor(), ask(start)
        try:
            while True:
                answer = self._result(call, prefix, "read", revision)
                self.identity.confirm(answer.header, floor)
                revision, kvs = revision or answer.header.revision, answer.kvs
                if answer.more:
                    limit = max(10, min(_MAX_PAGE_KEYS, limit * _PAGE_BYTES // size))
                    floor, call = self.identity.floor(), ask(_items(kvs[-1:])[0].key + b"\0")
                for first in range(0, max(1, len(kvs)), _AT_ONCE):
                    items = tuple(map(wire.key_value, _items(kvs[first : first + _AT_ONCE])))
                    yield Page(revision, items, answer.more or first + _AT_ONCE < len(kvs), era)
                if not answer.more:
                    return
        finally:
            call.abandon()

    def watch(
        self, prefix: str, *, after: int, silence_seconds: float = 0.0, once: bool = False
    ) -> EtcdWatch:
        """See Store. Connects when it is first iterated."""
        watch = EtcdWatch(
            self.gateway,
            self.identity,
            prefix,
            after=after,
            silence_seconds=silence_seconds,
            once=once,
            check=self._check,
            on_reconnect=self.reconnects.update,
        )
        self._watches.add(watch)
        if self.gateway.endpoints.closed:  # checked when `close` finds the watch
            raise StoreClosed
        return watch

    def begin(self, transaction: Transaction, *, deadline: float) -> PendingTransaction:
        """See Store."""
        check_limits(transaction)
        return PendingTransaction(self.gateway, self.identity, self.get, transaction, deadline)

    def commit(self, transaction: Transaction, *, deadline: float) -> Committed | Refused:
        """See Store.

        Raises StoreFull (a StoreUnavailable) if etcd is out of space and nothing was applied.
        """
        return self.begin(transaction, deadline=deadline).result()

    def grant(self, lease: int, ttl_seconds: int, *, deadline: float) -> int:
        """See Store."""
        self.identity.floor()
        body = wire.encode({"TTL": ttl_seconds, "ID": lease})
        try:
            answer = self.gateway.call("/lease/grant", body, wire.decode_lease, deadline=deadline)
        except Unanswered as error:
            raise error.translated() from error
        except RpcError as error:
            if error.fault is ErrorClass.LEASE_EXISTS:
                return self.keep_alive(lease, deadline=deadline)
            self._raise(error, f"lease {lease:x}", "write")
        self.identity.confirm_cluster(answer.header)
        return answer.ttl

    def keep_alive(self, lease: int, *, deadline: float) -> int:
        """See Store. etcd answers a keep-alive of a lost lease with HTTP 200 and no TTL."""
        self.identity.floor()
        answer = self._ask(
            "/lease/keepalive",
            wire.encode({"ID": lease}),
            _decode_keep_alive,
            deadline,
            f"lease {lease:x}",
            "write",
        )
        self.identity.confirm_cluster(answer.header)
        return answer.ttl

    def revoke(self, lease: int, *, deadline: float) -> None:
        """See Store."""
        self.identity.floor()
        try:
            self.gateway.call(
                "/lease/revoke", wire.encode({"ID": lease}), wire.decode_lease, deadline=deadline
            )
        except Unanswered as error:
            raise error.translated() from error
        except RpcError as error:
            if error.fault is not ErrorClass.LEASE_MISSING:
                self._raise(error, f"lease {lease:x}", "write")

    def size(self, *, deadline: float) -> StoreSize:
        """The database size of the preferred endpoint. Raises StoreUnavailable, StoreDenied."""
        try:
            answer = self._ask(
                "/maintenance/status", b"{}", wire.decode_status, deadline, "the status", "read"
            )
        except StoreDenied:
            # With users on, some versions from 3.5.28 on tell it to root alone, and tell the same in their
            # metrics: https://github.com/etcd-io/etcd/issues/21663
            answer = self._measured(deadline)
        return StoreSize(answer.db_size, answer.db_size_in_use, answer.db_size_quota)

    def _measured(self, deadline: float) -> wire.StatusAnswer:
        try:
            return wire.status_in_metrics(self.gateway.metrics(deadline=deadline))
        except (ConnectionFailed, RpcError, msgspec.MsgspecError) as error:
            raise StoreDenied(
                "etcd tells its size to users with the role root alone, and has no metrics here that tell it"
                f" ({error}): watch etcd_mvcc_db_total_size_in_bytes where etcd serves its metrics"
            ) from error

    def renounce(self, why: str) -> None:
        """See Store."""
        self.identity.renounce(why)

    def close(self) -> None:
        """See Store."""
        for watch in list(self._watches):
            watch.close()
        self.gateway.close()

    def _check(self, deadline: float) -> None:
        """A linearizable read, for a watch that was answered with an old revision.

        Raises ClusterChanged, StoreUnavailable, StoreDenied.
        """
        self._range(wire.encode_range(b"\0"), "", deadline)

    def _range(self, body: bytes, key: str, deadline: float) -> wire.RangeAnswer:
        floor = self.identity.floor()
        answer = self._ask("/kv/range", body, wire.decode_range, deadline, key, "read")
        self.identity.confirm(answer.header, floor)
        return answer

    def _ask(
        self,
        path: str,
        body: bytes,
        decode: Callable[[bytes], T],
        deadline: float,
        about: str,
        right: str,
    ) -> T:
        """A call that may be repeated freely. Raises what Store promises for reads."""
        return self._result(self.gateway.begin(path, body, decode, deadline=deadline), about, right)

    def _result(self, call: Call[T], about: str, right: str, revision: int = 0) -> T:
        try:
            return call.result()
        except Unanswered as error:
            raise error.translated() from error
        except RpcError as error:
            self._raise(error, about, right, revision)

    def _raise(self, error: RpcError, about: str, right: str, revision: int = 0) -> NoReturn:
        """Translate an error that trying again does not change."""
        if error.fault is ErrorClass.COMPACTED:
            raise Compacted(revision) from error
        raise translate(error, self.gateway.options.user, about, right) from error


def _items(kvs: Sequence[msgspec.Raw]) -> list[wire.WireKeyValue]:
    try:
        return [wire.decode_item(kv) for kv in kvs]
    except msgspec.MsgspecError as error:
        raise StoreUnavailable(f"etcd sends a key that cannot be read: {error}") from error


def _decode_keep_alive(data: bytes) -> wire.LeaseAnswer:
    message = wire.decode_keep_alive(data)
    if message.result is None:
        raise stream_error(message.error or wire.StreamError("an answer without a result"))
    return message.result
