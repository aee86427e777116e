"""Changes of tasks as server-sent events, from a bounded ring.

The model's thread only appends to the ring; decoding happens when somebody reads. Nobody has a queue of his own: a reader
is a position in the ring, and one that falls behind its oldest entry (a slow reader), or whose model was reloaded, is cut
and told to list the tasks again. So a reader costs no memory and can delay nobody (fault 9).

A revision may change many tasks. The `id` of an event stands only on the last of its revision: who resumes after it may
hear some of a revision again, and misses nothing.

Source of the format: https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple

import msgspec

from controller.core.codec import decode_status
from controller.core.errors import CorruptValue
from controller.core.records import Change, decode_or_empty

CAPACITY = 8192  # changes kept for readers
CAPACITY_BYTES = 32 * 2**20  # of their values, which a long history makes large
PAGE = 256  # changes sent at once
PACE_SECONDS = 0.05  # between two pages for one reader: what happens meanwhile goes out together
KEEP_ALIVE_SECONDS = 15.0
FELL_BEHIND = "changes were missed: list /v1/tasks again, and resume after its Tally-Revision"
RETRY_MILLISECONDS = 2000  # how soon a browser connects again


class Position(NamedTuple):
    """Where a reader stands: all changes up to `revision` are known to it. `era` counts the reloads of the model."""

    revision: int
    era: int


class FellBehind(Exception):
    """Changes after the position are not kept any more."""


class Entry:
    """One change in the ring; encoded once, when it is first read."""

    __slots__ = ("_data", "_task_id", "_value", "mod", "size")

    def __init__(self, change: Change) -> None:
        self.mod = change.mod
        self._task_id = change.names[0] if change.names else ""
        self._value = change.value if change.kind == "states" else None
        self.size = len(self._value or b"")
        self._data: bytes | None = None if self._value is not None else _event_without_status(change)

    def data(self) -> bytes:
        """The event without its id."""
        if self._data is None:
            self._data, self._value = _status_event(self._task_id, self.mod, self._value or b""), None
        return self._data


class Feed:
    """The ring and those who wait for it to move. A Listener of the replica; all else is for one event loop."""

    def __init__(self, capacity: int = CAPACITY, capacity_bytes: int = CAPACITY_BYTES) -> None:
        self._capacity = capacity
        self._capacity_bytes = capacity_bytes
        self._bytes = 0
        self._lock = threading.Lock()
        self._entries: deque[Entry] = deque()
        self._floor = 0  # Invariant: every change of a task after this revision, and up to `_revision`, is in the ring
        self._revision = 0
        self._era = 0
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: set[asyncio.Future[None]] = set()
        self._woken = False
        self._pages: dict[Position, tuple[bytes, Position]] = {}  # made already, for others who stand at the same place

    # -- the model's thread ------------------------------------------------------------------------------------------

    def reloaded(self, revision: int) -> None:
        """See Listener."""
        with self._lock:
            self._entries.clear()
            self._bytes = 0
            self._floor = self._revision = revision
            self._era += 1
            self._pages = {}
            self._wake()

    def changed(self, changes: Sequence[Change], revision: int) -> None:
        """See Listener."""
        with self._lock:
            for change in changes:
                if _is_told(change):
                    self._entries.append(Entry(change))
                    self._bytes += self._entries[-1].size
            while len(self._entries) > self._capacity or self._bytes > self._capacity_bytes:
                dropped = self._entries.popleft()
                self._floor, self._bytes = dropped.mod, self._bytes - dropped.size
            self._revision = max(self._revision, revision)
            self._pages = {}
            self._wake()

    def close(self) -> None:
        """End all streams and waits; idempotent, from any thread."""
        with self._lock:
            self._closed = True
            self._wake()
            self._loop = None

    # -- the event loop ----------------------------------------------------------------------------------------------

    @property
    def closed(self) -> bool:
        """Whether there is no more to come."""
        return self._closed

    @property
    def waiting(self) -> int:
        """How many wait for a revision now: streams that are up to date, and requests with `wait`."""
        with self._lock:
            return len(self._waiting)

    def position(self, after: int | None = None) -> Position:
        """Where a reader begins: after the given revision, or now. Raises FellBehind when that is not kept any more."""
        with self._lock:
            if after is not None and after < self._floor:
                raise FellBehind
            return Position(self._revision if after is None else after, self._era)

    def since(self, position: Position) -> tuple[list[Entry], Position]:
        """The next changes (whole revisions, about a page) and the position after them. Raises FellBehind."""
        with self._lock:
            if position.era != self._era or position.revision < self._floor:
                raise FellBehind
            fresh: list[Entry] = []
            for entry in reversed(self._entries):
                if entry.mod <= position.revision:
                    break
                fresh.append(entry)
            fresh.reverse()
            if len(fresh) <= PAGE:
                return fresh, position._replace(revision=max(position.revision, self._revision))
        last = fresh[PAGE - 1].mod
        page = [entry for entry in fresh if entry.mod <= last]
        return page, position._replace(revision=last)

    def page(self, position: Position) -> tuple[bytes, Position]:
        """As `since`, encoded: once for all readers who stand at the same place."""
        pages = self._pages  # a move of the ring begins another dict: what is put into this one then is not seen again
        if (made := pages.get(position)) is None:
            entries, following = self.since(position)
            made = pages[position] = _encode(entries), following
        return made

    async def reached(self, revision: int, timeout_seconds: float) -> bool:
        """Wait until the model has applied `revision`; tells whether it has within the time."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_seconds
        while self._revision < revision and not self._closed:
            moved = loop.create_future()
            with self._lock:
                self._loop = loop
                self._waiting.add(moved)
            try:
                if self._revision < revision and not self._closed:  # again, now that a move would be noticed
                    await asyncio.wait([moved], timeout=max(0.0, deadline - loop.time()))
            finally:
                with self._lock:
                    self._waiting.discard(moved)
            if loop.time() >= deadline:
                break
        return self._revision >= revision

    def _wake(self) -> None:
        if self._waiting and self._loop is not None and not self._woken:
            self._woken = True
            self._loop.call_soon_threadsafe(self._release)

    def _release(self) -> None:
        with self._lock:
            waiting, self._waiting, self._woken = self._waiting, set(), False
        for moved in waiting:
            if not moved.done():
                moved.set_result(None)


async def events(feed: Feed, position: Position) -> AsyncIterator[bytes]:
    """The stream, until the reader goes away, falls behind (a last event `gap` says so) or the feed is closed."""
    yield f"retry: {RETRY_MILLISECONDS}\nid: {position.revision}\n\n".encode()
    while not feed.closed:
        try:
            page, position = feed.page(position)
        except FellBehind:
            yield _event("gap", {"detail": FELL_BEHIND}) + b"\n"
            return
        if page:
            yield page
            await asyncio.sleep(PACE_SECONDS)
        elif not await feed.reached(position.revision + 1, KEEP_ALIVE_SECONDS):
            yield f": still here\nid: {position.revision}\n\n".encode()


def _encode(entries: list[Entry]) -> bytes:
    parts: list[bytes] = []
    for index, entry in enumerate(entries):
        parts.append(entry.data())
        is_last = index + 1 == len(entries) or entries[index + 1].mod != entry.mod
        parts.append(f"id: {entry.mod}\n\n".encode() if is_last else b"\n")
    return b"".join(parts)


def _is_told(change: Change) -> bool:
    """Statuses, specs that appear or go (the deletion of a status comes with that of its spec), and who leads."""
    return change.kind in ("tasks", "leader") or (change.kind == "states" and change.value is not None)


def _event_without_status(change: Change) -> bytes:
    if change.kind == "leader":
        leader = decode_or_empty(change)
        return _event("leader", {"replica": str(leader.get("id", "")), "revision": change.mod})
    name = "removed" if change.value is None else "submitted"
    return _event(name, {"id": change.names[0], "revision": change.mod})


def _status_event(task_id: str, mod: int, value: bytes) -> bytes:
    try:
        status, _ = decode_status(value)
    except CorruptValue as error:
        return _event("quarantined", {"id": task_id, "revision": mod, "detail": str(error)})
    fields = {"state": status.state, "pool": status.pool, "attempt": status.attempt, "stopping": status.stopping}
    return _event("status", {"id": task_id, "revision": mod, **fields, "reason": status.reason, "message": status.message})


def _event(name: str, data: dict[str, object]) -> bytes:
    return b"event: %s\ndata: %s\n" % (name.encode(), msgspec.json.encode(data))
