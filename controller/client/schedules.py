"""Schedules: apply, get, list, delete, suspend and resume. A guard compares each with what was read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import msgspec

from controller.client.calls import FEW, Calls
from controller.client.errors import NotFound
from controller.client.features import Features
from controller.client.prepared import prepare
from controller.client.reading import Reading
from controller.client.views import ApplyResult
from controller.core.model import attested, blocks, codec, schedules
from controller.core.model.attested import Attestation
from controller.core.model.features import SCHEDULES, needed_by_spec
from controller.core.model.scalars import parse_name
from controller.core.model.schedules import (
    ATTESTED,
    KIND,
    MAX_NAME,
    STATES,
    Schedule,
    decode_schedule,
    encode_schedule,
    parse_schedule,
)
from controller.core.model.submitted import ONLY_ATTESTED
from controller.core.model.task import SCHEMA_VERSION
from controller.errors import CorruptValue, InvalidField
from controller.store.base import (
    Committed,
    Delete,
    Guard,
    KeyValue,
    Put,
    StoreDenied,
    Transaction,
    Write,
)
from controller.views.schedules import ScheduleView, named_live, schedule_view, schedule_views

PARTS = tuple(f"{kind}/" for kind in (KIND, STATES, ATTESTED))
May = Callable[[Schedule | None, bool], None]
"""Raises if this schedule may not be written, or replaced. None: it cannot be read. The flag: it is new."""


def parse_schedule_name(name: str) -> str:
    """The name of a schedule. Raises InvalidField."""
    return parse_name(name, "name", "a schedule's name", MAX_NAME)


class Schedules:
    """See the module's docstring.

    `attesting`, of a gateway: who has signed in, and a function that returns the mod of the record that has
    attestations on; 0 if they are off. `may` says what whoever has signed in may do.
    """

    def __init__(
        self,
        calls: Calls,
        reading: Reading,
        features: Features,
        *,
        attesting: tuple[str, Callable[[], int]] | None = None,
        may: May = lambda *_: None,
    ) -> None:
        self._calls = calls
        self._reading = reading
        self._features = features
        self._attesting = attesting
        self._may = may

    def all(self) -> list[ScheduleView]:
        """All schedules, sorted by name."""
        model = self._reading.model(*PARTS)
        live = named_live(model)
        tasks = self._reading.tasks(*live) if len(live) <= FEW else self._reading.model("tasks/", "states/")
        return schedule_views(model, self._calls.clock.wall(), tasks)

    def get(self, name: str) -> ScheduleView:
        """One schedule. Raises NotFound, InvalidField."""
        parts = [f"{kind}/{parse_schedule_name(name)}" for kind in (KIND, STATES, ATTESTED)]
        model = self._reading.model(*parts)
        live = named_live(model)
        tasks = (f"{kind}/{task_id}" for task_id in live for kind in ("tasks", "states", blocks.KIND))
        model = self._reading.model(*parts, "pools/", *tasks)
        view = schedule_view(model, name, self._calls.clock.wall(), foresee=True)
        if view is None:
            raise self.none(name)
        return view

    def apply(self, definition: Mapping[str, Any], *, dry_run: bool = False) -> ApplyResult:
        """Create a schedule, or replace its whole definition. Fields that are left out get their defaults.

        The feature `schedules` is turned on, by who may. Raises InvalidField, also for a task that its pool
        can never run. `dry_run`: check the same, and tell what would become of it; store nothing.
        """
        schedule = parse_schedule(definition)
        self._may(schedule, True)
        self._check_task(definition, schedule)
        turned_on = self._ensure() if not dry_run else []
        if dry_run:  # who applies it by etcd may turn the feature on
            is_needed = {SCHEDULES: ""} if self._attesting is not None else {}
            self._features.check({**is_needed, **needed_by_spec(schedule.task)})
        while True:
            item = self._stored(schedule.name)
            is_done = item is not None and self._calls.has_written(item)
            if item is not None and is_done:
                item = self._calls.before(item)
            before = _decoded(schedule.name, item)
            if item is not None:
                self._may(before, False)
            if before == schedule and not self._lacks_word(schedule.name, item):
                return ApplyResult(name=schedule.name, outcome="unchanged", turned_on=tuple(turned_on))
            outcome: Literal["created", "configured"] = "configured" if item is not None else "created"
            if is_done or dry_run or self._put(schedule, item):
                return ApplyResult(
                    name=schedule.name,
                    outcome=outcome,
                    message=self._warning(schedule.name, item),
                    turned_on=tuple(turned_on),
                )

    def delete(self, name: str) -> None:
        """Delete a schedule. The leader deletes its state; its tasks stay. Raises NotFound."""
        keys = self._calls.keys
        key = keys.of(KIND, (parse_schedule_name(name),))
        while True:
            item = self._calls.stored(key)
            if item is None:
                raise self.none(name)
            self._may(_decoded(name, item), False)
            gone = Transaction((Guard(key, item.mod),), (Delete(key),), self._calls.new_op())
            if isinstance(self._calls.commit(gone), Committed):
                return

    def suspend(self, name: str) -> bool:
        """Make none of its tasks from now on. False if it was suspended. Raises NotFound, CorruptValue."""
        return self._set_suspended(name, suspended=True)

    def resume(self, name: str) -> bool:
        """Make its tasks again; `catch_up` says which of those that were missed.

        False if it was not suspended. Raises NotFound, CorruptValue.
        """
        return self._set_suspended(name, suspended=False)

    def none(self, name: str) -> NotFound:
        """There is no such schedule."""
        cluster = self._calls.keys.cluster
        return NotFound(f"there is no schedule {name!r} in cluster {cluster!r}: see `tally get schedules`")

    # -- details

    def _set_suspended(self, name: str, *, suspended: bool) -> bool:
        while True:
            item = self._stored(parse_schedule_name(name))
            if item is None:
                raise self.none(name)
            self._may(_decoded(name, item), False)
            schedule = decode_schedule(name, item.value)
            if self._calls.has_written(item):
                return True
            if schedule.suspended is suspended:
                return False
            if self._put(msgspec.structs.replace(schedule, suspended=suspended), item):
                return True

    def _stored(self, name: str) -> KeyValue | None:
        return self._calls.stored(self._calls.keys.of(KIND, (name,)))

    def _put(self, schedule: Schedule, item: KeyValue | None) -> bool:
        """Write it, and attest it. False if it has changed meanwhile."""
        keys, op, names = self._calls.keys, self._calls.new_op(), (schedule.name,)
        needed = {SCHEDULES: "", **needed_by_spec(schedule.task)}
        guards = [
            Guard(keys.of(KIND, names), item.mod if item is not None else 0),
            Guard(keys.engine, self._features.check(needed)),
        ]
        value = encode_schedule(schedule, op)
        if item is not None:  # what a newer release has stored stays
            value = codec.encode({**codec.decode_mapping(value), **_newer_fields(item)})
        writes: list[Write] = [Put(keys.of(KIND, names), value)]
        if self._attesting is not None and self._attesting[1]():
            word = Attestation(owner=schedule.task.owner, by=self._attesting[0])
            writes.append(Put(keys.of(ATTESTED, names), attested.encode(word, op)))
        return isinstance(self._calls.commit(Transaction(tuple(guards), tuple(writes), op)), Committed)

    def _ensure(self) -> list[str]:
        """Turn the feature on, as an admin; for others, it must be on."""
        if self._attesting is None:
            try:
                return self._features.ensure({SCHEDULES: ""})[1]
            except StoreDenied:
                pass  # a user may not, and is told who may
        self._features.check({SCHEDULES: ""})
        return []

    def _check_task(self, definition: Mapping[str, Any], schedule: Schedule) -> None:
        """Raises InvalidField for a task that its pool can never run."""
        pools = self._reading.model("pools/").pools
        try:
            prepare({**definition["task"], "id": schedule.task.id}, pools)
        except InvalidField as error:
            raise InvalidField(f"task.{error.field}", error.problem) from None
        is_attested = self._attesting is not None and self._attesting[1]()
        if pools[schedule.task.pool].pool.require_attested and not is_attested:
            raise InvalidField("task.pool", ONLY_ATTESTED.format(schedule.task.pool))

    def _lacks_word(self, name: str, item: KeyValue | None) -> bool:
        """Whether it is to be attested, and is not."""
        if self._attesting is None or not self._attesting[1]() or item is None:
            return False
        word = self._calls.stored(self._calls.keys.of(ATTESTED, (name,)))
        return word is None or word.mod != item.mod

    def _warning(self, name: str, item: KeyValue | None) -> str:
        if self._attesting is not None or item is None:
            return ""
        word = self._calls.stored(self._calls.keys.of(schedules.ATTESTED, (name,)))
        if word is None or word.mod != item.mod:
            return ""
        return "a gateway had attested it, and nobody attests what is written without one"


def _decoded(name: str, item: KeyValue | None) -> Schedule | None:
    try:
        return decode_schedule(name, item.value) if item is not None else None
    except CorruptValue:
        return None


def _newer_fields(item: KeyValue) -> dict[str, Any]:
    """What a newer release has stored beside what this one knows, with its version."""
    try:
        stored = codec.decode_mapping(item.value)
        if schedules.version_of(stored) <= SCHEMA_VERSION:
            return {}
    except (CorruptValue, InvalidField):
        return {}
    return {name: stored[name] for name in stored.keys() - {*Schedule.__struct_fields__, "op"}}
