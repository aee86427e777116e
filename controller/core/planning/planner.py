"""The leader's planner: from what has changed to a plan of what to persist and what to do.

A pass looks at the tasks, attempts and pools that something happened to, and at nothing else: its cost
follows what changed plus what it admits, never the number of tasks stored. The planner changes nothing but
its own bookkeeping until `committed` tells it that a plan was persisted.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import NamedTuple

from controller.core.model import codec, kept_log, quarantine
from controller.core.model.model import Model
from controller.core.model.records import Change, PoolRecord, Task
from controller.core.model.resources import Vector
from controller.core.model.task import AttemptId, Launch, Pool, Status, fencing_environment
from controller.core.planning import transitions
from controller.core.planning.decide import Decision, decide
from controller.core.planning.draft import Draft, Limits
from controller.core.planning.orphans import ORPHAN_GRACE_SECONDS, Orphans
from controller.core.planning.plan import Forget, KeepLog, Outcome, Plan, RecordChange, Start, Verdict
from controller.core.planning.repair import plan_repair
from controller.core.planning.transitions import Moment
from controller.core.promise.attempts import Attempt

FORGOTTEN_AT_ONCE = 100  # attempts of one task


def _nothing(_: str) -> None:
    """Nobody wants to know."""


class Term(NamedTuple):
    """Who plans: the fence (the leader key's create revision), the epoch, and what makes `op` unique."""

    revision: int
    epoch: int
    replica: str
    cluster: str
    installation: str = ""


class Planner(Orphans):
    """See the module's docstring.

    One planner lives for one tenure; `now` is seconds since the epoch by the leader's clock.
    """

    def __init__(
        self,
        model: Model,
        term: Term,
        limits: Limits,
        *,
        cautious: bool = False,
        looks_at: Callable[[str], None] = _nothing,
    ) -> None:
        """`cautious`: the term before ended by an unexpected error, so that each plan changes one task until
        all is quiet.

        `looks_at` is called with each task before its next step is derived; what it raises counts as raised
        by that.
        """
        super().__init__(model, term.epoch)
        self._term = term
        self._limits = limits
        self._plans = 0
        self._ahead: Draft | None = None  # the next plan, begun while the one before it is being persisted
        # a full list of the engine now, and not at its next turn: a request for repairs waits for it
        self.wants_list = False
        self._is_cautious = cautious
        self._looks_at = looks_at
        self._repairing: tuple[str, int, float] | None = None  # request, its mod, and since when it is known
        model.wind()
        model.dirty.update(dict.fromkeys([*model.holding, *model.attention]))
        for name, queue in model.queues.items():
            record = model.pools.get(name)
            if record is not None:
                model.dirty.update(dict.fromkeys(queue.exceeding(record.pool.capacity)))
        model.dirty_pools.update(dict.fromkeys(model.queues))

    def next_wake(self) -> float | None:
        """When time alone gives the planner something to do; None when never."""
        wakes = [
            wake
            for wake in (self._model.timers.next_due(), self._wakes[0][0] if self._wakes else None)
            if wake is not None
        ]
        return min(wakes, default=None)

    # -- planning
    # ----------------------------------------------------------------------------------------------------

    def limit(self, limits: Limits) -> None:
        """Plan no larger transactions than this from now on."""
        self._limits = limits

    def plan(self, now: float, *, removals_only: bool = False) -> Plan:
        """All that became ready, up to the limits of one transaction. Call again until the plan is empty.

        `removals_only`: nothing that is to be written, since the store is full; what only deletes, and
        effects, go on.
        """
        draft, self._ahead = self._ahead, None
        if draft is None:
            moment = self._next_moment(now)
            records = self._plan_asides(moment)
            if records is None and not removals_only:
                records = self._plan_identity(moment) or self._plan_repairs(moment)
            if records is not None:
                return records
            draft = Draft(self._model, self._limits, moment, most_tasks=1 if self._is_cautious else None)
        self._fill(draft, now, removals_only)
        plan = draft.finish()
        if not plan:
            plan = self._plan_asides(draft.moment) or plan  # what was set aside just now
        if not plan and self.engine_listed:
            self._is_cautious = False
        return plan

    def plan_ahead(self, plan: Plan, now: float, *, removals_only: bool = False) -> None:
        """While `plan` is being persisted: begin the next one with what is ready by now, as if `plan` were
        committed already.

        `committed` or `refused` tells whether it was, and `plan` ends what was begun here.
        """
        if plan.records or self._model.repairs or self._model.asides or self._is_cautious:
            # records are made from what is committed, and come first; an error is to be that of one plan
            return
        draft = self._ahead or Draft(self._model, self._limits, self._next_moment(now), plan)
        self._fill(draft, now, removals_only)
        self._ahead = draft if draft.plan else None

    def take_care(self) -> None:
        """Change one task with each plan from now on, until all is quiet: something is wrong with one of
        several.
        """
        self._is_cautious = True

    @property
    def is_cautious(self) -> bool:
        """Whether each plan changes one task alone."""
        return self._is_cautious

    @property
    def is_ahead(self) -> bool:
        """Whether the next plan was begun already."""
        return self._ahead is not None

    def committed(self, plan: Plan, revision: int) -> None:
        """The plan was persisted at `revision`: the model becomes what was written.

        Its effects may start now.
        """
        for change in plan.changes:
            for kind, _ in change.requests:
                self._model.apply(Change("requests", (change.task_id, kind), None, revision))
            if change.removes:
                task = self._model.tasks.get(change.task_id)
                if task is not None and task.attempt:
                    self._attempts.note(AttemptId(task.id, task.attempt))
                self._model.apply(Change("tasks", (change.task_id,), None, revision))
                self._model.put_status(change.task_id, None, revision)
                if change.removes_log:
                    self._model.apply(Change(kept_log.KIND, (change.task_id,), None, revision))
            elif change.status is not None:
                self._model.put_status(change.task_id, change.status, revision)
                if not change.status.is_holding:
                    # no longer of interest
                    self._dirty_attempts[AttemptId(change.task_id, change.status.attempt)] = None
        for ledger in plan.ledgers:
            self._model.put_ledger(ledger.pool, ledger.held, revision)
        for record in plan.records:
            self._model.apply(Change(record.kind, record.names, record.value, revision))
        for effect in plan.effects:
            if isinstance(effect, Start):
                self._attempts.ensure(effect.attempt).starting = True
        if self._ahead is not None:
            self._ahead.follows(revision)

    def refused(self, plan: Plan) -> None:
        """The plan was not persisted: what it was about is looked at again, with what the store has shown
        since.
        """
        if self._ahead is not None:
            ahead, self._ahead = self._ahead, None
            self.refused(ahead.plan)
        for change in plan.changes:
            self._model.dirty[change.task_id] = None
            task = self._model.tasks.get(change.task_id)
            if task is not None:
                self._model.dirty_pools[task.pool] = None
        for effect in plan.effects:
            self._touch(effect.attempt)
            attempt = self._attempts.get(effect.attempt)
            if attempt is not None:
                attempt.starting = attempt.stopping = attempt.proving = attempt.keeping = False

    # -- details
    # -----------------------------------------------------------------------------------------------------

    def _next_moment(self, now: float) -> Moment:
        self._plans += 1
        return Moment(now, self._term.epoch, f"{self._term.replica}/{self._term.revision}/{self._plans}")

    def _fill(self, draft: Draft, now: float, removals_only: bool) -> None:
        """Take into the draft what is ready now."""
        self._model.sight(now)
        self._model.advance(now)
        while self._wakes and self._wakes[0][0] <= now:
            self._touch(heapq.heappop(self._wakes)[1])
        draft.moment = draft.moment._replace(now=now)
        self._plan_tasks(draft, removals_only)
        self._plan_attempts(draft)
        if self.engine_listed and self.engine_answers and not removals_only:
            self._plan_admissions(draft)

    def _plan_repairs(self, moment: Moment) -> Plan | None:
        """The oldest request for repairs, once the engine was listed after it had come."""
        request_id = next(iter(self._model.repairs), None)
        if request_id is None:
            return None
        request, mod = self._model.repairs[request_id]
        if self._repairing is None or self._repairing[:2] != (request_id, mod):
            self._repairing, self.wants_list = (request_id, mod, moment.now), True
        if self._listed_began < self._repairing[2] or not self.engine_answers:
            return None
        alive = [attempt.id for attempt in self._attempts if attempt.may_be_alive]
        try:
            return plan_repair(self._model, request_id, request, alive, moment, self._limits)
        except Exception as error:  # noqa: BLE001  # counted, and shown on the request
            del self._model.repairs[request_id]
            self._model.quarantine["repairs", (request_id,)] = quarantine.describe("repair", error)
            self._model.caught.append(quarantine.Caught("repair", request_id, error))
            return None

    def _plan_asides(self, moment: Moment) -> Plan | None:
        """Store which tasks are set aside, and remove the records of those that are looked at again."""
        records = []
        for task_id, (aside, is_stored) in self._model.asides.items():
            names = (task_id,)
            holds = aside.holds_for(self._model.tasks.get(task_id))
            if holds is not is_stored:
                value = quarantine.encode(aside, moment.op) if holds else None
                records.append(
                    RecordChange(quarantine.KIND, names, self._model.mod_of(quarantine.KIND, names), value)
                )
        return Plan(moment.op, records=records[: self._limits.operations - 1]) if records else None

    def _plan_identity(self, moment: Moment) -> Plan | None:
        """Put back the keys of who this installation is and of its engine, which this term began with, and
        somebody deleted.
        """
        missing = {
            kind: value for kind, value in self._model.identity.items() if not self._model.mod_of(kind, ())
        }
        records, outcomes = [], []
        for kind, value in missing.items():
            records.append(
                RecordChange(kind, (), 0, codec.encode({**codec.decode_mapping(value), "op": moment.op}))
            )
            what = "was deleted by hand, and is put back as it was read last"
            outcomes.append(
                Outcome(invariant="identity", subject=f"key/{kind}", verdict=Verdict.REPAIRED, what=what)
            )
        return Plan(moment.op, records=records, outcomes=outcomes) if missing else None

    def _plan_tasks(self, draft: Draft, removals_only: bool) -> None:
        dirty = self._model.dirty
        postponed: dict[str, None] = {}
        while dirty and not draft.is_full:
            task_id, _ = dirty.popitem(last=False)
            if draft.has_changed(task_id):
                postponed[task_id] = None
                continue
            try:
                if not self._plan_task(task_id, draft, removals_only, postponed):
                    dirty[task_id] = None
                    break
            # counted, and shown on the task: the others are served
            except Exception as error:  # noqa: BLE001
                self._set_aside(task_id, "planning", error, draft.moment.now)
        dirty.update(postponed)

    def _plan_task(self, task_id: str, draft: Draft, removals_only: bool, postponed: dict[str, None]) -> bool:
        """Take its next step into the draft; False when the draft has no room for it."""
        task = self._model.tasks.get(task_id)
        for attempt in self._attempts.of_task(task_id):
            if not self._is_current(task, attempt.id):  # its status may have been deleted, or mended
                self._dirty_attempts[attempt.id] = None
        if task is None or quarantine.KIND in task.frozen:
            return True
        self._looks_at(task_id)
        current = self._attempts.get(AttemptId(task_id, task.attempt)) if task.attempt else None
        decision = decide(task, current, self._model.pools.get(task.pool), draft.moment)
        if decision is None:
            if task.status is not None and task.status.is_holding:
                self._drive(task, task.status, draft)
        elif removals_only and decision.status is not None:
            postponed[task_id] = None
        elif not draft.add(
            task, decision, may_have_log=any(attempt.keeping for attempt in self._attempts.of_task(task_id))
        ):
            # then it is looked at again when the ledger has been mended
            return self._model.pool_is_frozen(task.pool)
        elif decision.removes and self._is_old(
            task.status.finished_at if task.status is not None else None, draft
        ):
            # Older ones, were there any, are found by the next list.
            numbers = range(max(1, task.attempt + 1 - FORGOTTEN_AT_ONCE), task.attempt + 1)
            draft.plan.effects += [Forget(AttemptId(task_id, n)) for n in numbers]
        elif current is not None and self._must_keep_log(task, current, decision):
            current.keeping = True
            draft.plan.effects.append(KeepLog(current.id, task.spec_create))
        return True

    def _must_keep_log(self, task: Task, attempt: Attempt, decision: Decision) -> bool:
        """Whether the decision ends an attempt whose output is to be kept, and the engine has it: only
        then is it read.
        """
        seen = attempt.observation
        if task.spec is None or seen is None or not seen.stopped or seen.gone or not seen.ran:
            return False
        ends = (
            task.status is not None
            and task.status.is_holding
            and decision.status is not None
            and not decision.status.is_holding
        )
        record = self._model.pools.get(task.pool)
        return ends and kept_log.is_wanted(task.spec, record.pool if record is not None else None)

    def _drive(self, task: Task, status: Status, draft: Draft) -> None:
        """Bring the engine to what is committed: start the attempt, or stop it."""
        attempt = self._attempts.ensure(AttemptId(task.id, status.attempt))
        if attempt.busy or not self.engine_listed:
            return
        # it does not wait out the pause of a start
        is_first_stop = bool(status.stopping) and not attempt.stop_failed
        if self._must_wait(attempt, draft.moment.now) and not is_first_stop:
            return
        # What was seen last is there now: somebody may have removed what was recorded, and a late start made
        # it anew.
        uid = (attempt.observation.uid if attempt.observation is not None else "") or status.uid
        if attempt.missing and not (status.stopping and attempt.must_be_told):
            self._prove(attempt, uid, draft)
        elif status.stopping:
            grace = task.spec.grace_seconds if task.spec is not None else ORPHAN_GRACE_SECONDS
            self._stop(attempt, grace, uid if status.uid or attempt.missing else "", status.stopping, draft)
        elif attempt.must_start and task.spec is not None:
            draft.plan.effects.append(self._start(attempt.id, task, status.hold, repeated=True))
            attempt.starting = True

    def _plan_admissions(self, draft: Draft) -> None:
        dirty = self._model.dirty_pools
        for name in list(dirty):
            if draft.is_full:
                return
            del dirty[name]
            record = self._model.pools.get(name)
            if record is None or record.pool.paused or self._model.pool_is_frozen(name):
                continue
            try:
                self._admit(record, draft)
            # counted, and shown on the pool until it changes: others are served
            except Exception as error:  # noqa: BLE001
                self._model.quarantine["ledgers", (name,)] = quarantine.describe("admission", error)
                self._model.caught.append(quarantine.Caught("admission", name, error))

    def _admit(self, record: PoolRecord, draft: Draft) -> None:
        pool, now = record.pool, draft.moment.now
        free = pool.capacity - draft.held(pool.name)

        def waited(task_id: str) -> float:
            return now - self._model.tasks[task_id].queued_at

        def may_start(task_id: str) -> bool:
            task = self._model.tasks[task_id]
            if draft.has_changed(task_id) or task.requests:
                # cancelled or rejected in this plan; the pool is looked at again when that is committed
                return False
            # Invariant I4: an earlier attempt may still run; its end makes the pool dirty again.
            abandoned = task.status.abandoned if task.status is not None else 0
            return not any(
                a.may_be_alive and a.id.number > abandoned for a in self._attempts.of_task(task_id)
            )

        for task_id in self._model.queue(pool.name).admissible(pool, free, waited, may_start):
            try:
                is_admitted = self._admit_task(self._model.tasks[task_id], record.mod, draft)
            # counted, and shown on the task; it has left the queue
            except Exception as error:  # noqa: BLE001
                self._set_aside(task_id, "admission", error, now)
                is_admitted = False
            if not is_admitted:
                self._model.dirty_pools[pool.name] = None
                return

    def _admit_task(self, task: Task, pool_mod: int, draft: Draft) -> bool:
        """Take its admission into the draft; False when the draft has no room for it."""
        assert task.spec is not None
        self._looks_at(task.id)
        number = max(task.attempt, self._attempts.highest(task.id)) + 1
        status = transitions.admitted(task, task.spec, pool_mod, number, draft.moment)
        start = self._start(AttemptId(task.id, number), task, status.hold, repeated=False)
        if not draft.add(task, Decision(status, compares_spec=True, compares_pool=True)):
            return False
        draft.plan.effects.append(start)
        return True

    def _start(self, attempt_id: AttemptId, task: Task, hold: Vector, *, repeated: bool) -> Start:
        assert task.spec is not None
        record = self._model.pools.get(task.pool)
        environment = fencing_environment(attempt_id, self._term.revision, task.spec.env)
        pool = record.pool if record is not None else Pool(name=task.pool)
        launch = Launch(
            attempt=attempt_id,
            cluster=self._term.cluster,
            term=self._term.revision,
            spec=task.spec,
            pool=pool,
            environment=environment,
            hold=hold,
            repeated=repeated,
            installation=self._term.installation,
        )
        return Start(attempt_id, launch)
