"""The documents of the status endpoint's API, made of the facts of `controller.views`.

The OpenAPI schemas are made from the same structs. Facts are taken under the model's lock; documents are made
of them afterwards, so that the lock is held only briefly. The values of environment variables are masked
everywhere.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec import Struct, field

from controller.core.model import codec, kept_log
from controller.core.model.lifecycle import State
from controller.core.model.requests import Request
from controller.core.model.task import Spec, Status
from controller.endpoint.sharing_documents import (
    ClaimDocument,
    OwnerDocument,
    claim_document,
    owner_document,
)
from controller.errors import CorruptValue
from controller.views.arrays import ArrayProgress
from controller.views.dependencies import ParentView
from controller.views.freshness import Freshness
from controller.views.pools import PoolFacts, SharingFacts
from controller.views.replica import Facts
from controller.views.replicas import LeaderFacts, ReplicaFacts
from controller.views.step import StepView, step_views
from controller.views.tasks import TaskFacts

MASK = "***"


class TaskSummary(Struct, frozen=True, kw_only=True):
    """A task in a list. Times are seconds since the Unix epoch; resources are Kubernetes quantities."""

    id: str
    pool: str
    owner: str  # whom its resources are charged to
    state: State | None  # null: its status does not parse
    on_hold: bool  # not admitted until it is released
    waits_for: int  # of the tasks that it names in `after`, those that have not ended
    attempt: int
    priority: int  # as a user has set it since, or else as in its spec
    labels: dict[str, str]
    resources: dict[str, str]
    hold: dict[str, str]
    reason: str
    message: str
    stopping: str  # why its attempt is being stopped, "" when it is not
    submitted_at: float
    started_at: float | None
    finished_at: float | None
    retry_at: float | None
    lost_since: float | None
    exit_code: int | None
    revision: int  # of the last write of its spec or status
    problem: str  # which of its records cannot be used, and why; "" if none
    progress: ArrayProgress | None  # of an array: how many of its members are in each state
    member_of: str  # of a member of an array: that array


class TaskDocument(TaskSummary, frozen=True, kw_only=True):
    """A task with all that is known of it.

    `spec` is null if it is gone or does not parse. `history` has the last steps; `steps` counts all.
    """

    spec: dict[str, Any] | None
    uid: str
    node: str
    failures: int
    start_failures: int
    steps: int
    history: list[StepView]
    requests: list[Request]
    after: list[ParentView]  # the tasks that it waits for, and what has become of each
    # at which the log that is kept of it was written, 0 when none is; see /v1/tasks/{id}/log
    kept_log_revision: int
    attested_by: str  # who has submitted it, as a gateway attests; "" if none does


class LogDocument(Struct, frozen=True, kw_only=True):
    """The end of the output of attempt number `attempt`, kept `at` its end.

    `truncated` means that there was more output than is kept.
    """

    task: str
    attempt: int
    text: str
    truncated: bool
    at: float


class TaskList(Struct, frozen=True, kw_only=True):
    """A page of tasks. Send `continue` to get the next page; it is "" on the last page."""

    items: list[TaskSummary]
    continue_: str = field(name="continue")


class WindowDocument(Struct, frozen=True, kw_only=True):
    """A maintenance window of a pool, in seconds since the Unix epoch."""

    starts_at: float
    ends_at: float
    reason: str
    by: str  # who has set it; "" if that is not known


class PoolDocument(Struct, frozen=True, kw_only=True):
    """A pool: what is held, what is free (negative when overcommitted), and its tasks by state."""

    name: str
    capacity: dict[str, str]
    held: dict[str, str]
    free: dict[str, str]
    capacity_from: dict[str, str]  # what the capacity follows; {}: it is given in amounts
    observed: dict[str, Any]  # what nodes give, if the capacity follows them and they were counted; else {}
    demand: dict[str, str]  # what waits and would be admitted at once, if the capacity had no bounds
    overcommitted: list[str]
    policy: str
    backfill_seconds: float
    default_resources: dict[str, str]
    paused: bool
    maintenance: list[WindowDocument]  # the windows that are stored, in the order of their times
    require_attested: bool
    engine_options: dict[str, Any]
    tasks: dict[str, int]
    waiting: int
    on_hold: int  # of those that wait
    problem: str


class PoolDetail(PoolDocument, frozen=True, kw_only=True):
    """A pool, and how it is shared.

    `shared` is whether it has `sharing`. While `rebuilding`, no hold of it changes. `stopped` is how many
    attempts were stopped for other tasks in this minute.
    """

    shared: bool
    rebuilding: bool
    stopped: int
    owners: list[OwnerDocument]
    claims: list[ClaimDocument]


class PoolList(Struct, frozen=True, kw_only=True):
    """All pools, by name."""

    items: list[PoolDocument]


class ReplicaDocument(Struct, frozen=True, kw_only=True):
    """A registered replica, with what it wrote about itself `age_seconds` ago.

    The age is by the clock of the replica that answers.
    """

    id: str
    leads: bool
    age_seconds: float
    freshness: Freshness
    record: dict[str, Any]


class ReplicaList(Struct, frozen=True, kw_only=True):
    """All registered replicas, by id."""

    items: list[ReplicaDocument]


class LeaderDocument(Struct, frozen=True, kw_only=True):
    """The leader, as far as this replica knows.

    `term` is the leader key's create revision; 0 when no replica leads.
    """

    known: bool
    replica: str
    term: int
    epoch: int
    record: dict[str, Any]


def summary(task: TaskFacts) -> TaskSummary:
    """A task's entry in a list."""
    return TaskSummary(**_summary_fields(task))


def document(task: TaskFacts, after: Iterable[ParentView]) -> TaskDocument:
    """All that is known of a task, which waits for those in `after`."""
    status = task.status or Status()
    fields, history = _summary_fields(task), list[StepView]()
    try:
        history = step_views(status)
    except CorruptValue as error:
        fields["problem"] = "; ".join(part for part in (_problem(task), str(error)) if part)
    return TaskDocument(
        **fields,
        spec=masked_spec(task.spec) if task.spec is not None else None,
        uid=status.uid,
        node=status.node,
        failures=status.failures,
        start_failures=status.start_failures,
        steps=status.steps,
        history=history,
        requests=list(task.requests),
        after=list(after),
        kept_log_revision=task.kept_log_revision,
        attested_by=task.attested_by,
    )


def log_document(task_id: str, kept: kept_log.KeptLog) -> LogDocument:
    """A task's kept log."""
    return LogDocument(
        task=task_id, attempt=kept.attempt, text=kept.text, truncated=kept.truncated, at=kept.at
    )


def pool_document(pool: PoolFacts) -> PoolDocument:
    """A pool's entry in a list."""
    return PoolDocument(**_pool_fields(pool))


def pool_detail(pool: PoolFacts, sharing: SharingFacts) -> PoolDetail:
    """All that is known of a pool."""
    return PoolDetail(
        **_pool_fields(pool),
        shared=pool.definition is not None and pool.definition.sharing is not None,
        rebuilding=sharing.is_rebuilding,
        stopped=sharing.stopped,
        owners=[owner_document(owner) for owner in sharing.owners],
        claims=[claim_document(claim) for claim in sharing.claims],
    )


def window_documents(pool: PoolFacts) -> list[WindowDocument]:
    """The maintenance windows of a pool."""
    windows = pool.definition.maintenance if pool.definition is not None else ()
    return [
        WindowDocument(starts_at=one.starts_at, ends_at=one.ends_at, reason=one.reason, by=one.by)
        for one in windows
    ]


def _pool_fields(pool: PoolFacts) -> dict[str, Any]:
    definition = pool.definition
    problems = [f"{kind}: {why}" for kind, why in pool.broken]
    if definition is None and not problems:
        problems.append("it is no longer defined; running tasks may finish")
    return {
        "name": pool.name,
        "capacity": pool.capacity.format(),
        "held": pool.held.format(),
        "free": pool.free.format(pool.resources),
        "capacity_from": codec.to_builtins(definition and definition.capacity_from) or {},
        "observed": _observed(pool),
        "demand": pool.demand.format(),
        "overcommitted": pool.overcommitted,
        "policy": pool.policy,
        "backfill_seconds": definition.backfill_seconds if definition is not None else 0.0,
        "default_resources": definition.default_resources.format() if definition is not None else {},
        "paused": pool.paused,
        "maintenance": window_documents(pool),
        "require_attested": definition is not None and definition.require_attested,
        "engine_options": masked_pod(definition.engine_options) if definition is not None else {},
        "tasks": {state.value: number for state, number in pool.tasks.items()},
        "waiting": pool.waiting,
        "on_hold": pool.on_hold,
        "problem": "; ".join(problems),
    }


def _observed(pool: PoolFacts) -> dict[str, Any]:
    plain: dict[str, Any] = codec.to_builtins(pool.observed) if pool.observed is not None else {}
    return {name: value for name, value in plain.items() if name not in ("op", "version")}


def replica_document(replica: ReplicaFacts, facts: Facts) -> ReplicaDocument:
    """A registered replica."""
    age = facts.replica_ages.get(replica.id, 0.0)
    return ReplicaDocument(
        id=replica.id,
        leads=replica.leads,
        age_seconds=round(age, 1),
        freshness=facts.rule.replica.judge(age),
        record=replica.record,
    )


def leader_document(leader: LeaderFacts | None, epoch: int) -> LeaderDocument:
    """The leader."""
    return LeaderDocument(
        known=leader is not None and bool(leader.told.id),
        replica=leader.told.id if leader is not None else "",
        term=leader.term if leader is not None else 0,
        epoch=epoch,
        record=leader.record if leader is not None else {},
    )


def masked_spec(spec: Spec) -> dict[str, Any]:
    """The spec as builtins; the values of environment variables are masked."""
    fields = codec.spelled_out(spec)
    fields["env"] = dict.fromkeys(fields["env"], MASK)
    fields["pod_template"] = masked_pod(fields["pod_template"])
    return fields


def encode(value: object) -> bytes:
    """A document as JSON."""
    return msgspec.json.encode(value)


def masked_pod(value: Any) -> Any:
    """Mask variables as Kubernetes writes them, `env: [{name, value}]`. A label named `env` is left alone."""
    if isinstance(value, list):
        return [masked_pod(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        key: _masked_variables(item) if key == "env" and isinstance(item, list) else masked_pod(item)
        for key, item in value.items()
    }


def _masked_variables(variables: list[Any]) -> list[Any]:
    return [
        {**item, "value": MASK} if isinstance(item, dict) and "value" in item else masked_pod(item)
        for item in variables
    ]


def _problem(task: TaskFacts) -> str:
    problems = [f"{kind}: {why}" for kind, why in task.broken]
    return "; ".join([*problems, f"spec: {task.spec_error}"] if task.spec_error else problems)


def _summary_fields(task: TaskFacts) -> dict[str, Any]:
    spec, status = task.spec, task.status or Status()
    return {
        "id": task.id,
        "pool": task.pool,
        "owner": task.owner,
        "state": task.state,
        "on_hold": task.on_hold,
        "waits_for": task.waits_for,
        "attempt": task.attempt,
        "priority": task.priority,
        "labels": spec.labels if spec is not None else {},
        "resources": spec.resources.format() if spec is not None else {},
        "hold": status.hold.format(),
        "reason": task.reason,
        "message": task.message,
        "stopping": status.stopping,
        "submitted_at": task.submitted_at,
        "started_at": status.started_at,
        "finished_at": status.finished_at,
        "retry_at": status.retry_at,
        "lost_since": status.lost_since,
        "exit_code": status.exit_code,
        "revision": task.revision,
        "problem": _problem(task),
        "progress": task.progress,
        "member_of": task.member_of,
    }
