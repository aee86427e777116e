"""A model of the installation for whoever is no replica: loaded once, then kept current by a watch.

It may rest between what it takes in: see Follower.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager

from controller import bulkhead
from controller.clock import Clock
from controller.core.model.model import Model
from controller.core.model.records import RevisionWentBack
from controller.runtime import checks
from controller.runtime.follower import Follower
from controller.runtime.inbox import Inbox, Wake
from controller.store.base import Store
from controller.store.keys import Keys
from controller.store.mirror import Changed, Loaded, Mirror
from controller.views.freshness import Rule
from controller.views.replica import Check, Listener
from controller.views.replicas import leader_of

IDLE_SECONDS = 1.0
STUCK_SECONDS = 30.0  # without a turn of the loop, after which this process should be started again


class Standby:
    """See the module's docstring. Any thread may read; a thread of its own takes in what the store shows."""

    def __init__(
        self,
        store: Store,
        keys: Keys,
        clock: Clock,
        rule: Rule,
        silence_seconds: float,
        rest_seconds: float = 0.0,
    ) -> None:
        self._clock = clock
        self._rule = rule
        self._inbox = Inbox()
        self._mirror = Mirror()
        self._follower = Follower(store, keys, clock, self._inbox, silence_seconds, rest_seconds)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="standby", daemon=True)
        self._beat = clock.boottime()

    def start(self) -> None:
        """Begin to load."""
        self._thread.start()
        self._follower.start()

    def close(self) -> None:
        """End the watch and the thread; idempotent."""
        self._closing.set()
        self._follower.close()
        self._inbox.put(Wake())
        if self._thread.ident is not None:
            self._thread.join(5.0)

    def hurry(self) -> None:
        """See Follower."""
        self._follower.hurry()

    @property
    def revision(self) -> int:
        """All changes up to here are in the model; 0 until it is loaded."""
        return self._mirror.model.revision if self._mirror.loaded else 0

    @property
    def staleness_seconds(self) -> float:
        """Since the store was last heard from."""
        return self._follower.staleness()

    def reading(self) -> AbstractContextManager[Model]:
        """The model, held still until the context ends."""
        return self._mirror.reading()

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """As `ReadableReplica.subscribe`."""
        return self._mirror.subscribe(listener)

    def live(self) -> Check:
        """Whether this process should keep running."""
        return checks.loop(self._clock.boottime() - self._beat, STUCK_SECONDS)

    def ready(self) -> tuple[Check, ...]:
        """Whether callers should come here."""
        staleness = self.staleness_seconds
        with self.reading() as model:
            office, tasks, revision = leader_of(model), len(model.tasks), model.revision
        leader = office.told.id if office is not None else ""
        return (
            checks.model(tasks, revision, loaded=self._mirror.loaded),
            checks.store(staleness, self._rule.store, self._follower.last_error),
            checks.leader(leader, staleness, self._rule.store),
        )

    def _take(self, message: Loaded | Changed) -> None:
        try:
            self._mirror.take(message)
        except RevisionWentBack as error:
            self._follower.renounce(str(error))

    def _run(self) -> None:
        while not self._closing.is_set():
            messages = self._inbox.take(IDLE_SECONDS)
            self._beat = self._clock.boottime()
            with self._mirror.readers.lock:
                for message in messages:
                    if isinstance(message, Loaded | Changed):
                        self._take(message)
                self._mirror.model.sight(self._clock.wall())
                model = self._mirror.model
                caught, model.caught = model.caught, []
            for where, subject, error in caught:
                bulkhead.caught(where, error, subject=subject)
