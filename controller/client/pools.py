"""Writes the definitions of pools. A guard compares each with what was read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import msgspec

from controller.client.calls import Calls
from controller.client.errors import NotFound
from controller.client.features import Features
from controller.client.reading import OF_POOLS, Reading
from controller.core.model import attested, codec
from controller.core.model.capacity_fields import check_source
from controller.core.model.features import needed_by_pool
from controller.core.model.installation import decode_engine
from controller.core.model.printable import counted
from controller.core.model.scalars import parse_name
from controller.core.model.submitted import parse_definition
from controller.core.model.task import Pool, Reserve
from controller.errors import CorruptValue
from controller.store.base import Committed, Delete, Guard, KeyValue, Put, Transaction
from controller.views.pools import pool_facts, queued_unattested


class AppliedPool(NamedTuple):
    """A definition that is stored, the one before (None: none that can be read), and what was turned on."""

    pool: Pool
    outcome: Literal["created", "configured", "unchanged"]
    before: Pool | None
    turned_on: Sequence[str]  # features


def apply_pool(calls: Calls, features: Features, definition: Mapping[str, Any] | Pool) -> AppliedPool:
    """Create the pool, or replace its whole definition.

    A definition that does not say `reserve` keeps that of the stored pool; a new pool gets LACKING. One that
    does not say `maintenance` keeps the stored windows; a Pool without any does not say it.

    Raises InvalidField, UserError if a feature cannot be turned on, and what the calls raise.
    """
    pool = parse_definition(codec.to_builtins(definition) if isinstance(definition, Pool) else definition)
    if pool.capacity_from is not None:
        check_source(pool.capacity_from, _engine(calls.stored(calls.keys.engine)))
    says_reserve = isinstance(definition, Pool) or "reserve" in definition
    says_windows = bool(pool.maintenance) if isinstance(definition, Pool) else "maintenance" in definition
    key, op = calls.keys.pool(pool.name), calls.new_op()
    needed, turned_on = needed_by_pool(pool), list[str]()
    while True:
        guards: list[Guard] = []
        if needed:
            mod, new = features.ensure(needed)
            guards, turned_on = [Guard(calls.keys.engine, mod)], [*turned_on, *new]
        item = calls.stored(key)
        is_done = item is not None and calls.has_written(item)
        if item is not None and is_done:
            item = calls.before(item)
        before: Pool | None = None
        unknown: dict[str, Any] = {}
        if item is None and not says_reserve:
            pool = msgspec.structs.replace(pool, reserve=Reserve.LACKING)  # the default of new pools
        if item is not None:
            try:
                before = codec.decode_pool(pool.name, item.value)
                if not says_reserve:
                    pool = msgspec.structs.replace(pool, reserve=before.reserve)
                if not says_windows:
                    pool = msgspec.structs.replace(pool, maintenance=before.maintenance)
                if before == pool:
                    return AppliedPool(pool, "unchanged", before, turned_on)
                stored = codec.decode_mapping(item.value)
                unknown = {
                    name: value for name, value in stored.items() if name not in Pool.__struct_fields__
                }
            except CorruptValue:
                pass  # the new definition replaces a record that cannot be read
        value = codec.encode({**unknown, **codec.decode_mapping(codec.encode_pool(pool, op))})
        guards.append(Guard(key, item.mod if item is not None else 0))
        if is_done or isinstance(calls.commit(Transaction(tuple(guards), (Put(key, value),), op)), Committed):
            outcome: Literal["created", "configured"] = "configured" if item is not None else "created"
            return AppliedPool(pool, outcome, before, turned_on)


def warning_of(reading: Reading, applied: AppliedPool) -> str:
    """What the new definition does to tasks that are there, and what the old one did; "" for nothing."""
    pool, before, told = applied.pool, applied.before, list[str]()
    facts = pool_facts(reading.model(*OF_POOLS), pool.name)
    if facts.overcommitted:
        over = ", ".join(facts.overcommitted)
        told.append(
            f"tasks hold more than this capacity ({over}: {facts.held} held): no task is admitted until"
            " enough of them have ended"
        )
    if before is not None and before.require_attested and not pool.require_attested:
        told.append("it had require_attested, and has not any more: who may write to etcd may submit to it")
    if pool.require_attested and (before is None or not before.require_attested):
        refused = queued_unattested(reading.model("tasks/", "states/", f"{attested.KIND}/"), pool)
        if refused:
            told.append(f"{counted(refused, 'waiting task')} that no gateway has attested will be rejected")
    return "; ".join(told)


def _engine(item: KeyValue | None) -> str:
    """The name of the installation's engine; "" if none is recorded that can be read."""
    try:
        return decode_engine(item.value).engine.name if item is not None else ""
    except CorruptValue:
        return ""


class PoolAdmission:
    """Pauses and resumes the admission of tasks to pools. What runs goes on."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    def pause(self, pool: str) -> bool:
        """Admit no task to this pool from now on. False if it was paused. Raises NotFound, CorruptValue."""
        return self._set_paused(pool, paused=True)

    def resume(self, pool: str) -> bool:
        """Admit tasks to this pool again. False if it was not paused. Raises NotFound, CorruptValue."""
        return self._set_paused(pool, paused=False)

    def _set_paused(self, name: str, *, paused: bool) -> bool:
        """Change this field alone; whatever else is stored, also by a newer release, stays."""
        keys, op = self._calls.keys, self._calls.new_op()
        key = keys.pool(parse_name(name, "name", "a pool's name"))
        while True:
            item = self._calls.stored(key)
            if item is None:
                raise no_pool(keys.cluster, name)
            if self._calls.has_written(item):
                return True
            if codec.decode_pool(name, item.value).paused is paused:
                return False
            value = codec.encode({**codec.decode_mapping(item.value), "paused": paused, "op": op})
            answer = self._calls.commit(Transaction((Guard(key, item.mod),), (Put(key, value),), op))
            if isinstance(answer, Committed):
                return True


def no_pool(cluster: str, name: str) -> NotFound:
    """There is no such pool."""
    return NotFound(f"there is no pool {name!r} in cluster {cluster!r}: see `tally get pools`")


def delete_pool(calls: Calls, name: str) -> None:
    """Remove the definition. Raises NotFound, InvalidField, and what the calls raise."""
    key = calls.keys.pool(parse_name(name, "name", "a pool's name"))
    while True:
        item = calls.stored(key)
        if item is None:
            raise no_pool(calls.keys.cluster, name)
        gone = Transaction((Guard(key, item.mod),), (Delete(key),), calls.new_op())
        if isinstance(calls.commit(gone), Committed):
            return
