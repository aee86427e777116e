"""How old shown data may be: one rule for the live page, the status endpoint, the metrics and the CLI.

Everything that Tally shows of something else carries its age: the seconds since that was last heard from. The
reader counts them with the clock that also counts suspension (boottime). No wall clock decides whether a
thing is alive.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

HEARTBEAT_SECONDS = 2.0  # the defaults of the settings of these names
SILENCE_SECONDS = 10.0
RELIST_SECONDS = 30.0

LIST_SECONDS = 30.0
"""The time that one list of an engine may take. The engine is not called dead sooner."""


class Freshness(StrEnum):
    """What an age means, from best to worst: current, old enough to be doubted, too old to be believed."""

    FRESH = "fresh"
    STALE = "stale"
    DEAD = "dead"


class StalenessLimits(NamedTuple):
    """The ages, in seconds, from which something is stale, and dead."""

    stale_seconds: float
    dead_seconds: float

    def judge(self, age_seconds: float) -> Freshness:
        """What this age means."""
        if age_seconds >= self.dead_seconds:
            return Freshness.DEAD
        return Freshness.STALE if age_seconds >= self.stale_seconds else Freshness.FRESH


class Rule(NamedTuple):
    """The limits for all that is shown.

    - `store`: since etcd was heard from. Every replica writes once per heartbeat, so it is never old for
      long.
    - `replica`: since another replica's registration was renewed. It expires after five missed heartbeats.
    - `engine`: since the engine answered the leader, which lists it regularly, even if nothing happens.
    - `audit`: since the verdict was reached.
    - `page`: since the live page had an answer of its replica, which it asks every five seconds.
    """

    store: StalenessLimits
    replica: StalenessLimits
    engine: StalenessLimits
    audit: StalenessLimits = StalenessLimits(600.0, 1800.0)
    page: StalenessLimits = StalenessLimits(12.0, 30.0)

    @classmethod
    def of(
        cls,
        heartbeat_seconds: float = HEARTBEAT_SECONDS,
        silence_seconds: float = SILENCE_SECONDS,
        relist_seconds: float = RELIST_SECONDS,
    ) -> Rule:
        """The rule under these settings."""
        return cls(
            store=StalenessLimits(3 * heartbeat_seconds, 2 * silence_seconds),
            replica=StalenessLimits(3 * heartbeat_seconds, 5 * heartbeat_seconds),
            engine=StalenessLimits(2 * relist_seconds, max(4 * relist_seconds, LIST_SECONDS)),
        )


RULE = Rule.of()
