"""Changes of tasks as server-sent events, from a ring of bounded size.

The model's thread only appends to the ring; entries are decoded when they are read. A reader has no queue: it
is a position in the ring. A reader that falls behind the oldest entry, or whose model was reloaded, is cut
off and told to list the tasks again. A reader thus costs no memory, and cannot delay others (fault 9).

A reader that keeps up is a follower. All followers are at the same position, and are served together, at
most once per PACE_SECONDS. Each page is encoded and framed once for all of them, and costs one write per
connection. A reader that is behind, because it resumed or was slow to read, gets pages of its own until it
has caught up.

What happens to a member of an array is told as a change of its array (`array`), without what it was.

A revision may change many tasks. Only the last event of a revision has an `id`: a reader that resumes may
receive some events of a revision again, but misses none.

Source of the format: https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import NamedTuple

from controller.core.model.records import Change
from controller.endpoint.stream_events import event, event_of, is_of_member, is_told, status_event

CAPACITY = 8192  # changes kept for readers
CAPACITY_BYTES = 32 * 2**20  # size of their values, which a long history makes large
PAGE = 1024  # changes sent at once
PAGE_BYTES = 2**20  # size of their values
PACE_SECONDS = 0.05  # between two pages for followers; changes in between go out together
KEEP_ALIVE_SECONDS = 15.0  # of silence, after which followers get a comment that the stream is alive
PAUSE_SECONDS = 5.0  # between two checks whether that is due
FELL_BEHIND = "changes were missed: list /v1/tasks again, and resume after its Tally-Revision"
RETRY_MILLISECONDS = 2000  # the delay before a browser reconnects


class Position(NamedTuple):
    """A reader's position: it knows all changes up to `revision`.

    `era` counts the reloads of the model.
    """

    revision: int
    era: int


class FellBehind(Exception):
    """Some changes after the position are no longer in the ring."""


class Entry:
    """A change in the ring; encoded once, when it is first read."""

    __slots__ = ("_data", "_task_id", "_value", "mod", "size")

    def __init__(self, change: Change) -> None:
        self.mod = change.mod
        self._task_id = change.names[0] if change.names else ""
        self._value = change.value if change.kind == "states" and not is_of_member(change) else None
        self.size = len(self._value or b"")
        self._data: bytes | None = None if self._value is not None else event_of(change)

    def data(self) -> bytes:
        """The event without its id."""
        if self._data is None:
            self._data, self._value = status_event(self._task_id, self.mod, self._value or b""), None
        return self._data


class EncodedEvents(NamedTuple):
    """Events as they are sent: plain, and as one chunk of HTTP/1.1."""

    plain: bytes
    chunk: bytes

    @classmethod
    def of(cls, events: bytes) -> EncodedEvents:
        """Framed once for all readers. Source: RFC 9112, section 7.1."""
        return cls(events, b"%x\r\n%s\r\n" % (len(events), events))


Shown = Callable[[bytes], bytes]
"""How a reader is shown an event."""

Write = Callable[[EncodedEvents], bool]
"""Writes a page to a reader's connection.

Returns False, and writes nothing, if the reader has not read the previous pages yet.
"""


class Feed:
    """The ring, its followers, and the requests that wait for a revision.

    A Listener of the replica. All other methods but `close` are for one event loop.
    """

    def __init__(self, capacity: int = CAPACITY, capacity_bytes: int = CAPACITY_BYTES) -> None:
        self._capacity = capacity
        self._capacity_bytes = capacity_bytes
        self._bytes = 0
        self._lock = threading.Lock()
        self._entries: deque[Entry] = deque()
        # Invariant: the ring has every change of a task after this revision, up to `_revision`
        self._floor = 0
        self._revision = 0
        self._era = 0
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: set[asyncio.Future[None]] = set()
        self._woken = False
        self._told = Position(0, 0)  # the position of all followers
        # a future is done when its reader must continue on its own
        self._followers: dict[asyncio.Future[Position], Write] = {}
        self._is_due = False  # whether a call of `_tell` is scheduled
        # by the loop's clock: the last call of `_tell`, and the last write to followers
        self._told_at = self._spoken_at = 0.0
        self._pause: asyncio.TimerHandle | None = None

    # -- the model's thread

    def reloaded(self, revision: int) -> None:
        """See Listener."""
        with self._lock:
            self._entries.clear()
            self._bytes = 0
            self._floor = self._revision = revision
            self._era += 1
            self._wake()

    def changed(self, changes: Sequence[Change], revision: int) -> None:
        """See Listener."""
        with self._lock:
            for change in changes:
                if is_told(change):
                    self._entries.append(Entry(change))
                    self._bytes += self._entries[-1].size
            while len(self._entries) > self._capacity or self._bytes > self._capacity_bytes:
                dropped = self._entries.popleft()
                self._floor, self._bytes = dropped.mod, self._bytes - dropped.size
            self._revision = max(self._revision, revision)
            self._wake()

    def close(self) -> None:
        """End all streams and waits. Idempotent; any thread may call it."""
        with self._lock:
            self._closed = True
            self._wake()
            self._loop = None

    # -- the event loop

    @property
    def closed(self) -> bool:
        """Whether the feed is closed."""
        return self._closed

    @property
    def waiting(self) -> int:
        """The number of requests that wait for a revision."""
        with self._lock:
            return len(self._waiting)

    def position(self, after: int | None = None) -> Position:
        """The start of a reader: after the given revision, or now.

        Raises FellBehind when the changes after it are no longer in the ring.
        """
        with self._lock:
            if after is not None and after < self._floor:
                raise FellBehind
            return Position(self._revision if after is None else after, self._era)

    @property
    def revision(self) -> int:
        """The revision that the model has applied."""
        return self._revision

    @property
    def told(self) -> int:
        """The revision of the followers' position."""
        return self._told.revision

    def since(self, position: Position, until: int | None = None) -> tuple[list[Entry], Position]:
        """The next changes, and the position after them. Raises FellBehind.

        These are whole revisions, about a page of them, up to the revision `until` or now.
        """
        with self._lock:
            if position.era != self._era or position.revision < self._floor:
                raise FellBehind
            last = self._revision if until is None else min(until, self._revision)
            fresh: list[Entry] = []
            for entry in reversed(self._entries):
                if entry.mod <= position.revision:
                    break
                if entry.mod <= last:
                    fresh.append(entry)
        fresh.reverse()
        size = 0
        for number, entry in enumerate(fresh, 1):
            size += entry.size
            if number == PAGE or size >= PAGE_BYTES:
                last = entry.mod
                break
        return [entry for entry in fresh if entry.mod <= last], position._replace(
            revision=max(position.revision, last)
        )

    async def follow(self, position: Position, write: Write) -> Position:
        """Call `write` with each page of changes until the reader must continue on its own.

        Returns the position from which to continue; at once if the other followers are ahead. After
        KEEP_ALIVE_SECONDS of silence, or a little more, a comment is written.
        """
        loop = asyncio.get_running_loop()
        if not self._followers or position.era != self._told.era or position.revision > self._told.revision:
            self._tell()
        leaving: asyncio.Future[Position] = loop.create_future()
        with self._lock:
            if position != self._told or self._closed:
                return position
            self._loop = loop
            self._followers[leaving] = write
            if self._revision > position.revision:  # a change that came before this follower was added
                self._wake()
        if self._pause is None:
            self._pause = loop.call_later(PAUSE_SECONDS, self._tell)
        try:
            return await leaving
        finally:
            self._followers.pop(leaving, None)

    async def reached(self, revision: int, timeout_seconds: float) -> bool:
        """Wait until the model has applied `revision`; returns whether it did in time."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_seconds
        while self._revision < revision and not self._closed:
            moved = loop.create_future()
            with self._lock:
                self._loop = loop
                self._waiting.add(moved)
            try:
                if self._revision < revision and not self._closed:  # checked again after `_waiting.add`
                    await asyncio.wait([moved], timeout=max(0.0, deadline - loop.time()))
            finally:
                with self._lock:
                    self._waiting.discard(moved)
            if loop.time() >= deadline:
                break
        return self._revision >= revision

    def _wake(self) -> None:
        if self._loop is None:
            return
        if self._waiting and not self._woken:
            self._woken = True
            self._loop.call_soon_threadsafe(self._release)
        if self._followers and not self._is_due:
            self._is_due = True
            self._loop.call_soon_threadsafe(self._loop.call_at, self._told_at + PACE_SECONDS, self._tell)

    def _tell(self) -> None:
        """Send all followers the changes since the last call."""
        loop = asyncio.get_running_loop()
        if self._pause is not None:
            self._pause.cancel()
        self._pause = loop.call_later(PAUSE_SECONDS, self._tell) if self._followers else None
        self._told_at = loop.time()
        with self._lock:
            now = Position(self._revision, self._era)
            self._is_due = False
        while self._followers and self._told != now:
            try:
                entries, following = self.since(self._told, now.revision)
            except FellBehind:
                break
            if entries:
                self._write(encode(entries))
            self._told = following
        if self._told != now or self._closed:
            self._dismiss(self._followers)
            self._told = now
        elif self._told_at - self._spoken_at >= KEEP_ALIVE_SECONDS:
            self._write(alive(now.revision))

    def _write(self, events: bytes) -> None:
        """Write to all followers; those whose connection is not ready continue on their own."""
        page = EncodedEvents.of(events)
        self._spoken_at = self._told_at
        self._dismiss([leaving for leaving, write in self._followers.items() if not write(page)])

    def _dismiss(self, followers: Iterable[asyncio.Future[Position]]) -> None:
        """Let these followers continue on their own, from the followers' position."""
        for leaving in list(followers):
            del self._followers[leaving]
            if not leaving.done():
                leaving.set_result(self._told)

    def _release(self) -> None:
        with self._lock:
            waiting, self._waiting, self._woken = self._waiting, set(), False
        for moved in waiting:
            if not moved.done():
                moved.set_result(None)


async def events(feed: Feed, position: Position, write: Write) -> AsyncIterator[bytes]:
    """The stream, until the reader leaves, falls behind, or the feed is closed.

    A reader that falls behind, or has seen what there is not, gets `gap` as its last event. While the reader
    follows, pages go through `write`; all others are yielded.
    """
    yield f"retry: {RETRY_MILLISECONDS}\nid: {position.revision}\n\n".encode()
    while not feed.closed:
        try:
            entries, position = feed.since(position, feed.told)
        except FellBehind:
            yield gap()
            return
        if entries:
            yield encode(entries)
        # the reader resumes a stream of a replica that was ahead of this one
        elif position.revision > feed.revision:
            if not await feed.reached(position.revision, KEEP_ALIVE_SECONDS) and not feed.closed:
                yield gap()  # it has seen more than there is: etcd was restored
                return
        else:
            position = await feed.follow(position, write)


def gap() -> bytes:
    """The last event of a reader that fell behind."""
    return event("gap", {"detail": FELL_BEHIND}) + b"\n"


def alive(revision: int) -> bytes:
    """A comment, and the revision from which to resume."""
    return f": still here\nid: {revision}\n\n".encode()


def encode(entries: list[Entry], shown: Shown | None = None) -> bytes:
    """Events as they are sent, each as it is `shown`. Only the last one of a revision has an id."""
    parts: list[bytes] = []
    for index, entry in enumerate(entries):
        parts.append(shown(entry.data()) if shown is not None else entry.data())
        is_last = index + 1 == len(entries) or entries[index + 1].mod != entry.mod
        parts.append(f"id: {entry.mod}\n\n".encode() if is_last else b"\n")
    return b"".join(parts)
