"""Schedules: tasks that the leader makes at the times of a cron expression.

A user writes `schedules/<name>`. The leader keeps `schedule-states/<name>`, which says up to which tick all
is decided. The transaction that makes the task of a tick, `<name>-<YYYYMMDDhhmm>` (UTC), also advances the
state, and compares both records and the absence of that task. So each tick is decided once, whoever leads.

A gateway writes `attested-schedules/<name>` in the transaction that writes the schedule: the two have one mod
revision. The leader then attests the tasks of the schedule: see `attested`.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from controller.core.model import codec, own_labels
from controller.core.model.arrays import MAX_ARRAY_ID
from controller.core.model.cron import parse_cron, parse_zone
from controller.core.model.fields import Parse, mapping, not_a_field, one_of, read_fields
from controller.core.model.op import NO_OP, Op
from controller.core.model.scalars import parse_boolean, parse_integer, parse_name
from controller.core.model.task import SCHEMA_VERSION, Count, Spec, Time
from controller.core.model.validation import MAX_SPEC_BYTES, parse_spec
from controller.errors import CorruptValue, InvalidField

KIND = "schedules"
STATES = "schedule-states"
ATTESTED = "attested-schedules"

MAX_NAME = 39  # with "-YYYYMMDDhhmm", it is a task's id
MAX_NAME_OF_ARRAYS = MAX_ARRAY_ID - (52 - MAX_NAME)
MAX_LIVE = 100
"""Unfinished tasks of one schedule. While there are so many, its ticks are skipped."""
MOST_CAUGHT_UP = 100
"""Missed ticks that `catch_up: all` makes."""
RECENT = 20
"""Outcomes that a state keeps."""
GRACE_SECONDS = 60
"""With `catch_up: none`, a tick is made only so long after its time."""
SCHEDULED_AT = "TALLY_SCHEDULED_AT"
"""The variable that tells a task the time of its tick (ISO 8601, UTC), unless its schedule sets it."""

MAX_VERSION = 2**31
_NO_TIME = "0" * 12
_RESERVE = 1024  # bytes of a spec for what the leader adds
Seconds = Annotated[int, Meta(ge=0, lt=253_402_300_800)]


class Concurrency(StrEnum):
    """What happens at a tick while earlier tasks of the schedule have not ended."""

    ALLOW = "allow"
    FORBID = "forbid"  # the tick is skipped
    REPLACE = "replace"  # they are cancelled, and the tick's task is made once all are proven to have stopped


class CatchUp(StrEnum):
    """Which ticks are made that were missed: no replica led, or the schedule was suspended."""

    NONE = "none"
    LATEST = "latest"
    ALL = "all"  # the newest 100


class Schedule(Struct, frozen=True, kw_only=True):
    """What a user asks for. `task` is the spec of each task; its id and two fields are the tick's own."""

    name: str
    cron: str
    task: Spec
    timezone: str = "UTC"
    concurrency: Concurrency = Concurrency.ALLOW
    catch_up: CatchUp = CatchUp.LATEST
    suspended: bool = False


class TickResult(StrEnum):
    """What became of a tick."""

    MADE = "made"
    REPLACED = "replaced"  # made, once the tasks that it replaces had stopped
    SKIPPED = "skipped"
    NAME_TAKEN = "name-taken"  # another task has its name


class TickOutcome(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of the tick of that time, or of `count` ticks up to it.

    `more`: there were at least `count`; nobody has counted them all.
    """

    tick: Seconds
    result: TickResult
    task: str = ""
    why: Annotated[str, Meta(max_length=1024)] = ""
    count: Count = 1
    more: bool = False


class ScheduleState(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How far a schedule has come. Only leaders write it.

    All ticks up to `cursor` are decided, but for `waiting`, which waits for tasks that it replaces; 0 for
    none. `create` is the create revision of the schedule that this is the state of, and `since` when it was
    first seen. `live` are its tasks that had not ended when this was written. `counts` are ticks by result.
    """

    cursor: Seconds
    create: Count
    since: Time = 0.0
    waiting: Seconds = 0
    live: Annotated[tuple[str, ...], Meta(max_length=MAX_LIVE)] = ()
    recent: Annotated[tuple[TickOutcome, ...], Meta(max_length=RECENT)] = ()
    counts: dict[TickResult, Count] = {}
    version: Count = 0
    op: Op = NO_OP

    def told(self, outcome: TickOutcome) -> ScheduleState:
        """The state with one more outcome."""
        counts = {**self.counts, outcome.result: self.counts.get(outcome.result, 0) + outcome.count}
        recent = (*self.recent, outcome)[-RECENT:]
        return msgspec.structs.replace(self, recent=recent, counts=counts)


_state_decoder = msgspec.json.Decoder(ScheduleState)


def parse_schedule(raw: object) -> Schedule:
    """The schedule that a mapping describes. Raises InvalidField, naming the field."""
    fields = dict(mapping(raw, "", "a schedule is a mapping with `name`, `cron` and `task`"))
    for not_ours in ("version", "op", "kind"):
        fields.pop(not_ours, None)
    for field in fields:  # before what is missing: it may be there, by another name
        if field in _BY_OTHERS:
            raise InvalidField(field, f"is not a field; {_BY_OTHERS[field]}")
        if field in _OF_TASK:
            raise InvalidField(field, "is a field of the task: put it under `task`")
        if field not in Schedule.__struct_fields__:
            raise not_a_field(field, Schedule.__struct_fields__)
    name = parse_name(fields.get("name"), "name", "a schedule's name", MAX_NAME)
    if fields.get("cron") is None:
        raise InvalidField("cron", 'is missing: give the times, such as "30 2 * * *" for 02:30 each day')
    if fields.get("task") is None:
        raise InvalidField("task", "is missing: give the spec of a task, without an id")
    task = _task(fields.pop("task"), name)
    return Schedule(task=task, **read_fields(fields, _FIELDS))


def _task(raw: object, name: str) -> Spec:
    field = "task"
    fields = mapping(raw, field, "expected the spec of a task, such as {command: [sh, -c, date]}")
    if "id" in fields:
        raise InvalidField(f"{field}.id", "is given by the schedule and the time of the tick: remove it")
    if fields.get("after"):
        raise InvalidField(
            f"{field}.after",
            "cannot be given: by the time of a tick, the tasks that it names may be gone; remove it, and let"
            " the task of the schedule submit those that are to wait for each other",
        )
    try:
        spec = parse_spec({**fields, "id": f"{name}-{_NO_TIME}"})
    except InvalidField as error:
        if error.field == "id":
            raise InvalidField(
                "name",
                f"has {len(name)} characters, but at most {MAX_NAME_OF_ARRAYS} are allowed for a schedule of"
                " arrays: behind it, the names of their members have the tick and the index",
            ) from None
        raise InvalidField(f"{field}.{error.field}" if error.field else field, error.problem) from None
    if len(codec.encode(spec)) > MAX_SPEC_BYTES - _RESERVE:
        raise InvalidField(field, f"is larger than {MAX_SPEC_BYTES - _RESERVE:,} bytes: shorten env or args")
    return spec


_OF_TASK = {*Spec.__struct_fields__} - {"id"}
_BY_OTHERS = {
    "schedule": "the times are given by `cron`",
    "concurrencyPolicy": "it is `concurrency` here: allow, forbid or replace",
    "jobTemplate": "the task is given by `task`",
    "startingDeadlineSeconds": "`catch_up` says which missed ticks are made: none, latest or all",
    "successfulJobsHistoryLimit": "`retention_seconds` of the task says how long it is kept",
    "failedJobsHistoryLimit": "`retention_seconds` of the task says how long it is kept",
}
"""The names that a CronJob of Kubernetes has for it."""

_FIELDS: dict[str, Parse] = {
    "name": lambda raw, field: parse_name(raw, field, "a schedule's name", MAX_NAME),
    "cron": parse_cron,
    "timezone": parse_zone,
    "concurrency": one_of(Concurrency),
    "catch_up": one_of(CatchUp),
    "suspended": parse_boolean,
}


def task_id_of(schedule: str, tick: int) -> str:
    """The id of the task of that tick."""
    return f"{schedule}-{minute_of(tick)}"


def minute_of(tick: int) -> str:
    """The minute of a tick as it stands in ids, by UTC."""
    return f"{datetime.fromtimestamp(tick, UTC):%Y%m%d%H%M}"


def is_task_of(schedule: str, task_id: str) -> bool:
    """Whether a tick of the schedule can have made a task of that id."""
    prefix, _, time = task_id.rpartition("-")
    return prefix == schedule and len(time) == len(_NO_TIME) and time.isascii() and time.isdigit()


def spec_of(schedule: Schedule, tick: int) -> Spec:
    """The spec of the task of that tick, but for the resources that its pool fills in."""
    at = f"{datetime.fromtimestamp(tick, UTC):%Y-%m-%dT%H:%M:%SZ}"
    return msgspec.structs.replace(
        schedule.task,
        id=task_id_of(schedule.name, tick),
        labels={**schedule.task.labels, own_labels.SCHEDULE: schedule.name},
        env={SCHEDULED_AT: at, **schedule.task.env},
    )


def fields_of(schedule: Schedule) -> dict[str, Any]:
    """The schedule as `parse_schedule` reads it, as JSON has it, with all defaults but those of its task."""
    plain = codec.decode_mapping(codec.encode(schedule))
    return {**plain, "task": bare_task(plain["task"])}


def bare_task(task: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a task without its id, and without those that say nothing."""
    return {name: value for name, value in task.items() if name != "id" and value != {}}


def encode_schedule(schedule: Schedule, op: Op) -> bytes:
    """The stored form."""
    return codec.encode({**fields_of(schedule), "version": SCHEMA_VERSION, "op": op})


def version_of(raw: Mapping[str, Any]) -> int:
    """The schema version of a stored schedule, from 1. Raises InvalidField."""
    return parse_integer(raw.get("version", SCHEMA_VERSION), "version", 1, MAX_VERSION)


def decode_schedule(name: str, data: bytes) -> Schedule:
    """A stored schedule. Raises CorruptValue if it is not one, or names another one."""
    raw = codec.decode_mapping(data)
    try:
        newer = version_of(raw) > SCHEMA_VERSION
        # A newer version may add fields, and they are ignored. At our own, an unknown field is a mistake.
        known = {*Schedule.__struct_fields__} if newer else {*raw}
        schedule = parse_schedule({name: value for name, value in raw.items() if name in known})
    except InvalidField as error:
        raise CorruptValue(str(error)) from error
    if schedule.name != name:
        raise CorruptValue(f"name: is {schedule.name!r}, but the key says {name!r}")
    return schedule


def encode_state(state: ScheduleState, op: Op) -> bytes:
    """The stored form."""
    return codec.encode(msgspec.structs.replace(state, version=SCHEMA_VERSION, op=op))


def decode_state(name: str, data: bytes) -> ScheduleState:
    """The stored state of that schedule. Raises CorruptValue if it is not one."""
    try:
        state = _state_decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise CorruptValue(str(error)) from error
    for task_id in state.live:  # the leader may cancel them
        if not is_task_of(name, task_id):
            raise CorruptValue(f"live: {task_id[:80]!r} is no task of schedule {name[:80]}")
    return state
