"""I18, and I2 where nodes give the capacity: what is recorded for the pools whose capacity follows nodes."""

from __future__ import annotations

from collections.abc import Iterator

from controller.core.model import capacities
from controller.core.model.model import Model
from controller.core.model.printable import counted
from controller.core.model.resources import format_quantity
from controller.core.promise.finding import Finding, FindingSeverity, Mender


def check_capacities(model: Model) -> Iterator[Finding]:
    """Each pool whose capacity follows nodes has a record of what they give, and no other pool has one.

    The record agrees with the last change that it tells of.
    """
    for pool in sorted({*model.following, *model.capacities}):
        key = capacities.KIND, (pool,)
        if key in model.quarantine or ("pools", (pool,)) in model.quarantine:
            continue  # what cannot be read is shown as such
        observed, mod = model.capacities.get(pool), model.mod_of(*key)
        if observed is None:
            why = "its capacity follows nodes, but there is no record of what they give: it has nothing"
            cause = "the leader has not seen the nodes yet, or cannot write to etcd"
            yield _finding(pool, why, model.mod_of("pools", (pool,)), cause, "the leader writes it")
        elif pool not in model.following:
            why = "there is a record of what nodes give to it, but its capacity follows none"
            yield _finding(pool, why, mod, "its definition has changed", "the leader deletes it")
        elif (observed.last.after if observed.last is not None else observed.amounts) != observed.amounts:
            yield Finding(
                invariant="I18",
                subject=f"pool/{pool}",
                what=f"the record of what nodes give says {observed.amounts}, but its last change led to"
                f" {observed.last.after if observed.last is not None else 'nothing'}",
                since_revision=mod,
                likely_cause="something other than Tally wrote the record",
                repair=f"delete the key capacities/{pool}: the leader writes what it sees of the nodes",
            )


def overcommitted_by_nodes(model: Model, pool: str) -> Iterator[Finding]:
    """I2: a notice for each resource of which more is held than the nodes give now."""
    ledger, record, observed = model.ledger(pool), model.pools.get(pool), model.capacities.get(pool)
    if record is None:
        return
    for name in ledger.held.exceeding(record.pool.capacity):
        held, gives = (format_quantity(name, each.get(name)) for each in (ledger.held, record.pool.capacity))
        nodes = counted(observed.usable if observed is not None else 0, "node")
        yield Finding(
            invariant="I2",
            subject=f"pool/{pool}",
            what=f"{name}: {held} is held, but {nodes} that can be used give {gives} now",
            since_revision=max(ledger.mod, model.mod_of(capacities.KIND, (pool,))),
            likely_cause="nodes went, were cordoned, or have pods of others, while tasks ran",
            repair="none is needed: the capacity falls as tasks finish, and nothing is admitted until then",
            severity=FindingSeverity.NOTICE,
        )


def _finding(pool: str, what: str, since: int, cause: str, repair: str) -> Finding:
    return Finding(
        invariant="I18",
        subject=f"pool/{pool}",
        what=what,
        since_revision=since,
        likely_cause=cause,
        repair=repair,
        mender=Mender.LEADER,
        transient=True,
    )
