"""From the store's keys to the model's changes: the one mapping that the follower and the audit share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from controller.core.records import Change
from controller.store.base import KeyValue
from controller.store.keys import Keys

UNKNOWN = "unknown"
"""The kind of a key under the prefix that is not of Tally's layout; its one name is the whole key."""


def to_change(keys: Keys, key: str, item: KeyValue | None, mod: int) -> Change:
    """`key` as it became at revision `mod`: `item`, or None when it was deleted."""
    record = keys.parse(key)
    kind, names = record if record is not None else (UNKNOWN, (key,))
    if item is None:
        return Change(kind, names, None, mod)
    return Change(kind, names, item.value, mod, item.create)


def changes_of(keys: Keys, items: Iterable[KeyValue]) -> Iterator[Change]:
    """What a snapshot holds, as changes for `World.load`."""
    return (to_change(keys, item.key, item, item.mod) for item in items)
