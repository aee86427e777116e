"""An auditor of shared pools that has nothing in common with Tally but the stored form.

It imports nothing of `controller`. It reads all that etcd was ever told, revision by revision, and checks at
each one what deploy/reference.md promises of shared pools, with sums of its own:

- I1: a pool's ledger is the sum of what its tasks hold; a hold ends only by a step that ends its attempt.
- I2: nothing is taken above the capacity.
- I9: a share is what its owner's tasks hold, in so many tasks, and the shares add up to the ledger.
- I10: `used` never falls; owners and ledger agree at any common time; and an owner's `used` is, to the ms,
  the sum of hold × (the step that ended the hold − the step that admitted it), as the histories say. Of
  this, `lost` is hold × the time from the step that set `lost_since` to the one that took it away or ended
  the hold, and `stopping` from the first stop-requested step to the end, without what is lost.
- I11: a claim never outlives the admission of its task; attempts are stopped for a claim that names them;
  who was preempted has lost no attempt.
- Preemptions: at most `per_minute` in a minute of the pool's clock.

What an owner has used by t is `base + held × t`: a hold that begins at t takes hold × t from the base, and
one that ends at t adds it. So a share is right if `used - held × at` is the base, whenever it was charged.
When shares become whole (a pool is shared from now on, or they were rebuilt), the base is taken from the
shares: what was used before that is an estimate by design. `rebuilds` counts these moments.

    python -m tests.support.share_auditor --etcd http://127.0.0.1:2379 --cluster default
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections import Counter
from collections.abc import Iterable
from typing import Any

from tests.support.share_records import (
    HOLDING,
    PER_MINUTE,
    Account,
    Amounts,
    Event,
    Owner,
    Pool,
    Spent,
    Status,
    Unreadable,
    account_of,
    added,
    mapping,
    ms_of,
    quantities,
    read,
    status_of,
    text_of,
)


class Auditor:
    """Checks each revision that it is told of, in order. The cost follows what the revision changed.

    `findings` name the revision, the key and the numbers.
    """

    def __init__(self, cluster: str) -> None:
        self.findings: list[str] = []
        self.revisions = self.rebuilds = self.preemptions = 0
        self._prefix = f"/tally/{cluster}/"
        self._revision = 0
        self._pools: dict[str, Pool] = {}
        self._specs: dict[str, str | None] = {}  # task → owner; None: put more than once
        self._statuses: dict[str, Status] = {}
        self._ledgers: dict[str, Account] = {}
        self._shares: dict[Owner, Account] = {}
        self._claims: dict[Owner, list[str]] = {}  # (pool, task) → victims
        # sums, kept as revisions pass
        self._holds: dict[str, Amounts] = {}  # pool → of its tasks
        self._owned: dict[Owner, Account] = {}  # of each owner's tasks: held, running, and base in `used`
        self._shared: dict[str, Account] = {}  # pool → of its shares: held, and base in `used`
        self._spent: dict[str, Spent] = {}  # task → of its attempt that holds something
        self._was_whole: dict[str, bool] = {}
        self._stopped: Counter[tuple[str, int]] = Counter()  # (pool, minute) → attempts
        # of the revision at hand
        self._touched: dict[str, None] = {}  # pools
        self._owners: dict[Owner, None] = {}
        self._marked: list[tuple[str, Status]] = []  # whose attempt is being preempted from now on

    def apply(self, revision: int, events: Iterable[Event]) -> None:
        """One revision, whole."""
        if revision <= self._revision:
            raise ValueError(f"revision {revision} comes after {self._revision}")
        self._revision = revision
        by_kind: dict[str, list[tuple[list[str], Event]]] = {}
        for event in events:
            if event.key.startswith(self._prefix):
                kind, *names = event.key.removeprefix(self._prefix).split("/")
                by_kind.setdefault(kind, []).append((names, event))
        self.revisions += bool(by_kind)
        self._touched, self._owners, self._marked = {}, {}, []
        readers = {
            "pools": self._pool,
            "tasks": self._task,
            "claims": self._claim,
            "ledgers": self._ledger,
            "shares": self._share,
            "states": self._status,
        }
        for kind, reader in readers.items():  # in this order: statuses are held against the others
            for names, event in by_kind.get(kind, ()):
                try:
                    value = mapping(event.value) if event.value is not None else None
                    reader(names, event, value)
                except (Unreadable, LookupError, TypeError, ValueError, AttributeError) as error:
                    self._wrong("layout", event.key, f"cannot be read: {error!r}")
        self._check_claims([names for names, event in by_kind.get("claims", ()) if event.value is not None])
        for pool in self._touched:
            self._check_pool(pool)

    def finish(self) -> None:
        """The history is at its end: nothing is claimed for a task that does not wait."""
        for pool, task_id in self._claims:
            if not self._waits(task_id):
                self._wrong("I11", f"claims/{pool}/{task_id}", "is left over: its task does not wait")

    def unfinished(self) -> list[str]:
        """The tasks that have not ended."""
        ended = ("Succeeded", "Failed", "Cancelled")
        return [
            task_id for task_id in self._specs if self._statuses.get(task_id, Status()).state not in ended
        ]

    # -- records

    def _pool(self, names: list[str], event: Event, value: dict[str, Any] | None) -> None:
        self._touched[names[0]] = None
        if value is None:
            self._pools.pop(names[0], None)
            return
        preemption = value.get("preemption") or {}
        self._pools[names[0]] = Pool(
            quantities(value.get("capacity", {})),
            value.get("sharing") is not None,
            int(preemption.get("per_minute", PER_MINUTE)),
        )

    def _task(self, names: list[str], event: Event, value: dict[str, Any] | None) -> None:
        if value is None:
            self._specs.pop(names[0], None)
        else:
            owner = value.get("owner", "default")
            self._specs[names[0]] = None if names[0] in self._specs else owner

    def _claim(self, names: list[str], event: Event, value: dict[str, Any] | None) -> None:
        if value is None:
            self._claims.pop((names[0], names[1]), None)
        else:
            self._claims[names[0], names[1]] = list(value.get("victims", []))

    def _ledger(self, names: list[str], event: Event, value: dict[str, Any] | None) -> None:
        pool = names[0]
        self._touched[pool] = None
        before, after = self._ledgers.get(pool, Account()), Account()
        if value is not None:
            after = account_of(value)
            after.is_whole = value.get("shares_op", "") == value.get("op")
        self._never_falls(event.key, before, after)
        capacity = self._pools[pool].capacity if pool in self._pools else Counter()
        for name, amount in after.held.items():
            if amount > before.held[name] and amount > capacity[name]:
                self._wrong("I2", event.key, f"{name} was taken to {amount}, above {capacity[name]}")
        self._ledgers[pool] = after

    def _share(self, names: list[str], event: Event, value: dict[str, Any] | None) -> None:
        key = names[0], names[1]
        self._touched[names[0]] = self._owners[key] = None
        before, after = self._shares.get(key, Account()), Account()
        if value is not None:
            after = account_of(value)
            after.running = int(value.get("running", 0))
        self._never_falls(event.key, before, after)
        for name in {**after.lost, **after.stopping}:
            if after.lost[name] + after.stopping[name] > after.used[name]:
                what = f"lost {after.lost[name]} and stopping {after.stopping[name]} of {after.used[name]}"
                self._wrong("I10", event.key, f"{name}: {what}")
        total = self._shared.setdefault(names[0], Account())
        total.held = added(added(total.held, before.held, -1), after.held)
        total.used = added(added(total.used, before.base, -1), after.base)
        self._shares[key] = after

    def _never_falls(self, key: str, before: Account, after: Account) -> None:
        for part in ("used", "lost", "stopping"):
            is_now = getattr(after, part)
            for name, amount in getattr(before, part).items():
                if is_now[name] < amount:
                    self._wrong("I10", key, f"{part}.{name} fell from {amount} to {is_now[name]}")
        if after.at < before.at:
            self._wrong("I10", key, f"at fell from {before.at} to {after.at}")

    # -- statuses

    def _status(self, names: list[str], event: Event, value: dict[str, Any] | None) -> None:
        task_id, key = names[0], event.key
        before, after, history = self._statuses.get(task_id, Status()), Status(), list[dict[str, Any]]()
        if value is None:
            self._statuses.pop(task_id, None)
        else:
            after, history = status_of(value), value.get("history", [])
            self._statuses[task_id] = after
            if before.steps == 0 and self._specs.get(task_id) not in (None, after.owner):
                what = f"is charged to {after.owner}, but its spec says {self._specs[task_id]}"
                self._wrong("I9", key, what)
        new = history[-(after.steps - before.steps) :] if after.steps > before.steps else []
        self._move(key, before, after, new)
        self._spend(key, before, after, new)
        self._check_preempted(key, before, after, new)
        for status in (before, after):
            if status.holds:
                self._touched[status.pool] = self._owners[status.place] = None
        if after.holds and not before.holds and (after.pool, task_id) in self._claims:
            claim = f"claims/{after.pool}/{task_id}"
            self._wrong("I11", claim, f"outlives the admission of attempt {after.attempt}")
        is_marked = after.stopping == "preempted"
        if is_marked and (before.stopping, before.attempt) != ("preempted", after.attempt):
            self._marked.append((task_id, after))
            self._count(key, after, new)

    def _move(self, key: str, before: Status, after: Status, new: list[dict[str, Any]]) -> None:
        """Count what a hold was and is, from and to the times of its steps."""
        begins = [step for step in new if step.get("event") == "admitted"]
        ends = [s for s in new if s.get("source") in HOLDING and s.get("state") not in HOLDING]
        is_same = (before.place, before.hold, before.attempt) == (after.place, after.hold, after.attempt)
        if after.hold and not after.holds:
            self._wrong("I1", key, f"holds {text_of(after.hold)}, but is {after.state}")
        if before.holds and after.holds and is_same:
            return
        if before.holds:
            step = ends[0] if ends else None
            if step is None or step.get("attempt") != before.attempt:
                what = f"attempt {before.attempt} gives up {text_of(before.hold)} without a step that ends it"
                self._wrong("I11" if before.stopping == "preempted" else "I1", key, what)
            self._hold(before, -1, ms_of(step or (new[-1] if new else {})))
        if after.holds:
            if not begins:
                self._wrong("I1", key, f"holds {text_of(after.hold)} without a step that admits it")
            self._hold(after, 1, ms_of(begins[-1] if begins else (new[-1] if new else {})))

    def _spend(self, key: str, before: Status, after: Status, new: list[dict[str, Any]]) -> None:
        """Count what a hold was lost or being stopped; charge it when the hold ends."""
        if not before.holds:
            self._spent[key] = Spent()
        stops = any(step.get("event") == "stop-requested" for step in new)
        spent = self._spent[key]
        spent.take(ms_of(new[-1] if new else {}), after.is_lost, stops)
        if after.holds and (before.hold, before.place) != (after.hold, after.place) and before.holds:
            spent.lost = spent.stopping = 0  # a repair
        if after.holds or not before.holds:
            return
        end = next((step for step in new if step.get("source") in HOLDING), {})
        told = end.get("lost_ms", 0), end.get("stopping_ms", 0)
        # in a pool that is not shared, it may be of a release that does not record this
        if end and self._is_shared(before.pool) and told != (spent.lost, spent.stopping):
            what = f"its end says {told} ms, its steps {(spent.lost, spent.stopping)}"
            self._wrong("I10", key, f"lost and stopping: {what}")
        owned = self._owned.setdefault(before.place, Account())
        used = added(owned.used, owned.held, ms_of(end))
        for name, amount in before.hold.items():
            room = max(0, used[name] - owned.lost[name] - owned.stopping[name])
            lost = min(room, amount * spent.lost)
            owned.lost[name] += lost
            owned.stopping[name] += min(room - lost, amount * spent.stopping)
        del self._spent[key]

    def _hold(self, status: Status, sign: int, at: int) -> None:
        pool = self._holds.setdefault(status.pool, Counter())
        self._holds[status.pool] = added(pool, status.hold, sign)
        owned = self._owned.setdefault(status.place, Account())
        owned.held = added(owned.held, status.hold, sign)
        owned.used = added(owned.used, status.hold, -sign * at)
        owned.running += sign

    def _check_preempted(self, key: str, before: Status, after: Status, new: list[dict[str, Any]]) -> None:
        for step in new:
            if step.get("event") != "preempted":
                continue
            if before.stopping != "preempted":
                self._wrong("I11", key, f"was preempted, but was {before.stopping or 'not'} being stopped")
            if after.counts != before.counts:
                self._wrong("I11", key, f"was preempted, and counts {before.counts} became {after.counts}")
            if step.get("state") != "WaitingRetry" or step.get("reason") != "Preempted":
                self._wrong("I11", key, f"was preempted into {step.get('state')}, {step.get('reason')!r}")

    def _count(self, key: str, status: Status, new: list[dict[str, Any]]) -> None:
        self.preemptions += 1
        minute = status.pool, ms_of(new[-1] if new else {}) // 60_000
        self._stopped[minute] += 1
        most = self._pools[status.pool].per_minute if status.pool in self._pools else PER_MINUTE
        if self._stopped[minute] > most:
            what = f"is preemption {self._stopped[minute]} of minute {minute[1]}, of at most {most}"
            self._wrong("per_minute", key, what)

    # -- what must hold after each revision

    def _check_claims(self, written: list[list[str]]) -> None:
        for pool, task_id in written:
            status = self._statuses.get(task_id, Status())
            if status.holds and status.pool == pool:
                self._wrong("I11", f"claims/{pool}/{task_id}", f"is of a task that is {status.state}")
        for task_id, status in self._marked:
            name = f"{task_id}-{status.attempt}"
            if not any(name in victims for (of, _), victims in self._claims.items() if of == status.pool):
                self._wrong("I11", f"states/{task_id}", f"{name} is preempted, and no claim names it")

    def _is_shared(self, pool: str) -> bool:
        return pool in self._pools and self._pools[pool].is_shared

    def _check_pool(self, pool: str) -> None:
        ledger = self._ledgers.get(pool, Account())
        held = self._holds.get(pool, Counter())
        if held != ledger.held:
            self._wrong("I1", f"ledgers/{pool}", f"holds {text_of(ledger.held)}, its tasks {text_of(held)}")
        is_whole = self._is_shared(pool) and ledger.is_whole
        was_whole, self._was_whole[pool] = self._was_whole.get(pool, False), is_whole
        if not is_whole:
            return
        owners = [key for key in self._owners if key[0] == pool]
        for key in owners if was_whole else self._rebase(pool):
            self._check_owner(key)
        shares = self._shared.get(pool, Account())
        if shares.held != ledger.held:
            what = f"holds {text_of(ledger.held)}, its shares {text_of(shares.held)}"
            self._wrong("I9", f"ledgers/{pool}", what)
        if shares.used != ledger.base:
            what = f"used - held × at is {text_of(ledger.base)}, of its shares {text_of(shares.used)}"
            self._wrong("I10", f"ledgers/{pool}", what)

    def _check_owner(self, key: Owner) -> None:
        share, owned = self._shares.get(key, Account()), self._owned.get(key, Account())
        name = f"shares/{key[0]}/{key[1]}"
        if (share.held, share.running) != (owned.held, owned.running):
            what = f"holds {text_of(share.held)} in {share.running} tasks"
            self._wrong("I9", name, f"{what}, but they hold {text_of(owned.held)} in {owned.running}")
        elif share.base != owned.used:
            there = text_of(share.used)
            here = text_of(added(owned.used, owned.held, share.at))
            self._wrong("I10", name, f"used {there} by {share.at}, but the histories say {here}")
        for part in ("lost", "stopping"):
            told, sums = added(Counter(), getattr(share, part)), added(Counter(), getattr(owned, part))
            if told != sums:
                what = f"{part} {text_of(told)}, but the histories say {text_of(sums)}"
                self._wrong("I10", name, what)

    def _rebase(self, pool: str) -> list[Owner]:
        """Shares have become whole: what was used before is an estimate, and is taken from them."""
        keys = [key for key in {**self._shares, **self._owned} if key[0] == pool]
        self.rebuilds += bool(keys)
        for key in keys:
            share, owned = self._shares.get(key, Account()), self._owned.setdefault(key, Account())
            owned.used, owned.lost, owned.stopping = share.base, share.lost.copy(), share.stopping.copy()
        return keys

    def _waits(self, task_id: str) -> bool:
        return self._statuses.get(task_id, Status()).state in ("Created", "WaitingRetry")

    def _wrong(self, check: str, key: str, what: str) -> None:
        self.findings.append(f"revision {self._revision}: {check}: {key.removeprefix(self._prefix)}: {what}")


def audit(events: Iterable[Event], cluster: str) -> Auditor:
    """The auditor after all these changes, which come in the order of their revisions."""
    auditor = Auditor(cluster)
    for revision, group in itertools.groupby(events, key=lambda event: event.mod):
        auditor.apply(revision, group)
    auditor.finish()
    return auditor


def main() -> int:
    """Returns the exit code: 1 if something was found."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.support.share_auditor", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--etcd", required=True, help="the URL of a member, such as http://127.0.0.1:2379")
    parser.add_argument("--cluster", default="default")
    arguments = parser.parse_args()
    auditor = audit(read(arguments.etcd), arguments.cluster)
    for finding in auditor.findings:
        print(finding)
    print(
        f"{auditor.revisions} revisions, {auditor.preemptions} preemptions, {auditor.rebuilds} rebuilds:"
        f" {len(auditor.findings)} findings"
    )
    return int(bool(auditor.findings))


if __name__ == "__main__":
    sys.exit(main())
