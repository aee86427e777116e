"""Admission: which waiting tasks of a pool may start, given its queue and its free capacity."""

from __future__ import annotations

from collections.abc import Callable

from controller.core.model import quarantine
from controller.core.model.model import Model
from controller.core.model.records import PoolRecord, Task
from controller.core.model.task import AttemptId
from controller.core.planning import transitions
from controller.core.planning.agenda import Agenda
from controller.core.planning.decide import Decision
from controller.core.planning.draft import Draft
from controller.core.planning.driver import Driver
from controller.core.promise.attempts import Attempts
from controller.core.promise.invariants import unledgered


class Admission:
    """See the module's docstring. `looks_at` is called with each task before it is admitted."""

    def __init__(
        self,
        model: Model,
        agenda: Agenda,
        attempts: Attempts,
        driver: Driver,
        looks_at: Callable[[str], None],
    ) -> None:
        self._model = model
        self._agenda = agenda
        self._attempts = attempts
        self._driver = driver
        self._looks_at = looks_at

    def plan(self, draft: Draft) -> None:
        """Add to the draft the admissions for which the pools on the agenda have room."""
        pools = self._agenda.pools
        for name in list(pools):
            if draft.is_full:
                return
            del pools[name]
            record = self._model.pools.get(name)
            if record is None or record.pool.paused or self._model.pool_is_frozen(name):
                continue
            try:
                self._admit(record, draft)
            # counted, and shown on the pool until the pool changes; the other pools are served
            except Exception as error:  # noqa: BLE001
                self._model.quarantine["ledgers", (name,)] = quarantine.describe("admission", error)
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
            # Invariant I4: an earlier attempt may still run. Its end puts the pool on the agenda again.
            return not self._attempts.may_overlap(task)

        for task_id in self._model.queue(pool.name).admissible(pool, free, waited, may_start):
            try:
                is_admitted = self._admit_task(self._model.tasks[task_id], record.mod, draft)
            # counted, and shown on the task, which has left the queue
            except Exception as error:  # noqa: BLE001
                epoch = draft.moment.epoch
                self._agenda.note(self._model.set_aside(task_id, "admission", error, now, epoch))
                is_admitted = False
            if not is_admitted:
                self._agenda.pools[pool.name] = None
                return

    def _admit_task(self, task: Task, pool_mod: int, draft: Draft) -> bool:
        """Add the task's admission to the draft. False if the draft has no room for it."""
        assert task.spec is not None
        self._looks_at(task.id)
        number = max(task.attempt, self._attempts.highest(task.id)) + 1
        status = transitions.admitted(task, task.spec, pool_mod, number, draft.moment)
        start = self._driver.start(AttemptId(task.id, number), task, status.hold, repeated=False)
        if not draft.add(task, Decision(status, compares_spec=True, compares_pool=True)):
            return False
        draft.plan.effects.append(start)
        return True
