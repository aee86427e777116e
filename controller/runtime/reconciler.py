"""The leader's loop, without threads: messages in, one guarded transaction at a time, then its effects.

While a transaction is in flight, the next one is planned from all that is ready by then (group commit). It
is sent as soon as the first one is committed: the model comes to show that one while the second is in flight,
as its effects and log lines are handled then, too. So none of this costs time of its own. A commit is
synchronous, and ends by the leadership's deadline: after it nothing may start.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import msgspec
import structlog

from controller import bulkhead, lines
from controller.core.model import codec, quarantine
from controller.core.model.model import Model
from controller.core.model.op import op_of
from controller.core.model.task import Status, Step
from controller.core.planning.draft import Limits
from controller.core.planning.events import (
    EffectFailed,
    EngineEvent,
    EngineSilent,
    Listed,
    LogKept,
    NodesUnseen,
)
from controller.core.planning.plan import Effect, Plan, Start
from controller.core.planning.planner import Planner
from controller.election.term import Leadership, LeadershipLost
from controller.runtime import failpoints
from controller.runtime.instruments import Taken
from controller.runtime.surroundings import Surroundings
from controller.store.base import (
    Guard,
    Put,
    Refused,
    RequestTooLarge,
    StoreError,
    StoreFull,
    Transaction,
)
from controller.store.records import to_change, to_transaction

STORE_FULL_PAUSE_SECONDS = 2.0
_NO_ANSWERS = EffectFailed, LogKept, NodesUnseen
FEWEST_OPERATIONS = 16  # enough for any one task; an etcd that refuses even this is set up wrongly
FEWEST_BYTES = 4096

log = structlog.get_logger(__name__)


class Reconciler:
    """The decisions of one tenure. See the module's docstring.

    `perform` begins an effect. `relist` requests a full list of the engine now. `receive` passes to `handle`
    what the engine has said by now, and takes in what the store has shown up to that revision; it returns
    whether other messages wait.
    """

    def __init__(
        self,
        model: Model,
        planner: Planner,
        leadership: Leadership,
        surroundings: Surroundings,
        *,
        perform: Callable[[Effect], None],
        relist: Callable[[], None] = lambda: None,
        receive: Callable[[int], bool] = lambda _: False,
    ) -> None:
        self._model = model
        self._planner = planner
        self._leadership = leadership
        self._store = surroundings.store
        self._keys = surroundings.keys
        self._clock = surroundings.clock
        self._changing = surroundings.changing
        self._instruments = surroundings.instruments
        self._perform = perform
        self._relist = relist
        self._receive = receive
        self._committed: _Committed | None = None  # its consequences are still to follow
        self._unshown: _Committed | None = None  # the model does not show it yet: `following` goes first
        self.following: Plan | None = None  # begun while the one before was in flight: `step` sends it
        self._store_is_full = False  # then only removals are planned, until there are none
        self._not_before = 0.0  # boottime; the store is full, and an immediate retry would only load it
        self._in_hand: Plan | None = None  # while it is being persisted
        self.engine_heard_at: float | None = None  # boottime of its last answer, whatever it answered
        self.engine_error = ""  # why the last list failed

    def handle(self, message: EngineEvent) -> None:
        """Take in what the engine said. The caller holds the model."""
        if message.epoch != self._leadership.epoch:
            return  # of an earlier tenure
        failpoints.hit("before-observe")
        if isinstance(message, EngineSilent):
            self.engine_error = message.message
        elif not isinstance(message, _NO_ANSWERS):
            self.engine_heard_at = self._clock.boottime()
        if isinstance(message, Listed):
            self.engine_error = ""
        try:
            self._planner.intake.hear(message, self._clock.now())
        except Exception as error:  # noqa: BLE001  # counted; other messages of the engine are heard
            bulkhead.caught("engine-message", error, message=type(message).__name__)
        if self._model.caught:
            self.count_caught()

    def step(self) -> bool:
        """Plan once, persist, then act. True if there was anything to do.

        Raises LeadershipLost if the term has ended, OutcomeUnknown and StoreUnavailable if the store did not
        answer by the term's deadline, StoreDenied if the store refuses us.
        """
        self._leadership.check()
        if self.following is not None:
            plan, self.following = self.following, None
            self._persist(plan)
            return True
        if self._committed is not None and not self._planner.is_ahead:
            self._follow_up()  # there is no commit beside which it could be done
        if self._clock.boottime() < self._not_before:
            return False
        self._look_at_calendar()
        with self._changing():
            plan = self._planner.plan(self._clock.now(), removals_only=self._store_is_full)
        self.count_caught()
        if self._planner.mending.wants_list:
            self._planner.mending.wants_list = False
            self._relist()
        if plan.persists:
            self._persist(plan)
            return True
        self._follow_up()
        if self._store_is_full:
            self._wait_for_room()
        self._act(plan)
        return bool(plan)

    def count_caught(self) -> None:
        """Count and log the errors that the core has confined."""
        caught, self._model.caught = self._model.caught, []
        for where, subject, error in caught:
            bulkhead.caught(where, error, subject=subject)

    def blame(self, error: Exception) -> str:
        """Set aside the task that must have caused the unexpected error which ends the term. Returns its id.

        This spares the next leader. The task is known only if each plan changes one task, as it is after a
        term that ended in this way; otherwise the id is "".
        """
        plan = self._in_hand
        task_id = plan.subject if plan is not None else ""
        if plan is None or not self._planner.is_cautious or not task_id:
            return ""
        task = self._model.tasks.get(task_id)
        if task is None:
            return ""
        key, names = self._keys.quarantined(task_id), (quarantine.KIND, (task_id,))
        aside = self._model.aside_of(task, "commit", error, self._clock.now(), self._leadership.epoch)
        op = op_of(plan.op, "blame")
        guards = (
            Guard(self._keys.leader, self._leadership.revision, on_create=True),
            Guard(key, self._model.mod_of(*names)),
        )
        blaming = Transaction(guards, (Put(key, quarantine.encode(aside, op)),), op)
        try:
            self._store.commit(blaming, deadline=self._leadership.deadline)
        except StoreError as failure:
            log.warning("a task that ended the term could not be set aside", task=task_id, error=str(failure))
        return task_id

    def close(self) -> None:
        """The term has ended: log what was persisted in it, but not yet logged. No Start begins any more."""
        self._show()
        self._follow_up()

    def next_wake_seconds(self) -> float | None:
        """Seconds until time alone gives something to do; None for never."""
        self._look_at_calendar()
        wake = self._planner.next_wake()
        seconds = None if wake is None else max(0.0, wake - self._clock.now())
        pause = self._not_before - self._clock.boottime()
        return seconds if pause <= 0 else max(pause, seconds or 0.0)

    def _look_at_calendar(self) -> None:
        """The ticks of schedules are at times of the wall clock, which may have been set in this term.

        The loop looks each half second at the latest (see `replica.IDLE_SECONDS`).
        """
        self._planner.mending.ticks.ahead = self._clock.wall() - self._clock.now()

    def _persist(self, plan: Plan) -> None:
        self._in_hand = plan
        self._commit(plan)
        self._in_hand = None

    def _commit(self, plan: Plan) -> None:
        transaction = to_transaction(plan, self._keys, self._leadership.revision)
        failpoints.hit("before-commit", *(change.task_id for change in plan.changes))

        try:
            with self._store.begin(transaction, deadline=self._leadership.deadline) as pending:
                others_wait = self._work_ahead(plan)
                result = pending.result()
        except StoreFull as error:
            # Certainly not applied. The leader stays in office, so that attempts are observed. It writes what
            # is due when there is room.
            log.error("etcd is out of space: nothing can be recorded", error=str(error))  # noqa: TRY400
            self._show()
            with self._changing():
                self._planner.refused(plan)
            if self._store_is_full:
                self._wait_for_room()  # it refuses deletions as well, as etcd 3.5.1 does above its quota
            else:
                self._store_is_full = True
            return
        except RequestTooLarge as error:
            self._show()
            self._shrink(plan, transaction, error)
            return
        if isinstance(result, Refused):
            self._refused(plan, result)
            return
        failpoints.hit("after-commit")
        tasks = [self._model.tasks.get(change.task_id) for change in plan.changes]
        before = {task.id: task.status for task in tasks if task is not None}
        self._committed = self._unshown = _Committed(plan, result.revision, before)
        if result.shown_by is not None:
            self._unshown = None
            with self._changing():
                self._planner.committed(plan, None)
                self._take_in(result.shown_by)
        elif not others_wait:
            with self._changing():
                self.following = self._planner.go_on(result.revision)
        if self.following is None:
            self._show()

    def _work_ahead(self, plan: Plan) -> bool:
        """While `plan` is on its way: follow up the plan before it, hear the engine, begin the next plan.

        Returns whether other messages wait for the loop.
        """
        shown = self._committed.revision if self._committed is not None else 0
        self._show()
        self._follow_up()
        others_wait = self._receive(shown)
        with self._changing():
            self._planner.plan_ahead(plan, self._clock.now(), removals_only=self._store_is_full)
        return others_wait

    def _show(self) -> None:
        """Let the model show the last commit, if it does not yet."""
        done, self._unshown = self._unshown, None
        if done is not None:
            with self._changing():
                self._planner.committed(done.plan, done.revision)

    def _follow_up(self) -> None:
        """Handle the consequences of a commit, once: its effects, and its lines in the log."""
        done, self._committed = self._committed, None
        if done is None:
            return
        self._act(done.plan)
        if done.plan.unnoticed:
            why = "the outbox is full, or their pool cannot be read"
            log.warning("nobody is told about ended tasks", ends=done.plan.unnoticed, why=why)
            self._instruments.unnoticed(done.plan.unnoticed)
        for schedule, tick in done.plan.ticks:
            facts = {"schedule": schedule, "tick": tick.tick, "outcome": tick.result.value, "why": tick.why}
            log.info("tick", **facts, task=tick.task, count=tick.count, revision=done.revision)
            self._instruments.ticked(tick)
        for outcome in done.plan.outcomes:
            log.warning("repair", revision=done.revision, **msgspec.to_builtins(outcome))
        try:
            with lines.together():
                self._tell_all(done)
        except OSError as error:
            bulkhead.caught("log", error)

    def _tell_all(self, done: _Committed) -> None:
        told, taken = list[dict[str, object]](), list[Taken]()
        for change in done.plan.changes:
            try:
                if change.status is not None:
                    before = done.before.get(change.task_id)
                    steps = _new_steps(before, change.status)
                    told += [_told(change.task_id, step) for step in steps]
                    taken.append(Taken(before, change.status, steps))
                elif change.removes:
                    log.info("task removed", task=change.task_id, revision=done.revision)
            except Exception as error:  # noqa: BLE001  # counted; it is committed, and the others are logged
                bulkhead.caught("log", error, task=change.task_id)
        if told:
            # a line for each transition; as an event for each, they were a tenth of a leader's work
            log.info("transition", revision=done.revision, **{lines.EACH: told})
        self._instruments.transitioned(taken)

    def _act(self, plan: Plan) -> None:
        for effect in plan.effects:
            if isinstance(effect, Start) and self._leadership.why_ended():
                # persist before act, and act only in office: a paused leader finds its deadline passed here
                return
            self._perform(effect)

    def _wait_for_room(self) -> None:
        """Nothing more can be removed: after a pause, everything is tried again."""
        self._store_is_full = False
        self._not_before = self._clock.boottime() + STORE_FULL_PAUSE_SECONDS

    def _refused(self, plan: Plan, result: Refused) -> None:
        """Take in what the store showed, and plan again. A leader key that is not ours ends the term."""
        leader = result.current.get(self._keys.leader)
        if leader is None or leader.create != self._leadership.revision:
            raise LeadershipLost(
                "fenced: the leader key is gone" if leader is None else "fenced: another replica leads"
            )
        with self._changing():
            differing = self._take_in(result)
            self._planner.refused(plan)
        log.info("plan refused, planning again", differing=differing[:5], tasks=len(plan.changes))

    def _take_in(self, refusal: Refused) -> list[str]:
        """Bring the model up to what a refusal has shown. Returns the keys that were news."""
        differing, vanished = list[str](), list[tuple[str, ...]]()
        for key, item in refusal.current.items():
            change = to_change(self._keys, key, item, item.mod if item is not None else refusal.revision)
            if item is not None:
                self._model.check_not_newer(change.kind, change.names, change.mod)
            if item is None and not self._model.mod_of(change.kind, change.names):
                continue
            touched = self._model.apply(change)
            if touched is not None:
                self._planner.note(touched)
                differing.append(key)
                if change.kind == "shares" and item is None:
                    vanished.append(change.names)
        # A refusal does not tell when a key was deleted: it may seem to be with the last write of the ledger.
        # No leader deletes a share that a plan of this one rests on.
        for pool, owner in vanished:
            self._model.lone_shares.doubt(pool, [owner], refusal.revision)
        return differing

    def _shrink(self, plan: Plan, transaction: Transaction, error: RequestTooLarge) -> None:
        """Plan smaller transactions from now on: this etcd has lower limits than the defaults.

        A plan of other records than tasks changes as few as the bytes allow: one at last.
        """
        operations, size = transaction.operations() // 2, max(FEWEST_BYTES, transaction.size() // 2)
        is_least = operations < FEWEST_OPERATIONS and size >= self._planner.limits.bytes
        if not plan.changes and (len(plan.records) < 2 or is_least):
            raise error
        if operations < FEWEST_OPERATIONS and plan.subject:
            with self._changing():
                self._planner.set_aside(plan.subject, "commit", error, self._clock.now())
                self._planner.refused(plan)
            return
        log.warning(
            "transaction too large for this etcd: planning smaller ones",
            operations=operations,
            error=str(error),
        )
        with self._changing():
            if operations < FEWEST_OPERATIONS and plan.changes:
                self._planner.take_care()
            self._planner.limits = Limits(max(FEWEST_OPERATIONS, operations), size)
            self._planner.refused(plan)


class _Committed(NamedTuple):
    """A plan that was persisted, at which revision, and the statuses before it."""

    plan: Plan
    revision: int
    before: dict[str, Status | None]


def _new_steps(before: Status | None, after: Status) -> list[Step]:
    """The steps of `after` that `before` lacks. Older ones may be damaged by hand, and are not read."""
    new = after.steps - (before.steps if before is not None else 0)
    return codec.decode_new_steps(after.history[-new:]) if new > 0 else []


def _told(task_id: str, step: Step) -> dict[str, object]:
    """The fields of a transition's line in the log that are its own."""
    return {
        "task": task_id,
        "attempt": step.attempt,
        "source": step.source,
        "event_kind": step.event,
        "state": step.state,
        "reason": step.reason,
        "message": step.message,
        "epoch": step.epoch,
    }
