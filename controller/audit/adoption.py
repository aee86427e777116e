"""Changes the recorded engine of an installation, and takes over the attempts of a lost installation.

The engine: one transaction replaces its record, and ends the current term, so that a leader with the old
engine fails its fence. Attempts that hold resources then run, or may run, in an engine that Tally no longer
looks at. The next leader does not find them in the new engine, takes them for gone, and releases their holds.
The change is therefore refused while tasks hold resources, unless the caller wants the attempts forgotten.

A lost installation: if an etcd is lost for good, a new etcd is another installation, and never touches the
attempts of the old one. `take_over` stops those by the engine's means, with proof, and removes them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

from controller.clock import Clock
from controller.core.model import codec
from controller.core.model.installation import (
    EngineIdentity,
    EngineRecord,
    Installation,
    encode,
    with_features_of,
)
from controller.core.model.model import Model
from controller.core.model.printable import counted
from controller.core.model.records import Task
from controller.core.model.task import AttemptId, Observation
from controller.core.promise.identity_findings import recorded_engine, recorded_installation
from controller.engine.base import Engine
from controller.errors import UserError
from controller.store.base import Committed, Delete, Guard, Put, Store, Transaction, Write, new_op
from controller.store.keys import Keys
from controller.store.records import changes_of

LOAD_SECONDS = 30.0
COMMIT_SECONDS = 5.0
POLL_SECONDS = 0.2
_TRIES = 5  # while a leader commits changes

CONSEQUENCE = (
    "Their holds end as if their attempts were gone, and a retried task runs beside any attempt that still"
    " runs in the old engine"
)


class InstallationReport(NamedTuple):
    """The installation, its recorded engine (None: no replica has led yet), and the tasks with holds."""

    installation: Installation
    record: EngineRecord | None
    holding: tuple[Task, ...]
    model: Model

    @property
    def unreadable(self) -> int:
        """The number of unreadable statuses. Each may have a hold."""
        return sum(kind == "states" for kind, _ in self.model.quarantine)


def standing(store: Store, keys: Keys, clock: Clock) -> InstallationReport:
    """The report of what the store has now.

    Raises StoreError, and UserError if no replica of this version has led yet.
    """
    snapshot = store.load(keys.prefix, deadline=clock.boottime() + LOAD_SECONDS)
    model = Model()
    model.load(changes_of(keys, snapshot.items), snapshot.revision)
    if model.installation is None and (told := recorded_installation(model)) is not None:
        raise UserError(
            "the key of the installation id is missing or damaged (the record of the last term has"
            f" {told.id}):"
            " the current or next leader writes it back. Check that a replica leads (`tally get replicas`),"
            " and try again"
        )
    if model.installation is None:
        raise UserError(
            f"cluster {keys.cluster} has no readable installation id: the first election creates the id, and"
            " records the engine of the replica that wins. Start a replica first"
        )
    return InstallationReport(model.installation, model.engine, tuple(model.holding.values()), model)


def adopt_engine(
    store: Store, keys: Keys, clock: Clock, engine: EngineIdentity, by: str, *, forget_running: bool
) -> InstallationReport:
    """Record `engine` as the installation's, and end the leader's term; returns the report from before.

    The features that are on stay on.

    Raises StoreError, and UserError while tasks have holds, unless `forget_running`.
    """
    for _ in range(_TRIES):
        before = standing(store, keys, clock)
        if (before.holding or before.unreadable) and not forget_running:
            raise UserError(
                f"resources are held by {counted(len(before.holding), 'task')}"
                + (
                    f", and {counted(before.unreadable, 'status', 'statuses')} cannot be read"
                    if before.unreadable
                    else ""
                )
                + ". Wait until they have ended, or cancel them; or give them up with --forget-running."
                f" {CONSEQUENCE}"
            )
        transaction = _adoption(keys, before, engine, by, clock.now(), forget_running=forget_running)
        if isinstance(store.commit(transaction, deadline=clock.boottime() + COMMIT_SECONDS), Committed):
            return before
    raise UserError("the leader kept committing changes: try again, or stop the replicas first")


def _adoption(
    keys: Keys,
    before: InstallationReport,
    engine: EngineIdentity,
    by: str,
    now: float,
    *,
    forget_running: bool,
) -> Transaction:
    op = new_op()
    model, leader = before.model, before.model.leader
    record = EngineRecord(
        engine=with_features_of(engine, recorded_engine(model)),
        installation=before.installation.id,
        recorded_at=now,
        recorded_by=by,
    )
    guards = [
        Guard(keys.engine, model.mod_of("engine", ())),
        Guard(keys.installation, model.mod_of("installation", ())),
        Guard(keys.leader, leader.create if leader is not None else 0, on_create=True),
    ]
    if not forget_running:  # each new hold is in a status
        guards.append(Guard(keys.state(""), model.revision, is_prefix=True))
    writes: list[Write] = [Put(keys.engine, encode(record, op))]
    if leader is not None:
        writes.append(Delete(keys.leader))
    return Transaction(tuple(guards), tuple(writes), op)


def left_by(engine: Engine, lost: str, names: Collection[str]) -> list[Observation]:
    """The attempts of that installation, or those of these names. Raises UserError, EngineError."""
    engine.bind(Installation(id=lost))
    found = engine.attempts()
    known = {str(seen.attempt) for seen in found}
    if unknown := sorted(set(names) - known):
        raise UserError(
            f"installation {lost} has no attempt {unknown[0]!r}; its attempts:"
            f" {', '.join(sorted(known)) or 'none'}"
        )
    return [seen for seen in found if not names or str(seen.attempt) in names]


def take_over(
    engine: Engine,
    observations: Sequence[Observation],
    grace_seconds: float,
    timeout_seconds: float,
    clock: Clock,
    sleep: Callable[[float], object] = time.sleep,
) -> list[AttemptId]:
    """Stop these attempts of the engine's installation, and remove each once its stop is proven.

    Returns the attempts that have not stopped within the time after the grace. Raises EngineError.
    """
    waiting = {seen.attempt: seen for seen in observations}
    for seen in waiting.values():
        if not seen.stopped:
            engine.stop(seen.attempt, grace_seconds=grace_seconds, uid=seen.uid)
    give_up_at = clock.boottime() + grace_seconds + timeout_seconds
    while True:
        now = {seen.attempt: seen for seen in engine.attempts()}
        for attempt in list(waiting):
            if attempt not in now or now[attempt].stopped:
                engine.settle(attempt)
                engine.forget(attempt)
                del waiting[attempt]
        if not waiting or clock.boottime() > give_up_at:
            return sorted(waiting, key=str)
        sleep(POLL_SECONDS)


def to_json(before: InstallationReport) -> dict[str, object]:
    """For `tally engine show -o json`."""
    return {
        "installation": codec.to_builtins(before.installation),
        "record": codec.to_builtins(before.record) if before.record is not None else None,
        "holding": sorted(task.id for task in before.holding),
    }
