"""What of the stored data uses a feature. Pure."""

from __future__ import annotations

from controller.core.model.features import CLAIMS, OWNERS, needed_by_pool
from controller.core.model.model import Model
from controller.core.model.records import Task
from controller.core.model.task import DEFAULT_OWNER, StopReason


def uses(model: Model, name: str) -> list[str]:
    """The records that use the feature, as `<kind>/<name>`, sorted by kind."""
    pools = [f"pool/{pool}" for pool in sorted(model.pools) if name in needed_by_pool(model.pools[pool].pool)]
    claims = [f"claim/{pool}/{task}" for pool in sorted(model.claims) for task in sorted(model.claims[pool])]
    tasks = [f"task/{task_id}" for task_id in sorted(model.tasks) if _task_uses(model.tasks[task_id], name)]
    return [*pools, *(claims if name == CLAIMS else []), *tasks]


def _task_uses(task: Task, name: str) -> bool:
    if name == OWNERS:
        return any(record.owner != DEFAULT_OWNER for record in (task.spec, task.status) if record is not None)
    return name == CLAIMS and task.status is not None and task.status.stopping == StopReason.PREEMPTED
