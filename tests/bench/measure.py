"""A measured figure: raw samples, the few numbers that say enough about them, and what they are held
against.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

FSYNC = "etcd, fsync"
"""One etcd member on this machine's disk that syncs each commit, as in production."""

MEMORY = "none: no store is written"


@dataclass(frozen=True)
class Aim:
    """A bound on one number of a figure: `of` is median, p99, max or ratio."""

    of: str
    least: float | None = None
    most: float | None = None

    def __str__(self) -> str:
        return f"{self.of} ≥ {self.least:,g}" if self.least is not None else f"{self.of} ≤ {self.most:,g}"

    def met(self, value: float) -> bool:
        """Whether the number keeps to the bound."""
        return (self.least is None or value >= self.least) and (self.most is None or value <= self.most)


def quantile(samples: Sequence[float], share: float) -> float:
    """The nearest-rank quantile: a sample that was measured, never one in between."""
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, max(0, -int(-share * len(ordered) // 1) - 1))]


@dataclass(frozen=True)
class Figure:
    """One line of the table.

    `baseline` is what the ratio is to, named by `against`; `tail` shows p99 and maximum instead of
    the spread. All samples are in `unit`."""

    row: str
    what: str
    unit: str
    samples: list[float]
    on: str = FSYNC
    baseline: float | None = None
    against: str = ""
    aims: tuple[Aim, ...] = ()
    tail: bool = False
    note: str = ""
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def median(self) -> float:
        return statistics.median(self.samples)

    @property
    def ratio(self) -> float | None:
        return self.median / self.baseline if self.baseline else None

    def number(self, of: str) -> float | None:
        """The number that an aim speaks of; None for a ratio without a baseline."""
        if of == "ratio":
            return self.ratio
        return {"median": self.median, "p99": quantile(self.samples, 0.99), "max": max(self.samples)}[of]

    def met(self) -> bool | None:
        """Whether all aims are met; None without one that can be told."""
        told = [(aim, value) for aim in self.aims if (value := self.number(aim.of)) is not None]
        return all(aim.met(value) for aim, value in told) if told else None

    def cells(self) -> tuple[str, ...]:
        """row, what, median, spread, ratio, aim, durability."""
        met = self.met()
        aim = "; ".join(map(str, self.aims)) + {None: "", True: " ✓", False: " ✗ missed"}[met]
        ratio = f"{self.ratio:.2f} × {self.against}" if self.ratio is not None else ""
        return self.row, self.what, f"{short(self.median)} {self.unit}", self._spread(), ratio, aim, self.on

    def _spread(self) -> str:
        if len(self.samples) < 2:
            return "one run"
        if self.tail:
            return (
                f"p99 {short(quantile(self.samples, 0.99))}, max {short(max(self.samples))} of"
                f" {len(self.samples):,}"
            )
        return f"{short(min(self.samples))} – {short(max(self.samples))} of {len(self.samples):,}"

    def to_json(self) -> dict[str, Any]:
        """All of it, with what follows from the samples beside them."""
        return {
            "row": self.row,
            "what": self.what,
            "unit": self.unit,
            "durability": self.on,
            "median": self.median,
            "p50": quantile(self.samples, 0.5),
            "p99": quantile(self.samples, 0.99),
            "min": min(self.samples),
            "max": max(self.samples),
            "ratio": self.ratio,
            "against": self.against,
            "aims": [str(aim) for aim in self.aims],
            "met": self.met(),
            "note": self.note,
            "cells": self.cells(),
            "details": self.details,
            "samples": self.samples,
        }


def short(value: float) -> str:
    """Three significant digits, in full and with separators where there are more before the point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


class Skipped(Exception):
    """A row cannot be measured here; says why."""
