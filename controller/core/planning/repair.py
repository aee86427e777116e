"""Repairs that an operator requested after an audit: one request, one transaction.

Pure. A request names findings, and nothing else in it is believed: each finding is derived again from the
leader's own model. The transaction is guarded by the mod revisions of all that it replaces, as every
transaction of the leader. `tally audit --repair --dry-run` calls the same code on a model of its own.

What is repaired, and what is not:
- A ledger becomes the sum of what the tasks hold. It is lowered only once no attempt without a hold runs in
  the pool: until then, such an orphan uses what the ledger would call free. It may be raised above the
  capacity. That is the truth, shown as an overcommit, and nothing is killed for it.
- A hold becomes what the task's spec asks for while the task is Pending or Running, and nothing otherwise.
- A status with an impossible epoch is rewritten in this epoch. Impossible epochs in its history are
  bounded by those around them. The step that records the repair says what was found.
- Records of terms that never existed are removed. A lost or lowered epoch becomes the epoch of this term.
- A quarantined key is removed only if the request gives its mod revision. A quarantined ledger is rewritten
  instead.
- The empty ledger of a pool that is gone is removed if the request gives its mod revision.
- A deleted status is not reconstructed: what it held and counted is not known. An attempt of the task that
  still runs is an orphan. The leader stops it, and the task starts again with a new attempt number.
- A history that the lifecycle does not allow is left alone, since what happened is not known.
"""

from __future__ import annotations

from collections.abc import Sequence

from controller.core.model import attested, codec
from controller.core.model.model import Model
from controller.core.model.printable import counted
from controller.core.model.records import Task
from controller.core.model.requests import RepairRequest, Wanted
from controller.core.model.resources import ZERO, Vector
from controller.core.model.task import AttemptId
from controller.core.planning import transitions
from controller.core.planning.draft import Limits
from controller.core.planning.plan import Outcome, Plan, RecordChange, Verdict
from controller.core.planning.transitions import Moment
from controller.core.promise.finding import Mender
from controller.core.promise.invariants import balance, check_task, holding_tasks, rightful_hold
from controller.core.promise.terms import current_epoch, is_number, out_of_order, written_by
from controller.errors import CorruptValue

KEPT = 50  # records of past repairs
RESERVED = 5  # operations: the term, the request, its outcome, and older outcomes


def plan_repair(
    model: Model,
    request_id: str,
    request: RepairRequest,
    alive: Sequence[AttemptId],
    moment: Moment,
    limits: Limits,
) -> Plan:
    """Answer the request as a whole; what does not fit into one transaction is put off.

    Nothing in the model changes. `alive` are the attempts that may run, by a list of the engine that was
    taken after the request had come.
    """
    draft = _Draft(model, request, request_id, alive, moment, limits)
    for wanted in request.findings:
        draft.take(wanted)
    draft.settle_ledgers()
    plan = Plan(moment.op, records=draft.records, outcomes=draft.outcomes, compared=draft.compared)
    document = {
        "request": codec.to_builtins(request),
        "at": moment.now,
        "epoch": moment.epoch,
        "outcomes": codec.to_builtins(draft.outcomes),
        "op": moment.op,
    }
    own = (request_id,)
    plan.records.append(RecordChange("repaired", own, model.mod_of("repaired", own), codec.encode(document)))
    plan.records.append(RecordChange("repairs", own, model.mod_of("repairs", own), None))
    oldest = sorted((change.mod, name) for name, change in model.repaired.items() if name != request_id)
    for mod, name in oldest[: max(0, min(len(oldest) - KEPT + 1, RESERVED - 3))]:
        plan.records.append(RecordChange("repaired", (name,), mod, None))
    return plan


class _Draft:
    """The repairs of one request in the making."""

    def __init__(
        self,
        model: Model,
        request: RepairRequest,
        request_id: str,
        alive: Sequence[AttemptId],
        moment: Moment,
        limits: Limits,
    ) -> None:
        self.records: list[RecordChange] = []
        self.outcomes: list[Outcome] = []
        self.compared: list[tuple[str, tuple[str, ...], int]] = []  # not written, but relied on
        self._model = model
        self._moment = moment
        self._limits = limits
        self._by = f"requested by {request.by or 'an unnamed user'}" + (
            f": {request.reason}" if request.reason else ""
        )
        self._note = {"at": moment.now, "by": request.by, "reason": request.reason, "request": request_id}
        self._balance = balance(holding_tasks(model))
        self._keys: set[str] = set()  # named so far: a transaction writes a key once
        self._statuses: dict[str, None] = {}  # tasks whose status is rewritten
        self._moved: dict[str, Vector] = {}  # pool → the change of what its tasks hold
        self._pools: dict[str, list[Wanted]] = {}  # pools whose ledger becomes the sum, with the findings
        self._rebuilt: set[str] = set()  # pools whose shares are rebuilt, whatever their ledger says
        self._alive = alive
        # pool ("" if it is not known) → an attempt that may run and holds nothing
        self._orphans: dict[str, AttemptId] = {}
        self._late: dict[str, int] | None = None
        for attempt in alive:
            task = model.tasks.get(attempt.task_id)
            if not _holds(task, attempt) and attempt.number > model.arrays.given_up(attempt.task_id):
                self._orphans.setdefault(task.pool if task is not None else "", attempt)

    def take(self, wanted: Wanted) -> None:
        """Decide on one finding."""
        kind, _, rest = wanted.subject.partition("/")
        size = sum(len(record.value or b"") for record in self.records)
        operations = len(self.records) + len(self.compared) + len(self._pools) + RESERVED + 4
        if operations > self._limits.operations or size > self._limits.bytes // 2:
            self._answer(wanted, Verdict.LATER, "it does not fit into this transaction")
        elif kind == "pool":
            self._pools.setdefault(rest, []).append(wanted)
        elif kind == "task":
            self._task(wanted, rest)
        elif kind == "key" and rest in self._keys:
            self._answer(wanted, Verdict.GONE, "it is named twice")
        elif kind == "key":
            self._keys.add(rest)
            self._key(wanted, rest)
        elif kind == "attempt":
            self._attempt(wanted, rest)
        else:
            self._answer(wanted, Verdict.LEFT, "findings of this kind are not repaired")

    def settle_ledgers(self) -> None:
        """Write the ledgers of all touched pools, in one transaction with the holds (invariant I1)."""
        for pool, findings in self._pools.items():
            rebuilds = pool in self._rebuilt or any(one.invariant in ("I9", "I10") for one in findings)
            named = any(wanted.mod for wanted in findings)
            verdict, what = self._ledger(pool, named=named, rebuilds=rebuilds)
            for wanted in findings:
                self._answer(wanted, verdict, what)

    # -- one kind of finding each

    def _task(self, wanted: Wanted, task_id: str) -> None:
        task = self._model.tasks.get(task_id)
        if task is not None and task_id in self._statuses:
            self._answer(wanted, Verdict.REPAIRED, "together with another finding about the same status")
            return
        found = self._found(task, wanted.invariant) if task is not None else []
        if task is None or task.status is None or not found:
            self._answer(
                wanted, Verdict.GONE, "its status has no violation of this kind that can be repaired"
            )
            return
        hold, pool = rightful_hold(task, task.status, self._model.pools.get(task.pool))
        changes_hold = task.status.is_holding and (hold, pool) != (task.status.hold, task.status.pool)
        if changes_hold:
            blocked = self._blocked(task.status.pool) or self._blocked(pool)
            if blocked is not None:
                self._answer(wanted, *blocked)
                return
        what = "; ".join(found)
        try:
            status = transitions.repaired(task.status, f"it {what} ({self._by})", hold, pool, self._moment)
        except CorruptValue as error:
            self._answer(wanted, Verdict.LEFT, str(error))
            return
        if changes_hold:
            for name, moved in ((task.status.pool, ZERO - task.status.hold), (pool, hold)):
                self._moved[name] = self._moved.get(name, ZERO) + moved
                self._pools.setdefault(name, [])
        self._statuses[task_id] = None
        self._write("states", (task_id,), codec.encode_status(status, task.extras))
        self.compared.append(("tasks", (task_id,), task.spec_mod))
        self._answer(wanted, Verdict.REPAIRED, f"{what}: the status is rewritten, and now holds {hold}")

    def _found(self, task: Task, invariant: str) -> list[str]:
        """What is wrong with the status by this invariant, and can be repaired."""
        status = task.status
        if status is None or "states" in task.frozen:
            return []
        wrong = check_task(task, self._model.pools.get(task.pool))
        found = [
            finding.what
            for finding in wrong
            if (finding.invariant, finding.mender) == (invariant, Mender.REPAIR)
        ]
        if invariant == "I7" and status.epoch > self._moment.epoch:
            found.append(f"names epoch {status.epoch}, but the last one is {self._moment.epoch}")
        elif invariant == "I7" and task.id in self._written_late():
            found.append(
                f"was written in epoch {status.epoch} after epoch {self._written_late()[task.id]} had begun"
                " to write"
            )
        return found

    def _written_late(self) -> dict[str, int]:
        if self._late is None:
            epoch = self._moment.epoch
            written = sorted(
                one for task in self._model.tasks.values() if (one := written_by(task)) is not None
            )
            self._late = {one.task_id: highest for one, highest in out_of_order(written, epoch)}
        return self._late

    def _key(self, wanted: Wanted, name: str) -> None:
        epoch = self._moment.epoch
        if name == "epoch":
            stored = current_epoch(self._model)
            if stored is not None and stored >= epoch:
                self._answer(wanted, Verdict.GONE, f"the epoch is {stored}")
                return
            self._write("epoch", (), codec.encode({"epoch": epoch, "op": self._moment.op}))
            self._answer(wanted, Verdict.REPAIRED, f"the epoch is {epoch} again, the epoch of this leader")
        elif name.startswith("terms/") and wanted.invariant == "I7":
            term = name.removeprefix("terms/")
            if term not in self._model.terms or not is_number(term) or int(term) <= epoch:
                self._answer(wanted, Verdict.GONE, "there is no such record above the current epoch")
                return
            self._write("terms", (term,), None)
            self._answer(
                wanted,
                Verdict.REPAIRED,
                f"the record is removed: this is epoch {epoch}, and no later epoch has begun",
            )
        else:
            self._quarantined(wanted, name)

    def _quarantined(self, wanted: Wanted, name: str) -> None:
        record = next(
            (
                r
                for r in self._model.quarantine
                if name == (r[1][0] if r[0] == "unknown" else "/".join((r[0], *r[1])))
            ),
            None,
        )
        if record is None and name.startswith("ledgers/") and wanted.mod:
            self._abandoned_ledger(wanted, name.removeprefix("ledgers/"))
        elif record is None and name.startswith(f"{attested.KIND}/") and wanted.mod:
            self._left_attestation(wanted, name.removeprefix(f"{attested.KIND}/"))
        elif record is None:
            self._answer(wanted, Verdict.GONE, "no such key is quarantined")
        elif "\\" in name:
            self._answer(
                wanted,
                Verdict.LEFT,
                "its name contains a backslash or is not valid UTF-8: delete it with etcdctl",
            )
        elif not wanted.mod:
            self._answer(
                wanted, Verdict.LEFT, "a key is deleted only if the request names it with its revision"
            )
        elif self._model.mod_of(*record) != wanted.mod:
            self._answer(
                wanted,
                Verdict.LEFT,
                f"it has changed since, at revision {self._model.mod_of(*record)}: run the audit again",
            )
        elif record[0] == "ledgers":
            self._pools.setdefault(record[1][0], []).append(wanted)
        else:
            if record[0] == "shares" and self._model.is_shared(record[1][0]):
                self._pools.setdefault(record[1][0], [])
                self._rebuilt.add(record[1][0])
            self._write(*record, None)
            self._answer(wanted, Verdict.REPAIRED, "the key is deleted")

    def _abandoned_ledger(self, wanted: Wanted, pool: str) -> None:
        """Delete the empty ledger of a pool that is no longer defined, and that no task draws on."""
        ledger = self._model.ledger(pool)
        is_used = (
            pool in self._model.pools
            or ("pools", (pool,)) in self._model.quarantine
            or self._model.queue(pool)
        )
        if (
            ledger.mod != wanted.mod
            or is_used
            or ledger.held
            or self._balance.held.get(pool)
            or self._balance.unreadable_of(pool)
        ):
            self._answer(wanted, Verdict.LEFT, "the ledger is in use, or has changed since")
            return
        self._write("ledgers", (pool,), None)
        self.compared.append(("pools", (pool,), 0))
        self._answer(wanted, Verdict.REPAIRED, "the empty ledger of a pool that no longer exists is deleted")

    def _left_attestation(self, wanted: Wanted, task_id: str) -> None:
        """Delete the attestation of a task that is gone."""
        task = self._model.tasks.get(task_id)
        is_used = task is not None and (task.spec_mod or task.status_mod)
        if self._model.mod_of(attested.KIND, (task_id,)) != wanted.mod or is_used:
            self._answer(wanted, Verdict.LEFT, "its task exists, or it has changed since")
            return
        self._write(attested.KIND, (task_id,), None)
        self.compared += [(kind, (task_id,), 0) for kind in ("tasks", "states")]
        self._answer(wanted, Verdict.REPAIRED, "the attestation of a task that is gone is deleted")

    def _attempt(self, wanted: Wanted, name: str) -> None:
        try:
            attempt = AttemptId.parse(name)
        except ValueError as error:
            self._answer(wanted, Verdict.LEFT, str(error))
            return
        task = self._model.tasks.get(attempt.task_id)
        if _holds(task, attempt) and attempt not in self._alive:
            self._answer(
                wanted,
                Verdict.LATER,
                "the engine was listed: the leader starts the attempt, or records its end",
            )
        elif not _holds(task, attempt) and attempt in self._alive:
            self._answer(
                wanted, Verdict.LATER, "it holds nothing and may still be running: the leader stops it"
            )
        else:
            self._answer(wanted, Verdict.GONE, "the engine was listed, and agrees with the records")

    def _ledger(self, pool: str, *, named: bool, rebuilds: bool) -> tuple[Verdict, str]:
        frozen = self._model.pool_is_frozen(pool)
        if frozen and not named:
            return Verdict.LEFT, "the ledger does not parse: name its key to have it rewritten"
        held = self._balance.held.get(pool, ZERO) + self._moved.get(pool, ZERO)
        ledger = self._model.ledger(pool)
        rebuilds = rebuilds and self._model.is_shared(pool) and not self._model.is_rebuilding(pool)
        if ledger.held == held and not frozen and not rebuilds:
            return Verdict.GONE, f"the ledger agrees with what the tasks hold, {held}"
        lowers = frozen or any(amount > 0 for amount in (ledger.held - held).values())
        blocked = self._blocked(pool) if lowers or self._balance.unreadable_of(pool) else None
        if blocked is not None:
            return blocked
        note = {**self._note, "was": ledger.held.format()}
        # its op is no longer that of the shares, so they are rebuilt
        repaired = ledger._replace(held=held, extras={**ledger.extras, "repaired": note})
        self._write("ledgers", (pool,), repaired.encode(self._moment.op))
        if ledger.held == held:
            return Verdict.REPAIRED, f"the ledger is {held}, as the tasks hold, and the shares are rebuilt"
        return Verdict.REPAIRED, f"the ledger was {ledger.held}, and is now what the tasks hold: {held}"

    def _blocked(self, pool: str) -> tuple[Verdict, str] | None:
        """Why the sum that is held of the pool is unknown now; None if it is known."""
        if unreadable := self._balance.unreadable_of(pool):
            return (
                Verdict.LEFT,
                (
                    f"{counted(unreadable, 'status', 'statuses')} cannot be read, and may hold resources:"
                    " restore or delete them first"
                ),
            )
        orphan = self._orphans.get(pool) or self._orphans.get("")
        if orphan is not None:
            return (
                Verdict.LATER,
                f"attempt {orphan} holds nothing and may still be running: the leader stops it first",
            )
        return None

    def _write(self, kind: str, names: tuple[str, ...], value: bytes | None) -> None:
        self.records.append(RecordChange(kind, names, self._model.mod_of(kind, names), value))

    def _answer(self, wanted: Wanted, verdict: Verdict, what: str) -> None:
        self.outcomes.append(
            Outcome(invariant=wanted.invariant, subject=wanted.subject, verdict=verdict, what=what)
        )


def _holds(task: Task | None, attempt: AttemptId) -> bool:
    return (
        task is not None
        and task.status is not None
        and task.status.is_holding
        and task.status.attempt == attempt.number
    )
