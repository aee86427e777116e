"""What a metric is, and a table of metrics."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import NamedTuple


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
