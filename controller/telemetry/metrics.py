"""The metrics of one replica, for Prometheus: counted at each event, or measured at each scrape.

`python -m controller.telemetry.metrics` prints the reference for `deploy/metrics.md`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import prometheus_client
from prometheus_client import CollectorRegistry, Histogram, disable_created_metrics, generate_latest

from controller.clock import Clock
from controller.core.model.lifecycle import FINISHED, HOLDING, State
from controller.core.model.schedules import TickOutcome, TickResult
from controller.core.model.task import Status
from controller.runtime.instruments import Taken
from controller.store.base import StoreSize
from controller.telemetry.catalog import BY_NAME, FAMILIES, ROLE
from controller.telemetry.family import MetricType, table
from controller.telemetry.label_words import OTHER, REASONS, known
from controller.telemetry.scrape import Outside, ProcessSeries, ViewSeries
from controller.views.replica import ReadableReplica

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_LEADING_PHASES = frozenset({"taking-over", "leading"})
_STATES = frozenset(state.value for state in State)
_Family = TypeVar("_Family", prometheus_client.Counter, Histogram)

_COUNTED_HERE = (
    "tally_transitions",
    "tally_engine_watch_restarts",
    "tally_notices_unkept",
    "tally_schedule_ticks",
)


class Metrics:
    """See the module's docstring. Implements the runtime's Instruments; safe to call from any thread."""

    def __init__(self, clock: Clock) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each, of which nothing here makes use
        self.outside = Outside()
        self._clock = clock
        self._registry = CollectorRegistry()
        self._role = "follower"
        self._pools: frozenset[str] = frozenset()
        self._counters: dict[str, prometheus_client.Counter] = {}
        self._histograms: dict[str, Histogram] = {}
        self._children: dict[tuple[str, tuple[str, ...], str], Any] = {}
        for family in FAMILIES:
            labels = (*family.labels, ROLE)
            if family.kind is MetricType.HISTOGRAM:
                self._histograms[family.name] = Histogram(
                    family.name, family.help, labels, buckets=family.buckets, registry=self._registry
                )
            # the others are read at each scrape
            elif family.name in _COUNTED_HERE:
                self._counters[family.name] = prometheus_client.Counter(
                    family.name, family.help, labels, registry=self._registry
                )
        self._registry.register(ProcessSeries(lambda: self._role))

    def observe(self, view: ReadableReplica) -> None:
        """Measure this replica at each scrape, too. Call once."""
        self._registry.register(ViewSeries(view, self.outside, self._clock))

    def exposition(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self._registry)

    def count(self, name: str, *labels: str, times: int = 1) -> None:
        """Increment the counter `name`."""
        self._child(self._counters[name], name, labels).inc(times)

    def time(self, name: str, value: float, *labels: str) -> None:
        """Add a value to the histogram `name`."""
        assert len(labels) == len(BY_NAME[name].labels)
        self._child(self._histograms[name], name, labels).observe(value)

    def _child(self, family: _Family, name: str, labels: tuple[str, ...]) -> _Family:
        """The series of these labels, which takes the library longer to find."""
        key = name, labels, self._role
        child = self._children.get(key)
        if child is None:
            child = self._children[key] = family.labels(*labels, self._role)
        return child

    # -- reported by the runtime

    def entered(self, phase: str) -> None:
        """See Instruments."""
        self._role = "leader" if phase in _LEADING_PHASES else "follower"
        if phase == "taking-over":
            self.outside.in_office_since = self._clock.boottime()
            # from 0 on, so that a rate has the first of its kind, too
            self._counters["tally_notices_unkept"].labels(self._role)
            for result in TickResult:
                self._counters["tally_schedule_ticks"].labels(result.value, self._role)

    def turned(self) -> None:
        """See Instruments. Not counted: the liveness check already shows it."""

    def took_over(self, seconds: float) -> None:
        """See Instruments."""
        self.time("tally_take_over_seconds", seconds)

    def transitioned(self, taken: Sequence[Taken]) -> None:
        """See Instruments. Only an admitted task names a pool that exists: a spec may contain any text."""
        counted = Counter[tuple[str, str, str, str]]()
        for before, after, steps in taken:
            pool = after.pool if after.attempt else OTHER
            for step in steps:
                source, state = step.source, step.state
                counted[source, state, pool, step.reason] += 1
                if state == State.PENDING and source != State.PENDING:
                    self.time("tally_queue_wait_seconds", max(0.0, step.at - _queued_at(before, after)), pool)
                elif state == State.RUNNING and source != State.RUNNING:
                    self.time("tally_start_seconds", max(0.0, step.at - (after.admitted_at or step.at)), pool)
                elif state in FINISHED and source in HOLDING and after.started_at is not None:
                    self.time("tally_run_seconds", max(0.0, step.at - after.started_at), pool, state)
        for (source, state, pool, reason), times in counted.items():
            labels = known(source, _STATES), known(state, _STATES), pool, known(reason, REASONS)
            self.count("tally_transitions", *labels, times=times)

    def unnoticed(self, ends: int) -> None:
        """See Instruments."""
        self._counters["tally_notices_unkept"].labels(self._role).inc(ends)

    def ticked(self, outcome: TickOutcome) -> None:
        """See Instruments."""
        self._counters["tally_schedule_ticks"].labels(outcome.result.value, self._role).inc(outcome.count)

    # -- reported by others

    def audited(self, report: Mapping[str, Any]) -> None:
        """An audit was made: its report as JSON."""
        found: dict[tuple[str, str], int] = {}
        for finding in report["findings"]:
            kind = (finding["invariant"], finding["severity"])
            found[kind] = found.get(kind, 0) + 1
        self.outside.audit = (report["at"], found)
        self.outside.audited_at = self._clock.boottime()

    def looked_ahead(self, seconds: float) -> None:
        """See Meter."""
        self.time("tally_forecast_seconds", seconds)

    def begun_as_told(self, seconds: float, share: float) -> None:
        """See Meter."""
        self.time("tally_forecast_start_error_seconds", seconds)
        self.time("tally_forecast_start_error_ratio", share)

    def sized(self, size: StoreSize) -> None:
        """etcd reported its size."""
        self.outside.size = size


def _queued_at(before: Status | None, after: Status) -> float:
    if before is not None and before.state is State.WAITING_RETRY:
        return before.retry_at or 0.0
    return after.queued_at or after.created_at


HEAD = """# The metrics of a replica

Each replica serves these metrics at `/metrics` of its status endpoint, in Prometheus' text format. `python -m
controller.telemetry.metrics` generates this page from the catalog in the code, and a test compares the two.
Every series also has the label `replica_role` (`leader` or `follower`): counted events carry the role that
the replica had at the time, and measured values carry its present role. Every replica has the whole model, so
select `replica_role="leader"` to sum over replicas. Units are seconds, bytes and cores. The series of the
process itself (`process_…`, `python_…`) come from the Prometheus client library.
"""

if __name__ == "__main__":
    print(f"{HEAD}\n{table(FAMILIES)}")  # noqa: T201  # its purpose
