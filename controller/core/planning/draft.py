"""A plan in the making: the ledgers as it leaves them, and the room left in one transaction.

A draft may begin while the plan before it is still being persisted. It then builds on the ledgers that this
plan leaves, and does not touch the tasks that this plan changes. The mod revisions of those ledgers are known
once that plan is committed. If it is refused, the draft is discarded.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import NamedTuple

from controller.core.model import capacities, claims, codec
from controller.core.model.claims import Claim, encode_claim
from controller.core.model.model import Model
from controller.core.model.parts import NO_PARTS, Parts, parts_of
from controller.core.model.records import Ledger, Task
from controller.core.model.requests import RequestKind
from controller.core.model.resources import ZERO, Vector
from controller.core.model.shares import DAY_MS, MINUTE_MS, Account, Share, encode_share
from controller.core.model.task import Status
from controller.core.planning.beside import beside
from controller.core.planning.decide import Decision
from controller.core.planning.kin import Kin
from controller.core.planning.plan import (
    ClaimChange,
    LedgerChange,
    Plan,
    ShareChange,
    TaskChange,
)
from controller.core.planning.transitions import Moment

BYTES_PER_OPERATION = 160  # keys and encoding around each value, rounded up generously


class Limits(NamedTuple):
    """What one transaction of the store may hold.

    Without `writes` there is none: statuses are not encoded.
    """

    operations: int
    bytes: int
    writes: bool = True


class Draft:
    """See the module's docstring.

    It changes nothing in the model. `after` is the plan that is being persisted.
    """

    def __init__(
        self,
        model: Model,
        limits: Limits,
        moment: Moment,
        after: Plan | None = None,
        *,
        most_tasks: int | None = None,
    ) -> None:
        self._model = model
        self._limits = limits
        self._most_tasks = most_tasks
        self.moment = moment
        self.plan = Plan(moment.op)
        self._changed: set[str] = set()
        self._held: dict[str, Vector] = {}
        self._accounts: dict[str, Account] = {}  # of pools with `sharing`
        self._shares: dict[tuple[str, str], Share] = {}
        self._claims: dict[tuple[str, str], Claim | None] = {}
        self._torn: set[str] = set()  # pools of which a ledger changes without a share
        # the mod of each ledger and share that is changed; None if `after` will set it
        self._seen: dict[str | tuple[str, str], int | None] = {}
        self._seen_claims: dict[tuple[str, str], int | None] = {}
        # the mod of each pool whose capacity the plan relies on, and of what nodes give to it (None: it
        # follows none)
        self._relied_on: dict[str, tuple[int, int | None]] = {}
        self._after: dict[str, Ledger] = {}
        self._after_shares: dict[tuple[str, str], Share] = {}
        self._after_claims: dict[tuple[str, str], Claim | None] = {}
        self._after_changes: dict[str, TaskChange] = {}
        if after is not None:
            self._after = {change.pool: change.ledger for change in after.ledgers}
            self._after_shares = {(change.pool, change.owner): change.share for change in after.shares}
            self._after_claims = {(change.pool, change.task_id): change.claim for change in after.claims}
            self._after_changes = {change.task_id: change for change in after.changes}
        self.kin = Kin(model, self._after_changes)
        self._operations = 1  # the term
        self._bytes = 0

    @property
    def is_full(self) -> bool:
        """Whether the largest usual change no longer fits."""
        if self._has_most_tasks:
            return True
        return self._operations + 8 > self._limits.operations or self._bytes > self._limits.bytes // 2

    @property
    def _has_most_tasks(self) -> bool:
        return self._most_tasks is not None and len(self.plan.changes) >= self._most_tasks

    def held(self, pool: str) -> Vector:
        """What is held of a pool once this plan is persisted."""
        if pool in self._held:
            return self._held[pool]
        return self._after[pool].held if pool in self._after else self._model.ledger(pool).held

    def share(self, pool: str, owner: str) -> Share:
        """An owner's share of a pool once this plan is persisted."""
        key = pool, owner
        found = self._shares.get(key) or self._after_shares.get(key)
        return found if found is not None else self._model.share(pool, owner)

    def owners(self, pool: str) -> Iterator[str]:
        """The owners whose shares of the pool this plan changes, or the one before it."""
        return (owner for of, owner in (*self._after_shares, *self._shares) if of == pool)

    def claims(self, pool: str) -> dict[str, Claim]:
        """The claims of a pool's tasks once this plan is persisted."""
        found = dict(self._model.claims.get(pool, {}))
        for of, claim in (*self._after_claims.items(), *self._claims.items()):
            if of[0] == pool and claim is not None:
                found[of[1]] = claim
            elif of[0] == pool:
                found.pop(of[1], None)
        return found

    def has_claim(self, pool: str, task_id: str) -> bool:
        """Whether the task has a claim once this plan is persisted."""
        key = pool, task_id
        if key in self._claims or key in self._after_claims:
            return (self._claims if key in self._claims else self._after_claims)[key] is not None
        return task_id in self._model.claims.get(pool, ())

    def put_claim(self, pool: str, task_id: str, claim: Claim | None) -> bool:
        """Write a claim, or end it (None), in this plan. False if the draft has no room for it."""
        if (pool, task_id) not in self._claims:
            operations = 2  # the claim, and the account that counts the attempts
            if self._has_most_tasks or self._operations + operations > self._limits.operations:
                return False
            self._operations += operations
            self._bytes += operations * BYTES_PER_OPERATION
        self._note_claim(pool, task_id, claim)
        return True

    def _note_claim(self, pool: str, task_id: str, claim: Claim | None) -> None:
        key = pool, task_id
        if key in self._claims:
            pass
        elif key in self._after_claims:  # its mod is not known yet; 0 if it has ended
            self._seen_claims[key] = None if self._after_claims[key] is not None else 0
        else:
            self._seen_claims[key] = self._model.mod_of(claims.KIND, key)
        self._claims[key] = claim

    def account(self, pool: str) -> Account:
        """The account of a pool with `sharing` once this plan is persisted."""
        if pool in self._accounts:
            return self._accounts[pool]
        return self._after[pool].account if pool in self._after else self._model.ledger(pool).account

    def count_stopped(self, pool: str, attempts: int) -> None:
        """Count attempts that this plan stops for others, in the pool's account. A claim made room for it."""
        account, minute = self.account(pool), self.moment.at // MINUTE_MS
        stopped = account.stopped if account.minute == minute else 0
        self._accounts[pool] = account._replace(minute=minute, stopped=stopped + attempts)
        self._seen.setdefault(pool, None if pool in self._after else self._model.ledger(pool).mod)
        self._held.setdefault(pool, self.held(pool))

    def has_changed(self, task_id: str) -> bool:
        """Whether this plan changes the task, or the plan that is being persisted does.

        If so, the task is looked at again after that plan.
        """
        return task_id in self._changed or task_id in self._after_changes

    def changes(self) -> Iterator[TaskChange]:
        """The changes of tasks that the model does not show yet: of this plan, and of the one before it."""
        yield from self._after_changes.values()
        yield from self.plan.changes

    def follows(self, revision: int, *, is_shown: bool) -> None:
        """The plan before was committed at this revision. Not `is_shown`: the model does not show it yet."""
        self._seen = {key: revision if mod is None else mod for key, mod in self._seen.items()}
        self._seen_claims = {key: revision if mod is None else mod for key, mod in self._seen_claims.items()}
        if is_shown:
            self._after, self._after_shares, self._after_claims, self._after_changes = {}, {}, {}, {}
            self.kin.follows()

    def add(
        self, task: Task, decision: Decision, *, may_have_log: bool = False, ends_claim_of: str = ""
    ) -> bool:
        """Add a decision to the plan. False if it cannot be written now (plan full, ledger quarantined).

        The transaction compares the records that the decision rests on, and also the absence of records that
        it rests on: a decision without a spec compares that there is none, a first status compares its spec,
        and a removal compares that there is no other request. `may_have_log`: a log may be kept that the
        model does not show yet. `ends_claim_of`: this task, or the array of this member, has a claim, which
        ends with this (I11), and not in the plan that makes it, which stops its victims.
        """
        (before, tasks_before), (after, tasks_after) = _held(task.status), _held(decision.status)
        pool, owner, more_tasks = task.pool, task.owner, tasks_after - tasks_before
        is_shared, ledger_changes = self._model.is_shared(pool), before is not after and before != after
        if more_tasks and not ledger_changes:  # what holds nothing counts as one that runs
            ledger_changes = _counts_tasks(self._model, pool, self._after.get(pool))
        share_changes = ledger_changes and is_shared
        is_too_early = bool(ends_claim_of) and self._seen_claims.get((pool, ends_claim_of)) == 0
        is_too_early |= share_changes and _is_behind(self.account(pool), self._after.get(pool), self.moment)
        is_too_early |= self._has_most_tasks and self.plan.begins_members_of != task.id
        if is_too_early or (ledger_changes and self._model.may_not_change(task)):
            return False
        value = None
        if decision.status is not None and self._limits.writes:
            value = codec.encode_status(decision.status, task.extras)
        requests = tuple([(kind, task.requests[kind][1]) for kind in decision.consumed])
        left = tuple(self._left(task.id, decision.consumed)) if decision.removes else ()
        rests_on_spec = decision.compares_spec or task.spec_mod == 0
        compares_spec = (rests_on_spec and not task.member_of) or task.status_mod == 0
        relies_on = pool if decision.compares_pool else ""
        aside = beside(self._model, task, decision, self.moment, self.plan, may_have_log)
        kin = self.kin.compared_by(task, decision)
        operations = 1 + compares_spec + len(requests) + len(left) + aside.operations + len(kin)
        operations += bool(ends_claim_of) + (ledger_changes and pool not in self._held)
        operations += share_changes and (pool, owner) not in self._shares
        if relies_on and relies_on not in self._relied_on:
            operations += 1 + (relies_on in self._model.following)
        size = len(value or b"") + aside.size + operations * BYTES_PER_OPERATION
        if self._operations + operations > self._limits.operations or (
            self._bytes and self._bytes + size > self._limits.bytes
        ):
            return False
        if ledger_changes:
            # Invariant I1: the ledger changes by as much as the hold, in the same transaction.
            if share_changes:
                # Invariants I9, I10: the share changes and is charged as the ledger is, at the same moment.
                ended = _ended(task, decision, self.moment.at)
                self._change_share(pool, owner, after - before, more_tasks, ended)
                self._accounts[pool] = self.account(pool).changed(self.held(pool), self.moment.at)
            else:  # the pool may become shared, or cease to be, before this draft is finished
                self._torn.add(pool)
            self._seen.setdefault(pool, None if pool in self._after else self._model.ledger(pool).mod)
            self._held[pool] = self.held(pool) - before + after
        if ends_claim_of:
            self._note_claim(pool, ends_claim_of, None)
        if relies_on and relies_on not in self._relied_on:
            follows = relies_on in self._model.following
            observed = self._model.mod_of(capacities.KIND, (relies_on,)) if follows else None
            self._relied_on[relies_on] = self._model.pools[relies_on].mod, observed
        self._operations += operations
        self._bytes += size
        self._changed.add(task.id)
        aside.add_to(self.plan)
        self.kin.add(task, decision, kin)
        spec_mod = task.spec_mod if compares_spec else -1
        removed = decision.removes, aside.also_removes, aside.attested_mod, aside.awaits_mod
        self.plan.changes.append(
            TaskChange(task.id, task.status_mod, decision.status, value, spec_mod, requests, left, *removed)
        )
        return True

    def finish(self) -> Plan:
        """The plan, with its ledgers and the pools whose capacity it relies on."""
        op = self.moment.op
        for pool, held in self._held.items():
            before = self._model.ledger(pool)
            account = self.account(pool)
            was_whole = self._after.get(pool, before).shares_are_whole
            if was_whole and pool in self._accounts and pool not in self._torn:
                account = account._replace(shares_op=op)
            ledger = Ledger(held, before.mod, before.extras, op, account)
            self.plan.ledgers.append(LedgerChange(pool, self._seen_mod(pool), ledger, ledger.encode(op)))
        for key, share in self._shares.items():
            self.plan.shares.append(ShareChange(*key, self._seen_mod(key), share, encode_share(share, op)))
        for (pool, task_id), claim in self._claims.items():
            mod = self._seen_claims[pool, task_id]
            assert mod is not None, "the previous plan must be committed first"
            value = encode_claim(claim, op) if claim is not None else None
            if claim is not None or mod:
                self.plan.claims.append(ClaimChange(pool, task_id, mod, claim, value))
        self.plan.pools = [(pool, mod) for pool, (mod, _) in self._relied_on.items()]
        self.plan.compared = [(kind, names, mod) for (kind, names), mod in self.kin.compared.items()]
        for pool, (_, observed) in self._relied_on.items():
            if observed is not None:  # I2: what nodes give to it is in a record of its own
                self.plan.compared.append((capacities.KIND, (pool,), observed))
        return self.plan

    def _change_share(self, pool: str, owner: str, more: Vector, tasks: int, ended: Parts) -> None:
        key = pool, owner
        seen = None if key in self._after_shares else self._model.share(pool, owner).mod
        self._seen.setdefault(key, seen)
        sharing = self._model.pools[pool].pool.sharing
        assert sharing is not None
        self._shares[key] = self.share(pool, owner).changed(
            more, tasks, self.moment.at, sharing.half_life_seconds, ended
        )

    def _seen_mod(self, key: str | tuple[str, str]) -> int:
        mod = self._seen[key]
        assert mod is not None, "the previous plan must be committed first"
        return mod

    def _left(self, task_id: str, consumed: Collection[RequestKind]) -> Iterator[tuple[RequestKind, int]]:
        """The requests that are not consumed: absent, or present and quarantined."""
        for kind in RequestKind:
            if kind not in consumed:
                yield kind, self._model.mod_of("requests", (task_id, kind))


def _ended(task: Task, decision: Decision, at: int) -> Parts:
    """What was lost and stopping of the hold that ends with this, if one does."""
    goes_on = decision.status is not None and decision.status.is_holding
    return NO_PARTS if goes_on else parts_of(task.status, at)


def _counts_tasks(model: Model, pool: str, after: Ledger | None) -> bool:
    """Whether shares of the pool count its tasks, or may: those of a ledger that cannot be read may be whole.

    `after`: its ledger as the plan before leaves it.
    """
    is_whole = (after or model.ledger(pool)).shares_are_whole
    return is_whole or model.is_shared(pool) or model.pool_is_frozen(pool)


def _is_behind(account: Account, after: Ledger | None, moment: Moment) -> bool:
    """Whether no share of the pool may change yet. `after`: its ledger as the plan before leaves it.

    So it is if one of both plans was begun while the pool was not shared, and the day it is charged in is
    still to be closed; or if the one before changes what is held without a share.
    """
    is_torn = after is not None and not after.shares_are_whole
    return is_torn or account.day < moment.at // DAY_MS


def _held(status: Status | None) -> tuple[Vector, int]:
    """What the ledger counts (invariant I1), and how many running tasks it is.

    A hold in a status that holds nothing was not written by Tally, and does not count.
    """
    if status is None or not status.is_holding:
        return ZERO, 0
    return status.hold, int(status.is_one_of_running)
