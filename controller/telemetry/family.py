"""What a metric is, and a table of metrics."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import NamedTuple

WAITS = (0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14400.0, 86400.0)
"""Buckets of times that tasks wait, in seconds."""
SHARES = (0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0)
"""Buckets of shares of a whole."""


class MetricType(StrEnum):
    """Prometheus' types."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"
    INFO = "info"


class Family(NamedTuple):
    """One metric. `labels` are those beside `replica_role`; a counter's name is given without `_total`."""

    name: str
    kind: MetricType
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()

    @property
    def exposed(self) -> str:
        """The name as Prometheus shows it."""
        return self.name + {MetricType.COUNTER: "_total", MetricType.INFO: "_info"}.get(self.kind, "")


def table(families: Iterable[Family]) -> str:
    """A table of metrics, in Markdown."""
    lines = ["| metric | type | labels | meaning |", "|---|---|---|---|"]
    for family in families:
        labels, meaning = ", ".join(f"`{label}`" for label in family.labels), family.help.replace("|", r"\|")
        kind = "gauge (always 1)" if family.kind is MetricType.INFO else family.kind.value
        lines.append(f"| `{family.exposed}` | {kind} | {labels} | {meaning} |")
    return "\n".join(lines)
