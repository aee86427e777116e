"""The model of the store that every replica holds: records by key, and the indexes that make a pass cheap.

A change is applied only if its mod revision is newer (fault 18): a leader applies its own commits at once,
and its watch brings them again later. A deleted key leaves a tombstone until the watch has passed the
deletion, and a change older than the watch is not applied to an absent key. So no late put can bring back a
task that finished and was removed: it would look Created, and run again.

A value that does not parse is quarantined: its key is kept with the reason, and its task or pool is frozen,
never treated as absent. A value that raises any other error is quarantined, too, so no value can end a
replica.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from controller.core.model import attested, blocks, codec, kept_log, quarantine
from controller.core.model.array_records import check_member, leave
from controller.core.model.compartments import OF_TASKS
from controller.core.model.dependencies import AWAITS
from controller.core.model.installation_records import InstallationRecords
from controller.core.model.maintenance import room
from controller.core.model.packed_history import pack
from controller.core.model.pool_records import OF_POOLS, PoolRecords
from controller.core.model.queue import Queue
from controller.core.model.records import (
    NO_REQUESTS,
    Change,
    RevisionWentBack,
    Task,
)
from controller.core.model.requests import RequestKind
from controller.core.model.task import Status
from controller.core.model.touched import Touched
from controller.errors import CorruptValue


class Model(InstallationRecords, PoolRecords):
    """See the module's docstring. Not thread-safe: one thread applies, and readers hold the owner's lock."""

    def __init__(self) -> None:
        super().__init__()
        indexes = self.indexes
        self.queues, self.counts = indexes.queues, indexes.counts
        self.holding, self.holds = indexes.holding, indexes.holds
        self.attention, self.timers = indexes.attention, indexes.timers
        self.dependencies, self.arrays = indexes.dependencies, indexes.arrays
        self._tombstones: dict[tuple[str, tuple[str, ...]], int] = {}
        # records that the snapshot being loaded has not contained so far
        self._lacked: dict[tuple[str, tuple[str, ...]], None] = {}

    # -- changes

    def load(
        self, changes: Iterable[Change], revision: int, *, is_first: bool = True, is_last: bool = True
    ) -> Touched:
        """Load a snapshot: apply what it has, and delete what it lacks, unless that is newer.

        A snapshot may come in pages, with other changes in between. The last page deletes what was lacking,
        and advances the model to `revision`.

        Raises RevisionWentBack for a record that is older than it was seen by that revision: it is a snapshot
        of another history, and the model is of no use any more.
        """
        if is_first:
            self._lacked = {(kind, names): None for kind, names, _ in self._records()}
        changed: dict[str, Task] = {}
        another: RevisionWentBack | None = None
        self.lone_shares.loads = True
        for change in changes:
            record = (change.kind, change.names)
            self._lacked.pop(record, None)
            known = max(self.mod_of(*record), self._tombstones.get(record, 0))
            if change.mod < known <= revision:
                another = _went_back(change.kind, change.names, change.mod, known)
                break
            # The snapshot is right, whatever we missed.
            if change.mod > known and (task := self._take_in(change)):
                changed[task.id] = task
        if is_last and another is None:
            for kind, names in self._lacked:
                if 0 < self.mod_of(kind, names) <= revision and (
                    task := self._take_in(Change(kind, names, None, revision))
                ):
                    changed[task.id] = task
            self._lacked = {}
        self.lone_shares.loads = False
        for task in changed.values():
            self._index(task)
        if another is not None:
            raise another  # readers have the model until then, with its indexes
        if is_last:
            self.advance_revision(revision)
            self.indexes.shrink()
        return self.indexes.take_touched()

    def apply(self, change: Change) -> Touched | None:
        """Apply one change if it is newer than what is known. None if it is not."""
        return self.indexes.take_touched() if self.apply_one(change) else None

    def _take(self, change: Change) -> Task | None:
        """Take in one change. Returns the task that it belongs to, which must be indexed again."""
        record = (change.kind, change.names)
        mended = self.quarantine.pop(record, None) is not None
        if mended and change.kind in ("ledgers", "shares"):
            self._look_again(change.names[0])  # tasks that waited for an unreadable ledger or share
        if change.value is None:
            self._tombstones[record] = change.mod
        else:
            self._tombstones.pop(record, None)
        if change.kind in OF_TASKS:
            return self._settle_aside(self._apply_to_task(change))
        if change.kind == quarantine.KIND:
            return self._apply_aside(change)
        if change.kind == AWAITS:
            self._note_mod(change)
            parent, child = change.names
            self.dependencies.put_await(parent, child, change.mod if change.value is not None else 0)
        elif change.kind == blocks.KIND:
            return self._apply_block(change)
        elif change.kind in OF_POOLS:
            self._apply_to_pool(change)
        else:
            self._apply_to_installation(change)
        return None

    def advance_revision(self, revision: int) -> None:
        """Everything up to `revision` has been applied, so older tombstones are no longer needed."""
        if revision <= self.revision:
            return
        self.revision = revision
        if self._tombstones:
            self._tombstones = {record: mod for record, mod in self._tombstones.items() if mod > revision}

    def check_not_newer(self, kind: str, names: tuple[str, ...], mod: int) -> None:
        """Raise RevisionWentBack if we have seen a later change of this record than `mod`, its newest."""
        if self.mod_of(kind, names) > mod:
            raise _went_back(kind, names, mod, self.mod_of(kind, names))

    def put_status(self, task_id: str, status: Status | None, mod: int) -> None:
        """A leader's own commit: the status (None: removed) as it was written at revision `mod`.

        What this touches is for `take_touched`.
        """
        if mod <= self._known("states", (task_id,)):
            return  # the watch was faster, and may know more
        task = self.tasks.get(task_id) or self._new_task(task_id)
        if status is None:
            self._tombstones["states", (task_id,)] = mod
        elif status.is_finished:
            msgspec.structs.force_setattr(status, "history", pack(status.history))
        task.status, task.status_mod = status, mod if status is not None else 0
        self.indexes.reindex(task)

    def take_touched(self) -> Touched:
        """What was touched since the last call."""
        return self.indexes.take_touched()

    def mod_of(self, kind: str, names: tuple[str, ...]) -> int:
        """The mod revision that we have of a record; 0 if we have none."""
        if kind in ("tasks", "states"):
            task = self.tasks.get(names[0])
            if task is None:
                return 0
            if kind == "tasks":
                return task.spec_mod
            return task.status_mod
        return self._mods.get((kind, names), 0)

    def _known(self, kind: str, names: tuple[str, ...]) -> int:
        """The revision up to which we know of a record. What was written until then changes nothing.

        A record that we do not have was absent when `revision` was reached. Older puts must not bring it
        back.
        """
        known = self.mod_of(kind, names)
        if self._tombstones:
            known = max(known, self._tombstones.get((kind, names), 0))
        return known or self.revision

    # -- time

    def sight(self, now: float) -> None:
        """Note when new submissions are seen: their wait begins now, whatever the submitter's clock says."""
        if self.revision:  # the terms are loaded last
            self.indexes.sight(self.terms.values(), now)

    def advance(self, now: float) -> Touched:
        """Ring the timers that are due. A task whose back-off has passed joins its queue."""
        return self.indexes.advance(now)

    # -- reading

    def queue(self, pool: str) -> Queue:
        """A pool's queue; empty if no task waits."""
        return self.queues.get(pool) or Queue()

    def eligible(self, pool: str, now: float) -> Queue:
        """The pool's queue, to be read, without the tasks that its maintenance windows keep back now."""
        queue, record = self.queue(pool), self.pools.get(pool)
        windows = record.pool.maintenance if record is not None else ()
        return queue.within(room(windows, now)) if windows else queue

    # -- indexes

    def _apply_to_task(self, change: Change) -> Task:
        task_id = change.names[0]
        task = self.tasks.get(task_id) or self._new_task(task_id)
        if task.frozen:  # the difference of an empty set is another set
            task.frozen = task.frozen - {change.kind}
        try:
            if change.kind == "tasks":
                self._apply_spec(task, change)
            elif change.kind == "states":
                task.status_mod = change.mod if change.value is not None else 0
                task.status, task.extras = (
                    codec.decode_status(change.value) if change.value is not None else (None, codec.NO_EXTRAS)
                )
                check_member(task)
            else:
                self._apply_request(task, change)
        except CorruptValue as error:
            self._quarantine(change, str(error))
            if change.kind != "requests":
                task.frozen = task.frozen | {change.kind}
        return task

    def _apply_spec(self, task: Task, change: Change) -> None:
        leave(task)  # if it is a member, this spec is not the one that it runs
        if change.value is None:
            task.spec, task.spec_mod, task.spec_create, task.spec_error, task.submitted_at = (
                None,
                0,
                0,
                "",
                0.0,
            )
            return
        if task.spec_create != change.create:
            task.seen_at = None
        task.spec_mod = change.mod
        task.spec_create = change.mod if change.create == change.mod else change.create  # one int, not two
        stored = codec.decode_shared_spec(task.id, change.value)
        task.spec, task.spec_error = stored.spec, stored.error
        created_at = task.status.created_at if task.status is not None else None
        task.submitted_at = created_at if created_at == stored.submitted_at else stored.submitted_at
        task.spec_op = codec.op_of_spec(change.value) if stored.spec.array is not None else ""

    def _apply_request(self, task: Task, change: Change) -> None:
        record = ("requests", change.names)
        task.requests = {
            kind: known for kind, known in task.requests.items() if kind != change.names[1]
        } or NO_REQUESTS
        self._mods.pop(record, None)
        if change.value is None:
            return
        self._mods[record] = change.mod
        try:
            kind = RequestKind(change.names[1])
        except ValueError:
            raise CorruptValue(f"{change.names[1]!r} is not a kind of request") from None
        request = codec.decode_request(change.names[1], change.value)
        task.requests = {**task.requests, kind: (request, change.mod)}

    def _apply_block(self, change: Change) -> Task | None:
        self._note_mod(change)
        name, number = change.names
        try:
            at = blocks.number_of(number)
        except CorruptValue as error:
            if change.value is not None:
                self._quarantine(change, str(error))
            return None
        try:
            block = blocks.decode_block(change.value) if change.value is not None else None
        except CorruptValue as error:
            self._quarantine(change, str(error))
            return self.arrays.put_block(name, at, None, is_readable=False)
        return self.arrays.put_block(name, at, block)

    def _apply_to_installation(self, change: Change) -> None:
        self._note_mod(change)
        if change.kind == kept_log.KIND:
            self.arrays.put_log(change.names[0], is_there=change.value is not None)
        if change.kind == attested.KIND:
            self.indexes.touched.tasks[change.names[0]] = None
        try:
            if not self.take(change) and change.value is not None:
                self._quarantine(change, "not a key of Tally's layout")
        except CorruptValue as error:
            self._quarantine(change, str(error))

    def _records(self) -> Iterator[tuple[str, tuple[str, ...], int]]:
        for (kind, names), mod in self._mods.items():
            yield kind, names, mod
        for task in self.tasks.values():
            if task.spec_mod:
                yield "tasks", (task.id,), task.spec_mod
            if task.status_mod:
                yield "states", (task.id,), task.status_mod


def _went_back(kind: str, names: tuple[str, ...], mod: int, seen: int) -> RevisionWentBack:
    return RevisionWentBack(f"{kind}/{'/'.join(names)} is at revision {mod}, but revision {seen} was seen")
