"""Schedules in the simulator: their users, and the judge of each tick.

A minute of a cron expression lasts a second here, since a run lasts one or two minutes. All else is as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from controller.core.model import attested, codec, schedules
from controller.core.model import cron as library
from controller.core.model.attested import Attestation
from controller.core.model.schedules import (
    Schedule,
    ScheduleState,
    TickOutcome,
    TickResult,
    decode_schedule,
    decode_state,
    encode_schedule,
    parse_schedule,
    spec_of,
    task_id_of,
)
from controller.errors import CorruptValue
from controller.store.base import KeyEvent, Put, Transaction, Write

if TYPE_CHECKING:
    from tests.simulation.oracle import Oracle
    from tests.simulation.users import Users

NAMES = ("s1", "s2", "s3")
IDLE_SECONDS = 1.0
MADE = (TickResult.MADE, TickResult.REPLACED)
FINISHED = ("Succeeded", "Failed", "Cancelled")


def every(expression: str) -> int:
    """Each how many seconds an expression such as `*/3 * * * *` comes true here."""
    return int(expression.split()[0].removeprefix("*/"))


def _ticks_after(cron: str, zone: str, after: int) -> Iterator[int]:
    step = every(cron)
    tick = after // step * step
    while True:
        tick += step
        yield tick


def _minute(tick: int) -> str:
    return f"{datetime.fromtimestamp(tick % 10**9 * 60, UTC):%Y%m%d%H%M}"


@contextmanager
def fast() -> Iterator[None]:
    """A minute lasts a second, within this."""
    before = library.ticks_after, schedules.minute_of
    library.ticks_after, schedules.minute_of = _ticks_after, _minute
    try:
        yield
    finally:
        library.ticks_after, schedules.minute_of = before


def due(schedule: Schedule, after: int, until: int) -> list[int]:
    """What is due after the one time and up to the other."""
    return list(takewhile(lambda tick: tick <= until, _ticks_after(schedule.cron, "UTC", after)))


class ScheduleUsers:
    """Those who apply, change, suspend and delete schedules; some through a gateway."""

    def __init__(self, users: Users, fields: Callable[[], dict[str, Any]]) -> None:
        self._users = users
        self._fields = fields
        self._rng = users.scheduler.rng

    def apply(self) -> None:
        """A new schedule, or another one in its place."""
        rng = self._rng
        task = {"command": ["true"], **self._fields(), "resources": {"cpu": rng.choice(("250m", "500m"))}}
        task["retention_seconds"] = rng.choice((1, 10))
        if self._users.arrays.is_on and rng.random() < 0.7:
            gang = self._users.arrays.only_gangs or rng.random() < 0.2
            limits = {"gang": True} if gang else {"max_running": rng.choice((1, 2))}
            task["array"] = {"size": 4, **limits}
            task["resources"] = {"cpu": "250m"}  # as a gang it fits the pools as they are in the end
            task.pop("pod_template", None)
        raw = {
            "name": rng.choice(NAMES),
            "cron": f"*/{rng.choice((1, 2, 2, 3, 5, 20))} * * * *",
            "task": task,
            "concurrency": rng.choice(("allow", "forbid", "replace", "replace")),
            "catch_up": rng.choice(("none", "latest", "all")),
            "suspended": rng.random() < 0.1,
        }
        self.put(parse_schedule(raw), by_gateway=rng.random() < 0.6)

    def put(self, schedule: Schedule, *, by_gateway: bool = False) -> None:
        """Write it, with or without an attestation."""
        keys, users = self._users.keys, self._users
        op = users.new_op()
        writes: list[Write] = [Put(keys.of(schedules.KIND, (schedule.name,)), encode_schedule(schedule, op))]
        if by_gateway:
            word = Attestation(owner=schedule.task.owner, by="somebody")
            writes.append(Put(keys.of(schedules.ATTESTED, (schedule.name,)), attested.encode(word, op)))
        users.scheduler.note(f"user applies {schedule}")
        users.etcd.do(lambda store: store.commit(Transaction((), tuple(writes), op), deadline=1e18), "user")

    def meddle(self) -> None:
        """Somebody deletes one, suspends or resumes one, or takes the name of a tick that is to come."""
        rng, users = self._rng, self._users
        name = rng.choice(NAMES)
        schedule = users.oracle.schedules.defined(name)
        if schedule is None:
            return
        deed = rng.random()
        if deed < 0.2:
            users.delete(users.keys.of(schedules.KIND, (name,)))
        elif deed < 0.5 or schedule.suspended:
            self.suspend(schedule, suspended=not schedule.suspended)
        else:
            tick = due(schedule, int(users.now()), int(users.now()) + 61)[0]
            task_id = task_id_of(name, tick)
            at = tick - users.now() + (rng.random() - 0.5) * 0.1
            users.soon(max(0.0, at), lambda: users.put_spec(task_id))

    def suspend(self, schedule: Schedule, *, suspended: bool) -> None:
        """Somebody suspends it, or has it go on."""
        fields = {**schedules.fields_of(schedule), "suspended": suspended}
        self.put(parse_schedule(fields), by_gateway=self._rng.random() < 0.5)


class ScheduleJudge:
    """Each tick is decided once, by the leader, as its schedule says, and what is decided is so."""

    def __init__(self, oracle: Oracle) -> None:
        self._oracle = oracle
        self._keys = oracle.keys
        self._live: dict[str, list[str]] = {}  # schedule → its tasks that have not been seen to end
        self._made: dict[tuple[str, int, int], str] = {}  # schedule, its create, tick → task
        self.results: dict[str, int] = {}
        self._idle: dict[str, float] = {}  # whose tick waits for tasks that have ended, and since when
        self.is_off = True  # nobody uses schedules

    def defined(self, name: str) -> Schedule | None:
        """The schedule as it stands in etcd, before the revision that is being judged; None if unreadable."""
        return self._schedule(name, self._oracle.values.get(self._keys.of(schedules.KIND, (name,))))

    def on_revision(self, events: tuple[KeyEvent, ...], writer: str) -> None:
        """Judge what a leader has written of schedules, with what it has not."""
        kinds = (schedules.STATES, "tasks", "requests", "attested")
        states: dict[str, KeyEvent] = {}
        others: dict[str, KeyEvent] = {}
        for event in events:
            kind, _, rest = event.key.removeprefix(self._keys.prefix).partition("/")
            if kind == schedules.STATES:
                states[rest] = event
            elif kind in kinds and event.item is not None:
                others[event.key] = event
        if writer not in ("", "user"):
            for name, event in states.items():
                self._judge(name, event, others, writer)
            for key, event in others.items():
                if not key.startswith(self._keys.attested("")):
                    self._fail(f"{key} was written by {writer}", key.split("/")[-1])
                assert event.item is not None
        self._forget_ended()

    def left(self) -> list[str]:
        """What is not yet decided: of schedules that are not suspended, all that was due a while ago."""
        found, until = [], int(self._oracle.now() - 2 - self._oracle.wall_spread)
        for name in NAMES:
            key = self._keys.of(schedules.STATES, (name,))
            schedule, value = self.defined(name), self._oracle.values.get(key)
            state = self._state(name, value)
            if schedule is None and value is not None:
                found.append(f"the state of schedule {name} is left")
            elif schedule is not None and state is None:
                found.append(f"schedule {name} has no state")
            elif schedule is not None and state is not None and not schedule.suspended:
                late = due(schedule, state.cursor, until)
                found += [f"schedule {name} has not decided {len(late)} ticks"] if late else []
                if state.waiting and not self._awaited(name, state):
                    found.append(f"schedule {name} waits for nothing")
        return found

    def check_idle(self) -> None:
        """While nothing goes wrong: no tick waits for tasks that have ended, or that nobody stops."""
        for name in NAMES:
            state = self._state(name, self._oracle.values.get(self._keys.of(schedules.STATES, (name,))))
            schedule = self.defined(name)
            waits = state is not None and schedule is not None and state.waiting
            awaited = self._awaited(name, state) if state is not None else []
            if not waits or (awaited and all(map(self._is_asked, awaited))):
                self._idle.pop(name, None)
                continue
            since = self._idle.setdefault(name, self._oracle.now())
            if self._oracle.now() - since > IDLE_SECONDS:
                self._fail(f"a tick of {name} waits, and nothing is done: {state}")

    def _awaited(self, name: str, state: ScheduleState) -> list[str]:
        """The tasks for which a tick waits. One that ended, and was retried, is awaited again."""
        return self._live.get(name) or [task_id for task_id in state.live if self._may_run(task_id)]

    def _is_asked(self, task_id: str) -> bool:
        """Whether it is to end: its cancel is asked for, or it, or each of its members, is being stopped."""
        members = self._oracle.arrays.members(task_id).values()
        if members and all(each.stopping or each.state in FINISHED for each in members):
            return True
        status = self._oracle.statuses.get(task_id)
        asked = self._keys.request(task_id, "cancel") in self._oracle.values
        return asked or (status is not None and bool(status.stopping))

    def going(self) -> list[Schedule]:
        """Those that are not suspended."""
        return [found for name in NAMES if (found := self.defined(name)) is not None and not found.suspended]

    # -- details

    def _judge(self, name: str, event: KeyEvent, others: dict[str, KeyEvent], writer: str) -> None:
        oracle, schedule = self._oracle, self.defined(name)
        before = oracle.before.get(event.key)
        stored = oracle.values.get(self._keys.of(schedules.KIND, (name,)))
        if event.item is None:
            if stored is not None:
                self._fail(f"the state of {name} was deleted, and the schedule is there")
            return
        oracle._check_writer(event.item.value, f"state of schedule {name}", writer)
        if schedule is None:
            self._fail(f"the state of {name} was written, and the schedule cannot be read")
            return
        state, old = decode_state(name, event.item.value), self._state(name, before)
        create = oracle.creates[self._keys.of(schedules.KIND, (name,))]
        if before is not None and old is None:
            self._fail(f"the state of {name} was written over, which cannot be read")
        if state.create != create:
            self._fail(f"the state of {name} is of another schedule: {state.create}, not {create}")
        now = oracle.now() + oracle.wall_spread + 1
        if old is None or old.create != create:
            self._live[name] = []
            if state.recent or state.live or state.cursor > now:
                self._fail(f"the first state of {name} is {state}")
            return
        self._judge_ticks(schedule, old, state, now)
        for outcome in _told_since(old, state):
            self.results[outcome.result] = self.results.get(outcome.result, 0) + outcome.count
            if outcome.result in MADE:
                self._judge_task(schedule, state, outcome, others)
            if outcome.result is TickResult.NAME_TAKEN and not self._is_there(task_id_of(name, outcome.tick)):
                self._fail(f"a tick of {name} found its name taken, and it was not")
        if state.waiting and schedule.concurrency != "replace":
            self._fail(f"a tick of {name} waits, and it replaces nothing")
        if state.waiting:
            # somebody may have retried what has ended: then it is awaited again, as long as it is among these
            for task_id in filter(self._may_run, state.live):
                others.pop(self._keys.request(task_id, "cancel"), None)

    def _judge_ticks(self, schedule: Schedule, old: ScheduleState, state: ScheduleState, now: float) -> None:
        """All ticks that the cursor passes are told of, and no other."""
        name = schedule.name
        if state.cursor < old.cursor:
            self._fail(f"the cursor of {name} went back from {old.cursor} to {state.cursor}")
        if state.cursor > now:
            self._fail(f"the cursor of {name} is at {state.cursor}, ahead of the time {now}")
        if schedule.suspended and state.cursor != old.cursor:
            self._fail(f"ticks of {name} were decided while it was suspended")
        passed = due(schedule, old.cursor, state.cursor)
        told = sum(state.counts.values()) - sum(old.counts.values())
        told += bool(state.waiting) - bool(old.waiting)
        if told != len(passed) or (passed and passed[-1] != state.cursor):
            self._fail(f"the cursor of {name} passed {passed}, and {told} were told of: {old} {state}")
        for outcome in _told_since(old, state):
            if outcome.tick not in passed and outcome.tick != old.waiting:
                self._fail(f"{outcome} is no tick of {name} after {old.cursor}")

    def _judge_task(
        self, schedule: Schedule, state: ScheduleState, outcome: TickOutcome, others: dict[str, KeyEvent]
    ) -> None:
        name, task_id = schedule.name, task_id_of(schedule.name, outcome.tick)
        if before := self._made.get((name, state.create, outcome.tick)):
            self._fail(f"the tick of {task_id} was made twice", before)
        self._made[name, state.create, outcome.tick] = task_id
        event = others.pop(self._keys.task(task_id), None)
        if event is None or event.item is None:
            self._fail(f"{task_id} was told of, and not made", task_id)
            return
        if self._is_there(task_id):
            self._fail(f"{task_id} was made over another one", task_id)
        if task_id not in state.live:
            self._fail(f"{task_id} was made, and is not among its schedule's: {state.live}", task_id)
        if schedule.concurrency != "allow":
            for earlier in self._live.get(name, ()):
                if self._may_run(earlier):
                    self._fail(f"{task_id} was made, and {earlier} has not ended", task_id, earlier)
        if schedule.suspended:
            self._fail(f"{task_id} was made of a schedule that is suspended", task_id)
        spec = codec.decode_spec(task_id, event.item.value)
        wanted = spec_of(schedule, outcome.tick)
        named = {resource: spec.spec.resources.get(resource) for resource in wanted.resources}
        same = codec.to_builtins(spec.spec) | {"resources": None} == codec.to_builtins(wanted) | {
            "resources": None
        }
        if spec.error or not same or named != dict(wanted.resources):
            self._fail(f"{task_id} is {spec}, not {wanted}", task_id)
        self._judge_attestation(schedule, task_id, others)
        self._live.setdefault(name, []).append(task_id)

    def _judge_attestation(self, schedule: Schedule, task_id: str, others: dict[str, KeyEvent]) -> None:
        etcd, keys = self._oracle.etcd, self._keys
        mine = etcd.get(keys.of(schedules.KIND, (schedule.name,)))
        word = etcd.get(keys.of(schedules.ATTESTED, (schedule.name,)))
        proven = mine is not None and word is not None and mine.mod == word.mod
        if word is not None and proven:
            try:
                proven = attested.decode(word.value).owner == schedule.task.owner
            except CorruptValue:
                proven = False
        if (others.pop(keys.attested(task_id), None) is not None) is not proven:
            self._fail(f"{task_id} is attested otherwise than its schedule: {proven}", task_id)

    def _may_run(self, task_id: str) -> bool:
        """By the truth: an attempt lives, or the task has not ended and may be started."""
        status = self._oracle.statuses.get(task_id)
        lives = any(
            attempt.live and not attempt.forged and attempt.id.number > self._oracle.abandoned.get(task_id, 0)
            for attempt in self._oracle.engine.every.get(task_id, ())
        )
        return lives or status is None or status.state not in FINISHED

    def _forget_ended(self) -> None:
        """What has ended once is no longer awaited, though somebody may retry it; nor is what was deleted."""
        for name, tasks in self._live.items():
            self._live[name] = [task_id for task_id in tasks if not self._has_ended(task_id)]

    def _has_ended(self, task_id: str) -> bool:
        status = self._oracle.statuses.get(task_id)
        if status is not None:
            return status.state in FINISHED
        return not self._is_there_now(task_id)

    def _is_there(self, task_id: str) -> bool:
        """Before the revision that is being judged."""
        keys = (self._keys.task(task_id), self._keys.state(task_id))
        now, before = self._oracle.values, self._oracle.before
        return any((before[key] if key in before else now.get(key)) is not None for key in keys)

    def _is_there_now(self, task_id: str) -> bool:
        return any(
            key in self._oracle.values for key in (self._keys.task(task_id), self._keys.state(task_id))
        )

    def _schedule(self, name: str, value: bytes | None) -> Schedule | None:
        try:
            return decode_schedule(name, value) if value is not None else None
        except CorruptValue:
            return None

    def _state(self, name: str, value: bytes | None) -> ScheduleState | None:
        try:
            return decode_state(name, value) if value is not None else None
        except CorruptValue:
            return None

    def _fail(self, what: str, *tasks: str) -> None:
        from tests.simulation.oracle import Violation

        raise Violation("schedules", what, *tasks)


def _told_since(old: ScheduleState, state: ScheduleState) -> list[TickOutcome]:
    return [outcome for outcome in state.recent if outcome not in old.recent]
