"""Stores submitted tasks: each exactly once, many in one transaction.

A guard requires that neither a spec nor a status of that name exists, so a repeated submission never creates
a second task: its outcome is `unchanged` when the content is the same, else `conflict`. If some tasks of a
batch exist, etcd refuses the whole batch. The refusal shows the existing ones; the others are sent again.

Each task is checked against its pool as it was read last, and a guard requires that the pool has not changed
since. A client that submits often thus needs one request per batch, and no task is stored that was checked
against an outdated pool. The same holds for the features that a spec needs, and for the tasks that it waits
for (see `parents`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import msgspec

from controller.client.newcomers import Newcomers
from controller.client.parents import AT_ONCE, Parents, Read
from controller.client.prepared import Prepared, SubmitResult, compare, has_member, prepare
from controller.clock import Clock
from controller.core.model import attested, codec
from controller.core.model.arrays import MemberName
from controller.core.model.attested import Attestation
from controller.core.model.features import needed_by_spec
from controller.core.model.op import NO_OP, Op
from controller.core.model.records import PoolRecord
from controller.core.model.submitted import ONLY_ATTESTED, of_array
from controller.core.model.task import Spec
from controller.errors import CorruptValue, InvalidField
from controller.store.base import (
    MAX_OPERATIONS,
    MAX_REQUEST_BYTES,
    Committed,
    Guard,
    KeyValue,
    Put,
    Refused,
    Transaction,
    new_op,
)
from controller.store.keys import Keys
from controller.views.queue_room import QueueRoom

_LEFT_BEHIND = (
    "the spec of an earlier task {} was deleted by hand, and its status is still there: submit it again when"
    " the leader has removed the status, or use another name"
)

_IS_MEMBER = (
    "{} is the name of a member of an array that is under way: submit it again when that has ended, or use"
    " another name"
)


class Denied(InvalidField):
    """The submitter may not submit this task."""


class KnownPools:
    """The pools as they were read last, and the features as they were checked last.

    `attesting_mod` is the mod of the record that has attestations on, now; 0 if they are off.
    """

    def __init__(
        self,
        read: Callable[[], Mapping[str, PoolRecord]],
        check_features: Callable[[Mapping[str, str]], int] = lambda _: 0,
        attesting_mod: Callable[[], int] = lambda: 0,
    ) -> None:
        self._read = read
        self._check_features = check_features
        self.attesting_mod = attesting_mod
        self._records: Mapping[str, PoolRecord] = {}
        self._engine_mods: dict[tuple[str, ...], int] = {}

    @property
    def records(self) -> Mapping[str, PoolRecord]:
        """The pools by name; empty before the first `refresh`."""
        return self._records

    def refresh(self) -> None:
        """Read the pools now. Raises StoreUnavailable, StoreDenied."""
        self._records = self._read()
        self._engine_mods = {}

    def forget(self) -> None:
        """Nothing is known any more: it is read before the next task is checked."""
        self._records, self._engine_mods = {}, {}

    def engine_mod(self, needed: Mapping[str, str]) -> int:
        """As `Features.check`, once since the last `refresh` for the same features."""
        names = tuple(needed)
        if names not in self._engine_mods:
            self._engine_mods[names] = self._check_features(needed)
        return self._engine_mods[names]


class Submission:
    """One run of `submit`: takes tasks, yields results in the order in which they become known.

    `commit` waits for an unavailable store, up to its own time limit. `allows` raises Denied for a task that
    the submitter may not submit. `attests`: who has signed in, and is the submitter, if this is a gateway.
    """

    def __init__(
        self,
        keys: Keys,
        pools: KnownPools,
        clock: Clock,
        commit: Callable[[Transaction], Any],
        room: QueueRoom,
        newcomers: Newcomers,
        allows: Callable[[Spec], None] = lambda _: None,
        attests: str = "",
    ) -> None:
        self._attests = attests
        self._keys = keys
        self._pools = pools
        self._refreshed = False  # since this run began
        self._clock = clock
        self._commit = commit
        self._room = room
        self._newcomers = newcomers
        self._allows = allows
        self._parents = Parents(keys, lambda _: {})
        self._seen: dict[str, int] = {}  # key of the task of which one may be a member by its name → its mod

    def run(self, tasks: Iterable[object], parents: Parents) -> Iterator[SubmitResult]:
        """Submit each task. Invalid tasks and conflicts are results; they do not stop the others.

        What a task waits for must be stored, or come before it.
        """
        self._parents = parents
        batch: dict[str, Prepared] = {}
        compared: set[str] = set()  # the keys of pools, of the record of features, and of parents
        size = awaits = 0
        for index, raw in enumerate(tasks):
            prepared = self._check(raw, index)
            if isinstance(prepared, SubmitResult):
                yield parents.refuse(prepared)
                continue
            task_id, after = prepared.spec.id, len(prepared.spec.after)
            member = MemberName.parse(task_id)
            if member is not None and member.array in batch:  # what it is shows once it is stored
                yield from self._create(batch)
                batch, compared, size, awaits = {}, set(), 0, 0
            bytes_needed = 3 * len(self._keys.task(task_id)) + 256 + len(codec.encode(prepared.spec))
            bytes_needed += (512 + len(self._attests)) if prepared.attests else 0
            bytes_needed += 512 * min(after, AT_ONCE)
            checked = {*self._checked(prepared), *(parents.keys(prepared, batch) if after else ())}
            operations = 2 * (len(batch) + 1) + max(len(compared | checked), awaits + min(after, AT_ONCE))
            if batch and (
                task_id in batch
                or operations > MAX_OPERATIONS
                or size + bytes_needed > MAX_REQUEST_BYTES
                or after > AT_ONCE  # the others are compared before, so they must be stored
            ):
                yield from self._create(batch)
                batch, compared, size, awaits = {}, set(), 0, 0
                if after:
                    checked |= parents.keys(prepared, batch)  # they are stored now
            batch[task_id] = prepared
            compared |= checked
            size += bytes_needed
            awaits += min(after, AT_ONCE)
        yield from self._create(batch)

    def dry_run(self, tasks: Iterable[object], parents: Parents, read: Read) -> Iterator[SubmitResult]:
        """The results that `run` would yield now; `read` returns stored values by key. Writes nothing."""
        self._refresh()
        checked = [self._check(raw, index) for index, raw in enumerate(tasks)]
        specs = [task.spec for task in checked if isinstance(task, Prepared)]
        named = {self._keys.task(each.task) for spec in specs for each in spec.after}
        members = {spec.id: each for spec in specs if (each := MemberName.parse(spec.id)) is not None}
        arrays = {self._keys.task(each.array) for each in members.values()}
        there = read({self._keys.task(spec.id) for spec in specs} | named | arrays)
        stored = dict(there)
        for task in checked:
            if isinstance(task, SubmitResult):
                yield parents.refuse(task)
                continue
            key = self._keys.task(task.spec.id)
            member = members.get(task.spec.id)
            if (found := stored.get(key)) is not None:
                yield parents.refuse(compare(task, found))
            elif member is not None and has_member(stored.get(self._keys.task(member.array)), member):
                yield parents.refuse(task.result("conflict", of_array(member)))
            elif task.spec.after and (problem := parents.missing(task, parents.imagined, lambda _: there)):
                yield parents.refuse(task.invalid(problem))
            else:
                stored[key] = KeyValue(key, task.encode(self._clock.now(), NO_OP), 0, 0)  # for those after it
                parents.imagine(task)
                yield self._created(task)

    def _refresh(self) -> None:
        self._pools.refresh()
        self._refreshed = True

    def _check(self, raw: object, index: int) -> Prepared | SubmitResult:
        """Prepare the task, or return why it is refused.

        A task is refused only by pools that were read during this run.
        """
        try:
            prepared = prepare(raw, self._pools.records, index)
            self._allows(prepared.spec)
            pool = self._pools.records[prepared.spec.pool].pool
            self._room.check(prepared.spec, pool)
            self._newcomers.look(prepared.spec, pool)
            attesting_mod = self._pools.attesting_mod() if self._attests else 0
            if pool.require_attested and not attesting_mod:
                raise InvalidField("pool", ONLY_ATTESTED.format(pool.name))
            needed = needed_by_spec(prepared.spec)
            engine_mod = self._pools.engine_mod(needed) if needed else attesting_mod
            return prepared._replace(engine_mod=engine_mod, attests=bool(attesting_mod))
        except InvalidField as error:
            is_denied = isinstance(error, Denied)
            if not self._refreshed and not is_denied:
                self._refresh()
                return self._check(raw, index)
            task_id = raw.get("id") if isinstance(raw, Mapping) else raw.id if isinstance(raw, Spec) else None
            return SubmitResult(
                id=task_id if isinstance(task_id, str) else "",
                outcome="denied" if is_denied else "invalid",
                message=str(error),
                index=index,
                field=error.field,
            )

    def _create(self, batch: dict[str, Prepared]) -> Iterator[SubmitResult]:
        parents = self._parents
        while batch:
            yield from parents.sift(batch, self._commit)
            if not batch:
                return
            answer = self._commit(self._creation(batch))
            if isinstance(answer, Committed):
                parents.created(batch, answer)
                yield from map(self._created, batch.values())
                return
            parents.learn(batch, answer)
            for task_id in list(batch):
                stored = answer.current.get(self._keys.task(task_id))
                if stored is not None:
                    yield parents.refuse(compare(batch.pop(task_id), stored))
                elif refused := self._learn_array(batch[task_id], answer):
                    del batch[task_id]
                    yield parents.refuse(refused)
                elif (status := answer.current.get(self._keys.state(task_id))) is not None:
                    left = batch.pop(task_id).result("conflict", _why_taken(task_id, status))
                    yield parents.refuse(left)
            if any(self._is_outdated(answer, prepared) for prepared in batch.values()):
                self._refresh()
                again = {
                    task_id: self._check(prepared.raw, prepared.position)
                    for task_id, prepared in batch.items()
                }
                yield from (parents.refuse(each) for each in again.values() if isinstance(each, SubmitResult))
                batch = {
                    task_id: prepared for task_id, prepared in again.items() if isinstance(prepared, Prepared)
                }

    def _learn_array(self, prepared: Prepared, answer: Refused) -> SubmitResult | None:
        """Note what has the name of the array of which the task would be a member by its own name.

        Returns why the task is refused, if that array has such a member: it would fail for the taken name.
        """
        member = MemberName.parse(prepared.spec.id)
        key = self._keys.task(member.array) if member is not None else ""
        if member is None or key not in answer.current:
            return None
        found = answer.current[key]
        self._seen[key] = found.mod if found is not None else 0
        return prepared.result("conflict", of_array(member)) if has_member(found, member) else None

    def _created(self, prepared: Prepared) -> SubmitResult:
        result, note = prepared.result("created"), self._newcomers.tell(prepared.spec)
        if not note:
            return result
        message = f"{result.message}; {note}" if result.message else note
        return msgspec.structs.replace(result, message=message, field=result.field or "owner")

    def _attestation(self, spec: Spec, op: Op) -> Put:
        attestation = Attestation(owner=spec.owner, by=self._attests)
        return Put(self._keys.attested(spec.id), attested.encode(attestation, op))

    def _is_outdated(self, refused: Refused, prepared: Prepared) -> bool:
        """Whether the pool, or the features that the spec needs, have changed since it was checked."""
        current = {key: item.mod for key, item in refused.current.items() if item is not None}
        return any(current.get(key, 0) != mod for key, mod in self._checked(prepared).items())

    def _checked(self, prepared: Prepared) -> dict[str, int]:
        """The keys that the spec was checked against, with their mods."""
        more = {self._keys.engine: prepared.engine_mod} if prepared.engine_mod else {}
        member = MemberName.parse(prepared.spec.id)
        if member is not None:
            key = self._keys.task(member.array)
            more[key] = self._seen.get(key, 0)
        return {self._keys.pool(prepared.spec.pool): prepared.pool_mod, **more}

    def _creation(self, batch: Mapping[str, Prepared]) -> Transaction:
        op, now = new_op(), self._clock.now()
        # The first task with a key decides which of its revisions is compared; if a later task saw a newer
        # one, the transaction is refused and checked again.
        compared: dict[str, int] = {}
        for prepared in batch.values():
            compared = {**self._checked(prepared), **compared}
            if prepared.spec.after:
                compared |= self._parents.mods(prepared, batch)
        return Transaction(
            guards=(
                *(Guard(self._keys.task(task_id), 0) for task_id in batch),
                # A status that was left without its spec would pass for the new task's, which then might
                # never run.
                *(Guard(self._keys.state(task_id), 0) for task_id in batch),
                *(Guard(key, mod) for key, mod in compared.items()),
            ),
            # The tasks of a transaction share a create revision; times a microsecond apart keep their order.
            writes=(
                *(
                    Put(self._keys.task(p.spec.id), p.encode(now + n * 1e-6, op))
                    for n, p in enumerate(batch.values())
                ),
                *(self._attestation(p.spec, op) for p in batch.values() if p.attests),
                *(put for p in batch.values() if p.spec.after for put in self._parents.awaits(p, op)),
            ),
            op=op,
        )


def _why_taken(task_id: str, item: KeyValue) -> str:
    """Why a task of this name cannot be created beside that status."""
    try:
        is_member = bool(codec.decode_status(item.value)[0].array)
    except CorruptValue:
        is_member = False
    return (_IS_MEMBER if is_member else _LEFT_BEHIND).format(task_id)
