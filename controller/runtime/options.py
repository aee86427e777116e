"""The options of a replica."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from controller.election.elector import Timings


@dataclass(frozen=True, slots=True)
class ReplicaOptions:
    """The options that a replica is made with.

    `identity` is what it registers about itself: id, instance (unique to the process), host, pid, status_url,
    …
    """

    cluster: str
    identity: dict[str, Any]
    timings: Timings
    relist_seconds: float = 30.0
    heartbeat_seconds: float = 2.0
    silence_seconds: float = 10.0
    workers: int = 8  # effects under way at once
    # replace a leader whose process is gone before its lease ends (see election.sentinel)
    fast_takeover: bool = True
