"""The judge of notices: one for each end that is to be told; it goes only when it was delivered."""

from __future__ import annotations

from controller.core.model import codec, notices
from controller.core.model.task import Status

FINISHED = ("Succeeded", "Failed", "Cancelled")


def is_due(task_id: str, spec: bytes, old: Status | None, new: Status, pool: bytes) -> bool:
    """Whether a notice goes with this step, as the pool is defined."""
    if new.state not in FINISHED or (old is not None and old.state in FINISHED):
        return False
    stored = codec.decode_spec(task_id, spec)
    labels = stored.spec.labels if not stored.error else {}
    rules = codec.decode_pool(new.pool, pool).notify
    return any(new.state.lower() in rule.on and rule.labels.items() <= labels.items() for rule in rules)


def wrong_notice(value: bytes, new: Status | None) -> str:
    """What is wrong with a notice that was written together with this status; "" if nothing is."""
    told = notices.decode_notice(value)
    if new is None:
        return "was written without the end of a task"
    known = (new.state.lower(), new.pool or told.pool, new.owner, new.attempt, new.reason, new.exit_code)
    said = (told.ending, told.pool, told.owner, told.attempt, told.reason, told.exit_code)
    return "" if known == said else f"says {said}, and the status {known}"


def wrong_end(before: bytes, after: bytes | None, delivery: bytes | None) -> str:
    """What is wrong with a notice that a leader has deleted or marked; "" if nothing is."""
    if delivery is None:
        return "was changed, and nothing says that it was delivered"
    dead = notices.decode_delivery(delivery).dead
    if after is None:
        return "was deleted, and was not delivered" if dead else ""
    told = notices.decode_notice(after)
    if not dead or told.dead is None or set(told.urls) != set(dead) & set(notices.decode_notice(before).urls):
        return f"was given up as {told}, and {sorted(dead)} were not told"
    return ""
