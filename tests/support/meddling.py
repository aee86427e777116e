"""A store between a part and the real one, which a test can make fail at any call: `meddled.on["commit"] =
…`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from controller.store.base import OutcomeUnknown, StoreUnavailable, Transaction
from controller.store.memory import MemoryPending

Call = Callable[..., Any]


class MeddledStore:
    """Passes every call on, or to what `on` has for it, which gets the real call first and then its
    arguments.
    """

    def __init__(self, store: Any) -> None:
        self.store = store
        self.on: dict[str, Call] = {}
        self.calls: list[str] = []

    def begin(self, transaction: Transaction, *, deadline: float) -> Any:
        """What `commit` is made to do, when the result is asked for."""
        if "commit" not in self.on:
            return self.store.begin(transaction, deadline=deadline)
        return MemoryPending(lambda: self.commit(transaction, deadline=deadline))

    def __getattr__(self, name: str) -> Any:
        real = getattr(self.store, name)
        if not callable(real):
            return real

        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls.append(name)
            meddle = self.on.get(name)
            return meddle(real, *args, **kwargs) if meddle is not None else real(*args, **kwargs)

        return call


def unanswered(_real: Call, *_args: Any, **_kwargs: Any) -> Any:
    """The request never arrives."""
    raise StoreUnavailable("no answer (the test's doing)")


def answer_lost(real: Call, *args: Any, **kwargs: Any) -> Any:
    """The request is carried out, and nobody hears of it until the deadline."""
    real(*args, **kwargs)
    raise OutcomeUnknown("no answer (the test's doing)")
