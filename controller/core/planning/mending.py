"""Plans for records that belong to no task's lifecycle: tasks set aside, the identity, requests for repairs,
schedules, blocks of arrays, capacities that follow nodes.

These plans come first, each in a transaction of its own, since they are made from what is committed.
"""

from __future__ import annotations

from collections.abc import Callable

from controller.core.model import codec, notices, quarantine
from controller.core.model.model import Model
from controller.core.planning.accounts import Accounts
from controller.core.planning.capacities import Capacities
from controller.core.planning.draft import Limits
from controller.core.planning.folding import Folding
from controller.core.planning.intake import Intake
from controller.core.planning.keeping import Keeping
from controller.core.planning.plan import Outcome, Plan, RecordChange, Verdict
from controller.core.planning.repair import plan_repair
from controller.core.planning.ticks import Ticks
from controller.core.planning.transitions import Moment
from controller.core.promise.attempts import Attempts

MANY_ASIDES = 256


class Mending:
    """See the module's docstring.

    `wants_list` asks for a full list of the engine now, not at the usual interval, since a request for
    repairs waits for it. The code that requests the list resets it.
    """

    def __init__(self, model: Model, intake: Intake, attempts: Attempts) -> None:
        self._model = model
        self._intake = intake
        self._attempts = attempts
        self._repairing: tuple[str, int, float] | None = None  # request, its mod, and since when it is known
        self.wants_list = False
        self.accounts = Accounts(model)
        self.capacities = Capacities(model, intake)
        self.keeping = Keeping(model)
        self.folding = Folding(model)
        self.ticks = Ticks(model)
        self._was_long = self._gave_way = False  # of the last look at what to plan

    def is_due(self, now: float) -> bool:
        """Whether one of these plans may be due. If so, no plan is begun ahead."""
        model = self._model
        records = model.repairs or model.deliveries or self.keeping.is_due or self.folding.is_due
        records = records or (model.asides and self._are_asides_due) or self.capacities.is_due(now)
        return bool(records or (model.shared and self.accounts.is_due(now)) or self.ticks.is_due(now))

    def plan(self, moment: Moment, limits: Limits, *, removals_only: bool) -> Plan | None:
        """The next of these plans; None if there is none."""
        gives_way, self._was_long, self._gave_way = self._was_long, False, False
        plan = self.plan_asides(moment, limits)
        if plan is None:
            plan = self._in_turn(gives_way, lambda: self._plan_deliveries(moment, limits, removals_only))
        if plan is None and self.keeping.is_due:
            plan = self.keeping.plan(moment, limits)
        if plan is None and not removals_only:
            plan = (
                self._plan_identity(moment)
                or self._plan_repairs(moment, limits)
                or self.accounts.plan(moment, limits)
                or self.capacities.plan(moment, limits)
                or self._in_turn(gives_way, lambda: self.ticks.plan(moment, limits))
                or (self.folding.plan(moment, limits) if self.folding.is_due else None)
            )
        return plan

    @property
    def gave_way(self) -> bool:
        """Whether something was left out of the last look at what to plan, so that tasks have their turn."""
        return self._gave_way or self.accounts.gave_way

    def _in_turn(self, gives_way: bool, plan: Callable[[], Plan | None]) -> Plan | None:
        """What there may be thousands of, one after the other: tasks are served after each."""
        if gives_way:
            self._gave_way = True
            return None
        found = plan()
        self._was_long = found is not None
        return found

    def plan_asides(self, moment: Moment, limits: Limits) -> Plan | None:
        """Store which tasks are set aside, and remove the records of those that are looked at again."""
        records = []
        for task_id, (aside, is_stored) in self._model.asides.items():
            names, holds = (task_id,), self._holds(task_id)
            if holds is not is_stored:
                value = quarantine.encode(aside, moment.op) if holds else None
                records.append(
                    RecordChange(quarantine.KIND, names, self._model.mod_of(quarantine.KIND, names), value)
                )
        return Plan(moment.op, records=records[: limits.operations - 1]) if records else None

    def _holds(self, task_id: str) -> bool:
        """Whether the task is still to be set aside."""
        aside, is_stored = self._model.asides[task_id]
        task = self._model.tasks.get(task_id)
        if is_stored and task is not None and not aside.was_of(self._model.mod_of("pools", (task.pool,))):
            return False  # its pool has changed: it is tried again
        return aside.holds_for(task)

    @property
    def _are_asides_due(self) -> bool:
        """Whether a record of one is to be written or removed. Of very many, that is not looked for."""
        asides = self._model.asides
        return len(asides) > MANY_ASIDES or any(
            self._holds(task_id) is not is_stored for task_id, (_, is_stored) in asides.items()
        )

    def _plan_deliveries(self, moment: Moment, limits: Limits, removals_only: bool) -> Plan | None:
        """Delete the notices that were delivered, and mark those that were given up."""
        if not self._model.deliveries:
            return None
        records: list[RecordChange] = []
        most = (limits.operations - 1) // 3 * 3
        size = 0
        dead, decided = dict(self._model.dead), set()  # as this plan leaves them; what it writes
        for names, delivery in self._model.deliveries.items():
            notice = self._model.notices.get(names)
            kept = notices.kept_after(notice, delivery) if notice is not None else None
            if kept is not None and removals_only:
                continue
            value = notices.encode_notice(kept, moment.op) if kept is not None else None
            changes = [self._change(notices.DELIVERED, names), self._change(notices.OUTBOX, names, value)]
            decided.add(names)
            dead.pop(names, None)
            if kept is not None and kept.dead is not None:
                if len(dead) >= notices.MAX_DEAD:
                    others = dead.keys() - decided
                    if not others:
                        break
                    oldest = min(others, key=dead.__getitem__)
                    changes.append(self._change(notices.OUTBOX, oldest))
                dead[names] = kept.dead.at
            size += len(value or b"")
            if len(records) + len(changes) > most or (records and size > limits.bytes):
                break
            records += changes
            if len(changes) == 3:
                break  # the next oldest is known once this one is deleted
        return Plan(moment.op, records=records) if records else None

    def _change(self, kind: str, names: tuple[str, ...], value: bytes | None = None) -> RecordChange:
        return RecordChange(kind, names, self._model.mod_of(kind, names), value)

    def _plan_identity(self, moment: Moment) -> Plan | None:
        """Restore the keys of the installation and its engine, if they were deleted in this term."""
        missing = {
            kind: value for kind, value in self._model.identity.items() if not self._model.mod_of(kind, ())
        }
        records, outcomes = [], []
        for kind, value in missing.items():
            records.append(
                RecordChange(kind, (), 0, codec.encode({**codec.decode_mapping(value), "op": moment.op}))
            )
            what = "was deleted by hand, and is restored to its last known value"
            outcomes.append(
                Outcome(invariant="identity", subject=f"key/{kind}", verdict=Verdict.REPAIRED, what=what)
            )
        return Plan(moment.op, records=records, outcomes=outcomes) if missing else None

    def _plan_repairs(self, moment: Moment, limits: Limits) -> Plan | None:
        """Plan the oldest request for repairs, once the engine was listed after the request had come."""
        request_id = next(iter(self._model.repairs), None)
        if request_id is None:
            return None
        request, mod = self._model.repairs[request_id]
        if self._repairing is None or self._repairing[:2] != (request_id, mod):
            self._repairing, self.wants_list = (request_id, mod, moment.now), True
        if self._intake.listed_began < self._repairing[2] or not self._intake.engine_answers:
            return None
        alive = [attempt.id for attempt in self._attempts if attempt.may_be_alive]
        try:
            return plan_repair(self._model, request_id, request, alive, moment, limits)
        except Exception as error:  # noqa: BLE001  # counted, and shown on the request
            del self._model.repairs[request_id]
            self._model.quarantine["repairs", (request_id,)] = quarantine.describe("repair", error)
            self._model.caught.append(quarantine.Caught("repair", request_id, error))
            return None
