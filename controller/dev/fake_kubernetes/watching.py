"""One watch: the changes of a collection from a version on, as the lines that the server sends.

The thread of the request runs it. Selectors turn changes into what the watcher sees: an object that begins to
match is ADDED, one that ceases to is DELETED. Faults: `cut`, `freeze`, `thaw`, `expire`, `inject`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import msgspec

from controller.clock import Clock
from controller.dev.fake_kubernetes.apierrors import ApiError, Document, too_old
from controller.dev.fake_kubernetes.selectors import Predicate
from controller.dev.fake_kubernetes.storage import Collection, ObjectChange, Storage, Stored


class Cut(Exception):
    """The watch's connection is to be closed in the middle."""


class OpenWatches:
    """The open watches, and the faults injected into them."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._watches: set[WatchStream] = set()

    def add(self, watch: WatchStream) -> None:
        """Open a watch; needs the storage's lock."""
        self._watches.add(watch)

    def discard(self, watch: WatchStream) -> None:
        """Note that its connection has ended."""
        with self._storage.lock:
            self._watches.discard(watch)

    def __len__(self) -> int:
        return len(self._watches)

    def cut(self) -> None:
        """Close the connections of all open watches in the middle."""
        self._each(WatchStream.cut)

    def freeze(self) -> None:
        """Silence all open watches, and keep their connections. Watches that are opened later work."""
        self._each(WatchStream.freeze)

    def thaw(self) -> None:
        """Let frozen watches continue where they stopped."""
        self._each(WatchStream.thaw)

    def expire(self) -> None:
        """Send a 410 in the stream of all open watches, and end them."""
        self._each(WatchStream.expire)

    def replay(self, kind: str, pod: Document) -> None:
        """Send an old event of a pod to all open watches of pods once more."""
        body = json.dumps(pod).encode()
        with self._storage.lock:
            for watch in self._watches:
                if watch.collection is self._storage.pods:
                    watch.inject(kind, body)

    def _each(self, act: Callable[[WatchStream], None]) -> None:
        with self._storage.lock:
            for watch in self._watches:
                act(watch)


class WatchStream:
    """See the module's docstring. All attributes but the constants need the storage's lock."""

    def __init__(
        self,
        collection: Collection,
        clock: Clock,
        *,
        namespace: str,
        matches: Predicate | None,
        after: int | None,
        bookmark_seconds: float | None,
        timeout_seconds: float | None,
    ) -> None:
        self.collection = collection
        self.namespace = namespace
        self._matches = matches
        self._clock = clock
        self._changed = collection.storage.changed
        self._bookmark_seconds = bookmark_seconds
        self._ends = clock.boottime() + timeout_seconds if timeout_seconds is not None else None
        self._bookmark_due = clock.boottime() + bookmark_seconds if bookmark_seconds is not None else None
        self._pending: list[bytes] = []
        self._position = collection.storage.revision if after is None else after
        self._frozen = False
        self._cut = False
        self._refusal: ApiError | None = None
        if after is None:
            self._pending = [
                _line("ADDED", each.body) for each in collection.items.values() if self._sees(each)
            ]
        else:
            self._check(after)

    def cut(self) -> None:
        """Close the connection in the middle."""
        self._cut = True
        self._changed.notify_all()

    def freeze(self) -> None:
        """Send nothing from now on, and keep the connection."""
        self._frozen = True

    def thaw(self) -> None:
        """Send what was held back, and continue."""
        self._frozen = False
        self._changed.notify_all()

    def expire(self) -> None:
        """Tell the watcher that its version is too old, and end."""
        self._refusal = too_old(self._position, self.collection.storage.revision)
        self._changed.notify_all()

    def inject(self, kind: str, body: bytes) -> None:
        """Send this event, even if it is false."""
        self._pending.append(_line(kind, body))
        self._changed.notify_all()

    def batches(self) -> Iterator[bytes]:
        """Lines to send, many at once, until the watch has ended. Raises Cut."""
        while True:
            with self._changed:
                lines, ended = self._next()
            if lines:
                yield b"".join(lines)
            if ended:
                return

    def _next(self) -> tuple[list[bytes], bool]:
        while True:
            if self._cut:
                raise Cut
            now = self._clock.boottime()
            ended = self._ends is not None and now >= self._ends
            if self._frozen:
                if ended:
                    return [], True
            else:
                lines, failed = self._collect()
                if failed:
                    return lines, True
                if (
                    self._bookmark_due is not None
                    and (ended or now >= self._bookmark_due)
                    and self._bookmark_seconds
                ):
                    lines.append(self._bookmark())
                    self._bookmark_due = now + self._bookmark_seconds
                if lines or ended:
                    return lines, ended
            due = [
                each
                for each in (self._ends, None if self._frozen else self._bookmark_due)
                if each is not None
            ]
            self._changed.wait(max(0.01, min(due) - now) if due else None)

    def _collect(self) -> tuple[list[bytes], bool]:
        lines, self._pending = self._pending, []
        try:
            if self._refusal is not None:
                raise self._refusal
            lines += filter(None, map(self._line, self.collection.since(self._position)))
            self._position = max(self._position, self.collection.storage.revision)
        except ApiError as error:
            return [*lines, _line("ERROR", msgspec.json.encode(error.document()))], True
        return lines, False

    def _check(self, revision: int) -> None:
        """An old version is refused in the stream, and not by a status code."""
        try:
            self.collection.check(revision)
        except ApiError as error:
            self._refusal = error

    def _line(self, change: ObjectChange) -> bytes | None:
        if self._matches is None:
            return (
                _line(change.type, change.after.body) if self.namespace in ("", change.after.key[0]) else None
            )
        before = change.before is not None and self._sees(change.before)
        now = change.type != "DELETED" and self._sees(change.after)
        if now:
            return _line("MODIFIED" if before else "ADDED", change.after.body)
        if not before:
            return None
        if change.type == "DELETED":
            return _line("DELETED", change.after.body)
        assert change.before is not None
        last = change.before.copy()
        last["metadata"]["resourceVersion"] = str(change.revision)
        return _line("DELETED", msgspec.json.encode(last))

    def _sees(self, stored: Stored) -> bool:
        if self.namespace not in ("", stored.key[0]):
            return False
        return self._matches is None or self._matches(stored.document)

    def _bookmark(self) -> bytes:
        metadata = {"resourceVersion": str(self._position), "creationTimestamp": None}
        document: Document = {"kind": self.collection.kind, "apiVersion": "v1", "metadata": metadata}
        if self.collection.kind == "Pod":
            document |= {"spec": {"containers": None}, "status": {}}
        return _line("BOOKMARK", msgspec.json.encode(document))


def _line(kind: str, body: bytes) -> bytes:
    return b'{"type":"' + kind.encode() + b'","object":' + body + b"}\n"
