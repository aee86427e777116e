"""B1: what etcd takes from this client with no controller, which is the limit that the others are held
against.

A small burn-down is recorded: the transactions that a leader sent, in bytes, with the revision at which each
applied, and all of etcd's history. Then a fresh etcd is led through the same history, revision by revision:
what others wrote is put there as it was, without guards and not timed; each of the leader's transactions is
sent again, byte for byte, by the same gateway client. Its guards hold, since every key it compares was
changed at the same revision as then; that each answer says "applied", at that very revision, is checked.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import cache, partial
from typing import NamedTuple

from controller.core.model.op import Op
from controller.engine.null import NullEngine
from controller.store.base import (
    Committed,
    Delete,
    Guard,
    KeyEvent,
    Put,
    Refused,
    Transaction,
    Write,
)
from controller.store.etcd import wire
from controller.store.etcd.gateway import GatewayOptions
from controller.store.etcd.store import EtcdStore
from controller.store.etcd.transaction import PendingTransaction
from controller.store.limits import check_limits
from tests.bench.measure import Figure
from tests.bench.sizes import Sizes
from tests.bench.stage import CLOCK, KEYS, POOL, client_of, etcd, specs, store_on
from tests.support.running import RunningReplica
from tests.support.waiting import wait_until

OPERATIONS = (1, 16, 64, 120)
VALUE = b'{"op":"%d","filler":"' + 480 * b"x" + b'"}'
"""About as long as a status of a task that has run."""


class Recording(NamedTuple):
    """A history from revision 2 on (a fresh etcd is at 1): what each revision wrote, and the bytes of
    those that are timed.
    """

    tasks: int
    revisions: list[tuple[int, tuple[Write, ...]]]
    sent: dict[int, bytes]

    @property
    def writes(self) -> int:
        """Keys written by the transactions that are timed."""
        return sum(len(writes) for revision, writes in self.revisions if revision in self.sent)


class _RecordingStore(EtcdStore):
    """Keeps the bytes of what was applied, by revision."""

    def __init__(self, options: GatewayOptions) -> None:
        super().__init__(options, CLOCK)
        self.sent: dict[int, bytes] = {}

    def begin(self, transaction: Transaction, *, deadline: float) -> _RecordingTransaction:
        check_limits(transaction)
        pending = _RecordingTransaction(self.gateway, self.identity, self.get, transaction, deadline)
        pending.applied = self.sent
        return pending


class _RecordingTransaction(PendingTransaction):
    """Tells at which revision it was applied."""

    applied: dict[int, bytes]

    def result(self) -> Committed | Refused:
        result = super().result()
        if isinstance(result, Committed) and not result.recovered:
            self.applied[result.revision] = wire.encode_transaction(self._transaction)
        return result


def record(tasks: int) -> Recording:
    """Burn so many tasks down, by a replica in this process, and keep all that was written."""
    with etcd() as member, client_of(member.url) as client:
        client.apply_pool({**POOL, "paused": True})
        client.submit_many(specs(tasks, "floor"))
        store = _RecordingStore(GatewayOptions((member.url,)))
        with RunningReplica(
            store, cluster=KEYS.cluster, engine=NullEngine(CLOCK), heartbeat_seconds=2.0, silence_seconds=10.0
        ) as replica:
            replica.until_leading()
            client.apply_pool(POOL)
            succeeded = partial(_succeeded, replica)
            wait_until(lambda: succeeded() >= tasks, "the end of all", timeout=600.0)
        store.close()
        revisions = _history(member.url)
    of_tasks = {
        revision
        for revision, writes in revisions
        if any(write.key.startswith(KEYS.state("")) for write in writes)
    }
    return Recording(
        tasks, revisions, {revision: data for revision, data in store.sent.items() if revision in of_tasks}
    )


def _succeeded(replica: RunningReplica) -> int:
    counts = replica.replica._mirror.model.counts
    return sum(number for (_, state), number in list(counts.items()) if state == "Succeeded")


def _history(url: str) -> list[tuple[int, tuple[Write, ...]]]:
    """All that an etcd was ever told, revision by revision."""
    with store_on(url) as store:
        _, last = store.get(KEYS.leader, deadline=CLOCK.boottime() + 10)
        events, watch = list[KeyEvent](), store.watch("", after=1)
        for batch in watch:
            events += batch.events
            if batch.revision >= last:
                break
        watch.close()
    grouped = itertools.groupby(events, key=lambda event: event.mod)
    return [
        (
            revision,
            tuple(
                Put(event.key, event.item.value) if event.item is not None else Delete(event.key)
                for event in group
            ),
        )
        for revision, group in grouped
    ]


def replay(recording: Recording) -> float:
    """Seconds that a fresh etcd takes for the recorded transactions, one after the other; see the module's
    docstring.
    """
    seconds = 0.0
    with etcd() as member, store_on(member.url) as store:
        for revision, writes in recording.revisions:
            deadline = CLOCK.boottime() + 30
            if (data := recording.sent.get(revision)) is None:
                result = store.commit(Transaction((), writes, Op("floor")), deadline=deadline)
                assert isinstance(result, Committed)
                assert result.revision == revision
                continue
            began = CLOCK.boottime()
            answer = store.gateway.call("/kv/txn", data, wire.decode_transaction, deadline=deadline)
            seconds += CLOCK.boottime() - began
            assert answer.succeeded
            assert answer.header.revision == revision
    return seconds


class Floor(NamedTuple):
    """What the recorded transactions reach, by run: keys written a second, and tasks a second."""

    recording: Recording
    writes: list[float]
    tasks: list[float]


@cache
def own_transactions(sizes: Sizes) -> Floor:
    """The floor under the controller's own transactions; measured once a run."""
    recording = record(sizes.recorded)
    seconds = [replay(recording) for _ in range(sizes.repeat)]
    return Floor(
        recording, [recording.writes / each for each in seconds], [recording.tasks / each for each in seconds]
    )


def floor(sizes: Sizes) -> list[Figure]:
    """The same guarded transactions, byte for byte, and puts and transactions of other sizes, with no
    controller.
    """
    own = own_transactions(sizes)
    transactions = len(own.recording.sent)
    details = {"transactions": transactions, "writes": own.recording.writes, "tasks": own.recording.tasks}
    size = own.recording.writes / transactions
    figures = [
        Figure(
            "B1",
            f"floor: the controller's own transactions, {size:.0f} keys each",
            "keys/s",
            own.writes,
            details=details,
        ),
        Figure("B1", "floor: the same, in tasks from Created to Succeeded", "tasks/s", own.tasks),
    ]
    with etcd() as member, store_on(member.url) as store:
        figures.append(Figure("B1", "put", "puts/s", _rates(sizes, partial(_put, store), 1)))
        for count in OPERATIONS:
            send = partial(_guarded, store, count)
            figures.append(
                Figure(
                    "B1",
                    f"guarded transaction of {count} operations",
                    "operations/s",
                    _rates(sizes, send, count),
                )
            )
    return figures


def _rates(sizes: Sizes, send: Callable[[], object], operations: int) -> list[float]:
    rates = []
    for _ in range(sizes.repeat):
        began, sent = CLOCK.boottime(), 0
        while CLOCK.boottime() < began + sizes.floor_seconds:
            send()
            sent += operations
        rates.append(sent / (CLOCK.boottime() - began))
    return rates


_names = itertools.count()


def _put(store: EtcdStore) -> None:
    body = wire.encode({"key": KEYS.state(f"put-{next(_names)}").encode(), "value": VALUE})
    store.gateway.call("/kv/put", body, lambda data: data, deadline=CLOCK.boottime() + 30)


def _guarded(store: EtcdStore, count: int) -> None:
    """As many compares as puts, of keys that must not exist yet."""
    keys = [KEYS.state(f"floor-{next(_names)}") for _ in range(count)]
    transaction = Transaction(
        tuple(Guard(key, 0) for key in keys), tuple(Put(key, VALUE) for key in keys), Op("floor")
    )
    assert isinstance(store.commit(transaction, deadline=CLOCK.boottime() + 30), Committed)
