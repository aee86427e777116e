"""One term of this replica as leader: what is built when it begins, and torn down whole when it ends.

Nothing of a tenure outlives it, and nothing of an earlier one enters it: regained leadership is a new start.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import structlog

from controller.clock import Clock
from controller.core.planner import Planner, Term
from controller.core.task import Observation
from controller.core.world import World
from controller.election.term import Leadership
from controller.engine.base import Engine
from controller.runtime.actuator import Actuator
from controller.runtime.inbox import Inbox
from controller.runtime.instruments import UNCOUNTED, Instruments
from controller.runtime.observer import Observer, Standing
from controller.runtime.options import ReplicaOptions
from controller.runtime.reconciler import DEFAULT_LIMITS, Reconciler
from controller.store.base import Store
from controller.store.keys import Keys

TEARDOWN_SECONDS = 1.0

log = structlog.get_logger(__name__)


class Tenure:
    """See the module's docstring. Built only once the model has applied the term's own revision."""

    def __init__(
        self,
        world: World,
        leadership: Leadership,
        standing: Standing,
        store: Store,
        engine: Engine,
        keys: Keys,
        clock: Clock,
        inbox: Inbox,
        options: ReplicaOptions,
        changing: Callable[[], AbstractContextManager[object]],
        instruments: Instruments = UNCOUNTED,
    ) -> None:
        clock.anchor()
        self._clock = clock
        self.leadership = leadership
        self.installation = standing.installation.id
        self._inbox = inbox
        self._changing = changing
        self._actuator = Actuator(engine, leadership, inbox, clock, options.workers)
        self._observer = Observer(engine, leadership, standing, inbox, clock, options.relist_seconds)
        term = Term(leadership.revision, leadership.epoch, options.identity["instance"], keys.cluster, self.installation)
        planner = Planner(world, term, DEFAULT_LIMITS)
        self._planner = planner
        self.reconciler = Reconciler(
            world,
            planner,
            leadership,
            store,
            keys,
            clock,
            self._actuator.perform,
            changing,
            instruments,
            self._observer.relist,
            self._receive,
        )

    @property
    def engine_answers(self) -> bool:
        """Whether the engine answered the last list."""
        return self._planner.engine_answers

    @property
    def engine_error(self) -> str:
        """What the engine said when it was listed last, if that was no list."""
        return self.reconciler.engine_error

    @property
    def engine_age_seconds(self) -> float | None:
        """Seconds since the engine answered or told something, None when it has not in this term."""
        heard_at = self.reconciler.engine_heard_at
        return None if heard_at is None else max(0.0, self._clock.boottime() - heard_at)

    @property
    def engine_listed(self) -> bool:
        """Whether the engine was listed once: the point from which this leader acts."""
        return self._planner.engine_listed

    def observations(self) -> list[Observation]:
        """What this leader knows of attempts; the caller holds the model."""
        return self._planner.observations()

    def _receive(self) -> None:
        """While a commit is in flight: what the engine has said. What the store says waits until the model shows the commit."""
        with self._changing():
            for message in self._inbox.take_from_engine():
                self.reconciler.handle(message)

    def close(self) -> bool:
        """Tear everything down; tells whether it was done within TEARDOWN_SECONDS. The term must have ended."""
        self.reconciler.close()
        self._observer.end()
        acted = self._actuator.close(TEARDOWN_SECONDS)
        if not self._observer.ended():
            log.info("the engine's watch has not ended yet; what it still says is of a past term", epoch=self.leadership.epoch)
        return acted
