"""The audits that a replica makes, on request or of itself, and the last verdict, which it registers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from controller.clock import Clock
from controller.views.replica import AuditResult


class Audits:
    """The audits of a replica. For any thread.

    `make` makes an audit and returns its report as JSON. `heard` is called with every verdict.
    """

    def __init__(
        self,
        make: Callable[[], dict[str, Any]],
        clock: Clock,
        heard: Callable[[Mapping[str, Any]], None] = lambda _: None,
    ) -> None:
        self._make = make
        self._clock = clock
        self._heard = heard
        self.verdict: AuditResult | None = None

    def make(self) -> dict[str, Any]:
        """Audit now. Raises TallyError if the store does not answer."""
        report = self._make()
        self.made(report)
        return report

    def made(self, report: Mapping[str, Any]) -> None:
        """Note an audit that was made just now. An incomplete one is no verdict: the last one grows old."""
        if report.get("verdict") == "incomplete":
            return
        self.verdict = AuditResult.of(report, self._clock.boottime())
        self._heard(report)
