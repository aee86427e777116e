"""The ledgers and shares of pools, as sums of what their statuses hold, at each revision."""

from __future__ import annotations

from collections import Counter

from tests.support.mix_records import Records, Value, attempt_of, hold_of, holds, new_steps
from tests.support.share_records import Account, Amounts, Owner, account_of, added, quantities, text_of


class Accounts:
    """Checks, at each revision:

    - a ledger is the sum of the holds of its pool's statuses, and none is taken above the capacity
    - a share is the sum of the holds of its owner's statuses, in so many tasks; a gang counts once
    - the shares add up to the ledger, also in `used`, which never falls
    - no status holds anything unless it is Pending or Running; each attempt is admitted once

    `spans` are the attempts that held something: from the step that admits it (s since the epoch) to when
    the revision that released it was heard of.
    """

    def __init__(self, records: Records) -> None:
        self._records = records
        self._held: dict[str, Amounts] = {}
        self._owned: dict[Owner, Account] = {}
        self.spans: dict[tuple[str, int], list[float]] = {}
        self.admissions = self.preemptions = self.shares = 0

    def judge(self) -> None:
        """See the class."""
        pools: dict[str, None] = {}
        for names, before, after in self._records.changed("states"):
            for status, sign in ((before, -1), (after, 1)):
                if status is not None:
                    pools[str(status.get("pool", ""))] = None
                    self._count(names[0], status, sign)
            self._span(names[0], before, after)
        for kind in ("ledgers", "shares", "pools"):
            for names, before, after in self._records.changed(kind):
                pools[names[0]] = None
                if kind != "pools":
                    self._never_falls(f"{kind}/{'/'.join(names)}", before, after)
        for names, before, after in self._records.changed("ledgers"):
            self._check_capacity(names[0], _account(before).held, _account(after).held)
        for pool in pools:
            self._check(pool)

    def _count(self, name: str, status: Value, sign: int) -> None:
        pool, owner, hold = status.get("pool", ""), status.get("owner", "default"), hold_of(status)
        if hold and not holds(status) and sign > 0:
            what = f"is {status.get('state')} and holds {text_of(hold)}"
            self._records.wrong("holds", f"states/{name}", what)
        self._held[pool] = added(self._held.get(pool, Counter()), hold, sign)
        owned = self._owned.setdefault((pool, owner), Account())
        owned.held = added(owned.held, hold, sign)
        owned.running += sign * (holds(status) and not status.get("of_gang", False))

    def _span(self, name: str, before: Value | None, after: Value | None) -> None:
        number = attempt_of(before)
        if holds(before) and (not holds(after) or attempt_of(after) != number):
            self.spans.setdefault((name, number), [0.0, 0.0])[1] = self._records.heard
        for step in new_steps(before, after):
            self.preemptions += step.get("event") == "preempted"
            if step.get("event") != "admitted":
                continue
            self.admissions += 1
            if (name, step["attempt"]) in self.spans:
                self._records.wrong("once", f"states/{name}", f"attempt {step['attempt']} is admitted again")
            ended = float("inf") if holds(after) else self._records.heard
            self.spans[name, step["attempt"]] = [float(step["at"]), ended]
        if holds(after) and (name, attempt_of(after)) not in self.spans:
            self._records.wrong("holds", f"states/{name}", f"attempt {attempt_of(after)} was never admitted")
            self.spans[name, attempt_of(after)] = [0.0, float("inf")]

    def _check_capacity(self, pool: str, before: Amounts, after: Amounts) -> None:
        capacity = quantities((self._records.get("pools", pool) or {}).get("capacity", {}))
        for name, amount in after.items():
            if amount > before[name] and amount > capacity[name]:
                what = f"{name} was taken to {amount}, above {capacity[name]}"
                self._records.wrong("capacity", f"ledgers/{pool}", what)

    def _never_falls(self, key: str, before: Value | None, after: Value | None) -> None:
        was, is_now = _account(before).used, _account(after).used
        for name, amount in was.items():
            if is_now[name] < amount and after is not None:
                self._records.wrong("used", key, f"{name} fell from {amount} to {is_now[name]}")

    def _check(self, pool: str) -> None:
        value = self._records.get("ledgers", pool)
        ledger, held = _account(value), self._held.get(pool, Counter())
        if ledger.held != held:
            what = f"holds {text_of(ledger.held)}, its statuses {text_of(held)}"
            self._records.wrong("ledger", f"ledgers/{pool}", what)
        is_shared = (self._records.get("pools", pool) or {}).get("sharing") is not None
        if not is_shared or value is None or value.get("shares_op", "") != value.get("op"):
            return
        total = Account()
        shares = {n[1]: _account(v) for n, v in self._records.all("shares").items() if n[0] == pool}
        for owner in {**shares, **{of: None for of_pool, of in self._owned if of_pool == pool}}:
            share, owned = shares.get(owner, Account()), self._owned.get((pool, owner), Account())
            self.shares += 1
            total.held, total.used = added(total.held, share.held), added(total.used, share.base)
            if (share.held, share.running) != (owned.held, owned.running):
                here = f"holds {text_of(share.held)} in {share.running} tasks"
                there = f"its statuses {text_of(owned.held)} in {owned.running}"
                self._records.wrong("share", f"shares/{pool}/{owner}", f"{here}, {there}")
        if total.held != ledger.held:
            what = f"holds {text_of(ledger.held)}, its shares {text_of(total.held)}"
            self._records.wrong("shares", f"ledgers/{pool}", what)
        if total.used != ledger.base:
            what = f"used at time 0 is {text_of(ledger.base)}, of its shares {text_of(total.used)}"
            self._records.wrong("used", f"ledgers/{pool}", what)


def _account(value: Value | None) -> Account:
    if value is None:
        return Account()
    account = account_of(value)
    account.held = added(Counter(), account.held)
    account.running = int(value.get("running", 0))
    return account
