"""Changes of tasks as server-sent events, each for those callers only who may read the task.

The format, the ring and what a reader must do after a gap are those of the status endpoint's stream (see
`endpoint.stream`). In addition, each change has the task's owner: a caller gets the changes of owners whose
tasks it may read, and nothing tells it of others, not even the time of their changes, as far as the pace
allows: a page of which nothing is left is not sent. Messages are veiled, as those of the task itself.

A reader is a position in the ring. Readers with the same rights share the work: what is encoded for one is
kept for the next.
"""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial

from controller.core.model.records import Change
from controller.endpoint.stream import (
    CAPACITY,
    CAPACITY_BYTES,
    KEEP_ALIVE_SECONDS,
    RETRY_MILLISECONDS,
    Entry,
    Feed,
    FellBehind,
    Position,
    alive,
    encode,
    gap,
)
from controller.endpoint.stream_events import is_told
from controller.gateway.caller import RECHECK_SECONDS, Caller
from controller.gateway.policy import Right, Rights
from controller.gateway.task_owners import TaskOwners
from controller.gateway.veil import MessageVeil

PACE_SECONDS = 0.1  # between two pages for one reader
PAGE = 1024  # changes that are looked at for one page
KEPT_PAGES = 64
EVERYBODY = ""  # whoever has signed in sees it: who leads


class OwnedEvents:
    """See the module's docstring. A Listener of the standby's model; any thread may read.

    `owners` hears of each change before it.
    """

    def __init__(self, owners: TaskOwners, capacity: int = CAPACITY) -> None:
        self.owners = owners
        self._capacity = capacity
        self._lock = threading.Lock()
        self._ring: deque[tuple[Entry, str | None]] = deque()  # with the owner, or EVERYBODY
        self._bytes = 0
        self._floor = self._revision = self._era = 0
        self._pages: OrderedDict[tuple[Position, object], tuple[bytes, Position]] = OrderedDict()

    def reloaded(self, revision: int) -> None:
        """See Listener."""
        with self._lock:
            self._ring.clear()
            self._pages.clear()
            self._bytes = 0
            self._floor = self._revision = revision
            self._era += 1

    def changed(self, changes: Sequence[Change], revision: int) -> None:
        """See Listener."""
        told = [
            (Entry(change), self.owners.of(change.names[0], index) if change.names else EVERYBODY)
            for index, change in enumerate(changes)
            if is_told(change)
        ]
        with self._lock:
            self._ring.extend(told)
            self._bytes += sum(entry.size for entry, _ in told)
            while len(self._ring) > self._capacity or self._bytes > CAPACITY_BYTES:
                dropped, _ = self._ring.popleft()
                self._floor, self._bytes = dropped.mod, self._bytes - dropped.size
            self._revision = max(self._revision, revision)

    def position(self, after: int | None = None) -> Position:
        """The start of a reader: after the given revision, or now. Raises FellBehind."""
        with self._lock:
            if after is not None and after < self._floor:
                raise FellBehind
            return Position(self._revision if after is None else after, self._era)

    def page(self, position: Position, rights: Rights) -> tuple[bytes, Position]:
        """The next events that these rights let one see, and the position after them. Raises FellBehind."""
        key = position, rights.readable
        with self._lock:
            if position.era != self._era or position.revision < self._floor:
                raise FellBehind
            known = self._pages.get(key)
            if known is not None and known[1].revision >= self._revision:
                return known
            fresh: list[tuple[Entry, str | None]] = []
            for entry, owner in reversed(self._ring):
                if entry.mod <= position.revision:
                    break
                fresh.append((entry, owner))
            last = max(self._revision, position.revision)
        fresh.reverse()
        if len(fresh) > PAGE:
            last = fresh[PAGE][0].mod  # whole revisions only
        seen = [entry for entry, owner in fresh if entry.mod <= last and _is_seen(owner, rights)]
        veil = MessageVeil(self.owners.of, partial(rights.allows, Right.READ))
        found = encode(seen, None if rights.may_read_all else veil.event), position._replace(revision=last)
        with self._lock:
            self._pages[key] = found
            while len(self._pages) > KEPT_PAGES:
                self._pages.popitem(last=False)
        return found


def _is_seen(owner: str | None, rights: Rights) -> bool:
    """Whether these rights let one see a change of a task of this owner; None: nobody knows whose it is."""
    return owner == EVERYBODY or (rights.may_read_all if owner is None else rights.allows(Right.READ, owner))


async def stream(
    events: OwnedEvents, feed: Feed, position: Position, still: Callable[[], Awaitable[Caller | None]]
) -> AsyncIterator[bytes]:
    """The stream, until the reader leaves, falls behind, or the feed is closed.

    `still` tells who the caller is and what it may do now; None: it may not sign in any more.
    """
    yield f"retry: {RETRY_MILLISECONDS}\nid: {position.revision}\n\n".encode()
    rights: Rights | None = None
    loop = asyncio.get_running_loop()
    told_at = loop.time()
    while not feed.closed and (caller := await still()) is not None:
        if rights not in (None, caller.rights):  # other tasks may be read by now
            yield gap()
            return
        rights = caller.rights
        try:
            page, position = events.page(position, caller.rights)
        except FellBehind:
            yield gap()
            return
        if page:
            yield page
            told_at = loop.time()
        silent_until = told_at + KEEP_ALIVE_SECONDS
        if await feed.reached(position.revision + 1, min(RECHECK_SECONDS, silent_until - loop.time())):
            await asyncio.sleep(PACE_SECONDS)
        if loop.time() < silent_until:
            continue
        if position.revision > feed.revision:  # it has seen more than there is: etcd was restored
            yield gap()
            return
        yield alive(position.revision)
        told_at = loop.time()
