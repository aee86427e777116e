"""Admission: which waiting tasks of a pool may start, given its queue and its free capacity."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec

from controller.core.model import quarantine
from controller.core.model.claims import reclaimed
from controller.core.model.fair_order import FairOrder, Turn, claimed
from controller.core.model.maintenance import keeping_back
from controller.core.model.model import Model
from controller.core.model.records import PoolRecord, Task
from controller.core.model.resources import Vector
from controller.core.model.task import MAX_ATTEMPT, AttemptId
from controller.core.planning import transitions
from controller.core.planning.agenda import Agenda
from controller.core.planning.attestation import unattested
from controller.core.planning.decide import Decision
from controller.core.planning.draft import Draft
from controller.core.planning.driver import Driver
from controller.core.planning.gangs import GangOpening, admitted, round_of
from controller.core.planning.members import Members
from controller.core.planning.preemption import Preemptor
from controller.core.promise.attempts import Attempts
from controller.core.promise.invariants import unledgered

AGAIN_SECONDS = 60.0  # until a pool whose admission has raised an error is tried again
TICK_SECONDS = 0.001  # what a task has reached by then is beyond rounding


class Admission:
    """See the module's docstring. `looks_at` is called with each task before it is admitted."""

    def __init__(
        self,
        model: Model,
        agenda: Agenda,
        attempts: Attempts,
        driver: Driver,
        members: Members,
        opening: GangOpening,
        looks_at: Callable[[str], None],
    ) -> None:
        self._model = model
        self._agenda = agenda
        self._attempts = attempts
        self._driver = driver
        self._members = members
        self._opening = opening
        self._looks_at = looks_at
        self._preemptor = Preemptor(model, agenda)
        self._orders: dict[str, FairOrder] = {}
        self._again_at: dict[str, float] = {}  # pools that have raised an error → when they are tried again

    def plan(self, draft: Draft) -> None:
        """Add to the draft the admissions for which the pools on the agenda have room.

        The members of gangs that are admitted already come first.
        """
        self._opening.plan(draft)
        pools = self._agenda.pools
        for name in list(pools):
            if draft.is_full:
                return
            del pools[name]
            if any(self._model.is_set_aside_unstored(task_id) for task_id in draft.claims(name)):
                pools[name] = None  # until that is stored, its claim holds
                continue
            self._preemptor.end_claims(name, draft)
            self._wake_for_windows(name, draft.moment.now)
            record = self._model.pools.get(name)
            if record is None or record.pool.paused or self._model.pool_is_frozen(name):
                continue
            if self._again_at.get(name, 0.0) > draft.moment.now:
                continue
            self._again_at.pop(name, None)
            if self._model.is_rebuilding(name):
                continue  # the ledger puts the pool on the agenda again
            try:
                self._admit(record, draft)
            # counted and logged; the other pools are served, and of this one what ends
            except Exception as error:  # noqa: BLE001
                self._again_at[name] = draft.moment.now + AGAIN_SECONDS
                self._agenda.wake_pool(self._again_at[name], name)
                self._orders.pop(name, None)
                self._model.caught.append(quarantine.Caught("admission", name, error))

    def _admit(self, record: PoolRecord, draft: Draft) -> None:
        pool, now = record.pool, draft.moment.now
        # A plan changes the ledger by as much as the holds, so what the ledger lacks now, it lacks then, too.
        free = pool.capacity - draft.held(pool.name) - unledgered(self._model, pool.name)

        def waited(task_id: str) -> float:
            return now - self._model.tasks[task_id].queued_at

        def may_start(task_id: str) -> bool:
            task = self._model.tasks[task_id]
            if draft.has_changed(task_id) or task.requests:
                # cancelled or rejected in this plan; the commit puts the pool on the agenda again
                return False
            if unattested(self._model, task, pool):
                self._agenda.tasks[task_id] = None  # it is rejected, and leaves the queue
                return False
            if task.follows and draft.kin.has_changed(task):
                self._agenda.pools[pool.name] = None  # once that is committed
                return False
            if task.array is not None and not task.array.is_gang:
                return self._members.may_begin(task.array, draft)
            # Invariant I4: an earlier attempt may still run. Its end puts the pool on the agenda again.
            return not self._attempts.may_overlap(task)

        passed_over: list[Turn] = []
        for task_id in self._in_order(record, free, waited, may_start, passed_over, draft):
            try:
                is_admitted = self._admit_task(self._model.tasks[task_id], record, draft)
            # counted, and shown on the task, which has left the queue
            except Exception as error:  # noqa: BLE001
                epoch = draft.moment.epoch
                self._agenda.note(self._model.set_aside(task_id, "admission", error, now, epoch))
                is_admitted = False
            if not is_admitted:
                self._agenda.pools[pool.name] = None
                return
        if passed_over:
            free = pool.capacity - draft.held(pool.name) - unledgered(self._model, pool.name)
            self._preemptor.plan(record, passed_over, free, may_start, draft)

    def _in_order(
        self,
        record: PoolRecord,
        free: Vector,
        waited: Callable[[str], float],
        may_start: Callable[[str], bool],
        passed_over: list[Turn],
        draft: Draft,
    ) -> Iterator[str]:
        """The tasks to admit. `passed_over` gets the turns of the owners whose first task does not fit."""
        pool, queue = record.pool, self._model.eligible(record.pool.name, draft.moment.now)
        if pool.sharing is None:
            return queue.admissible(pool, free, waited, may_start)
        # the model does not show their shares yet
        queue.touched.update(dict.fromkeys(draft.owners(pool.name)))
        claims = draft.claims(pool.name)
        return self._orders.setdefault(pool.name, FairOrder()).admissible(
            pool,
            record.mod,
            queue,
            free,
            draft.moment.at,
            share=lambda owner: draft.share(pool.name, owner),
            waited_seconds=waited,
            may_start=lambda task_id: (
                not self._model.share_is_frozen(pool.name, self._model.tasks[task_id].owner)
                and may_start(task_id)
            ),
            claims=claimed(claims, queue, self._model.tasks),
            reclaimed=reclaimed(claims, queue.owner_of),
            passed_over=passed_over.append,
        )

    def _wake_for_windows(self, name: str, now: float) -> None:
        """Look at the pool again once a window has ended, and once one keeps back more of its tasks.

        These may be the first, which let no others pass.
        """
        record = self._model.pools.get(name)
        window = keeping_back(record.pool.maintenance, now) if record is not None else None
        if window is None or not len(self._model.queue(name)):
            return
        self._agenda.wake_pool(window.ends_at, name)
        longest = self._model.eligible(name, now).longest()
        if longest:
            self._agenda.wake_pool(window.starts_at - longest + TICK_SECONDS, name)

    def _admit_task(self, task: Task, record: PoolRecord, draft: Draft) -> bool:
        """Add the task's admission to the draft. False if the draft has no room for it."""
        assert task.spec is not None
        self._looks_at(task.id)
        begins, claimant = task, task.id if draft.has_claim(task.pool, task.id) else ""
        array, told = task.array, tuple[tuple[str, str], ...]()
        if array is not None and array.is_gang:
            number = round_of(task, array, self._attempts)
            status = admitted(task, record, number, draft.moment)
        elif array is not None:
            begins, index = self._members.next(task, draft)
            status = self._members.admitted(begins, index, record.mod, draft.moment)
            told = array.paired.blocks(index) if array.paired is not None else ()
        else:
            number = max(task.attempt, self._attempts.highest(task.id)) + 1
            status = transitions.admitted(task, task.spec, record.mod, number, draft.moment)
        if status.attempt > MAX_ATTEMPT:  # somebody has written the number before
            raise OverflowError(f"attempt {status.attempt:,} is above {MAX_ATTEMPT:,}, and cannot be stored")
        windows_of = record.mod if record.pool.maintenance else 0
        if status.windows_of != windows_of:
            status = msgspec.structs.replace(status, windows_of=windows_of)
        start = self._driver.start(AttemptId(begins.id, status.attempt), begins, status.hold, repeated=False)
        decision = Decision(status, compares_spec=True, compares_pool=True, parents=task.follows, blocks=told)
        if not draft.add(begins, decision, ends_claim_of=claimant):
            return False
        if array is not None and array.is_gang:
            return True  # its members begin when this is committed
        if array is not None:
            self._members.began(task, draft)
        draft.plan.effects.append(start)
        return True
