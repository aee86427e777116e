"""The summary of the installation, for the live page: one document of bounded size, problems first."""

from __future__ import annotations

from collections.abc import Container

from msgspec import Struct

from controller import __version__
from controller.core.model.model import Model
from controller.core.model.resources import format_quantity
from controller.endpoint.diagnosis import Known, Notice, diagnose
from controller.endpoint.documents import WindowDocument, window_documents
from controller.endpoint.notice_words import Severity
from controller.endpoint.replicas import (
    EndedReplica,
    ReplicaSummary,
    ended_replicas,
    replica_summaries,
)
from controller.endpoint.verdicts import AuditSummary, newest_audit
from controller.views.freshness import Freshness, StalenessLimits
from controller.views.gateways import GatewayView, gateway_views
from controller.views.maintenance import windows_that_keep
from controller.views.notices import NotifierSummary, notifier_summary
from controller.views.overview import Holding, holding_by_pool, next_admission, quarantined_by_kind
from controller.views.pools import OwnerFacts, PoolFacts, all_pools, owners_of, undefined_pools
from controller.views.replica import Facts
from controller.views.replicas import LeaderFacts, LeaderRecord, all_replicas, leader_of
from controller.views.schedules import ScheduleSummary, schedule_names, schedule_summaries
from controller.views.tasks import tasks_by_state
from controller.views.words import in_hours

MAX_POOLS = 100
MAX_NOTICES = 200
MAX_GATEWAYS = 100
MAX_OWNERS = 50  # of each pool


class LeaderSummary(Struct, frozen=True, kw_only=True):
    """The leader, as far as this replica knows. `since` is by the leader's clock."""

    replica: str  # "" when no replica leads
    status_url: str
    since: float | None
    term: int
    epoch: int


class ResourceSummary(Struct, frozen=True, kw_only=True):
    """One resource of a pool, as quantities and as numbers (milli-cpu, bytes, counts)."""

    name: str
    capacity: str
    held: str
    free: str
    capacity_amount: int
    held_amount: int


class OwnerSummary(Struct, frozen=True, kw_only=True):
    """An owner of a pool with `sharing`. `part_held` is its part of the resource of which it holds most.

    What it has used is in resource-hours, such as `cpu·h`; what was lost and stopping are parts of it.
    """

    name: str
    held: dict[str, str]
    guarantee: dict[str, str]
    limit: dict[str, str]
    part_held: float
    share: float | None  # its dominant share, averaged and weighted
    running: int
    waiting: int
    on_hold: int
    used_hours: dict[str, str]
    lost_hours: dict[str, str]
    stopping_hours: dict[str, str]


class PoolSummary(Struct, frozen=True, kw_only=True):
    """A pool: what is held of it, and its tasks by state."""

    name: str
    policy: str
    paused: bool
    maintenance: list[WindowDocument]  # the windows that are stored, in the order of their times
    defined: bool
    waiting: int
    on_hold: int
    lost: int
    tasks: dict[str, int]
    resources: list[ResourceSummary]
    owners: list[OwnerSummary]  # the first MAX_OWNERS by what they hold and wait for; none without `sharing`
    owners_total: int


class Summary(Struct, frozen=True, kw_only=True):
    """What one replica knows at one moment.

    Times are seconds since the Unix epoch; `now` is the replica's clock.
    """

    cluster: str
    replica: str
    role: str
    phase: str
    version: str
    engine: str
    now: float
    revision: int
    staleness_seconds: float
    freshness: Freshness  # of all that is shown, by `staleness_seconds`
    page_limits: StalenessLimits  # the ages of the last answer from which on the page is stale, and dead
    verdict: Severity
    notices: list[Notice]  # the first MAX_NOTICES, the worst first
    notices_total: int
    leader: LeaderSummary
    replicas: list[ReplicaSummary]
    ended: list[EndedReplica]  # replicas of the last hour, at most 10, the newest first
    gateways: list[GatewayView]  # the first MAX_GATEWAYS, by id
    notifier: NotifierSummary
    schedules: list[ScheduleSummary]  # the first MAX_SCHEDULES, by name
    schedules_total: int
    tasks: dict[str, int]
    total: int
    lost: int
    stopping: int
    quarantined: int
    pools: list[PoolSummary]
    pools_total: int
    audit: AuditSummary | None
    audit_problem: str  # why this replica's last audit failed; "" if it did not


class Waits:
    """For how long each pool's next task has been the same, as seen by the summaries."""

    def __init__(self) -> None:
        self._next: dict[str, tuple[str, float]] = {}

    def note(self, pool: str, task_id: str, now: float) -> float:
        """Note that `task_id` ("": none) is the pool's next task; returns for how many seconds."""
        seen, since = self._next.get(pool, ("", now))
        if seen != task_id:
            since = now
        if task_id:
            self._next[pool] = (task_id, since)
        else:
            self._next.pop(pool, None)
        return max(0.0, now - since) if task_id else 0.0

    def keep(self, pools: Container[str]) -> None:
        """Forget the other pools: one that is made again begins anew."""
        for pool in [each for each in self._next if each not in pools]:
            del self._next[pool]


def summarize(
    model: Model, facts: Facts, audit_problem: str, waits: Waits, now: float, wall: float
) -> Summary:
    """The summary. The caller holds the model's lock. The cost grows with the pools and the holds.

    Schedules are shown by `wall`, the time of the calendar.
    """
    holding = holding_by_pool(model)
    pools, registered = all_pools(model), all_replicas(model)
    leader, replicas = _leader(leader_of(model), facts), replica_summaries(registered, facts)
    stuck = {
        pool.name: (task, waits.note(pool.name, task, now))
        for pool in pools
        for task in [next_admission(model, pool.name, now)]
    }
    waits.keep(stuck)
    audit, leads_for = newest_audit(registered, facts), None if leader.since is None else now - leader.since
    quarantined = quarantined_by_kind(model)
    gateways, notifier = gateway_views(model)[:MAX_GATEWAYS], notifier_summary(model)
    schedules = schedule_summaries(model, wall)
    kept = {pool.name: kept for pool in pools if (kept := windows_that_keep(model, pool.name, now))}
    undefined = undefined_pools(model)
    known = Known(leader.replica, pools, holding, undefined, quarantined, gateways, notifier, kept)
    notices = diagnose(facts, known, stuck, replicas, leads_for, audit)
    troubles = {notice.severity for notice in notices} - {Severity.INFO}
    tasks = {state.value: number for state, number in tasks_by_state(model).items()}
    return Summary(
        cluster=facts.cluster,
        replica=facts.replica,
        role=facts.role,
        phase=facts.phase,
        version=__version__,
        engine=facts.engine,
        now=now,
        revision=facts.revision,
        staleness_seconds=round(facts.staleness_seconds, 1),
        freshness=facts.rule.store.judge(facts.staleness_seconds),
        page_limits=facts.rule.page,
        verdict=min(troubles, key=list(Severity).index, default=Severity.OK),
        notices=notices[:MAX_NOTICES],
        notices_total=len(notices),
        leader=leader,
        replicas=replicas,
        ended=ended_replicas(facts),
        gateways=gateways,
        notifier=notifier,
        schedules=schedules,
        schedules_total=len(schedule_names(model)),
        tasks=tasks,
        total=sum(tasks.values()),
        lost=sum(holds.lost for holds in holding.values()),
        stopping=sum(holds.stopping for holds in holding.values()),
        quarantined=quarantined.total(),
        pools=[
            _pool(pool, holding.get(pool.name, Holding()), owners_of(model, pool.name, now))
            for pool in pools[:MAX_POOLS]
        ],
        pools_total=len(pools),
        audit=audit,
        audit_problem=audit_problem,
    )


def _leader(leader: LeaderFacts | None, facts: Facts) -> LeaderSummary:
    told = leader.told if leader is not None else LeaderRecord()
    return LeaderSummary(
        replica=told.id,
        status_url=told.status_url,
        since=told.since,
        term=leader.term if leader is not None else 0,
        epoch=facts.epoch,
    )


def _pool(pool: PoolFacts, holds: Holding, owners: list[OwnerFacts]) -> PoolSummary:
    return PoolSummary(
        name=pool.name,
        policy=pool.policy,
        paused=pool.paused,
        maintenance=window_documents(pool),
        defined=pool.definition is not None,
        waiting=pool.waiting,
        on_hold=pool.on_hold,
        lost=holds.lost,
        tasks={state.value: number for state, number in pool.tasks.items()},
        resources=[
            ResourceSummary(
                name=resource,
                capacity=format_quantity(resource, pool.capacity.get(resource)),
                held=format_quantity(resource, pool.held.get(resource)),
                free=format_quantity(resource, pool.free.get(resource)),
                capacity_amount=pool.capacity.get(resource),
                held_amount=pool.held.get(resource),
            )
            for resource in pool.resources
        ],
        owners=[_owner(owner) for owner in _foremost(owners)],
        owners_total=len(owners),
    )


def _foremost(owners: list[OwnerFacts]) -> list[OwnerFacts]:
    """The MAX_OWNERS that hold most, then those for which most tasks wait; by name."""
    by_weight = sorted(owners, key=lambda owner: (-owner.part_held, -owner.waiting, owner.owner))
    return sorted(by_weight[:MAX_OWNERS], key=lambda owner: owner.owner)


def _owner(owner: OwnerFacts) -> OwnerSummary:
    return OwnerSummary(
        name=owner.owner,
        held=owner.held.format(),
        guarantee=owner.guarantee.format(),
        limit=owner.policy.limit.format(),
        part_held=owner.part_held,
        share=owner.share,
        running=owner.running,
        waiting=owner.waiting,
        on_hold=owner.on_hold,
        used_hours=in_hours(owner.used),
        lost_hours=in_hours(owner.parts.lost),
        stopping_hours=in_hours(owner.parts.stopping),
    )
