"""Whether this replica may lead: its engine must be the recorded one, and its release must know each feature
that is on (see `core.model.installation`).

A thread of its own asks the engine for its identity every few seconds, so that neither the election nor the
control loop ever waits for the engine. A silent engine counts as the one that it was when it last answered:
silence is no evidence, and a leader stays. A tenure asks again before and after each list, before it believes
what the list lacks.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import structlog

from controller import bulkhead
from controller.core.model.installation import EngineIdentity, difference
from controller.core.model.model import Model
from controller.engine.base import Engine, EngineError

ASK_SECONDS = 5.0

log = structlog.get_logger(__name__)


class Candidacy:
    """Runs in a thread of its own until `close`.

    `told` is the engine's last answer; None before the first.
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
        """End the thread, without waiting for a silent engine."""
        self._closed.set()

    def why_not(self, model: Model, leading_as: str = "") -> str:
        """Why this replica must not lead, as far as the model and the engine have told; "" if it may.

        `leading_as` is the id of its installation, if it leads now.
        """
        told, record, installation = self.told, model.engine, model.installation
        if told is None:
            return f"the engine has not yet identified itself: {self._error or 'no answer yet'}"
        if leading_as and installation is not None and installation.id != leading_as:
            return f"the installation's id was changed to {installation.id}"
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
                    log.warning("the engine does not identify itself", error=str(error))
                self._error = str(error)
            except Exception as error:  # noqa: BLE001  # counted; an answer may be anything
                bulkhead.caught("candidacy", error)
                self._error = f"an unexpected {type(error).__name__}: see the log"
            else:
                self._error = ""
                if told != self.told:
                    self.told = told
                    self._changed()
            self._closed.wait(ASK_SECONDS)
