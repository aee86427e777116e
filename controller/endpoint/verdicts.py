"""The newest audit that is known: each replica registers what its last one found, and whoever is asked
shows the newest of all.
"""

from __future__ import annotations

import msgspec
from msgspec import Struct

from controller.core.model.model import Model
from controller.core.model.records import Change, decode_or_empty
from controller.views.freshness import Freshness, StalenessLimits
from controller.views.replica import Facts


class AuditSummary(Struct, frozen=True, kw_only=True):
    """The newest audit that is known, made by `replica` `age_seconds` ago; `at` is by its clock."""

    replica: str
    at: float
    age_seconds: float
    freshness: Freshness
    revision: int
    verdict: str
    wrong: int
    notices: int


class _Registered(Struct, frozen=True):
    """What a replica writes of its last audit, `age_seconds` ago when it wrote."""

    at: float
    age_seconds: float
    revision: int
    wrong: int
    notices: int


def newest_audit(model: Model, facts: Facts) -> AuditSummary | None:
    """Call while the model is held still."""
    found = []
    if facts.verdict is not None:
        at, made, revision, wrong, notices = facts.verdict
        found.append((facts.replica, 0.0, _Registered(at, facts.boottime - made, revision, wrong, notices)))
    for name, change in model.replicas.items():
        if (registered := _registered(change)) is not None:
            found.append((name, facts.replica_ages.get(name, 0.0), registered))
    known = [_summary(name, heard, audit, facts.rule.audit) for name, heard, audit in found]
    return min(known, key=lambda audit: audit.age_seconds, default=None)


def _registered(change: Change) -> _Registered | None:
    try:
        return msgspec.convert(decode_or_empty(change).get("audit"), _Registered)
    except msgspec.ValidationError:
        return None


def _summary(replica: str, heard: float, audit: _Registered, limits: StalenessLimits) -> AuditSummary:
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
