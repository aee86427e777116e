"""The metrics of one notifier, for Prometheus. `python -m controller.notifier.metrics` prints their table.

No label names a task or an owner. Hosts beyond the first hundred are counted as `others`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, GCCollector, Metric, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from controller.notifier.courier import CourierCounts
from controller.telemetry.family import Family, MetricType, table

ON_DUTY = Family("tally_notifier_on_duty", MetricType.GAUGE, "1 while this notifier delivers.")
WAITING = Family(
    "tally_notifier_waiting", MetricType.GAUGE, "Requests to receivers that are still to be made."
)
OLDEST = Family(
    "tally_notifier_oldest_waiting_seconds",
    MetricType.GAUGE,
    "How long ago the oldest end happened that a receiver has yet to be told about; 0 if there is none.",
)
REQUESTS = Family(
    "tally_notifier_requests",
    MetricType.COUNTER,
    "Requests to receivers since this turn of duty began: delivered, failed (tried again), dead (given up).",
    ("host", "outcome"),
)
UNUSABLE = Family(
    "tally_notifier_secrets_unusable",
    MetricType.GAUGE,
    "1 while the file of secrets cannot be used as it is: the one before stays in force.",
)
FAMILIES = (ON_DUTY, WAITING, OLDEST, REQUESTS, UNUSABLE)


class NotifierMetrics(Collector):
    """Reads the notifier when it is asked. `counts` is None off duty."""

    def __init__(self, counts: Callable[[], CourierCounts | None], is_unusable: Callable[[], bool]) -> None:
        self._counts = counts
        self._is_unusable = is_unusable
        self.registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self.registry)
        self.registry.register(self)

    def collect(self) -> Iterator[Metric]:
        """See Collector."""
        counts = self._counts()
        yield _gauge(ON_DUTY, counts is not None)
        yield _gauge(WAITING, counts.waiting if counts is not None else 0)
        yield _gauge(OLDEST, counts.oldest_waiting_seconds if counts is not None else 0.0)
        requests = CounterMetricFamily(REQUESTS.name, REQUESTS.help, labels=REQUESTS.labels)
        for labels, number in (counts.by_host if counts is not None else {}).items():
            requests.add_metric(labels, number)
        yield requests
        yield _gauge(UNUSABLE, self._is_unusable())


def _gauge(family: Family, value: float) -> Metric:
    return GaugeMetricFamily(family.name, family.help, value=float(value))


if __name__ == "__main__":
    print(table(FAMILIES))  # noqa: T201  # its purpose
