"""The judge of shares: I9, I10 and the days that are closed, with sums of its own.

What an owner has used by a time t is `base + held × t`, where each hold counts from the step that admitted it
to the step that ended it, as the histories say. So one number for each owner says all, however often it was
charged. Where shares were not kept, or somebody wrote them by hand, it is not sure what was used: then a
rebuild is judged by its rule.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from controller.core.model import codec
from controller.core.model.task import Status
from controller.errors import CorruptValue, InvalidField
from controller.store.base import KeyEvent
from tests.simulation.oracle import HOLDING, USER, Move, Violation
from tests.simulation.share_parts import TimeOfAttempts, charged, check_parts, cut

if TYPE_CHECKING:
    from tests.simulation.oracle import Oracle

DAY = 24 * 3600 * 1000
Amounts = dict[str, int]
Parts = tuple[Amounts, Amounts]
NO_PARTS: Parts = ({}, {})


@dataclass
class Line:
    """What an owner holds, in how many tasks, and what it has used by t: base + held × t."""

    held: Amounts = field(default_factory=dict)
    tasks: int = 0
    base: Amounts = field(default_factory=dict)
    parts: Parts = NO_PARTS  # of holds that have ended: lost, stopping

    def used_at(self, at: int) -> Amounts:
        """What it has used by then."""
        return plus(self.base, self.held, at)

    def move(self, hold: Amounts, sign: int, at: int, tasks: int = 1) -> None:
        """A hold begins (1) or ends (-1), of so many tasks: a gang is one, with all its members."""
        self.tasks += sign * tasks
        self.held = plus(self.held, hold, sign)
        self.base = plus(self.base, hold, -sign * at)


class Stored(NamedTuple):
    """A share or an account as it stands in etcd."""

    held: Amounts
    tasks: int
    used: Amounts
    at: int
    whole: bool = False
    day: int = 0
    unread: int = 0  # a digest of what could not be read when it was rebuilt
    parts: Parts = NO_PARTS  # of a share: lost, stopping

    @property
    def base(self) -> Amounts:
        """See Line."""
        return plus(self.used, self.held, -self.at)

    def used_at(self, at: int) -> Amounts:
        """What it has used by then, if nothing changes."""
        return plus(self.used, self.held, max(0, at - self.at))


NOTHING = Stored({}, 0, {}, 0)


def plus(one: Amounts, other: Amounts, factor: int = 1) -> Amounts:
    """one + factor × other, without zeros."""
    total = dict(one)
    for name, amount in other.items():
        total[name] = total.get(name, 0) + factor * amount
    return {name: amount for name, amount in sorted(total.items()) if amount}


class ShareJudge:
    """See the module's docstring."""

    def __init__(self, oracle: Oracle) -> None:
        self._oracle = oracle
        self.lines: dict[str, dict[str, Line]] = {}  # pool → owner → line
        self.shares: dict[tuple[str, str], Stored] = {}
        self.frozen: dict[tuple[str, str], None] = {}  # cannot be read
        self._mended_at: dict[tuple[str, str], int] = {}  # share → when it could be read again
        self.unsure: dict[tuple[str, str], None] = {}
        self.accounts: dict[str, Stored] = {}
        self._bases: dict[str, Amounts] = {}  # pool → base of its account, since its shares are whole
        self._amiss: dict[str, None] = {}  # pools whose account was rebuilt on a ledger that is wrong
        self._edited: dict[str, int] = {}  # pools of which somebody edited a share → at which revision
        self._touched: dict[str, int] = {}  # pools whose ledger somebody wrote last → at which revision
        self.owners: dict[str, str] = {}  # task → whom it is charged to
        self.rebuilds = self.days = self.parts = 0
        self._time = TimeOfAttempts()

    def line(self, pool: str, owner: str) -> Line:
        """An owner's line."""
        return self.lines.setdefault(pool, {}).setdefault(owner, Line())

    def is_sure(self, pool: str) -> bool:
        """Whether leaders know what each owner holds of the pool as well as we do."""
        oracle = self._oracle
        account = self.accounts.get(pool)
        return (
            account is not None
            and account.whole
            and not oracle.amiss.get(pool)
            and pool not in oracle.frozen_ledgers
            and not any(of == pool for of, _ in (*self.frozen, *self.unsure))
            and not any(status.pool == pool for status in oracle.frozen.values())
        )

    def excuses(self, pool: str) -> bool:
        """Whether somebody has written shares of the pool by hand, or what they are summed from."""
        return pool in self._edited or not self.is_sure(pool)

    def on_revision(self, events: Sequence[KeyEvent], writer: str, moves: list[Move], op: str) -> None:
        """One revision, which the oracle has taken over."""
        moved: dict[tuple[str, str], None] = {}
        for move in moves:
            self._check_owner(move)
            self._move(move, moved)
        shares, ledgers, usage = self._sorted(events)
        for key, value in shares.items():
            self._take_share(key, value, writer, key in moved)
        self._take_moves(moved, shares, ledgers, op)
        for pool, value in ledgers.items():
            self._take_ledger(pool, value, writer, op)
        for key, value in usage.items():
            if writer != USER and value is not None:
                self._check_usage(key, value)
        if writer != USER:
            for pool in {pool: None for pool, _ in (*moved, *shares)}:
                self._check_pool(pool, [owner for of, owner in (*moved, *shares) if of == pool])

    def left(self) -> list[str]:
        """What must not be there once all has finished."""
        shared = (pool for pool in self._edited if self._oracle.claims.is_shared(pool))
        left = [f"the shares of {pool} are not rebuilt" for pool in shared if self._shows(pool)]
        if not self._oracle.frozen and not self.frozen:
            unread = (pool for pool, account in self.accounts.items() if account.unread)
            left += [
                f"what was not read of {pool} is not counted"
                for pool in unread
                if self._oracle.claims.is_shared(pool)
            ]
        for pool, line in ((pool, line) for pool, lines in self.lines.items() for line in lines.values()):
            if line.held or line.tasks:
                left.append(f"{pool}: {line.held} is held")
        return left

    def _shows(self, pool: str) -> bool:
        """Whether the pool's records show that a share was edited, to who did not see it.

        A leader that saw it may have ended before it could act, and another one has written the ledger since.
        """
        account, used = self.accounts.get(pool, NOTHING), dict[str, int]()
        for (of, owner), share in self.shares.items():
            line = self.line(pool, owner)
            if of == pool:
                used = plus(used, share.used_at(account.at))
                if (share.held, share.tasks) != (line.held, line.tasks):
                    return True
        return used != account.used

    def check_all(self) -> None:
        """I9 and I10 of all that is whole."""
        for pool, account in self.accounts.items():
            if account.whole and pool not in self._oracle.frozen_ledgers:
                self._check_pool(pool, [*self.lines.get(pool, ())])

    # -- what is held

    def _check_owner(self, move: Move) -> None:
        """A task is charged to the owner that its spec named when its first status was written, always."""
        oracle, owner = self._oracle, move.new.owner
        known = self.owners.get(move.task_id) if move.old is not None else None
        if known is None:
            spec = oracle.values.get(oracle.keys.task(move.task_id))
            known = owner
            if spec is not None and oracle.specs_put.get(move.task_id) == 1:
                stored = codec.decode_spec(move.task_id, spec)
                known = owner if stored.error else stored.spec.owner
        self.owners[move.task_id] = known
        if owner != known:
            raise Violation(
                "I9", f"{move.task_id} is charged to {owner}, and its owner is {known}", move.task_id
            )

    def _move(self, move: Move, moved: dict[tuple[str, str], None]) -> None:
        before, after = _holding(move.old), _holding(move.new)
        more = self._time.move(move)
        if before is not None and more != NO_PARTS:
            line = self.line(*before[:2])
            line.parts = charged(line.used_at(move.at), line.parts, more)
            self.parts += 1
        if before == after:
            return
        for place, sign in ((before, -1), (after, 1)):
            if place is not None:
                pool, owner, hold = place
                self.line(pool, owner).move(dict(hold), sign, move.at, tasks=not move.new.of_gang)
                self._bases[pool] = plus(self._bases.get(pool, {}), dict(hold), -sign * move.at)
                moved[pool, owner] = None

    def _take_moves(
        self,
        moved: dict[tuple[str, str], None],
        shares: dict[tuple[str, str], bytes | None],
        ledgers: dict[str, bytes | None],
        op: str,
    ) -> None:
        for pool, owner in moved:
            value = ledgers.get(pool)
            account = _account(value) if value is not None else self.accounts.get(pool)
            is_shared = all(one is not None and one.sharing for one in self._oracle.claims.versions(pool, op))
            if (pool, owner) in shares:
                if not is_shared and account is not None and not account.whole:
                    self.unsure[pool, owner] = None  # it ceased to be shared while the plan was made
                    continue
                if account is None or not account.whole:
                    raise Violation("I9", f"{pool}: the share of {owner} was written, and shares_op was not")
                if not (before := self.accounts.get(pool)) or not before.whole:
                    raise Violation("I9", f"{pool}: a hold changed while its shares were being rebuilt")
                continue
            if account is not None and account.whole:
                raise Violation("I9", f"{pool}: what {owner} holds changed, and its share did not")
            if is_shared:
                raise Violation("I9", f"{pool}: a hold changed without its share, though the pool is shared")
            self.unsure[pool, owner] = None

    # -- what is written

    def _sorted(
        self, events: Sequence[KeyEvent]
    ) -> tuple[
        dict[tuple[str, str], bytes | None], dict[str, bytes | None], dict[tuple[str, str], bytes | None]
    ]:
        shares, ledgers, usage = {}, {}, {}
        for event in events:
            kind, *names = event.key.removeprefix(self._oracle.keys.prefix).split("/")
            value = event.item.value if event.item is not None else None
            if kind == "shares":
                shares[names[0], names[1]] = value
            elif kind == "ledgers":
                ledgers[names[0]] = value
            elif kind == "usage":
                usage[names[0], names[1]] = value
        return shares, ledgers, usage

    def _take_share(self, key: tuple[str, str], value: bytes | None, writer: str, moved: bool) -> None:
        pool, owner = key
        before, after = self.shares.get(key, NOTHING), _share(value)
        is_new = key not in self.shares and key not in self.frozen
        if writer == USER:
            if after is None:
                self.frozen[key] = None
                return
            if self.frozen.pop(key, 0) is None:
                self._mended_at[key] = self._oracle.etcd.revision
            self.unsure[key] = None
            self._edited[pool] = self._oracle.etcd.revision
            self.shares[key] = after
            return
        if after is None or value is None:
            raise Violation("I9", f"the share of {owner} in {pool} was damaged or deleted by {writer}")
        if key in self.frozen:
            raise Violation("layout", f"{writer} wrote over a share that it cannot have read: {pool}/{owner}")
        # what an edited one gets follows from the pool's account, and is settled by the last part
        is_edited = key in self.unsure and pool in self._edited
        if not is_edited:
            # parts are cut if somebody wrote too much
            parts = NO_PARTS if key in self.unsure else before.parts
            _check_grows(f"the share of {owner} in {pool}", before._replace(parts=parts), after)
        if key in self.unsure and not moved and not is_edited:  # what it held is charged, or what it holds
            now = plus(before.used, after.held, max(0, after.at - before.at))
            then = before.used_at(after.at)
            if any(amount > max(now.get(name, 0), then.get(name, 0)) for name, amount in after.used.items()):
                raise Violation("I10", f"{pool}: the rebuilt share of {owner} has used {after.used}")
            self._check_rebuilt_parts(key, before, after, is_new)
            self._settle(key, after)
        self.shares[key] = after

    def _check_rebuilt_parts(self, key: tuple[str, str], before: Stored, after: Stored, is_new: bool) -> None:
        """They stay. If all is new, what running attempts have come to before is taken off."""
        expected = cut(before.parts, before.used)
        account = self.accounts.get(key[0])
        if is_new and (account is None or not account.at):
            lost, stopping = self._open(*key, after.at)
            expected = plus({}, lost, -1), plus({}, stopping, -1)
        if after.parts != expected:
            raise Violation("I10", f"{key}: rebuilt with the parts {after.parts}, which were {expected}")

    def _open(self, pool: str, owner: str, at: int) -> Parts:
        lost, stopping = NO_PARTS
        for task_id, status in self._oracle.statuses.items():
            if (status.pool, status.owner) == (pool, owner) and status.state in HOLDING:
                more = self._time.of(task_id, status, at)
                lost, stopping = plus(lost, more[0]), plus(stopping, more[1])
        return lost, stopping

    def _settle(self, key: tuple[str, str], share: Stored) -> None:
        """From now on it is sure again what the owner has used: as much as its share says."""
        self.unsure.pop(key, None)
        self.line(*key).base = share.base
        self.line(*key).parts = share.parts

    def _take_ledger(self, pool: str, value: bytes | None, writer: str, op: str) -> None:
        before, after = self.accounts.get(pool, NOTHING), _account(value)
        if after is None:
            return  # the oracle knows that it is frozen
        self.accounts[pool] = after
        if writer == USER:
            self._touched[pool] = self._oracle.etcd.revision
            return
        touched = self._touched.pop(pool, 0)
        if not self._oracle.amiss.get(pool) and pool not in {**self._amiss, **self._edited}:
            _check_grows(f"the ledger of {pool}", before, after)
        if not after.whole:
            return
        if before.day > after.day:
            raise Violation("I10", f"{pool}: its open day went back")
        if not before.whole or after.unread != before.unread:
            self._finish_rebuild(pool, after, max(touched, self._oracle.sent[op][0]))
        elif after.base != self._bases.get(pool, {}):
            raise Violation(
                "I10", f"{pool}: it has used {after.base} and the holds were {self._bases.get(pool, {})}"
            )

    def _finish_rebuild(self, pool: str, account: Stored, known: int) -> None:
        """`known`: up to this revision, the leader knew what stood there."""
        self.rebuilds += 1
        self._bases[pool] = account.base
        if account.unread:  # it is rebuilt again, once that can be read
            self._amiss[pool] = None
            self.unsure.update(dict.fromkeys((pool, owner) for owner in self.lines.get(pool, ())))
            return
        if known < self._edited.get(pool, 0):
            return  # it may have known the share as it was before; whoever edited that has the rest to do
        keys = {(pool, owner) for owner in self.lines.get(pool, ())}
        keys |= {key for key in self.shares if key[0] == pool}
        for key in sorted(keys - set(self.frozen)):
            if key in self.unsure:
                self._settle(key, self.shares.get(key, NOTHING))
        used: Amounts = {}
        for key in keys:
            used = plus(used, self.shares.get(key, NOTHING).used_at(account.at))
        frozen = any(key in self.frozen for key in keys)
        if used != account.used and not frozen:
            raise Violation("I10", f"{pool}: its owners have used {used}, its rebuilt ledger {account.used}")
        self._edited.pop(pool, None)
        self._amiss.pop(pool, None)
        if self._oracle.amiss.get(pool) or frozen:
            self._amiss[pool] = None
        self._check_pool(pool, [owner for _, owner in keys])

    def _check_pool(self, pool: str, owners: list[str]) -> None:
        """I9 of these owners, and I10 of all, if the shares are whole."""
        account = self.accounts.get(pool)
        if account is None or not account.whole:
            return
        for owner in owners:
            key, line = (pool, owner), self.line(pool, owner)
            share = self.shares.get(key, NOTHING)
            if key in self.unsure or key in self.frozen:
                continue
            if (share.held, share.tasks) != (line.held, line.tasks):
                raise Violation(
                    "I9",
                    f"{pool}: the share of {owner} says {share.held} in {share.tasks} tasks, it holds"
                    f" {line.held} in {line.tasks}",
                    *self._tasks_of(pool, owner),
                )
            if share.base != line.base:
                raise Violation(
                    "I10",
                    f"{pool}: {owner} is charged {share.used} at {share.at}, its holds were"
                    f" {plus(line.base, line.held, share.at)}",
                    *self._tasks_of(pool, owner),
                )
            if share.parts != line.parts:
                raise Violation(
                    "I10",
                    f"{pool}: lost and stopping of {owner} are {share.parts}, and of its holds {line.parts}",
                    *self._tasks_of(pool, owner),
                )
            check_parts(f"{pool}, {owner}", share.used, *share.parts)
            if share.at > (account.day + 1) * DAY:
                raise Violation("I10", f"{pool}: {owner} was charged past a day that is not closed")
        if pool in {**self._amiss, **self._edited} or self._oracle.amiss.get(pool):
            return
        if any(of == pool for of, _ in (*self.frozen, *self.unsure)):
            return
        total: Amounts = {}
        for (of, _), share in self.shares.items():
            total = plus(total, share.base) if of == pool else total
        if total != account.base:
            raise Violation("I10", f"{pool}: the owners' use {total} is not the ledger's, {account.base}")

    def _check_usage(self, key: tuple[str, str], value: bytes) -> None:
        """A closed day says what each owner had used as it ended, to the millisecond."""
        raw, pool = json.loads(value), key[1].partition(".")[0]
        end, (known, _) = raw["at"], self._oracle.sent[raw["op"]]
        self.days += 1
        for owner, line in self.lines.get(pool, {}).items():
            share = (pool, owner)
            if share in self.unsure or share in self.frozen or share not in self.shares:
                continue
            if self._mended_at.get(share, 0) > known:
                continue
            used, told = plus(line.base, line.held, end), _amounts(raw["used"].get(owner, {}))
            if used != told:
                raise Violation("I10", f"{key}: {owner} had used {used} by {end}, and {told} is written")
            parts = charged(used, line.parts, self._open(pool, owner, end))
            written = tuple(_amounts(raw.get(name, {}).get(owner, {})) for name in ("lost", "stopping"))
            if parts != written:
                raise Violation("I10", f"{key}: of {owner}, {parts} by {end}, and {written} is written")

    def _tasks_of(self, pool: str, owner: str) -> list[str]:
        return [
            task
            for task, status in self._oracle.statuses.items()
            if status.pool == pool and status.owner == owner
        ]


def _check_grows(what: str, before: Stored, after: Stored) -> None:
    """`used` and the time of the last charge never fall."""
    pairs = ((before.used, after.used), *zip(before.parts, after.parts, strict=True))
    fallen = [name for old, new in pairs for name, amount in old.items() if new.get(name, 0) < amount]
    if fallen or after.at < before.at:
        raise Violation(
            "I10",
            f"{what} has used {after.used} {after.parts} by {after.at}, after {before.used} {before.parts} by"
            f" {before.at}",
        )


def _holding(status: Status | None) -> tuple[str, str, tuple[tuple[str, int], ...]] | None:
    if status is None or status.state not in HOLDING:
        return None
    return status.pool, status.owner, tuple(status.hold.items())


def _share(value: bytes | None) -> Stored | None:
    """None: it cannot be read."""
    if value is None:
        return NOTHING
    try:
        raw = json.loads(value)
        parts = _amounts(raw.get("lost", {})), _amounts(raw.get("stopping", {}))
        return Stored(_held(raw), raw["running"], _amounts(raw["used"]), raw["at"], parts=parts)
    except (ValueError, KeyError, InvalidField):
        return None


def _account(value: bytes | None) -> Stored | None:
    """The part of a ledger that sharing has; None: it cannot be read."""
    try:
        raw = json.loads(value or b"")
        codec.decode_ledger(value or b"")
    except (ValueError, CorruptValue):
        return None
    op = raw.get("op")
    whole = bool(op) and raw.get("shares_op") == op
    used, unread = _amounts(raw.get("used", {})), raw.get("unread", 0)
    return Stored(_held(raw), 0, used, raw.get("at", 0), whole, raw.get("day", 0), unread)


def _held(raw: dict[str, Any]) -> Amounts:
    return dict(codec.parse_balance(raw["held"]).items())


def _amounts(raw: dict[str, str]) -> Amounts:
    return {name: int(text) for name, text in sorted(raw.items()) if int(text)}
