"""What the gateway shows a caller of schedules: those of whose owners it may read the tasks."""

from __future__ import annotations

from controller.client import Client
from controller.client.schedules import parse_schedule_name
from controller.core.model.model import Model
from controller.endpoint.documents import masked_spec
from controller.gateway.caller import Caller
from controller.gateway.policy import Right
from controller.runtime.standby import Standby
from controller.views.schedules import (
    ScheduleView,
    masked_task,
    plain_task,
    schedule_names,
    schedule_view,
)


class ShownSchedules:
    """See the module's docstring. Its methods block, and may be called from any thread."""

    def __init__(self, client: Client, standby: Standby) -> None:
        self._client = client
        self._standby = standby

    def all(self, caller: Caller) -> list[ScheduleView]:
        """The schedules, by name."""
        with self._standby.reading() as model:
            found = [self._view(caller, model, name) for name in schedule_names(model)]
        return [view for view in found if view is not None]

    def get(self, caller: Caller, name: str) -> ScheduleView:
        """One schedule. Raises NotFound, InvalidField."""
        parse_schedule_name(name)
        with self._standby.reading() as model:
            view = self._view(caller, model, name, foresee=True)
        if view is None:
            raise self._client.schedules.none(name)
        return view

    def _view(self, caller: Caller, model: Model, name: str, *, foresee: bool = False) -> ScheduleView | None:
        """Values of its environment are masked for a caller who may not submit for its owner."""
        record, rights = model.schedules.defined.get(name), caller.rights
        task = record.schedule.task if record is not None else None
        if not (rights.may_read_all if task is None else rights.allows(Right.READ, task.owner)):
            return None
        is_own = task is not None and rights.allows(Right.SUBMIT, task.owner, task.pool)
        shown = plain_task if is_own else masked_task(masked_spec)
        return schedule_view(model, name, self._client.clock.wall(), shown, foresee=foresee)
