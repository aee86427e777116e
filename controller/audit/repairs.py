"""Asks the leader to repair the findings of an audit, and previews what it would write.

A request is a record `repairs/<id>` that names findings. The leader lists its engine and derives each finding
again. One transaction writes the repairs, deletes the request (invariant I8), and writes `repaired/<id>` with
the outcome of each finding. `core.planning.repair` explains what is repaired and what is not.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import msgspec

from controller.audit.audit import Look, Report
from controller.clock import Clock
from controller.core.model import codec
from controller.core.model.op import Op
from controller.core.model.printable import one_line
from controller.core.model.records import decode_or_empty
from controller.core.model.requests import RepairRequest, Wanted
from controller.core.model.task import SCHEMA_VERSION
from controller.core.planning.plan import Outcome
from controller.core.planning.repair import plan_repair
from controller.core.planning.transitions import Moment
from controller.core.promise.engine_invariants import is_live
from controller.core.promise.finding import Mender
from controller.errors import TallyError, UserError
from controller.store.base import (
    Committed,
    Compacted,
    Delete,
    Guard,
    KeyValue,
    Put,
    Store,
    Transaction,
    new_op,
)
from controller.store.keys import Keys
from controller.store.records import DEFAULT_LIMITS, to_transaction

AT_ONCE = 100  # findings of one request: about what one transaction has room for
REQUEST_SECONDS = 5.0  # limit for each request to etcd


class RepairUnanswered(TallyError):
    """No leader took up the request in time. It was withdrawn, and nothing was repaired."""


def wanted(report: Report, deletions: Collection[str] = ()) -> tuple[Wanted, ...]:
    """The findings that the leader can repair, and the quarantined keys to delete.

    `deletions` name these keys, as `states/NAME` or in full. Raises UserError for a name that no quarantined
    key has.
    """
    found: dict[tuple[str, str], Wanted] = {}
    for finding in report.findings:
        name = finding.subject.removeprefix("key/")
        named = finding.mender is Mender.DELETION and (name in deletions or one_line(name) in deletions)
        if named or finding.mender in (Mender.REPAIR, Mender.LEADER):
            mod = finding.since_revision if named else 0
            found[finding.invariant, finding.subject] = Wanted(
                invariant=finding.invariant, subject=finding.subject, mod=mod
            )
    known = {
        finding.subject.removeprefix("key/")
        for finding in report.findings
        if finding.mender is Mender.DELETION
    }
    shown = {one_line(name) for name in known}  # as the audit prints them
    if missing := [name for name in deletions if name not in known | shown]:
        listed = ", ".join(sorted(shown)) or "none"
        raise UserError(f"no quarantined key is named {missing[0]!r}; the quarantined keys: {listed}")
    return tuple(found.values())[:AT_ONCE]


class Preview(NamedTuple):
    """What the leader would write now, and the outcome of each finding."""

    outcomes: Sequence[Outcome]
    transaction: Transaction

    def to_text(self) -> str:
        """Every guard and every write, one a line."""
        lines = [_line(outcome) for outcome in self.outcomes]
        lines.append("The transaction:")
        lines += [f"  if     {_compare(guard)}" for guard in self.transaction.guards]
        lines += [
            f"  put    {write.key} {write.value.decode()}"
            if isinstance(write, Put)
            else f"  delete {write.key}"
            for write in self.transaction.writes
        ]
        return "\n".join(map(one_line, lines))

    def to_builtins(self) -> dict[str, Any]:
        """The same for machines."""
        guards = [guard._asdict() for guard in self.transaction.guards]
        writes = [
            {"put": write.key, "value": write.value.decode()}
            if isinstance(write, Put)
            else {"delete": write.key}
            for write in self.transaction.writes
        ]
        return {"outcomes": codec.to_builtins(self.outcomes), "guards": guards, "writes": writes}


def _compare(guard: Guard) -> str:
    if guard.is_prefix:
        return f"mod_revision({guard.key}*) <= {guard.revision}"
    return f"{'create' if guard.on_create else 'mod'}_revision({guard.key}) == {guard.revision}"


def preview(look: Look, request: RepairRequest, keys: Keys, now: float) -> Preview:
    """What the present leader would do with the request. Raises UserError if no replica leads."""
    leader = look.model.leader
    epoch = decode_or_empty(leader).get("epoch")
    if leader is None or not isinstance(epoch, int):
        raise UserError("no replica leads, and only a leader repairs: see `tally get replicas`")
    alive = [observation.attempt for observation in look.observations or () if is_live(observation)]
    plan = plan_repair(
        look.model, "dry-run", request, alive, Moment(now, epoch, Op("dry-run")), DEFAULT_LIMITS
    )
    return Preview(plan.outcomes, to_transaction(plan, keys, leader.create))


def ask(
    store: Store, keys: Keys, clock: Clock, request: RepairRequest, timeout_seconds: float
) -> list[Outcome]:
    """Ask the leader to repair; returns the outcome of each finding. Raises RepairUnanswered, StoreError."""
    request_id = new_op()
    value = codec.encode({**codec.to_builtins(request), "version": SCHEMA_VERSION, "op": request_id})
    put = Transaction(
        (Guard(keys.repair(request_id), 0),), (Put(keys.repair(request_id), value),), request_id
    )
    result = store.commit(put, deadline=_soon(clock))
    assert isinstance(result, Committed), "the name is unique"
    answer = _await(store, keys.repaired(request_id), result.revision, clock, timeout_seconds)
    if answer is None:
        withdrawal = Transaction(
            (Guard(keys.repair(request_id), result.revision),),
            (Delete(keys.repair(request_id)),),
            new_op(),
        )
        if isinstance(store.commit(withdrawal, deadline=_soon(clock)), Committed):
            raise RepairUnanswered(
                f"no leader took up the request within {timeout_seconds:g} s, so it was withdrawn"
            )
        answer, _ = store.get(keys.repaired(request_id), deadline=_soon(clock))
    if answer is None:
        raise RepairUnanswered("something other than a leader removed the request; its outcome is unknown")
    return msgspec.convert(codec.decode_mapping(answer.value)["outcomes"], list[Outcome])


def outcomes_text(outcomes: Sequence[Outcome]) -> str:
    """One line for each finding."""
    return "\n".join(_line(outcome) for outcome in outcomes)


def _line(outcome: Outcome) -> str:
    return one_line(f"{outcome.verdict.upper():<8} {outcome.invariant} {outcome.subject}: {outcome.what}")


def _await(store: Store, key: str, after: int, clock: Clock, timeout_seconds: float) -> KeyValue | None:
    """The key once it is there; None when the time is over."""
    watch = store.watch(key, after=after)
    timer = threading.Timer(timeout_seconds, watch.close)
    timer.name, timer.daemon = "repair-timeout", True
    timer.start()
    try:
        for batch in watch:
            for event in batch.events:
                if event.key == key and event.item is not None:
                    return event.item
    except Compacted:
        return store.get(key, deadline=_soon(clock))[0]
    finally:
        timer.cancel()
        watch.close()
    return None


def _soon(clock: Clock) -> float:
    return clock.boottime() + REQUEST_SECONDS
