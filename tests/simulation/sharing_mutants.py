"""The seeded bugs of shared pools, for `mutants`: owners, shares, the order, and preemption."""

from __future__ import annotations

from typing import Any

from tests.simulation.mutants_base import Edit, Mutant

_ADD = "core.planning.draft:Draft.add"
_ADMIT = "core.planning.admission:Admission"
_ORDER = "core.model.fair_order"
_SEARCH = "core.planning.preemption:_Search"
_RECORDS = "core.model.pool_records:PoolRecords"


def _bug(
    name: str, *edits: tuple[str, str, str], faults: frozenset[str] | None = None, **options: Any
) -> Mutant:
    return Mutant(name, tuple(Edit(*edit) for edit in edits), faults=faults, sharing=True, **options)


SHARING_MUTANTS = (
    # -- shares
    _bug(
        "a status forgets whom it is charged to",
        ("core.planning.transitions:status_of", "owner=task.owner, ", ""),
    ),
    _bug(
        "a share is not given back at the end",
        (_ADD, "self._change_share(pool, owner, after", "after and self._change_share(pool, owner, after"),
    ),
    _bug(
        "a share does not count tasks",
        ("core.planning.draft:Draft._change_share", "more, tasks,", "more, 0,"),
    ),
    _bug(
        "the pool's account is not charged",
        (_ADD, "self.account(pool).changed(self.held(pool), self.moment.at)", "self.account(pool)"),
    ),
    _bug(
        "use is charged again from the beginning",
        ("core.model.shares:Share.changed", "recent, at, self.mod", "recent, self.at, self.mod"),
    ),
    _bug(
        "a new leader charges by its own clock",
        (
            "core.planning.accounts:Accounts.charged_at",
            "clock = time_after(self._model.charged_at, clock)",
            "pass",
        ),
    ),
    _bug(
        "a share that a hand has written stays",
        (
            "core.model.lone_shares:LoneShares.note_share",
            "mod > ledger_mod if self.loads else mod != ledger_mod",
            "False",
        ),
    ),
    _bug(
        "holds change while shares are rebuilt",
        (f"{_RECORDS}.may_not_change", "self.is_rebuilding(pool) or ", ""),
    ),
    _bug(
        "the ledger says that shares are whole, and one was not written",
        ("store.records:to_transaction", "for share in plan.shares:", "for share in plan.shares[1:]:"),
    ),
    _bug(
        "what could not be read is forgotten by a rebuild",
        (
            f"{_RECORDS}.is_rebuilding",
            " or (ledger.account.unread > 0 and self.unread(pool) != ledger.account.unread)",
            "",
        ),
    ),
    _bug(
        "a day is closed late",
        (
            "core.planning.accounts:Accounts._is_over",
            "account.day < at",
            "account.day + 1 < at",
        ),
    ),
    # -- what was lost or stopping
    _bug(
        "what is lost counts as stopping as well",
        ("core.model.parts:counted", "if status.stopping and not is_lost", "if status.stopping"),
    ),
    _bug(
        "what was lost is not charged when an operator confirms the stop",
        (
            "core.planning.draft:_ended",
            "if goes_on",
            "if goes_on or RequestKind.CONFIRM_STOPPED in decision.consumed",
        ),
    ),
    _bug(
        "what was lost before it was found is forgotten",
        ("core.model.parts:counts_after", '"lost_ms": lost,', '"lost_ms": 0,'),
    ),
    _bug(
        "a new attempt begins with what the last one was stopping",
        (
            "core.model.parts:counts_after",
            'return {"lost_ms": 0, "stopping_ms": 0, "counted_at": 0}',
            "return {}",
        ),
    ),
    _bug(
        "a stop is counted again from its beginning by each step",
        ("core.model.parts:counts_after", "max(at, status.counted_at)", "status.counted_at or at"),
    ),
    _bug(
        "a pool that is shared counts what was lost before",
        ("core.planning.accounts:Accounts._mended", "if not (share.mod or account.at):", "if False:"),
    ),
    _bug(
        "a closed day leaves out what is still being stopped",
        ("core.planning.accounts:Accounts._usage", "running.get(owner, NO_PARTS)", "NO_PARTS"),
    ),
    # -- the order
    _bug(
        "a limit is ignored",
        ("core.model.owner_cursor:is_over_limit", "return any(", "return False and any("),
    ),
    _bug(
        "as many tasks run as like to",
        ("core.model.owner_cursor:is_over_limit", "policy.max_running is not None and", "False and"),
    ),
    _bug(
        "what is reclaimed goes by shares",
        (f"{_ORDER}:_turn", "beyond or not reclaimed or", "True or"),
        faults=frozenset(),
        seeds=300,
    ),
    _bug(
        "a priority comes before a guarantee",
        (f"{_ORDER}:_turn", "not is_guaranteed(", "not across and not is_guaranteed("),
        faults=frozenset(),
    ),
    _bug(
        "an owner whose task does not fit blocks the others",
        (
            f"{_ORDER}:FairOrder.admissible",
            "may_fit = room.any_fits(free)\n                continue",
            "return",
        ),
        faults=frozenset(),
    ),
    # -- preemption
    _bug(
        "tasks of an owner that are served at once do not count against its guarantee",
        (f"{_SEARCH}._is_guaranteed", " + self._given.get(owner, ZERO)", ""),
    ),
    _bug(
        "what a victim loses before counts as held",
        (f"{_SEARCH}._may_lose", "self._held(owner) - taken", "self._held(owner)"),
        faults=frozenset(),
    ),
    _bug(
        "a preempted task waits out a back-off",
        ("core.planning.transitions:preempted", '"retry_at": moment.now', '"retry_at": moment.now + 2'),
        ("core.model.indexes:Indexes._place", "elif task.waits_at_once:", "elif False:"),
    ),
    _bug(
        "a claim outlives its task's admission",
        (f"{_ADMIT}._admit_task", "ends_claim_of=claimant", "ends_claim_of=''"),
    ),
    _bug(
        "a claim is passed by whoever is smaller",
        ("core.model.fair_order:claimed", "if place is not None:", "if False:"),
    ),
    _bug(
        "a victim's hold is given away before the proof",
        (
            f"{_ADMIT}._admit",
            "free = pool.capacity - draft.held(pool.name)",
            "free = sum((t.status.hold for t in self._model.indexes.holders.stopping(pool.name)), Vector())"
            " + pool.capacity - draft.held(pool.name)",
        ),
    ),
    _bug(
        "a preemption is a failure of the task",
        ("core.planning.decide:end", "if status.stopping == StopReason.PREEMPTED and", "if False and"),
    ),
    _bug(
        "what an owner holds does not count against its guarantee",
        (f"{_SEARCH}._is_guaranteed", "held + self._given", "self._given"),
    ),
    _bug(
        "an owner loses what is guaranteed to it",
        (f"{_SEARCH}._may_lose", "held.get(name) > guarantee.get(name)", "held.get(name) > 0"),
        (
            f"{_SEARCH}._reclaimable",
            "if self._held(other).exceeding(self._pool.guarantee_of(other))",
            "if self._held(other)",
        ),
        faults=frozenset({"crash"}),
    ),
    _bug(
        "a priority takes what is guaranteed to others",
        (f"{_SEARCH}._may_lose", "after.get(name) >= guarantee.get(name)", "True"),
    ),
    _bug(
        "an equal priority is stopped for another",
        (
            f"{_SEARCH}._enough",
            "victim.priority >= below",
            "victim.priority > below",
        ),
    ),
    _bug(
        "a guarantee is exceeded by what an owner's lower ones make room for",
        (f"{_SEARCH}._replaced", "max(0, after.get(name) - guarantee.get(name))", "1"),
    ),
    _bug(
        "the budget of a minute begins anew with each plan",
        ("core.planning.draft:Draft.count_stopped", "stopped=stopped + attempts", "stopped=0"),
    ),
    _bug(
        "an attempt is stopped that has just begun",
        (f"{_SEARCH}._stoppable", "now < since + self._policy.min_run_seconds", "False"),
    ),
)
