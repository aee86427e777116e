"""The records of the store as the model holds them: tasks, pools, ledgers, and raw changes.

A `Task` has all keys of a task.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from controller.core.model import codec
from controller.core.model.array import ArrayOf
from controller.core.model.gates import Gate
from controller.core.model.lifecycle import FINISHED, WAITING, State
from controller.core.model.op import NO_OP, Op
from controller.core.model.requests import Request, RequestKind
from controller.core.model.resources import ZERO, Vector
from controller.core.model.shares import NO_ACCOUNT, Account, encode_account, take_account
from controller.core.model.task import DEFAULT_OWNER, Pool, Spec, Status, StopReason, priority_of
from controller.errors import CorruptValue, TallyError

DEFAULT_RETENTION_SECONDS = 86400.0  # for a finished task whose spec cannot be read


class Change(NamedTuple):
    """The value of one key at revision `mod`; None for a deletion.

    Kinds are those of the key layout.
    """

    kind: str
    names: tuple[str, ...]
    value: bytes | None
    mod: int
    create: int = 0


class RevisionWentBack(TallyError):
    """The store's newest value is older than one we have seen: it is another store (fault 24)."""


_NOT_FROZEN = frozenset[str]()  # one for all: each call of frozenset makes another
NO_REQUESTS: Mapping[RequestKind, tuple[Request, int]] = MappingProxyType({})


class Own(NamedTuple):
    """The spec of a task's own name, as in Task, while the task is a member of an array."""

    spec: Spec | None
    spec_create: int
    submitted_at: float
    spec_error: str


class Task:
    """All records of one task, and its places in the indexes. Only Model and its parts change it.

    A member of an array has no spec of its own. Its `spec`, `spec_create` and `submitted_at` follow from
    those of its array.
    """

    __slots__ = (
        "array",
        "counted",
        "demand",
        "due",
        "extras",
        "frozen",
        "gate",
        "held",
        "id",
        "own",
        "requests",
        "seen_at",
        "source",
        "spec",
        "spec_create",
        "spec_error",
        "spec_mod",
        "spec_op",
        "status",
        "status_mod",
        "submitted_at",
    )

    def __init__(self, task_id: str) -> None:
        self.id = task_id
        self.spec: Spec | None = None  # without its name, and shared with tasks that say the same
        self.spec_error = ""
        self.spec_create = 0
        self.spec_mod = 0  # of the spec of its own name
        self.spec_op = ""  # of an array: what tells its spec from those of other arrays of its name
        self.submitted_at = 0.0  # by the submitter's clock; shown, and never used for a decision
        self.seen_at: float | None = None  # when this replica saw the spec, by its own clock: see Model.sight
        self.status: Status | None = None
        self.extras: codec.Extras = codec.NO_EXTRAS
        self.status_mod = 0
        self.requests: Mapping[RequestKind, tuple[Request, int]] = NO_REQUESTS  # kind → (request, mod)
        self.frozen: frozenset[str] = _NOT_FROZEN  # kinds of its records that are quarantined
        self.gate: Gate | None = None  # what keeps it back until others have ended: see `dependencies`
        self.array: ArrayOf[Task] | None = None  # of an array: its members
        self.source: Task | None = None  # of a member: its array, if that has a spec
        self.own: Own | None = None  # of a member: the spec of its own name
        self.demand = ZERO  # what it asks for of its pool, while it is in the queue
        self.due: float | None = None  # when its timer rings next
        self.counted: tuple[str, State] | None = None  # the pool and state under which it is counted
        self.held: tuple[str, Vector] | None = None  # the pool whose sum of holds counts it, and its hold

    @property
    def member_of(self) -> str:
        """The name of the array of which it is a member; "" if it is none."""
        return self.status.array if self.status is not None else ""

    @property
    def spec_id(self) -> str:
        """The name under which its spec is stored: its own, or that of its array."""
        return self.source.id if self.source is not None else self.id

    @property
    def spec_is_original(self) -> bool:
        """Whether its spec is as it was submitted: nothing has overwritten it since."""
        mod = self.source.spec_mod if self.source is not None else self.spec_mod
        return mod == self.spec_create

    @property
    def state(self) -> State:
        """The task's state. A spec without a status is Created."""
        return self.status.state if self.status is not None else State.CREATED

    @property
    def pool(self) -> str:
        """The pool that it draws on: that of its status, or else that of its spec."""
        if self.status is not None and self.status.pool:
            return self.status.pool
        return self.spec.pool if self.spec is not None else ""

    @property
    def owner(self) -> str:
        """Whom its resources are charged to: the owner in its status, or else in its spec."""
        if self.status is not None:
            return self.status.owner
        return self.spec.owner if self.spec is not None else DEFAULT_OWNER

    @property
    def priority(self) -> int:
        """See `priority_of`."""
        return priority_of(self.spec, self.status)

    @property
    def on_hold(self) -> bool:
        """Whether a user keeps it from being admitted."""
        return self.status is not None and self.status.is_on_hold

    @property
    def is_gated(self) -> bool:
        """Whether it waits for the tasks that its spec names in `after`, ended or not.

        An array waits for them until it has ended, since each of its members does; a gang before each round.
        """
        status, spec = self.status, self.spec
        if spec is None or not spec.after or self.spec_error:
            return False
        if self.array is not None and not self.array.is_gang and self.state in WAITING:
            return True
        return status is None or status.state is State.CREATED or (status.gated and status.state in WAITING)

    @property
    def follows(self) -> tuple[str, ...]:
        """The tasks on whose ends its next step rests: those that it waits for, or its next member does."""
        if self.gate is not None and self.spec is not None:
            return tuple(each.task for each in self.spec.after)
        paired = self.array.paired if self.array is not None else None
        return tuple(former.name for former in paired.formers) if paired is not None else ()

    @property
    def attempt(self) -> int:
        """The number of the last attempt; 0 if there was none."""
        return self.status.attempt if self.status is not None else 0

    @property
    def waits_at_once(self) -> bool:
        """Whether it waits without a back-off: it was preempted or released, or a retry was requested."""
        status = self.status
        return (
            status is not None
            and status.state is State.WAITING_RETRY
            and (
                (self.array is not None and not self.array.is_gang)
                or status.reason in ("Preempted", "RetryRequested", "Released")
            )
        )

    def is_postponed(self, kind: RequestKind) -> bool:
        """Whether a request of this kind waits, and takes effect when the task's attempt has ended.

        A retry waits while the task is being cancelled, and a change while it is being preempted.
        """
        status = self.status
        if status is None or not status.is_holding:
            return False
        return (kind is RequestKind.RETRY and status.cancelling) or (
            kind is RequestKind.CHANGE and status.stopping == StopReason.PREEMPTED
        )

    @property
    def exists(self) -> bool:
        """Whether any record is left."""
        return bool(self.spec_mod or self.status_mod or self.requests or self.frozen)

    def first_due(self) -> float | None:
        """When time alone changes something for this task (back-off, deadline, retention); None for never."""
        status, spec = self.status, self.spec
        if status is not None and status.on_hold and status.is_on_hold:
            return None
        if self.gate is not None and not self.gate.is_open:
            return None
        if status is None or status.state is State.CREATED:
            limit = spec.deadlines.queue_seconds if spec is not None else None
            return self.queued_at + limit if limit is not None else None
        if status.state is State.WAITING_RETRY:
            return status.retry_at or 0.0
        if status.state in FINISHED:
            # a member is kept by its array
            return (status.finished_at or 0.0) + self.retention_seconds if not status.array else None
        if spec is None:
            return None
        due, limits = math.inf, spec.deadlines
        if status.lost_since is not None and spec.on_lost.replace_after_seconds is not None:
            due = status.lost_since + spec.on_lost.replace_after_seconds
        if status.stopping:
            pass  # no deadline is left
        elif status.state is State.PENDING and limits.start_seconds is not None:
            due = min(due, (status.admitted_at or 0.0) + limits.start_seconds)
        elif status.state is State.RUNNING and limits.run_seconds is not None:
            due = min(due, (status.started_at or 0.0) + limits.run_seconds)
        return due if due < math.inf else None

    @property
    def queued_at(self) -> float:
        """Since when it waits for admission: since its submission, its release, or the end of its back-off.

        The submission counts from when this replica saw it. A task that waits for others waits for admission
        since the last of them has ended. Queue deadlines and `backfill_seconds` count from here.
        """
        at = self._queued_at
        return max(at, self.gate.opened_at) if self.gate is not None else at

    @property
    def _queued_at(self) -> float:
        if self.status is not None and self.status.state is State.WAITING_RETRY:
            return self.status.retry_at or 0.0
        if self.status is not None and self.status.state is State.CREATED:
            return self.status.queued_at
        return self.seen_at if self.seen_at is not None else self.submitted_at

    @property
    def retention_seconds(self) -> float:
        """How long it is kept after its end."""
        return (
            self.spec.retention_seconds
            if self.spec is not None and not self.spec_error
            else DEFAULT_RETENTION_SECONDS
        )


class PoolRecord(NamedTuple):
    """A pool, and the mod of its key. A pool whose key is absent or quarantined has no record.

    If its capacity follows something, `pool` has the amounts that were seen last, and `stored` has none.
    """

    pool: Pool
    mod: int
    stored: Pool | None = None  # None: as `pool`

    @property
    def definition(self) -> Pool:
        """The pool as its definition says."""
        return self.stored if self.stored is not None else self.pool


class Ledger(NamedTuple):
    """What is held of a pool. A missing key is an empty ledger of mod 0."""

    held: Vector = ZERO
    mod: int = 0
    extras: codec.Extras = codec.NO_EXTRAS
    op: Op = NO_OP
    account: Account = NO_ACCOUNT

    @property
    def shares_are_whole(self) -> bool:
        """Whether the pool's shares were written together with the ledger, always."""
        return bool(self.op) and self.account.shares_op == self.op

    def encode(self, op: Op) -> bytes:
        """The stored form."""
        return codec.encode_ledger(self.held, op, {**encode_account(self.account), **self.extras})


def decode_ledger(change: Change) -> Ledger:
    """A stored ledger. Raises CorruptValue if it is not one."""
    assert change.value is not None
    held, extras = codec.decode_ledger(change.value)
    fields = dict(extras)
    account = take_account(fields)
    op = codec.decode_mapping(change.value).get("op") if account is not NO_ACCOUNT else NO_OP
    return Ledger(held, change.mod, fields, Op(op) if isinstance(op, str) else NO_OP, account)


def is_listed(task: Task) -> bool:
    """Whether there is a task, and not just a request for one that is gone."""
    return bool(task.spec_mod or task.status_mod or task.frozen & {"tasks", "states"})


def decode_or_empty(change: Change | None) -> dict[str, Any]:
    """The JSON object of a record that is only shown (leader, replica, term); {} if it has none."""
    if change is None or change.value is None:
        return {}
    try:
        return codec.decode_mapping(change.value)
    except CorruptValue:
        return {}


def number_in(record: Mapping[str, Any], name: str) -> float | None:
    """A field of such a record, if it is a number that fits a float. Any client may have written it."""
    value = record.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # an integer beyond all floats
        return None
