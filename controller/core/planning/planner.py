"""The leader's planner: from what has changed to a plan of what to persist and what to do.

A pass looks at what is on the agenda, and at nothing else: its cost follows what changed plus what it admits,
never the number of tasks stored. `plan` decides, and changes the model in nothing but what time has brought
and what is set aside; `committed` makes the model what was persisted.
"""

from __future__ import annotations

from collections.abc import Callable

from controller.core.model import kept_log, quarantine
from controller.core.model.model import Model
from controller.core.model.records import Change, Task
from controller.core.model.task import AttemptId
from controller.core.model.touched import Touched
from controller.core.planning.admission import Admission
from controller.core.planning.agenda import Agenda
from controller.core.planning.decide import Decision, decide
from controller.core.planning.draft import Draft, Limits
from controller.core.planning.driver import Driver
from controller.core.planning.intake import Intake
from controller.core.planning.mending import Mending
from controller.core.planning.plan import KeepLog, Plan, Start, Term
from controller.core.planning.transitions import Moment
from controller.core.promise.attempts import Attempt, Attempts, is_current


def _nothing(_: str) -> None:
    """Nobody wants to know."""


class Planner:
    """See the module's docstring.

    One planner lives for one tenure; `now` is seconds since the epoch by the leader's clock. What the engine
    tells goes to `intake`. Whoever changes the model tells `note` what that touched.
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
        self._model = model
        self._term = term
        self._limits = limits
        self._agenda = Agenda()
        self._attempts = Attempts()
        self.intake = Intake(model, self._agenda, self._attempts, term.epoch)
        self.mending = Mending(model, self.intake, self._attempts)
        self._driver = Driver(model, self._agenda, self._attempts, term)
        self._admission = Admission(model, self._agenda, self._attempts, self._driver, self._look)
        self._looks_at = looks_at
        self._plans = 0
        self._ahead: Draft | None = None  # the next plan, begun while the one before it is being persisted
        self._is_cautious = cautious
        model.indexes.wind()
        self._agenda.tasks.update(dict.fromkeys([*model.holding, *model.attention]))
        for name, queue in model.queues.items():
            record = model.pools.get(name)
            if record is not None:
                self._agenda.tasks.update(dict.fromkeys(queue.exceeding(record.pool.capacity)))
        self._agenda.pools.update(dict.fromkeys(model.queues))

    def note(self, touched: Touched) -> None:
        """The model was changed by others than this planner: what that touched is looked at."""
        self._agenda.note(touched)

    def next_wake(self) -> float | None:
        """When time alone gives the planner something to do; None when never."""
        wakes = (self._model.timers.next_due(), self._agenda.next_wake())
        return min((wake for wake in wakes if wake is not None), default=None)

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
            records = self.mending.plan(moment, self._limits, removals_only=removals_only)
            if records is not None:
                return records
            draft = Draft(self._model, self._limits, moment, most_tasks=1 if self._is_cautious else None)
        self._fill(draft, now, removals_only)
        plan = draft.finish()
        if not plan:
            # what was set aside just now
            plan = self.mending.plan_asides(draft.moment, self._limits) or plan
        if not plan and self.intake.engine_listed:
            self._is_cautious = False
        return plan

    def plan_ahead(self, plan: Plan, now: float, *, removals_only: bool = False) -> None:
        """While `plan` is being persisted: begin the next one with what is ready by now, as if `plan` were
        committed already.

        `committed` or `refused` tells whether it was, and `plan` ends what was begun here.
        """
        if plan.records or self.mending.is_due or self._is_cautious:
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
            task_id = change.task_id
            for kind, _ in change.requests:
                self._apply(Change("requests", (task_id, kind), None, revision))
            if change.removes:
                task = self._model.tasks.get(task_id)
                if task is not None and task.attempt:
                    self._attempts.note(AttemptId(task.id, task.attempt))
                self._apply(Change("tasks", (task_id,), None, revision))
                self.note(self._model.put_status(task_id, None, revision))
                if change.removes_log:
                    self._apply(Change(kept_log.KIND, (task_id,), None, revision))
            elif change.status is not None:
                self.note(self._model.put_status(task_id, change.status, revision))
                if not change.status.is_holding:
                    # no longer of interest
                    self._agenda.attempts[AttemptId(task_id, change.status.attempt)] = None
        for ledger in plan.ledgers:
            self.note(self._model.put_ledger(ledger.pool, ledger.held, revision))
        for record in plan.records:
            self._apply(Change(record.kind, record.names, record.value, revision))
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
            self._agenda.tasks[change.task_id] = None
            task = self._model.tasks.get(change.task_id)
            if task is not None:
                self._agenda.pools[task.pool] = None
        for effect in plan.effects:
            self._agenda.look_at(effect.attempt)
            attempt = self._attempts.get(effect.attempt)
            if attempt is not None:
                attempt.starting = attempt.stopping = attempt.proving = attempt.keeping = False

    def set_aside(self, task_id: str, where: str, error: Exception, now: float) -> None:
        """Nothing is done with a task from now on, since that raised `error`; see `quarantine`."""
        self.note(self._model.set_aside(task_id, where, error, now, self._term.epoch))

    # -- details
    # -----------------------------------------------------------------------------------------------------

    def _look(self, task_id: str) -> None:
        self._looks_at(task_id)

    def _next_moment(self, now: float) -> Moment:
        self._plans += 1
        return Moment(now, self._term.epoch, f"{self._term.replica}/{self._term.revision}/{self._plans}")

    def _fill(self, draft: Draft, now: float, removals_only: bool) -> None:
        """Take into the draft what is ready now."""
        self._model.sight(now)
        self.note(self._model.advance(now))
        self._agenda.ring(now)
        draft.moment = draft.moment._replace(now=now)
        self._plan_tasks(draft, removals_only)
        self._clear(draft)
        if self.intake.engine_listed and self.intake.engine_answers and not removals_only:
            self._admission.plan(draft)

    def _clear(self, draft: Draft) -> None:
        for attempt_id in list(self._agenda.attempts):
            if draft.has_changed(attempt_id.task_id):
                continue
            del self._agenda.attempts[attempt_id]
            try:
                self._driver.clear(attempt_id, draft)
            # counted, and shown on its task: the others are served
            except Exception as error:  # noqa: BLE001
                self.set_aside(attempt_id.task_id, "orphan", error, draft.moment.now)

    def _plan_tasks(self, draft: Draft, removals_only: bool) -> None:
        agenda = self._agenda.tasks
        postponed: dict[str, None] = {}
        while agenda and not draft.is_full:
            task_id, _ = agenda.popitem(last=False)
            if draft.has_changed(task_id):
                postponed[task_id] = None
                continue
            try:
                if not self._plan_task(task_id, draft, removals_only, postponed):
                    agenda[task_id] = None
                    break
            # counted, and shown on the task: the others are served
            except Exception as error:  # noqa: BLE001
                self.set_aside(task_id, "planning", error, draft.moment.now)
        agenda.update(postponed)

    def _plan_task(self, task_id: str, draft: Draft, removals_only: bool, postponed: dict[str, None]) -> bool:
        """Take its next step into the draft; False when the draft has no room for it."""
        task = self._model.tasks.get(task_id)
        for attempt in self._attempts.of_task(task_id):
            if not is_current(task, attempt.id):  # its status may have been deleted, or mended
                self._agenda.attempts[attempt.id] = None
        if task is None or quarantine.KIND in task.frozen:
            return True
        self._look(task_id)
        current = self._attempts.get(AttemptId(task_id, task.attempt)) if task.attempt else None
        decision = decide(task, current, self._model.pools.get(task.pool), draft.moment)
        if decision is None:
            if task.status is not None and task.status.is_holding and self.intake.engine_listed:
                self._driver.drive(task, task.status, draft)
        elif removals_only and decision.status is not None:
            postponed[task_id] = None
        elif not draft.add(
            task, decision, may_have_log=any(attempt.keeping for attempt in self._attempts.of_task(task_id))
        ):
            # then it is looked at again when the ledger has been mended
            return self._model.pool_is_frozen(task.pool)
        elif decision.removes:
            self._driver.forget_removed(task, draft)
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

    def _apply(self, change: Change) -> None:
        touched = self._model.apply(change)
        if touched is not None:
            self.note(touched)
