"""Has the engine show its nodes during one tenure, while the capacity of a pool follows them."""

from __future__ import annotations

import threading

import structlog

from controller import bulkhead
from controller.core.model.nodes import NodeRoom
from controller.core.planning.events import NodesSeen, NodesUnseen
from controller.election.term import Leadership
from controller.engine.base import Engine, EngineError, EngineUnavailable, Surveying
from controller.runtime.inbox import Inbox
from controller.runtime.standing import Standing

AGAIN_SECONDS = 5.0  # after an error that no engine foresees

log = structlog.get_logger(__name__)


class Surveyor:
    """Sees nothing until it is wanted, and costs nothing until then. It goes on until its tenure ends."""

    def __init__(self, engine: Engine, leadership: Leadership, standing: Standing, inbox: Inbox) -> None:
        self._engine = engine
        self._leadership = leadership
        self._standing = standing
        self._inbox = inbox
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def want(self) -> None:
        """Begin, if that has not been done."""
        if self._thread is None and not self._closed.is_set():
            name = f"node-survey-{self._leadership.epoch}"
            self._thread = threading.Thread(target=self._run, name=name, daemon=True)
            self._thread.start()

    def end(self) -> None:
        """Let the thread end, without waiting: what it still tells is of a past epoch."""
        self._closed.set()

    def _run(self) -> None:
        while not self._closed.is_set():
            pause = AGAIN_SECONDS
            try:
                self._standing.check_engine(self._engine, self._leadership)
                self._engine.bind(self._standing.installation, claim=True)
                if not isinstance(self._engine, Surveying):
                    self._unseen(f"the engine {self._engine.name} has no nodes")
                    return
                self._engine.survey(self._seen, self._unseen, self._closed)
            except Exception as error:  # noqa: BLE001  # counted, and told; what was seen before stays
                if not isinstance(error, EngineError):
                    bulkhead.caught("engine", error)
                log.warning("the survey of nodes ended", error=str(error))
                self._unseen(str(error) or type(error).__name__)
                pause = error.retry_after if isinstance(error, EngineUnavailable) else pause
            self._closed.wait(pause)

    def _seen(self, nodes: tuple[NodeRoom, ...]) -> None:
        self._inbox.put(NodesSeen(self._leadership.epoch, nodes))

    def _unseen(self, why: str) -> None:
        self._inbox.put(NodesUnseen(self._leadership.epoch, why))
