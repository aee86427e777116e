"""The promise, as checks: what must hold of the stored records, and of the records against what an engine reports.

Pure; called after each step of a simulation, and by `tally audit` on a model that was loaded at one revision. Numbers are
those of the invariants I1 to I7 (see the README). Cost: `check_task` follows the task's history, `check_ledgers` and
`check_terms` the number of tasks; a simulation can call the parts for what it changed.

Soundness. A finding is either certain at once, or `transient`: it can be a matter of timing (a creation in flight, an end
not committed yet), and counts only when a second look finds it again for the same subject. `check_engine` presumes that
the engine was listed *after* the records were loaded. Then a hold that had ended when the records were loaded proves that
its attempt had stopped before the list, so that finding it alive is certain; all else about attempts is transient.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from enum import StrEnum
from itertools import pairwise

from msgspec import Struct

from controller.core.codec import decode_history
from controller.core.errors import CorruptValue
from controller.core.lifecycle import HOLDING, Event, State, is_path
from controller.core.records import Task, decode_or_empty
from controller.core.resources import ZERO, Vector, format_quantity
from controller.core.task import Observation, Status, Step
from controller.core.world import World

_ABANDONED = "it was lost, and given up by the task's `on_lost` or an operator's `tally confirm-stopped`"


class Severity(StrEnum):
    """`WRONG` breaks the promise; a `NOTICE` is worth an operator's look, and fails no audit."""

    WRONG = "wrong"
    NOTICE = "notice"


class Finding(Struct, frozen=True, kw_only=True):
    """Something that does not hold. Findings of one subject and invariant are the same finding at another time."""

    invariant: str  # I1 … I7, or "layout" for records that cannot be read
    subject: str  # "task/NAME", "pool/NAME", "attempt/NAME-N", "key/KIND/NAME"
    what: str  # a sentence, with the numbers
    since_revision: int  # of the last write that can have caused it; 0 when none is known
    likely_cause: str
    repair: str
    severity: Severity = Severity.WRONG
    transient: bool = False  # to be judged by a second look


def check_world(world: World) -> list[Finding]:
    """I1, I2, I3, I7, the part of I4 and I6 that the records alone show, and what cannot be read."""
    findings = list(check_layout(world))
    findings += check_ledgers(world)
    findings += check_terms(world)
    for task in world.tasks.values():
        findings += check_task(task)
    return findings


def check_task(task: Task) -> list[Finding]:
    """I3, I7 within the history, I1's rule on who may hold, and a task that can never go on (I6)."""
    status = task.status
    if status is None or "states" in task.frozen:
        return []
    findings = list(_history_findings(task, status))
    if status.hold and status.state not in HOLDING:
        findings.append(
            Finding(
                invariant="I1",
                subject=f"task/{task.id}",
                what=f"is {status.state}, and still holds {status.hold}",
                since_revision=task.status_mod,
                likely_cause="a status that was not written by Tally",
                repair=f"compare pool {task.pool!r} with its ledger; then correct the hold in states/{task.id}",
            )
        )
    if task.spec is None and not task.frozen and status.state is State.WAITING_RETRY:
        findings.append(
            Finding(
                invariant="I6",
                subject=f"task/{task.id}",
                what="waits for a retry, but its spec is gone: it can never run",
                since_revision=task.status_mod,
                likely_cause=f"tasks/{task.id} was deleted by hand",
                repair="the leader marks it Failed",
                transient=True,
            )
        )
    return findings


def check_ledgers(world: World) -> list[Finding]:
    """I1 and I2 for each pool and resource."""
    held: dict[str, Vector] = {}
    unreadable: Counter[str] = Counter()  # pool ("" when it is not known) → statuses that do not parse
    for task in world.tasks.values():
        if "states" in task.frozen:
            unreadable[task.spec.pool if task.spec is not None else ""] += 1
        elif task.status is not None and task.status.state in HOLDING:
            held[task.pool] = held.get(task.pool, ZERO) + task.status.hold
    findings: list[Finding] = []
    for pool in sorted({*held, *world.ledgers}):
        if not world.pool_is_frozen(pool):
            findings += _balance_findings(world, pool, held.get(pool, ZERO), unreadable[pool] + unreadable[""])
            findings += _capacity_findings(world, pool)
    return findings


def check_terms(world: World) -> list[Finding]:
    """I7: no recorded term is above the epoch, and in the order of writes (mod revision) terms never go back."""
    findings: list[Finding] = []
    epoch = current_epoch(world)
    written = sorted(
        (task.status_mod, task.status.term, task.id)
        for task in world.tasks.values()
        if task.status is not None and "states" not in task.frozen
    )
    highest = 0
    for mod, term, task_id in written:
        if term < highest:
            findings.append(
                _term_finding(f"task/{task_id}", f"was written by term {term} after term {highest} had begun to write", mod)
            )
        highest = max(highest, term)
    named = [(int(name), name, change.mod) for name, change in world.terms.items() if name.isascii() and name.isdigit()]
    if epoch is None:
        if written or named or world.epoch is not None:
            what = "is missing" if world.epoch is None else "names no number"
            findings.append(_term_finding("key/epoch", what, world.epoch.mod if world.epoch is not None else 0))
        return findings
    for mod, term, task_id in written:
        if term > epoch:
            findings.append(_term_finding(f"task/{task_id}", f"names term {term}, but the epoch is only {epoch}", mod))
    for term, name, mod in named:
        if term > epoch:
            findings.append(_term_finding(f"key/terms/{name}", f"is above the epoch, which is only {epoch}", mod))
    return findings


def check_layout(world: World) -> Iterator[Finding]:
    """Notices for records that do not parse, and for keys that are not of Tally's layout."""
    for (kind, names), reason in world.quarantine.items():
        foreign = kind == "unknown"
        yield Finding(
            invariant="layout",
            subject=f"key/{names[0]}" if foreign else f"key/{kind}/{'/'.join(names)}",
            what=f"is left alone: {reason}",
            since_revision=world.mod_of(kind, names),
            likely_cause="a key written by something else" if foreign else "a value damaged by hand, or of a newer version",
            repair="delete the key" if foreign else "restore the value, or delete the key if nothing stands behind it",
            severity=Severity.NOTICE,
        )


def check_engine(world: World, observations: Iterable[Observation], now: float) -> list[Finding]:
    """I4 and I5: the attempts that an engine listed after the records were loaded. `now` is in seconds since the epoch."""
    live: dict[str, list[Observation]] = {}
    seen: dict[str, Observation] = {}
    for observation in observations:
        seen[str(observation.attempt)] = observation
        if is_live(observation):
            live.setdefault(observation.attempt.task_id, []).append(observation)
    findings: list[Finding] = []
    for task_id, attempts in live.items():
        task = world.tasks.get(task_id)
        if len(attempts) > 1:
            findings.append(_several_live(attempts, task))
        findings += (_orphan(observation, task) for observation in attempts if not _has_hold(task, observation))
    for task in world.tasks.values():
        if task.status is not None and task.status.state in HOLDING and "states" not in task.frozen:
            finding = _holder_finding(task, task.status, seen.get(f"{task.id}-{task.status.attempt}"), now)
            if finding is not None:
                findings.append(finding)
    return findings


def is_live(observation: Observation) -> bool:
    """Whether the attempt exists and nothing proves that it has stopped."""
    return not observation.stopped and not observation.gone


def current_epoch(world: World) -> int | None:
    """The number of elections so far, None when it is not known."""
    epoch = decode_or_empty(world.epoch).get("epoch")
    return epoch if isinstance(epoch, int) and not isinstance(epoch, bool) else None


def _history_findings(task: Task, status: Status) -> Iterator[Finding]:
    """I3, and that terms (I7) and attempts (I4) never go back within a history."""
    try:
        steps = decode_history(status)
    except CorruptValue as error:
        yield _history_finding(task, "I3", f"has a history that does not parse: {error}")
        return
    if not steps:
        yield _history_finding(task, "I3", f"is {status.state}, but no step led there")
        return
    if status.steps < len(steps):
        yield _history_finding(task, "I3", f"counts {status.steps} steps, but its history has {len(steps)}")
    if not _is_lawful(steps, was_cut=status.steps > len(steps)):
        path = " → ".join([steps[0].source, *(f"({step.event}) {step.state}" for step in steps)])
        yield _history_finding(task, "I3", f"has a history that the lifecycle does not allow: {path}")
    if steps[-1].state != status.state:
        yield _history_finding(task, "I3", f"is {status.state}, but its last step led to {steps[-1].state}")
    if _goes_back([*(step.term for step in steps), status.term]):
        yield _history_finding(task, "I7", "has a history whose terms go back")
    if _goes_back([*(step.attempt for step in steps), status.attempt]):
        yield _history_finding(task, "I4", "has a history whose attempts go back")


def _is_lawful(steps: list[Step], was_cut: bool) -> bool:
    try:
        path = [(State(step.source), Event(step.event), State(step.state)) for step in steps]
    except ValueError:
        return False
    return is_path(path) and (was_cut or path[0][0] is State.CREATED)  # a bounded history may begin anywhere


def _goes_back(numbers: list[int]) -> bool:
    return any(later < earlier for earlier, later in pairwise(numbers))


def _history_finding(task: Task, invariant: str, what: str) -> Finding:
    return Finding(
        invariant=invariant,
        subject=f"task/{task.id}",
        what=what,
        since_revision=task.status_mod,
        likely_cause="a status that was not written by Tally, or a fault of Tally: keep the value and report it",
        repair=f"cancel the task once nothing of it runs (`tally cancel {task.id}`), and submit it again under another name",
    )


def _balance_findings(world: World, pool: str, held: Vector, unreadable: int) -> Iterator[Finding]:
    ledger = world.ledger(pool)
    difference = ledger.held - held
    for name in difference:
        # What cannot be read may hold something, so that a ledger above the sum proves nothing; one below it does.
        explained = difference[name] > 0 and unreadable > 0
        has, should = format_quantity(name, ledger.held.get(name)), format_quantity(name, held.get(name))
        yield Finding(
            invariant="I1",
            subject=f"pool/{pool}",
            what=f"{name}: the ledger says {has} is held, the tasks in Pending and Running hold {should}"
            + (f"; {unreadable} unreadable statuses may hold the rest" if explained else ""),
            since_revision=ledger.mod,
            likely_cause="statuses that do not parse" if explained else "a ledger or a status that was not written by Tally",
            repair="restore the statuses that do not parse"
            if explained
            else f"pause the pool, and when none of its tasks changes any more set {name} in ledgers/{pool} to {should}",
            severity=Severity.NOTICE if explained else Severity.WRONG,
        )


def _capacity_findings(world: World, pool: str) -> Iterator[Finding]:
    ledger, record = world.ledger(pool), world.pools.get(pool)
    if record is None and ("pools", (pool,)) in world.quarantine:
        return
    capacity = record.pool.capacity if record is not None else ZERO
    for name in ledger.held.exceeding(capacity):
        has = format_quantity(name, capacity.get(name))
        yield Finding(
            invariant="I2",
            subject=f"pool/{pool}",
            what=f"{name}: {format_quantity(name, ledger.held[name])} is held, "
            + (f"the capacity is {has}" if record is not None else "but the pool does not exist any more"),
            since_revision=max(ledger.mod, record.mod if record is not None else 0),
            likely_cause="the capacity was lowered, or the pool removed, while tasks ran",
            repair="none is needed: it ends as tasks finish; nothing more is admitted until then",
            severity=Severity.NOTICE,
        )


def _term_finding(subject: str, what: str, since: int) -> Finding:
    return Finding(
        invariant="I7",
        subject=subject,
        what=what,
        since_revision=since,
        likely_cause="keys written around the fence: by hand, or by a restore that put them one by one",
        repair="stop all replicas, see that the epoch is above every recorded term, and start them again",
    )


def _has_hold(task: Task | None, observation: Observation) -> bool:
    return (
        task is not None
        and task.status is not None
        and task.status.state in HOLDING
        and task.status.attempt == observation.attempt.number
    )


def _is_abandoned(task: Task | None, observation: Observation) -> bool:
    """Whether the user or an operator gave the attempt up without proof (`on_lost`, confirm-stopped): it may still run."""
    return task is not None and task.status is not None and observation.attempt.number <= task.status.abandoned


def _several_live(attempts: list[Observation], task: Task | None) -> Finding:
    attempts = sorted(attempts, key=lambda observation: observation.attempt.number)
    accepted = all(_is_abandoned(task, observation) for observation in attempts[:-1])
    others = ", ".join(f"{observation.attempt} ({observation.phase})" for observation in attempts[1:])
    return Finding(
        invariant="I4",
        subject=f"attempt/{attempts[0].attempt}",
        what=f"is {attempts[0].phase} and not proven to have stopped, beside {others}",
        since_revision=task.status_mod if task is not None else 0,
        likely_cause=_ABANDONED if accepted else "a late start by a stale leader",
        repair="none: this was accepted" if accepted else "stop the attempt that has no hold",
        severity=Severity.NOTICE if accepted else Severity.WRONG,
        transient=True,  # a list is not taken in one moment: one can end, and the next begin, while it is read
    )


def _orphan(observation: Observation, task: Task | None) -> Finding:
    unreadable = task is not None and "states" in task.frozen
    ended = task is not None and task.status is not None and observation.attempt.number <= task.status.attempt
    what, cause, repair = (
        "holds nothing: it is an orphan",
        "a start that came late, or a change of etcd by hand",
        "the leader stops it",
    )
    severity = Severity.WRONG
    if unreadable:
        what, cause, repair = "the status of its task does not parse", "a value damaged by hand", "restore the status"
        severity = Severity.NOTICE
    elif _is_abandoned(task, observation):
        what, cause, repair = "its hold was given up", _ABANDONED, "see that it ends: its node, or its supervisor"
        severity = Severity.NOTICE
    return Finding(
        invariant="I5",
        subject=f"attempt/{observation.attempt}",
        what=f"is {observation.phase}, but {what}",
        since_revision=task.status_mod if task is not None else 0,
        likely_cause=cause,
        repair=repair,
        severity=severity,
        transient=not unreadable and not ended,  # a newer attempt's hold can have been committed after the load
    )


def _holder_finding(task: Task, status: Status, observation: Observation | None, now: float) -> Finding | None:
    """What is odd about the attempt of a task that holds, if anything."""
    missing = observation is None or observation.gone
    severity, invariant = Severity.NOTICE, "I5"
    if status.lost_since is not None and not (observation is not None and observation.stopped):
        what = f"is lost since {now - status.lost_since:.0f} s; its resources stay held"
        cause, repair = "its node or its supervisor is gone", f"when it is certain to be dead: `tally confirm-stopped {task.id}`"
    elif missing and status.state is State.RUNNING:
        severity = Severity.WRONG
        what = f"is recorded as Running since {now - (status.started_at or now):.0f} s, but the engine does not have it"
        cause, repair = "it was removed behind the engine's back", "the leader notices at its next full list; see its log"
    elif missing:
        what = f"holds resources since {now - (status.admitted_at or now):.0f} s, but the engine does not have it yet"
        cause, repair = "its start is in flight, or the engine refuses it for now", f"see `tally describe task {task.id}`"
    elif observation is not None and observation.stopped:
        invariant = "I6"
        what = f"has stopped ({observation.phase}), but its end is not committed"
        cause, repair = "the commit is in flight, or nobody leads", "see that a replica leads (`tally get replicas`)"
    elif observation is not None and status.uid and observation.uid not in ("", status.uid):
        severity, invariant = Severity.WRONG, "I4"
        what = f"was recorded with uid {status.uid}, but the engine has it with uid {observation.uid}"
        cause, repair = "it was removed and made again behind the engine's back", "stop it, and see whether both have run"
    else:
        return None
    return Finding(
        invariant=invariant,
        subject=f"attempt/{task.id}-{status.attempt}",
        what=what,
        since_revision=task.status_mod,
        likely_cause=cause,
        repair=repair,
        severity=severity,
        transient=status.lost_since is None,
    )
