"""The part of the model that fills in the capacities of pools that follow nodes."""

from __future__ import annotations

import msgspec

from controller.core.model.capacities import ObservedCapacity, decode_capacity
from controller.core.model.compartments import Compartments
from controller.core.model.records import Change, PoolRecord

NOTHING_OBSERVED = ObservedCapacity()


class FollowingPools(Compartments):
    """See the module's docstring. `Model` is the whole."""

    def __init__(self) -> None:
        super().__init__()
        self.following: dict[str, None] = {}  # the pools whose capacity follows something
        # what was observed for these; the last that could be read, if it was damaged since
        self.capacities: dict[str, ObservedCapacity] = {}

    def _apply_capacity(self, pool: str, change: Change) -> None:
        if change.value is None:
            self.capacities.pop(pool, None)
        else:
            self.capacities[pool] = decode_capacity(change.value)
        self._note_capacity(pool)

    def _note_capacity(self, name: str) -> None:
        """Fill in the capacity of a pool that follows something. Until that was seen, it has nothing."""
        record = self.pools.get(name)
        if record is None or record.definition.capacity_from is None:
            self.following.pop(name, None)
            return
        self.following[name] = None
        observed, stored = self.capacities.get(name, NOTHING_OBSERVED), record.definition
        pool = msgspec.structs.replace(stored, capacity=observed.amounts)
        self.pools[name] = PoolRecord(pool, record.mod, stored)
