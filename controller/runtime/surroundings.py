"""The surroundings that all parts of a leading replica share, as one value."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from controller.clock import Clock
from controller.engine.base import Engine
from controller.runtime.inbox import Inbox
from controller.runtime.instruments import UNCOUNTED, Instruments
from controller.runtime.options import ReplicaOptions
from controller.store.base import Store
from controller.store.keys import Keys
from controller.store.mirror import Changed


def _unexpected(message: Changed) -> None:
    raise AssertionError(f"nobody takes in {message}")


@dataclass(frozen=True, slots=True)
class Surroundings:
    """See the module's docstring. `changing` guards the model against readers while it changes.

    `take_in` brings the model up to what the store has shown.
    """

    store: Store
    engine: Engine
    keys: Keys
    clock: Clock
    inbox: Inbox
    options: ReplicaOptions
    changing: Callable[[], AbstractContextManager[object]]
    instruments: Instruments = UNCOUNTED  # notified of every transition that was persisted
    take_in: Callable[[Changed], None] = _unexpected
