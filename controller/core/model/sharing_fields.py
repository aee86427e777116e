"""Parses the fields `sharing` and `preemption` of a pool. Each parser raises InvalidField with the field."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from controller.core.model.fields import Parse, mapping, one_of, read_fields
from controller.core.model.resources import Vector
from controller.core.model.scalars import (
    in_range,
    is_number,
    parse_boolean,
    parse_duration,
    parse_integer,
    parse_name,
    shown,
)
from controller.core.model.sharing import (
    ANYBODY,
    Ceiling,
    OwnerPolicy,
    Preemption,
    Sharing,
    SharingPriority,
)
from controller.core.model.task import Pool
from controller.errors import InvalidField

MAX_OWNERS = 2000  # of a pool: each has a share, and its policy is read with the pool
MAX_COUNT = 1_000_000_000


def parse_sharing(raw: object, field: str) -> Sharing:
    """How a pool is shared. It does not refuse guarantees above the capacity: see `check_guarantees`."""
    if isinstance(raw, Sharing):
        return raw
    fields = _with_short(
        mapping(raw, field, "expected a mapping such as {owners: {vision: {weight: 2}}}"), field, "half_life"
    )
    return Sharing(**read_fields(fields, _SHARING, f"{field}."))


def parse_preemption(raw: object, field: str) -> Preemption:
    """For which tasks attempts are stopped, and which."""
    if isinstance(raw, Preemption):
        return raw
    fields = _with_short(
        mapping(raw, field, "expected a mapping such as {reclaim: true, min_run: 5m}"), field, "min_run"
    )
    return Preemption(**read_fields(fields, _PREEMPTION, f"{field}."))


def check_guarantees(sharing: Sharing, capacity: Mapping[str, int]) -> None:
    """Raise InvalidField if a pool of this capacity cannot give all guarantees at once."""
    total = sharing.guaranteed
    for name in total.exceeding(capacity):
        asked, has = (
            Vector({name: each}).format().get(name, "0") for each in (total[name], capacity.get(name, 0))
        )
        raise InvalidField(
            "sharing.owners",
            f"guarantees {asked} of {name} in all, but the capacity is {has}: lower guarantees, or raise it",
        )


def check_limit(pool: Pool, owner: str, asked: Mapping[str, int]) -> None:
    """Raise InvalidField if a task that asks for this could never run within its owner's limits."""
    if pool.sharing is None:
        return
    policy = pool.sharing.of(owner)
    for name in policy.limit.exceeded_by(asked):
        amount, most = (
            Vector({name: each}).format().get(name, "0") for each in (asked[name], policy.limit.get(name))
        )
        raise InvalidField(
            f"resources.{name}",
            f"asks for {amount}, but owner {owner!r} may hold at most {most} of pool {pool.name!r}: the task"
            " could never run",
        )
    if policy.max_running == 0:
        raise InvalidField("owner", f"{owner!r} may run no task in pool {pool.name!r}: its max_running is 0")


def _with_short(fields: Mapping[str, Any], field: str, short: str) -> dict[str, Any]:
    """The fields with `short` under its stored name, `<short>_seconds`."""
    given = dict(fields)
    if short in given:
        if f"{short}_seconds" in given:
            raise InvalidField(
                f"{field}.{short}", f"is given twice, as {short} and as {short}_seconds: keep one"
            )
        given[f"{short}_seconds"] = given.pop(short)
    return given


def _owners(raw: object, field: str) -> dict[str, OwnerPolicy]:
    given = mapping(
        raw, field, "expected a mapping of owners to their policies, such as {vision: {weight: 2}}"
    )
    if len(given) > MAX_OWNERS:
        raise InvalidField(field, f"names {len(given)} owners, but at most {MAX_OWNERS} are allowed")
    owners = {}
    for name, policy in given.items():
        path = f"{field}.{name}"[:100]
        if name != ANYBODY:
            parse_name(name, path, "an owner's name")
        owners[name] = _policy(policy if policy is not None else {}, path)
        if name == ANYBODY and owners[name].guarantee:
            raise InvalidField(f"{path}.guarantee", "cannot be given to all others at once: name the owners")
    return owners


def _policy(raw: object, field: str) -> OwnerPolicy:
    if isinstance(raw, OwnerPolicy):
        return raw
    fields = mapping(raw, field, "expected a mapping such as {weight: 2, limit: {cpu: 60}}")
    policy = OwnerPolicy(**read_fields(fields, _POLICY, f"{field}."))
    for name in policy.limit.exceeded_by(policy.guarantee):
        raise InvalidField(f"{field}.guarantee.{name}", "is above the owner's own limit: lower one of them")
    return policy


def _weight(raw: object, field: str) -> float:
    if not is_number(raw):
        raise InvalidField(field, f"is {shown(raw)}, expected a number from 0.001 to 1000000")
    return in_range(float(raw), field, 0.001, 1_000_000.0)


def _limit(raw: object, field: str) -> Ceiling:
    amounts = Vector.parse(raw, field)
    assert isinstance(raw, Mapping)  # Vector.parse accepts nothing else
    return Ceiling({name: amounts.get(name) for name in raw})


def _count(raw: object, field: str) -> int:
    return parse_integer(raw, field, 0, MAX_COUNT)


_SHARING: dict[str, Parse] = {
    "half_life_seconds": parse_duration,
    "priority": one_of(SharingPriority),
    "owners": _owners,
}
_POLICY: dict[str, Parse] = {
    "weight": _weight,
    "guarantee": Vector.parse,
    "limit": _limit,
    "max_running": _count,
    "max_queued": _count,
}
_PREEMPTION: dict[str, Parse] = {
    "reclaim": parse_boolean,
    "by_priority": parse_boolean,
    "min_run_seconds": parse_duration,
    "per_minute": _count,
}
