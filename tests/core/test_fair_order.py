"""The order of owners, against an oracle that sorts all of them anew before each admission."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from controller.core.model.fair_order import AHEAD, FairOrder
from controller.core.model.places import Place
from controller.core.model.queue import Queue
from controller.core.model.resources import ZERO, Vector
from controller.core.model.shares import Share, averaged
from controller.core.model.sharing import Ceiling, OwnerPolicy, Sharing, SharingPriority
from controller.core.model.task import Policy, Pool
from tests.support.examples import examples

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
    reclaimed: dict[str, Vector] = field(default_factory=dict)  # owner → what is short of what it gets back

    def copy(self) -> Ground:
        return Ground(
            self.pool, dict(self.tasks), dict(self.shares), self.free, list(self.taken), dict(self.reclaimed)
        )

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
            reclaimed=self.reclaimed,
            passed_over=lambda turn: None,
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


def expected(ground: Ground) -> list[str]:
    """The rules in their plainest form: sort all owners, look at each task of the first, and again."""
    ground = ground.copy()
    pool, sharing = ground.pool, ground.pool.sharing
    assert sharing is not None
    closed: dict[str, set[tuple[Vector, int]]] = {owner: set() for owner in OWNERS}
    claiming = {o: [ground.tasks[place.task_id] for place, _ in ground.claims(o)] for o in OWNERS}
    reserved: dict[str, list[Task]] = {owner: [] for owner in OWNERS}
    blocked: dict[str, Task] = {}
    latest: dict[str, Task] = {}
    seen: dict[str, Task] = {}  # by whose turn an owner comes, once it has been looked at
    told: set[str] = set()
    at_end: set[str] = set()
    passed: set[str] = set()
    free = ground.free

    def waiting(owner: str) -> list[Task]:
        """The tasks that this pass has not been at yet, in order."""
        left = (t for t in ground.tasks.values() if t.owner == owner and t.id not in ground.taken)
        new = (t for t in left if t.id not in passed and (t.request, t.rank) not in closed[owner])
        return sorted(new, key=lambda t: t.place)

    def turn(task: Task) -> tuple[Any, ...]:
        share, policy = ground.shares.get(task.owner, Share()), sharing.of(task.owner)
        named = [n for n in policy.guarantee if n in task.request]
        fits = [share.held.get(n) + task.request[n] <= policy.guarantee[n] for n in named]
        average = averaged(share, NOW, sharing.half_life_seconds)
        ahead = AHEAD if sharing.half_life_seconds else 1024
        coming, now = [0.0], [0.0]
        for n, most in pool.capacity.items():
            then = share.held.get(n) * 1024 + task.request.get(n) * 512
            coming.append((average.get(n) + (then - average.get(n)) * ahead // 1024) / most)
            now.append(share.held.get(n) / most)
        is_within = bool(fits) and all(fits)
        short = ground.reclaimed.get(task.owner, ZERO)
        gets_back = is_within and any(n in short for n in pool.capacity)
        for n in short:
            gets_back &= share.held.get(n) + task.request.get(n) <= policy.guarantee.get(n)
        return (
            not is_within,
            not gets_back,
            task.rank if sharing.priority is SharingPriority.ACROSS_OWNERS else 0,
            max(coming) / (1024 * policy.weight),
            max(now) / policy.weight,
            task.owner,
        )

    def over(task: Task) -> bool:
        policy, share = sharing.of(task.owner), ground.shares.get(task.owner, Share())
        held, count = share.held + task.request, share.running + len(reserved[task.owner])
        for other in reserved[task.owner]:
            held += other.request
        too_many = policy.max_running is not None and count >= policy.max_running
        return too_many or any(n in task.request for n in policy.limit.exceeded_by(held))

    def scan(owner: str) -> Task | None:
        """The first that may be admitted. What is before it is passed over."""
        for task in waiting(owner):
            if (task.request, task.rank) in closed[owner]:
                continue
            is_over = over(task)
            if not is_over and not task.may_start:
                passed.add(task.id)
            elif not is_over and task.request.fits(free):
                return task
            else:
                closed[owner].add((task.request, task.rank))
                if not is_over:
                    blocked.setdefault(owner, task)
                if pool.policy is Policy.STRICT:
                    passed.update(each.id for each in waiting(owner))
                    claiming[owner] = [each for each in claiming[owner] if each.place <= task.place]
                    return None
        return None

    def look(owner: str) -> tuple[Task | None, bool]:
        """The next that may be admitted, or reserves, and whether it reserves."""
        found = scan(owner)
        head = blocked.get(owner)
        if head and owner not in told:
            told.add(owner)
            if head.waited >= BACKFILL_SECONDS and head not in claiming[owner]:
                claiming[owner] = sorted([*claiming[owner], head], key=lambda t: t.place)
        first = claiming[owner][0] if claiming[owner] else None
        reserves = first is not None and not (found and found.place <= first.place)
        return (first, True) if reserves else (found, False)

    def subject(owner: str) -> Task | None:
        return seen.get(owner) or next(iter(waiting(owner)), latest.get(owner))

    before = len(ground.taken)
    while turns := sorted(turn(task) for o in OWNERS if o not in at_end and (task := subject(o))):
        owner = turns[0][-1]
        task, reserves = look(owner)
        if task is None:
            at_end.add(owner)
            continue
        seen[owner] = task
        if len(turns) > 1 and turn(task) > turns[1]:
            continue  # it came for another one, and this one's turn is later
        claiming[owner] = [each for each in claiming[owner] if each is not task]
        if reserves:
            reserved[owner].append(task)
            free = free.without(task.request)
        else:
            ground.take(task.id)
            latest[owner] = task
            del seen[owner]
            free = free - task.request
    return ground.taken[before:]


vectors = st.builds(lambda c, g: Vector({"cpu": c, "gpu": g}), st.integers(0, 6), st.integers(0, 2))
some = st.builds(lambda c, g: Vector({"cpu": c, "gpu": g}), st.integers(0, 3), st.integers(0, 1))
ceilings = st.one_of(st.just(Ceiling()), st.builds(lambda c: Ceiling({"cpu": c}), st.integers(0, 8)))
weights, guarantees = st.sampled_from([0.5, 1.0, 2.0, 4.0]), st.one_of(st.just(ZERO), some)
unlimited = st.builds(OwnerPolicy, weight=weights, guarantee=guarantees)
policies = st.builds(
    OwnerPolicy,
    weight=weights,
    guarantee=guarantees,
    limit=ceilings,
    max_running=st.one_of(st.none(), st.integers(0, 4)),
)


@st.composite
def grounds(draw: st.DrawFn, *, plain: bool = False) -> Ground:
    """With `plain`, every task fits, and none is above a limit."""
    sharing = Sharing(
        half_life_seconds=draw(st.sampled_from([0.0, 60.0])),
        priority=draw(st.sampled_from(list(SharingPriority))),
        owners={
            owner: draw(unlimited if plain else policies)
            for owner in draw(st.lists(st.sampled_from(OWNERS), unique=True))
        },
    )
    guaranteed = sharing.guaranteed
    least = Vector({"cpu": 200, "gpu": 80}) if plain else CAPACITY
    capacity = Vector({name: max(least[name], guaranteed.get(name)) for name in CAPACITY})
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
            plain or draw(st.sampled_from([True, True, True, False])),
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
    some_short = st.sampled_from([ZERO, ZERO, Vector({"cpu": 1}), Vector({"cpu": 1, "gpu": 1})])
    reclaimed = {owner: short for owner in OWNERS if (short := draw(some_short))}
    return Ground(pool, tasks, shares, free, reclaimed=reclaimed)


@settings(max_examples=examples(400))
@given(grounds())
def test_the_same_tasks_in_the_same_order_as_by_sorting_anew(ground: Ground) -> None:
    assert ground.copy().run(FairOrder(), ground.queue()) == expected(ground)


@given(grounds(plain=True), st.lists(st.integers(1, 3), max_size=6))
def test_a_pass_that_is_stopped_and_resumed_gives_what_one_pass_gives(
    ground: Ground, stops: list[int]
) -> None:
    """A plan is full before a pass is at its end; the order that was kept serves the next one.

    Here every task fits: otherwise a new pass begins with the turns of those that are passed over, which the
    first one has behind it. That each of these passes is right is for the other tests.
    """
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
    if data.draw(st.booleans()):
        ground.reclaimed = other.reclaimed
    fresh = ground.copy()
    for task_id in ground.taken:
        fresh.tasks.pop(task_id, None)
    assert ground.run(order, queue) == fresh.run(FairOrder(), fresh.queue())


@pytest.mark.parametrize("policy", list(Policy))
@pytest.mark.parametrize("rank", [-5, -1])
def test_what_is_claimed_is_set_aside_at_its_own_turn(policy: Policy, rank: int) -> None:
    """Its owner's turn comes earlier, for a task of a higher priority that does not fit.

    Under `strict` nothing of its owner can pass that one, and so it reserves nothing.
    """
    sharing = Sharing(priority=SharingPriority.ACROSS_OWNERS)
    pool = Pool(name="p", capacity=Vector({"cpu": 4}), policy=policy, sharing=sharing)
    tasks = [
        Task("head", OWNERS[0], -6, Vector({"cpu": 4}), number=1),
        Task("claiming", OWNERS[0], -3, Vector({"cpu": 3}), has_claim=True, number=2),
        Task("other", OWNERS[1], rank, Vector({"cpu": 2}), number=3),
    ]
    ground = Ground(pool, {task.id: task for task in tasks}, {}, Vector({"cpu": 2}))
    passes = rank < -3 or policy is Policy.STRICT
    assert ground.run(FairOrder(), ground.queue()) == (["other"] if passes else [])


def test_what_a_head_reserves_of_its_owners_limit_is_left_to_it() -> None:
    """It waits for a GPU. A later task of its owner, which needs none, would take what the limit has left."""
    sharing = Sharing(owners={"a": OwnerPolicy(limit=Ceiling({"cpu": 4}), max_running=2)})
    pool = Pool(name="p", capacity=CAPACITY, policy=Policy.BACKFILL, backfill_seconds=100.0, sharing=sharing)
    tasks = {
        "head": Task("head", "a", 0, Vector({"cpu": 3, "gpu": 4}), waited=100.0, number=1),
        "wide": Task("wide", "a", 0, Vector({"cpu": 2}), number=2),
        "small": Task("small", "a", 0, Vector({"cpu": 1}), number=3),
        "another": Task("another", "a", 0, Vector({"cpu": 0}), number=4),
        "of b": Task("of b", "b", 0, Vector({"cpu": 2}), number=5),
    }
    ground = Ground(pool, tasks, {}, Vector({"cpu": 10, "gpu": 3}))
    assert ground.run(FairOrder(), ground.queue()) == ["of b", "small"]
    ground.tasks["head"] = Task("head", "a", 0, Vector({"cpu": 3, "gpu": 4}), waited=99.0, number=1)
    ground.taken, ground.shares = [], {}
    assert "wide" in ground.run(FairOrder(), ground.queue()), "the head has not waited long enough"


# -- reservations, in time


@dataclass
class Simulation:
    """Time goes on from end to end; each pass admits what the order says. A task runs as long as it says."""

    ground: Ground
    seconds: dict[str, int]  # how long each task runs
    running: dict[str, tuple[int, Vector, str]]  # name → end, request, owner

    def start_of(self, task_id: str) -> int:
        """When the task begins."""
        order, queue, now = FairOrder(), self.ground.queue(), 0
        while True:
            for admitted in self.ground.run(order, queue):
                task = self.ground.tasks[admitted]
                if admitted == task_id:
                    return now
                self.running[admitted] = now + self.seconds[admitted], task.request, task.owner
                queue.discard(admitted)
            now, name = min((end, name) for name, (end, _, _) in self.running.items())
            _, request, owner = self.running.pop(name)
            share = self.ground.shares[owner]
            self.ground.shares[owner] = share.changed(Vector() - request, -1, NOW, 0.0)
            self.ground.free = self.ground.free + request
            queue.touched[owner] = None


@settings(max_examples=examples(300))
@given(st.data())
def test_a_head_that_has_waited_is_not_delayed_by_those_that_pass_it(data: st.DataObject) -> None:
    """It starts when it would if nobody else waited. It is the first of all, so that all others pass it."""
    limits = st.builds(
        OwnerPolicy, weight=weights, limit=ceilings, max_running=st.one_of(st.none(), st.integers(1, 3))
    )
    owners = {owner: data.draw(limits) for owner in OWNERS}
    sharing = Sharing(priority=SharingPriority.ACROSS_OWNERS, owners=owners)
    pool = Pool(
        name="p",
        capacity=CAPACITY,
        policy=data.draw(st.sampled_from(list(Policy))),
        backfill_seconds=BACKFILL_SECONDS,
        sharing=sharing,
    )
    free, running, shares = CAPACITY, dict[str, tuple[int, Vector, str]](), dict[str, Share]()
    for number in range(data.draw(st.integers(1, 6))):
        request, owner = data.draw(some), data.draw(st.sampled_from(OWNERS))
        if request.fits(free):
            free = free - request
            running[f"r{number}"] = data.draw(st.integers(1, 20)), request, owner
            shares[owner] = shares.get(owner, Share()).changed(request, 1, NOW, 0.0)
    head = Task("head", "b", -9, data.draw(vectors), waited=BACKFILL_SECONDS)
    policy = owners["b"]
    share = shares.get("b", Share())
    within = not policy.limit.exceeded_by(share.held + head.request)
    assume(within and (policy.max_running is None or share.running < policy.max_running))
    others = {  # most are of the same owner, whose limits they share
        name: Task(name, data.draw(st.sampled_from("abb")), 0, data.draw(vectors), number=number)
        for number, name in enumerate(("s1", "s2", "s3", "s4", "s5", "s6"), 1)
    }
    seconds = {name: data.draw(st.integers(1, 20)) for name in ("head", *others)}

    def start(tasks: dict[str, Task]) -> int:
        ground = Ground(pool, tasks, dict(shares), free)
        return Simulation(ground, seconds, dict(running)).start_of("head")

    assert start({"head": head, **others}) <= start({"head": head})
