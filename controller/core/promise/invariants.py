"""The promise, as checks: what must hold of the stored records, at one revision.

Pure. The checks run after each step of a simulation, in `tally audit` on a model loaded at one revision, and
in the leader on its own model. The numbers are those of the invariants (see deploy/reference.md). Checks of
terms are in `terms`, and those that need an engine's list in `engine_invariants`. The cost of `check_task`
follows the task's history; that of the others follows the number of tasks that they are given.

Soundness: a finding is either certain at once, or `transient`. A transient one can be a matter of timing (a
creation in flight, an end not committed yet). It counts only if a second look finds it again for the same
subject.
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import NamedTuple

from controller.core.model import capacities, quarantine
from controller.core.model.codec import decode_history
from controller.core.model.demand import demand
from controller.core.model.gangs import total
from controller.core.model.lifecycle import HOLDING, Event, State, is_path
from controller.core.model.model import Model
from controller.core.model.printable import counted
from controller.core.model.records import PoolRecord, Task
from controller.core.model.resources import ZERO, Vector, format_quantity
from controller.core.model.task import Status, Step
from controller.core.promise.array_invariants import check_arrays, check_steps
from controller.core.promise.attested_invariants import check_attestations, check_attested
from controller.core.promise.capacity_invariants import check_capacities, overcommitted_by_nodes
from controller.core.promise.changes_told import untold_changes
from controller.core.promise.dependency_invariants import check_dependencies
from controller.core.promise.finding import Finding, FindingSeverity, Mender
from controller.core.promise.maintenance_invariants import check_windows
from controller.core.promise.schedule_invariants import check_schedules
from controller.core.promise.share_invariants import check_claims, check_owner, check_shares
from controller.core.promise.terms import check_terms, term_finding, written_by
from controller.errors import CorruptValue

_BY_HAND = "a status that was not written by Tally"


def check_model(model: Model) -> list[Finding]:
    """All that the records alone show: all but I5, parts of I4 and I6, and unreadable records."""
    findings = [*check_layout(model), *check_ledgers(model, model.tasks.values()), *check_requests(model)]
    findings += [*check_attested(model, model.tasks.values()), *check_attestations(model)]
    findings += [*check_dependencies(model, model.tasks.values()), *check_schedules(model)]
    findings += [*check_arrays(model), *check_capacities(model)]
    findings += check_terms(
        model, [written for task in model.tasks.values() if (written := written_by(task)) is not None]
    )
    for task in model.tasks.values():
        findings += check_task(task, model.pools.get(task.pool))
    return findings


def check_task(task: Task, pool: PoolRecord | None) -> list[Finding]:
    """I3, I7 within the history, I1's rules on who may hold what, I17, and what can never go on (I6).

    `pool` is the task's pool.
    """
    status = task.status
    if status is None or "states" in task.frozen:
        return []
    findings = [*_history_findings(task, status), *check_owner(task), *check_windows(task, status, pool)]
    hold, of = rightful_hold(task, status, pool)
    if (hold, of) != (status.hold, status.pool):
        should = f"{hold}{f' of pool {of}' if of != status.pool else ''}"
        findings.append(
            Finding(
                invariant="I1",
                subject=f"task/{task.id}",
                what=(
                    f"is {status.state}, and holds {status.hold} of pool {status.pool}; it should hold"
                    f" {should}"
                ),
                since_revision=task.status_mod,
                likely_cause=_BY_HAND,
                repair=f"the leader corrects the hold to {should}, and the ledger with it",
                mender=Mender.REPAIR,
            )
        )
    if task.spec is None and not task.frozen and status.state is State.WAITING_RETRY:
        findings.append(
            Finding(
                invariant="I6",
                subject=f"task/{task.id}",
                what="waits for a retry, but its spec is gone: it can never run",
                since_revision=task.status_mod,
                likely_cause=f"tasks/{task.member_of or task.id} was deleted by hand",
                repair="the leader marks it Failed",
                mender=Mender.LEADER,
                transient=True,
            )
        )
    return findings


def rightful_hold(task: Task, status: Status, pool: PoolRecord | None) -> tuple[Vector, str]:
    """What the task should hold, and of which pool.

    It should hold nothing unless it is Pending or Running, and then what its spec asks for; a gang, what its
    members have not taken over. The present hold
    is taken as right if the spec may differ from the one of the admission (changed or put again by hand). The
    amount is taken as right if the pool has changed since its pod template had a part in the hold.
    """
    if status.state not in HOLDING:
        return ZERO, status.pool
    if status.reserved:
        return (total(status.reserved) if not status.stopping else ZERO), status.pool
    spec = task.spec
    is_original = task.spec_is_original and status.created_at == task.submitted_at and not task.spec_error
    if spec is None or not is_original or "tasks" in task.frozen:
        return status.hold, status.pool
    if not status.sized_by:
        return spec.resources, spec.pool
    if pool is None or pool.mod != status.sized_by:
        return status.hold, spec.pool
    return demand(spec, pool.pool), spec.pool


def holding_tasks(model: Model) -> Iterator[Task]:
    """The tasks that bear on ledgers, by the model's index: Pending, Running, or with unreadable records."""
    yield from model.holding.values()
    for task_id in dict.fromkeys(names[0] for kind, names in model.quarantine if kind in ("tasks", "states")):
        if task_id in model.tasks:
            yield model.tasks[task_id]


class Balance(NamedTuple):
    """What the tasks hold, by pool, and the count of unreadable statuses by pool ("" if it is not known)."""

    held: dict[str, Vector]
    unreadable: Counter[str]

    def unreadable_of(self, pool: str) -> int:
        """How many unreadable statuses may hold something of the pool."""
        return self.unreadable[pool] + self.unreadable[""]


def balance(tasks: Iterable[Task]) -> Balance:
    """What these tasks hold (the right side of invariant I1)."""
    held: dict[str, Vector] = {}
    unreadable: Counter[str] = Counter()
    for task in tasks:
        if "states" in task.frozen:
            unreadable[task.spec.pool if task.spec is not None else ""] += 1
        elif task.status is not None and task.status.state in HOLDING:
            held[task.pool] = held.get(task.pool, ZERO) + task.status.hold
    return Balance(held, unreadable)


def check_ledgers(model: Model, tasks: Iterable[Task]) -> list[Finding]:
    """I1, I2, I9, I10 and I11 for each pool. `tasks` are all that may hold something."""
    tasks = list(tasks)
    found = balance(tasks)
    findings: list[Finding] = []
    for pool in sorted({*found.held, *model.ledgers}):
        if not model.pool_is_frozen(pool):
            findings += _balance_findings(model, pool, found.held.get(pool, ZERO), found.unreadable_of(pool))
            findings += _capacity_findings(model, pool)
    return [*findings, *check_shares(model, tasks), *check_claims(model)]


def unledgered(model: Model, pool: str) -> Vector:
    """What the tasks of a pool hold beyond its ledger. It is not free, whatever the ledger says.

    By I1 it is nothing, unless something other than a leader wrote a status or the ledger.
    """
    held, ledger = model.holds.get(pool, ZERO), model.ledger(pool).held
    if held == ledger:
        return ZERO
    return Vector({name: amount for name, amount in (held - ledger).items() if amount > 0})


def check_requests(model: Model) -> Iterator[Finding]:
    """I8, as far as one revision shows it: requests that the leader has not yet carried out."""
    for task_id in model.attention:
        task = model.tasks[task_id]
        for kind, (request, mod) in task.requests.items():
            if not task.frozen and not task.is_postponed(kind):
                yield _request_finding(f"request/{task_id}/{kind}", mod, request.by)
    for request_id, (wanted, mod) in model.repairs.items():
        yield _request_finding(f"repair/{request_id}", mod, wanted.by)


def check_layout(model: Model) -> Iterator[Finding]:
    """Notices for records that do not parse, and for keys that are not in Tally's layout."""
    for (kind, names), reason in model.quarantine.items():
        foreign = kind == "unknown"
        subject = names[0] if foreign else "/".join((kind, *names))
        name = shlex.quote(subject)  # for a command that is to be pasted
        yield Finding(
            invariant="layout",
            subject=f"key/{subject}",
            what=f"is left alone: {reason}",
            since_revision=model.mod_of(kind, names),
            likely_cause=_CAUSES.get(kind, "a value damaged by hand, or written by a newer version"),
            repair=(
                f"{_DELETIONS.get(kind, 'the leader deletes it')}: `tally audit --repair --delete {name}`"
            ),
            mender=Mender.DELETION,
            severity=FindingSeverity.NOTICE,
        )


_CAUSES = {
    "unknown": "a key that Tally did not write",
    quarantine.KIND: (
        "a bug in Tally: an error occurred on this task, and Tally leaves it alone; all other tasks go on."
        " Report it with the log"
    ),
}
_DELETIONS = {
    quarantine.KIND: "the leader deletes it, and looks at the task again",
    "states": (
        "restore the value if you can; otherwise the leader deletes it, stops any attempt of the task, and"
        " runs the task from the start"
    ),
    "installation": "the leader deletes it, and writes back the last value that it read",
    "engine": "the leader deletes it, and writes back the last value that it read",
    "arrays": (
        "restore the value if you can; otherwise the leader deletes it, and the members that had ended by it"
        " run again"
    ),
    capacities.KIND: "the leader deletes it, and writes what it sees of the nodes",
    "ledgers": "the leader rewrites it as the sum of what the tasks hold",
    "leader": "the next election replaces it; until then, the leader deletes it",
    "tasks": (
        "restore the value if you can; otherwise the leader deletes it, stops any attempt of the task, and"
        " removes the task"
    ),
}


def _history_findings(task: Task, status: Status) -> Iterator[Finding]:
    """I3, and that epochs (I7) and attempts (I4) never go back within a history."""
    try:
        steps = decode_history(status)
    except CorruptValue as error:
        yield _history_finding(task, "I3", f"has a history that does not parse: {error}")
        return
    if not steps:
        yield _history_finding(task, "I3", f"is {status.state}, but its history has no step")
        return
    if status.steps < len(steps):
        yield _history_finding(task, "I3", f"counts {status.steps} steps, but its history has {len(steps)}")
    if not _is_lawful(steps, was_cut=status.steps > len(steps)):
        path = " → ".join([steps[0].source, *(f"({step.event}) {step.state}" for step in steps)])
        yield _history_finding(task, "I3", f"has a history that the lifecycle does not allow: {path}")
    if steps[-1].state != status.state:
        yield _history_finding(task, "I3", f"is {status.state}, but its last step led to {steps[-1].state}")
    yield from check_steps(task, steps)
    if untold := ", and ".join(untold_changes(status, steps)):
        yield Finding(
            invariant="I3",
            subject=f"task/{task.id}",
            what=untold,
            since_revision=task.status_mod,
            likely_cause=_BY_HAND,
            repair=(
                "while it waits, hold or release it, or set its priority, as is meant: the leader records"
                " that in its history"
            ),
        )
    if _goes_back([*(step.epoch for step in steps), status.epoch]):
        yield term_finding(f"task/{task.id}", "has a history in which the epochs go back", task.status_mod)
    if wrong := _wrong_attempts(steps, status):
        yield _history_finding(task, "I4", wrong)


def _is_lawful(steps: list[Step], was_cut: bool) -> bool:
    try:
        path = [(State(step.source), Event(step.event), State(step.state)) for step in steps]
    except ValueError:
        return False
    return is_path(path) and (was_cut or path[0][0] is State.CREATED)  # a bounded history may begin anywhere


def _wrong_attempts(steps: list[Step], status: Status) -> str:
    """Why no such attempts can have been: an admission alone begins one, and no number is used twice."""
    for before, step in pairwise(steps):
        if step.event == Event.ADMITTED and step.attempt <= before.attempt:
            return f"was admitted with attempt {step.attempt} after attempt {before.attempt}"
        if step.event != Event.ADMITTED and step.attempt != before.attempt:
            return (
                f"has a history in which {step.event} is of attempt {step.attempt}, and attempt"
                f" {before.attempt} was the current one"
            )
    if status.attempt != steps[-1].attempt:
        return f"is at attempt {status.attempt}, but its last step is of attempt {steps[-1].attempt}"
    return ""


def _goes_back(numbers: list[int]) -> bool:
    return any(later < earlier for earlier, later in pairwise(numbers))


def _history_finding(task: Task, invariant: str, what: str) -> Finding:
    return Finding(
        invariant=invariant,
        subject=f"task/{task.id}",
        what=what,
        since_revision=task.status_mod,
        likely_cause=f"{_BY_HAND}, or a bug in Tally: keep the value and report it",
        repair=(
            "what happened is unknown: when no attempt of the task runs any more, cancel the task, and"
            " submit it again under another name"
        ),
    )


def _balance_findings(model: Model, pool: str, held: Vector, unreadable: int) -> Iterator[Finding]:
    ledger = model.ledger(pool)
    difference = ledger.held - held
    for name in difference:
        # An unreadable status may hold something. So a ledger above the sum proves nothing, but one below it
        # does.
        explained = difference[name] > 0 and unreadable > 0
        has, should = format_quantity(name, ledger.held.get(name)), format_quantity(name, held.get(name))
        repair = f"the leader sets the ledger to {should}"
        if difference[name] > 0:
            repair += ", once no attempt without a hold runs in the pool"
        if unreadable:
            repair = "restore or delete the statuses that do not parse"
        yield Finding(
            invariant="I1",
            subject=f"pool/{pool}",
            what=f"{name}: the ledger says {has} is held, but the Pending and Running tasks hold {should}"
            + (
                f"; {counted(unreadable, 'unreadable status', 'unreadable statuses')} may hold the rest"
                if explained
                else ""
            ),
            since_revision=ledger.mod,
            likely_cause=(
                "statuses that do not parse"
                if explained
                else "something other than Tally wrote or deleted a ledger or a status"
            ),
            repair=repair,
            mender=Mender.OPERATOR if unreadable else Mender.REPAIR,
            severity=FindingSeverity.NOTICE if explained else FindingSeverity.WRONG,
        )


def _capacity_findings(model: Model, pool: str) -> Iterator[Finding]:
    ledger, record = model.ledger(pool), model.pools.get(pool)
    if record is None and ("pools", (pool,)) in model.quarantine:
        return
    if pool in model.following:
        yield from overcommitted_by_nodes(model, pool)
        return
    capacity = record.pool.capacity if record is not None else ZERO
    for name in ledger.held.exceeding(capacity):
        has = format_quantity(name, capacity.get(name))
        yield Finding(
            invariant="I2",
            subject=f"pool/{pool}",
            what=f"{name}: {format_quantity(name, ledger.held[name])} is held, "
            + (f"but the capacity is {has}" if record is not None else "but the pool no longer exists"),
            since_revision=max(ledger.mod, record.mod if record is not None else 0),
            likely_cause="the capacity was lowered, or the pool removed, while tasks ran",
            repair="none is needed: the overcommit ends as tasks finish, and nothing is admitted until then",
            severity=FindingSeverity.NOTICE,
        )


def _request_finding(subject: str, mod: int, by: str) -> Finding:
    return Finding(
        invariant="I8",
        subject=subject,
        what=f"waits for the leader{f', requested by {by}' if by else ''}",
        since_revision=mod,
        likely_cause="no replica leads, or the leader is busy or cannot write to etcd",
        repair="check that a replica leads (`tally get replicas`), and read its log",
        severity=FindingSeverity.NOTICE,
        transient=True,
    )
