"""Observes the engine during one tenure: a full list at once and then regularly, and a watch in between."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

import structlog

from controller import bulkhead
from controller.clock import Clock
from controller.core.model.task import Observation
from controller.core.planning.events import EngineSilent, Listed, Observed
from controller.election.term import Leadership
from controller.engine.base import Engine, EngineError, EngineUnavailable, all_checked
from controller.runtime.inbox import Inbox
from controller.runtime.standing import Standing

SILENT_PAUSE_SECONDS = 5.0  # longest pause after a failed list: nothing is admitted until the next

log = structlog.get_logger(__name__)


class Observer:
    """The eyes of one tenure. The watch begins before the first list, so that nothing is missed."""

    def __init__(
        self,
        engine: Engine,
        leadership: Leadership,
        standing: Standing,
        inbox: Inbox,
        clock: Clock,
        relist_seconds: float,
    ) -> None:
        epoch = leadership.epoch
        self._engine = engine
        self._leadership = leadership
        self._standing = standing
        self._ended: dict[int, Observation] = {}  # by id(): those of the last list, which are valid
        self._others: Mapping[str, Sequence[str]] = {}
        self._epoch = epoch
        self._inbox = inbox
        self._clock = clock
        self._relist_seconds = relist_seconds
        self._closed = threading.Event()
        self._relist = threading.Event()
        self._threads = [
            threading.Thread(target=self._watch, name=f"engine-watch-{epoch}", daemon=True),
            threading.Thread(target=self._list, name=f"engine-list-{epoch}", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def relist(self) -> None:
        """Request a full list now, not at the usual interval."""
        self._relist.set()

    def end(self) -> None:
        """Let both threads end, without waiting.

        A list under way may take time, and its result belongs to a past epoch.
        """
        self._closed.set()
        self._relist.set()

    def ended(self) -> bool:
        """Whether both threads have ended."""
        return not any(thread.is_alive() for thread in self._threads)

    def _watch(self) -> None:
        def sink(observation: Observation) -> None:
            for one in all_checked([observation]):
                self._inbox.put(Observed(self._epoch, one))

        while not self._closed.is_set():
            try:
                self._engine.bind(self._standing.installation, claim=True)
                self._engine.watch(sink, self._closed)
            except Exception as error:  # noqa: BLE001  # see _log
                self._log("engine watch ended", error)
                self._relist.set()  # a list finds what happened meanwhile
                self._closed.wait(error.retry_after if isinstance(error, EngineUnavailable) else 1.0)

    def _list(self) -> None:
        pause = 0.0
        while not self._closed.is_set():
            began = self._clock.now()
            try:
                self._inbox.put(Listed(self._epoch, self._checked(self._believable_list()), began))
                pause = self._relist_seconds
            # whatever the error, nothing was listed, and nothing is concluded
            except Exception as error:  # noqa: BLE001
                self._inbox.put(EngineSilent(self._epoch, str(error) or type(error).__name__))
                pause = min(max(1.0, 2 * pause), self._relist_seconds, SILENT_PAUSE_SECONDS)
                self._log("engine cannot be listed", error, retry_in_seconds=pause)
            self._relist.wait(pause)
            self._relist.clear()

    def _believable_list(self) -> list[Observation]:
        """The engine's list, if the engine is the recorded one before and after it.

        The list of another engine proves no absence. Raises EngineError; the term has ended if the engine is
        another one.
        """
        self._standing.check_engine(self._engine, self._leadership)
        self._engine.bind(self._standing.installation, claim=True)
        observations = self._engine.attempts()
        self._standing.check_engine(self._engine, self._leadership)
        others = self._engine.others()
        if others != self._others:
            self._others = others
            counts = {mark or "(none)": len(names) for mark, names in others.items()}
            log.warning(
                "the engine has attempts of other installations with this cluster's name: left alone",
                attempts=counts,
            )
        return observations

    def _checked(self, seen: list[Observation]) -> list[Observation]:
        """The observations, checked. Those of ended attempts, which are most, are checked once: they stay."""
        checked, before = list[Observation](), self._ended
        for observation in seen:
            if id(observation) in before:
                checked.append(observation)
            else:
                checked += all_checked([observation])
        self._ended = {id(each): each for each in checked if each.stopped}
        return checked

    @staticmethod
    def _log(what: str, error: Exception, **facts: object) -> None:
        """Log an error; count it if no engine foresees it. It ends a look at the engine, not the thread."""
        if not isinstance(error, EngineError):
            bulkhead.caught("engine", error)
        log.warning(what, error=str(error), **facts)
