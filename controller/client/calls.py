"""The calls of a client to its store: each bounded, all below one cluster's prefix."""

from __future__ import annotations

from collections.abc import Collection

from controller.clock import Clock
from controller.store.base import Committed, KeyValue, Refused, Store, Transaction
from controller.store.keys import Keys

SUBMIT_TIMEOUT_SECONDS = 30.0  # a submission waits this long for an etcd that restarts
FEW = 20  # keys are read one by one up to here, and all at once above


class Calls:
    """`timeout_seconds` limits each call. Raises what the store raises."""

    def __init__(self, store: Store, keys: Keys, clock: Clock, timeout_seconds: float) -> None:
        self.store = store
        self.keys = keys
        self.clock = clock
        self.timeout_seconds = timeout_seconds

    def deadline(self) -> float:
        """Of a call that begins now, in boottime."""
        return self.clock.boottime() + self.timeout_seconds

    def stored(self, key: str) -> KeyValue | None:
        """What is stored under the key."""
        return self.store.get(key, deadline=self.deadline())[0]

    def commit(self, transaction: Transaction) -> Committed | Refused:
        """Commit, within the time limit of a call."""
        return self.store.commit(transaction, deadline=self.deadline())

    def commit_patiently(self, transaction: Transaction) -> Committed | Refused:
        """Commit, and wait for an etcd that restarts."""
        return self.store.commit(
            transaction, deadline=self.clock.boottime() + max(SUBMIT_TIMEOUT_SECONDS, self.timeout_seconds)
        )

    def stored_tasks(self, keys: Collection[str]) -> dict[str, KeyValue]:
        """What is stored under these keys of tasks."""
        if len(keys) <= FEW:
            return {key: item for key in keys if (item := self.stored(key)) is not None}
        snapshot = self.store.load(self.keys.task(""), deadline=self.deadline())
        return {item.key: item for item in snapshot.items if item.key in keys}
