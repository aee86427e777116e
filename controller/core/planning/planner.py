"""The leader's planner: it turns what has changed into a plan of what to persist and what to do.

A pass looks at what is on the agenda, and at nothing else. Its cost follows what has changed and what it
admits, never the number of tasks stored. `plan` changes the model only by what time has brought, by what it
sets aside, and by what it quarantines. `committed` applies to the model what was persisted.
"""

from __future__ import annotations

from collections.abc import Callable

from controller.core.model import claims, kept_log, notices, quarantine
from controller.core.model.lifecycle import FINISHED
from controller.core.model.model import Model
from controller.core.model.op import op_of
from controller.core.model.records import Change, Task
from controller.core.model.shares import DAY_MS
from controller.core.model.touched import Touched
from controller.core.planning.admission import Admission
from controller.core.planning.agenda import Agenda
from controller.core.planning.arrays import decide_any, pass_on_stop
from controller.core.planning.attestation import is_unreadable, unattested
from controller.core.planning.decide import NOTHING, Decision, Others
from controller.core.planning.draft import Draft, Limits
from controller.core.planning.driver import Driver
from controller.core.planning.gangs import GangOpening, members_of_late
from controller.core.planning.intake import Intake
from controller.core.planning.members import Members
from controller.core.planning.mending import Mending
from controller.core.planning.plan import KeepLog, Plan, Term
from controller.core.planning.transitions import Moment
from controller.core.promise.attempts import Attempt, Attempts, is_current


def _nothing(_: str) -> None:
    """Ignore it."""


class Planner:
    """See the module's docstring.

    A planner lives for one tenure. `now` is seconds since the epoch by the leader's clock. Events of the
    engine go to `intake`. Code that changes the model reports to `note` what the change touched.
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
        """`cautious`: the term before ended by an unexpected error, so each plan changes one task.

        That lasts until all is quiet. `looks_at` is called with each task before its next step is derived; an
        error that it raises counts as an error of that step.
        """
        self._model = model
        self._term = term
        self.limits = limits  # of one transaction; an etcd may have lower ones than the defaults
        self._agenda = Agenda()
        self._attempts = Attempts()
        self.intake = Intake(model, self._agenda, self._attempts, term.epoch)
        self.mending = Mending(model, self.intake, self._attempts)
        self._driver = Driver(model, self._agenda, self._attempts, term)
        members = Members(model, self._attempts)
        opening = GangOpening(model, self._attempts, self._driver, members)
        self.mending.folding.take_from(members)
        self._admission = Admission(
            model,
            self._agenda,
            self._attempts,
            self._driver,
            members,
            opening,
            lambda task_id: self._looks_at(task_id),
        )
        self._looks_at = looks_at
        self._plans = 0
        self._ahead: Draft | None = None  # the next plan, begun while the one before it is being persisted
        self._is_cautious = cautious
        model.indexes.wind()
        self._agenda.tasks.update(dict.fromkeys([*model.holding, *model.attention]))
        for name, queue in model.queues.items():
            record = model.pools.get(name)
            if record is not None:
                refused = queue if record.pool.require_attested else queue.exceeding(record.pool.capacity)
                self._agenda.tasks.update(dict.fromkeys(refused))
        self._agenda.pools.update(dict.fromkeys(model.queues))

    def note(self, touched: Touched) -> None:
        """Put on the agenda what a change by others than this planner touched."""
        self._agenda.note(touched)
        self.mending.ticks.note(touched)

    def next_wake(self) -> float | None:
        """The next time at which time alone gives the planner something to do; None for never."""
        mending = self.mending
        if self.intake.is_listing:
            return 0.0  # at once
        wakes = (
            self._model.timers.next_due(),
            self._agenda.next_wake(),
            mending.accounts.next_due(),
            mending.keeping.next_due(),
            mending.ticks.next_due(),
            mending.capacities.next_due(),
        )
        return min((wake for wake in wakes if wake is not None), default=None)

    # -- planning

    def plan(self, now: float, *, removals_only: bool = False) -> Plan:
        """Plan all that is ready, up to the limits of one transaction. Call it again until the plan is empty.

        `removals_only`: the store is full, so plan no statuses. Deletions, notes of tasks set aside, and
        effects go on.
        """
        self._agenda.ring(now, self._model)
        self.intake.go_on(now)
        self.mending.accounts.look()
        draft, self._ahead = self._ahead, None
        if draft is None:
            moment = self._next_moment(now)
            records = self.mending.plan(moment, self.limits, removals_only=removals_only)
            if records is not None:
                return records
            draft = Draft(self._model, self.limits, moment, most_tasks=1 if self._is_cautious else None)
        plan = draft.plan
        if plan or self._agenda or self.intake.outlived:
            self._fill(draft, now, removals_only)
            plan = draft.finish()
            if plan:
                return plan
        # what this pass has set aside
        plan = self.mending.plan_asides(draft.moment, self.limits) or plan
        if not plan and self._model.dependencies:
            plan = self.mending.keeping.plan(draft.moment, self.limits) or plan
        if not plan and self._model.arrays and not removals_only:
            plan = self.mending.folding.plan(draft.moment, self.limits) or plan
        if not plan and self.mending.gave_way:
            plan = self.mending.plan(draft.moment, self.limits, removals_only=removals_only) or plan
        if not plan and self.intake.engine_listed:
            self._is_cautious = False
        return plan

    def plan_ahead(self, plan: Plan, now: float, *, removals_only: bool = False) -> None:
        """While `plan` is being persisted, begin the next plan as if `plan` were committed.

        Then call `committed` or `refused` for `plan`. The next call of `plan`, or `go_on`, finishes what was
        begun here.
        """
        self.intake.go_on(now)
        self.mending.accounts.look()
        if plan.records or self.mending.is_due(now) or self._is_cautious:
            # Plans of records come first, and are made from what is committed. A cautious planner confines an
            # error to one plan.
            return
        self._agenda.ring(now, self._model)
        if self._ahead is None and not self._agenda:
            return
        draft = self._ahead or Draft(self._model, self.limits, self._next_moment(now), plan)
        self._fill(draft, now, removals_only)
        self._ahead = draft if draft.plan else None

    def go_on(self, revision: int) -> Plan | None:
        """The plan that was begun ahead, finished: the one before it was committed at this revision.

        None if there is none. `committed` is still to be called for the one before, and may be called once
        this one is on its way, before `plan_ahead`.
        """
        if self._ahead is None:
            return None
        draft, self._ahead = self._ahead, None
        draft.follows(revision, is_shown=False)
        return draft.finish()

    def take_care(self) -> None:
        """Change one task with each plan, until all is quiet: one of several tasks causes an error."""
        self._is_cautious = True

    @property
    def is_cautious(self) -> bool:
        """Whether each plan changes one task only."""
        return self._is_cautious

    @property
    def is_ahead(self) -> bool:
        """Whether the next plan has been begun."""
        return self._ahead is not None

    def committed(self, plan: Plan, revision: int | None) -> None:
        """Apply to the model a plan that was persisted at `revision`. Its effects may start now.

        None: its answer was lost. The model takes in what the store has shown since, which may be more than
        the plan, so nothing is planned on top of it.
        """
        if revision is None:
            self.refused(plan, is_persisted=True)
        self._driver.persisted(plan)
        if revision is None:
            return
        for change in plan.changes:
            task_id = change.task_id
            for kind, _ in change.requests:
                self._apply(Change("requests", (task_id, kind), None, revision))
            if change.removes:
                self._apply(Change("tasks", (task_id,), None, revision))
                self._model.put_status(task_id, None, revision)
                for beside in change.also_removes:
                    self._apply(Change(beside, (task_id,), None, revision))
            elif change.status is not None:
                self._model.put_status(task_id, change.status, revision)
        self.note(self._model.take_touched())
        for share in plan.shares:
            self._model.put_share(share.pool, share.owner, share.share, revision)
        for ledger in plan.ledgers:
            self.note(self._model.put_ledger(ledger.pool, ledger.ledger, revision))
        for claim in plan.claims:
            self._apply(Change(claims.KIND, (claim.pool, claim.task_id), claim.value, revision))
        for notice in plan.notices:
            self._apply(Change(notices.OUTBOX, notice.names, notice.value, revision))
        for record in plan.records:
            create = revision if not record.seen_mod else 0
            self._apply(Change(record.kind, record.names, record.value, revision, create))
        if self._ahead is not None:
            self._ahead.follows(revision, is_shown=True)

    def refused(self, plan: Plan, *, is_persisted: bool = False) -> None:
        """The plan was not persisted: look at its tasks again, with what the store has shown since.

        `is_persisted`: it was, and what it shows is not known. Its effects go on.
        """
        if self._ahead is not None:
            ahead, self._ahead = self._ahead, None
            self.refused(ahead.plan)
        for change in plan.changes:
            self._agenda.tasks[change.task_id] = None
            task = self._model.tasks.get(change.task_id)
            if task is not None:
                self._agenda.pools[task.pool] = None
                if self._model.is_shared(task.pool):  # its owner was placed by what has not come about
                    self._model.queue(task.pool).touched[task.owner] = None
        self._agenda.pools.update((claim.pool, None) for claim in plan.claims)
        for effect in plan.effects if not is_persisted else ():
            self._agenda.look_at(effect.attempt)
            attempt = self._attempts.get(effect.attempt)
            if attempt is not None:
                attempt.starting = attempt.stopping = attempt.proving = attempt.keeping = False

    def set_aside(self, task_id: str, where: str, error: Exception, now: float) -> None:
        """Do nothing more with a task that raised `error`; see `quarantine`."""
        self.note(self._model.set_aside(task_id, where, error, now, self._term.epoch))

    # -- details

    def _next_moment(self, now: float) -> Moment:
        self._plans += 1
        op = op_of(self._term.replica, self._term.revision, self._plans)
        return Moment(now, self._term.epoch, op, self.mending.accounts.charged_at(now), self.intake.hears)

    def _fill(self, draft: Draft, now: float, removals_only: bool) -> None:
        """Add to the draft what is on the agenda."""
        if now != draft.moment.now:
            # a draft does not pass into the next day: that one's accounts are closed first
            charged = min(self.mending.accounts.charged_at(now), (draft.moment.at // DAY_MS + 1) * DAY_MS - 1)
            draft.moment = draft.moment._replace(now=now, charged=charged)
        if draft.moment.hears != self.intake.hears:
            draft.moment = draft.moment._replace(hears=self.intake.hears)
        self._plan_tasks(draft, removals_only)
        self._clear(draft)
        self._driver.bury(self.intake.outlived, draft)
        if self.intake.hears and not removals_only:
            self._admission.plan(draft)

    def _clear(self, draft: Draft) -> None:
        for attempt_id in list(self._agenda.attempts):
            if draft.has_changed(attempt_id.task_id):
                continue
            del self._agenda.attempts[attempt_id]
            try:
                self._driver.clear(attempt_id, draft)
            # counted, and shown on its task; the others are served
            except Exception as error:  # noqa: BLE001
                self.set_aside(attempt_id.task_id, "orphan", error, draft.moment.now)

    def _plan_tasks(self, draft: Draft, removals_only: bool) -> None:
        agenda = self._agenda.tasks
        postponed: dict[str, None] = {}
        while agenda and not draft.is_full:
            task_id, _ = agenda.popitem(last=False)
            if draft.has_changed(task_id) or draft.kin.is_relied_on(task_id):
                postponed[task_id] = None
                continue
            try:
                if not self._plan_task(task_id, draft, removals_only, postponed):
                    agenda[task_id] = None
                    break
            # counted, and shown on the task; the others are served
            except Exception as error:  # noqa: BLE001
                self.set_aside(task_id, "planning", error, draft.moment.now)
        agenda.update(postponed)

    def _plan_task(self, task_id: str, draft: Draft, removals_only: bool, postponed: dict[str, None]) -> bool:
        """Add the task's next step to the draft. False if the draft has no room for it."""
        task, current = self._model.tasks.get(task_id), None
        for attempt in self._attempts.of_task(task_id):
            if not is_current(task, attempt.id):  # its status may have been deleted or repaired
                self._agenda.attempts[attempt.id] = None
            if task is not None and attempt.id.number == task.attempt:
                current = attempt
        if task is None or quarantine.KIND in task.frozen:
            return True
        self._looks_at(task_id)
        if _only_expires(task, draft.moment.now):
            return True
        if task.array is not None and task.requests and self._model.asides:
            members = (member.id for member in task.array.members.values())
            if any(map(self._model.is_set_aside_unstored, members)):
                postponed[task_id] = None  # nothing is done without these before that is stored
                return True
        if (after := members_of_late(task, draft.moment.now)) is not None:
            if any(name in self._agenda.tasks for name in after):
                self._agenda.tasks[task_id] = None  # behind them
                return True
            if any(name in postponed or draft.has_changed(name) for name in after):
                postponed[task_id] = None
                return True
        record = self._model.pools.get(task.pool)
        refused = ""
        if record is not None and record.pool.require_attested and not is_unreadable(self._model, task):
            refused = unattested(self._model, task, record.pool)
            if refused and task.array is not None and task.array.has_begun and not task.array.is_gang:
                self.mending.folding.refuse(task_id)
        gate = draft.kin.gate(task) if task.gate is not None else None
        keeps, array = self._model.dependencies.keeps(task_id), self._model.arrays.of(task_id)
        is_alone = not refused and gate is None and not keeps and array is None  # nearly always
        others = NOTHING if is_alone else Others(refused, gate, keeps, array)
        decision = decide_any(task, current, record, draft.moment, others)
        if task.array is not None:
            pass_on_stop(task.array, self._agenda)
        if decision is None:
            status = task.status
            is_driven = status is not None and status.is_holding and not status.reserved
            if status is not None and is_driven and self.intake.engine_listed:
                self._driver.drive(task, status, draft)
        elif (removals_only and decision.status is not None) or not draft.kin.is_known_for(task, decision):
            postponed[task_id] = None
        elif not draft.add(
            task, decision, may_have_log=decision.removes and self._attempts.keeps_log(task_id)
        ):
            # a ledger or a share cannot be written: the task is looked at again when it is repaired
            is_barred = not decision.keeps_hold(task) and self._model.may_not_change(task)
            if is_barred or draft.plan.changes:
                return is_barred
            postponed[task_id] = None  # it is not room that lacks: the others are served
        elif decision.removes:
            self._driver.forget_removed(task, draft)
        elif decision.ends_waiting(task):
            for child in draft.kin.decided_by(task_id):  # whole chains end in one transaction
                self._agenda.tasks[child] = None
                self._agenda.tasks.move_to_end(child, last=False)
        elif current is not None and self._must_keep_log(task, current, decision):
            current.keeping = True
            draft.plan.effects.append(KeepLog(current.id, task.spec_id, task.spec_create))
        return True

    def _must_keep_log(self, task: Task, attempt: Attempt, decision: Decision) -> bool:
        """Whether to keep the output of the attempt that the decision ends: only if the engine has it."""
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


def _only_expires(task: Task, now: float) -> bool:
    """Whether it has ended, and there is nothing to decide before its retention has passed.

    Each task is looked at so when its end was committed.
    """
    if task.state not in FINISHED or task.requests or task.spec is None or task.member_of or task.array:
        return False
    due = task.first_due()
    return due is not None and due > now
