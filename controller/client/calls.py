"""The calls of a client to its store. Each has a time limit; all stay below the cluster's prefix."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager

from controller.clock import Clock
from controller.core.model.op import Op
from controller.core.model.scalars import MAX_DURATION_SECONDS, in_range, is_number, shown
from controller.errors import InvalidField, UserError
from controller.store.base import (
    ClusterChanged,
    Committed,
    Compacted,
    KeyValue,
    Refused,
    Store,
    Transaction,
    Watch,
    new_op,
)
from controller.store.keys import Keys

SUBMIT_TIMEOUT_SECONDS = 30.0  # a submission waits this long for etcd to restart
FEW = 20  # up to this many keys are read one by one; more are read by one load of all tasks


class Calls:
    """`timeout_seconds` limits each call. Raises what the store raises."""

    def __init__(self, store: Store, keys: Keys, clock: Clock, timeout_seconds: float) -> None:
        self.store = store
        self.keys = keys
        self.clock = clock
        self.timeout_seconds = timeout_seconds

    def deadline(self) -> float:
        """The deadline of a call that begins now, on the boottime clock."""
        return self.clock.boottime() + self.timeout_seconds

    def stored(self, key: str) -> KeyValue | None:
        """The value under the key; None when there is none."""
        return self.store.get(key, deadline=self.deadline())[0]

    def new_op(self) -> Op:
        """The op of a transaction of this call."""
        return new_op()

    def has_written(self, item: KeyValue) -> bool:  # noqa: ARG002  # of NotedCalls
        """Whether a copy of this call that was sent before wrote the value. Here, a call is sent once."""
        return False

    def before(self, item: KeyValue) -> KeyValue | None:
        """The value that this one has replaced; None when there was none. Raises UserError."""
        if item.create == item.mod:
            return None
        try:
            found = self.store.load(item.key, deadline=self.deadline(), revision=item.mod - 1).items
        except Compacted:
            raise UserError("it was done when it was sent before; what was there then is compacted") from None
        return next(each for each in found if each.key == item.key)

    def commit(self, transaction: Transaction) -> Committed | Refused:
        """Commit, within the time limit of a call."""
        return self.store.commit(transaction, deadline=self.deadline())

    def commit_patiently(self, transaction: Transaction) -> Committed | Refused:
        """Commit, and wait at least SUBMIT_TIMEOUT_SECONDS for etcd to restart."""
        return self.store.commit(
            transaction, deadline=self.clock.boottime() + max(SUBMIT_TIMEOUT_SECONDS, self.timeout_seconds)
        )

    def changes(self, key: str, mod: int) -> bool:
        """Wait until the value that was written at `mod` is another one, or gone; False: not in time."""
        until = self.deadline()
        while True:
            item, revision = self.store.get(key, deadline=self.deadline())
            if item is None or item.mod != mod:
                return True
            watch = self.store.watch(key, after=revision, silence_seconds=self.timeout_seconds)
            try:
                with closed_at(watch, self.clock, until):
                    if any(event.key == key for batch in watch for event in batch.events):
                        return True
            except (Compacted, ClusterChanged):
                pass  # it is read again
            if self.clock.boottime() >= until:
                return False

    def stored_tasks(self, keys: Collection[str]) -> dict[str, KeyValue]:
        """The values under these task keys, as far as they exist."""
        if len(keys) <= FEW:
            return {key: item for key in keys if (item := self.stored(key)) is not None}
        snapshot = self.store.load(self.keys.task(""), deadline=self.deadline())
        return {item.key: item for item in snapshot.items if item.key in keys}


def parse_timeout(seconds: object) -> float | None:
    """How long to wait; None: for ever. Raises InvalidField."""
    if seconds is None:
        return None
    if not is_number(seconds):
        raise InvalidField("timeout_seconds", f"is {shown(seconds)}, expected seconds, or None for no limit")
    return in_range(float(seconds), "timeout_seconds", 0.0, MAX_DURATION_SECONDS)


@contextmanager
def closed_at(watch: Watch, clock: Clock, until: float | None) -> Iterator[threading.Event]:
    """Close the watch at the end, and at `until` on the boottime clock (None: never): it has no more then.

    The event is set at `until`.
    """
    is_over = threading.Event()

    def end() -> None:
        is_over.set()
        watch.close()

    timer = None if until is None else threading.Timer(max(0.0, until - clock.boottime()), end)
    if timer is not None:
        timer.name, timer.daemon = "client-wait-timeout", True
        timer.start()
    try:
        yield is_over
    finally:
        watch.close()
        if timer is not None:
            timer.cancel()
            timer.join()  # a timer that has just fired may still run
