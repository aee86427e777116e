"""The replicas as the live page shows them: what each wrote of itself, and how old that is."""

from __future__ import annotations

from msgspec import Struct

from controller.core.model.model import Model
from controller.core.model.records import decode_or_empty, number_in
from controller.views.freshness import Freshness
from controller.views.overview import lag_revisions, leads
from controller.views.replica import Facts

LEADING_PHASES = ("taking-over", "leading")


class ReplicaSummary(Struct, frozen=True, kw_only=True):
    """A registered replica, as it wrote of itself `age_seconds` ago; other ages count from now as well.

    `led`: it wrote that it leads, and does not any more. `freshness` is of its registration,
    `engine_freshness` of what it says of the engine.
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
    behind_seconds: float | None  # since it heard of the store; null when it did not tell
    engine_answers: bool | None  # null: it does not lead, and so does not ask
    # since the engine answered it; null when it has not in its term, or does not lead
    engine_age_seconds: float | None
    engine_freshness: Freshness | None
    engine_problem: str  # why it does not campaign: its engine is not the recorded one; "" when it does


def replica_summaries(model: Model, facts: Facts) -> list[ReplicaSummary]:
    """The registered replicas; call while the model is held still."""
    found = []
    for name, change in sorted(model.replicas.items()):
        record = decode_or_empty(change)
        age = facts.replica_ages.get(name, 0.0)
        is_leader = bool(facts.leader) and leads(change, model.leader)
        answers, applied = record.get("engine_answers"), record.get("applied_revision")
        behind, engine_age = number_in(record, "behind_seconds"), number_in(record, "engine_age_seconds")
        found.append(
            ReplicaSummary(
                id=name,
                leads=is_leader,
                led=not is_leader and record.get("phase") in LEADING_PHASES,
                age_seconds=round(age, 1),
                freshness=facts.rule.replica.judge(age),
                phase=str(record.get("phase", "")),
                version=str(record.get("version", "")),
                host=str(record.get("host", "")),
                status_url=str(record.get("status_url", "")),
                started_at=number_in(record, "started_at"),
                applied_revision=applied if isinstance(applied, int) else 0,
                lag_revisions=lag_revisions(change),
                behind_seconds=behind,
                engine_answers=answers if isinstance(answers, bool) else None,
                engine_age_seconds=round(engine_age + age, 1) if engine_age is not None else None,
                engine_problem=str(record.get("engine_problem", "")),
                engine_freshness=facts.rule.engine.judge(engine_age + age)
                if engine_age is not None
                else None,
            )
        )
    return found
