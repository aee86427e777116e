"""The part of the model that belongs to pools: definitions, ledgers, and what is kept of shared ones."""

from __future__ import annotations

import zlib

from controller.core.model import capacities, claims, codec
from controller.core.model.claims import Claim
from controller.core.model.following_pools import FollowingPools
from controller.core.model.lifecycle import HOLDING
from controller.core.model.lone_shares import LoneShares
from controller.core.model.records import Change, Ledger, PoolRecord, Task, decode_ledger
from controller.core.model.shares import NO_ACCOUNT, NO_SHARE, Share, decode_share
from controller.core.model.touched import Touched
from controller.errors import CorruptValue

OF_POOLS = ("pools", "ledgers", "shares", claims.KIND, capacities.KIND)


class PoolRecords(FollowingPools):
    """See the module's docstring. `Model` is the whole."""

    def __init__(self) -> None:
        super().__init__()
        self.ledgers: dict[str, Ledger] = {}
        self.shares: dict[str, dict[str, Share]] = {}  # pool → owner → share
        self.claims: dict[str, dict[str, Claim]] = {}  # pool → task → claim
        self.shared: dict[str, None] = {}  # the pools of which shares are kept
        self.charged_at = 0  # ms; no charge and no step of a history is later
        self.lone_shares = LoneShares()

    def put_ledger(self, pool: str, ledger: Ledger, mod: int) -> Touched:
        """A leader's own commit: a ledger as it was written at revision `mod`."""
        if mod > self._known("ledgers", (pool,)):
            if pool in self.lone_shares:
                self.lone_shares.note_end(pool, self.ledger(pool), ledger)
            self.ledgers[pool] = ledger._replace(mod=mod)
            if ledger.account is not NO_ACCOUNT:
                self.charged_at = max(self.charged_at, ledger.account.charged_until)
            self._mods["ledgers", (pool,)] = mod
            self.indexes.touched.pools[pool] = None
        return self.indexes.take_touched()

    def put_share(self, pool: str, owner: str, share: Share, mod: int) -> None:
        """A leader's own commit: a share as it was written at revision `mod`, with its pool's ledger."""
        if mod > self._known("shares", (pool, owner)):
            self.shares.setdefault(pool, {})[owner] = share._replace(mod=mod)
            self._mods["shares", (pool, owner)] = mod
            self._note_share(pool, owner)

    def ledger(self, pool: str) -> Ledger:
        """A pool's ledger; empty if there is none."""
        return self.ledgers.get(pool) or Ledger()

    def share(self, pool: str, owner: str) -> Share:
        """An owner's share of a pool; an empty one if there is none."""
        return self.shares.get(pool, {}).get(owner, NO_SHARE)

    def known(self, kind: str) -> list[tuple[str, tuple[str, ...], int]]:
        """The records of a kind that is not of tasks: kind, names, mod. The cost follows their number."""
        return [(of, names, mod) for (of, names), mod in self._mods.items() if of == kind]

    def pool_is_frozen(self, pool: str) -> bool:
        """Whether the pool's ledger does not parse. Nothing that changes it can be written."""
        return bool(self.quarantine) and ("ledgers", (pool,)) in self.quarantine

    def share_is_frozen(self, pool: str, owner: str) -> bool:
        """Whether the owner's share does not parse. Nothing that changes it can be written."""
        return bool(self.quarantine) and ("shares", (pool, owner)) in self.quarantine

    def is_shared(self, pool: str) -> bool:
        """Whether shares are kept of the pool."""
        return pool in self.shared

    def is_rebuilding(self, pool: str) -> bool:
        """Whether the pool's shares are not whole. Until the leader has rebuilt them, no hold changes.

        They are rebuilt again once something can be read that could not be read at the last time, and once a
        share was written without the ledger. A count would not do: one may be mended while another breaks.
        """
        if pool not in self.shared:
            return False
        ledger = self.ledger(pool)
        return (
            not ledger.shares_are_whole
            or pool in self.lone_shares
            or (ledger.account.unread > 0 and self.unread(pool) != ledger.account.unread)
        )

    def unread(self, pool: str) -> int:
        """A digest of the statuses and shares that cannot be read and may belong to the pool; 0 if none."""
        unread = sorted(
            "/".join((kind, *names))
            for kind, names in self.quarantine
            if (names[0] == pool if kind == "shares" else kind == "states")  # its spec may be a later one
        )
        return 1 + zlib.crc32("\n".join(unread).encode()) if unread else 0

    def may_not_change(self, task: Task) -> bool:
        """Whether the task's hold cannot change now, because a ledger or a share cannot be written."""
        pool = task.pool
        return self.pool_is_frozen(pool) or (
            self.is_shared(pool) and (self.is_rebuilding(pool) or self.share_is_frozen(pool, task.owner))
        )

    def _apply_to_pool(self, change: Change) -> None:
        name = change.names[0]
        self._note_mod(change)
        self.indexes.touched.pools[name] = None
        try:
            if change.kind == "pools":
                before = self.pools.pop(name, None)
                try:
                    if change.value is not None:
                        self.pools[name] = PoolRecord(codec.decode_pool(name, change.value), change.mod)
                finally:  # one that cannot be read is not defined
                    self._note_capacity(name)
                    self._note_sharing(name)
                    if before is None and name in self.pools:
                        self._look_again(name)  # attempts may wait to be started
                if name in self.pools and self.pools[name].pool.require_attested:
                    self.indexes.touched.tasks.update(dict.fromkeys(self.indexes.queues.get(name, ())))
                self.indexes.size_again(name, before)
            elif change.kind == "shares":
                self._apply_share(name, change.names[1], change)
            elif change.kind == capacities.KIND:
                self._apply_capacity(name, change)
            elif change.kind == claims.KIND:
                self._apply_claim(name, change.names[1], change)
            else:
                self._apply_ledger(name, change)
        except CorruptValue as error:
            self._quarantine(change, str(error))

    def _note_sharing(self, name: str) -> None:
        record = self.pools.get(name)
        if record is not None and record.pool.sharing is not None:
            if name not in self.shared:
                held = (task for task in self.tasks.values() if task.pool == name and task.state in HOLDING)
                self.indexes.holders.keep(name, [task for task in held if "states" not in task.frozen])
            self.shared[name] = None
        elif self.shared.pop(name, 0) is None:
            self.indexes.holders.drop(name)
            self._look_again(name)  # its tasks may have waited for its shares

    def _apply_ledger(self, pool: str, change: Change) -> None:
        self.lone_shares.note_ledger(pool, change.mod)
        before, was_rebuilding = self.ledger(pool), self.is_rebuilding(pool)
        self.ledgers.pop(pool, None)
        if change.value is not None:
            ledger = self.ledgers[pool] = decode_ledger(change)
            self.charged_at = max(self.charged_at, ledger.account.charged_until)
            self.lone_shares.note_end(pool, before, ledger)
        if was_rebuilding and not self.is_rebuilding(pool):
            self._look_again(pool)

    def _apply_share(self, pool: str, owner: str, change: Change) -> None:
        self._note_share(pool, owner)
        shares = self.shares.setdefault(pool, {})
        shares.pop(owner, None)
        if change.value is not None:
            shares[owner] = decode_share(change.value, change.mod)
        elif not shares:
            del self.shares[pool]
        self.lone_shares.note_share(pool, owner, change.mod, self._mods.get(("ledgers", (pool,)), 0))

    def _apply_claim(self, pool: str, task_id: str, change: Change) -> None:
        known = self.claims.setdefault(pool, {})
        known.pop(task_id, None)
        if change.value is not None:
            known[task_id] = claims.decode_claim(change.value)
        elif not known:
            del self.claims[pool]

    def _look_again(self, pool: str) -> None:
        """Look again at the tasks of the pool, which had to wait for its ledger or its shares."""
        self.indexes.touched.tasks.update(
            (task.id, None) for task in self.indexes.holding.values() if task.pool == pool
        )

    def _note_share(self, pool: str, owner: str) -> None:
        queue = self.indexes.queues.get(pool)
        if queue is not None:
            queue.touched[owner] = None
