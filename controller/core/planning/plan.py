"""What the core wants done: changes to persist, **then** effects to perform.

The ordering contract: an effect of a plan starts only after the plan's changes are committed, in one guarded
transaction, and only while the same term leads. A plan whose commit was refused has no effects. After a crash
in between, the next leader finds the committed states, and derives the same effects from them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from msgspec import Struct

from controller.core.model.claims import Claim
from controller.core.model.op import Op
from controller.core.model.records import Ledger
from controller.core.model.requests import RequestKind
from controller.core.model.schedules import TickOutcome
from controller.core.model.shares import Share
from controller.core.model.task import AttemptId, Launch, Status


class Term(NamedTuple):
    """The planner's term.

    `revision` is the fence: the create revision of the leader's key. With `replica`, it makes `op` unique.
    """

    revision: int
    epoch: int
    replica: str
    cluster: str
    installation: str = ""


class Start(NamedTuple):
    """Start an attempt whose hold is committed."""

    attempt: AttemptId
    launch: Launch


class Stop(NamedTuple):
    """Stop an attempt that is to end, or an orphan."""

    attempt: AttemptId
    grace_seconds: float
    uid: str
    why: str


class Settle(NamedTuple):
    """Tell the engine that the end of an attempt is committed, so that it may drop what proves that end.

    `uid`: of the one that has ended.
    """

    attempt: AttemptId
    uid: str = ""


class KeepLog(NamedTuple):
    """Keep the end of an ended attempt's output, before the engine is told that it may drop it.

    `spec_id` is the name under which its task's spec is stored, and `spec_create` the create revision of
    that: a later task of the same name has another.
    """

    attempt: AttemptId
    spec_id: str
    spec_create: int


class Prove(NamedTuple):
    """Ask the engine about an attempt that its full list lacks. The absence proves nothing.

    `grace_seconds`: that which the attempt has from whoever ends it.
    """

    attempt: AttemptId
    uid: str
    grace_seconds: float = 0.0


class Forget(NamedTuple):
    """Remove the tombstone of an attempt whose task is gone.

    `uid`: of one that is proven to have stopped; else "".
    """

    attempt: AttemptId
    uid: str = ""


Effect = Start | Stop | KeepLog | Settle | Prove | Forget


class TaskChange(Struct, frozen=True, gc=False):
    """The next status of one task, and what must be unchanged when it is written.

    `status` and `value` are None if no status is written: the change then only consumes requests, or with
    `removes` deletes the status and the spec. `seen_mod` and the other mods are compared; a mod of 0 means
    that the record is absent. `spec_mod` -1: the spec is not compared.
    """

    task_id: str
    seen_mod: int
    status: Status | None
    value: bytes | None
    spec_mod: int = -1
    requests: tuple[tuple[RequestKind, int], ...] = ()  # consumed: kind and mod
    left: tuple[tuple[RequestKind, int], ...] = ()  # compared and left as they are: absent, or unreadable
    removes: bool = False
    # kinds of records that are removed with the task, such as its kept log
    also_removes: tuple[str, ...] = ()
    attested_mod: int = -1  # of the attestation; -1: it is not compared
    # no record that keeps the task for another one may be newer than this revision; -1: that is not compared
    awaits_mod: int = -1


class LedgerChange(NamedTuple):
    """The next value of a pool's ledger."""

    pool: str
    seen_mod: int
    ledger: Ledger
    value: bytes


class ShareChange(NamedTuple):
    """The next value of an owner's share of a pool."""

    pool: str
    owner: str
    seen_mod: int
    share: Share
    value: bytes


class ClaimChange(NamedTuple):
    """The next value of a claim (`claim` and `value` None: it ends)."""

    pool: str
    task_id: str
    seen_mod: int
    claim: Claim | None
    value: bytes | None


class RecordChange(NamedTuple):
    """The next value of any record (`value` None removes it). Only plans that mend records use it."""

    kind: str
    names: tuple[str, ...]
    seen_mod: int
    value: bytes | None


class NoticeChange(NamedTuple):
    """A notice about an end that the plan records. Nothing is compared: its key is new with the end."""

    names: tuple[str, str]
    value: bytes


class Verdict(StrEnum):
    """What became of a finding that was to be repaired."""

    REPAIRED = "repaired"
    GONE = "gone"  # it no longer holds
    LATER = "later"  # not yet; ask again
    LEFT = "left"  # not repaired automatically


class Outcome(Struct, frozen=True, kw_only=True):
    """One finding of a request for repairs, and what became of it, in words."""

    invariant: str
    subject: str
    verdict: Verdict
    what: str


@dataclass(slots=True)
class Plan:
    """See the module's docstring.

    The (name, mod) of each of `pools` is compared, since a decision rests on the pool's definition (I2). A
    plan of repairs has `records`, `outcomes` and `compared`, and nothing else; one of schedules `records`,
    `ticks` and `compared`.
    """

    op: Op
    changes: list[TaskChange] = field(default_factory=list)
    ledgers: list[LedgerChange] = field(default_factory=list)
    shares: list[ShareChange] = field(default_factory=list)
    claims: list[ClaimChange] = field(default_factory=list)
    pools: list[tuple[str, int]] = field(default_factory=list)
    effects: list[Effect] = field(default_factory=list)
    notices: list[NoticeChange] = field(default_factory=list)
    unnoticed: int = 0  # ends that were to be told about, and are not: see Beside
    records: list[RecordChange] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    ticks: list[tuple[str, TickOutcome]] = field(default_factory=list)  # decided by it: schedule and outcome
    # (kind, names, mod) of other records to compare
    compared: list[tuple[str, tuple[str, ...], int]] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.persists or self.effects)

    @property
    def subject(self) -> str:
        """The task that it changes, if it is one, or the gang of which it begins members; else ""."""
        gang = self.begins_members_of
        if len(self.changes) == 1:
            return self.changes[0].task_id
        return gang if gang and self.changes[-1].task_id == gang else ""

    @property
    def begins_members_of(self) -> str:
        """The gang of which it begins members, if it changes no other task beside it; else ""."""
        first = self.changes[0].status if self.changes else None
        gang = first.array if first is not None and first.of_gang else ""
        others = (change for change in self.changes if change.task_id != gang)
        is_alone = all(change.status is not None and change.status.array == gang for change in others)
        return gang if is_alone else ""

    @property
    def persists(self) -> bool:
        """Whether there is something to commit before the effects."""
        return bool(self.changes or self.records or self.claims)
