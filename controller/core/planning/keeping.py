"""Deletes the records that keep a parent for a child, once they keep nothing any more.

They are deleted in transactions of their own, when many have gathered, or when there is nothing else to do.
"""

from __future__ import annotations

from itertools import islice

from controller.core.model.dependencies import AWAITS
from controller.core.model.model import Model
from controller.core.planning.draft import Limits
from controller.core.planning.plan import Plan, RecordChange
from controller.core.planning.transitions import Moment

MANY = 1000
EARLY_SECONDS = 60.0
"""For how long the record of a child that is not stored keeps its parent.

A child with many parents comes after some of its records.
"""


class Keeping:
    """See the module's docstring. Times are seconds since the epoch by the leader's clock."""

    def __init__(self, model: Model) -> None:
        self._dependencies = model.dependencies
        self._mod_of = model.mod_of
        # when each of the records whose child is not stored was seen, in that order
        self._seen_at: dict[tuple[str, str], float] = {}

    @property
    def is_due(self) -> bool:
        """Whether many records have gathered."""
        return len(self._dependencies.stale) >= MANY

    def next_due(self) -> float | None:
        """When the next record is too old to keep its parent for a child that has not come."""
        first = next(iter(self._seen_at.values()), None)
        return first + EARLY_SECONDS if first is not None else None

    def plan(self, moment: Moment, limits: Limits) -> Plan | None:
        """The next deletions; None if there are none."""
        early = self._dependencies.early
        if early or self._seen_at:
            self._seen_at = {pair: self._seen_at.get(pair, moment.now) for pair in early}
        late = (pair for pair, at in self._seen_at.items() if at + EARLY_SECONDS <= moment.now)
        pairs = [*islice(self._dependencies.stale, limits.operations - 1), *late][: limits.operations - 1]
        records = [RecordChange(AWAITS, pair, self._mod_of(AWAITS, pair), None) for pair in pairs]
        return Plan(moment.op, records=records) if records else None
