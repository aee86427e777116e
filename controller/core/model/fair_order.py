"""The order of admission in a pool with `sharing`: whose turn it is, and whom that lets pass.

Owners come in this order: those whose first task fits into what is left of their guarantee, and of these
first those for which others give back what is guaranteed to them; with `across-owners`, those whose first
task has the higher priority; then by dominant share, the smallest first; ties by what they hold now, and by
name. The dominant share of an owner is the largest, over the pool's
resources, of what it holds (averaged with the pool's half-life), as a part of the capacity, divided by its
weight. It is taken as it will be a quarter of a half-life from now, if half of the first task runs meanwhile:
so who had little does not take all at once, and neither small weights nor large ones have an advantage,
however large tasks are (as seats are given by Webster's method). Within an owner the order is that of any
queue: priority, then submission.

What is reclaimed for an owner comes before shares: a guarantee is judged on the resources that it names, so
the owner that gave it back may be within its own guarantee, of another resource. If its share were smaller,
it would take back what it gave, which would be reclaimed again, for ever.

A guarantee comes before a priority: otherwise a task of a high priority would take what was reclaimed for
another owner's guarantee, which would be reclaimed again, for ever.

Source: dominant resource fairness (Ghodsi et al., NSDI 2011), with weights.

Averages change with time alone, so the order is taken at a quantised time and kept between passes; only the
owners whose share or queue has changed are placed again. A pass costs what it admits and whom it passes over.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from controller.core.model.owner_cursor import Claimed, Cursor, CursorStep
from controller.core.model.places import Place
from controller.core.model.queue import Queue
from controller.core.model.records import Task
from controller.core.model.resources import ZERO, Vector
from controller.core.model.shares import FRACTION, Share, averaged
from controller.core.model.sharing import Preemption, SharingPriority
from controller.core.model.task import Pool

AHEAD = 163  # in 1/1024: what is held has this part in the average a quarter of a half-life from now
TICKS_PER_HALF_LIFE = 1024
SHORTEST_TICK_SECONDS, LONGEST_TICK_SECONDS = 1.0, 60.0


class Turn(NamedTuple):
    """An owner's place in the order. Turns compare in the order of admission."""

    beyond: bool  # its first task does not fit into what is left of its guarantee
    unclaimed: bool  # nothing that its first task may have by its guarantee is being reclaimed for it
    rank: int  # -priority of its first task with `across-owners`, else 0
    next_share: float  # its dominant share, by which it comes
    held: float  # the same of what it holds now
    owner: str
    share: float  # its dominant share, without any part of its first task
    priority: int  # of its first task


def _turn(
    pool: Pool, owner: str, share: Share, reclaimed: Vector, at: int, place: Place, request: Vector
) -> Turn:
    """The owner's place in the order at that time (ms), with this task as its first.

    `reclaimed`: see `claims.reclaimed`.
    """
    sharing = pool.sharing
    assert sharing is not None
    across = sharing.priority is SharingPriority.ACROSS_OWNERS
    weight = sharing.of(owner).weight
    average = averaged(share, at, sharing.half_life_seconds)
    coming = _coming(average, share.held, request, 1024 if not sharing.half_life_seconds else AHEAD)
    guarantee = pool.guarantee_of(owner)
    beyond = not is_guaranteed(guarantee, share.held, request)
    return Turn(
        beyond,
        beyond or not reclaimed or not _stays_within(guarantee, share.held, request, reclaimed),
        place.rank if across else 0,
        dominant(coming, pool.capacity) / (FRACTION * weight),
        dominant(share.held, pool.capacity) / weight,
        owner,
        dominant(average, pool.capacity) / (FRACTION * weight),
        -place.rank,
    )


def _coming(average: Vector, held: Vector, request: Vector, ahead: int) -> dict[str, int]:
    """What the owner will have averaged a while from now, with half of the request from now on.

    `ahead` is the part, in 1/1024, that what is held from now on has in that average.
    """
    twice, coming = {name: 2 * amount for name, amount in held.items()}, dict(average.items())
    for name, amount in request.items():
        twice[name] = twice.get(name, 0) + amount
    for name in coming:
        twice.setdefault(name, 0)
    for name, amount in twice.items():
        past = coming.get(name, 0)
        coming[name] = past + (amount * FRACTION // 2 - past) * ahead // 1024
    return coming


def dominant(amounts: Mapping[str, int], capacity: Vector) -> float:
    """The largest part of the capacity that these amounts are, over the resources."""
    largest = 0.0  # no generator: each admission asks this a few times
    for name, amount in amounts.items():
        if amount > 0:
            size = capacity.get(name)
            largest = max(largest, amount / size if size else float("inf"))
    return largest


def is_guaranteed(guarantee: Vector, held: Vector, request: Vector) -> bool:
    """Whether the request fits into what is left of the guarantee, of the resources that it names."""
    if not guarantee:
        return False
    named = [name for name in guarantee if name in request]
    return bool(named) and all(held.get(name) + request[name] <= guarantee[name] for name in named)


def _stays_within(guarantee: Vector, held: Vector, request: Vector, names: Iterable[str]) -> bool:
    return all(held.get(name) + request.get(name) <= guarantee.get(name) for name in names)


def tick_ms(half_life_seconds: float) -> int:
    """For how long the order is kept, if nothing changes; 0: for ever."""
    if not half_life_seconds:
        return 0
    seconds = half_life_seconds / TICKS_PER_HALF_LIFE
    return int(1000 * min(max(seconds, SHORTEST_TICK_SECONDS), LONGEST_TICK_SECONDS))


class FairOrder:
    """The order of one pool, kept between passes. One planner uses it, and the queue tells it of changes.

    A reader makes one for a single pass, that `keeps` nothing: the queue's changes are told to the planner.
    """

    def __init__(self, *, keeps: bool = True) -> None:
        self._keeps = keeps
        self._turns: dict[str, Turn] = {}
        self._made: dict[str, tuple[Share, int, Claimed, Turn]] = {}  # the newest turn of each, and of what
        self._order: list[Turn] = []  # in order; owners are few enough that a list is the quickest
        self._made_for: tuple[object, ...] = ()
        self._reclaimed: Mapping[str, Vector] = {}

    def admissible(
        self,
        pool: Pool,
        pool_mod: int,
        queue: Queue,
        free: Vector,
        now_ms: int,
        share: Callable[[str], Share],
        waited_seconds: Callable[[str], float],
        may_start: Callable[[str], bool],
        claims: Mapping[str, Sequence[Claimed]],
        reclaimed: Mapping[str, Vector],
        passed_over: Callable[[Turn], None],
    ) -> Iterator[str]:
        """The tasks to admit, in order. The caller may stop at any time.

        `free` is what the pool has left. `share` is an owner's share with what has been yielded so far. An
        owner whose task does not fit is told to `passed_over` (with preemption, all are that are left once
        nothing fits), and does not block others, except that tasks reserve: those in `claims` (by owner, in
        order), and the first that does not fit, if it has waited for `backfill_seconds`. What it asks for is
        set aside when its turn has come, as far as it is free: tasks behind it take nothing of a resource
        that it lacks, and leave enough of all others, and of its owner's limits. One above these limits is
        passed over, and reserves nothing. `reclaimed`: see `claims.reclaimed`.
        """
        assert pool.sharing is not None
        at = self._at(pool, now_ms)
        self._renew(pool, pool_mod, queue, at, share, reclaimed)
        cursors, room = dict[str, Cursor](), queue.shrinking()
        during: dict[str, Turn] = {}  # turns that hold during this pass alone
        may_fit = room.any_fits(free)
        try:
            while self._order and may_fit:
                turn = self._order.pop(0)
                during.pop(owner := turn.owner, None)
                cursor = cursors.get(owner) or Cursor(queue.groups_of(owner), pool, claims.get(owner, ()))
                cursors[owner] = cursor
                step = CursorStep(pool.sharing.of(owner), share(owner), free, may_start)
                found = cursor.next(step)
                if cursor.blocked is not None and not cursor.is_told:
                    cursor.is_told = True
                    passed_over(turn)
                    if waited_seconds(cursor.blocked[0].task_id) >= pool.backfill_seconds:
                        cursor.reserve(*cursor.blocked)
                reserving = cursor.reserving_before(found)
                if (coming := reserving or found) is None:
                    may_fit = room.any_fits(free)
                    continue
                mine = self._turn(pool, owner, step.share, at, coming)
                is_later = bool(self._order) and mine > self._order[0]
                if is_later or reserving is not None:
                    if not is_later:  # else it came for a task that is blocked, and this one is not the next
                        free = free.without(cursor.take_reserving())
                        may_fit = room.any_fits(free)
                    during[owner] = mine
                    insort(self._order, mine)
                    continue
                assert found is not None
                cursor.take(found[0])
                free = free - found[1]
                may_fit = room.any_fits(free)
                if self._keeps:
                    queue.touched[owner] = None  # its share grows, whether or not the caller comes back
                yield found[0].task_id
                if not may_fit and pool.preemption is None:
                    break  # nobody comes after it, nor is anybody told of those that are left
                during[owner] = self._turn(pool, owner, share(owner), at, cursor.first() or found)
                insort(self._order, during[owner])
            self._tell_left(pool.preemption, cursors, passed_over)
        finally:
            self._restore(during, cursors)

    def _tell_left(
        self,
        preemption: Preemption | None,
        cursors: Mapping[str, Cursor],
        passed_over: Callable[[Turn], None],
    ) -> None:
        """Tell of the owners for which attempts may be stopped, and of those that come before them."""
        told = {owner for owner, cursor in cursors.items() if cursor.is_told}
        for turn in self._order:
            if preemption is None or (turn.beyond and not preemption.by_priority):
                return  # nor is anything reclaimed for those behind
            if turn.owner not in told:
                passed_over(turn)

    def _restore(self, during: Mapping[str, Turn], cursors: Iterable[str]) -> None:
        """Put those that the pass has looked at into the places that they had."""
        for turn in during.values():
            self._remove(turn)
        for owner in cursors:
            insort(self._order, self._turns[owner])

    def _at(self, pool: Pool, now_ms: int) -> int:
        assert pool.sharing is not None
        tick = tick_ms(pool.sharing.half_life_seconds)
        return now_ms // tick * tick if tick else now_ms

    def _turn(self, pool: Pool, owner: str, share: Share, at: int, first: Claimed) -> Turn:
        made = self._made.get(owner)  # mostly it is asked for again, with the same share and task
        if made is not None and made[0] is share and made[1] == at and made[2] == first:
            return made[3]
        turn = _turn(pool, owner, share, self._reclaimed.get(owner, ZERO), at, *first)
        self._made[owner] = share, at, first, turn
        return turn

    def _renew(
        self,
        pool: Pool,
        pool_mod: int,
        queue: Queue,
        at: int,
        share: Callable[[str], Share],
        reclaimed: Mapping[str, Vector],
    ) -> None:
        """Place again the owners that have changed; all of them, if the pool or the quantised time has."""
        assert pool.sharing is not None
        tick = at if pool.sharing.half_life_seconds else 0
        made_for = (pool_mod, tick, queue.made_of, pool.capacity if pool.capacity_from is not None else None)
        touched = queue.take_touched() if self._keeps else {}
        for each in {**self._reclaimed, **reclaimed}:
            if self._reclaimed.get(each) != reclaimed.get(each):
                touched[each] = None
                self._made.pop(each, None)
        self._reclaimed = reclaimed
        if made_for != self._made_for:
            self._made_for = made_for
            self._made = {}
            self._turns = {
                owner: self._turn(pool, owner, share(owner), at, queue.first_of(owner, pool.capacity))
                for owner in queue.owners()
            }
            self._order = sorted(self._turns.values())
            return
        for owner in touched:
            before = self._turns.pop(owner, None)
            if before is not None:
                self._remove(before)
            if queue.waits(owner):
                first = queue.first_of(owner, pool.capacity)
                turn = self._turns[owner] = self._turn(pool, owner, share(owner), at, first)
                insort(self._order, turn)
            else:
                self._made.pop(owner, None)

    def _remove(self, turn: Turn) -> None:
        """Take out one that is there: turns are unique, by their owners."""
        del self._order[bisect_left(self._order, turn)]


def claimed(claims: Iterable[str], queue: Queue, tasks: Mapping[str, Task]) -> dict[str, list[Claimed]]:
    """The tasks with claims on the pool that wait in its queue, by owner, in order."""
    found = dict[str, list[Claimed]]()
    for task_id in claims:
        place = queue.place(task_id)
        if place is not None:
            found.setdefault(tasks[task_id].owner, []).append((place, tasks[task_id].demand))
    return {owner: sorted(each, key=lambda one: one[0]) for owner, each in found.items()}


def first_of(
    pool: Pool, queue: Queue, owner: str, share: Share, may_start: Callable[[str], bool]
) -> Claimed | None:
    """The owner's first task that a pass would admit if there were room, for readers.

    The cost follows the kinds of requests that its tasks have.
    """
    assert pool.sharing is not None
    cursor = Cursor(queue.groups_of(owner), pool, ())
    return cursor.next(CursorStep(pool.sharing.of(owner), share, pool.capacity, may_start))


def ranking(
    pool: Pool,
    share: Callable[[str], Share],
    reclaimed: Mapping[str, Vector],
    now_ms: int,
    firsts: Mapping[str, Claimed],
) -> list[tuple[Turn, Claimed]]:
    """The owners of these first tasks, in order, for readers."""
    return sorted(
        (_turn(pool, owner, share(owner), reclaimed.get(owner, ZERO), now_ms, *first), first)
        for owner, first in firsts.items()
    )
