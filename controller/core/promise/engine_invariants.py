"""The promise against an engine: the attempts that it lists, and the records.

Soundness: `check_engine` requires that the engine was listed *after* the records were loaded. If a hold had
ended when the records were loaded, its attempt had stopped before the list: finding it alive is certain. All
other findings about attempts are transient (see `finding`).
"""

from __future__ import annotations

from collections.abc import Iterable

from controller.core.model.lifecycle import HOLDING, State
from controller.core.model.model import Model
from controller.core.model.records import Task
from controller.core.model.task import Observation, Status
from controller.core.promise.finding import Finding, FindingSeverity, Mender

_ABANDONED = "it was lost, and then given up by the task's `on_lost` or by `tally confirm-stopped`"


def check_engine(
    model: Model, observations: Iterable[Observation], now: float, holders: Iterable[Task] | None = None
) -> list[Finding]:
    """I4 and I5: the attempts that an engine listed after the records were loaded.

    `now` is in seconds since the epoch. `holders` are all tasks that may hold something; None: search all
    tasks.
    """
    live: dict[str, list[Observation]] = {}
    seen: dict[str, Observation] = {}
    for observation in observations:
        seen[str(observation.attempt)] = observation
        if is_live(observation):
            live.setdefault(observation.attempt.task_id, []).append(observation)
    findings: list[Finding] = []
    for task_id, attempts in live.items():
        task = model.tasks.get(task_id)
        if len(attempts) > 1:
            findings.append(_several_live(model, attempts, task))
        findings += (
            _orphan(model, observation, task) for observation in attempts if not _has_hold(task, observation)
        )
    for task in model.tasks.values() if holders is None else holders:
        status = task.status
        is_holder = status is not None and status.is_holding and not status.reserved
        if status is not None and is_holder and "states" not in task.frozen:
            finding = _holder_finding(task, status, seen.get(f"{task.id}-{status.attempt}"), now)
            if finding is not None:
                findings.append(finding)
    return findings


def is_live(observation: Observation) -> bool:
    """Whether the attempt exists and nothing proves that it has stopped."""
    return not observation.stopped and not observation.gone


def _has_hold(task: Task | None, observation: Observation) -> bool:
    return (
        task is not None
        and task.status is not None
        and task.status.state in HOLDING
        and not task.status.reserved
        and task.status.attempt == observation.attempt.number
    )


def _is_abandoned(model: Model, observation: Observation) -> bool:
    """Whether the attempt was given up without proof (`on_lost`, confirm-stopped). It may still run."""
    return observation.attempt.number <= model.arrays.given_up(observation.attempt.task_id)


def _several_live(model: Model, attempts: list[Observation], task: Task | None) -> Finding:
    attempts = sorted(attempts, key=lambda observation: observation.attempt.number)
    accepted = all(_is_abandoned(model, observation) for observation in attempts[:-1])
    others = ", ".join(f"{observation.attempt} ({observation.phase})" for observation in attempts[1:])
    return Finding(
        invariant="I4",
        subject=f"attempt/{attempts[0].attempt}",
        what=f"is {attempts[0].phase}, without proof of stop, alongside {others}",
        since_revision=task.status_mod if task is not None else 0,
        likely_cause=_ABANDONED if accepted else "a late start by a stale leader",
        repair="none: this was accepted" if accepted else "the leader stops the attempt that holds nothing",
        mender=Mender.OPERATOR if accepted else Mender.LEADER,
        severity=FindingSeverity.NOTICE if accepted else FindingSeverity.WRONG,
        # listing takes time: one can end, and the next begin, meanwhile
        transient=True,
    )


def _orphan(model: Model, observation: Observation, task: Task | None) -> Finding:
    unreadable = task is not None and "states" in task.frozen
    ended = task is not None and task.status is not None and observation.attempt.number <= task.status.attempt
    what, cause, repair = (
        "holds nothing: it is an orphan",
        "a late start, or a change made in etcd by hand",
        "the leader stops it, and does not adopt it, because what it held is unknown",
    )
    severity, mender = FindingSeverity.WRONG, Mender.LEADER
    if task is not None and task.status is None:
        cause = "the status of its task was deleted by hand, or the attempt was started late"
    if unreadable:
        what, cause, repair = (
            "the status of its task does not parse",
            "a value damaged by hand",
            "restore the status",
        )
        severity, mender = FindingSeverity.NOTICE, Mender.OPERATOR
    elif _is_abandoned(model, observation):
        what, cause, repair = (
            "its hold was given up",
            _ABANDONED,
            "make sure that it ends: check its node or its supervisor",
        )
        severity, mender = FindingSeverity.NOTICE, Mender.OPERATOR
    return Finding(
        invariant="I5",
        subject=f"attempt/{observation.attempt}",
        what=f"is {observation.phase}, but {what}",
        since_revision=task.status_mod if task is not None else 0,
        likely_cause=cause,
        repair=repair,
        mender=mender,
        severity=severity,
        # a newer attempt's hold can have been committed after the load
        transient=not unreadable and not ended,
    )


def _holder_finding(
    task: Task, status: Status, observation: Observation | None, now: float
) -> Finding | None:
    """What is odd about the attempt of a task that holds, if anything."""
    missing = observation is None or observation.gone
    severity, invariant, mender = FindingSeverity.NOTICE, "I5", Mender.LEADER
    if status.lost_since is not None and not (observation is not None and observation.stopped):
        mender = Mender.OPERATOR
        what = f"has been lost for {now - status.lost_since:.0f} s; its resources stay held"
        cause, repair = (
            "its node or its supervisor is gone",
            f"once you are certain that it no longer runs: `tally confirm-stopped {task.id}`",
        )
    elif missing and status.state is State.RUNNING:
        severity = FindingSeverity.WRONG
        what = (
            f"has been recorded as Running for {now - (status.started_at or now):.0f} s, but the engine does"
            " not have it"
        )
        cause, repair = (
            "it was removed by something other than Tally",
            "the leader ends it as Failed, and the retry policy decides",
        )
    elif missing:
        what = (
            f"has held resources for {now - (status.admitted_at or now):.0f} s, but the engine does not have"
            " it yet"
        )
        cause, repair = (
            "its start is under way, or the engine refuses it for now",
            f"the leader starts it; see `tally describe task {task.id}`",
        )
    elif observation is not None and observation.stopped:
        invariant = "I6"
        what = f"has stopped ({observation.phase}), but its end is not committed"
        cause, repair = (
            "the commit is under way, or no replica leads",
            "the leader records it; check that a replica leads (`tally get replicas`)",
        )
    elif observation is not None and status.uid and observation.uid not in ("", status.uid):
        severity, invariant, mender = FindingSeverity.WRONG, "I4", Mender.OPERATOR
        what = f"was recorded with uid {status.uid}, but the engine has it with uid {observation.uid}"
        cause, repair = (
            "it was removed and created again by something other than Tally",
            f"check whether both have run, and then run `tally cancel {task.id}`",
        )
    else:
        return None
    return Finding(
        invariant=invariant,
        subject=f"attempt/{task.id}-{status.attempt}",
        what=what,
        since_revision=task.status_mod,
        likely_cause=cause,
        repair=repair,
        mender=mender,
        severity=severity,
        transient=status.lost_since is None,
    )
