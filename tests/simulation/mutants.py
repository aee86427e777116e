"""Seeded bugs: each takes one guard away from the production code, and the simulator must find it.

A mutant is a change of text in one function, given as what stands there and what stands there instead, so
that the list reads as a list of mistakes that somebody could make. One whose text no longer occurs is an
error, not a survivor.

    python -m tests.simulation.mutants          the table: mutant, whether it was found, after how many seeds,
    by what
"""

from __future__ import annotations
import __future__

import builtins
import dis
import inspect
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import CodeType
from typing import Any, NamedTuple

from tests.simulation.array_mutants import ARRAY_MUTANTS
from tests.simulation.attestation_mutants import ATTESTATION_MUTANTS
from tests.simulation.change_mutants import CHANGE_MUTANTS
from tests.simulation.dependency_mutants import DEPENDENCY_MUTANTS
from tests.simulation.gang_mutants import GANG_MUTANTS
from tests.simulation.mutants_base import Edit, Mutant
from tests.simulation.node_mutants import NODE_MUTANTS
from tests.simulation.notice_mutants import NOTICE_MUTANTS
from tests.simulation.reason_mutants import REASON_MUTANTS
from tests.simulation.report import failure
from tests.simulation.schedule_mutants import SCHEDULE_MUTANTS
from tests.simulation.sharing_mutants import SHARING_MUTANTS
from tests.simulation.simulation import Scenario
from tests.simulation.window_mutants import WINDOW_MUTANTS

_TRANSACTION = "store.records:to_transaction"
_RECONCILER = "runtime.reconciler:Reconciler"
_PLANNER = "core.planning.planner:Planner"
_ADMISSION = "core.planning.admission:Admission"
_INTAKE = "core.planning.intake:Intake"
_SENTINEL = "election.sentinel:Sentinel"
_CREATION = "client.submission:Submission._creation"
_CAMPAIGN = "election.elector:Elector._campaign"
_LOG_KEEPER = "runtime.log_keeper:LogKeeper._write"

_DEADLINE = "deadline=self._leadership.deadline"
_SOON, _AT_ONCE = (
    Edit(
        f"{_RECONCILER}._commit",
        _DEADLINE,
        f"deadline=min(self._leadership.deadline, self._clock.boottime() + {seconds})",
    )
    for seconds in (0.05, 0.005)
)

_TAKEN_FOR_STOPPED = Edit(
    f"{_INTAKE}._listed",
    "self._attempts.ensure(attempt_id).missing = True",
    "self._observe(Observation(attempt=attempt_id, phase=Phase.FAILED, stopped=True, gone=True,"
    " reason='Gone'), began)",
)

_CHECK_ENGINE = "self._standing.check_engine(self._engine, self._leadership)"
_LIST_UNCHECKED = Edit("runtime.observer:Observer._believable_list", _CHECK_ENGINE, "pass")
_ANSWER_UNCHECKED = Edit("runtime.actuator:Actuator._find", _CHECK_ENGINE, "pass")

MUTANTS = [
    # -- the fence: what a transaction compares
    Mutant(
        "no compare of the term", (Edit(_TRANSACTION, "[Guard(keys.leader, term, on_create=True)]", "[]"),)
    ),
    Mutant(
        "no compare of the status",
        (Edit(_TRANSACTION, "guards.append(Guard(keys.state(change.task_id), change.seen_mod))", "pass"),),
        faults=frozenset({"damage"}),
        density=20.0,
    ),
    Mutant(
        "no compare of the ledger",
        (Edit(_TRANSACTION, "guards.append(Guard(keys.ledger(ledger.pool), ledger.seen_mod))", "pass"),),
    ),
    Mutant(
        "no compare of the pool",
        (Edit(_TRANSACTION, "guards += [Guard(keys.pool(pool), mod) for pool, mod in plan.pools]", "pass"),),
    ),
    Mutant(
        "no compare of the spec",
        (Edit(_TRANSACTION, "guards.append(Guard(keys.task(change.task_id), change.spec_mod))", "pass"),),
    ),
    Mutant(
        "no compare of the request",
        (Edit(_TRANSACTION, "guards.append(Guard(keys.request(change.task_id, kind), mod))", "pass"),),
    ),
    # -- the fence: what a transaction relies on not being there
    Mutant(
        "a removal does not compare that nobody asks for anything",
        (
            Edit(
                _TRANSACTION,
                "guards += [Guard(keys.request(change.task_id, kind), mod) for kind, mod in change.left]",
                "pass",
            ),
        ),
    ),
    Mutant(
        "admission believes the ledger alone",
        (Edit(f"{_ADMISSION}._admit", " - unledgered(self._model, pool.name)", ""),),
    ),
    Mutant(
        "a first status does not compare the spec",
        (Edit("core.planning.draft:Draft.add", "or task.status_mod == 0", ""),),
    ),
    Mutant(
        "what is decided without a spec does not compare that there is none",
        (Edit("core.planning.draft:Draft.add", "or task.spec_mod == 0", ""),),
    ),
    Mutant(
        "a refusal as unsatisfiable does not compare the pool",
        (Edit("core.planning.decide:_waiting", ", compares_pool=True", ""),),
    ),
    Mutant(
        "a first status does not compare that there is none",
        (
            Edit(
                _TRANSACTION,
                "guards.append(Guard(keys.state(change.task_id), change.seen_mod))",
                "guards += [Guard(keys.state(change.task_id), change.seen_mod)] if change.seen_mod else []",
            ),
        ),
        faults=frozenset({"damage"}),
        density=20.0,
    ),
    Mutant(
        "a submission does not compare that there is no such task",
        (Edit(_CREATION, "*(Guard(self._keys.task(task_id), 0) for task_id in batch),", ""),),
    ),
    Mutant(
        "a submission does not compare that no status is left",
        (Edit(_CREATION, "*(Guard(self._keys.state(task_id), 0) for task_id in batch),", ""),),
    ),
    Mutant(
        "a submission does not compare the pool that it was checked against",
        (Edit(_CREATION, "*(Guard(key, mod) for key, mod in compared.items()),", ""),),
    ),
    Mutant(
        "an election does not compare that nobody leads",
        (Edit(_CAMPAIGN, "Guard(self._keys.leader, 0, on_create=True),", ""),),
    ),
    Mutant(
        "an election does not compare the epoch",
        (Edit(_CAMPAIGN, "Guard(self._keys.epoch, seen_epoch.mod if seen_epoch else 0),", ""),),
    ),
    Mutant(
        "an election does not compare the records that it stands on",
        (
            Edit(
                "election.foundation:lay",
                "guards.append(Guard(key, item.mod if item is not None else 0))",
                "pass",
            ),
        ),
    ),
    # -- what is held is what runs
    Mutant(
        "what is held is what the spec asks for",
        (Edit("core.planning.transitions:admitted", "hold=task.demand", "hold=spec.resources"),),
    ),
    Mutant(
        "a pool's new template is not heard of",
        (Edit("core.model.indexes:Indexes.size_again", "self._enqueue(task)", "pass"),),
    ),
    Mutant(
        "what became of the others is the result",
        (Edit("core.planning.decide:end", "seen = _as_main_ended(status, seen)", "pass"),),
    ),
    # -- persist before act
    Mutant(
        "act before persist",
        (Edit(f"{_RECONCILER}._persist", "self._commit(plan)", "self._act(plan)\n    self._commit(plan)"),),
    ),
    Mutant("a refused plan acts all the same", (Edit(f"{_RECONCILER}.step", "return True", "pass"),)),
    Mutant(
        "an unknown outcome is taken for success",
        (
            _SOON,
            Edit(
                f"{_RECONCILER}._commit",
                "result = pending.result()",
                """from controller.store.base import Committed, OutcomeUnknown
            try:
                result = pending.result()
            except OutcomeUnknown:
                result = Committed(self._model.revision + 1)""",
            ),
        ),
    ),
    Mutant(
        "a commit that a read does not show is taken for not applied",
        (
            _AT_ONCE,
            Edit(
                f"{_RECONCILER}._commit",
                "result = pending.result()",
                """from controller.store.base import Committed, OutcomeUnknown
            try:
                result = pending.result()
            except OutcomeUnknown:
                key = transaction.writes[0].key
                found, revision = self._store.get(key, deadline=self._leadership.deadline)
                if found is None or transaction.op.encode() not in found.value:
                    with self._changing():
                        self._planner.refused(plan)
                    return
                result = Committed(found.mod)""",
            ),
        ),
    ),
    # -- evidence
    Mutant(
        "a phase is trusted without evidence",
        (
            Edit(
                "core.planning.decide:_holding",
                "seen.stopped",
                "seen.phase in (Phase.SUCCEEDED, Phase.FAILED)",
            ),
        ),
    ),
    Mutant(
        "a list older than the start proves an end",
        (Edit(f"{_INTAKE}._is_missing", "return attempt.start_done_at < began", "return True"),),
        harmless="what a list lacks is asked for by its name, and that answer is newer than the start",
    ),
    Mutant("what a list lacks is taken for stopped without asking", (_TAKEN_FOR_STOPPED,)),
    Mutant(
        "what a list lacks is gone, while its start is under way",
        (
            Edit(
                f"{_INTAKE}._is_missing",
                "if attempt is not None and attempt.starting:\n        return False",
                "if attempt is None or attempt.starting:\n        return True",
            ),
        ),
    ),
    Mutant(
        "a time-out is taken for a failure",
        (
            Edit(
                "runtime.actuator:Actuator._perform",
                "self._inbox.put(EffectFailed(epoch, effect, str(error), error.retry_after, delay))",
                "self._inbox.put(StartRefused(epoch, effect, 'Timeout', str(error), False))",
            ),
        ),
    ),
    Mutant(
        "a start that a list does not show is taken for not applied",
        (
            Edit(
                "runtime.actuator:Actuator._perform",
                "self._inbox.put(EffectFailed(epoch, effect, str(error), error.retry_after, delay))",
                """shown = [effect.attempt]
            if isinstance(effect, Start):
                try:
                    shown = [seen.attempt for seen in self._engine.attempts()]
                except EngineUnavailable:
                    pass
            failed = EffectFailed(epoch, effect, str(error), error.retry_after)
            refused = StartRefused(epoch, effect, 'NotApplied', str(error), False)
            self._inbox.put(failed if effect.attempt in shown else refused)""",
            ),
        ),
    ),
    Mutant(
        "a cancel ends the hold at once",
        (
            Edit(
                "core.planning.decide:cancelled_by",
                "transitions.stop_requested(status, StopReason.CANCEL, message, moment, request)",
                """transitions.cancelled(
                transitions.stop_requested(status, StopReason.CANCEL, message, moment, request),
                Observation(attempt=AttemptId("a", status.attempt), phase=Phase.FAILED),
                moment,
            )""",
            ),
        ),
    ),
    Mutant(
        "a cancel beats a success",
        (
            Edit(
                "core.planning.decide:end",
                "seen.phase is Phase.SUCCEEDED",
                "seen.phase is Phase.SUCCEEDED and not status.cancelling",
            ),
        ),
    ),
    Mutant(
        "what is lost is replaced at once",
        (Edit("core.planning.decide:_holding", "status.lost_since + limit <= moment.now", "True"),),
    ),
    Mutant(
        "confirm-stopped may speak of any attempt",
        (Edit("core.planning.decide:_confirmed", "request.attempt not in (0, status.attempt)", "False"),),
    ),
    # -- attempts
    Mutant(
        "an attempt's number is used again",
        (Edit(f"{_ADMISSION}._admit_task", "number = ", "number = max(1, task.attempt) or "),),
    ),
    Mutant(
        "the next attempt starts while the one before may live",
        (Edit("core.promise.attempts:Attempts.may_overlap", "return any(", "return False and any("),),
    ),
    Mutant(
        "orphans are left alone",
        (Edit("core.planning.driver:Driver.clear", "self._stop(", "(lambda *_: None)("),),
    ),
    Mutant(
        "the engine is not listed at take-over",
        (
            Edit(f"{_INTAKE}.__init__", "self.engine_listed = False", "self.engine_listed = True"),
            Edit(f"{_INTAKE}.__init__", "self.engine_answers = False", "self.engine_answers = True"),
        ),
    ),
    # -- the ledger
    Mutant(
        "resources are released on the event, not in the commit",
        (
            Edit(
                f"{_INTAKE}._observed",
                "is_tombstone = seen.stopped",
                """if seen.stopped and task is not None and is_current(task, seen.attempt):
        ledger = self._model.ledger(task.pool)
        self._model.ledgers[task.pool] = ledger._replace(held=ledger.held - task.status.hold)
    is_tombstone = seen.stopped""",
            ),
        ),
    ),
    Mutant(
        "the ledger is computed from before the plan",
        (Edit("core.planning.draft:Draft.held", "if pool in self._held:", "if False:"),),
    ),
    Mutant(
        "the next plan does not count what the one in flight changes",
        (Edit("core.planning.draft:Draft.held", "self._after[pool].held if pool in self._after else ", ""),),
    ),
    Mutant(
        "a release is forgotten", (Edit("core.planning.draft:Draft.add", "before != after", "bool(after)"),)
    ),
    # -- requests and retention
    Mutant(
        "a request is not deleted by what it causes",
        (Edit(_TRANSACTION, "writes.append(Delete(keys.request(change.task_id, kind)))", "pass"),),
    ),
    Mutant(
        "waiting requests are forgotten at take-over",
        (Edit(f"{_PLANNER}.__init__", "[*model.holding, *model.attention]", "[*model.holding]"),),
    ),
    Mutant(
        "retention is not waited for",
        (Edit("core.planning.decide:_finished", "+ task.retention_seconds <= moment.now", "<= moment.now"),),
    ),
    # -- leadership
    Mutant(
        "the deadline counts from the answer",
        (
            Edit(
                "election.elector:Elector._lead",
                "leadership.extend(sent + ttl",
                "leadership.extend(self._clock.boottime() + ttl",
            ),
        ),
    ),
    Mutant(
        "a lost lease is taken for a renewed one",
        (
            Edit("election.elector:Elector._lead", "if ttl <= 0:", "if False:"),
            Edit(
                "election.elector:Elector._lead",
                "leadership.extend(sent + ttl",
                "leadership.extend(sent + self._timings.lease_ttl_seconds",
            ),
        ),
        faults=frozenset({"lease-revoked"}),
        density=5.0,
    ),
    Mutant(
        "effects start after the deadline",
        (Edit("runtime.actuator:Actuator._run", "self._leadership.why_ended()", "False"),),
    ),
    Mutant(
        "a leader stays when its lease cannot be renewed",
        (Edit("election.term:Leadership.why_ended", "self._clock.boottime() >= self._deadline", "False"),),
    ),
    # -- who we are, and which engine is ours
    Mutant(
        "a replica with another engine leads",
        (
            Edit(
                "core.model.installation:difference",
                "return _other_engine(known, own) or",
                "return",
            ),
        ),
    ),
    Mutant("a list of another engine is believed", (_LIST_UNCHECKED,)),
    Mutant("what another engine lacks has gone", (_LIST_UNCHECKED, _ANSWER_UNCHECKED)),
    Mutant(
        "another installation's attempts are listed as ours",
        (
            Edit(
                "core.model.installation:Installation.owns",
                "mark == self.id if mark else self.adopts_unmarked",
                "True",
            ),
        ),
    ),
    Mutant(
        "each election makes another installation",
        (
            Edit("election.foundation:_installation", "found = _read(", "told, found = '', _read("),
            Edit("election.foundation:_installation", "if found is None:", "if True:"),
        ),
    ),
    # -- the output that is kept
    Mutant("no output is kept", (Edit(f"{_PLANNER}._must_keep_log", "return ends and", "return False and"),)),
    Mutant(
        "output is kept that nobody wants",
        (Edit("core.model.kept_log:is_wanted", "return spec.keep_logs if", "return True if"),),
    ),
    Mutant(
        "an end is settled before its output is kept",
        (
            Edit(
                "core.planning.driver:Driver.clear",
                "attempt.busy",
                "(attempt.starting or attempt.stopping or attempt.proving)",
            ),
        ),
    ),
    Mutant(
        "a removal does not count the output that is being kept",
        (Edit(f"{_PLANNER}._plan_task", "may_have_log=decision.removes and", "may_have_log=False and"),),
    ),
    Mutant(
        "output is kept without a compare of its task",
        (
            Edit(
                _LOG_KEEPER,
                "Guard(self._keys.task(effect.spec_id), effect.spec_create, on_create=True),",
                "",
            ),
        ),
    ),
    Mutant(
        "output is kept without a compare of the term",
        (Edit(_LOG_KEEPER, "Guard(self._keys.leader, self._leadership.revision, on_create=True),", ""),),
    ),
    # -- errors of Tally's own, which are kept to the task that they are of
    Mutant(
        "an error on one task ends the term",
        (
            Edit(
                f"{_PLANNER}._plan_tasks",
                'self.set_aside(task_id, "planning", error, draft.moment.now)',
                "raise error from None",
            ),
        ),
    ),
    Mutant(
        "a leader does not put back who it is",
        (Edit("core.planning.mending:Mending._plan_identity", "if missing else None", "if False else None"),),
    ),
    Mutant(
        "what is set aside is not recorded",
        (Edit("core.planning.mending:Mending.plan_asides", "if holds is not is_stored:", "if False:"),),
    ),
    Mutant(
        "a record of what is set aside is not heeded",
        (Edit("core.model.compartments:Compartments._apply_aside", "self.asides[task_id] = ", "_ = "),),
    ),
    Mutant(
        "what is set aside is never looked at again",
        (Edit("core.model.quarantine:Aside.holds_for", "self.seen == seen_of(task)", "True"),),
    ),
    Mutant(
        "a second term that ends by one task blames none",
        (Edit(f"{_RECONCILER}.blame", "if plan is None or", "if True or"),),
    ),
    Mutant(
        "a term that ends by an error makes none careful",
        (Edit("runtime.tenure:_ended_unexpectedly", "return ", "return False and "),),
    ),
    # -- the sentinel, which deposes leaders whose process is gone
    Mutant(
        "a deposition does not compare the term",
        (
            Edit(f"{_SENTINEL}._depose", "Guard(self._keys.leader, target.term, on_create=True)", "None"),
            Edit(f"{_SENTINEL}._depose", "(guard,),", "(),"),
        ),
    ),
    Mutant(
        "a connection that ends is a death",
        (Edit(f"{_SENTINEL}._watch", "self._is_refused(target)", "True"),),
    ),
    Mutant(
        "silence is a death",
        (
            Edit(
                f"{_SENTINEL}._is_refused",
                "except OSError:\n        return False",
                "except OSError:\n        return True",
            ),
        ),
    ),
    Mutant(
        "who was never connected deposes",
        (
            Edit(
                f"{_SENTINEL}._watch",
                "target is not None and self._stays_connected(target)",
                "target is not None",
            ),
        ),
    ),
    Mutant(
        "depositions are not bounded",
        (Edit(f"{_SENTINEL}._depose", "len(self._acted_at) == BURST", "False"),),
        faults=frozenset({"endpoints-flap"}),
    ),
    # -- the model
    Mutant(
        "the watch resumes one revision late",
        (Edit("runtime.follower:Follower._take_in", "after=after", "after=after + 1"),),
    ),
    Mutant(
        "late changes are applied",
        (
            Edit(
                "core.model.compartments:Compartments.apply_one",
                "if change.mod <= self._known(change.kind, change.names):",
                "if False:",
            ),
        ),
    ),
    Mutant(
        "a reload forgets nothing",
        (
            Edit(
                "core.model.model:Model.load",
                "if 0 < self.mod_of(kind, names) <= revision and",
                "if False and",
            ),
        ),
    ),
    Mutant(
        "what does not parse is taken for absent",
        (
            Edit(
                "core.model.model:Model._apply_to_task",
                "task.frozen = task.frozen | {change.kind}",
                "task.status, task.status_mod = None, change.mod",
            ),
        ),
    ),
    Mutant(
        "a back-off that ended is forgotten",
        (Edit("core.model.indexes:Indexes.advance", "self._enqueue(task)", "pass"),),
    ),
    # -- faults that Tally had (FOUND.md), those that are found by chance within so many seeds
    Mutant(
        "an operator's word overtakes a start",
        (
            Edit(
                "core.planning.decide:_confirmed",
                "attempt is None or attempt.starting or (seen is None and attempt.stop_sent_at is None)",
                "attempt is not None and attempt.starting",
            ),
        ),
        faults=frozenset({"engine-late-start", "crash-leader-on-write"}),
        density=3.0,
    ),
    Mutant(
        "an attempt is given up by an on_lost that its user has taken back",
        (
            Edit(
                "core.planning.decide:_holding",
                "message, moment), compares_spec=True)",
                "message, moment))",
            ),
        ),
        faults=frozenset({"node-lost", "etcd-late"}),
        density=4.0,
    ),
    *SHARING_MUTANTS,
    *CHANGE_MUTANTS,
    *ATTESTATION_MUTANTS,
    *NOTICE_MUTANTS,
    *DEPENDENCY_MUTANTS,
    *SCHEDULE_MUTANTS,
    *ARRAY_MUTANTS,
    *GANG_MUTANTS,
    *WINDOW_MUTANTS,
    *NODE_MUTANTS,
    *REASON_MUTANTS,
]


class Hunt(NamedTuple):
    """How a mutant fared: the seeds that it took (0: it survived), and what caught it."""

    seeds: int
    finding: str


def hunt(mutant: Mutant) -> Hunt:
    """Simulate with the bug until a seed shows it."""
    with applied(mutant):
        for seed in range(mutant.seeds):
            error = failure(
                Scenario(
                    seed,
                    faults=mutant.faults,
                    density=mutant.density,
                    sharing=mutant.sharing,
                    schedules=mutant.schedules,
                    arrays=mutant.arrays,
                    windows=mutant.windows,
                    nodes=mutant.nodes,
                )
            )
            if error is not None:
                return Hunt(seed + 1, str(error))
    return Hunt(0, "")


@contextmanager
def applied(mutant: Mutant) -> Iterator[None]:
    """The production code has this bug."""
    undo: list[tuple[Any, str, Any]] = []
    try:
        for where in dict.fromkeys(edit.where for edit in mutant.edits):
            _mutate(where, [edit for edit in mutant.edits if edit.where == where], undo)
        yield
    finally:
        for owner, name, before in reversed(undo):
            setattr(owner, name, before)


def _globals_of(code: CodeType) -> set[str]:
    """The names that this code, and the functions in it, look up in their module."""
    own = {each.argval for each in dis.get_instructions(code) if each.opname == "LOAD_GLOBAL"}
    return own.union(*(_globals_of(inner) for inner in code.co_consts if isinstance(inner, CodeType)))


def _mutate(where: str, edits: list[Edit], undo: list[tuple[Any, str, Any]]) -> None:
    module_name, _, qualified = where.partition(":")
    module = import_module(f"controller.{module_name}")
    *owners, name = qualified.split(".")
    owner: Any = module
    for part in owners:
        owner = getattr(owner, part)
    before = vars(owner)[name]
    of: Any = before.fget if isinstance(before, property) else before
    source = textwrap.dedent(inspect.getsource(of))
    for edit in edits:
        assert edit.old in source, f"{where} no longer has {edit.old!r}"
        source = source.replace(edit.old, edit.new)
    # Within a function of this parameter, `super()` finds its class.
    source = "def make(__class__):\n" + textwrap.indent(source, " ") + f"\n return {name}"
    made: dict[str, Any] = {}
    code = compile(source, f"<mutant of {where}>", "exec", __future__.annotations.compiler_flag)
    # such a mutant would be found by its NameError, whatever guards the promise
    assert not (unknown := _globals_of(code) - vars(module).keys() - vars(builtins).keys()), (
        f"the mutant of {where} names {', '.join(sorted(unknown))}, which nobody knows there"
    )
    exec(
        code,
        vars(module),
        made,
    )
    mutated = made["make"](owner)
    # A function that other modules have imported by name is replaced there too.
    users = [owner] if owners else [found for found in _modules() if vars(found).get(name) is before]
    for user in users:
        undo.append((user, name, before))
        setattr(user, name, mutated)


def _modules() -> list[Any]:
    return [module for name, module in sorted(sys.modules.items()) if name.startswith("controller.")]


def main() -> int:
    """Print the table; returns the exit code: 1 when a mutant survived, or a harmless one did harm."""
    print("| mutant | seeds | caught by |\n|---|---|---|")
    wrong, harmful = [], [mutant for mutant in MUTANTS if not mutant.harmless]
    for mutant in MUTANTS:
        found = hunt(mutant)
        if bool(found.seeds) == bool(mutant.harmless):
            wrong.append(mutant.name)
        caught_by = found.finding or (
            f"none of {mutant.seeds}: {mutant.harmless}"
            if mutant.harmless
            else f"not found in {mutant.seeds} seeds"
        )
        print(f"| {mutant.name} | {found.seeds or '–'} | {caught_by} |", flush=True)
    missed = sum(not mutant.harmless for mutant in MUTANTS if mutant.name in wrong)
    print(
        f"\n{len(harmful) - missed} of {len(harmful)} mutants found, each within its number of seeds of"
        f" {Scenario.steps} steps"
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
