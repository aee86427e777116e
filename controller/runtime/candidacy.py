"""Whether this replica may lead: its engine must be the recorded one (see `core.model.installation`).

The engine is asked who it is every few seconds, in a thread of its own, so that neither the election nor the
control loop ever waits for it. An engine that is silent is taken for what it was when it answered last:
silence is no evidence, and a leader stays. A tenure asks again around each list, before it believes what the
list lacks.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import structlog

from controller.core.model.installation import EngineIdentity, difference
from controller.core.model.model import Model
from controller.engine.base import Engine, EngineError

ASK_SECONDS = 5.0

log = structlog.get_logger(__name__)


class Candidacy:
    """Runs in a thread of its own until `close`.

    `told` is what the engine said last, None before it said anything.
    """

    def __init__(self, engine: Engine, changed: Callable[[], None]) -> None:
        self._engine = engine
        self._changed = changed
        self._error = ""
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="candidacy", daemon=True)
        self.told: EngineIdentity | None = None

    def start(self) -> None:
        """Begin to ask."""
        self._thread.start()

    def close(self) -> None:
        """End the thread, without waiting for an engine that is silent."""
        self._closed.set()

    def why_not(self, model: Model, leading_as: str = "") -> str:
        """Why this replica must not lead (or not go on, as the installation that it leads as), "" when it
        may.

        As far as the model and the engine have told.
        """
        told, record, installation = self.told, model.engine, model.installation
        if told is None:
            return f"the engine has not told yet who it is: {self._error or 'it was asked just now'}"
        if leading_as and installation is not None and installation.id != leading_as:
            return f"the installation's id was changed, to {installation.id}"
        if record is None:
            return ""
        if installation is not None and record.installation != installation.id:
            return (
                f"the engine is recorded for installation {record.installation}, and this one is"
                f" {installation.id}"
            )
        return difference(record.engine, told)

    def _run(self) -> None:
        while not self._closed.is_set():
            try:
                told = self._engine.identity()
            except EngineError as error:
                if str(error) != self._error:
                    log.warning("the engine does not tell who it is", error=str(error))
                self._error = str(error)
            else:
                self._error = ""
                if told != self.told:
                    self.told = told
                    self._changed()
            self._closed.wait(ASK_SECONDS)
