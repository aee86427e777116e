"""The series that are measured at each scrape, from the replica's view and its parts.

The model is held only while references are taken; sums are computed afterwards. The cost grows with pools,
holds and arrays, never with the number of stored tasks, or of members that are not under way.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from prometheus_client import CollectorRegistry, GCCollector, Metric, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from controller import __version__, bulkhead
from controller.clock import Clock
from controller.core.model import quarantine
from controller.core.model.lifecycle import State
from controller.core.model.model import Model
from controller.core.model.resources import ZERO
from controller.core.promise.finding import INVARIANTS, FindingSeverity
from controller.runtime.registrations import CANDIDACY
from controller.store.base import StoreSize
from controller.telemetry.catalog import BY_NAME, ROLE
from controller.telemetry.family import MetricType
from controller.telemetry.label_words import OTHER
from controller.views.array_runs import members_by_pool
from controller.views.freshness import Freshness
from controller.views.gateways import GatewayView, gateway_views
from controller.views.maintenance import WindowFacts, windows_by_pool
from controller.views.notices import BesideCounts, beside_counts
from controller.views.overview import Holding, holding_by_pool, next_admission, quarantined_by_kind
from controller.views.pools import OwnerFacts, PoolFacts, SharingFacts, all_pools, shared_pools, sharing_facts
from controller.views.replica import Facts, ReadableReplica
from controller.views.replicas import ReplicaFacts, all_replicas
from controller.views.tasks import tasks_by_pool

MOST_OWNERS = 50  # of a pool, as labels: those that it names
QUARANTINED = (
    "tasks",
    "states",
    "requests",
    "pools",
    "ledgers",
    "shares",
    "claims",
    "capacities",
    "repairs",
    "schedules",
    "schedule-states",
    "arrays",
    "unknown",
    quarantine.KIND,
)


@dataclass(slots=True)
class Outside:
    """Values that the view does not have. Other parts set them, and each scrape reads them.

    None means not known yet; the series is then absent.
    """

    audit: tuple[float, Mapping[tuple[str, str], int]] | None = None  # when; (invariant, severity) → findings
    audited_at: float = 0.0  # the same moment in boottime
    size: StoreSize | None = None
    in_office_since: float | None = None  # boottime
    watch_restarts: Callable[[], Mapping[str, int]] = dict
    endpoint_failures: Callable[[], Mapping[str, int]] = dict
    engine_faults: Callable[[], Mapping[str, int]] = dict
    rate_limit_seconds: Callable[[], float] = float


class _Taken(NamedTuple):
    """Values that were taken while the model was held; they do not change afterwards."""

    pools: list[PoolFacts]
    tasks: dict[tuple[str, State], int]
    members: dict[tuple[str, str], int]
    holding: dict[str, Holding]
    next_of: dict[str, str]  # the next admission of each pool; "": none
    replicas: list[ReplicaFacts]
    quarantined: Mapping[str, int]
    beside: BesideCounts
    gateways: list[GatewayView]
    sharing: dict[str, SharingFacts]
    windows: dict[str, WindowFacts]


class ViewSeries(Collector):
    """The series from a replica's view, and from `outside`."""

    def __init__(self, view: ReadableReplica, outside: Outside, clock: Clock) -> None:
        self._view = view
        self._outside = outside
        self._clock = clock
        self._next_of: dict[str, str] = {}  # as the last scrape found them

    def describe(self) -> list[Metric]:
        """Describe nothing: a registration must not read the model."""
        return []

    def collect(self) -> Iterator[Metric]:
        """All families, with their present values."""
        facts = self._view.facts()
        with self._view.reading() as model:
            taken = _take(model, self._view.now())
        families = _Families(facts.role)
        _add_replica(families, facts)
        _add_model(families, taken)
        _add_pools(families, taken, self._next_of)
        self._next_of = taken.next_of
        for pool in taken.pools:
            if pool.name in taken.sharing:
                _add_owners(families, pool, taken.sharing[pool.name])
        self._add_outside(families, facts)
        yield from families.made.values()

    def _add_outside(self, families: _Families, facts: Facts) -> None:
        outside = self._outside
        for (where, error), number in dict(bulkhead.counts).items():
            families.add("tally_errors", number, where, error)
        for cause, number in dict(outside.watch_restarts()).items():  # a copy: others count on
            families.add("tally_store_watch_restarts", number, cause)
        for endpoint, number in dict(outside.endpoint_failures()).items():
            families.add("tally_store_endpoint_failures", number, endpoint)
        for code, number in dict(outside.engine_faults()).items():
            families.add("tally_engine_faults", number, code)
        families.add("tally_engine_rate_limit_wait_seconds", outside.rate_limit_seconds())
        if facts.role == "leader" and outside.in_office_since is not None:
            # an engine that never answers is silent, too
            in_office = max(0.0, self._clock.boottime() - outside.in_office_since)
            families.add(
                "tally_engine_silence_seconds",
                in_office if facts.engine_age_seconds is None else facts.engine_age_seconds,
            )
        if outside.size is not None:
            families.add("tally_store_size_bytes", outside.size.used)
            families.add("tally_store_size_in_use_bytes", outside.size.in_use)
            if outside.size.quota:
                families.add("tally_store_quota_bytes", outside.size.quota)
        if outside.audit is not None:
            at, findings = outside.audit
            families.add("tally_audit_timestamp_seconds", at)
            age = max(0.0, self._clock.boottime() - outside.audited_at)
            families.add("tally_audit_age_seconds", age)
            if facts.rule.audit.judge(age) is Freshness.DEAD:  # mended, or found by others, since
                return
            for invariant in INVARIANTS:
                for severity in FindingSeverity:
                    families.add(
                        "tally_audit_findings", findings.get((invariant, severity), 0), invariant, severity
                    )


class ProcessSeries(Collector):
    """Memory, CPU time, open files and garbage collection of this process, with the replica's role."""

    def __init__(self, role: Callable[[], str]) -> None:
        self._role = role
        own = CollectorRegistry(auto_describe=False)
        self._collectors = (
            ProcessCollector(registry=own),
            PlatformCollector(registry=own),
            GCCollector(registry=own),
        )

    def describe(self) -> list[Metric]:
        """Nothing: see ViewSeries."""
        return []

    def collect(self) -> Iterator[Metric]:
        """The library's own families."""
        for collector in self._collectors:
            for family in collector.collect():
                labelled = [
                    sample._replace(labels={**sample.labels, ROLE: self._role()}) for sample in family.samples
                ]
                family.samples = labelled
                yield family


class _Families:
    """Families by name, made from the catalog when the first value is added."""

    def __init__(self, role: str) -> None:
        self.made: dict[str, Metric] = {}
        self._role = role

    def add(self, name: str, value: float, *labels: str) -> None:
        family = BY_NAME[name]
        if name not in self.made:
            make = CounterMetricFamily if family.kind is MetricType.COUNTER else GaugeMetricFamily
            self.made[name] = make(
                family.exposed if family.kind is MetricType.INFO else name,
                family.help,
                labels=(*family.labels, ROLE),
            )
        made = self.made[name]
        assert isinstance(made, CounterMetricFamily | GaugeMetricFamily)
        made.add_metric((*labels, self._role), value)


def _take(model: Model, now: float) -> _Taken:
    pools = all_pools(model, now)
    return _Taken(
        pools=pools,
        tasks=tasks_by_pool(model),
        members=members_by_pool(model),
        holding=holding_by_pool(model),
        next_of={
            pool.name: next_admission(model, pool.name, now) for pool in pools if pool.definition is not None
        },
        replicas=all_replicas(model),
        quarantined={**dict.fromkeys(QUARANTINED, 0), **quarantined_by_kind(model)},
        beside=beside_counts(model),
        gateways=gateway_views(model),
        sharing={pool: sharing_facts(model, pool, now) for pool in shared_pools(model)},
        windows=windows_by_pool(model, now),
    )


def _add_replica(families: _Families, facts: Facts) -> None:
    families.add("tally_build", 1, __version__)
    families.add("tally_replica", 1, facts.replica, facts.cluster, facts.engine)
    families.add("tally_phase", 1, facts.phase)
    families.add("tally_leading", int(facts.role == "leader"))
    may_lead = all(check.ok for check in facts.ready if check.name in CANDIDACY)
    families.add("tally_candidate", int(may_lead))
    families.add("tally_leader_known", int(bool(facts.leader)))
    families.add("tally_term", facts.term)
    families.add("tally_epoch", facts.epoch)
    families.add("tally_lease_remaining_seconds", facts.lease_seconds)
    families.add("tally_revision", facts.revision)
    families.add("tally_staleness_seconds", facts.staleness_seconds)
    for name, age in facts.replica_ages.items():
        families.add("tally_replica_age_seconds", age, name)
    for cause, number in facts.reloads.items():
        families.add("tally_model_reloads", number, cause)


def _add_model(families: _Families, taken: _Taken) -> None:
    """Tasks of pools that do not exist are counted under one name: those names are not bounded."""
    named = {pool.name for pool in taken.pools}
    for series, counts in (("tally_tasks", taken.tasks), ("tally_array_members", taken.members)):
        numbers = Counter[tuple[str, str]]()
        for (pool, state), number in counts.items():
            numbers[pool if pool in named else OTHER, state] += number
        for (pool, state), number in numbers.items():
            families.add(series, number, pool, state)
    for replica in taken.replicas:
        families.add("tally_replica_lag_revisions", replica.lag_revisions, replica.id)
    for kind, number in taken.quarantined.items():
        families.add("tally_quarantined_records", number, kind)
    unready = sum(not gateway.ready for gateway in taken.gateways)
    families.add("tally_gateways", len(taken.gateways) - unready, "true")
    families.add("tally_gateways", unready, "false")
    families.add("tally_attestations", taken.beside.attestations)
    families.add("tally_schedules", taken.beside.schedules - taken.beside.suspended, "false")
    families.add("tally_schedules", taken.beside.suspended, "true")
    families.add("tally_notices_waiting", taken.beside.waiting_notices)
    families.add("tally_notices_dead", taken.beside.dead_notices)


def _add_pools(families: _Families, taken: _Taken, before: Mapping[str, str]) -> None:
    known = {pool.name: (pool.capacity, pool.held) for pool in taken.pools}
    for name in sorted({*known, *taken.holding}):  # a hold of no pool at all is drift, too
        capacity, held = known.get(name, (ZERO, ZERO))
        holds = taken.holding.get(name, Holding())
        families.add("tally_tasks_lost", holds.lost, name)
        for resource in sorted({*capacity, *held, *holds.held}):
            for series, amount in (
                ("tally_pool_capacity", capacity.get(resource)),
                ("tally_pool_held", held.get(resource)),
                ("tally_pool_free", capacity.get(resource) - held.get(resource)),
                ("tally_pool_drift", held.get(resource) - holds.held.get(resource)),
            ):
                families.add(series, _in_base_units(resource, amount), name, resource)
    for pool in taken.pools:
        # also what nothing waits for, or an autoscaler would not see the end of a wait
        for resource in sorted({*pool.capacity, *pool.demand}):
            demanded = _in_base_units(resource, pool.demand.get(resource))
            families.add("tally_pool_demand", demanded, pool.name, resource)
        if pool.name in taken.next_of:
            begins = taken.next_of[pool.name]
            is_stuck = begins != "" and before.get(pool.name) == begins
            families.add("tally_pool_admissible", int(is_stuck), pool.name)
            families.add("tally_pool_paused", int(pool.paused), pool.name)
            families.add("tally_tasks_on_hold", pool.on_hold, pool.name)
            families.add("tally_tasks_gated", pool.gated, pool.name)
        if pool.name in taken.windows:
            window = taken.windows[pool.name]
            families.add("tally_pool_maintenance", int(window.goes_on), pool.name)
            families.add("tally_tasks_kept_back", window.kept_back, pool.name)


def _add_owners(families: _Families, pool: PoolFacts, sharing: SharingFacts) -> None:
    definition = pool.definition  # None: it cannot be read, and the shares are there all the same
    names_of = definition.sharing.owners if definition is not None and definition.sharing is not None else ()
    named = dict.fromkeys(sorted(names_of)[:MOST_OWNERS])
    by_label: dict[str, list[OwnerFacts]] = {}
    for owner in sharing.owners:
        by_label.setdefault(owner.owner if owner.owner in named else OTHER, []).append(owner)
    for label, owners in by_label.items():
        used = sum((owner.used for owner in owners), ZERO)
        for series, amounts, names, seconds in (
            ("tally_owner_held", [owner.held for owner in owners], (), 1),
            ("tally_owner_guarantee", [owner.guarantee for owner in owners], (), 1),
            ("tally_owner_used", [owner.used for owner in owners], (), 1000),
            # of each resource that was used, or no rate would show the first loss
            ("tally_owner_lost", [owner.parts.lost for owner in owners], used, 1000),
            ("tally_owner_stopping", [owner.parts.stopping for owner in owners], used, 1000),
        ):
            total = sum(amounts, ZERO)
            for resource in {**dict.fromkeys(total), **dict.fromkeys(names)}:
                value = _in_base_units(resource, total.get(resource)) / seconds
                families.add(series, value, pool.name, label, resource)
        if label != OTHER:
            for resource, amount in owners[0].policy.limit.items():
                value = _in_base_units(resource, amount)
                families.add("tally_owner_limit", value, pool.name, label, resource)
        largest = max(math.inf if owner.share is None else owner.share for owner in owners)
        families.add("tally_owner_share", largest, pool.name, label)
        families.add("tally_owner_running", sum(owner.running for owner in owners), pool.name, label)
        families.add("tally_owner_waiting", sum(owner.waiting for owner in owners), pool.name, label)
        below = any(owner.is_below_guarantee for owner in owners)
        families.add("tally_owner_below_guarantee", int(below), pool.name, label)
    families.add("tally_pool_claims", len(sharing.claims), pool.name)
    if definition is not None and definition.preemption is not None:
        most = definition.preemption.per_minute
        families.add("tally_pool_preemptions_per_minute", most, pool.name)


def _in_base_units(resource: str, amount: int) -> float:
    return amount / 1000 if resource == "cpu" else float(amount)
