"""I17: no attempt is admitted that could reach into a maintenance window which its pool had by then.

An admission compares the mod of its pool, and a status says which mod that was, if the pool had windows. So
what an admission saw is certain while the pool has not changed since, whatever any clock says. A window that
is set after an admission, a deadline of another spec, and a pool that is made again are never found wrong.
"""

from __future__ import annotations

from collections.abc import Iterator

from controller.core.model.maintenance import keeping_back, room
from controller.core.model.records import PoolRecord, Task
from controller.core.model.task import Status
from controller.core.promise.finding import Finding


def check_windows(task: Task, status: Status, pool: PoolRecord | None) -> Iterator[Finding]:
    """I17 for the last attempt of a task, as far as the records tell."""
    spec, at = task.spec, status.admitted_at
    if not status.windows_of or pool is None or pool.mod != status.windows_of or at is None:
        return
    if spec is None or task.spec_error or not task.spec_is_original or "tasks" in task.frozen:
        return
    if status.created_at != task.submitted_at or spec.reach_seconds <= room(pool.pool.maintenance, at):
        return
    window = keeping_back(pool.pool.maintenance, at)
    assert window is not None
    yield Finding(
        invariant="I17",
        subject=f"task/{task.id}",
        what=(
            f"attempt {status.attempt} was admitted at {at:.3f}, and may go on for {spec.reach_seconds:.15g}"
            f" s: it reaches into the window of pool {pool.pool.name} from {window.starts_at:.3f} to"
            f" {window.ends_at:.3f}"
        ),
        since_revision=task.status_mod,
        likely_cause="a defect in Tally, or a status that was not written by Tally",
        repair="none: cancel the task if it must not run in the window",
    )
