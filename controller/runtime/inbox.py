"""The queue of the control loop: messages from the watch, the election and the engine, in order of arrival.

Any thread puts messages, one thread takes them. That thread also applies the leader's own commits. So the
model needs no lock against other writers, and a pass sees all that has arrived.
"""

from __future__ import annotations

import queue
from collections.abc import Callable
from typing import NamedTuple

from controller.core.planning.events import EngineEvent
from controller.election.term import Leadership
from controller.store.mirror import Changed, Loaded


class Elected(NamedTuple):
    """A term of this replica has begun."""

    leadership: Leadership


class Wake(NamedTuple):
    """Nothing has happened, but the loop should look at its flags."""


Message = Loaded | Changed | Elected | Wake | EngineEvent
_OF_LOOP = Loaded, Elected, Wake
LOOK_SECONDS = 1.0  # between two looks whether whoever reads pages is closed


class Inbox:
    """A queue. Of a load, one page is in it at most. The store's watch and the effects bound what else is."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._kept: list[Message] = []  # taken from the queue, and not yet asked for
        self._room: queue.SimpleQueue[None] = queue.SimpleQueue()  # has an item while no page is in it
        self._room.put(None)

    def put(self, message: Message) -> None:
        """Add a message, from any thread."""
        self._queue.put(message)

    def put_page(self, page: Loaded, is_closed: Callable[[], bool]) -> bool:
        """Add a page of a load when the one before has been taken; False if its reader was closed meanwhile.

        A store is read faster than it is taken in, and a process keeps the memory that it once needed.
        """
        while True:
            try:
                self._room.get(timeout=LOOK_SECONDS)
            except queue.Empty:
                if is_closed():
                    return False
            else:
                self.put(page)
                return True

    def take(self, timeout_seconds: float) -> list[Message]:
        """All that has arrived. Waits for the first message, up to the time-out; empty if none came."""
        if not self._kept and timeout_seconds > 0:
            try:
                self._kept.append(self._queue.get(timeout=timeout_seconds))
            except queue.Empty:
                return []
        self._collect()
        messages, self._kept = self._kept, []
        for message in messages:
            if isinstance(message, Loaded):
                self._room.put(None)
        return messages

    def take_ahead(self, revision: int) -> list[EngineEvent | Changed]:
        """The engine's messages, and what the store has shown up to this revision; the others stay, in order.

        Engine and store are two sources: neither waits for the other.
        """
        self._collect()
        messages, others = list[EngineEvent | Changed](), list[Message]()
        for message in self._kept:
            is_later = isinstance(message, Changed) and (message.revision > revision or bool(others))
            if is_later or isinstance(message, _OF_LOOP):
                others.append(message)
            else:
                messages.append(message)
        self._kept = others
        return messages

    def has_more(self) -> bool:
        """Whether there is a message, of those collected so far, that `take_ahead` leaves at any revision."""
        return any(not isinstance(message, Changed) for message in self._kept)

    def _collect(self) -> None:
        try:
            while True:
                self._kept.append(self._queue.get_nowait())
        except queue.Empty:
            return

    def __len__(self) -> int:
        return len(self._kept) + self._queue.qsize()
