"""The rules of a pool on whom to tell about ended tasks (`Pool.notify`)."""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct, field


class Ending(StrEnum):
    """How a task ended, as a rule on notices names it."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class NotifyRule(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Whom to tell about ended tasks: those that end so (`succeeded`, …), and have these labels."""

    url: str
    on: tuple[str, ...]
    labels: dict[str, str] = field(default_factory=dict)
