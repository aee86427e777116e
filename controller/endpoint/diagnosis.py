"""The notices on top of the live page: each says what is wrong, and what to do.

A notice names one problem that this replica can see. `critical` means that Tally does not do its work, or
breaks its promise. `warning` means that an operator should look. `info` explains something that is in order.

Causes come before their consequences, and a consequence that its cause explains is left out. For example, a
replica that does not hear from etcd knows nothing about the leader, and a replica that does not hear from the
leader knows nothing about the leader's engine. Notices about the past give its age.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from controller.core.model.printable import counted
from controller.core.model.resources import ZERO
from controller.endpoint.notice_words import STORE, WORDS, Severity
from controller.endpoint.replicas import ReplicaSummary
from controller.endpoint.verdicts import AuditSummary
from controller.views.explain import span
from controller.views.freshness import Freshness
from controller.views.gateways import GatewayView
from controller.views.notices import NotifierSummary
from controller.views.overview import Holding
from controller.views.pools import PoolFacts
from controller.views.replica import Facts

STUCK_SECONDS = 15.0  # a healthy leader admits an admissible task within milliseconds
_CRITICAL, _WARNING = Severity.CRITICAL, Severity.WARNING
MAX_FAILING = 3  # receivers that are named
TAKE_OVER_SECONDS = 15.0  # for a new leader to hear from its engine


class Notice(Struct, frozen=True, kw_only=True):
    """One problem. `code` is a fixed word; `action` says what to do ("": nothing).

    `age_seconds` is the length of a silence, or the age of what is known only from the past; else null.
    """

    severity: Severity
    code: str
    title: str
    detail: str
    action: str
    age_seconds: float | None = None


class Known(NamedTuple):
    """Facts from the model, taken at one moment."""

    leader: str  # "" when no replica leads
    pools: Sequence[PoolFacts]
    holding: Mapping[str, Holding]
    undefined: Sequence[str]  # pools that are not defined, and for which tasks wait
    quarantined: Counter[str]  # the number of records, by kind
    gateways: Sequence[GatewayView]
    notifier: NotifierSummary
    # of pools whose maintenance windows keep tasks back: how many, and the first of these windows, in words
    kept_back: Mapping[str, tuple[int, str]]


def _notice(
    code: str, severity: Severity | None = None, age_seconds: float | None = None, **words: str
) -> Notice:
    """A notice; `words` fill the braces of its text."""
    usual, *texts = WORDS[code]
    title, detail, action = (str(text).format(**words) for text in texts)
    return Notice(
        severity=severity or usual,
        code=code,
        title=title,
        detail=detail,
        action=action,
        age_seconds=age_seconds,
    )


def diagnose(
    facts: Facts,
    known: Known,
    next_of: Mapping[str, tuple[str, float]],
    replicas: Sequence[ReplicaSummary],
    leads_for: float | None,
    audit: AuditSummary | None,
) -> list[Notice]:
    """All notices, the worst first, and among equals the deepest cause.

    If this replica's data is not current, the notices about that come before all others. `next_of` maps a
    pool to its next task, and to the seconds for which it has been next. `leads_for` is the number of seconds
    for which the leader has led.
    """
    causes = list(_of_this_replica(facts))
    hears = not causes
    if hears:
        causes += _of_office(facts, known.leader, replicas, leads_for)
        admits = not causes
        causes += _of_replicas(facts, replicas)
        causes += _of_others(known)
    told = [] if audit is None or not audit.wrong else [_of_audit(audit)]
    pools = {pool.name: pool for pool in known.pools}
    for name in sorted({*pools, *known.holding}):
        told += _of_ledger(known, name, pools.get(name))
    for name, (task_id, seconds) in next_of.items():
        kept = known.kept_back.get(name)
        told += _of_queue(pools[name], task_id, seconds if hears and admits else 0.0, kept)
    told += _of_tasks(known)
    if not hears:
        told = [replace(notice, age_seconds=round(facts.staleness_seconds, 1)) for notice in told]
    depth, severities = list(WORDS), list(Severity)
    order = lambda notice: (severities.index(notice.severity), depth.index(notice.code))  # noqa: E731
    return sorted(causes + told, key=order) if hears else causes + sorted(told, key=order)


def _of_this_replica(facts: Facts) -> Iterator[Notice]:
    """Notices that this replica's data is not current."""
    failing = {check.name: check for check in (*facts.live, *facts.ready) if not check.ok}
    freshness = facts.rule.store.judge(facts.staleness_seconds)
    if "store" in failing or freshness is not Freshness.FRESH:
        severity = _WARNING if freshness is Freshness.STALE and "store" not in failing else _CRITICAL
        why = failing["store"].error if "store" in failing else ""
        yield _notice(
            STORE, severity, round(facts.staleness_seconds, 1), told=f" The error is: {why}." if why else ""
        )
    if "control-loop" in failing:
        yield _notice("loop-stuck", seen=failing["control-loop"].detail.capitalize())


def _of_office(
    facts: Facts, leads: str, replicas: Sequence[ReplicaSummary], leads_for: float | None
) -> Iterator[Notice]:
    """Notices on why nothing is admitted: no leader, a silent leader, or an engine that does not answer."""
    if not leads:
        yield _notice("no-leader")
    for leader in replicas:
        if not leader.leads:
            continue
        silence = _silence(facts, leader)
        if silence is not Freshness.FRESH:
            severity = _CRITICAL if silence is Freshness.DEAD else _WARNING
            yield _notice("leader-silent", severity, leader.age_seconds, id=leader.id)
            continue
        taking_over = leader.phase == "taking-over"
        late = taking_over and leads_for is not None and leads_for > TAKE_OVER_SECONDS
        silent = leader.engine_answers is False or leader.engine_freshness is Freshness.DEAD
        if silent and (late or not taking_over):
            age = leader.engine_age_seconds
            since = (
                "since this term began"
                if late
                else "at its last attempt"
                if age is None
                else f"for {span(age)}"
            )
            yield _notice("engine-silent", id=leader.id, since=since)


def _silence(facts: Facts, replica: ReplicaSummary) -> Freshness:
    """Judge for how long a replica was silent while etcd was not: a silent etcd is no replica's fault."""
    return facts.rule.replica.judge(facts.replica_ages.get(replica.id, 0.0) - facts.staleness_seconds)


def _of_replicas(facts: Facts, replicas: Sequence[ReplicaSummary]) -> Iterator[Notice]:
    """Notices from what the replicas have registered."""
    for replica in replicas:
        if not replica.leads and _silence(facts, replica) is not Freshness.FRESH:
            yield _notice("replica-silent", age_seconds=replica.age_seconds, id=replica.id)
        if replica.engine_problem:
            yield _notice("other-engine", id=replica.id, problem=replica.engine_problem)
        behind = replica.behind_seconds
        if behind is not None and facts.rule.store.judge(behind) is Freshness.DEAD:
            yield _notice("replica-behind", id=replica.id, age=span(behind))
    if len(replicas) == 1:
        yield _notice("single-replica")
    versions = sorted({replica.version for replica in replicas if replica.version})
    if len(versions) > 1:
        yield _notice("mixed-versions", versions=", ".join(versions))


def _of_others(known: Known) -> Iterator[Notice]:
    """Notices on gateways and notifiers."""
    for gateway in known.gateways:
        if gateway.problems or not gateway.ready:
            code = "gateway-problem" if gateway.ready else "gateway-not-ready"
            yield _notice(code, id=gateway.id, problems=", ".join(gateway.problems))
    notifier = known.notifier
    if notifier.waiting and not notifier.on_duty:
        yield _notice("no-notifier", waiting=counted(notifier.waiting, "notice"))
    for host, why in list(notifier.failing.items())[:MAX_FAILING]:
        yield _notice("receiver-failing", host=host, why=why)
    if notifier.problem:
        yield _notice("notifier-problem", problem=notifier.problem)
    if notifier.dead:
        yield _notice("notices-dead", dead=counted(notifier.dead, "notice"))


def _of_audit(audit: AuditSummary) -> Notice:
    return _notice(
        "audit-findings",
        found=counted(audit.wrong, "contradiction"),
        id=audit.replica,
        age=span(audit.age_seconds),
    )


def _of_tasks(known: Known) -> Iterator[Notice]:
    lost = sum(holds.lost for holds in known.holding.values())
    if lost:
        example = next(holds.lost_example for holds in known.holding.values() if holds.lost)
        yield _notice("attempts-lost", lost=counted(lost, "attempt"), example=example)
    if known.quarantined:
        yield _notice("quarantined", records=counted(known.quarantined.total(), "record"))
    undefined = known.undefined
    if undefined:
        named = ", ".join(undefined[:3]) + (f" and {len(undefined) - 3} more" if len(undefined) > 3 else "")
        yield _notice("undefined-pool", pools=named)


def _of_ledger(known: Known, name: str, pool: PoolFacts | None) -> Iterator[Notice]:
    ledger, holds = pool.held if pool is not None else ZERO, known.holding.get(name, Holding())
    # A status that cannot be read may have the holds by which the ledger exceeds the sum.
    explained = known.quarantined["states"] and not holds.held.exceeding(ledger)
    unreadable = pool is not None and "ledgers" in dict(pool.broken)
    if not unreadable and ledger != holds.held and not explained:
        yield _notice("ledger-drift", pool=name, ledger=str(ledger), held=str(holds.held))
    if pool is not None and pool.overcommitted:
        yield _notice("overcommitted", pool=name, resources=", ".join(pool.overcommitted))


def _of_queue(
    pool: PoolFacts, task_id: str, seconds: float, kept: tuple[int, str] | None
) -> Iterator[Notice]:
    if task_id and seconds > STUCK_SECONDS:
        yield _notice("queue-stuck", pool=pool.name, id=task_id, age=span(seconds))
    elif pool.paused and pool.queued:
        yield _notice("paused", pool=pool.name, waiting=counted(pool.queued, "task"))
    elif kept:
        number, window = kept
        yield _notice("maintenance", pool=pool.name, kept=counted(number, "waiting task"), window=window)
    elif pool.definition is not None and pool.queued and not task_id and not pool.held:
        yield _notice("never-fits", pool=pool.name, waiting=counted(pool.queued, "task"))
