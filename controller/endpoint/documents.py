"""What the status endpoint answers: the documents of its API, and how they are made of the model.

The structs are the source of the OpenAPI schemas as well. Two steps, so that the model is held only briefly:
`capture` takes references to frozen values while it is held still, the documents are made of them afterwards.
Values of environment variables are masked, wherever they stand.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec
from msgspec import Struct, field

from controller.core.model import codec, kept_log
from controller.core.model.lifecycle import WAITING, State
from controller.core.model.model import Model
from controller.core.model.records import Change, Task, decode_or_empty
from controller.core.model.resources import ZERO
from controller.core.model.task import Request, Spec, Status
from controller.errors import CorruptValue
from controller.views.freshness import Freshness
from controller.views.overview import leads
from controller.views.replica import Facts
from controller.views.step import StepView, step_views

MASK = "***"


class TaskSummary(Struct, frozen=True, kw_only=True):
    """One task in a list. Times are seconds since the Unix epoch, resources are Kubernetes quantities."""

    id: str
    pool: str
    state: State | None  # null: its status does not parse
    attempt: int
    priority: int
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
    problem: str  # what of its records cannot be used, and why; "" when all is well


class TaskDocument(TaskSummary, frozen=True, kw_only=True):
    """One task with all that is known.

    `spec` is null when it is gone or does not parse; `history` is bounded by `steps`.
    """

    spec: dict[str, Any] | None
    uid: str
    node: str
    failures: int
    start_failures: int
    steps: int
    history: list[StepView]
    requests: list[Request]
    # at which the log that is kept of it was written, 0 when none is; see /v1/tasks/{id}/log
    kept_log_revision: int


class LogDocument(Struct, frozen=True, kw_only=True):
    """The end of what attempt number `attempt` printed, kept `at` its end; `truncated`: it had printed
    more.
    """

    task: str
    attempt: int
    text: str
    truncated: bool
    at: float


class TaskList(Struct, frozen=True, kw_only=True):
    """A page of tasks. `continue` is given back for the next page; "" when this was the last."""

    items: list[TaskSummary]
    continue_: str = field(name="continue")


class PoolDocument(Struct, frozen=True, kw_only=True):
    """A pool, what is held of it and what is free (negative: overcommitted), and its tasks by state."""

    name: str
    capacity: dict[str, str]
    held: dict[str, str]
    free: dict[str, str]
    overcommitted: list[str]
    policy: str
    backfill_seconds: float
    default_resources: dict[str, str]
    paused: bool
    engine_options: dict[str, Any]
    tasks: dict[str, int]
    waiting: int
    problem: str


class PoolList(Struct, frozen=True, kw_only=True):
    """All pools, by name."""

    items: list[PoolDocument]


class ReplicaDocument(Struct, frozen=True, kw_only=True):
    """A replica that is registered now, and what it wrote about itself `age_seconds` ago, by the clock of
    who answers.
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
    """Who leads, as far as this replica knows.

    `term` is the leader key's create revision, 0 when nobody leads.
    """

    known: bool
    replica: str
    term: int
    epoch: int
    record: dict[str, Any]


class TaskCapture(NamedTuple):
    """References to all that the model knows of a task at one moment; nothing of it changes any more."""

    id: str
    pool: str
    state: State | None
    spec: Spec | None
    status: Status | None
    requests: tuple[Request, ...]
    submitted_at: float
    revision: int
    problem: str
    kept_log: int


def capture(model: Model, task: Task) -> TaskCapture:
    """Take what the documents need, while the model is held still."""
    problems = [
        f"{kind}: {model.quarantine.get((kind, (task.id,)), 'does not parse')}"
        for kind in sorted(task.frozen)
    ]
    if task.spec_error:
        problems.append(f"spec: {task.spec_error}")
    return TaskCapture(
        id=task.id,
        pool=task.pool,
        state=None if "states" in task.frozen else task.state,
        spec=None if "tasks" in task.frozen else task.spec,
        status=None if "states" in task.frozen else task.status,
        requests=tuple(request for request, _ in task.requests.values()),
        submitted_at=task.submitted_at,
        revision=max(task.spec_mod, task.status_mod),
        problem="; ".join(problems),
        kept_log=model.mod_of(kept_log.KIND, (task.id,)),
    )


def is_listed(task: Task) -> bool:
    """Whether there is a task at all, and not just a request for one that is gone."""
    return task.spec is not None or task.status is not None or bool(task.frozen)


def summary(task: TaskCapture) -> TaskSummary:
    """The list entry of a task."""
    return TaskSummary(**_summary_fields(task))


def document(task: TaskCapture) -> TaskDocument:
    """All that is known of a task."""
    status = task.status or Status()
    fields, history = _summary_fields(task), list[StepView]()
    try:
        history = step_views(status)
    except CorruptValue as error:
        fields["problem"] = "; ".join(part for part in (task.problem, str(error)) if part)
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
        kept_log_revision=task.kept_log,
    )


def log_document(task_id: str, kept: kept_log.KeptLog) -> LogDocument:
    """What is kept of a task's output."""
    return LogDocument(
        task=task_id, attempt=kept.attempt, text=kept.text, truncated=kept.truncated, at=kept.at
    )


def pool_document(model: Model, name: str) -> PoolDocument:
    """A pool as it stands; call while the model is held still."""
    record, held = model.pools.get(name), model.ledger(name).held
    pool = record.pool if record is not None else None
    capacity = pool.capacity if pool is not None else ZERO
    problems = [
        f"{kind}: {model.quarantine[kind, (name,)]}"
        for kind in ("pools", "ledgers")
        if (kind, (name,)) in model.quarantine
    ]
    if pool is None and not problems:
        problems.append("it is not defined any more; what runs may finish")
    tasks = {state.value: model.counts.get((name, state), 0) for state in State}
    return PoolDocument(
        name=name,
        capacity=capacity.format(),
        held=held.format(),
        free=(capacity - held).format(),
        overcommitted=held.exceeding(capacity),
        policy=pool.policy.value if pool is not None else "",
        backfill_seconds=pool.backfill_seconds if pool is not None else 0.0,
        default_resources=pool.default_resources.format() if pool is not None else {},
        paused=pool is not None and pool.paused,
        engine_options=_masked(pool.engine_options) if pool is not None else {},
        tasks={state: number for state, number in tasks.items() if number},
        waiting=sum(tasks[state] for state in WAITING),
        problem="; ".join(problems),
    )


def replica_documents(model: Model, facts: Facts) -> list[ReplicaDocument]:
    """The registered replicas; call while the model is held still."""
    documents = []
    for name, change in sorted(model.replicas.items()):
        age = facts.replica_ages.get(name, 0.0)
        documents.append(
            ReplicaDocument(
                id=name,
                leads=bool(facts.leader) and leads(change, model.leader),
                age_seconds=round(age, 1),
                freshness=facts.rule.replica.judge(age),
                record=decode_or_empty(change),
            )
        )
    return documents


def leader_document(record: Change | None, leader: str, epoch: int) -> LeaderDocument:
    """Who leads, from the leader's key."""
    return LeaderDocument(
        known=bool(leader),
        replica=leader,
        term=record.create if record else 0,
        epoch=epoch,
        record=decode_or_empty(record),
    )


def masked_spec(spec: Spec) -> dict[str, Any]:
    """The spec as builtins, without the values of environment variables."""
    fields = codec.spelled_out(spec)
    fields["env"] = dict.fromkeys(fields["env"], MASK)
    fields["pod_template"] = _masked(fields["pod_template"])
    return fields


def encode(value: object) -> bytes:
    """A document as JSON."""
    return msgspec.json.encode(value)


def _masked(value: Any) -> Any:
    """Kubernetes writes variables as `env: [{name, value}]`; a label named `env` is no such list, and is
    left alone.
    """
    if isinstance(value, list):
        return [_masked(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        key: _masked_variables(item) if key == "env" and isinstance(item, list) else _masked(item)
        for key, item in value.items()
    }


def _masked_variables(variables: list[Any]) -> list[Any]:
    return [
        {**item, "value": MASK} if isinstance(item, dict) and "value" in item else _masked(item)
        for item in variables
    ]


def _summary_fields(task: TaskCapture) -> dict[str, Any]:
    spec, status = task.spec, task.status or Status()
    return {
        "id": task.id,
        "pool": task.pool,
        "state": task.state,
        "attempt": status.attempt,
        "priority": spec.priority if spec is not None else 0,
        "labels": spec.labels if spec is not None else {},
        "resources": spec.resources.format() if spec is not None else {},
        "hold": status.hold.format(),
        "reason": status.reason,
        "message": status.message,
        "stopping": status.stopping,
        "submitted_at": task.submitted_at,
        "started_at": status.started_at,
        "finished_at": status.finished_at,
        "retry_at": status.retry_at,
        "lost_since": status.lost_since,
        "exit_code": status.exit_code,
        "revision": task.revision,
        "problem": task.problem,
    }
