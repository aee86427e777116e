"""A point of `tally check`."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class CheckStatus(StrEnum):
    """The status of a point; `WRONG` makes the exit code 1."""

    OK = "ok"
    WARNING = "warning"
    WRONG = "wrong"


class Point(NamedTuple):
    """One check, and what was seen."""

    name: str
    verdict: CheckStatus
    seen: str
