"""A step of a task's history, as readers see it."""

from __future__ import annotations

import msgspec

from controller.core.model import codec
from controller.core.model.task import Status, Step


class StepView(Step, frozen=True, kw_only=True, omit_defaults=True):
    """As Step, with `epoch` under its own name, which is another one in the store."""

    epoch: int = msgspec.field(default=0, name="epoch")


def step_views(status: Status) -> list[StepView]:
    """The steps of a status, oldest first. Raises CorruptValue if they cannot be read."""
    return [StepView(**msgspec.structs.asdict(step)) for step in codec.decode_history(status)]
