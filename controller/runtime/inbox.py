"""The queue of the control loop: messages from the watch, the election and the engine, in order of arrival.

Any thread puts messages, one thread takes them. That thread also applies the leader's own commits. So the
model needs no lock against other writers, and a pass sees all that has arrived.
"""

from __future__ import annotations

import queue
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


class Inbox:
    """An unbounded queue. The store's watch and the effects under way bound what fills it."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._kept: list[Message] = []  # taken from the queue, and not yet asked for

    def put(self, message: Message) -> None:
        """Add a message, from any thread."""
        self._queue.put(message)

    def take(self, timeout_seconds: float) -> list[Message]:
        """All that has arrived. Waits for the first message, up to the time-out; empty if none came."""
        if not self._kept and timeout_seconds > 0:
            try:
                self._kept.append(self._queue.get(timeout=timeout_seconds))
            except queue.Empty:
                return []
        self._collect()
        messages, self._kept = self._kept, []
        return messages

    def take_from_engine(self) -> list[EngineEvent]:
        """The engine's messages; all others stay, in their order.

        Engine and store are two sources: neither waits for the other.
        """
        self._collect()
        messages = [message for message in self._kept if isinstance(message, EngineEvent)]
        self._kept = [message for message in self._kept if not isinstance(message, EngineEvent)]
        return messages

    def _collect(self) -> None:
        try:
            while True:
                self._kept.append(self._queue.get_nowait())
        except queue.Empty:
            return

    def __len__(self) -> int:
        return len(self._kept) + self._queue.qsize()
