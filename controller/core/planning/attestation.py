"""Which waiting tasks a pool with `require_attested` refuses, and why (invariant I12)."""

from __future__ import annotations

from controller.core.model import attested
from controller.core.model.model import Model
from controller.core.model.records import Task
from controller.core.model.task import Pool


def unattested(model: Model, task: Task, pool: Pool) -> str:
    """Why the pool admits no attempt of the task, whose spec is readable; "" if nothing speaks against it.

    What was attested once stays so while the spec is the same. A retry is judged as the first attempt is: the
    spec may have been changed in between.
    """
    if not pool.require_attested or task.spec is None or model.attestation_of(task) is not None:
        return ""
    rule = f"pool {pool.name} takes only tasks that a gateway has attested (require_attested)"
    if is_unreadable(model, task):
        return f"{rule}, and this one's attestation cannot be read: see `tally audit`"
    known = task.spec_id in model.attested
    why = "its spec is not the one that was attested" if known else "nobody has attested this one"
    return f"{rule}, and {why}: submit it through a gateway (`--server`)"


def is_unreadable(model: Model, task: Task) -> bool:
    """Whether the task's attestation is damaged. Such a task waits; it is not rejected."""
    return (attested.KIND, (task.spec_id,)) in model.quarantine
