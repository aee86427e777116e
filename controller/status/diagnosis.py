"""What is wrong, in words, and what to do about it: the notices on top of the live page.

Each names one trouble that the replica can see from where it stands. `critical` means that Tally does not do its work, or
not as promised; `warning`, that somebody should look; `info` explains, and leaves all well.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum

from msgspec import Struct

from controller.core.explain import span
from controller.core.freshness import Freshness
from controller.core.lifecycle import WAITING
from controller.core.overview import Holding
from controller.core.resources import ZERO
from controller.core.view import Facts
from controller.core.world import World
from controller.status.replicas import ReplicaSummary

STUCK_SECONDS = 15.0  # a task that could be admitted is, within milliseconds, when all is well
TAKE_OVER_SECONDS = 15.0  # for a new leader to hear of its engine


class Severity(StrEnum):
    """Worst first."""

    CRITICAL = "critical"
    WARNING = "warning"
    INFO = "info"
    OK = "ok"


class Notice(Struct, frozen=True, kw_only=True):
    """One trouble. `code` is a fixed word; `action` says what to do, and is "" when nothing needs to be done."""

    severity: Severity
    code: str
    title: str
    detail: str
    action: str


def diagnose(world: World, facts: Facts, holding: Mapping[str, Holding], next_of: Mapping[str, tuple[str, float]]) -> list[Notice]:
    """What the model and this replica's facts show; `next_of` has each pool's next task and for how long it was that."""
    notices = list(_of_this_replica(facts))
    notices += _of_tasks(world, holding)
    for pool in sorted({*holding, *world.ledgers}):
        notices += _of_ledger(world, pool, holding.get(pool, Holding()))
    for pool, (task_id, seconds) in next_of.items():
        notices += _of_queue(world, pool, task_id, seconds)
    notices += _of_undefined_pools(world)
    return notices


def _of_this_replica(facts: Facts) -> Iterator[Notice]:
    failing = {check.name: check for check in (*facts.live, *facts.ready) if not check.ok}
    freshness = facts.rule.store.judge(facts.staleness_seconds)
    if "store" in failing or freshness is not Freshness.FRESH:
        told = f" The store's check: {failing['store'].detail}." if "store" in failing else ""
        yield Notice(
            severity=Severity.WARNING if freshness is Freshness.STALE and not told else Severity.CRITICAL,
            code="store-unreachable",
            title=f"This replica has not heard of etcd for {span(facts.staleness_seconds)}",
            detail=f"What is shown may be as old as that.{told}",
            action="Run `tally check` for etcd's own state, and look at another replica meanwhile.",
        )
    if not facts.leader:
        yield Notice(
            severity=Severity.CRITICAL,
            code="no-leader",
            title="No replica leads",
            detail="Running tasks go on, but nothing is admitted, stopped or recorded until a leader is elected.",
            action="A take-over lasts a few seconds. If it stays so: see that replicas run (`tally get replicas`) and that "
            "etcd has a quorum (`tally check`).",
        )
    if "control-loop" in failing:
        yield Notice(
            severity=Severity.CRITICAL,
            code="loop-stuck",
            title="This replica's control loop is stuck",
            detail=failing["control-loop"].detail,
            action="Restart this replica, and keep its log: this is a fault of Tally.",
        )


def of_replicas(facts: Facts, since: float | None, replicas: Sequence[ReplicaSummary], now: float) -> list[Notice]:
    """What the replicas tell of themselves; the leader speaks for the engine. `since` is when it was elected."""
    notices = []
    hears = facts.rule.store.judge(facts.staleness_seconds) is Freshness.FRESH  # else nobody is heard of, and that is said
    for replica in replicas:
        if replica.freshness is not Freshness.FRESH and hears:
            notices.append(_replica_silent(replica))
        taking_over = replica.phase == "taking-over"
        late = taking_over and since is not None and now - since > TAKE_OVER_SECONDS
        silent = replica.engine_answers is False or replica.engine_freshness is Freshness.DEAD
        if replica.leads and silent and hears and (late or not taking_over):
            notices.append(_engine_silent(replica, late))
        if replica.engine_problem:
            notices.append(_other_engine(replica))
        behind = replica.behind_seconds
        if behind is not None and facts.rule.store.judge(behind) is Freshness.DEAD:
            notices.append(
                Notice(
                    severity=Severity.WARNING,
                    code="replica-behind",
                    title=f"Replica {replica.id} is {span(behind)} behind",
                    detail="It hears nothing of etcd, and would answer with old data.",
                    action="Look at its log, and at its way to etcd.",
                )
            )
    if len(replicas) == 1:
        notices.append(
            Notice(
                severity=Severity.INFO,
                code="single-replica",
                title="Only one replica runs",
                detail="Nobody can take over if it fails.",
                action="Start others for production: three is usual.",
            )
        )
    versions = sorted({replica.version for replica in replicas if replica.version})
    if len(versions) > 1:
        notices.append(
            Notice(
                severity=Severity.INFO,
                code="mixed-versions",
                title="Replicas of different versions run",
                detail=f"{', '.join(versions)}: an update is under way.",
                action="",
            )
        )
    return notices


def _replica_silent(replica: ReplicaSummary) -> Notice:
    return Notice(
        severity=Severity.WARNING,
        code="replica-silent",
        title=f"Replica {replica.id} has not been heard of for {span(replica.age_seconds)}",
        detail="Every replica writes every few seconds: this one is gone, stopped, or cut off from etcd. Another leads if it led.",
        action="See whether its process runs, and its log. It is not shown any more once its registration has expired.",
    )


def _other_engine(replica: ReplicaSummary) -> Notice:
    return Notice(
        severity=Severity.WARNING,
        code="other-engine",
        title=f"Replica {replica.id} does not campaign",
        detail=f"It follows and answers reads, but must not lead: {replica.engine_problem}.",
        action="Start it with the recorded engine (`tally engine show`), or change the record: `tally engine adopt`.",
    )


def _engine_silent(leader: ReplicaSummary, never: bool) -> Notice:
    age = leader.engine_age_seconds
    since = "since this term began" if never else "at its last attempt" if age is None else f"for {span(age)}"
    return Notice(
        severity=Severity.CRITICAL,
        code="engine-silent",
        title="The engine does not answer the leader",
        detail=f"{leader.id} could not list the attempts {since}. Nothing is admitted and no end is concluded; what runs goes on.",
        action="See that the engine is up (the Kubernetes API, the Docker daemon) and that the leader may use it: `tally check`.",
    )


def audit_failed(wrong: int) -> Notice:
    """The last audit found contradictions."""
    return Notice(
        severity=Severity.CRITICAL,
        code="audit-findings",
        title=f"The audit found {_count(wrong, 'contradiction')}",
        detail="Records and engine do not agree with what Tally promises.",
        action="Run `tally audit`: it names each, its likely cause, and the repair.",
    )


def _of_tasks(world: World, holding: Mapping[str, Holding]) -> Iterator[Notice]:
    lost = sum(holds.lost for holds in holding.values())
    if lost:
        example = next(holds.lost_example for holds in holding.values() if holds.lost)
        yield Notice(
            severity=Severity.WARNING,
            code="attempts-lost",
            title=f"{_count(lost, 'attempt')} lost, with resources held",
            detail=f"Nothing proves that they stopped (that of {example}, say): nothing is freed, and nothing runs again.",
            action="See why with `tally explain NAME`. If you know that it no longer runs: `tally confirm-stopped NAME`.",
        )
    if world.quarantine:
        yield Notice(
            severity=Severity.WARNING,
            code="quarantined",
            title=f"{_count(len(world.quarantine), 'record')} cannot be read",
            detail="They are left alone, and nothing is done with what they belong to.",
            action="`tally audit` names the keys: restore or delete them.",
        )


def _of_ledger(world: World, pool: str, holds: Holding) -> Iterator[Notice]:
    ledger, record = world.ledger(pool).held, world.pools.get(pool)
    # A status that cannot be read may hold what the ledger has more than the sum.
    explained = any(kind == "states" for kind, _ in world.quarantine) and not holds.held.exceeding(ledger)
    if not world.pool_is_frozen(pool) and ledger != holds.held and not explained:
        yield Notice(
            severity=Severity.CRITICAL,
            code="ledger-drift",
            title=f"The ledger of pool {pool} does not fit its holds",
            detail=f"The ledger says {ledger}, the tasks hold {holds.held}.",
            action="Run `tally audit`: it says which, and how to repair it.",
        )
    over = ledger.exceeding(record.pool.capacity if record is not None else ZERO)
    if over:
        yield Notice(
            severity=Severity.INFO,
            code="overcommitted",
            title=f"Pool {pool} is overcommitted: {', '.join(over)}",
            detail="Its capacity was lowered, or it was removed, while tasks ran. It ends as they finish.",
            action="",
        )


def _of_queue(world: World, pool: str, task_id: str, seconds: float) -> Iterator[Notice]:
    record, waiting = world.pools.get(pool), len(world.queue(pool))
    if task_id and seconds > STUCK_SECONDS:
        yield Notice(
            severity=Severity.CRITICAL,
            code="queue-stuck",
            title=f"The queue of pool {pool} is stuck",
            detail=f"{task_id} fits and has its turn for {span(seconds)}, but is not admitted.",
            action=f"See `tally explain {task_id}` and the leader's log; `tally step-down` lets another replica lead.",
        )
    elif record is not None and record.pool.paused and waiting:
        yield Notice(
            severity=Severity.INFO,
            code="paused",
            title=f"Pool {pool} is paused",
            detail=f"{_count(waiting, 'task')} waiting; what runs goes on.",
            action="Apply its definition with `paused: false` to admit again.",
        )
    elif record is not None and waiting and not task_id and not world.ledger(pool).held:
        yield Notice(
            severity=Severity.WARNING,
            code="never-fits",
            title=f"Nothing that waits fits into pool {pool}",
            detail=f"{_count(waiting, 'task')} waiting, and nothing is held: they ask for more than the pool has.",
            action="Raise the pool's capacity (`tally apply`), or cancel them.",
        )


def _of_undefined_pools(world: World) -> Iterator[Notice]:
    waiting = {pool: number for (pool, state), number in world.counts.items() if number and state in WAITING}
    undefined = sorted(pool for pool in waiting if pool not in world.pools and ("pools", (pool,)) not in world.quarantine)
    if undefined:
        named = ", ".join(undefined[:3]) + (f" and {len(undefined) - 3} more" if len(undefined) > 3 else "")
        yield Notice(
            severity=Severity.WARNING,
            code="undefined-pool",
            title=f"Tasks wait for a pool that is not defined: {named}",
            detail="They are admitted once it is.",
            action="Define it with `tally apply -f pool.yaml`, or cancel them.",
        )


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
