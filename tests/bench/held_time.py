"""What became of a pool's capacity, from the store's history: each unit of it, each second.

All that was held is told by the statuses as they were written, in order. `starting` is from an admission to
the start, `useful` from there to the end as the leader recorded it, `redone` what preempted attempts had run
for, `stopping` from the mark to the proof of stop. What was not held is idle: `claimed` while the pool had
claims, `waited` while tasks waited and it had none, `unasked` while nothing waited.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from controller.core.model import codec
from controller.core.model.lifecycle import State
from controller.core.model.task import Status, StopReason
from controller.store.base import KeyEvent
from controller.store.keys import Keys

PARTS = ("useful", "starting", "redone", "stopping", "claimed", "waited", "unasked")


class Span(NamedTuple):
    """What so many units were from one moment to another (seconds since the epoch)."""

    part: str
    begin: float
    end: float
    units: float
    of: str  # the task or the pool


@dataclass
class _Pool:
    at: float = 0.0
    held: float = 0.0
    waiting: int = 0
    claims: int = 0


@dataclass
class HeldTime:
    """See the module's docstring. `capacity` says of each pool that is counted how much `resource` it has."""

    keys: Keys
    resource: str
    capacity: Mapping[str, float]
    spans: list[Span] = field(default_factory=list)
    preempted: int = 0  # attempts
    _statuses: dict[str, Status] = field(default_factory=dict)
    _marked: dict[str, float] = field(default_factory=dict)
    _pools: dict[str, _Pool] = field(default_factory=dict)

    def take(self, events: Iterable[KeyEvent]) -> None:
        """Count these changes of the store."""
        for event in events:
            parsed = self.keys.parse(event.key)
            if parsed is None:
                continue
            kind, names = parsed
            if kind == "claims" and names[0] in self.capacity:
                pool = self._pools.setdefault(names[0], _Pool())
                if event.item is None:
                    pool.claims -= 1
                elif event.item.version == 1:
                    pool.claims += 1
            elif kind == "tasks" and event.item is not None and event.item.version == 1:
                stored = codec.decode_spec(names[0], event.item.value)
                if stored.spec.pool in self.capacity:
                    self._pass(stored.spec.pool, stored.submitted_at).waiting += 1
            elif kind == "states" and event.item is not None:
                self._step(names[0], codec.decode_status(event.item.value)[0])

    def totals(self, begin: float = 0.0, end: float = float("inf")) -> dict[str, float]:
        """Unit-seconds by part, within that time."""
        found = dict.fromkeys(PARTS, 0.0)
        for span in self.spans:
            found[span.part] += span.units * max(0.0, min(span.end, end) - max(span.begin, begin))
        return found

    def _step(self, task_id: str, status: Status) -> None:
        before = self._statuses.get(task_id)
        self._statuses[task_id] = status
        now = codec.decode_history(status)[-1].at
        if status.stopping and not (before and before.stopping):
            self._marked[task_id] = now
        was, holds = before is not None and before.is_holding, status.is_holding
        if was == holds:
            return
        if status.pool not in self.capacity:
            return
        pool = self._pass(status.pool, now)
        units = (status if holds else before).hold.get(self.resource) / 1000  # type: ignore[union-attr]
        pool.held += units if holds else -units
        if holds:
            pool.waiting -= 1
            return
        assert before is not None
        pool.waiting += not status.is_finished
        self.spans += self._spans(task_id, before, status, now, units)

    def _spans(
        self, task_id: str, before: Status, status: Status, now: float, units: float
    ) -> Iterator[Span]:
        admitted, marked = before.admitted_at or now, self._marked.pop(task_id, now)
        started = before.started_at or marked
        if status.state is State.WAITING_RETRY and before.stopping == StopReason.PREEMPTED:
            self.preempted += 1
            yield Span("redone", admitted, marked, units, task_id)
            yield Span("stopping", marked, now, units, task_id)
            return
        yield Span("starting", admitted, started, units, task_id)
        yield Span("useful", started, now, units, task_id)

    def _pass(self, name: str, now: float) -> _Pool:
        """The pool at that moment; what was idle until then is counted."""
        pool = self._pools.setdefault(name, _Pool())
        if pool.at and now > pool.at:
            part = "claimed" if pool.claims else "waited" if pool.waiting else "unasked"
            self.spans.append(Span(part, pool.at, now, self.capacity[name] - pool.held, name))
        pool.at = max(now, pool.at)
        return pool
