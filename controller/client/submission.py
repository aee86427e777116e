"""Stores submitted tasks: each exactly once, many in one transaction.

A guard requires that neither a spec nor a status of that name exists, so a repeated submission never creates
a second task: its outcome is `unchanged` when the content is the same, else `conflict`. If some tasks of a
batch exist, etcd refuses the whole batch. The refusal shows the existing ones; the others are sent again.

Each task is checked against its pool as it was read last, and a guard requires that the pool has not changed
since. A client that submits often thus needs one request per batch, and no task is stored that was checked
against an outdated pool. The same holds for the features that a spec needs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

import msgspec

from controller.client.newcomers import Newcomers
from controller.client.queue_room import QueueRoom
from controller.clock import Clock
from controller.core.model import attested, codec
from controller.core.model.attested import Attestation
from controller.core.model.default_resources import default_resources
from controller.core.model.demand import check_satisfiable, demand
from controller.core.model.features import needed_by_spec
from controller.core.model.op import NO_OP, Op
from controller.core.model.records import PoolRecord
from controller.core.model.sharing_fields import check_limit
from controller.core.model.task import Spec
from controller.core.model.validation import parse_spec
from controller.core.planning.reasons import unknown_reasons
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

Outcome = Literal["created", "unchanged", "conflict", "invalid", "denied"]

_LEFT_BEHIND = (
    "the spec of an earlier task {} was deleted by hand, and its status is still there: submit it again when"
    " the leader has removed the status, or use another name"
)


ONLY_ATTESTED = (
    "{} takes only tasks that a gateway has attested (require_attested): submit it through a gateway"
    " (`--server`)"
)


class Denied(InvalidField):
    """The submitter may not submit this task."""


class SubmitResult(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of one submitted task.

    `message` is a warning when the task was accepted, else the reason for its refusal. `index` is the task's
    position in the input, from 0. `field` is the path of the field that `message` is about, such as
    `retry.rules[0]`.
    """

    id: str
    outcome: Outcome
    message: str = ""
    index: int = 0
    field: str = ""

    @property
    def accepted(self) -> bool:
        """Whether the task is stored as submitted."""
        return self.outcome in ("created", "unchanged")


class Prepared(NamedTuple):
    """A spec that is ready to be stored.

    `named` are the resources that the user named; the others were filled in. `raw` is the input, and
    `pool_mod` is the mod revision of the pool that the spec was checked against, and `engine_mod` that of the
    record of features; 0 if it needs none. `attests`: an attestation is stored with it.
    """

    spec: Spec
    named: frozenset[str]
    raw: object
    pool_mod: int
    position: int = 0
    engine_mod: int = 0
    attests: bool = False

    def encode(self, submitted_at: float, op: Op) -> bytes:
        """The value to store."""
        return codec.encode_spec(self.spec, submitted_at, op, self.spec.resources.keys() - self.named)

    def result(self, outcome: Outcome, message: str = "") -> SubmitResult:
        """The outcome, with a warning where a retry rule names unknown reasons."""
        if message:
            return SubmitResult(id=self.spec.id, outcome=outcome, message=message, index=self.position)
        doubts = list(unknown_reasons(self.spec.retry))
        warning, field = "; ".join(map(": ".join, doubts)), doubts[0][0] if doubts else ""
        return SubmitResult(
            id=self.spec.id, outcome=outcome, message=warning, index=self.position, field=field
        )


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

    def engine_mod(self, needed: Mapping[str, str]) -> int:
        """As `Features.check`, once since the last `refresh` for the same features."""
        names = tuple(needed)
        if names not in self._engine_mods:
            self._engine_mods[names] = self._check_features(needed)
        return self._engine_mods[names]


def prepare(raw: object, pools: Mapping[str, PoolRecord], position: int = 0) -> Prepared:
    """Validate the input, a mapping or a Spec, and fill in the default resources of its pool.

    Raises InvalidField for an invalid value, an unknown pool, and resources that the pool can never provide,
    or that are above the limit of the task's owner.
    """
    given = codec.to_builtins(raw) if isinstance(raw, Spec) else raw
    spec = parse_spec(given)
    assert isinstance(given, Mapping)  # parse_spec accepts nothing else
    record = pools.get(spec.pool)
    if record is None:
        known = (
            f"the pools are {', '.join(sorted(pools))}" if pools else "create one: `tally apply -f pool.yaml`"
        )
        raise InvalidField("pool", f"there is no pool {spec.pool!r}; {known}")
    named = frozenset(given.get("resources") or ())
    spec = msgspec.structs.replace(spec, resources=spec.resources + default_resources(named, record.pool))
    asked = demand(spec, record.pool)
    check_satisfiable(spec, record.pool, asked)
    check_limit(record.pool, spec.owner, asked)
    return Prepared(spec, named, raw, record.mod, position)


def compare(new: Prepared, stored: KeyValue) -> SubmitResult:
    """Compare the stored task with the submitted one, except for resources that neither of them named."""
    task_id = new.spec.id
    filled_in = None
    try:
        old, _, error = codec.decode_spec(task_id, stored.value)
        filled_in = codec.filled_in(stored.value)
    except CorruptValue as corrupt:
        error = str(corrupt)
    if error:
        return new.result("conflict", f"a task {task_id} exists, but is not valid: {error}")
    # What JSON cannot hold as it is (a date in a pod template) is compared as it is stored.
    fresh = codec.decode_spec(task_id, codec.encode_spec(new.spec, 0.0, NO_OP)).spec
    named = new.named if filled_in is None else new.named | (old.resources.keys() - filled_in)
    same_named = all(fresh.resources.get(name) == old.resources.get(name) for name in named)
    if same_named and msgspec.structs.replace(fresh, resources=old.resources) == old:
        return new.result("unchanged")
    differing = [
        name
        for name in Spec.__struct_fields__
        if name != "resources" and getattr(fresh, name) != getattr(old, name)
    ]
    differing += [] if same_named else ["resources"]
    why = f"a task {task_id} exists with another spec (it differs in {', '.join(differing)})"
    return new.result("conflict", f"{why}: specs never change, so use another name")


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

    def run(self, tasks: Iterable[object]) -> Iterator[SubmitResult]:
        """Submit each task. Invalid tasks and conflicts are results; they do not stop the others."""
        batch: dict[str, Prepared] = {}
        compared: set[str] = set()  # the keys of pools, and of the record of features
        size = 0
        for index, raw in enumerate(tasks):
            prepared = self._check(raw, index)
            if isinstance(prepared, SubmitResult):
                yield prepared
                continue
            task_id = prepared.spec.id
            bytes_needed = 3 * len(self._keys.task(task_id)) + 256 + len(codec.encode(prepared.spec))
            bytes_needed += (512 + len(self._attests)) if prepared.attests else 0
            checked = self._checked(prepared).keys()
            operations = 2 * (len(batch) + 1) + len(compared | checked)
            if batch and (
                task_id in batch or operations > MAX_OPERATIONS or size + bytes_needed > MAX_REQUEST_BYTES
            ):
                yield from self._create(batch)
                batch, compared, size = {}, set(), 0
            batch[task_id] = prepared
            compared |= checked
            size += bytes_needed
        yield from self._create(batch)

    def dry_run(
        self, tasks: Iterable[object], read: Callable[[Collection[str]], Mapping[str, KeyValue]]
    ) -> Iterator[SubmitResult]:
        """The results that `run` would yield now; `read` returns stored values by key. Writes nothing."""
        self._refresh()
        checked = [self._check(raw, index) for index, raw in enumerate(tasks)]
        stored = dict(read({self._keys.task(task.spec.id) for task in checked if isinstance(task, Prepared)}))
        for task in checked:
            if isinstance(task, SubmitResult):
                yield task
                continue
            key = self._keys.task(task.spec.id)
            found = stored.get(key)
            if found is None:
                stored[key] = KeyValue(key, task.encode(self._clock.now(), NO_OP), 0, 0)  # for those after it
            yield compare(task, found) if found is not None else self._created(task)

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
        while batch:
            answer = self._commit(self._creation(batch))
            if isinstance(answer, Committed):
                yield from map(self._created, batch.values())
                return
            for task_id in list(batch):
                stored = answer.current.get(self._keys.task(task_id))
                if stored is not None:
                    yield compare(batch.pop(task_id), stored)
                elif answer.current.get(self._keys.state(task_id)) is not None:
                    yield batch.pop(task_id).result("conflict", _LEFT_BEHIND.format(task_id))
            if any(self._is_outdated(answer, prepared) for prepared in batch.values()):
                self._refresh()
                again = {
                    task_id: self._check(prepared.raw, prepared.position)
                    for task_id, prepared in batch.items()
                }
                yield from (result for result in again.values() if isinstance(result, SubmitResult))
                batch = {
                    task_id: prepared for task_id, prepared in again.items() if isinstance(prepared, Prepared)
                }

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
        features = {self._keys.engine: prepared.engine_mod} if prepared.engine_mod else {}
        return {self._keys.pool(prepared.spec.pool): prepared.pool_mod, **features}

    def _creation(self, batch: Mapping[str, Prepared]) -> Transaction:
        op, now = new_op(), self._clock.now()
        # The first task with a key decides which of its revisions is compared; if a later task saw a newer
        # one, the transaction is refused and checked again.
        compared: dict[str, int] = {}
        for prepared in batch.values():
            compared = {**self._checked(prepared), **compared}
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
            ),
            op=op,
        )
