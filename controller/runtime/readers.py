"""Whoever reads a replica's model from other threads: those who hold it still for a moment, and those who
hear of changes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

from controller import bulkhead
from controller.core.model.model import Model
from controller.core.model.records import Change
from controller.views.replica import Listener


class Readers:
    """`lock` keeps readers out while the model changes, and the model from changing while they read."""

    def __init__(self, *listeners: Listener) -> None:
        self.lock = threading.RLock()
        self._listeners: list[Listener] = [*listeners]

    def reading(self, model: Callable[[], Model]) -> AbstractContextManager[Model]:
        """The model, held still until the context ends."""

        @contextmanager
        def held() -> Iterator[Model]:
            with self.lock:
                yield model()

        return held()

    def subscribe(self, listener: Listener, revision: Callable[[], int]) -> Callable[[], None]:
        """Tell `listener` of all changes, beginning with where the model stands; the returned call ends
        it.
        """
        with self.lock:
            self._listeners.append(listener)
            listener.reloaded(revision())

        def end() -> None:
            with self.lock:
                if listener in self._listeners:
                    self._listeners.remove(listener)

        return end

    def changed(self, changes: Sequence[Change], revision: int) -> None:
        """See Listener; the caller holds the model."""
        self._tell(lambda listener: listener.changed(changes, revision))

    def reloaded(self, revision: int) -> None:
        """See Listener; the caller holds the model."""
        self._tell(lambda listener: listener.reloaded(revision))

    def _tell(self, what: Callable[[Listener], None]) -> None:
        for listener in list(self._listeners):
            try:
                what(listener)
            # a reader's fault is no writer's: it is told nothing any more
            except Exception as error:  # noqa: BLE001
                bulkhead.caught("listener", error)
                self._listeners.remove(listener)
