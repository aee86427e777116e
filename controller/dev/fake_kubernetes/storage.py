"""Objects, their versions and their history: what etcd and the watch cache are to a real API server.

One counter, the revision, grows with each write of any object, and is the object's `resourceVersion`. Each
object is encoded once per change; lists and watches send those bytes. Objects are never changed in place: a
write replaces them, so whatever has been handed out stays as it was.

All calls need `lock`; `changed` is notified after each write.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Callable, Mapping
from typing import NamedTuple

import msgspec
from sortedcontainers import SortedDict

from controller.dev.fake_kubernetes.apierrors import Document, too_old

Key = tuple[str, str]
"""Namespace ("" for what has none) and name."""


class Stored(NamedTuple):
    """One version of one object, and its encoding."""

    key: Key
    revision: int
    document: Document
    body: bytes

    def copy(self) -> Document:
        """A document that may be changed."""
        document: Document = msgspec.json.decode(self.body)
        return document


class ObjectChange(NamedTuple):
    """One write. For DELETED, `after` is the last state with the revision of the deletion."""

    revision: int
    type: str
    before: Stored | None
    after: Stored


class Collection:
    """The objects of one resource."""

    def __init__(self, storage: Storage, resource: str, kind: str) -> None:
        self.storage = storage
        self.resource = resource
        self.kind = kind
        self.items: SortedDict[Key, Stored] = SortedDict()  # in the order of lists
        self.observers: list[Callable[[ObjectChange], None]] = []
        self.history: list[ObjectChange] = []
        self._forgotten = storage.revision  # Invariant: `history` has every change above it
        # Invariant: not below `_forgotten`; open watches may continue from below
        self._compacted = storage.revision

    def get(self, key: Key) -> Stored | None:
        """The newest version."""
        found: Stored | None = self.items.get(key)
        return found

    def put(self, document: Document) -> Stored:
        """Create or replace; gives the document its resourceVersion."""
        metadata = document["metadata"]
        key = (metadata.get("namespace", ""), metadata["name"])
        before = self.get(key)
        after = self._encode(key, document)
        self.items[key] = after
        self._record(ObjectChange(after.revision, "MODIFIED" if before else "ADDED", before, after))
        return after

    def remove(self, key: Key, last: Document | None = None) -> Stored:
        """Delete; `last` is the last state to tell watches, when it differs."""
        before: Stored = self.items.pop(key)
        after = self._encode(key, last or before.copy())
        self._record(ObjectChange(after.revision, "DELETED", before, after))
        return after

    def since(self, revision: int) -> list[ObjectChange]:
        """The changes above `revision`, for a watch that is open.

        Raises ApiError (410) when some of them are gone.
        """
        if revision < self._forgotten:
            raise too_old(revision, self._forgotten)
        return self.history[bisect_right(self.history, revision, key=lambda change: change.revision) :]

    def check(self, revision: int) -> None:
        """Raises ApiError (410) for a revision that has been compacted."""
        if revision < self._compacted:
            raise too_old(revision, self._compacted)

    def at(self, revision: int) -> Mapping[Key, Stored]:
        """All objects as they were at `revision`, in order. Raises ApiError (410) when that is gone."""
        self.check(revision)
        undo = self.since(revision)
        if not undo:
            items: Mapping[Key, Stored] = self.items
            return items
        past = self.items.copy()
        for change in reversed(undo):
            if change.before is None:
                past.pop(change.after.key, None)
            else:
                past[change.after.key] = change.before
        result: Mapping[Key, Stored] = past
        return result

    def compact(self) -> None:
        """Refuse watches and lists of versions before now; open watches continue."""
        self._compacted = self.storage.revision

    def _encode(self, key: Key, document: Document) -> Stored:
        revision = self.storage.next_revision()
        document["metadata"]["resourceVersion"] = str(revision)
        return Stored(key, revision, document, msgspec.json.encode(document))

    def _record(self, change: ObjectChange) -> None:
        self.history.append(change)
        limit = self.storage.history_limit
        if len(self.history) > 2 * limit:  # in halves, so that each change is moved at most once
            self._forgotten = self.history[-limit - 1].revision
            self._compacted = max(self._compacted, self._forgotten)
            del self.history[:-limit]
        for observer in self.observers:
            observer(change)
        self.storage.changed.notify_all()


class Storage:
    """All collections, under one counter and one lock."""

    def __init__(self, *, history_limit: int = 10_000) -> None:
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        self.revision = 100  # a real cluster has written a good deal before the first pod
        self.history_limit = history_limit
        self.collections: dict[str, Collection] = {}
        for resource, kind in (
            ("namespaces", "Namespace"),
            ("nodes", "Node"),
            ("pods", "Pod"),
            ("events", "Event"),
        ):
            self.collections[resource] = Collection(self, resource, kind)
        self.pods = self.collections["pods"]
        self.events = self.collections["events"]
        self.namespaces = self.collections["namespaces"]
        self.nodes = self.collections["nodes"]

    def next_revision(self) -> int:
        """Count one write."""
        self.revision += 1
        return self.revision

    def compact(self) -> None:
        """Forget all history: watches and lists of older versions answer 410."""
        with self.lock:
            for collection in self.collections.values():
                collection.compact()
