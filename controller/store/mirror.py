"""A mirror: a model that is kept as the store is, first by the pages of a load, then by a watch.

A replica, the view of `tally dev` and a following client keep one. It is in the room of the store, which all
of them may use, since it takes in the store's pages and batches. The core knows neither of them, nor a lock.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple

from controller import bulkhead
from controller.core.model.model import Model
from controller.core.model.records import Change, RevisionWentBack
from controller.core.model.touched import NOTHING, Touched
from controller.store.base import Batch, Page
from controller.store.keys import Keys
from controller.store.records import changes_of, to_change
from controller.views.replica import Listener


class Loaded(NamedTuple):
    """A page of the store at one revision, from the first load or a reload.

    `fresh`: it is from another store.
    """

    changes: list[Change]
    revision: int
    fresh: bool = False
    is_first: bool = True
    is_last: bool = True

    @classmethod
    def of(cls, keys: Keys, page: Page, *, fresh: bool, is_first: bool) -> Loaded:
        """From a page of the store."""
        return cls(list(changes_of(keys, page.items)), page.revision, fresh, is_first, not page.more)


class Changed(NamedTuple):
    """Changes in revision order. All changes up to `revision` are in it, or came before."""

    changes: list[Change]
    revision: int

    @classmethod
    def of(cls, keys: Keys, batch: Batch) -> Changed:
        """From a batch of the watch."""
        return cls(
            [to_change(keys, event.key, event.item, event.mod) for event in batch.events], batch.revision
        )


class News(NamedTuple):
    """What a message brought that the model did not know yet."""

    touched: Touched
    changes: Sequence[Change] | None  # None: the model was loaded, and anything may have changed


class _Held(AbstractContextManager[Model]):
    """A model, and the lock that keeps it still: quicker than a generator, which counts for each change."""

    __slots__ = ("_lock", "_model")

    def __init__(self, lock: threading.RLock, model: Callable[[], Model]) -> None:
        self._lock = lock
        self._model = model

    def __enter__(self) -> Model:
        self._lock.acquire()
        try:
            return self._model()
        except BaseException:
            self._lock.release()
            raise

    def __exit__(self, *_: object) -> None:
        self._lock.release()


class Readers:
    """The readers of a model. `lock` keeps them out while it changes, and keeps it still while they read."""

    def __init__(self, *listeners: Listener) -> None:
        self.lock = threading.RLock()
        self._listeners: list[Listener] = [*listeners]

    def reading(self, model: Callable[[], Model]) -> AbstractContextManager[Model]:
        """The model, held still until the context ends."""
        return _Held(self.lock, model)

    def subscribe(self, listener: Listener, revision: Callable[[], int]) -> Callable[[], None]:
        """Tell `listener` of all changes from the present revision on. The returned call ends that."""
        with self.lock:
            self._listeners.append(listener)
            listener.reloaded(revision())

        def end() -> None:
            with self.lock:
                if listener in self._listeners:
                    self._listeners.remove(listener)

        return end

    def changed(self, changes: Sequence[Change], revision: int) -> None:
        """See Listener. The caller holds the model."""
        self._tell(lambda listener: listener.changed(changes, revision))

    def reloaded(self, revision: int) -> None:
        """See Listener. The caller holds the model."""
        self._tell(lambda listener: listener.reloaded(revision))

    def _tell(self, what: Callable[[Listener], None]) -> None:
        for listener in list(self._listeners):
            try:
                what(listener)
            # a listener's fault must not harm the writer: it is not called again
            except Exception as error:  # noqa: BLE001
                bulkhead.caught("listener", error)
                self._listeners.remove(listener)


class Mirror:
    """See the module's docstring. One thread calls `take`; `reading` and `subscribe` are for any thread."""

    def __init__(self, model: Model | None = None, listeners: Sequence[Listener] = ()) -> None:
        self.model = model if model is not None else Model()
        self.readers = Readers(*listeners)
        self.loaded = model is not None  # a whole snapshot: nothing is concluded from a part of one
        self._is_refuted = False  # then the model is of another history, and nothing that follows fits it

    def take(self, message: Loaded | Changed) -> News:
        """Bring the model up to the message, and tell the listeners.

        Raises RevisionWentBack if the message is of another history than the model. Nothing is taken in from
        then on but a load that is `fresh`.
        """
        with self.readers.lock:
            if self._is_refuted and not (isinstance(message, Loaded) and message.fresh):
                return News(NOTHING, ())
            return self._load(message) if isinstance(message, Loaded) else self._apply(message)

    def refute(self) -> None:
        """The store contradicts the model, which is of another history: wait for a load that is `fresh`."""
        self._is_refuted, self.loaded = True, False

    def reading(self) -> AbstractContextManager[Model]:
        """The model, held still until the context ends."""
        return self.readers.reading(lambda: self.model)

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """As `ReadableReplica.subscribe`."""
        return self.readers.subscribe(listener, lambda: self.model.revision)

    def _load(self, message: Loaded) -> News:
        if message.fresh:
            self.model, self._is_refuted = Model(), False
        collects = gc.isenabled()
        # a page is tens of thousands of objects without a cycle; the search for cycles took a tenth of a load
        gc.disable()
        try:
            touched = self.model.load(
                message.changes, message.revision, is_first=message.is_first, is_last=message.is_last
            )
        except RevisionWentBack:
            self.refute()
            raise
        finally:
            if collects:
                gc.enable()
        self.loaded = message.is_last
        if self.loaded:
            self.readers.reloaded(message.revision)
        return News(touched, None)

    def _apply(self, message: Changed) -> News:
        news = [change for change in message.changes if self.model.apply_one(change)]
        self.model.advance_revision(message.revision)
        touched = self.model.take_touched()
        self.readers.changed(message.changes, message.revision)
        return News(touched, news)
