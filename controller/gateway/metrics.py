"""The metrics of one gateway, for Prometheus. `python -m controller.gateway.metrics` prints their table.

No label names a task, a caller or an owner: the number of series is bounded by fixed sets of words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from prometheus_client import (
    CollectorRegistry,
    Counter,
    GCCollector,
    Histogram,
    Metric,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from controller import __version__, bulkhead
from controller.telemetry.family import SHARES, Family, MetricType, table

_LATENCY = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
UNKNOWN = "unknown"
"""The label's value of a request to what there is not."""

REQUESTS = Family(
    "tally_gateway_requests",
    MetricType.COUNTER,
    "Answers by operation of the API (`unknown` for what there is not) and HTTP status.",
    ("operation", "code"),
)
SECONDS = Family(
    "tally_gateway_request_seconds",
    MetricType.HISTOGRAM,
    "Time until an answer begins, by operation; what is waited for on request counts.",
    ("operation",),
    _LATENCY,
)
TASKS = Family(
    "tally_gateway_submitted_tasks",
    MetricType.COUNTER,
    "Submitted tasks by outcome: created, unchanged, conflict, invalid, denied.",
    ("outcome",),
)
SIGN_INS = Family(
    "tally_gateway_sign_ins",
    MetricType.COUNTER,
    "Requests by how the caller proved who it is (token, certificate, oidc, kubernetes); `none`: it did not;"
    " `unavailable`: who must be asked did not answer.",
    ("method",),
)
LOOKS = Family(
    "tally_gateway_forecast_seconds",
    MetricType.HISTOGRAM,
    "Time of computing a look ahead, in a process of its own.",
    (),
    _LATENCY,
)
START_ERRORS = Family(
    "tally_gateway_forecast_start_error_ratio",
    MetricType.HISTOGRAM,
    "By how much the beginning of a task differed from what a forecast first told of it, as a share of its"
    " wait.",
    (),
    SHARES,
)
MEASURED = (
    Family("tally_gateway_build", MetricType.INFO, "The version of Tally.", ("version", "cluster")),
    Family("tally_gateway_ready", MetricType.GAUGE, "1 while callers should come here."),
    Family("tally_gateway_revision", MetricType.GAUGE, "The revision of etcd that the model has applied."),
    Family("tally_gateway_staleness_seconds", MetricType.GAUGE, "Time since the last answer of etcd."),
    Family(
        "tally_gateway_open",
        MetricType.GAUGE,
        "What is open now: streams (of events), watches, waits, reads (that wait for a revision), calls"
        " (short requests), bodies (that have not arrived yet), uploads, lists, acts (on many tasks),"
        " logs, forecasts.",
        ("kind",),
    ),
    Family(
        "tally_gateway_sign_in_problem",
        MetricType.GAUGE,
        "1 for a file or a provider that cannot be used: `gateway_policy_file` (the last one that was valid"
        " stays in force), `gateway_tokens_file` (no token is accepted), `gateway_session_key_file` (the keys"
        " before stay in force), `oidc`, `kubernetes`.",
        ("what",),
    ),
    Family(
        "tally_gateway_errors",
        MetricType.COUNTER,
        "Unexpected errors that were contained, as `tally_errors_total`. Each is a bug in Tally.",
        ("where", "error"),
    ),
)
FAMILIES: tuple[Family, ...] = (REQUESTS, SECONDS, TASKS, SIGN_INS, LOOKS, START_ERRORS, *MEASURED)


class Measures(NamedTuple):
    """What is measured at each scrape."""

    cluster: str
    ready: Callable[[], bool]
    revision: Callable[[], int]
    staleness_seconds: Callable[[], float]
    opened: Callable[[], Mapping[str, int]]
    problems: Callable[[], Mapping[str, str]]


class GatewayMetrics:
    """See the module's docstring. Safe to call from any thread."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each, of no use here
        self._registry = CollectorRegistry(auto_describe=False)
        self._requests, self._tasks, self._sign_ins = (
            Counter(each.name, each.help, each.labels, registry=self._registry)
            for each in (REQUESTS, TASKS, SIGN_INS)
        )
        self._seconds, self._looks, self._start_errors = (
            Histogram(each.name, each.help, each.labels, buckets=each.buckets, registry=self._registry)
            for each in (SECONDS, LOOKS, START_ERRORS)
        )
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self._registry)

    def observe(self, measures: Measures) -> None:
        """Measure this gateway at each scrape, too. Call once."""
        self._registry.register(_Measured(measures))

    def answered(self, operation: str, code: int, seconds: float) -> None:
        """A request has its answer, or the beginning of one."""
        self._requests.labels(operation, str(code)).inc()
        self._seconds.labels(operation).observe(seconds)

    def submitted(self, outcome: str) -> None:
        """A task was submitted, with this outcome."""
        self._tasks.labels(outcome).inc()

    def signed_in(self, method: str) -> None:
        """A caller has proved who it is; or `none`, or `unavailable`."""
        self._sign_ins.labels(method).inc()

    def looked_ahead(self, seconds: float) -> None:
        """See Meter."""
        self._looks.observe(seconds)

    def begun_as_told(self, _: float, share: float) -> None:
        """See Meter."""
        self._start_errors.observe(share)

    def exposition(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self._registry)


class _Measured(Collector):
    def __init__(self, measures: Measures) -> None:
        self._measures = measures

    def describe(self) -> list[Metric]:
        """Nothing: what is measured is not known before."""
        return []

    def collect(self) -> Iterator[Metric]:
        """The families of MEASURED."""
        of = self._measures
        build, ready, revision, staleness, opened, problems, errors = MEASURED
        yield _gauge(build, {(__version__, of.cluster): 1.0})
        yield _gauge(ready, {(): float(of.ready())})
        yield _gauge(revision, {(): float(of.revision())})
        yield _gauge(staleness, {(): of.staleness_seconds()})
        yield _gauge(opened, {(kind,): float(number) for kind, number in of.opened().items()})
        yield _gauge(problems, {(what,): float(bool(error)) for what, error in of.problems().items()})
        counted = CounterMetricFamily(errors.name, errors.help, labels=errors.labels)
        for labels, number in sorted(bulkhead.counts.items()):
            counted.add_metric(labels, number)
        yield counted


def _gauge(family: Family, values: Mapping[tuple[str, ...], float]) -> Metric:
    found = GaugeMetricFamily(family.exposed, family.help, labels=family.labels)
    for labels, value in values.items():
        found.add_metric(labels, value)
    return found


if __name__ == "__main__":
    print(table(FAMILIES))  # noqa: T201
