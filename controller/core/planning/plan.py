"""What the core wants done: changes to persist, **then** effects to perform.

The ordering contract: an effect of a plan may start only after the plan's changes are committed, in one
guarded transaction, and only while the same term leads. A plan whose commit was refused has no effects. After
any crash in between, the next leader finds the committed states and derives the same effects again from them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from msgspec import Struct

from controller.core.model.resources import Vector
from controller.core.model.task import AttemptId, Launch, RequestKind, Status


class Term(NamedTuple):
    """Who plans: the fence (the leader key's create revision), the epoch, and what makes `op` unique."""

    revision: int
    epoch: int
    replica: str
    cluster: str
    installation: str = ""


class Start(NamedTuple):
    """Start an attempt, whose hold is committed."""

    attempt: AttemptId
    launch: Launch


class Stop(NamedTuple):
    """Stop an attempt: one that is to end, or an orphan."""

    attempt: AttemptId
    grace_seconds: float
    uid: str
    why: str


class Settle(NamedTuple):
    """Tell the engine that the end of an attempt is committed: it may let go of what it kept to prove that
    end.
    """

    attempt: AttemptId


class KeepLog(NamedTuple):
    """Keep the end of an ended attempt's output, before the engine is told that it may drop it.

    `spec_create` is the create revision of its task's spec: a later task of the same name has another.
    """

    attempt: AttemptId
    spec_create: int


class Prove(NamedTuple):
    """Ask the engine what became of an attempt that its full list lacks: that it is not listed proves
    nothing.
    """

    attempt: AttemptId
    uid: str


class Forget(NamedTuple):
    """Remove the tombstone of an attempt whose task is gone."""

    attempt: AttemptId


Effect = Start | Stop | KeepLog | Settle | Prove | Forget


class TaskChange(NamedTuple):
    """The next status of one task, and what must be unchanged for it to be written.

    `value` None (and `status` None) writes no status: the change consumes requests, and with `removes`
    deletes the task whole (status, spec and requests). A mod of 0 compares that the record is absent;
    `spec_mod` -1: the spec is not compared.
    """

    task_id: str
    seen_mod: int
    status: Status | None
    value: bytes | None
    spec_mod: int = -1
    requests: tuple[tuple[RequestKind, int], ...] = ()  # consumed: kind and mod
    left: tuple[tuple[RequestKind, int], ...] = ()  # compared, and left as they are: absent, or not readable
    removes: bool = False
    removes_log: bool = False  # with it


class LedgerChange(NamedTuple):
    """A pool's ledger as it becomes."""

    pool: str
    seen_mod: int
    held: Vector
    value: bytes


class RecordChange(NamedTuple):
    """Any record of the model as it becomes (`value` None: removed): only what sets records right writes
    so.
    """

    kind: str
    names: tuple[str, ...]
    seen_mod: int
    value: bytes | None


class Verdict(StrEnum):
    """What became of a finding that was to be repaired."""

    REPAIRED = "repaired"
    GONE = "gone"  # it does not hold any more
    LATER = "later"  # not yet; ask again
    LEFT = "left"  # not to be repaired by machine


class Outcome(Struct, frozen=True, kw_only=True):
    """One finding of a request for repairs, and what became of it, in words."""

    invariant: str
    subject: str
    verdict: Verdict
    what: str


@dataclass(slots=True)
class Plan:
    """See the module's docstring.

    `pools` are compared (name, mod), since something is decided by their definition (I2).

    A plan of repairs has `records`, `outcomes` and what else it compares, and nothing else.
    """

    op: str
    changes: list[TaskChange] = field(default_factory=list)
    ledgers: list[LedgerChange] = field(default_factory=list)
    pools: list[tuple[str, int]] = field(default_factory=list)
    effects: list[Effect] = field(default_factory=list)
    records: list[RecordChange] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    # records by kind and names, with their mod
    compared: list[tuple[str, tuple[str, ...], int]] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.persists or self.effects)

    @property
    def persists(self) -> bool:
        """Whether there is something to commit before the effects."""
        return bool(self.changes or self.records)
