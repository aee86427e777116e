"""The records of schedules in the model: their definitions, their states, and their attestations."""

from __future__ import annotations

from typing import NamedTuple

from controller.core.model import attested, own_labels
from controller.core.model.attested import Attestation
from controller.core.model.records import Change, Task
from controller.core.model.schedules import (
    ATTESTED,
    KIND,
    STATES,
    Schedule,
    ScheduleState,
    decode_schedule,
    decode_state,
)


class ScheduleRecord(NamedTuple):
    """A schedule, with the mod and create revision of its key. One that cannot be read has no record."""

    schedule: Schedule
    mod: int
    create: int


def may_have_made(schedule: str, task: Task) -> bool:
    """Whether a task under the name of one of its ticks may be the schedule's.

    A user may have given the name to another one, once the schedule's was removed. A task may be the
    schedule's if its spec cannot be read or was overwritten, or if its status is from before its spec.
    """
    spec, status = task.spec, task.status
    if spec is None or task.spec_error or not task.spec_is_original:
        return True
    if spec.labels.get(own_labels.SCHEDULE) == schedule:
        return True
    return status is not None and status.created_at != task.submitted_at


class ScheduleRecords:
    """Schedules by name. `touched` are those of which a record has changed, until a leader has looked."""

    def __init__(self) -> None:
        self.defined: dict[str, ScheduleRecord] = {}
        self.states: dict[str, ScheduleState] = {}
        self.attested: dict[str, tuple[Attestation, int]] = {}
        self.touched: dict[str, None] = {}

    @property
    def names(self) -> frozenset[str]:
        """Of all that have a schedule or a state that can be read."""
        return frozenset((*self.defined, *self.states))

    def take(self, change: Change) -> bool:
        """Take in a change. False if its kind is none of these. Raises CorruptValue."""
        if change.kind not in (KIND, STATES, ATTESTED):
            return False
        name, value = change.names[0], change.value
        self.touched[name] = None
        if change.kind == KIND:
            self.defined.pop(name, None)
            if value is not None:
                self.defined[name] = ScheduleRecord(decode_schedule(name, value), change.mod, change.create)
        elif change.kind == STATES:
            self.states.pop(name, None)
            if value is not None:
                self.states[name] = decode_state(name, value)
        else:
            self.attested.pop(name, None)
            if value is not None:
                self.attested[name] = attested.decode(value), change.mod
        return True

    def attestation_of(self, record: ScheduleRecord) -> Attestation | None:
        """The attestation that holds for the schedule as it is."""
        found, mod = self.attested.get(record.schedule.name, (None, 0))
        if found is None or not found.holds_for(mod, record.schedule.task, record.mod):
            return None
        return found
