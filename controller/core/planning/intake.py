"""What a leader has heard from the engine.

Nothing is decided here. The last observation of an attempt is noted, and its task is put on the agenda.
"""

from __future__ import annotations

from collections.abc import Set

from controller.core.model import kept_log
from controller.core.model.model import Model
from controller.core.model.nodes import NodeRoom
from controller.core.model.records import Change, Task
from controller.core.model.task import AttemptId, Observation, Phase
from controller.core.model.touched import NOTHING
from controller.core.planning import sightings
from controller.core.planning.agenda import Agenda
from controller.core.planning.driver import is_outlived
from controller.core.planning.events import (
    EffectFailed,
    EngineEvent,
    EngineSilent,
    Found,
    Listed,
    LogKept,
    NodesSeen,
    NodesUnseen,
    Observed,
    Started,
    StartRefused,
    StopSent,
)
from controller.core.planning.reasons import as_told
from controller.core.planning.start_faults import FAILURES_TOLD, LONGEST_PAUSE_SECONDS, start_fault_due
from controller.core.promise.attempts import Attempt, Attempts, is_current

PROVE_AGAIN_SECONDS = 10.0
LISTED_AT_ONCE = 10_000
"""So many attempts of a full list are taken in by one pass: it bounds what a pass costs, in about 20 ms."""


class _Listing:
    """A full list that is being taken in, some attempts in each pass."""

    def __init__(self, event: Listed) -> None:
        self.began = event.began
        self.left = event.observations[::-1]  # taken from its end, which frees them one by one
        # what it has of attempts that are known here: tombstones of others, the most by far, are left out
        self.names: set[AttemptId] = set()


class Intake:
    """See the module's docstring. Times are seconds since the epoch by the leader's clock."""

    def __init__(self, model: Model, agenda: Agenda, attempts: Attempts, epoch: int) -> None:
        self._model = model
        self._agenda = agenda
        self._attempts = attempts
        self._epoch = epoch
        # Nothing is started or admitted before the first list of the engine: what runs already must be known
        # first.
        self.engine_listed = False
        self.engine_answers = False
        self.listed_began = 0.0  # when the last list was requested
        # None: they have not been seen in this term
        self.nodes: tuple[NodeRoom, ...] | None = None
        self.nodes_trouble = ""  # why they cannot be seen now
        self.nodes_unseen_since = 0.0
        self._listing: _Listing | None = None
        self._next_list: Listed | None = None  # the newest one that came meanwhile
        # Tombstones of attempts whose tasks are gone, and which no late start can find any more. There is no
        # other record of a tombstone here than its number, however many the engine keeps for the hour.
        self.outlived: dict[AttemptId, str] = {}

    def hear(self, event: EngineEvent, now: float) -> None:
        """Take in an event of the engine."""
        match event:
            case Observed():
                self._observe(event.observation, now)
            case Listed() if self._listing is not None:
                self._next_list = event
            case Listed():
                self._begin_list(event)
                self.go_on(now)
            case EngineSilent():
                self.engine_answers = False
                self._listing = self._next_list = None  # another list follows
            case Started():
                self._started(event.effect.attempt, event.observation, now)
            case StartRefused():
                self._start_refused(event, now)
            case StopSent():
                self._stop_sent(event.effect.attempt, event.observation, now)
            case Found():
                self._found(event.effect.attempt, event.observation, now)
            case LogKept():
                self._log_kept(event.effect.attempt, event.revision)
            case EffectFailed():
                self._effect_failed(event, now)
            case NodesSeen():
                self.nodes, self.nodes_trouble = event.nodes, ""
            case NodesUnseen():
                if not self.nodes_trouble:
                    self.nodes_unseen_since = now
                self.nodes_trouble = event.message or "the engine does not say why"

    @property
    def hears(self) -> bool:
        """Whether the engine answers, and has told in this term what runs."""
        return self.engine_listed and self.engine_answers

    @property
    def is_listing(self) -> bool:
        """Whether a full list waits for `go_on`."""
        return self._listing is not None

    def go_on(self, now: float) -> None:
        """Take in the next part of the full list that has come, if there is one; at its end, conclude."""
        listing = self._listing
        if listing is None:
            return
        for _ in range(min(LISTED_AT_ONCE, len(listing.left))):
            self._relisted(listing.left.pop(), listing, now)
        if not listing.left:
            self._listing = None
            self._listed(listing.names, listing.began)
            if self._next_list is not None:
                event, self._next_list = self._next_list, None
                self._begin_list(event)

    def observations(self) -> list[Observation]:
        """The last observation of each known attempt: all that hold something, and all that may run."""
        return [attempt.observation for attempt in self._attempts if attempt.observation is not None]

    def _observe(self, seen: Observation, now: float, asked_at: float | None = None) -> None:
        """Take in an observation: of the engine's watch, or of an answer that was requested at `asked_at`."""
        try:
            self._observed(as_told(seen), now, asked_at)
        except Exception as error:  # noqa: BLE001  # counted, and shown on the task; the others are heard
            self._agenda.note(
                self._model.set_aside(seen.attempt.task_id, "observation", error, now, self._epoch)
            )

    def _observed(self, seen: Observation, now: float, asked_at: float | None) -> None:
        task = self._model.tasks.get(seen.attempt.task_id)
        self._attempts.note(seen.attempt)
        if task is None and self._is_mere_tombstone(seen):
            return
        is_tombstone = seen.stopped and not seen.awaits_commit
        if is_tombstone and task is not None and not is_current(task, seen.attempt):
            # The tombstone of an attempt whose end is committed. It no longer blocks the next attempt.
            known = self._attempts.get(seen.attempt)
            if known is None:
                return
            if not known.busy and not known.is_another(seen):
                self._attempts.drop(seen.attempt)
                self._agenda.pools[task.pool] = None
                return
        attempt = self._attempts.observe(seen, now, asked_at)
        if attempt is not None:
            self._agenda.look_at(seen.attempt)
            due = start_fault_due(attempt)
            if due is not None:
                self._agenda.wake(due, attempt.id)
            if seen.phase is Phase.PENDING and seen.uid:
                self._agenda.wake(now + sightings.SECONDS, attempt.id)

    def _begin_list(self, event: Listed) -> None:
        self._listing = _Listing(event)
        self._attempts.begin_list()

    def _relisted(self, seen: Observation, listing: _Listing, now: float) -> None:
        """Take in one observation of a full list."""
        if self._is_mere_tombstone(seen):
            self._attempts.note(seen.attempt)
            if is_outlived(seen.finished_at, now):
                self.outlived[seen.attempt] = seen.uid  # the lists before have left it, and so would the next
            return
        listing.names.add(seen.attempt)
        self._observe(seen, now, listing.began)
        known = self._attempts.get(seen.attempt)
        if known is not None and not known.is_another(seen):
            known.missing = False

    def _is_mere_tombstone(self, seen: Observation) -> bool:
        """Whether it tells only that its name is taken: it has ended, nobody knows it, its task is gone.

        If the engine does not say when it ended, that is noted here, and it is not one.
        """
        return (
            seen.stopped
            and not (seen.awaits_commit or seen.gone)
            and seen.finished_at is not None
            and seen.attempt.task_id not in self._model.tasks
            and self._attempts.get(seen.attempt) is None
        )

    def _listed(self, names: Set[AttemptId], began: float) -> None:
        """Conclude from a full list that was requested at `began`, and that has these names.

        An attempt that it lacks, and that was not started since, may still run: the engine is asked about it.
        """
        self.listed_began = began
        is_first, is_back = not self.engine_listed, not self.engine_answers
        self.engine_listed = self.engine_answers = True
        for task in self._model.holding.values():
            attempt_id = AttemptId(task.id, task.attempt)
            if task.status is not None and task.status.reserved:
                self._agenda.tasks[task.id] = None  # a gang, which has members in place of an attempt
                continue
            if attempt_id not in names and self._is_missing(task, attempt_id, began):
                self._attempts.ensure(attempt_id).missing = True
            if is_first or is_back or attempt_id not in names:
                # until the first list nothing was driven, whatever the watch had shown; and while the engine
                # was silent, no time has passed for any attempt
                self._agenda.look_at(attempt_id)
        for attempt in list(self._attempts):
            started_since = attempt.starting or (
                attempt.start_done_at is not None and attempt.start_done_at >= began
            )
            current = is_current(self._model.tasks.get(attempt.id.task_id), attempt.id)
            seen_since = attempt.observation is not None and attempt.seen_at >= began
            if attempt.id in names or current or started_since or seen_since or attempt.busy:
                continue
            if attempt.may_be_alive:
                attempt.missing = True  # an orphan
                self._agenda.look_at(attempt.id)
            else:
                self._attempts.drop(attempt.id)
        self._attempts.end_list()
        if is_back:
            for attempt in self._attempts:
                if attempt.failures:
                    attempt.answered()
                    self._agenda.look_at(attempt.id)  # no pause, now that the engine answers
        self._agenda.pools.update(dict.fromkeys(self._model.queues))

    def _started(self, attempt_id: AttemptId, seen: Observation, now: float) -> None:
        attempt = self._attempts.ensure(attempt_id)
        attempt.starting, attempt.start_done_at = False, now
        attempt.answered()
        self._observe(seen, now, None if seen.stopped else now)
        self._agenda.look_at(attempt_id)

    def _start_refused(self, event: StartRefused, now: float) -> None:
        attempt_id = event.effect.attempt
        self._attempts.ensure(attempt_id).starting = False
        seen = Observation(
            attempt=attempt_id,
            phase=Phase.FAILED,
            stopped=True,
            ran=False,
            reason=event.reason,
            message=event.message,
            disrupted=event.transient,
        )
        self._observe(seen, now)
        self._agenda.look_at(attempt_id)

    def _stop_sent(self, attempt_id: AttemptId, seen: Observation | None, now: float) -> None:
        attempt = self._attempts.ensure(attempt_id)
        attempt.stopping, attempt.stop_sent_at = False, now
        attempt.answered()
        if attempt.stop_asked_at is None:
            attempt.stop_asked_at = now
        if seen is not None:
            self._observe(seen, now)
        self._agenda.look_at(attempt_id)

    def _found(self, attempt_id: AttemptId, seen: Observation, now: float) -> None:
        """Take in the answer to a Prove. If it proves nothing, the engine is asked again after a pause."""
        attempt = self._attempts.ensure(attempt_id)
        attempt.proving = False
        attempt.answered()
        # the attempt was seen after the question: ask again
        is_overtaken = seen.gone and attempt.seen_at > attempt.asked_at
        if not is_overtaken:
            attempt.missing = seen.phase is Phase.UNKNOWN
            self._observe(seen, now, attempt.asked_at)
        if attempt.missing:
            self._wait(attempt, now + (0.0 if is_overtaken else PROVE_AGAIN_SECONDS))
        self._agenda.look_at(attempt_id)

    def _log_kept(self, attempt_id: AttemptId, revision: int) -> None:
        if revision:  # at once, so that a removal of the task knows of the log
            change = Change(kept_log.KIND, (attempt_id.task_id,), b"", revision)
            self._agenda.note(self._model.apply(change) or NOTHING)
        attempt = self._attempts.get(attempt_id)
        if attempt is not None:
            attempt.keeping = False
            self._agenda.look_at(attempt_id)

    def _effect_failed(self, event: EffectFailed, now: float) -> None:
        attempt_id = event.effect.attempt
        attempt = self._attempts.ensure(attempt_id)
        if attempt.stopping and not attempt.stop_failed:
            attempt.failures = 0  # the failures so far were those of starts
        attempt.stop_failed = attempt.stopping
        attempt.starting = attempt.stopping = attempt.proving = False
        pause = event.retry_after
        growth = 1.0 if event.is_delay else 2.0 ** min(attempt.failures, 16)
        attempt.failures, attempt.trouble = attempt.failures + 1, event.message
        self._wait(attempt, now + max(pause, min(pause * growth, LONGEST_PAUSE_SECONDS)))
        if attempt.failures >= FAILURES_TOLD:
            self._agenda.look_at(attempt_id)

    def _wait(self, attempt: Attempt, until: float) -> None:
        """Begin no effect of the attempt before then."""
        attempt.retry_at = until
        self._agenda.wake(until, attempt.id)

    def _is_missing(self, task: Task, attempt_id: AttemptId, began: float) -> bool:
        """Whether an attempt that a complete list lacks existed before."""
        attempt = self._attempts.get(attempt_id)
        if attempt is not None and attempt.starting:
            return False
        if attempt is not None and attempt.start_done_at is not None:
            return attempt.start_done_at < began
        if attempt is not None and attempt.observation is not None:
            return attempt.seen_at < began
        # This leader did not start it. If it was seen running, it is missing. Otherwise it may never have
        # been created, and a start of the same name is harmless: if it was created, its tombstone answers.
        assert task.status is not None
        return task.status.uid != "" or task.status.started_at is not None
