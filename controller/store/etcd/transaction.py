"""One transaction on etcd.

It is applied once: the gateway sends the same bytes until etcd answers, the guards let at most one copy
apply, and a refusal shows by our `op` whether an earlier copy was applied. An outcome is never concluded from
a read that shows nothing, with one exception that needs no guess: see `_after_full`.
"""

from __future__ import annotations

from typing import Protocol, Self

import msgspec

from controller.store.base import (
    Committed,
    KeyValue,
    OutcomeUnknown,
    Refused,
    StoreDenied,
    StoreFull,
    StoreUnavailable,
    Transaction,
)
from controller.store.etcd import wire
from controller.store.etcd.endpoints import Unanswered
from controller.store.etcd.faults import ErrorClass, RpcError
from controller.store.etcd.gateway import Gateway, translate
from controller.store.etcd.identity import ClusterIdentity
from controller.store.limits import guarded_keys, guarded_prefixes


class Get(Protocol):
    """See Store.get."""

    def __call__(self, key: str, *, deadline: float) -> tuple[KeyValue | None, int]: ...


class PendingTransaction:
    """See Pending. It is sent when it is made."""

    def __init__(
        self,
        gateway: Gateway,
        identity: ClusterIdentity,
        get: Get,
        transaction: Transaction,
        deadline: float,
    ) -> None:
        self._gateway = gateway
        self._identity = identity
        self._get = get
        self._transaction = transaction
        self._deadline = deadline
        self._floor, self._keys = identity.floor(), guarded_keys(transaction)
        self._prefixes = len(guarded_prefixes(transaction))
        body = wire.encode_transaction(transaction)
        self._call = gateway.begin("/kv/txn", body, self._decode, deadline=deadline)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._call.abandon()

    def result(self) -> Committed | Refused:
        """See Pending. Also raises StoreFull: etcd is out of space, and nothing was applied."""
        transaction = self._transaction
        try:
            answer = self._call.result()
        except Unanswered as error:
            if error.in_doubt:
                raise OutcomeUnknown(
                    f"the outcome of transaction {transaction.op} is unknown: {error}"
                ) from error
            raise error.translated() from error
        except RpcError as error:
            if error.fault is ErrorClass.FULL:
                return self._after_full(error)
            if error.in_doubt and error.fault is not ErrorClass.LEASE_MISSING:
                raise OutcomeUnknown(
                    f"the outcome of transaction {transaction.op} is unknown, and another try failed: {error}"
                ) from error
            about = ", ".join(write.key for write in transaction.writes[:3])
            raise translate(error, self._gateway.options.user, about, "write") from error
        self._identity.confirm(answer.header, self._floor)
        revision = answer.header.revision
        if answer.succeeded:
            return Committed(revision)
        found = [
            response.response_range.kvs if response.response_range else [] for response in answer.responses
        ]
        current = {
            key: wire.key_value(kvs[0]) if kvs else None
            for key, kvs in zip(self._keys, found, strict=False)  # those of prefixes follow
        }
        for kvs in found[len(self._keys) :]:
            current.update((item.key, item) for item in map(wire.key_value, kvs))
        refusal = Refused(revision, current)
        return Committed.recover(transaction, refusal) if transaction.applied_in(current) else refusal

    def _decode(self, data: bytes) -> wire.TransactionAnswer:
        answer = wire.decode_transaction(data)
        reads = len(self._keys) + self._prefixes
        if not answer.succeeded and len(answer.responses) != reads:
            raise msgspec.DecodeError(f"{len(answer.responses)} of {reads} reads were answered")
        return answer

    def _after_full(self, full: RpcError) -> Committed:
        """Find the outcome after etcd said that it is out of space: it may have applied the transaction.

        Source: `quotaApplierV3.Txn` applies first, and then turns the answer into the error. The checks in
        front of it do not apply the transaction. But etcd *has* answered. So unless another send is in doubt,
        a linearizable read decides, of a key that the transaction changes under a guard by mod: either our
        `op` is there, or the guard still holds.
        """
        transaction = self._transaction
        key = next(
            (
                g
                for g in transaction.guards
                if not (g.on_create or g.is_prefix) and any(w.key == g.key for w in transaction.writes)
            ),
            None,
        )
        if key is None:
            raise OutcomeUnknown(f"the outcome of transaction {transaction.op} is unknown: {full}") from full
        try:
            found, revision = self._get(key.key, deadline=self._deadline)
        except (StoreUnavailable, StoreDenied) as error:
            raise OutcomeUnknown(
                f"the outcome of transaction {transaction.op} is unknown: {full}; {error}"
            ) from full
        if transaction.applied_in({key.key: found}):
            return Committed.recover(transaction, Refused(revision, {key.key: found}))
        if full.in_doubt or (found.mod if found else 0) != key.revision:
            raise OutcomeUnknown(f"the outcome of transaction {transaction.op} is unknown: {full}") from full
        raise StoreFull(
            f"{full}; nothing was written. Delete, compact and defragment, then `etcdctl alarm disarm`"
        ) from full
