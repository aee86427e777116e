"""The order of owners is the same whether it was kept or made anew, and whether a pass was stopped or not."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from controller.core.model.fair_order import FairOrder
from controller.core.model.queue import Place, Queue
from controller.core.model.resources import ZERO, Vector
from controller.core.model.shares import Share
from controller.core.model.sharing import Ceiling, OwnerPolicy, Sharing, SharingPriority
from controller.core.model.task import Policy, Pool

OWNERS = ("a", "b", "c", "d")
CAPACITY = Vector({"cpu": 10, "gpu": 4})
NOW = 1_000_000
BACKFILL_SECONDS = 100.0


@dataclass(frozen=True)
class Task:
    id: str
    owner: str
    rank: int
    request: Vector
    waited: float = 0.0
    may_start: bool = True
    has_claim: bool = False
    number: int = 0

    @property
    def place(self) -> Place:
        return Place(self.rank, self.number, 0.0, self.id)


@dataclass
class Ground:
    """A pool, what its owners hold, and their waiting tasks. What is taken is charged at once."""

    pool: Pool
    tasks: dict[str, Task]
    shares: dict[str, Share]
    free: Vector
    taken: list[str] = field(default_factory=list)

    def copy(self) -> Ground:
        return Ground(self.pool, dict(self.tasks), dict(self.shares), self.free, list(self.taken))

    def take(self, task_id: str) -> None:
        task = self.tasks[task_id]
        share = self.shares.get(task.owner, Share())
        self.shares[task.owner] = share.changed(task.request, 1, NOW, self._half_life)
        self.free = self.free - task.request
        self.taken.append(task_id)

    @property
    def _half_life(self) -> float:
        assert self.pool.sharing is not None
        return self.pool.sharing.half_life_seconds

    def claims(self, owner: str) -> list[tuple[Place, Vector]]:
        waiting = (t for t in self.tasks.values() if t.id not in self.taken)
        tasks = (t for t in waiting if t.owner == owner and t.has_claim)
        return [(task.place, task.request) for task in sorted(tasks, key=lambda task: task.place)]

    def queue(self) -> Queue:
        queue = Queue()
        for task in self.tasks.values():
            queue.add(task.place, task.request, task.owner)
        return queue

    def start(self, order: FairOrder, queue: Queue, now: int = NOW, pool_mod: int = 1) -> Any:
        """A pass, which has taken nothing yet."""
        return order.admissible(
            self.pool,
            pool_mod,
            queue,
            self.free,
            now,
            share=lambda owner: self.shares.get(owner, Share()),
            waited_seconds=lambda task_id: self.tasks[task_id].waited,
            may_start=lambda task_id: self.tasks[task_id].may_start and task_id not in self.taken,
            claims={owner: self.claims(owner) for owner in OWNERS},
            passed_over=lambda owner: None,
        )

    def run(self, order: FairOrder, queue: Queue, most: int = 1000) -> list[str]:
        """The tasks that a pass admits, `most` at the most."""
        before = len(self.taken)
        passing = self.start(order, queue)
        for task_id in passing:
            self.take(task_id)
            if len(self.taken) - before == most:
                passing.close()
                break
        return self.taken[before:]


vectors = st.builds(lambda c, g: Vector({"cpu": c, "gpu": g}), st.integers(0, 6), st.integers(0, 2))
some = st.builds(lambda c, g: Vector({"cpu": c, "gpu": g}), st.integers(0, 3), st.integers(0, 1))
ceilings = st.one_of(st.just(Ceiling()), st.builds(lambda c: Ceiling({"cpu": c}), st.integers(0, 8)))
policies = st.builds(
    OwnerPolicy,
    weight=st.sampled_from([0.5, 1.0, 2.0, 4.0]),
    guarantee=st.one_of(st.just(ZERO), some),
    limit=ceilings,
    max_running=st.one_of(st.none(), st.integers(0, 4)),
)


@st.composite
def grounds(draw: st.DrawFn) -> Ground:
    sharing = Sharing(
        half_life_seconds=draw(st.sampled_from([0.0, 60.0])),
        priority=draw(st.sampled_from(list(SharingPriority))),
        owners={owner: draw(policies) for owner in draw(st.lists(st.sampled_from(OWNERS), unique=True))},
    )
    guaranteed = sharing.guaranteed
    capacity = Vector({name: max(CAPACITY[name], guaranteed.get(name)) for name in CAPACITY})
    pool = Pool(
        name="p",
        capacity=capacity,
        policy=draw(st.sampled_from(list(Policy))),
        backfill_seconds=BACKFILL_SECONDS,
        sharing=sharing,
    )
    tasks = {}
    for number in range(draw(st.integers(1, 14))):
        one = Task(
            f"t{number}",
            draw(st.sampled_from(OWNERS)),
            draw(st.integers(-1, 1)),
            draw(vectors),
            draw(st.sampled_from([0.0, BACKFILL_SECONDS])),
            draw(st.sampled_from([True, True, True, False])),
            draw(st.sampled_from([False, False, False, True])),
            number,
        )
        tasks[one.id] = one
    shares, free = {}, capacity
    for owner in OWNERS:
        held = draw(st.one_of(st.just(ZERO), some))
        if held.fits(free):
            free = free - held
            recent = draw(st.integers(0, 4096))
            shares[owner] = Share(held, int(bool(held)), ZERO, Vector({"cpu": recent}), NOW - 30_000)
    return Ground(pool, tasks, shares, free)


@given(grounds(), st.lists(st.integers(1, 3), max_size=6))
def test_a_pass_that_is_stopped_and_resumed_gives_what_one_pass_gives(
    ground: Ground, stops: list[int]
) -> None:
    """A plan is full before a pass is at its end; the order that was kept serves the next one."""
    whole = ground.copy().run(FairOrder(), ground.queue())
    order, queue, parts = FairOrder(), ground.queue(), list[str]()
    for most in [*stops, 1000]:
        part = ground.run(order, queue, most)
        parts += part
        for task_id in part:
            queue.discard(task_id)
    assert parts == whole


@given(grounds(), grounds(), st.data())
def test_an_order_that_was_kept_is_one_made_anew(ground: Ground, other: Ground, data: st.DataObject) -> None:
    """Tasks come and go and shares change between passes; only the owners that changed are placed again."""
    order, queue = FairOrder(), ground.queue()
    for task_id in ground.run(order, queue, 2):
        queue.discard(task_id)
    for owner, share in other.shares.items():
        if data.draw(st.booleans()):
            ground.shares[owner] = share
            queue.touched[owner] = None
    for task_id in data.draw(st.lists(st.sampled_from(sorted(ground.tasks)))):
        if task_id in queue:
            queue.discard(task_id)
            del ground.tasks[task_id]
    for task in other.tasks.values():
        if data.draw(st.booleans()):
            added = replace(task, id=f"n{task.number}", number=100 + task.number)
            ground.tasks[added.id] = added
            queue.add(added.place, added.request, added.owner)
    fresh = ground.copy()
    for task_id in ground.taken:
        fresh.tasks.pop(task_id, None)
    assert ground.run(order, queue) == fresh.run(FairOrder(), fresh.queue())
