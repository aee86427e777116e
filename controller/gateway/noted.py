"""Calls to the store that note at which revision each thread wrote last."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from controller.client.calls import Calls
from controller.clock import Clock
from controller.store.base import Committed, Refused, Store, Transaction
from controller.store.keys import Keys

V = TypeVar("V")


class NotedCalls(Calls):
    """See the module's docstring."""

    def __init__(self, store: Store, keys: Keys, clock: Clock, timeout_seconds: float) -> None:
        super().__init__(store, keys, clock, timeout_seconds)
        self._written = threading.local()

    def noting(self, what: Callable[[], V]) -> tuple[V, int]:
        """The result, and the revision of this thread's last commit on the way to it; 0 for none."""
        self._written.revision = 0
        return what(), self._written.revision

    def commit(self, transaction: Transaction) -> Committed | Refused:
        """See Calls."""
        return self._note(super().commit(transaction))

    def commit_patiently(self, transaction: Transaction) -> Committed | Refused:
        """See Calls."""
        return self._note(super().commit_patiently(transaction))

    def _note(self, answer: Committed | Refused) -> Committed | Refused:
        self._written.revision = answer.revision
        return answer
