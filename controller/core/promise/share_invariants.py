"""I9 to I11: what owners hold and have used of pools with `sharing`, and what is claimed of them.

I9 and I10 are judged only where the ledger says that shares are whole: a leader rebuilds the others by
itself. It also rebuilds them if it sees a share that something else has written.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from controller.core.model.lifecycle import WAITING
from controller.core.model.model import Model
from controller.core.model.quarantine import unreadable_shares
from controller.core.model.records import Task
from controller.core.model.resources import ZERO, Vector
from controller.core.promise.finding import Finding, FindingSeverity, Mender

_NAMED = 3  # owners in one finding
_BY_HAND = "something other than Tally wrote or deleted a share, a ledger or a status"
_REPAIR = "the leader rebuilds the pool's shares from what its tasks hold"


def check_shares(model: Model, tasks: Iterable[Task]) -> Iterator[Finding]:
    """I9 and I10 for each pool with `sharing`. `tasks` are all that may hold something."""
    judged = [
        pool
        for pool in model.shared
        if not model.pool_is_frozen(pool)
        and model.ledger(pool).shares_are_whole
        and not model.ledger(pool).account.unread
    ]
    if not judged:
        return
    held: dict[tuple[str, str], tuple[Vector, int]] = {}
    unreadable: set[str] = set()
    for task in tasks:
        if "states" in task.frozen:
            unreadable.add(task.spec.pool if task.spec is not None else "")
        elif task.status is not None and task.status.is_holding:
            hold, count = held.get((task.pool, task.owner), (ZERO, 0))
            held[task.pool, task.owner] = (
                hold + task.status.hold,
                count + task.status.is_one_of_running,
            )
    for pool in judged:
        if not unreadable & {pool, ""}:
            yield from _check_held(model, pool, held)
        yield from _check_used(model, pool)
        yield from _check_parts(model, pool)


def _check_held(
    model: Model, pool: str, held: dict[tuple[str, str], tuple[Vector, int]]
) -> Iterator[Finding]:
    owners = sorted({*model.shares.get(pool, {}), *(owner for of, owner in held if of == pool)})
    wrong = []
    for owner in owners:
        share, (hold, count) = model.share(pool, owner), held.get((pool, owner), (ZERO, 0))
        if (share.held, share.running) != (hold, count) and not model.share_is_frozen(pool, owner):
            wrong.append(
                f"the share of {owner} says {share.held} in {share.running} tasks, but they are {count} and"
                f" hold {hold}"
            )
    if wrong:
        more = f"; and {len(wrong) - _NAMED} more owners" if len(wrong) > _NAMED else ""
        yield _finding(model, pool, "I9", "; ".join(wrong[:_NAMED]) + more)


def _check_used(model: Model, pool: str) -> Iterator[Finding]:
    shares = model.shares.get(pool, {})
    if unreadable_shares(model.quarantine, pool):
        return
    ledger, total, held = model.ledger(pool), ZERO, ZERO
    for share in shares.values():
        total += share.used - _times(share.held, share.at)
        held += share.held
    account = ledger.account.used - _times(ledger.held, ledger.account.at)
    if held == ledger.held and total != account:
        difference = {name: abs(amount) for name, amount in (total - account).items()}
        what = "; ".join(
            f"{name}: what the owners have used differs from what the pool counts by {amount} units × ms"
            for name, amount in difference.items()
        )
        yield _finding(model, pool, "I10", what)


def _check_parts(model: Model, pool: str) -> Iterator[Finding]:
    wrong = [
        f"the share of {owner} says that {share.lost} × ms were lost and {share.stopping} × ms stopping,"
        f" of {share.used} × ms that it has used, and {share.recent} on average: some of that is below zero,"
        " or more than was used"
        for owner, share in sorted(model.shares.get(pool, {}).items())
        if share.cut() != share
    ]
    if wrong:
        yield _finding(model, pool, "I10", "; ".join(wrong[:_NAMED]))


def _times(held: Vector, at: int) -> Vector:
    return Vector({name: amount * at for name, amount in held.items()})


def check_owner(task: Task) -> Iterator[Finding]:
    """I9: what a task holds is charged to the owner that its spec names."""
    status, spec = task.status, task.spec
    if status is None or spec is None or task.frozen or task.spec_error:
        return
    if task.spec_is_original and status.owner != spec.owner:
        yield Finding(
            invariant="I9",
            subject=f"task/{task.id}",
            what=f"is charged to owner {status.owner}, but its spec names {spec.owner}",
            since_revision=task.status_mod,
            likely_cause="a status that was not written by Tally, or a spec that was deleted and put again",
            repair="none: what it uses stays charged to that owner until it is removed",
            severity=FindingSeverity.WRONG
            if status.created_at == task.submitted_at
            else FindingSeverity.NOTICE,
        )


def check_claims(model: Model) -> Iterator[Finding]:
    """I11, as far as one revision shows it: each claim is of a task that waits for the pool."""
    for pool, claims in model.claims.items():
        for task_id in claims:
            task = model.tasks.get(task_id)
            if task is None or task.pool != pool or task.state not in WAITING or task.on_hold:
                yield Finding(
                    invariant="I11",
                    subject=f"key/claims/{pool}/{task_id}",
                    what=f"is a claim on pool {pool} of a task that does not wait for it",
                    since_revision=model.mod_of("claims", (pool, task_id)),
                    likely_cause=_BY_HAND,
                    repair="the leader ends the claim",
                    mender=Mender.LEADER,
                    transient=True,
                )


def _finding(model: Model, pool: str, invariant: str, what: str) -> Finding:
    return Finding(
        invariant=invariant,
        subject=f"pool/{pool}",
        what=what,
        since_revision=model.ledger(pool).mod,
        likely_cause=_BY_HAND,
        repair=_REPAIR,
        mender=Mender.LEADER if pool in model.lone_shares else Mender.REPAIR,
        transient=pool in model.lone_shares,
    )
