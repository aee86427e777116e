"""Effects: what the leader asks of the engine, so that it matches what is committed (I5).

The effects of a draft may begin once its changes are committed. The driver begins no effect of an attempt
while another one is under way.
"""

from __future__ import annotations

from itertools import islice

from controller.core.model.fencing import fencing_environment
from controller.core.model.model import Model
from controller.core.model.records import Task
from controller.core.model.resources import Vector
from controller.core.model.task import AttemptId, Launch, Status
from controller.core.planning.agenda import Agenda
from controller.core.planning.draft import Draft
from controller.core.planning.plan import Forget, Plan, Prove, Settle, Start, Stop, Term
from controller.core.promise.attempts import Attempt, Attempts, is_current

ORPHAN_GRACE_SECONDS = 10.0
# least time for which the name of an ended attempt is kept, so that a late start finds it taken
TOMBSTONE_SECONDS = 3600.0
STOP_RESEND_SECONDS = 30.0  # after the grace: the engine may have lost the stop that it took
FORGOTTEN_AT_ONCE = 100  # attempts of one task, and tombstones in one plan


class Driver:
    """See the module's docstring. Times are seconds since the epoch by the leader's clock."""

    def __init__(self, model: Model, agenda: Agenda, attempts: Attempts, term: Term) -> None:
        self._model = model
        self._agenda = agenda
        self._attempts = attempts
        self._term = term

    def drive(self, task: Task, status: Status, draft: Draft) -> None:
        """Make the engine match what is committed of a task that holds: start its attempt, or stop it."""
        attempt = self._attempts.ensure(AttemptId(task.id, status.attempt))
        if attempt.busy:
            return
        # the first stop does not wait for the pause after a failed start
        is_first_stop = bool(status.stopping) and not attempt.stop_failed
        if attempt.must_wait(draft.moment.now) and not is_first_stop:
            return
        # The uid that was seen last is the one to use: if someone removed the recorded one, a late start may
        # have created the attempt again.
        uid = (attempt.observation.uid if attempt.observation is not None else "") or status.uid
        if attempt.missing and not (status.stopping and attempt.must_be_told):
            self._prove(attempt, uid, _grace_of(task), draft)
        elif status.stopping:
            self._stop(
                attempt, _grace_of(task), uid if status.uid or attempt.missing else "", status.stopping, draft
            )
        elif (
            attempt.must_start
            and task.spec is not None
            # without its pool nobody knows in which namespace, and as what, it is to run
            and task.pool in self._model.pools
            # Invariant I4, whatever wrote the number of the attempt: another one's end puts the task on the
            # agenda again.
            and not self._attempts.may_overlap(task, but=status.attempt)
        ):
            draft.plan.effects.append(self.start(attempt.id, task, status.hold, repeated=True))
            attempt.starting = True

    def start(self, attempt_id: AttemptId, task: Task, hold: Vector, *, repeated: bool) -> Start:
        """The effect that starts an attempt of a task whose spec and pool are known."""
        assert task.spec is not None
        pool = self._model.pools[task.pool].pool
        environment = fencing_environment(attempt_id, self._term.revision, task.spec.env)
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

    def persisted(self, plan: Plan) -> None:
        """Note what became of the attempts of a plan that was persisted, before the model shows it."""
        for change in plan.changes:
            task = self._model.tasks.get(change.task_id)
            if change.removes and task is not None and task.attempt:
                self._attempts.note(AttemptId(task.id, task.attempt))
            elif change.status is not None and not change.status.is_holding:
                # it no longer holds: let it be cleared away
                self._agenda.attempts[AttemptId(change.task_id, change.status.attempt)] = None
        for effect in plan.effects:
            if isinstance(effect, Start):
                self._attempts.ensure(effect.attempt).starting = True

    def forget_removed(self, task: Task, draft: Draft) -> None:
        """Remove what the engine keeps of a removed task's attempts, once no late start can come."""
        if is_outlived(task.status.finished_at if task.status is not None else None, draft.moment.now):
            # If there are older ones, the next list finds them.
            numbers = range(max(1, task.attempt + 1 - FORGOTTEN_AT_ONCE), task.attempt + 1)
            status = task.status
            proven = status.attempt if status is not None and status.attempt > status.abandoned else 0
            draft.plan.effects += [
                Forget(AttemptId(task.id, n), status.uid if status is not None and n == proven else "")
                for n in numbers
            ]

    def clear(self, attempt_id: AttemptId, draft: Draft) -> None:
        """Clear away orphans (I5): stop what runs without a hold, forget what has ended without a task."""
        attempt, task = self._attempts.get(attempt_id), self._model.tasks.get(attempt_id.task_id)
        if attempt is None or attempt.busy or attempt.observation is None:
            return
        if (task is not None and task.frozen) or is_current(task, attempt_id):
            return
        if attempt.must_wait(draft.moment.now):
            return
        if attempt.missing and attempt.may_be_alive and not attempt.must_be_told:
            self._prove(attempt, attempt.observation.uid, _grace_of(task), draft)
            return
        if not attempt.observation.stopped:
            grace = min(_grace_of(task), ORPHAN_GRACE_SECONDS)
            self._stop(attempt, grace, attempt.observation.uid, "orphan", draft)
            return
        if attempt.observation.awaits_commit:
            self._attempts.drop(attempt_id)
            draft.plan.effects.append(Settle(attempt_id, attempt.observation.uid))
        elif task is None and not attempt.observation.gone:
            self._bury(attempt, draft)
        else:
            self._attempts.drop(attempt_id)
        waiting = task if task is not None else self._model.arrays.task_of(attempt_id.task_id)
        if waiting is not None:
            self._agenda.pools[waiting.pool] = None

    def _bury(self, attempt: Attempt, draft: Draft) -> None:
        """Remove the tombstone of an attempt whose task is gone, once no late start can be under way.

        Nothing is kept here of one whose end has a time: the first list after the hour finds it.
        """
        assert attempt.observation is not None
        ended_at, now = attempt.observation.finished_at, draft.moment.now
        if ended_at is None and not is_outlived(attempt.first_seen_at, now):
            attempt.retry_at = (attempt.first_seen_at or now) + TOMBSTONE_SECONDS
            self._agenda.wake(attempt.retry_at, attempt.id)
            return
        self._attempts.drop(attempt.id)
        if ended_at is None or is_outlived(ended_at, now):
            draft.plan.effects.append(Forget(attempt.id, attempt.observation.uid))

    def bury(self, outlived: dict[AttemptId, str], draft: Draft) -> None:
        """Remove the first of these tombstones, which have these uids, unless their tasks are there again."""
        for attempt_id in list(islice(outlived, FORGOTTEN_AT_ONCE)):
            uid = outlived.pop(attempt_id)
            if attempt_id.task_id not in self._model.tasks and self._attempts.get(attempt_id) is None:
                draft.plan.effects.append(Forget(attempt_id, uid))

    def _stop(self, attempt: Attempt, grace: float, uid: str, why: str, draft: Draft) -> None:
        if attempt.observation is not None and attempt.observation.stopped:
            return
        if attempt.stop_sent_at is not None:
            again_at = attempt.stop_sent_at + grace + STOP_RESEND_SECONDS
            if draft.moment.now < again_at:
                self._agenda.wake(again_at, attempt.id)
                return
        attempt.stopping = True
        draft.plan.effects.append(Stop(attempt.id, grace, uid, why))

    @staticmethod
    def _prove(attempt: Attempt, uid: str, grace_seconds: float, draft: Draft) -> None:
        attempt.proving, attempt.asked_at = True, draft.moment.now
        draft.plan.effects.append(Prove(attempt.id, uid, grace_seconds))


def _grace_of(task: Task | None) -> float:
    return task.spec.grace_seconds if task is not None and task.spec is not None else ORPHAN_GRACE_SECONDS


def is_outlived(ended_at: float | None, now: float) -> bool:
    """Whether no late start of an attempt that ended then can be under way any more."""
    return ended_at is not None and ended_at + TOMBSTONE_SECONDS <= now
