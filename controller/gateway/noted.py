"""Calls to the store that note at which revision each thread wrote last, and for which call of a caller."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from controller.client.calls import Calls
from controller.clock import Clock
from controller.core.model.op import Op
from controller.store.base import Committed, KeyValue, Refused, Store, Transaction
from controller.store.keys import Keys

V = TypeVar("V")


class NotedCalls(Calls):
    """See the module's docstring."""

    def __init__(self, store: Store, keys: Keys, clock: Clock, timeout_seconds: float) -> None:
        super().__init__(store, keys, clock, timeout_seconds)
        self._written = threading.local()

    def noting(self, what: Callable[[], V], call: str = "") -> tuple[V, int]:
        """The result, and the revision of this thread's last commit on the way to it; 0 for none.

        `call` is the same for each copy of a call that is sent again, and for no other call; "": unknown.
        """
        self._written.revision, self._written.call = 0, call
        try:
            return what(), self._written.revision
        finally:
            self._written.call = ""

    def new_op(self) -> Op:
        """See Calls. It begins with the call, so that a copy of the call knows what it has written."""
        call, op = getattr(self._written, "call", ""), super().new_op()
        return Op(f"{call}/{op}") if call else op

    def has_written(self, item: KeyValue) -> bool:
        """See Calls."""
        call = getattr(self._written, "call", "")
        return bool(call) and f'"op":"{call}/'.encode() in item.value

    def commit(self, transaction: Transaction) -> Committed | Refused:
        """See Calls."""
        return self._note(super().commit(transaction))

    def commit_patiently(self, transaction: Transaction) -> Committed | Refused:
        """See Calls."""
        return self._note(super().commit_patiently(transaction))

    def _note(self, answer: Committed | Refused) -> Committed | Refused:
        self._written.revision = answer.revision
        return answer
