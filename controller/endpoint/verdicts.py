"""The newest audit of all replicas: each registers the result of its last one, and any of them shows it."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from controller.views.freshness import Freshness, StalenessLimits
from controller.views.replica import Facts
from controller.views.replicas import RegisteredAudit, ReplicaFacts


class AuditSummary(Struct, frozen=True, kw_only=True):
    """The newest known audit, made by `replica` `age_seconds` ago; `at` is by that replica's clock."""

    replica: str
    at: float
    age_seconds: float
    freshness: Freshness
    revision: int
    verdict: str
    wrong: int
    notices: int


def newest_audit(replicas: Sequence[ReplicaFacts], facts: Facts) -> AuditSummary | None:
    """The newest of the audits that the replicas registered, and of this replica's last one."""
    found = []
    if facts.verdict is not None:
        at, made, revision, wrong, notices = facts.verdict
        own = RegisteredAudit(at, facts.boottime - made, revision, wrong, notices)
        found.append((facts.replica, 0.0, own))
    found += [
        (replica.id, facts.replica_ages.get(replica.id, 0.0), replica.told.audit)
        for replica in replicas
        if replica.told.audit is not None
    ]
    known = [_summary(name, heard, audit, facts.rule.audit) for name, heard, audit in found]
    return min(known, key=lambda audit: audit.age_seconds, default=None)


def _summary(replica: str, heard: float, audit: RegisteredAudit, limits: StalenessLimits) -> AuditSummary:
    age = round(max(0.0, audit.age_seconds + heard), 1)
    return AuditSummary(
        replica=replica,
        at=audit.at,
        age_seconds=age,
        freshness=limits.judge(age),
        revision=audit.revision,
        verdict="wrong" if audit.wrong else "ok",
        wrong=audit.wrong,
        notices=audit.notices,
    )
