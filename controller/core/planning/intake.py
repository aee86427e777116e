"""What a leader has heard of the engine: the half of the planner that listens.

Nothing is decided here. What an attempt was last seen to be is noted, and its task is marked as worth a look.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable

from controller.core.model import kept_log
from controller.core.model.model import Model
from controller.core.model.records import Change, Task
from controller.core.model.task import AttemptId, Observation, Phase
from controller.core.planning.start_faults import FAILURES_TOLD, LONGEST_PAUSE_SECONDS, start_fault_due
from controller.core.promise.attempts import Attempt, Attempts

PROVE_AGAIN_SECONDS = 10.0


class Intake:
    """See the module's docstring. Times are seconds since the epoch by the leader's clock."""

    def __init__(self, model: Model, epoch: int) -> None:
        self._model = model
        self._epoch = epoch
        self._attempts = Attempts()
        self._dirty_attempts: dict[AttemptId, None] = {}
        self._wakes: list[tuple[float, AttemptId]] = []
        # Nothing is started or admitted before the engine was listed once: what runs already must be known
        # first.
        self.engine_listed = False
        self.engine_answers = False
        self._listed_began = 0.0

    def observed(self, seen: Observation, now: float, asked_at: float | None = None) -> None:
        """An observation from the engine's watch (`asked_at` None), or part of an answer that was asked
        for then.
        """
        try:
            self._observed(seen, now, asked_at)
        except Exception as error:  # noqa: BLE001  # counted, and shown on the task: the others are heard
            self._set_aside(seen.attempt.task_id, "observation", error, now)

    def _observed(self, seen: Observation, now: float, asked_at: float | None) -> None:
        task = self._model.tasks.get(seen.attempt.task_id)
        self._attempts.note(seen.attempt)
        is_tombstone = seen.stopped and not seen.awaits_commit
        if is_tombstone and task is not None and not self._is_current(task, seen.attempt):
            # The tombstone of an attempt whose end is committed. If it held back the next attempt, it no
            # longer does.
            known = self._attempts.get(seen.attempt)
            if known is None:
                return
            if not known.busy and not known.is_another(seen):
                self._attempts.drop(seen.attempt)
                self._model.dirty_pools[task.pool] = None
                return
        attempt = self._attempts.observe(seen, now, asked_at)
        if attempt is not None:
            self._touch(seen.attempt)
            due = start_fault_due(attempt)
            if due is not None:
                heapq.heappush(self._wakes, (due, attempt.id))

    def listed(self, seen: Iterable[Observation], began: float, now: float) -> None:
        """A full list, asked for at `began`.

        What it lacks, and was not started since, is asked for: it may run.
        """
        self._listed_began = began
        names = set()
        for observation in seen:
            names.add(observation.attempt)
            self.observed(observation, now, began)
            known = self._attempts.get(observation.attempt)
            if known is not None:
                known.missing = False
        is_first, is_back = not self.engine_listed, not self.engine_answers
        self.engine_listed = self.engine_answers = True
        for task in self._model.holding.values():
            attempt_id = AttemptId(task.id, task.attempt)
            if attempt_id not in names and self._is_missing(task, attempt_id, began):
                self._attempts.ensure(attempt_id).missing = True
            if is_first or attempt_id not in names:
                # until the first list nothing was driven, whatever the watch had shown by then
                self._touch(attempt_id)
        for attempt in list(self._attempts):
            started_since = attempt.starting or (
                attempt.start_done_at is not None and attempt.start_done_at >= began
            )
            current = self._is_current(self._model.tasks.get(attempt.id.task_id), attempt.id)
            seen_since = attempt.observation is not None and attempt.seen_at >= began
            if attempt.id in names or current or started_since or seen_since or attempt.busy:
                continue
            if attempt.may_be_alive:
                attempt.missing = True  # an orphan
                self._touch(attempt.id)
            else:
                self._attempts.drop(attempt.id)
        self._attempts.renumber(names)
        if is_back:
            for attempt in self._attempts:
                if attempt.failures:
                    self._answered(attempt)
                    self._touch(attempt.id)  # what waited for the engine need not wait out its pause
        self._model.dirty_pools.update(dict.fromkeys(self._model.queues))

    def unavailable(self) -> None:
        """The engine does not answer: nothing is concluded, and nothing new is admitted until it does."""
        self.engine_answers = False

    def start_done(self, attempt_id: AttemptId, seen: Observation, now: float) -> None:
        """A Start succeeded, or found the attempt there."""
        attempt = self._attempts.ensure(attempt_id)
        attempt.starting, attempt.start_done_at = False, now
        self._answered(attempt)
        self.observed(seen, now, None if seen.stopped else now)
        self._touch(attempt_id)

    def start_refused(
        self, attempt_id: AttemptId, reason: str, message: str, transient: bool, now: float
    ) -> None:
        """The engine refused a Start, and certainly started nothing.

        What is `transient` is tried again, uncounted.
        """
        self._attempts.ensure(attempt_id).starting = False
        seen = Observation(
            attempt=attempt_id,
            phase=Phase.FAILED,
            stopped=True,
            ran=False,
            reason=reason,
            message=message,
            disrupted=transient,
        )
        self.observed(seen, now)
        self._touch(attempt_id)

    def stop_done(self, attempt_id: AttemptId, seen: Observation | None, now: float) -> None:
        """A Stop was taken by the engine; the end is still to be observed, unless the engine told it at
        once.
        """
        attempt = self._attempts.ensure(attempt_id)
        attempt.stopping, attempt.stop_sent_at = False, now
        self._answered(attempt)
        if attempt.stop_asked_at is None:
            attempt.stop_asked_at = now
        if seen is not None:
            self.observed(seen, now)
        self._touch(attempt_id)

    def found(self, attempt_id: AttemptId, seen: Observation, now: float) -> None:
        """The engine's answer to a Prove. What it cannot prove either is asked for again after a pause."""
        attempt = self._attempts.ensure(attempt_id)
        attempt.proving = False
        self._answered(attempt)
        # it was seen meanwhile: asked for again
        is_overtaken = seen.gone and attempt.seen_at > attempt.asked_at
        if not is_overtaken:
            attempt.missing = seen.phase is Phase.UNKNOWN
            self.observed(seen, now, attempt.asked_at)
        if attempt.missing:
            self._wait(attempt, now + (0.0 if is_overtaken else PROVE_AGAIN_SECONDS))
        self._touch(attempt_id)

    def log_done(self, attempt_id: AttemptId, revision: int) -> None:
        """A KeepLog is over: written at `revision`, or given up (0).

        The engine may let go of the attempt now.
        """
        if revision:  # at once, so that a removal of the task knows of it
            self._model.apply(Change(kept_log.KIND, (attempt_id.task_id,), b"", revision))
        attempt = self._attempts.get(attempt_id)
        if attempt is not None:
            attempt.keeping = False
            self._touch(attempt_id)

    def effect_failed(
        self, attempt_id: AttemptId, message: str, retry_after: float, now: float, *, is_delay: bool = False
    ) -> None:
        """The engine did not answer an effect; nothing is known of its outcome, and it is tried again after a
        pause.

        The pause grows from `retry_after` seconds with each failure in a row; not where it `is_delay`: a
        thing that takes time.
        """
        attempt = self._attempts.ensure(attempt_id)
        if attempt.stopping and not attempt.stop_failed:
            attempt.failures = 0  # those so far were of starts
        attempt.stop_failed = attempt.stopping
        attempt.starting = attempt.stopping = attempt.proving = False
        growth = 1.0 if is_delay else 2.0 ** min(attempt.failures, 16)
        attempt.failures, attempt.trouble = attempt.failures + 1, message
        self._wait(attempt, now + max(retry_after, min(retry_after * growth, LONGEST_PAUSE_SECONDS)))
        if attempt.failures >= FAILURES_TOLD:
            self._touch(attempt_id)

    def observations(self) -> list[Observation]:
        """What is known of attempts: all that hold something, and whatever else may run."""
        return [attempt.observation for attempt in self._attempts if attempt.observation is not None]

    def _set_aside(self, task_id: str, where: str, error: Exception, now: float) -> None:
        self._model.set_aside(task_id, where, error, now, self._epoch)

    @staticmethod
    def _answered(attempt: Attempt) -> None:
        attempt.failures, attempt.trouble, attempt.retry_at, attempt.stop_failed = 0, "", None, False

    def _wait(self, attempt: Attempt, until: float) -> None:
        """No effect of it before then."""
        attempt.retry_at = until
        heapq.heappush(self._wakes, (until, attempt.id))

    def _touch(self, attempt_id: AttemptId) -> None:
        """Something happened to an attempt: its task and it are looked at in the next pass."""
        self._model.dirty[attempt_id.task_id] = None
        self._dirty_attempts[attempt_id] = None

    def _is_missing(self, task: Task, attempt_id: AttemptId, began: float) -> bool:
        """Whether an attempt that a complete list lacks did exist before."""
        attempt = self._attempts.get(attempt_id)
        if attempt is not None and attempt.starting:
            return False
        if attempt is not None and attempt.start_done_at is not None:
            return attempt.start_done_at < began
        if attempt is not None and attempt.observation is not None:
            return attempt.seen_at < began
        # Not started by this leader. Seen running before: it is missing. Else it may never have been created,
        # and a start of the same name is harmless: where it was created, its tombstone answers.
        assert task.status is not None
        return task.status.uid != "" or task.status.started_at is not None

    @staticmethod
    def _is_current(task: Task | None, attempt_id: AttemptId) -> bool:
        """Whether the attempt is the one that its task holds resources for."""
        return (
            task is not None
            and task.status is not None
            and task.status.is_holding
            and task.status.attempt == attempt_id.number
        )
