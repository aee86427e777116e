"""All that the demo found."""

from __future__ import annotations

from dataclasses import dataclass

from controller.dev.demo.course import Course, Design


@dataclass(frozen=True, slots=True)
class Audit:
    """What `tally audit` printed, and its exit code."""

    text: str
    code: int


@dataclass(frozen=True, slots=True)
class DemoResult:
    """The courses of all designs, and the audit of Tally's."""

    etcd: str  # its version
    courses: tuple[Course, ...]
    audit: Audit
    take_over_seconds: float

    @property
    def unclaimed(self) -> list[Design]:
        """The designs that did not behave as claimed."""
        return [course.design for course in self.courses if not course.is_as_claimed]

    @property
    def is_as_claimed(self) -> bool:
        """Whether each design was right or wrong as claimed, and the audit found nothing."""
        return not self.unclaimed and self.audit.code == 0
