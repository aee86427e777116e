"""What a replica knows, for Prometheus: read from its view at each scrape, so that there is nothing to keep in step."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily
from prometheus_client.registry import Collector

from controller import __version__
from controller.core.resources import Vector
from controller.core.view import ReplicaView

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class ReplicaMetrics(Collector):
    """The metrics of one replica; resources in base units (cores, bytes, counts)."""

    def __init__(self, view: ReplicaView) -> None:
        self._view = view
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def exposition(self) -> bytes:
        """The metrics in Prometheus' text format."""
        return generate_latest(self._registry)

    def describe(self) -> list[Metric]:
        """Nothing: registering must not read the model."""
        return []

    def collect(self) -> Iterator[Metric]:
        """All families, from the view as it is now."""
        yield from self._of_replica()
        with self._view.reading() as world:
            counts = dict(world.counts)
            capacity = {name: record.pool.capacity for name, record in world.pools.items()}
            held = {name: ledger.held for name, ledger in world.ledgers.items()}
            quarantined = len(world.quarantine)
        tasks = GaugeMetricFamily("tally_tasks", "Tasks by pool and state.", labels=["pool", "state"])
        for (pool, state), number in counts.items():
            tasks.add_metric([pool, state], number)
        yield tasks
        yield _amounts("tally_pool_capacity", "Capacity of a pool, in cores, bytes or counts.", capacity)
        yield _amounts("tally_pool_held", "What a pool's ledger says is held, in cores, bytes or counts.", held)
        yield GaugeMetricFamily("tally_quarantined_records", "Records that do not parse, and foreign keys.", quarantined)

    def _of_replica(self) -> Iterator[Metric]:
        facts = self._view.facts()
        yield InfoMetricFamily("tally_build", "What runs here.", {"version": __version__})
        yield InfoMetricFamily(
            "tally_replica", "Who this is.", {"replica": facts.replica, "cluster": facts.cluster, "engine": facts.engine}
        )
        phase = GaugeMetricFamily("tally_phase", "1 for the phase that the replica is in.", labels=["phase"])
        phase.add_metric([facts.phase], 1)
        yield phase
        yield GaugeMetricFamily("tally_leading", "1 while this replica leads.", int(facts.role == "leader"))
        yield GaugeMetricFamily("tally_leader_known", "1 while this replica knows of a leader.", int(bool(facts.leader)))
        yield GaugeMetricFamily("tally_term", "The leader key's create revision while this replica leads, else 0.", facts.term)
        yield GaugeMetricFamily("tally_epoch", "Elections so far.", facts.epoch)
        yield GaugeMetricFamily("tally_revision", "The store's revision that the model has applied.", facts.revision)
        yield GaugeMetricFamily(
            "tally_staleness_seconds", "Seconds since the model was last known to be current.", facts.staleness_seconds
        )


def _amounts(name: str, documentation: str, by_pool: dict[str, Vector]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, documentation, labels=["pool", "resource"])
    for pool, vector in by_pool.items():
        for resource, amount in vector.items():
            family.add_metric([pool, resource], amount / 1000 if resource == "cpu" else amount)
    return family
