"""A measured figure: samples, and the few numbers that say enough about them."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any

MANY = 20


@dataclass(frozen=True)
class Figure:
    """`baseline` is another figure's median to compare with: the ratio says how much more this is."""

    what: str
    on: str
    unit: str
    samples: list[float]
    baseline: float | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.samples)

    def row(self) -> tuple[str, str, str, str, str]:
        """The figure as cells of a table; the spread is from the least to the most, of many samples the middle half."""
        low, high = min(self.samples), max(self.samples)
        if len(self.samples) >= MANY:
            low, _, high = statistics.quantiles(self.samples, n=4)
        spread = f"{low:.4g} – {high:.4g}" if len(self.samples) > 1 else ""
        ratio = f"{self.median / self.baseline:.2f}" if self.baseline else ""
        return self.what, self.on, f"{self.median:.4g} {self.unit}", spread, ratio

    def to_json(self) -> dict[str, Any]:
        """All of it."""
        return {
            "what": self.what, "on": self.on, "unit": self.unit, "median": self.median, "samples": self.samples,
            "ratio": self.median / self.baseline if self.baseline else None,
        }  # fmt: skip
