"""The last hour that is kept in memory: what a recount of all that was written finds; and it is bounded."""

from __future__ import annotations

import random
import sys
from collections import Counter
from statistics import median
from typing import Any

import msgspec
import pytest

from controller.core.model import codec
from controller.core.model.arrays import ArraySpec
from controller.core.model.lifecycle import FINISHED, TABLE, Event, State
from controller.core.model.op import Op
from controller.core.model.task import Spec, Status, Step
from controller.views import history
from controller.views.history import HOUR, MAX_OWNERS, MAX_POOLS, MINUTE, SAMPLE, LastHour, hour_of_owners
from tests.endpoint.model_view import ModelView

POOLS = ["default", "gpu"]
OWNERS = ["default", "film", "vision"]


class Story:
    """Random lives of tasks, each step written as a leader writes it, and counted by its own books."""

    def __init__(self, seed: int) -> None:
        self.drawn = random.Random(seed)
        self.view = ModelView()
        self.view.time = 600_000.0 + self.drawn.random() * 100
        self.hour = LastHour(self.view.reading, self.view.now)
        self.view.subscribe(self.hour)
        self.statuses: dict[str, Status] = {}
        self.begun = Counter[tuple[str, int]]()
        self.ended = Counter[tuple[str, str, int]]()
        self.waits: dict[tuple[str, str], list[tuple[int, float]]] = {}

    @property
    def minute(self) -> int:
        return int(self.view.time // MINUTE)

    def step(self) -> None:
        """A task takes a random row of the lifecycle; one that fails may be retried in the same write."""
        name = f"t{self.drawn.randrange(12)}"
        status = self.statuses.get(name)
        if status is not None and status.state is State.SUCCEEDED:
            self.view.write(("tasks", (name,), None), ("states", (name,), None))
            status = None
        if status is None:
            owner, pool = self.drawn.choice(OWNERS), self.drawn.choice(POOLS)
            self.view.submit(name, pool=pool, owner=owner)
            status = Status(pool=pool, owner=owner, queued_at=self.view.time)
        row = TABLE[status.state]
        event = self.drawn.choice([*row, *[each for each in row if each is Event.ADMITTED] * 9])
        before, status = status, self.take(status, event, row[event])
        if event is Event.FAILED_OBSERVED and self.drawn.random() < 0.5:
            status = self.take(status, Event.RETRY_DUE, State.WAITING_RETRY)
        self.statuses[name] = status
        self.view.write(("states", (name,), codec.encode_status(status, {})))
        if event is Event.ADMITTED:
            self.begun[status.pool, self.minute] += 1
            wait = (status.admitted_at or 0.0) - status.queued_at
            self.waits.setdefault((status.pool, status.owner), []).append((self.minute, wait))
        if status.state in FINISHED and before.state not in FINISHED:
            self.ended[status.pool, status.state.value, self.minute] += 1

    def take(self, status: Status, event: Event, state: State) -> Status:
        now = self.view.time
        fields: dict[str, Any] = {"state": state, "steps": status.steps + 1}
        step = Step(at=now, source=status.state, event=event, state=state, attempt=status.attempt)
        fields["history"] = (*status.history, codec.encode_step(step))[-20:]
        if event is Event.ADMITTED:
            fields |= {"attempt": status.attempt + 1, "admitted_at": now, "finished_at": None}
        if state in FINISHED and status.state not in FINISHED:
            fields["finished_at"] = now
        if state is State.WAITING_RETRY and status.state is not state:
            fields |= {"queued_at": now, "retry_at": now}
        return msgspec.structs.replace(status, **fields)

    def check(self) -> None:
        found = self.hour.view(self.view.model)
        minutes = [int(at // MINUTE) for at in found.minutes]
        assert minutes == list(range(minutes[0], self.minute + 1))
        assert len(minutes) == min(HOUR, self.minute - int(found.since // MINUTE) + 1)
        for pool in POOLS:
            there = found.pools.get(pool)
            begun = [self.begun[pool, minute] for minute in minutes]
            ended = {
                state: [self.ended[pool, state, minute] for minute in minutes] for state in history.ENDED
            }
            length = len(self.view.model.queue(pool))
            if there is None:
                assert (sum(begun), sum(map(sum, ended.values())), length) == (0, 0, 0)
                continue
            assert (there.begun, there.ended) == (begun, ended)
            assert there.queued[-1] == length
            waits = {
                owner: [wait for minute, wait in told if minute >= minutes[0]]
                for (its, owner), told in self.waits.items()
                if its == pool
            }
            assert {each.owner: (each.began, each.median, each.longest) for each in there.waits} == {
                owner: (len(all_), median(all_[-SAMPLE:]), max(all_)) for owner, all_ in waits.items() if all_
            }


@pytest.mark.parametrize("seed", range(8))
def test_it_is_what_a_recount_of_all_that_was_written_finds(seed: int) -> None:
    """Whatever the tasks do, over more than an hour; also when the model is loaded again, and when the watch
    tells again what it has told.
    """
    story = Story(seed)
    for turn in range(600):
        story.step()
        story.view.time += story.drawn.choice([0.0, 1.0, 10.0, 40.0, 200.0])
        if turn % 40 == 7:
            story.hour.reloaded(story.view.model.revision)
        if turn % 15 == 0:
            story.check()
    story.check()
    assert story.begun.total() > 50
    assert story.ended.total() > 50


def test_a_reload_counts_nothing_twice_and_says_what_it_missed() -> None:
    story = Story(1)
    story.step()
    view, hour = story.view, story.hour
    told: list[Any] = []
    view.listeners = [type("Hears", (), {"changed": lambda _, *args: told.append(args)})()]
    for _ in range(60):
        story.step()
    revision = view.model.revision
    assert hour.view(view.model).missed_at is None
    view.time += 5
    hour.reloaded(revision)  # the changes between are not known
    for changes, at in told:  # and are not counted, whoever tells them
        hour.changed(changes, at)
    found = hour.view(view.model)
    assert found.missed_at == view.time
    assert sum(sum(pool.begun) for pool in found.pools.values()) <= 1
    view.time += HOUR * MINUTE + MINUTE
    assert hour.view(view.model).missed_at is None, "that is no longer of the last hour"


def begin(view: ModelView, name: str, **fields: Any) -> None:
    """A task that waited five seconds is admitted."""
    step = Step(at=view.time, source=State.CREATED, event=Event.ADMITTED, state=State.PENDING, attempt=1)
    values: dict[str, Any] = {"pool": "default", "queued_at": view.time - 5, "admitted_at": view.time}
    status = Status(
        state=State.PENDING, attempt=1, steps=1, history=(codec.encode_step(step),), **values | fields
    )
    view.write(("states", (name,), codec.encode_status(status, {})))


def hour_of(view: ModelView) -> LastHour:
    view.time = 600_000.0
    hour = LastHour(view.reading, view.now)
    view.subscribe(hour)
    return hour


def test_an_array_counts_by_its_members() -> None:
    """A gang is written again, without a step, as its members take over what it holds."""
    view = ModelView()
    hour = hour_of(view)
    spec = Spec(id="a", command=("true",), array=ArraySpec(size=3, gang=True))
    view.write(("tasks", ("a",), codec.encode_spec(spec, 1.0, Op("op"))))
    for _ in range(3):
        begin(view, "a")
    begin(view, "a-i0", array="a", index=0, of_gang=True)
    assert sum(hour.view(view.model).pools["default"].begun) == 1


def test_of_many_owners_and_pools_the_first_are_kept_and_the_others_counted() -> None:
    view = ModelView()
    hour = hour_of(view)
    for n in range(MAX_OWNERS + 5):
        begin(view, f"o{n}", owner=f"owner-{n:02}")
    (pool,) = hour.view(view.model).pools.values()
    assert len(pool.waits) == MAX_OWNERS + 1
    assert (pool.waits[-1].owner, pool.waits[-1].began) == ("", 5)
    assert pool.begun == [MAX_OWNERS + 5]
    for n in range(MAX_POOLS + 7):
        begin(view, f"p{n}", pool=f"pool-{n:03}")
    found = hour.view(view.model)
    assert (len(found.pools), found.left_out) == (MAX_POOLS, 8)
    view.time += HOUR * MINUTE + MINUTE
    begin(view, "late", pool="pool-106")
    assert list(hour.view(view.model).pools) == ["pool-106"], "who is not heard of any more makes room"


def test_what_is_kept_is_bounded_whatever_the_clock_does() -> None:
    view = ModelView()
    hour = hour_of(view)
    drawn = random.Random(3)
    for n in range(3000):
        view.time = drawn.choice([view.time + 60, view.time + 1, 600_000.0 + drawn.randrange(10**6)])
        begin(view, f"t{n % 50}", owner=f"owner-{n % 60:02}")
    (pool,) = hour._pools.values()
    assert len(pool.minutes) <= 2 * HOUR
    assert len(pool.waits) <= MAX_OWNERS + 1
    assert all(len(waits) <= SAMPLE for waits in pool.waits.values())
    assert sys.getsizeof(pool.waits) < 10_000


def test_what_cannot_be_read_is_left_out() -> None:
    view = ModelView()
    hour = hour_of(view)
    for value in (
        b"garbage",
        b'{"state":"Pending","history":[1]}',
        b"[" * 10_000,
        b'{"state":"Odd"}',
        b"\xff",
    ):
        view.write(("states", ("odd",), value))
    begin(view, "well")
    assert sum(hour.view(view.model).pools["default"].begun) == 1


def test_queues_are_looked_at_when_a_minute_ends() -> None:
    view = ModelView()
    hour = hour_of(view)
    view.define_pool("default", cpu=1000)
    for n in range(4):
        view.submit(f"w{n}")
    minute = int(view.time // MINUTE)
    hour.look(view.model, minute)
    view.submit("w4")
    view.time += 3 * MINUTE
    assert hour.view(view.model).pools["default"].queued == [4, None, None, 5]


def test_whoever_may_not_read_all_is_told_of_its_own_waits_alone() -> None:
    view = ModelView()
    hour = hour_of(view)
    for n in range(MAX_OWNERS + 5):
        begin(view, f"o{n}", owner=f"owner-{n:02}")
    begin(view, "other", pool="secret", owner="other")
    shown = hour_of_owners(hour.view(view.model), {"owner-03"})
    assert list(shown.pools) == ["default"]
    pool = shown.pools["default"]
    assert (pool.queued, pool.begun, pool.ended) == ([], [], {})
    assert [(each.owner, each.began, each.median) for each in pool.waits] == [("owner-03", 1, 5.0)]
