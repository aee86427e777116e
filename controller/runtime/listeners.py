"""Who is told of every change of the model: the status endpoint's streams."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from controller import bulkhead
from controller.core.records import Change
from controller.core.view import Listener


class Listeners:
    """Called by the control loop, which holds `lock`, the model's. One that raises is told nothing any more."""

    def __init__(self, lock: AbstractContextManager[object]) -> None:
        self._lock = lock
        self._listeners: list[Listener] = []

    def add(self, listener: Listener, revision: int) -> Callable[[], None]:
        """Tell it from now on, beginning with the model as it is at `revision`; the function that is returned ends it."""
        with self._lock:
            self._listeners.append(listener)
            listener.reloaded(revision)

        def end() -> None:
            with self._lock:
                if listener in self._listeners:
                    self._listeners.remove(listener)

        return end

    def changed(self, changes: Sequence[Change], revision: int) -> None:
        """See Listener."""
        self._tell(lambda listener: listener.changed(changes, revision))

    def reloaded(self, revision: int) -> None:
        """See Listener."""
        self._tell(lambda listener: listener.reloaded(revision))

    def _tell(self, what: Callable[[Listener], None]) -> None:
        for listener in list(self._listeners):
            try:
                what(listener)
            except Exception as error:  # noqa: BLE001  # a reader's fault is no writer's
                bulkhead.caught("listener", error)
                self._listeners.remove(listener)
