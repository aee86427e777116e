"""What the engine has of tasks that hold nothing for it: the part of the planner that clears up (invariant
I5).
"""

from __future__ import annotations

import heapq

from controller.core.model.task import AttemptId
from controller.core.planning.draft import Draft
from controller.core.planning.intake import Intake
from controller.core.planning.plan import Forget, Prove, Settle, Stop
from controller.core.promise.attempts import Attempt

ORPHAN_GRACE_SECONDS = 10.0
# how long the name of an ended attempt is kept at least, so that a late start of it meets it
TOMBSTONE_SECONDS = 3600.0
STOP_RESEND_SECONDS = 30.0  # after the grace: the stop may have been lost with the engine that took it


class Orphans(Intake):
    """See the module's docstring."""

    def _plan_attempts(self, draft: Draft) -> None:
        """Orphans: what runs without a hold is stopped, what has ended without a task is forgotten
        (invariant I5).
        """
        for attempt_id in list(self._dirty_attempts):
            if draft.has_changed(attempt_id.task_id):
                continue
            del self._dirty_attempts[attempt_id]
            try:
                self._plan_attempt(attempt_id, draft)
            # counted, and shown on its task: the others are served
            except Exception as error:  # noqa: BLE001
                self._set_aside(attempt_id.task_id, "orphan", error, draft.moment.now)

    def _plan_attempt(self, attempt_id: AttemptId, draft: Draft) -> None:
        attempt, task = self._attempts.get(attempt_id), self._model.tasks.get(attempt_id.task_id)
        if (
            attempt is None
            or attempt.busy
            or attempt.observation is None
            or (task is not None and task.frozen)
        ):
            return
        if (task is not None and self._is_current(task, attempt_id)) or self._must_wait(
            attempt, draft.moment.now
        ):
            return
        if attempt.missing and attempt.may_be_alive and not attempt.must_be_told:
            self._prove(attempt, attempt.observation.uid, draft)
            return
        if not attempt.observation.stopped:
            grace = (
                task.spec.grace_seconds
                if task is not None and task.spec is not None
                else ORPHAN_GRACE_SECONDS
            )
            self._stop(attempt, min(grace, ORPHAN_GRACE_SECONDS), attempt.observation.uid, "orphan", draft)
            return
        if attempt.observation.awaits_commit:
            self._attempts.drop(attempt_id)
            draft.plan.effects.append(Settle(attempt_id))
        elif task is None and not attempt.observation.gone:
            self._bury(attempt, draft)
        else:
            self._attempts.drop(attempt_id)
        if task is not None:
            self._model.dirty_pools[task.pool] = None

    def _bury(self, attempt: Attempt, draft: Draft) -> None:
        """What is left of an attempt whose task is gone is removed once no late start of its name can be
        under way.
        """
        assert attempt.observation is not None
        ended_at = attempt.observation.finished_at
        if ended_at is None:
            ended_at = attempt.first_seen_at
        if self._is_old(ended_at, draft):
            self._attempts.drop(attempt.id)
            draft.plan.effects.append(Forget(attempt.id))
        elif not self._must_wait(attempt, draft.moment.now):
            self._wait(attempt, (ended_at or draft.moment.now) + TOMBSTONE_SECONDS)

    @staticmethod
    def _is_old(ended_at: float | None, draft: Draft) -> bool:
        return ended_at is not None and ended_at + TOMBSTONE_SECONDS <= draft.moment.now

    def _stop(self, attempt: Attempt, grace: float, uid: str, why: str, draft: Draft) -> None:
        if attempt.observation is not None and attempt.observation.stopped:
            return
        if attempt.stop_sent_at is not None:
            again_at = attempt.stop_sent_at + grace + STOP_RESEND_SECONDS
            if draft.moment.now < again_at:
                heapq.heappush(self._wakes, (again_at, attempt.id))
                return
        attempt.stopping = True
        draft.plan.effects.append(Stop(attempt.id, grace, uid, why))

    @staticmethod
    def _prove(attempt: Attempt, uid: str, draft: Draft) -> None:
        attempt.proving, attempt.asked_at = True, draft.moment.now
        draft.plan.effects.append(Prove(attempt.id, uid))

    def _must_wait(self, attempt: Attempt, now: float) -> bool:
        return attempt.retry_at is not None and now < attempt.retry_at
