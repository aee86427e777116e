"""What a submitted task must be, by itself and beside its pool, before it may be stored.

Whoever submits asks this, and whoever supposes a submission.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from controller.core.model import codec
from controller.core.model.arrays import MemberName
from controller.core.model.default_resources import default_resources, with_origin
from controller.core.model.demand import check_satisfiable, demand
from controller.core.model.own_labels import check_submitted
from controller.core.model.records import PoolRecord
from controller.core.model.sharing_fields import check_guarantees, check_limit
from controller.core.model.task import Pool, Spec
from controller.core.model.validation import parse_pool, parse_spec
from controller.errors import InvalidField

ONLY_ATTESTED = (
    "{} takes only tasks that a gateway has attested (require_attested): submit it through a gateway"
    " (`--server`)"
)


class Filled(NamedTuple):
    """A valid spec with the resources that its pool fills in; `named` are those that the user named."""

    spec: Spec
    named: frozenset[str]
    pool_mod: int


def parse_definition(raw: object) -> Pool:
    """The pool that somebody applies. Raises InvalidField, also for what means nothing or cannot be kept."""
    pool = parse_pool(raw)
    if pool.sharing is not None:
        check_guarantees(pool.sharing, pool.capacity)
    if pool.preemption is not None and not (pool.preemption.reclaim or pool.preemption.by_priority):
        raise InvalidField("preemption", "stops nothing: set reclaim or by_priority to true, or leave it out")
    return pool


def of_array(member: MemberName) -> str:
    """Why a task of this name is refused."""
    return f"{member} is the name of a member of the array {member.array}: use another name"


def fill_in(raw: object, pools: Mapping[str, PoolRecord]) -> Filled:
    """Validate the input, a mapping or a Spec, and fill in the default resources of its pool.

    Raises InvalidField for an invalid value, an unknown pool, and resources that the pool can never provide,
    or that are above the limit of the task's owner.
    """
    given = codec.to_builtins(raw) if isinstance(raw, Spec) else raw
    spec = parse_spec(given)
    assert isinstance(given, Mapping)  # parse_spec accepts nothing else
    check_submitted(spec.labels)
    record = pools.get(spec.pool)
    if record is None:
        known = (
            f"the pools are {', '.join(sorted(pools))}" if pools else "create one: `tally apply -f pool.yaml`"
        )
        raise InvalidField("pool", f"there is no pool {spec.pool!r}; {known}")
    named = frozenset(given.get("resources") or ())
    filled = default_resources(named, record.pool)
    spec = msgspec.structs.replace(spec, resources=spec.resources + filled)
    asked = demand(spec, record.pool)
    try:
        check_satisfiable(spec, record.pool, asked)
        check_limit(record.pool, spec.owner, asked)
    except InvalidField as error:
        raise with_origin(error, spec, filled, record.pool) from None
    return Filled(spec, named, record.mod)
