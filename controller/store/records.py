"""Maps the store's keys to the model's changes, and plans to transactions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from controller.core.model.notices import OUTBOX
from controller.core.model.records import Change
from controller.core.planning.draft import Limits
from controller.core.planning.plan import Plan
from controller.store.base import (
    MAX_OPERATIONS,
    MAX_REQUEST_BYTES,
    Delete,
    Guard,
    KeyValue,
    Put,
    Transaction,
    Write,
)
from controller.store.keys import Keys

DEFAULT_LIMITS = Limits(MAX_OPERATIONS, MAX_REQUEST_BYTES)
UNKNOWN = "unknown"
"""The kind of a key under the prefix that is not in Tally's layout. Its one name is the whole key."""


def to_change(keys: Keys, key: str, item: KeyValue | None, mod: int) -> Change:
    """The change of `key` at revision `mod` to `item`; None: it was deleted."""
    record = keys.parse(key)
    kind, names = record if record is not None else (UNKNOWN, (key,))
    if item is None:
        return Change(kind, names, None, mod)
    return Change(kind, names, item.value, mod, item.create)


def changes_of(keys: Keys, items: Iterable[KeyValue]) -> Iterator[Change]:
    """The keys of a snapshot, as changes for `Model.load`."""
    return (to_change(keys, item.key, item, item.mod) for item in items)


def to_transaction(plan: Plan, keys: Keys, term: int) -> Transaction:
    """The plan's changes as one guarded transaction.

    It compares the term, and every record that the plan rests on, whether present or absent.
    """
    guards = [Guard(keys.leader, term, on_create=True)]
    writes: list[Write] = []
    for change in plan.changes:
        guards.append(Guard(keys.state(change.task_id), change.seen_mod))
        if change.spec_mod >= 0:
            guards.append(Guard(keys.task(change.task_id), change.spec_mod))
        if change.value is not None:
            writes.append(Put(keys.state(change.task_id), change.value))
        for kind, mod in change.requests:
            guards.append(Guard(keys.request(change.task_id, kind), mod))
            writes.append(Delete(keys.request(change.task_id, kind)))
        guards += [Guard(keys.request(change.task_id, kind), mod) for kind, mod in change.left]
        if change.removes:
            writes += [Delete(keys.state(change.task_id)), Delete(keys.task(change.task_id))]
        if change.attested_mod >= 0:
            guards.append(Guard(keys.attested(change.task_id), change.attested_mod))
        if change.awaits_mod >= 0:
            guards.append(Guard(f"{keys.awaits}{change.task_id}/", change.awaits_mod, is_prefix=True))
        writes += [Delete(keys.of(kind, (change.task_id,))) for kind in change.also_removes]
    for ledger in plan.ledgers:
        guards.append(Guard(keys.ledger(ledger.pool), ledger.seen_mod))
        writes.append(Put(keys.ledger(ledger.pool), ledger.value))
    for share in plan.shares:
        guards.append(Guard(keys.share(share.pool, share.owner), share.seen_mod))
        writes.append(Put(keys.share(share.pool, share.owner), share.value))
    for claim in plan.claims:
        key = keys.claim(claim.pool, claim.task_id)
        guards.append(Guard(key, claim.seen_mod))
        writes.append(Put(key, claim.value) if claim.value is not None else Delete(key))
    writes += [Put(keys.of(OUTBOX, notice.names), notice.value) for notice in plan.notices]
    for record in plan.records:
        key = keys.of(record.kind, record.names)
        guards.append(Guard(key, record.seen_mod))
        writes.append(Put(key, record.value) if record.value is not None else Delete(key))
    guards += [Guard(keys.pool(pool), mod) for pool, mod in plan.pools]
    guards += [Guard(keys.of(kind, names), mod) for kind, names, mod in plan.compared]
    return Transaction(tuple(guards), tuple(writes), plan.op)
