"""Views of replicas and of the leader, for the client library and the command line."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import msgspec

from controller.core.model.model import Model
from controller.core.model.records import Change
from controller.views.freshness import HEARTBEAT_SECONDS, Freshness, Rule
from controller.views.replicas import all_replicas, leader_facts


class ReplicaView(msgspec.Struct, frozen=True, kw_only=True):
    """A replica as it registered itself.

    `engine` holds the engine's name and its options, such as `state_dir`.
    """

    id: str
    instance: str = ""
    role: Literal["leader", "follower"] = "follower"
    host: str = ""
    pid: int = 0
    status_url: str = ""
    version: str = ""
    engine: dict[str, Any] = {}
    started_at: float = 0.0
    applied_revision: int = 0
    # when it wrote this, by its own clock, once per heartbeat; 0 if its version is older and writes no time
    at: float = 0.0
    heartbeat_seconds: float = HEARTBEAT_SECONDS
    engine_answers: bool | None = None  # None: it does not lead, and so does not ask the engine
    engine_age_seconds: float | None = None  # time since the engine's last answer, when it wrote this
    # why it does not campaign: its engine is not the recorded one, or has not identified itself yet
    engine_problem: str = ""

    def age_seconds(self, now: float) -> float | None:
        """Seconds from its last heartbeat, by its own clock, to `now`; None when it wrote no time."""
        return max(0.0, now - self.at) if self.at else None

    def freshness(self, now: float) -> Freshness:
        """Whether the replica is fresh, stale or dead by its age.

        A replica that wrote no time counts as fresh: its registration has not expired.
        """
        age = self.age_seconds(now)
        return Rule.of(self.heartbeat_seconds).replica.judge(age) if age is not None else Freshness.FRESH


def by_engine(replicas: Iterable[ReplicaView]) -> list[ReplicaView]:
    """The replicas in the order in which to trust their engine.

    The leader comes first, then the replicas that report no problem with their engine.
    """
    return sorted(replicas, key=lambda replica: (replica.role != "leader", bool(replica.engine_problem)))


class LeaderView(msgspec.Struct, frozen=True, kw_only=True):
    """The leader.

    `term` fences its writes; `epoch` counts terms, and survives a restore from a backup.
    """

    id: str
    term: int
    instance: str = ""
    status_url: str = ""
    version: str = ""
    epoch: int = 0
    since: float = 0.0


def replica_views(model: Model) -> list[ReplicaView]:
    """The registered replicas, sorted by id."""
    return [
        ReplicaView(
            id=facts.id,
            instance=facts.told.instance,
            role="leader" if facts.leads else "follower",
            host=facts.told.host,
            pid=facts.told.pid,
            status_url=facts.told.status_url,
            version=facts.told.version,
            engine=facts.told.engine,
            started_at=facts.told.started_at or 0.0,
            applied_revision=facts.told.applied_revision or 0,
            at=facts.told.at,
            heartbeat_seconds=facts.told.heartbeat_seconds,
            engine_answers=facts.told.engine_answers,
            engine_age_seconds=facts.told.engine_age_seconds,
            engine_problem=facts.told.engine_problem,
        )
        for facts in all_replicas(model)
    ]


def leader_view(key: Change | None) -> LeaderView | None:
    """The leader from its key; None when no replica leads."""
    facts = leader_facts(key)
    if facts is None:
        return None
    told = facts.told
    return LeaderView(
        id=told.id,
        term=facts.term,
        instance=told.instance,
        status_url=told.status_url,
        version=told.version,
        epoch=told.epoch,
        since=told.since or 0.0,
    )
