"""A plan in the making: the ledgers that it would leave, and the room that one transaction has left."""

from __future__ import annotations

from typing import NamedTuple

from controller.core import codec
from controller.core.decide import Decision
from controller.core.plan import LedgerChange, Plan, TaskChange
from controller.core.records import Task
from controller.core.resources import ZERO, Vector
from controller.core.transitions import Moment
from controller.core.world import World

BYTES_PER_OPERATION = 160  # of keys and encoding around each value, generously


class Limits(NamedTuple):
    """What one transaction may hold; the store's."""

    operations: int
    bytes: int


class Draft:
    """See the module's docstring. Nothing of the model is changed by it."""

    def __init__(self, world: World, limits: Limits, moment: Moment) -> None:
        self._world = world
        self._limits = limits
        self.moment = moment
        self.plan = Plan(moment.op)
        self.changed: set[str] = set()
        self._held: dict[str, Vector] = {}
        self._admitted_to: dict[str, None] = {}
        self._operations = 1  # the term
        self._bytes = 0

    @property
    def is_full(self) -> bool:
        """Whether the largest usual change no longer fits."""
        return self._operations + 8 > self._limits.operations or self._bytes > self._limits.bytes // 2

    def held(self, pool: str) -> Vector:
        """What is held of a pool once this plan is persisted."""
        return self._held[pool] if pool in self._held else self._world.ledger(pool).held

    def add(self, task: Task, decision: Decision, admitted_to: str = "") -> bool:
        """Take the decision into the plan; False when it cannot be written now (plan full, ledger quarantined)."""
        before = task.status.hold if task.status is not None else ZERO
        after = decision.status.hold if decision.status is not None else ZERO
        pool = task.pool
        ledger_changes = before != after
        if ledger_changes and self._world.pool_is_frozen(pool):
            return False
        value = codec.encode_status(decision.status, task.extras) if decision.status is not None else None
        requests = tuple((kind, task.requests[kind][1]) for kind in decision.consumed)
        operations = (2 if decision.compares_spec else 1) + len(requests) + 2 * (ledger_changes and pool not in self._held)
        size = len(value or b"") + operations * BYTES_PER_OPERATION
        if self._operations + operations > self._limits.operations or (self._bytes and self._bytes + size > self._limits.bytes):
            return False
        if ledger_changes:
            # Invariant I1: the ledger changes by exactly what the hold changes by, in the same transaction.
            self._held[pool] = self.held(pool) - before + after
        if admitted_to:
            self._admitted_to[admitted_to] = None
        self._operations += operations
        self._bytes += size
        self.changed.add(task.id)
        self.plan.changes.append(
            TaskChange(
                task.id, task.status_mod, decision.status, value,
                task.spec_mod if decision.compares_spec else -1, requests, decision.removes,
            )
        )  # fmt: skip
        return True

    def finish(self) -> Plan:
        """The plan, with its ledgers and the pools whose capacity it relied on."""
        for pool, held in self._held.items():
            ledger = self._world.ledger(pool)
            value = codec.encode_ledger(held, self.moment.op, ledger.extras)
            self.plan.ledgers.append(LedgerChange(pool, ledger.mod, held, value))
        self.plan.pools = [(pool, self._world.pools[pool].mod) for pool in self._admitted_to]
        return self.plan
