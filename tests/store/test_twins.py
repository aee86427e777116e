"""The store in memory and etcd give the same answers to any history of transactions, leases and
compactions.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, TypeVar

import hypothesis.strategies as st
from hypothesis import HealthCheck, given, settings

from controller.core.model.op import Op
from controller.store.base import (
    Committed,
    Compacted,
    Delete,
    Guard,
    KeyEvent,
    KeyValue,
    LeaseNotFound,
    Put,
    Refused,
    Store,
    StoreUnavailable,
    Transaction,
)
from controller.store.etcd.store import EtcdStore
from controller.store.memory import MemoryStore
from tests.support.etcd import CLOCK, compact, in_seconds
from tests.support.examples import examples
from tests.support.waiting import wait_until
from tests.support.watching import WatchReader

T = TypeVar("T")

KEYS = ("a", "b", "b/c", "ü")
LEASES = (1, 2)
_runs = itertools.count(1)

names = st.sampled_from(KEYS)
puts = st.tuples(st.just("put"), names, st.binary(max_size=4), st.sampled_from((0, 0, 0, *LEASES)))
deletes = st.tuples(st.just("delete"), names)
guards = st.tuples(names, st.sampled_from(("absent", "current", "older", "created")))
prefixes = st.tuples(
    st.sampled_from(("", *KEYS)), st.sampled_from(("none below", "none newer", "none since the last"))
)
writes = st.lists(st.one_of(puts, deletes), min_size=1, max_size=4, unique_by=lambda write: write[1])
steps = st.one_of(
    st.tuples(st.just("commit"), st.lists(st.one_of(guards, prefixes), max_size=3), writes),
    st.tuples(st.just("repeat")),
    st.tuples(st.just("grant"), st.sampled_from(LEASES)),
    st.tuples(st.just("revoke"), st.sampled_from(LEASES)),
    st.tuples(st.just("keep_alive"), st.sampled_from(LEASES)),
    st.tuples(st.just("load"), st.integers(0, 6)),
    st.tuples(st.just("compact"), st.integers(0, 3)),
)


class _Side:
    """One of the twins, its revisions counted from where the history began, its keys without their prefix."""

    def __init__(self, store: Store, prefix: str, lease_base: int, compact: Callable[[int], None]) -> None:
        self.store, self.prefix, self.lease_base, self._compact = store, prefix, lease_base, compact
        self.base = self.newest = self.compacted = store.get(prefix, deadline=in_seconds())[1]
        self.last: Transaction | None = None

    def attempt(self, step: tuple[Any, ...], op: str) -> object:
        try:
            return getattr(self, step[0])(*step[1:], **({"op": op} if step[0] == "commit" else {}))
        except (Compacted, LeaseNotFound, StoreUnavailable) as error:
            return type(error)

    def commit(self, wanted: list[tuple[str, str]], changes: list[tuple[Any, ...]], op: str) -> object:
        seen = []
        for name, kind in wanted:
            if kind.startswith("none"):
                _, newest = self.store.get(self.prefix, deadline=in_seconds())
                last = {"none below": 0, "none newer": newest, "none since the last": newest - 1}[kind]
                seen.append(Guard(self.prefix + name, last, is_prefix=True))
                continue
            item, _ = self.store.get(self.prefix + name, deadline=in_seconds())
            revision = {"absent": 0, "older": self.base}.get(kind) if kind in ("absent", "older") else None
            if revision is None:
                revision = 0 if item is None else item.create if kind == "created" else item.mod
            seen.append(Guard(self.prefix + name, revision, on_create=kind == "created"))
        made = [
            Put(
                self.prefix + change[1],
                change[2] + f'{{"op":"{op}"}}'.encode(),
                change[3] and self.lease_base + change[3],
            )
            if change[0] == "put"
            else Delete(self.prefix + change[1])
            for change in changes
        ]
        self.last = Transaction(tuple(seen), tuple(made), Op(op))
        return self.repeat()

    def repeat(self) -> object:
        if self.last is None:
            return None
        result = self.store.commit(self.last, deadline=in_seconds())
        if isinstance(result, Refused):
            return self.refusal(result)
        shown = result.shown_by
        return Committed(result.revision - self.base, None if shown is None else self.refusal(shown))

    def refusal(self, refused: Refused) -> Refused:
        return Refused(
            refused.revision - self.base,
            {self.plain(key): self.item(found) for key, found in refused.current.items()},
        )

    def grant(self, lease: int) -> int:
        return self.store.grant(self.lease_base + lease, 60, deadline=in_seconds())

    def keep_alive(self, lease: int) -> int:
        return self.store.keep_alive(self.lease_base + lease, deadline=in_seconds())

    def revoke(self, lease: int) -> None:
        self.store.revoke(self.lease_base + lease, deadline=in_seconds())

    def load(self, back: int) -> object:
        _, newest = self.store.get(self.prefix, deadline=in_seconds())
        snapshot = self.store.load(
            self.prefix, deadline=in_seconds(), revision=max(self.base, newest - back) if back else 0
        )
        return snapshot.revision - self.base, [self.item(found) for found in snapshot.items]

    def compact(self, back: int) -> None:
        _, newest = self.store.get(self.prefix, deadline=in_seconds())
        if (revision := newest - back) > self.compacted:
            self._compact(revision)
            self.compacted = revision

    def item(self, found: KeyValue | None) -> KeyValue | None:
        if found is None:
            return None
        return found._replace(
            key=self.plain(found.key),
            create=found.create - self.base,
            mod=found.mod - self.base,
            lease=found.lease and found.lease - self.lease_base,
        )

    def plain(self, key: str) -> str:
        return key.removeprefix(self.prefix)

    def watched(self) -> list[KeyEvent] | type[Compacted]:
        """All changes since the history began, as a watch tells them."""
        end = self.store.commit(
            Transaction((), (Put(self.prefix + "end", b""),), Op("end")), deadline=in_seconds()
        )
        reader = WatchReader(self.store.watch(self.prefix, after=self.base))
        wait_until(
            lambda: reader.error or (reader.batches and reader.batches[-1].revision == end.revision),
            "the end",
        )
        reader.close()
        if isinstance(reader.error, Compacted):
            return Compacted
        once = WatchReader(self.store.watch(self.prefix, after=self.base, once=True))
        assert once.wait_for_end() is None
        assert once.events == reader.events
        return [
            KeyEvent(self.plain(event.key), event.mod - self.base, self.item(event.item))
            for event in reader.events
        ]


@settings(
    max_examples=examples(60), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(history=st.lists(steps, min_size=1, max_size=12))
def test_the_same_history_gives_the_same_answers(
    history: list[tuple[Any, ...]], store: EtcdStore, prefix: str
) -> None:
    run = next(_runs)
    memory = MemoryStore(CLOCK)
    twins = (
        _Side(memory, f"{prefix}{run}/", 0, memory.compact),
        _Side(store, f"{prefix}{run}/", run << 20, lambda revision: compact(store, revision)),
    )
    for number, step in enumerate(history):
        ours, theirs = (side.attempt(step, f"op-{number}") for side in twins)
        assert ours == theirs, step
    ours, theirs = (side.watched() for side in twins)
    assert ours == theirs
    for side in twins:
        for lease in LEASES:
            side.revoke(lease)
