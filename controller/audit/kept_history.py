"""Reads the changes of some keys from etcd's history, in the order of revisions."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import NamedTuple

from controller.clock import Clock
from controller.store.base import Store, StoreUnavailable


class KeyRevision(NamedTuple):
    """The value of a key at a revision; None: removed."""

    mod: int
    key: str
    value: bytes | None


def kept_history(
    store: Store,
    prefix: str,
    after: int,
    until: Mapping[str, int],
    clock: Clock,
    timeout_seconds: float,
    *,
    cut: bool = False,
) -> list[KeyRevision]:
    """All changes below `prefix` after a revision, until each key of `until` has reached its mod revision.

    With `cut`, the watch reconnects after each batch. Raises Compacted, and StoreUnavailable when the time is
    over.
    """
    changes: list[KeyRevision] = []
    missing = dict(until)
    ends = clock.boottime() + timeout_seconds
    while missing:
        watch = store.watch(prefix, after=after)
        timer = threading.Timer(max(0.0, ends - clock.boottime()), watch.close)
        timer.name, timer.daemon = "history-timeout", True
        timer.start()
        try:
            for batch in watch:
                changes += (
                    KeyRevision(e.mod, e.key, e.item.value if e.item is not None else None)
                    for e in batch.events
                )
                after = max(after, batch.revision)
                missing = {key: mod for key, mod in missing.items() if mod > after}
                if cut or not missing:
                    break
        finally:
            timer.cancel()
            watch.close()
        if missing and clock.boottime() >= ends:
            raise StoreUnavailable(
                f"the watch did not deliver {sorted(missing)[:3]} within {timeout_seconds:g} s"
            )
    return changes
