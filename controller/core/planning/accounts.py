"""Plans for the shares of pools: shares are rebuilt where they are not whole, and each day is closed.

Shares are not whole if something other than a leader that knows them wrote one, or the ledger: a repair, an
older release, a hand; or if the pool was not shared so far. While they are rebuilt, no hold of the pool
changes, so that several transactions can write them. Each of these also writes the ledger, whose `shares_op`
then says by which rule, and the last one says that the shares are whole. So whoever leads goes on by the same
rule. If shares alone were edited, the pool's account is right: they get what it has without the others. Else,
what was used in between is an estimate: as if an owner had held until now what its share says, or, where that
does not agree, from what its tasks hold now.

A day (UTC) is closed before anything is charged in the next one. `usage/<day>/<pool>` then says what each
owner had used by its end, since the beginning, and how much of it was lost or being stopped.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any, NamedTuple

from controller.core.model import codec
from controller.core.model.model import Model
from controller.core.model.op import Op
from controller.core.model.parts import NO_PARTS, parts_of, times
from controller.core.model.quarantine import Caught, unreadable_shares
from controller.core.model.resources import ZERO, Vector
from controller.core.model.shares import (
    AHEAD_MS,
    APART_MS,
    DAY_MS,
    FRACTION,
    Account,
    Share,
    averaged,
    digits,
    encode_share,
    time_after,
    used_by,
)
from controller.core.model.task import Status
from controller.core.planning.draft import BYTES_PER_OPERATION, Limits
from controller.core.planning.plan import Plan, RecordChange
from controller.core.planning.transitions import Moment

KIND = "usage"
OWNERS_PER_KEY, AMOUNTS_PER_KEY = 500, 2000  # of a closed day; an amount takes about 100 bytes at most
DAYS_KEPT = 400
AGAIN_SECONDS = 60.0  # until a pool that has raised an error is tried again
RESERVED = 3  # operations: the term, the ledger, and one to spare

# `shares_op` of a ledger while several transactions rebuild its shares. As shares were found at the first of
# them, they agreed with the account, and what they say was held is charged; or they did not.
TRUSTED, EDITED = Op("rebuilding"), Op("rebuilding-edited")
# Shares alone were edited, and the account is right. The transaction's own op follows, so that this ends once
# anything else writes the ledger.
COUNTED = "rebuilding-counted "


class _Rebuild(NamedTuple):
    """A rebuild that goes on: the ledger's op as this leader's last transaction of it leaves it, and the
    owners that are still to be looked at, in reverse. If none are, all are looked at once more.
    """

    op: Op
    left: list[str]


class _Closing(NamedTuple):
    """A day that takes several transactions to close: the ledger's op as the last one left it, and how many
    of the day's keys are still to write. The first key is the last: a reader counts no day that lacks it.
    """

    op: Op
    left: int


class Accounts:
    """See the module's docstring."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._charged = 0
        self._rebuilds: dict[str, _Rebuild] = {}
        self._closings: dict[str, _Closing] = {}
        self._broken: dict[str, float] = {}  # pools that have raised an error → when they are tried again
        self._removed_day = 0  # on which what is too old was removed
        self._rebuilt = False  # by the last plan
        self.gave_way = False  # a rebuild goes on, and was left out of the last look at what to plan
        self._looked_at: dict[str, None] = {}  # pools that have been shared since they were looked at
        self.look()

    def look(self) -> None:
        """Doubt the sums of pools that are new in this term, or are shared again, where they do not agree.

        Somebody may have deleted a share while no replica was alive to see it, or the pool was not shared.
        """
        model = self._model
        if self._looked_at.keys() == model.shared.keys():
            return
        for pool in model.shared:
            if pool in self._looked_at or model.pool_is_frozen(pool):
                continue
            if model.is_rebuilding(pool) or model.unread(pool):
                continue
            wrong = _wrong(model, pool)
            if wrong or not _agree(model, pool):
                model.lone_shares.doubt(pool, wrong, model.revision)
        self._looked_at = dict(model.shared)

    def charged_at(self, now: float) -> int:
        """The time to record and to charge, in ms. It never goes back, within the term and across terms."""
        clock = round(now * 1000)
        if clock < self._model.charged_at:
            clock = time_after(self._model.charged_at, clock)
        if clock > self._charged:
            self._charged = clock
        return self._charged

    def is_due(self, now: float) -> bool:
        """Whether there is something to plan."""
        at = self.charged_at(now)
        return any(self._must_rebuild(pool, at) or self._is_over(pool, at) for pool in self._served(now))

    def next_due(self) -> float | None:
        """When the next day ends that must be closed, in seconds since the epoch; None for never."""
        shared = (pool for pool in self._model.shared if pool not in self._broken)
        days = (self._model.ledger(pool).account.day for pool in shared)
        due = [(day + 1) * DAY_MS / 1000 for day in days if day]
        return min([*due, *self._broken.values()], default=None)

    def plan(self, moment: Moment, limits: Limits) -> Plan | None:
        """The next step for the first pool that needs one; None if none does.

        After each transaction of a rebuild it gives way once, so that other pools need not wait for its end.
        """
        gives_way, self._rebuilt, self.gave_way = self._rebuilt, False, False
        for pool in self._served(moment.now):
            try:
                records = self._records(pool, moment, limits, gives_way=gives_way)
            except Exception as error:  # noqa: BLE001  # counted; the other pools are served
                self._broken[pool] = moment.now + AGAIN_SECONDS
                self._model.caught.append(Caught("accounts", pool, error))
                continue
            if records is not None:
                return Plan(moment.op, records=records)
        return self._remove_old(moment, limits)

    def _remove_old(self, moment: Moment, limits: Limits) -> Plan | None:
        """Remove the days that are too old, also those of pools that are gone. It is due once a day."""
        today = moment.at // DAY_MS
        if self._removed_day == today:
            return None
        oldest, known = day_name(today - DAYS_KEPT), self._model.known(KIND)
        old = [RecordChange(kind, names, mod, None) for kind, names, mod in known if names[0] < oldest]
        if len(old) < limits.operations:
            self._removed_day = today
        return Plan(moment.op, records=old[: limits.operations - 1]) if old else None

    def _served(self, now: float) -> list[str]:
        frozen = self._model.pool_is_frozen
        if self._broken:
            self._broken = {pool: at for pool, at in self._broken.items() if at > now}
        return [pool for pool in self._model.shared if pool not in self._broken and not frozen(pool)]

    def _records(
        self, pool: str, moment: Moment, limits: Limits, *, gives_way: bool
    ) -> list[RecordChange] | None:
        if self._must_rebuild(pool, moment.at):
            if self._model.ledger(pool).mod > self._model.revision and not self._left(pool):
                return None  # the watch has yet to show what was written before the ledger
            if gives_way:
                self.gave_way = True
                return None
            self._rebuilt = True
            return self._rebuild(pool, moment, limits)
        return self._close(pool, moment, limits) if self._is_over(pool, moment.at) else None

    def _must_rebuild(self, pool: str, at: int) -> bool:
        account = self._model.ledger(pool).account
        return self._model.is_rebuilding(pool) or account.charged_until > at + AHEAD_MS

    def _is_over(self, pool: str, at: int) -> bool:
        return self._model.ledger(pool).account.day < at // DAY_MS

    def _left(self, pool: str) -> list[str]:
        """The owners that a rebuild has yet to look at, if this leader wrote the ledger last in it."""
        rebuild = self._rebuilds.get(pool)
        return rebuild.left if rebuild is not None and rebuild.op == self._model.ledger(pool).op else []

    def _rebuild(self, pool: str, moment: Moment, limits: Limits) -> list[RecordChange]:
        """The next transaction that rebuilds the pool's shares. Each looks only at owners that are left.

        The last one looks at all of them, and finds them as they should be, but for those that it writes. It
        knows all that was written before the ledger, and the ledger says that shares are being rebuilt: so
        whoever has seen a share edited sees that it is put right.
        """
        ledger = self._model.ledger(pool)
        account = ledger.account
        day = min(account.day, moment.at // DAY_MS)
        at = moment.at
        if not account.at:  # so far, no account tells until when the parts before are charged
            charged = (share.at for share in self._model.shares.get(pool, {}).values())
            at = max([at, *(until for until in charged if until <= at + APART_MS)])
        at = min(at, (day + 1) * DAY_MS - 1) if day else at  # the rest once that day is closed
        left, edited = self._left(pool), self._model.lone_shares.owners(pool)
        is_whole = not left and not ledger.shares_are_whole
        if not left:
            owners = {*self._model.indexes.holders.counted_owners(pool), *self._model.shares.get(pool, {})}
            left = sorted(owners | edited, reverse=True)
        rule = self._rule(pool, moment.at)
        if rule == COUNTED:
            account = account.changed(ledger.held, at)
        elif account.at:
            account = account._replace(at=at)
        size, written = 0, dict[str, Share]()
        while left:
            is_edited = left[-1] in edited
            trusts = rule == TRUSTED or (rule == COUNTED and not is_edited)
            share = self._mended(pool, left[-1], at, trusts=trusts, is_edited=is_edited)
            if share is not None:
                size += len(encode_share(share, moment.op)) + BYTES_PER_OPERATION
                if written and (len(written) + RESERVED > limits.operations or size > limits.bytes // 2):
                    break
                written[left[-1]] = share
            left.pop()
        if rule == COUNTED and not left:
            self._make_up(pool, account, written, limits.operations - RESERVED)
        if left or not is_whole:
            self._rebuilds[pool] = _Rebuild(moment.op, left)
            account = account._replace(shares_op=Op(rule + moment.op if rule == COUNTED else rule))
        else:
            self._rebuilds.pop(pool, None)
            account = self._whole(pool, at, written, moment)._replace(day=day or at // DAY_MS)
        records = []
        for owner, share in written.items():
            mod = self._model.mod_of("shares", (pool, owner))
            records.append(RecordChange("shares", (pool, owner), mod, encode_share(share, moment.op)))
        whole = ledger._replace(account=account)
        return [*records, RecordChange("ledgers", (pool,), ledger.mod, whole.encode(moment.op))]

    def _rule(self, pool: str, at: int) -> str:
        """TRUSTED, EDITED or COUNTED."""
        ledger = self._model.ledger(pool)
        shares_op = ledger.account.shares_op
        if shares_op in (TRUSTED, EDITED):
            return shares_op
        is_counted = ledger.shares_are_whole or shares_op == COUNTED + ledger.op
        is_counted = is_counted and ledger.account.charged_until <= at + AHEAD_MS
        is_counted = is_counted and ledger.held == self._model.holds.get(pool, ZERO)
        if is_counted and self._model.lone_shares.owners(pool) and not self._model.unread(pool):
            return COUNTED
        return TRUSTED if _agree(self._model, pool) else EDITED

    def _make_up(self, pool: str, account: Account, written: dict[str, Share], room: int) -> None:
        """Have the shares that were edited make up, with the others, what the account has.

        First those of which it shows: somebody may have written others as they were.
        """
        at, edited = account.at, self._model.lone_shares.owners(pool)
        missing = account.used - used_by({**self._model.shares.get(pool, {}), **written}.values(), at)
        for owner in sorted(edited, key=lambda owner: (owner not in written, owner)):
            share = written.get(owner) or self._model.share(pool, owner)
            used = share.used_at(at)
            names = {**used, **missing}
            right = Vector({name: max(0, used.get(name) + missing.get(name)) for name in names})
            if right != used and (owner in written or len(written) < room):
                missing -= right - used
                written[owner] = share._replace(used=right, at=at).cut()

    def _whole(self, pool: str, at: int, written: dict[str, Share], moment: Moment) -> Account:
        """The pool's account once its shares are whole: all of them, with those that are written with it."""
        ledger = self._model.ledger(pool)
        used = used_by({**self._model.shares.get(pool, {}), **written}.values(), at)
        if unreadable_shares(self._model.quarantine, pool):
            used = ledger.account.used_at(ledger.held, at)  # what is not read has been used all the same
        unread = self._model.unread(pool)
        return ledger.account._replace(used=used, at=at, shares_op=moment.op, unread=unread)

    def _mended(self, pool: str, owner: str, at: int, *, trusts: bool, is_edited: bool) -> Share | None:
        """What the owner's share should be; None if it is that, or cannot be read."""
        sharing, account = self._model.pools[pool].pool.sharing, self._model.ledger(pool).account
        assert sharing is not None
        if self._model.share_is_frozen(pool, owner):
            return None
        stored = self._model.share(pool, owner)
        share = _plausible(stored, self._model.pools[pool].pool.capacity)
        statuses = list(self._model.indexes.holders.counted(pool, owner))
        hold = sum((status.hold for status in statuses), ZERO)
        is_damaged = share.at > at + (0 if is_edited else APART_MS)
        running = sum(status.is_one_of_running for status in statuses)
        if (stored.held, stored.running, share) == (hold, running, stored) and not is_damaged:
            return None
        used = share.used_at(at)  # as if it had held until now what it says
        if not (share.mod and trusts) or is_damaged:
            since = share.at if account.at and not is_damaged else at
            used = share.used + _used_since(since, at, statuses)
        lost, stopping = share.lost, share.stopping
        if not (share.mod or account.at):  # what was before is not charged; each hold brings it when it ends
            for parts in (parts_of(status, at) for status in statuses):
                lost, stopping = lost - parts.lost, stopping - parts.stopping
        return share._replace(
            held=hold,
            running=running,
            used=used,
            recent=averaged(share, at, sharing.half_life_seconds),
            at=at if is_damaged else max(at, share.at),
            lost=lost,
            stopping=stopping,
        )

    def _close(self, pool: str, moment: Moment, limits: Limits) -> list[RecordChange]:
        """Write what was used by the end of each day that is over."""
        ledger, today = self._model.ledger(pool), moment.at // DAY_MS
        records: list[RecordChange] = []
        size, day = 0, max(ledger.account.day, today - DAYS_KEPT)
        begun, left = self._closings.pop(pool, None), 0
        while day < today and not left:
            keys = list(self._usage(pool, day, moment))
            if begun is not None and begun.op == ledger.op:
                del keys[begun.left :]
            begun, left = None, len(keys)
            while left:
                size += len(keys[left - 1].value or b"") + BYTES_PER_OPERATION
                if records and (len(records) + RESERVED >= limits.operations or size > limits.bytes // 2):
                    break
                left -= 1
                records.append(keys[left])
            day += not left
        if left:
            self._closings[pool] = _Closing(moment.op, left)
        closed = ledger._replace(account=ledger.account._replace(day=day, shares_op=moment.op))
        records.append(RecordChange("ledgers", (pool,), ledger.mod, closed.encode(moment.op)))
        return records

    def _usage(self, pool: str, day: int, moment: Moment) -> Iterator[RecordChange]:
        """The keys of a day that is over. They are the same whoever makes them: nothing is charged since."""
        end = (day + 1) * DAY_MS
        running = self._model.indexes.open_parts(pool, end)
        number, left = 0, sorted(self._model.shares.get(pool, {}).items(), reverse=True)
        while left or not number:
            document: dict[str, Any] = {"version": 1, "at": end, "used": {}, "op": moment.op}
            amounts = 0
            while left and amounts < AMOUNTS_PER_KEY and len(document["used"]) < OWNERS_PER_KEY:
                owner, share = left.pop()
                parts = share.parts_at(running.get(owner, NO_PARTS), end)
                for name, sums in ("used", share.used_at(end)), *parts._asdict().items():
                    if sums or name == "used":
                        document.setdefault(name, {})[owner] = digits(sums)
                        amounts += len(sums)
            names = day_name(day), pool if not number else f"{pool}.{number}"
            yield RecordChange(KIND, names, self._model.mod_of(KIND, names), codec.encode(document))
            number += 1


def _agree(model: Model, pool: str) -> bool:
    """Whether the shares say of what was used what the account does, when that was charged last.

    If not, somebody has written a share, and what it says it held is not to be trusted.
    """
    account = model.ledger(pool).account
    return account.used == used_by(model.shares.get(pool, {}).values(), account.at)


def _wrong(model: Model, pool: str) -> list[str]:
    """The owners whose shares do not say what their tasks hold. The cost follows the holds."""
    found, holders = [], model.indexes.holders
    for owner in sorted({*holders.counted_owners(pool), *model.shares.get(pool, {})}):
        statuses = list(holders.counted(pool, owner))
        hold = sum((status.hold for status in statuses), ZERO)
        share = model.share(pool, owner)
        if (share.held, share.running) != (hold, sum(status.is_one_of_running for status in statuses)):
            found.append(owner)
    return found


def _plausible(share: Share, capacity: Vector) -> Share:
    """The share as `cut`, and with no more on average than there is to hold: it may have been edited."""
    share = share.cut()
    recent = {name: min(amount, FRACTION * capacity.get(name)) for name, amount in share.recent.items()}
    return share._replace(recent=Vector(recent))


def _used_since(since: int, at: int, statuses: Iterable[Status]) -> Vector:
    """What these tasks have used since then."""
    used = ZERO
    for status in statuses:
        elapsed = at - max(since, round(1000 * (status.admitted_at or 0.0)))
        if elapsed > 0:
            used += times(status.hold, elapsed)
    return used


def day_name(day: int) -> str:
    """A day since the Unix epoch as a date in UTC, such as 2026-11-27."""
    return datetime.fromtimestamp(day * 86_400, UTC).date().isoformat()
