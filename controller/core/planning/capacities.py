"""Plans for the records of what nodes give to pools: each change with its cause.

Each in a transaction that compares the pool's definition. A pool's record is written at once if it has none,
and then every PAUSE_SECONDS at most, however often nodes change.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from controller.core.model import capacities
from controller.core.model.capacities import CHANGES_KEPT, WHY_LIMIT, CapacityChange, ObservedCapacity
from controller.core.model.demand import pool_template
from controller.core.model.model import Model
from controller.core.model.nodes import Counted, NodeRoom, count, tolerations_of
from controller.core.model.printable import counted
from controller.core.planning.draft import Limits
from controller.core.planning.intake import Intake
from controller.core.planning.plan import Plan, RecordChange
from controller.core.planning.transitions import Moment

PAUSE_SECONDS = 10.0
UNSEEN_SECONDS = 30.0
"""For so long nodes may be out of sight until that is recorded: watches break, and continue."""

_NAMED = 3  # nodes in one cause

Nodes = tuple[NodeRoom, ...]


class _Looked(NamedTuple):
    """What a pool's record was compared with last."""

    nodes: Nodes | None
    trouble: str
    mods: tuple[int, int]  # of the pool and of the record


class Capacities:
    """See the module's docstring. Times are seconds since the epoch by the leader's clock."""

    def __init__(self, model: Model, intake: Intake) -> None:
        self._model = model
        self._intake = intake
        self._counted: dict[str, Counted] = {}  # pool → what its record was made from, in this term
        self._looked: dict[str, _Looked] = {}
        self._paused: dict[str, float] = {}  # pools with a change that is due at a time, and not before
        self._unseen: dict[str, float] = {}  # pools whose nodes are out of sight for too long at a time
        self._written: dict[str, float] = {}  # when, in this term

    def is_due(self, now: float) -> bool:
        """Whether a record may have to change."""
        if not (self._model.following or self._model.capacities):
            return False
        return any(self._is_due(pool, now) for pool in self._pools())

    def next_due(self) -> float | None:
        """When time alone makes one due; None for never."""
        dues = (*self._paused.items(), *self._unseen.items())
        return min((at for pool, at in dues if pool in self._pools()), default=None)

    def plan(self, moment: Moment, limits: Limits) -> Plan | None:
        """The next changes; None if there are none."""
        if not (self._model.following or self._model.capacities):
            return None
        plan, size = Plan(moment.op), 0
        for pool in self._pools():
            if not self._is_due(pool, moment.now):
                continue
            if 2 * len(plan.records) + 4 > limits.operations or size > limits.bytes // 2:
                break
            change = self._change(pool, moment)
            if change is not None:
                size += len(change.value or b"")
                plan.records.append(change)
                plan.compared.append(("pools", (pool,), self._model.mod_of("pools", (pool,))))
        return plan if plan.records else None

    # -- details

    def _pools(self) -> list[str]:
        return [*self._model.following, *(each for each in self._model.capacities if not self._follows(each))]

    def _follows(self, pool: str) -> bool:
        return pool in self._model.following

    def _is_due(self, pool: str, now: float) -> bool:
        if self._follows(pool):
            if pool in self._paused:
                return self._paused[pool] <= now
            if pool in self._unseen and self._unseen[pool] <= now:
                return True
        return self._looked.get(pool) != self._look(pool)

    def _look(self, pool: str) -> _Looked:
        mods = self._model.mod_of("pools", (pool,)), self._model.mod_of(capacities.KIND, (pool,))
        return _Looked(self._intake.nodes, self._intake.nodes_trouble, mods)

    def _change(self, pool: str, moment: Moment) -> RecordChange | None:
        """The change of a pool's record, if there is one to be made now. Nothing is left to look at then."""
        self._paused.pop(pool, None)
        self._unseen.pop(pool, None)
        names, quarantine = (pool,), self._model.quarantine
        mod = self._model.mod_of(capacities.KIND, names)
        value: bytes | None = None
        if (capacities.KIND, names) in quarantine or ("pools", names) in quarantine:
            pass  # left alone: what was read last is used
        elif not self._follows(pool):
            # what is known here stays: the removal is refused if the pool follows its nodes again meanwhile
            if mod:
                return RecordChange(capacities.KIND, names, mod, None)
        else:
            value = self._next(pool, moment)
        if value is None:
            self._looked[pool] = self._look(pool)
            return None
        self._written[pool] = moment.now
        return RecordChange(capacities.KIND, names, mod, value)

    def _next(self, pool: str, moment: Moment) -> bytes | None:
        """The next value of a pool's record; None if it stays, or is to be looked at later."""
        known = self._model.capacities.get(pool)
        made = self._seen(pool, known, moment)
        if made is None or made == known:
            return None
        due = self._written.get(pool, moment.now - PAUSE_SECONDS) + PAUSE_SECONDS
        if known is not None and moment.now < due:
            self._paused[pool] = due
            return None
        found = self._find(pool)
        if found is not None:
            self._counted[pool] = found
        return capacities.encode_capacity(made, moment.op)

    def _find(self, pool: str) -> Counted | None:
        """What the pool has of the nodes that were seen last; None if none were."""
        definition, nodes = self._model.pools[pool].definition, self._intake.nodes
        if nodes is None or definition.capacity_from is None:
            return None
        # either a template has them, or the pool's own option
        options = tolerations_of({"spec": definition.engine_options})
        tolerations = (*options, *tolerations_of(pool_template(definition)))
        return count(nodes, definition.capacity_from.selector, tolerations)

    def _seen(self, pool: str, known: ObservedCapacity | None, moment: Moment) -> ObservedCapacity | None:
        """What should be recorded; None if nothing is known yet."""
        base, trouble = known or ObservedCapacity(), self._intake.nodes_trouble
        if trouble and base.unseen_since is None:
            since = self._intake.nodes_unseen_since
            if known is not None and moment.now < since + UNSEEN_SECONDS:
                self._unseen[pool] = since + UNSEEN_SECONDS
            else:
                base = msgspec.structs.replace(base, unseen_since=since, unseen_why=trouble[:WHY_LIMIT])
        found = self._find(pool)
        if found is None:
            return base if base is not known and trouble else known
        if not trouble:
            base = msgspec.structs.replace(base, unseen_since=None, unseen_why="")
        changes = base.changes
        if known is None or base.amounts != found.amounts:
            why = self._cause(pool, known, found, moment)[:WHY_LIMIT]
            change = CapacityChange(
                at=moment.now, epoch=moment.epoch, why=why, before=base.amounts, after=found.amounts
            )
            changes = (*changes, change)[-CHANGES_KEPT:]
        elif pool not in self._counted:
            self._counted[pool] = found  # as an earlier leader has recorded it
        nodes, usable = len(found.nodes), found.usable
        return msgspec.structs.replace(
            base, amounts=found.amounts, nodes=nodes, usable=usable, changes=changes
        )

    def _cause(self, pool: str, known: ObservedCapacity | None, found: Counted, moment: Moment) -> str:
        """Why the amounts are others than they were."""
        before, matching = self._counted.get(pool), len(found.nodes)
        total = (
            f"{found.usable} of {counted(matching, 'node')} can be used" if matching else "no node matches"
        )
        if known is None:
            return f"the first count: {total}"
        if before is None:
            return f"the first count of the leader of epoch {moment.epoch}: {total}"
        told = _differences(before, found)
        more = f"; and {len(told) - _NAMED} more" if len(told) > _NAMED else ""
        return "; ".join(told[:_NAMED]) + more or total


def _differences(before: Counted, after: Counted) -> list[str]:
    """What has happened to each node whose part in the sum has changed."""
    told = []
    for name in sorted({*before.nodes, *after.nodes}):
        old, new = before.nodes.get(name), after.nodes.get(name)
        if old is None and new is not None:
            told += [f"node {name} was added"] if not new[1] else []
        elif new is None and old is not None:
            told += [f"node {name} is gone"] if not old[1] else []
        elif old is not None and new is not None:
            told += _difference(name, *old, *new)
    return told


def _difference(name: str, old: NodeRoom, old_why: str, new: NodeRoom, new_why: str) -> list[str]:
    if old_why and not new_why:
        if not old.is_ready:
            return [f"node {name} became ready"]
        return [f"node {name} {'is cordoned no more' if old.is_cordoned else 'can be used'}"]
    if new_why:
        return [f"node {name} {new_why}"] if not old_why else []
    told = []
    if old.allocatable != new.allocatable:
        told.append(f"node {name} has other resources")
    if old.others != new.others and old.room != new.room:
        grew = any(amount > 0 for amount in (new.others - old.others).values())
        told.append(f"pods of others request {'more' if grew else 'less'} of node {name}")
    return told
