"""I12: in a pool with `require_attested`, only what a gateway has attested runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from controller.core.model import attested
from controller.core.model.model import Model
from controller.core.model.records import Task
from controller.core.promise.finding import Finding, FindingSeverity, Mender


def check_attested(model: Model, tasks: Iterable[Task]) -> Iterator[Finding]:
    """A notice for each of these tasks that runs, and does not look as if it had been attested.

    Whoever may write attestations may also delete one later, so it proves nothing about the admission.
    Nothing is said of a task whose pool has changed since its submission, or whose spec was put again: it may
    have been admitted when that was allowed.
    """
    for task in tasks:
        record = model.pools.get(task.pool)
        if (
            task.status is None
            or not task.status.is_holding
            or task.frozen
            or task.spec is None
            or record is None
            or not record.pool.require_attested
            or not record.mod < task.spec_create == task.spec_mod
            or (attested.KIND, (task.id,)) in model.quarantine
            or model.attestation_of(task) is not None
        ):
            continue
        yield Finding(
            invariant="I12",
            subject=f"task/{task.id}",
            what=(
                f"is {task.state} in pool {task.pool}, which takes only attested tasks, and nobody has"
                " attested it"
            ),
            since_revision=task.status_mod,
            likely_cause="something other than Tally wrote its status, or wrote or deleted its attestation",
            repair="none: cancel the task if it must not run",
            severity=FindingSeverity.NOTICE,
        )


def check_attestations(model: Model) -> Iterator[Finding]:
    """A notice for each attestation of a task that is gone. It attests nothing, whatever comes after it."""
    for task_id, (_, mod) in model.attested.items():
        task = model.tasks.get(task_id)
        if task is None or not (task.spec_mod or task.status_mod or task.frozen):
            name = f"{attested.KIND}/{task_id}"
            yield Finding(
                invariant="I12",
                subject=f"key/{name}",
                what="attests a task that is gone",
                since_revision=mod,
                likely_cause="the task's spec was deleted by hand before a leader saw it",
                repair=f"the leader deletes it: `tally audit --repair --delete {name}`",
                mender=Mender.DELETION,
                severity=FindingSeverity.NOTICE,
            )
