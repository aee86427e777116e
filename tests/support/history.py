"""etcd's own history as the judge: every revision that was ever written is replayed and checked, not only the
last.

`replay(endpoint)` watches a cluster's keys from the first revision and follows, transaction by transaction,
what the records say. It knows the layout and the lifecycle, and nothing of planner or runtime. Checked at
each revision:

- I1  ledger = Σ holds, for every pool and resource
- I2  no transaction takes a ledger above the capacity at that revision
- I3  each status continues the one before it by rows of the lifecycle table
- I4  attempts count up by admissions alone, one after the other, each from a state that holds nothing
- I6  a task disappears only whole, and only after it had finished
- I7  a status or ledger is written only while its writer's term has the leader key; epochs and terms only
  rise
- I8  a request goes once, in a transaction that records what became of it (or finds no task)
- one transaction applies once: no `op` is found at two revisions
"""

from __future__ import annotations

import itertools
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec

from controller.clock import SystemClock
from controller.core.model import codec
from controller.core.model.lifecycle import FINISHED, HOLDING, WAITING, Event, State, is_path
from controller.core.model.op import Op
from controller.core.model.resources import ZERO, Vector
from controller.core.model.task import Status, Step
from controller.errors import CorruptValue
from controller.store.base import Committed, Delete, Guard, Put, Store, Transaction
from controller.store.base import KeyEvent as Change
from controller.store.etcd.gateway import GatewayOptions
from controller.store.etcd.store import EtcdStore
from controller.store.keys import ROOT, Keys, ParsedKey


@dataclass
class History:
    """What the records were at the revision that was applied last, and all that was found wrong on the
    way.
    """

    keys: Keys
    findings: list[str] = field(default_factory=list)
    revisions: int = 0
    admissions: Counter[str] = field(default_factory=Counter)  # task → attempts that were admitted
    finished: Counter[str] = field(default_factory=Counter)  # task → times that it came to an end
    # kind of request → how many took effect or were answered
    consumed: Counter[str] = field(default_factory=Counter)
    submitted: set[str] = field(default_factory=set)
    terms: list[int] = field(default_factory=list)  # epochs, as they were elected
    writers: list[int] = field(default_factory=list)  # epochs that wrote a status, in order of their first
    _statuses: dict[str, Status] = field(default_factory=dict)
    _ledgers: dict[str, Vector] = field(default_factory=dict)
    _held: dict[str, Vector] = field(default_factory=dict)
    _capacities: dict[str, Vector] = field(default_factory=dict)
    _tasks: set[str] = field(default_factory=set)
    _requests: set[tuple[str, ...]] = field(default_factory=set)
    _leader: dict[str, Any] = field(default_factory=dict)
    _leader_term: int = 0  # create revision of the leader key, 0 while nobody has it
    _epoch: int = 0
    _ops: dict[str, int] = field(default_factory=dict)

    def apply(self, revision: int, changes: Iterable[Change]) -> None:
        """One transaction: all changes of one revision."""
        self.revisions += 1
        by_kind: dict[str, list[tuple[ParsedKey, Change]]] = defaultdict(list)
        for change in changes:
            record = self.keys.parse(change.key)
            if record is not None:
                by_kind[record.kind].append((record, change))
        touched: set[str] = set()
        self._check_fence(revision, [*by_kind["states"], *by_kind["ledgers"]])
        for record, change in by_kind["states"]:
            touched.add(self._status(revision, record.names[0], change))
        for record, change in by_kind["pools"]:
            self._capacities.pop(record.names[0], None)
            if change.item is not None:
                self._capacities[record.names[0]] = codec.decode_pool(
                    record.names[0], change.item.value
                ).capacity
        for record, change in by_kind["ledgers"]:
            touched.add(record.names[0])
            self._ledger(revision, record.names[0], change)
        self._specs(revision, by_kind)
        self._requests_gone(revision, by_kind)
        self._election(revision, by_kind)
        for pool in sorted(touched):
            held, ledger = self._held.get(pool, ZERO), self._ledgers.get(pool, ZERO)
            if held != ledger:
                self._wrong(revision, "I1", f"pool {pool}: the ledger has {ledger}, the tasks hold {held}")

    def missing(self, acknowledged: Iterable[str]) -> list[str]:
        """Submissions that were acknowledged and of which etcd has never heard."""
        return sorted(set(acknowledged) - self.submitted)

    def unfinished(self) -> list[str]:
        """Tasks that are there and have not come to an end."""
        return sorted(
            t for t in self._tasks if t not in self._statuses or self._statuses[t].state not in FINISHED
        )

    def held(self) -> dict[str, Vector]:
        """What the ledgers say is held at the end, without the empty ones."""
        return {pool: held for pool, held in self._ledgers.items() if held}

    # -- one kind of key each
    # ----------------------------------------------------------------------------------------

    def _status(self, revision: int, task_id: str, change: Change) -> str:
        before = self._statuses.pop(task_id, None)
        pool = before.pool if before is not None else ""
        self._hold(pool, ZERO - before.hold if before is not None else ZERO)
        if change.item is None:
            if before is not None and before.state not in FINISHED:
                self._wrong(revision, "I6", f"{task_id} was removed while it was {before.state}")
            return pool
        status, _ = codec.decode_status(change.item.value)
        self._statuses[task_id] = status
        self._hold(status.pool, status.hold)
        if before is not None and before.is_holding and status.pool != before.pool:
            self._wrong(revision, "I1", f"{task_id} changed its pool while it held resources")
        self._check_steps(revision, task_id, before, status)
        return status.pool

    def _check_steps(self, revision: int, task_id: str, before: Status | None, status: Status) -> None:
        count = status.steps - (before.steps if before is not None else 0)
        if count == 0 and before is not None and status.reserved != before.reserved:
            # members of a gang take parts of its hold over: their own histories tell of it
            kept = {"reserved": (), "hold": ZERO, "epoch": 0, "op": ""}
            one, other = (msgspec.structs.replace(each, **kept) for each in (before, status))
            if one != other:
                self._wrong(revision, "I3", f"{task_id} changed by more than what its members took over")
            return
        steps = codec.decode_history(status)[-count:] if count > 0 else []
        if len(steps) != count or count == 0:
            self._wrong(revision, "I3", f"{task_id}: {count} steps were taken, {len(steps)} are told")
            return
        state, attempt = (before.state, before.attempt) if before is not None else (State.CREATED, 0)
        path = [(State(step.source), Event(step.event), State(step.state)) for step in steps]
        if path[0][0] is not state or not is_path(path) or path[-1][2] is not status.state:
            self._wrong(
                revision,
                "I3",
                f"{task_id}: from {state} by {[step.event for step in steps]} to {status.state}",
            )
        for step in steps:
            attempt = self._check_attempt(revision, task_id, attempt, step)
        if attempt != status.attempt:
            self._wrong(
                revision,
                "I4",
                f"{task_id}: attempt {status.attempt} is recorded, but the steps led to {attempt}",
            )
        if status.hold and status.state not in HOLDING:
            self._wrong(revision, "I1", f"{task_id} is {status.state} and holds {status.hold}")
        self.finished[task_id] += status.state in FINISHED and state not in FINISHED

    def _check_attempt(self, revision: int, task_id: str, attempt: int, step: Step) -> int:
        if step.event == Event.ADMITTED:
            self.admissions[task_id] += 1
            if State(step.source) not in WAITING or step.attempt <= attempt:
                self._wrong(
                    revision,
                    "I4",
                    f"{task_id}: attempt {step.attempt} was admitted after {attempt}, when {step.source}",
                )
        elif step.attempt != attempt:
            self._wrong(revision, "I4", f"{task_id}: attempt {attempt} became {step.attempt} by {step.event}")
        return step.attempt

    def _ledger(self, revision: int, pool: str, change: Change) -> None:
        before = self._ledgers.get(pool, ZERO)
        after = codec.decode_ledger(change.item.value)[0] if change.item is not None else ZERO
        self._ledgers[pool] = after
        capacity = self._capacities.get(pool, ZERO)
        for name in after:
            if after[name] > before.get(name) and after[name] > capacity.get(name):
                self._wrong(
                    revision,
                    "I2",
                    f"pool {pool}: {name} was taken to {after[name]}, above {capacity.get(name)}",
                )

    def _check_fence(self, revision: int, written: list[tuple[ParsedKey, Change]]) -> None:
        """I7: whoever writes has the leader key at this very revision, as its `op` and its term say."""
        for record, change in written:
            if change.item is None:
                continue
            value = codec.decode_mapping(change.item.value)
            op = str(value.get("op", ""))
            if self._ops.setdefault(op, revision) != revision:
                self._wrong(
                    revision, "once", f"the transaction {op} was applied at revision {self._ops[op]} already"
                )
            term = op.split("/")[1] if op.count("/") == 2 else ""
            if not self._leader_term or term != str(self._leader_term):
                self._wrong(
                    revision,
                    "I7",
                    f"{change.key} was written by {op}, while {self._leader_term} was the term",
                )
            if record.kind == "states":
                epoch = value.get("term", 0)
                if epoch != self._leader.get("epoch"):
                    self._wrong(
                        revision,
                        "I7",
                        f"{change.key} names epoch {epoch}, while {self._leader.get('epoch')} led",
                    )
                if not self.writers or self.writers[-1] != epoch:
                    if epoch in self.writers:
                        self._wrong(
                            revision, "I7", f"epoch {epoch} wrote again after epoch {self.writers[-1]}"
                        )
                    self.writers.append(epoch)

    def _specs(self, revision: int, by_kind: dict[str, list[tuple[ParsedKey, Change]]]) -> None:
        removed = {record.names[0] for record, change in by_kind["states"] if change.item is None}
        for record, change in by_kind["tasks"]:
            task_id = record.names[0]
            if change.item is None:
                self._tasks.discard(task_id)
                if task_id not in removed:
                    self._wrong(revision, "I6", f"the spec of {task_id} went alone")
            elif change.item.version > 1:
                self._wrong(revision, "I6", f"the spec of {task_id} was changed")
            else:
                self._tasks.add(task_id)
                self.submitted.add(task_id)

    def _requests_gone(self, revision: int, by_kind: dict[str, list[tuple[ParsedKey, Change]]]) -> None:
        answered = {record.names[0] for record, _ in by_kind["states"]}
        for record, change in by_kind["requests"]:
            task_id, kind = record.names
            if change.item is not None:
                self._requests.add(record.names)
                continue
            self._requests.discard(record.names)
            self.consumed[kind] += 1
            if task_id in self._tasks and task_id not in answered:
                self._wrong(revision, "I8", f"the request {kind} of {task_id} went without a trace")

    def _election(self, revision: int, by_kind: dict[str, list[tuple[ParsedKey, Change]]]) -> None:
        for _, change in by_kind["epoch"]:
            epoch = codec.decode_mapping(change.item.value).get("epoch", 0) if change.item is not None else 0
            if epoch != self._epoch + 1 or not by_kind["leader"]:
                self._wrong(revision, "I7", f"the epoch went from {self._epoch} to {epoch}")
            self._epoch = epoch
            self.terms.append(epoch)
        for _, change in by_kind["leader"]:
            if change.item is not None and change.item.create == self._leader_term:
                # overwritten by a test: the term is still that of its create revision, until its leader
                # notices
                continue
            self._leader, self._leader_term = {}, 0
            if change.item is None:
                continue
            self._leader_term = change.item.create
            try:
                self._leader = codec.decode_mapping(change.item.value)
            except CorruptValue:
                continue  # put there by a test: nobody leads by it
            if change.item.version == 1 and self._leader.get("epoch") != self._epoch:
                self._wrong(
                    revision, "I7", f"epoch {self._leader.get('epoch')} took office in epoch {self._epoch}"
                )

    def _hold(self, pool: str, amount: Vector) -> None:
        if amount:
            self._held[pool] = self._held.get(pool, ZERO) + amount

    def _wrong(self, revision: int, invariant: str, what: str) -> None:
        self.findings.append(f"revision {revision}: {invariant}: {what}")


def replay(endpoint: str, cluster: str = "default") -> History:
    """The whole history of a cluster, up to now.

    Raises Compacted when its beginning has been compacted away.
    """
    clock = SystemClock()
    store = EtcdStore(GatewayOptions((endpoint,)), clock)
    try:
        return replay_store(store, cluster, clock.boottime() + 60)
    finally:
        store.close()


def replay_store(store: Store, cluster: str, deadline: float) -> History:
    """As `replay`, on a store.

    Writes one key outside the cluster's prefix, to know where the history ends, and removes it.
    """
    history = History(Keys(cluster))
    marker = f"{ROOT}~end-of-history/{uuid.uuid4().hex}"
    ended = store.commit(Transaction((Guard(marker, 0),), (Put(marker, b""),), Op(marker)), deadline=deadline)
    assert isinstance(ended, Committed)
    watch = store.watch(ROOT, after=0, silence_seconds=30.0)
    try:
        for revision, changes in _revisions(watch):
            history.apply(revision, changes)
            if revision >= ended.revision:
                break
    finally:
        watch.close()
    store.commit(
        Transaction((Guard(marker, ended.revision),), (Delete(marker),), Op(marker)), deadline=deadline
    )
    return history


def _revisions(watch: Iterable[Any]) -> Iterator[tuple[int, list[Change]]]:
    for batch in watch:
        for revision, changes in itertools.groupby(batch.events, key=lambda change: change.mod):
            yield revision, list(changes)
