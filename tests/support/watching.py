"""A watch read by a thread, so that a test can wait for what it delivers."""

from __future__ import annotations

import threading
from collections.abc import Iterable

from controller.store.base import Batch, KeyEvent, Watch
from tests.support.waiting import wait_until


class WatchReader:
    """Collects a watch's batches; `error` is what ended it."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch
        self.batches: list[Batch] = []
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._read, name="watch-reader", daemon=True)
        self._thread.start()

    def _read(self) -> None:
        try:
            for batch in self.watch:
                self.batches.append(batch)
        except BaseException as error:  # noqa: BLE001  # handed to the test
            self.error = error

    @property
    def events(self) -> list[KeyEvent]:
        """All that was delivered, in order."""
        return [event for batch in list(self.batches) for event in batch.events]

    def wait_for(self, keys: Iterable[str]) -> list[KeyEvent]:
        """Wait until the last delivered event of each key has come (put or deleted), then return all
        events.
        """
        wanted = set(keys)

        def complete() -> bool:
            assert self.error is None or wanted <= {event.key for event in self.events}, (
                f"the watch ended: {self.error!r}"
            )
            return wanted <= {event.key for event in self.events}

        wait_until(complete, f"events of {wanted}")
        return self.events

    def wait_for_end(self) -> BaseException | None:
        """Wait until the iteration is over; returns the error that ended it, None when it was closed."""
        self._thread.join(30)
        assert not self._thread.is_alive(), "the watch does not end"
        return self.error

    def close(self) -> None:
        """Close the watch and wait for its thread."""
        self.watch.close()
        self.wait_for_end()
