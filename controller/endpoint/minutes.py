"""The last hour, by the API; and who looks at the queues at the end of each minute, for it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager

from starlette.responses import Response

from controller import bulkhead
from controller.core.model.model import Model
from controller.endpoint.api import ReadApi
from controller.endpoint.documents import encode
from controller.endpoint.route import Ask
from controller.views.history import MINUTE, LastHour


def history(api: ReadApi, _: Ask) -> Response:
    """What happened in the last hour."""
    with api.view.reading() as model:
        found = api.hour.view(model)
    return Response(encode(found), media_type="application/json")


class Minutes:
    """A thread of its own between `start` and `close`. It holds the model for a moment each minute."""

    def __init__(
        self,
        hour: LastHour,
        reading: Callable[[], AbstractContextManager[Model]],
        now: Callable[[], float],
    ) -> None:
        self._hour = hour
        self._reading = reading
        self._now = now
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tally-minutes", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def close(self) -> None:
        """End, at once."""
        self._closed.set()

    def _run(self) -> None:
        minute = int(self._now() // MINUTE)
        while not self._closed.wait(max(0.01, (minute + 1) * MINUTE - self._now())):
            if (now := int(self._now() // MINUTE)) > minute:
                self._look(now - 1)
            minute = now

    def _look(self, minute: int) -> None:
        try:
            with self._reading() as model:
                self._hour.look(model, minute)
        except Exception as error:  # noqa: BLE001  # what is kept for people must not end for good
            bulkhead.caught("minutes", error)
