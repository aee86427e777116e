"""The replicas as the live page shows them: what each wrote about itself, and how old that is."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from controller.views.freshness import Freshness
from controller.views.replica import Facts
from controller.views.replicas import Registered, ReplicaFacts, lenient

LEADING_PHASES = ("taking-over", "leading")


class ReplicaSummary(Struct, frozen=True, kw_only=True):
    """A registered replica, as it described itself `age_seconds` ago; all ages count back from now.

    `led` means that it registered as the leader, and no longer leads. `freshness` is that of its
    registration; `engine_freshness` is that of the engine's last answer.
    """

    id: str
    leads: bool
    led: bool
    age_seconds: float
    freshness: Freshness
    phase: str
    version: str
    host: str
    status_url: str
    started_at: float | None
    applied_revision: int
    lag_revisions: int
    behind_seconds: float | None  # since it heard from the store; null if it did not say
    engine_answers: bool | None  # null: it does not lead, and so does not ask the engine
    # since the engine's last answer; null if there was none in its term, or if it does not lead
    engine_age_seconds: float | None
    engine_freshness: Freshness | None
    engine_problem: str  # why it does not campaign: its engine is not the recorded one; "" if it does


class EndedReplica(Struct, frozen=True, kw_only=True):
    """A replica whose registration has ended, as it last described itself `heard_seconds` ago.

    `ended_seconds`: since its end was seen. `led`: its last word was that it led.
    """

    id: str
    led: bool
    heard_seconds: float
    ended_seconds: float
    version: str
    host: str


def ended_replicas(facts: Facts) -> list[EndedReplica]:
    """The last replicas that have ended, the newest first."""
    found = []
    for each in facts.ended:
        told = lenient(Registered, dict(each.record))
        found.append(
            EndedReplica(
                id=each.name,
                led=told.phase in LEADING_PHASES,
                heard_seconds=round(max(0.0, facts.boottime - each.heard_at), 1),
                ended_seconds=round(max(0.0, facts.boottime - each.ended_at), 1),
                version=told.version,
                host=told.host,
            )
        )
    return found


def replica_summaries(replicas: Sequence[ReplicaFacts], facts: Facts) -> list[ReplicaSummary]:
    """The registered replicas."""
    found = []
    for replica in replicas:
        told, age = replica.told, facts.replica_ages.get(replica.id, 0.0)
        engine_age = told.engine_age_seconds + age if told.engine_age_seconds is not None else None
        found.append(
            ReplicaSummary(
                id=replica.id,
                leads=replica.leads,
                led=not replica.leads and told.phase in LEADING_PHASES,
                age_seconds=round(age, 1),
                freshness=facts.rule.replica.judge(age),
                phase=told.phase,
                version=told.version,
                host=told.host,
                status_url=told.status_url,
                started_at=told.started_at,
                applied_revision=told.applied_revision or 0,
                lag_revisions=replica.lag_revisions,
                behind_seconds=told.behind_seconds,
                engine_answers=told.engine_answers,
                engine_age_seconds=round(engine_age, 1) if engine_age is not None else None,
                engine_problem=told.engine_problem,
                engine_freshness=facts.rule.engine.judge(engine_age) if engine_age is not None else None,
            )
        )
    return found
