"""The store's seam: revisions, guarded transactions, watches, leases, as etcd has them.

Two implementations pass one conformance suite (`tests/conformance/test_store.py`): `etcd` and `memory`.

Contract, in short:
- Every key has `create` (revision of its creation), `mod` (of its last change) and `version` (changes since
  its creation).
- `commit` applies a transaction once or not at all, however often it had to be sent.
- `watch` delivers every change after a revision, in order, each once, or raises `Compacted`. It never skips
  forward.
- All calls take a `deadline` in seconds of `Clock.boottime`, and end by then.
"""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, Protocol, Self

from controller.core.model.op import Op
from controller.errors import Closed, TallyError

MAX_OPERATIONS = 128
"""etcd's default --max-txn-ops, counted as max(compares, success operations, failure operations)."""

MOST_SHOWN = 8
"""Keys below a guarded prefix that a refusal shows at most."""

MAX_REQUEST_BYTES = 1024 * 1024
"""Below etcd's default --max-request-bytes of 1.5 MiB, with room for the encoding's overhead."""


class StoreError(TallyError):
    """Root of the store's errors."""


class StoreUnavailable(StoreError):
    """No endpoint answered within the deadline. For a read, nothing happened. It is worth trying again."""


class StoreClosed(StoreUnavailable, Closed):
    """The store has been closed, and asks nobody any more."""


class StoreFull(StoreUnavailable):
    """etcd is out of space and refuses writes. Nothing was written.

    Deletions and compaction have to make room.
    """


class LeaseNotFound(StoreError):
    """The lease of a transaction's keys is gone, and with it all keys that an earlier copy attached to it."""


class OutcomeUnknown(StoreError):
    """A transaction may or may not have been applied, and the deadline has passed.

    Only the same transaction may follow.
    """


class StoreDenied(StoreError):
    """The user, password, certificate or role does not allow this. The error names what is missing.

    Trying again does not help.
    """


class RequestTooLarge(StoreError):
    """The transaction is above etcd's limits, and was not applied. Split it."""


class Compacted(StoreError):
    """The requested revision has been compacted: load again. `revision` is the oldest that is left."""

    def __init__(self, revision: int) -> None:
        super().__init__(f"history before revision {revision} has been compacted")
        self.revision = revision


class ClusterChanged(StoreError):
    """Another cluster answers (a restored backup, a wrong endpoint), or revisions have gone back.

    The holder of a model of the store must drop it and start again.
    """


class KeyValue(NamedTuple):
    """One key at one revision."""

    key: str
    value: bytes
    create: int
    mod: int
    version: int = 1
    lease: int = 0


class Snapshot(NamedTuple):
    """All keys under a prefix at one revision, sorted by key."""

    revision: int
    items: tuple[KeyValue, ...]


class Page(NamedTuple):
    """A part of a snapshot: the keys that follow those of the last page. `more`: others follow these.

    `era` counts the clusters that have answered before this one, whichever call has noticed the change.
    """

    revision: int
    items: tuple[KeyValue, ...]
    more: bool
    era: int = 0


class StoreSize(NamedTuple):
    """The size of the store's database, in bytes.

    `used` is the size of the file, `in_use` the part of it in use, and `quota` the limit on the file (0: not
    known).
    """

    used: int
    in_use: int
    quota: int


class Put(NamedTuple):
    """Write `value`, attached to `lease` (0: to none)."""

    key: str
    value: bytes
    lease: int = 0


class Delete(NamedTuple):
    """Remove a key. Removing a missing key is not an error."""

    key: str


class Guard(NamedTuple):
    """A compare: the mod revision of the key must be `revision`; 0: the key must not exist.

    With `on_create`, the create revision is compared. With `is_prefix`, no key that begins with `key` may
    have a mod revision above `revision`; 0: there must be no such key. Deletions do not count.
    """

    key: str
    revision: int
    on_create: bool = False
    is_prefix: bool = False


Write = Put | Delete


class Purpose(StrEnum):
    """What a transaction is for, as the metrics report it."""

    PLAN = "plan"
    ELECTION = "election"
    REGISTRATION = "registration"


def new_op() -> Op:
    """The op of a writer other than a replica: a client, or a command that writes on its own."""
    return Op(uuid.uuid4().hex)


def new_lease() -> int:
    """A lease id that no other client has chosen: 62 random bits. etcd's ids are positive 63-bit integers."""
    return secrets.randbits(62) | 1


@dataclass(frozen=True, slots=True)
class Transaction:
    """Writes that apply together if all guards hold, in one revision.

    Invariant: if it is sent twice, it applies at most once. So it must change at least one key that it guards
    by mod. It may instead create a key under a guard of 0, if every transaction that deletes this key changes
    another key that is guarded by mod. `op` is unique to the transaction, and stands in the values that it
    puts.
    """

    guards: tuple[Guard, ...]
    writes: tuple[Write, ...]
    op: Op
    purpose: Purpose = Purpose.PLAN

    def operations(self) -> int:
        """The count that etcd limits: max(compares, success, failure).

        The failure branch reads each guarded key, and each guarded prefix, once.
        """
        return max(len(self.guards), len(self.writes))

    def size(self) -> int:
        """Bytes of keys and values, without the encoding's overhead (about a third for base64)."""
        size = 16 * len(self.guards)
        for guard in self.guards:  # of each commit: a loop costs half of a generator
            size += (4 if guard.is_prefix else 2) * len(guard.key)
        for write in self.writes:
            size += len(write.key) + (len(write.value) if isinstance(write, Put) else 0)
        return size

    def marks(self, value: bytes) -> bool:
        """Whether this transaction wrote `value`: the value carries its `op`."""
        return f'"op":"{self.op}"'.encode() in value

    def applied_in(self, current: Mapping[str, KeyValue | None]) -> bool:
        """Whether a *refused* copy shows that an earlier copy of this transaction was applied.

        `current` holds the guarded keys as the refusal saw them. True if a key that we put carries our `op`.
        For a transaction that only deletes: true if all that it deletes is gone.
        """
        puts = [write for write in self.writes if isinstance(write, Put)]
        for write in puts:
            found = current.get(write.key)
            if found is not None and self.marks(found.value):
                return True
        return not puts and all(write.key in current and current[write.key] is None for write in self.writes)


class Refused(NamedTuple):
    """A guard did not hold, and nothing was applied. `current` has each guarded key as of `revision`.

    Of a guarded prefix, it has the first MOST_SHOWN keys that are newer than the guard allows, each by its
    own name, and not the prefix.
    """

    revision: int
    current: dict[str, KeyValue | None]


class Committed(NamedTuple):
    """The transaction was applied, once, at `revision`.

    `shown_by`: an earlier copy was applied although its answer was lost, as the refusal of a later one shows.
    `revision` is then the oldest of the keys that carry the `op`, since a copy of a value by hand carries it,
    too; or the refusal's, where nothing is left but deletions. What others wrote since is in `shown_by`.
    """

    revision: int
    shown_by: Refused | None = None

    @property
    def recovered(self) -> bool:
        """Whether the answer was lost."""
        return self.shown_by is not None

    @classmethod
    def recover(cls, transaction: Transaction, refusal: Refused) -> Self:
        """A refusal has shown that an earlier copy was applied (`Transaction.applied_in`)."""
        marked = [item.mod for item in refusal.current.values() if item and transaction.marks(item.value)]
        return cls(min(marked, default=refusal.revision), refusal)


class KeyEvent(NamedTuple):
    """A change of one key at revision `mod`. `item` is None for a deletion."""

    key: str
    mod: int
    item: KeyValue | None


class Batch(NamedTuple):
    """Changes in revision order. All changes up to and including `revision` are in it, or came before."""

    revision: int
    events: tuple[KeyEvent, ...]


class Pending(Protocol):
    """A transaction under way. If its context ends before `result`, it is given up: its outcome is open."""

    def result(self) -> Committed | Refused:
        """Wait for the outcome.

        Raises OutcomeUnknown if the deadline passes in doubt, StoreUnavailable if it was certainly not
        applied, RequestTooLarge, LeaseNotFound, StoreDenied, ClusterChanged.
        """
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


class Watch(Protocol):
    """An iterator of batches. It blocks until there is one.

    `close` may be called from any thread, and ends the iteration.
    """

    def __iter__(self) -> Iterator[Batch]:
        """Raises Compacted, ClusterChanged or StoreDenied; reconnects by itself after all other errors."""
        ...

    def close(self) -> None:
        """End the watch and its connection. Idempotent."""
        ...


class Store(Protocol):
    """See the module's docstring. Safe to use from several threads."""

    def get(self, key: str, *, deadline: float) -> tuple[KeyValue | None, int]:
        """The key (None: absent) and the store's revision, linearizable.

        Raises StoreUnavailable, StoreDenied, ClusterChanged.
        """
        ...

    def load(self, prefix: str, *, deadline: float, revision: int = 0) -> Snapshot:
        """All keys under `prefix` at one revision (0: the newest, linearizable), read in pages.

        Raises StoreUnavailable, StoreDenied, Compacted, ClusterChanged.
        """
        ...

    def pages(self, prefix: str, *, deadline: Callable[[], float]) -> Iterator[Page]:
        """What `load` returns of the newest revision, page by page as it is read. There is at least one page.

        `deadline` is asked before each page: whoever takes them in may take longer. Raises as `load`.
        """
        ...

    def watch(self, prefix: str, *, after: int, silence_seconds: float = 0.0, once: bool = False) -> Watch:
        """Changes under `prefix` at revisions above `after`.

        A watch that delivers nothing for `silence_seconds` (0: no limit) counts as dead. It connects again,
        and resumes where it was. With `once`, it ends by itself when it has delivered all that had changed
        before it connected; what another prefix has at that revision keeps it until the next change.
        """
        ...

    def begin(self, transaction: Transaction, *, deadline: float) -> Pending:
        """Send the transaction, and do not wait for the answer.

        It is applied once, or not at all: after an ambiguous answer, the same transaction is sent again. If
        it could not be sent, `result` sends it. Raises RequestTooLarge, ClusterChanged.
        """
        ...

    def commit(self, transaction: Transaction, *, deadline: float) -> Committed | Refused:
        """`begin`, and its `result`."""
        ...

    def grant(self, lease: int, ttl_seconds: int, *, deadline: float) -> int:
        """Create the lease with this id, which the caller has chosen. Returns the TTL that the server gave.

        An existing lease of this id counts as granted (a resend). The TTL is in seconds. Raises
        StoreUnavailable, StoreDenied.
        """
        ...

    def keep_alive(self, lease: int, *, deadline: float) -> int:
        """Renew the lease. Returns its TTL in seconds; 0 if it no longer exists.

        Raises StoreUnavailable, StoreDenied.
        """
        ...

    def revoke(self, lease: int, *, deadline: float) -> None:
        """End the lease and delete its keys. A missing lease is not an error.

        Raises StoreUnavailable, StoreDenied.
        """
        ...

    def renounce(self, why: str) -> None:
        """Take it for another store from now on: what it shows contradicts what it has shown.

        All calls raise ClusterChanged until it is loaded again, as one of another era.
        """
        ...

    def close(self) -> None:
        """Close all connections and watches. Idempotent."""
        ...
