"""The indexes that make a pass cheap: tasks that wait, hold, are counted, need a decision, or are timed.

All of it follows from the records, and is brought up to date whenever a task changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from controller.core.model import quarantine
from controller.core.model.array_records import Arrays
from controller.core.model.demand import Demands, pool_template
from controller.core.model.dependencies import Dependencies
from controller.core.model.holders import Holders
from controller.core.model.lifecycle import FINISHED, HOLDING, WAITING, State
from controller.core.model.parts import NO_PARTS, Parts, has_parts, parts_of
from controller.core.model.places import Place
from controller.core.model.queue import Queue
from controller.core.model.records import Change, PoolRecord, Task
from controller.core.model.resources import ZERO, Vector
from controller.core.model.sight import first_sight
from controller.core.model.task import Pool
from controller.core.model.timers import Timers
from controller.core.model.touched import NOTHING, Touched


class Indexes:
    """The indexes of these tasks and pools. `touched` collects what changes, until it is taken."""

    def __init__(self, tasks: dict[str, Task], pools: Mapping[str, PoolRecord]) -> None:
        self._tasks = tasks
        self._pools = pools
        self.touched = Touched()
        self.queues: dict[str, Queue] = {}
        self.holding: dict[str, Task] = {}
        self.on_hold: dict[str, dict[str, int]] = {}  # pool → owner → its tasks on hold; no number is 0
        self._on_hold: dict[str, str] = {}  # such a task → the owner for whom it is counted
        self.with_parts: dict[str, Task] = {}  # of `holding`: lost or being stopped, or were
        self.holds: dict[str, Vector] = {}  # pool → what the tasks in `holding` hold of it, in sum
        self.counts: dict[tuple[str, State], int] = {}  # (pool, state) → tasks
        # Invariant: a task that holds nothing and needs a decision now, whatever the time, is in here, and so
        # is one whose timer has rung. A new leader looks at these tasks, at those that hold, at the queues
        # and at the timers, and so finds all there is to do.
        self.attention: dict[str, None] = {}
        self.timers = Timers(tasks)
        self.holders = Holders()
        self.dependencies = Dependencies(tasks, self._touch)
        self.arrays = Arrays(tasks, self._touch)
        self._demands = Demands()
        self._unseen: dict[str, None] = {}  # Created since the last call of `sight`
        # one tuple for all tasks that are counted under it
        self._counted: dict[tuple[str, State], tuple[str, State]] = {}

    def take_touched(self) -> Touched:
        """What was touched since the last call. The caller only reads it."""
        if not (self.touched.tasks or self.touched.pools):
            return NOTHING
        touched, self.touched = self.touched, Touched()
        return touched

    def shrink(self) -> None:
        """After a load: a status comes before its spec, and needed a decision until then.

        A dict keeps the size that it once had.
        """
        kept = dict(self.attention)
        self.attention.clear()
        self.attention.update(kept)

    def sight(self, terms: Iterable[Change], now: float) -> None:
        """Note when new submissions are seen: their wait begins now, whatever the submitter's clock says."""
        if not self._unseen:
            return
        seen_at = first_sight(terms, now)
        for task_id in self._unseen:
            task = self._tasks.get(task_id)
            if task is not None and task.state is State.CREATED and not task.frozen:
                task.seen_at = seen_at(task.spec_create)
                self.timers.schedule(task, task.first_due())
        self._unseen.clear()

    def advance(self, now: float) -> Touched:
        """Ring the timers that are due. A task whose back-off has passed joins its queue."""
        for task in self.timers.ring(now):
            # stays in `attention` until it changes, in whatever term
            self.touched.tasks[task.id] = self.attention[task.id] = None
            if task.state is State.WAITING_RETRY:
                self._enqueue(task)
                limit = task.spec.deadlines.queue_seconds if task.spec is not None else None
                if limit is not None and task.queued_at + limit > now:
                    self.timers.schedule(task, task.queued_at + limit)
        return self.take_touched()

    def open_parts(self, pool: str, at: int) -> dict[str, Parts]:
        """For each owner, what its holds of the pool that have not ended have come to by then."""
        found: dict[str, Parts] = {}
        for task in self.with_parts.values():
            if task.pool == pool:
                lost, stopping = parts_of(task.status, at)
                before = found.get(task.owner, NO_PARTS)
                found[task.owner] = Parts(before.lost + lost, before.stopping + stopping)
        return found

    def wind(self) -> None:
        """Schedule again the timers that have rung, for tasks that have not changed since.

        Called when a term begins: its clock may be behind that of an earlier term.
        """
        for task_id in self.attention:
            task = self._tasks[task_id]
            if task.due is None and not task.frozen:
                self.timers.schedule(task, task.first_due())

    def size_again(self, name: str, before: PoolRecord | None) -> None:
        """Queue its tasks again, if its pod template has changed, or whether it is shared or has windows."""
        after = self._pools.get(name)
        self._demands.forget(name)
        now, then = after.pool if after else None, before.pool if before else None
        if (
            pool_template(then) != pool_template(now)
            or _is_shared(then) != _is_shared(now)
            or _has_windows(then) != _has_windows(now)
        ):
            for task in [self._tasks[task_id] for task_id in self.queues.get(name, ())]:
                if task.pool == name:  # else it is about to be indexed again
                    self._enqueue(task)

    def reindex(self, task: Task) -> None:
        """Bring all indexes up to date with the task's records."""
        self.touched.tasks[task.id] = None
        before, task.held = task.held, None
        for other in self.arrays.place(task):
            self.reindex(other)
        for child in self.dependencies.place(task):
            self.reindex(child)
        self._place(task)
        if task.held != before:
            self._move_hold(before, task.held)

    def _move_hold(self, before: tuple[str, Vector] | None, after: tuple[str, Vector] | None) -> None:
        if before is not None:
            pool, hold = before
            self.holds[pool] = self.holds[pool] - hold
            self.touched.pools[pool] = None
        if after is not None:
            pool, hold = after
            self.holds[pool] = self.holds.get(pool, ZERO) + hold

    def _touch(self, task_id: str) -> None:
        self.touched.tasks[task_id] = None

    def _place(self, task: Task) -> None:
        status, state, pool = task.status, task.state, task.pool
        if task.counted is not None:
            was_in = task.counted[0]
            self.counts[task.counted] -= 1
            if not self.counts[task.counted] and was_in not in self._pools:
                del self.counts[task.counted]
                self._counted.pop(task.counted, None)
            task.counted = None
            if self._on_hold and (owner := self._on_hold.pop(task.id, None)) is not None:
                self._count_on_hold(was_in, owner, -1)
            queue = self.queues.get(was_in)
            if queue is not None and task.id in queue:
                queue.discard(task.id)
                if not len(queue) and was_in not in self._pools:  # a name that somebody has misspelt
                    del self.queues[was_in]
                self.touched.pools[was_in] = None  # it may have been the head that blocked others
        self.holders.discard(task.id)
        if self.holding.pop(task.id, None) is not None and self.with_parts:
            self.with_parts.pop(task.id, None)
        self.attention.pop(task.id, None)
        self._unseen.pop(task.id, None)
        if task.requests or task.spec is None or (task.spec_error and state in WAITING):
            self.attention[task.id] = None
        if task.gate is not None and task.gate.never_opens:
            self.attention[task.id] = None
        if task.array is not None and state in WAITING and (task.array.is_over or task.array.fails):
            self.attention[task.id] = None
        if not task.exists:
            self.attention.pop(task.id, None)
            self.timers.schedule(task, None)
            self._tasks.pop(task.id, None)
            return
        if (task.frozen and task.frozen - {quarantine.KIND}) or (task.spec is None and status is None):
            self.timers.schedule(task, None)
            if status is not None and state in HOLDING and "states" not in task.frozen:
                self.holders.add(task)
            return
        counted = pool, state
        task.counted = self._counted.setdefault(counted, counted)
        self.counts[task.counted] = self.counts.get(task.counted, 0) + 1
        if status is not None and state in HOLDING:
            self.holding[task.id] = task
            task.held = pool, status.hold
            self.holders.add(task)
            if has_parts(status):
                self.with_parts[task.id] = task
            if status.stopping and status.lost_since is not None:
                self.touched.pools[pool] = None  # nobody can count on what it holds any more
        elif state in FINISHED:
            pass  # only its retention is left
        elif status is not None and status.is_on_hold:
            self._on_hold[task.id] = task.owner
            self._count_on_hold(pool, task.owner, 1)
        elif state is State.CREATED:
            self._enqueue(task)
            if task.seen_at is None and status is None:
                self._unseen[task.id] = None
        elif task.waits_at_once:
            self._enqueue(task)  # no timer has to ring, which followers do not hear
        self.timers.schedule(task, task.first_due() if not task.frozen else None)

    def _count_on_hold(self, pool: str, owner: str, more: int) -> None:
        owners = self.on_hold.setdefault(pool, {})
        owners[owner] = owners.get(owner, 0) + more
        if not owners[owner]:
            del owners[owner]

    def _enqueue(self, task: Task) -> None:
        if task.spec is None or task.spec_error or task.frozen or task.on_hold:
            return
        if task.gate is not None and not task.gate.is_open:
            return
        if task.array is not None and not task.array.may_begin:
            return
        queue = self.queues.get(task.pool)
        if queue is None:
            queue = self.queues[task.pool] = Queue()
        record = self._pools.get(task.pool)
        pool = record.pool if record is not None else None
        task.demand = self._demands.of(task.spec, pool)
        repeats = task.array is not None and not task.array.is_gang
        place = Place(-task.priority, task.spec_create, task.submitted_at, task.id, repeats)
        reach = task.spec.reach_seconds if _has_windows(pool) else 0.0
        queue.add(place, task.demand, task.owner if _is_shared(pool) else "", reach)
        self.touched.pools[task.pool] = None


def _is_shared(pool: Pool | None) -> bool:
    return pool is not None and pool.sharing is not None


def _has_windows(pool: Pool | None) -> bool:
    return pool is not None and bool(pool.maintenance)
