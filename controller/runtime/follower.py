"""Feeds the model: loads the store once, then watches it; loads it again if the history has a gap.

A follower that rests is current now and then only: when it is hurried, and each time it has rested. etcd does
work for each watch at each write, while whoever wrote waits for the answer: a follower that rests costs the
others nothing meanwhile.
"""

from __future__ import annotations

import threading

import structlog

from controller import bulkhead
from controller.clock import Clock
from controller.runtime.inbox import Inbox
from controller.store.base import ClusterChanged, Compacted, Store, StoreError, Watch
from controller.store.keys import Keys
from controller.store.mirror import Changed, Loaded

PAGE_SECONDS = 60.0  # for each page of a load
PAUSE_SECONDS = 1.0  # before another load
_CAUSES = {Compacted: "compacted", ClusterChanged: "cluster-changed"}

log = structlog.get_logger(__name__)


class Follower:
    """Runs in a thread of its own until `close`.

    `last_contact` is when the store was last heard from (boottime).
    """

    def __init__(
        self,
        store: Store,
        keys: Keys,
        clock: Clock,
        inbox: Inbox,
        silence_seconds: float,
        rest_seconds: float = 0.0,
    ) -> None:
        self._store = store
        self._keys = keys
        self._clock = clock
        self._inbox = inbox
        self._silence_seconds = silence_seconds
        self._rest_seconds = rest_seconds
        self._hurried = threading.Event()
        self._closed = threading.Event()
        self._watch: Watch | None = None
        self._era = 0  # of the store that was loaded last
        self._thread = threading.Thread(target=self._run, name="follower", daemon=True)
        self._started = clock.boottime()
        self.last_contact: float | None = None
        self.last_error = ""
        self.reloads: dict[str, int] = {}  # cause → count

    def start(self) -> None:
        """Begin to load."""
        self._thread.start()

    def close(self) -> None:
        """End the watch and the thread."""
        self._closed.set()
        self._hurried.set()
        watch = self._watch
        if watch is not None:
            watch.close()
        self._thread.join(5.0)

    def hurry(self) -> None:
        """End a rest: what has changed until now is taken in soon."""
        self._hurried.set()

    def renounce(self, why: str) -> None:
        """The store contradicts what it has shown: load it again, as another one. See Store.renounce."""
        log.warning("etcd holds another history than before: all is loaded again", error=why)
        self._store.renounce(why)
        watch = self._watch
        if watch is not None:
            watch.close()

    def staleness(self) -> float:
        """Seconds since the store was last heard from."""
        contact = self.last_contact
        return self._clock.boottime() - (contact if contact is not None else self._started)

    def _run(self) -> None:
        while not self._closed.is_set():
            try:
                self._load_and_watch()
            except StoreError as error:
                self._note(_CAUSES.get(type(error), "unavailable"), error)
                # a store that fails every watch must not be stormed with loads
                self._closed.wait(PAUSE_SECONDS)

            except Exception as error:  # noqa: BLE001  # the model is loaded again
                bulkhead.caught("follower", error)
                self.last_error = f"{type(error).__name__}: {error}"
                self.reloads["error"] = self.reloads.get("error", 0) + 1
                self._closed.wait(PAUSE_SECONDS)

    def _load_and_watch(self) -> None:
        revision = self._load()
        while not self._closed.is_set():
            self._hurried.clear()
            revision = self._take_in(revision)
            if self._rest_seconds:
                self._hurried.wait(self._rest_seconds)

    def _take_in(self, after: int) -> int:
        """Hand over what changes, until the watch ends. Returns the last revision that was handed over."""
        revision = after
        watch = self._store.watch(
            self._keys.prefix,
            after=after,
            silence_seconds=self._silence_seconds,
            once=self._rest_seconds > 0,
        )
        self._watch = watch
        try:
            if self._closed.is_set():
                return revision
            for batch in watch:
                self._heard()
                self._inbox.put(Changed.of(self._keys, batch))
                revision = batch.revision
        finally:
            watch.close()
        self._heard()  # it has ended by itself: the store has answered
        return revision

    def _load(self) -> int:
        """Hand over all that the store holds, page by page: the model takes in one while the next is read."""

        def deadline() -> float:
            return self._clock.boottime() + PAGE_SECONDS

        is_first, revision = True, 0
        for page in self._store.pages(self._keys.prefix, deadline=deadline):
            self._heard()
            revision = page.revision
            # Another cluster, or a restored one: the revisions that we know mean nothing there (fault 24).
            is_another, self._era = page.era != self._era, page.era
            loaded = Loaded.of(self._keys, page, fresh=is_another, is_first=is_first)
            if not self._inbox.put_page(loaded, self._closed.is_set):
                break
            is_first = False
        return revision

    def _heard(self) -> None:
        self.last_contact = self._clock.boottime()
        self.last_error = ""

    def _note(self, cause: str, error: StoreError) -> None:
        self.last_error = str(error)
        self.reloads[cause] = self.reloads.get(cause, 0) + 1
        log.warning("model is loaded again", cause=cause, error=str(error))
