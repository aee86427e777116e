"""The judge of limits, turns and preemption (I11), from what stood in etcd as a plan was made and committed.

A leader's plan is judged by the pools as they stood at any revision between its last plan and this one, since
it may know no newer one. Where somebody has written shares, ledgers or claims by hand, only that much is
judged as does not rest on them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from controller.core.model import codec
from controller.core.model.claims import Claim, decode_claim
from controller.core.model.demand import demand
from controller.core.model.gangs import total
from controller.core.model.resources import ZERO, Vector
from controller.core.model.task import Pool, Spec, Status
from controller.errors import CorruptValue
from controller.store.base import KeyEvent
from tests.simulation.changes import WAITING, steps_since
from tests.simulation.oracle import HOLDING, USER, Move, Violation
from tests.simulation.shares import ShareJudge
from tests.simulation.windows import may_be_kept_back

if TYPE_CHECKING:
    from tests.simulation.oracle import Oracle

MINUTE = 60_000
IDLE_SECONDS = 3.0
PER_OPEN_TASK, AT_LEAST = 5, 10  # preemptions after the last submission


class Waiting(NamedTuple):
    """A task that waits for its turn. Within an owner the smallest is first."""

    rank: int
    submission: int
    told: float
    task_id: str
    owner: str
    asked: Vector
    spec: Spec


class ClaimJudge:
    """See the module's docstring."""

    def __init__(self, oracle: Oracle, shares: ShareJudge) -> None:
        self._oracle = oracle
        self._shares = shares
        self.judges = (
            True  # False where members wait that are no tasks of their own: it takes in, and says nothing
        )
        self.pools: dict[str, list[tuple[int, Pool | None]]] = {}
        self.claims: dict[tuple[str, str], Claim] = {}  # those that can be read
        self._by_hand: dict[tuple[str, str], None] = {}
        self._moved: set[str] = set()  # owners of tasks that waited and did something else in this revision
        self._deleted_at = 0  # the revision at which a user deleted a spec last
        self._minutes: dict[tuple[str, int], int] = {}  # pool, minute → attempts stopped for others
        self._idle: dict[str, float] = {}  # task → since when it could have been admitted
        self.preemptions = self.reservations = self.turns = self.ended = self.heads = 0

    def versions(self, pool: str, op: str) -> list[Pool | None]:
        """The pool as it may have been known to whom this transaction is."""
        low, high = self._oracle.sent.get(op, (0, 0))
        found: list[Pool | None] = []
        known = [(0, None), *self.pools.get(pool, [])]
        for number, (mod, version) in enumerate(known):
            until = known[number + 1][0] if number + 1 < len(known) else high + 1
            if mod <= high and until > low:
                found.append(version)
        return found

    def on_revision(self, events: Sequence[KeyEvent], writer: str, moves: list[Move], op: str) -> None:
        """One revision, which the oracle and the judge of shares have taken over."""
        before = dict(self.claims)
        ended: list[tuple[str, str]] = []
        for event in events:
            kind, *names = event.key.removeprefix(self._oracle.keys.prefix).split("/")
            if kind in ("pools", "capacities"):
                self._take_pool(names[0], event.mod)
            elif kind == "claims":
                key = (names[0], names[1])
                self._take_claim(key, event, writer)
                if event.item is None:
                    ended.append(key)
            elif kind == "tasks" and event.item is None and writer == USER:
                self._deleted_at = event.mod
        if writer == USER or not self.judges:
            return
        # a gang is admitted and stopped as one, with what its members hold
        moves = [move for move in moves if not move.new.of_gang]
        admitted = [move for move in moves if _is_admission(move)]
        for move in admitted:
            self._check_admission(move, before)
        # the plan saw them in their places
        self._moved = {
            m.new.owner for m in moves if m not in admitted and (not m.old or m.old.state in WAITING)
        }
        for pool in dict.fromkeys(move.new.pool for move in admitted):
            self._check_reservations(pool, [m for m in admitted if m.new.pool == pool], before, op)
        stopped = [move for move in moves if _is_preemption(move)]
        self._check_victims(stopped, before, op)
        for move in moves:
            self._check_preempted(move)
        for key in ended:
            if key in before and not any(move.task_id == key[1] for move in admitted):
                self._check_end(key, before[key], op)

    # -- what stands there

    def _take_pool(self, name: str, mod: int) -> None:
        """A pool that follows nodes is another one whenever there is another record of them."""
        pool, value = None, self._oracle.values.get(self._oracle.keys.pool(name))
        if value is not None:
            try:
                pool = codec.decode_pool(name, value)
            except CorruptValue:
                pool = None
        if pool is not None and pool.capacity_from is not None:
            pool = msgspec.structs.replace(pool, capacity=self._oracle.nodes.capacity(name))
        self.pools.setdefault(name, []).append((mod, pool))

    def _take_claim(self, key: tuple[str, str], event: KeyEvent, writer: str) -> None:
        self.claims.pop(key, None)
        self._by_hand.pop(key, None)
        if event.item is None:
            return
        try:
            self.claims[key] = decode_claim(event.item.value)
        except CorruptValue:
            if writer != USER:
                raise Violation("I11", f"the claim {key} was damaged by {writer}", key[1]) from None
        if writer == USER:
            self._by_hand[key] = None

    def _pool(self, name: str) -> Pool | None:
        versions = self.pools.get(name)
        return versions[-1][1] if versions else None

    def is_shared(self, name: str) -> bool:
        """Whether its owners share the pool now."""
        pool = self._pool(name)
        return pool is not None and pool.sharing is not None

    def _held(self, pool: str, owner: str) -> Vector:
        return Vector(self._shares.line(pool, owner).held)

    def waiting(self, pool: Pool) -> list[Waiting]:
        """All that wait for the pool now, as far as their specs say so, in the order of each owner."""
        oracle, found = self._oracle, []
        for task_id in oracle.accepted:
            status = oracle.statuses.get(task_id)
            if status is None and oracle.keys.state(task_id) in oracle.values:
                continue
            if oracle.dependents.is_closed(task_id):
                continue
            if status is not None and (
                status.state not in WAITING or status.on_hold or status.pool != pool.name
            ):
                continue
            one = self._waiting(pool, task_id, status)
            if one is not None:
                found.append(one)
        return sorted(found)

    def _waiting(self, pool: Pool, task_id: str, status: Status | None) -> Waiting | None:
        oracle = self._oracle
        key = oracle.keys.task(task_id)
        if key not in oracle.values:
            return None
        try:
            stored = codec.decode_spec(task_id, oracle.values[key])
        except CorruptValue:
            return None
        spec = stored.spec
        if stored.error or (status is None and spec.pool != pool.name):
            return None
        owner = status.owner if status is not None else spec.owner
        place = (-_priority(spec, status), oracle.creates[key], stored.submitted_at, task_id)
        return Waiting(*place, owner, demand(spec, pool), spec)

    # -- admissions

    def _check_admission(self, move: Move, before: dict[tuple[str, str], Claim]) -> None:
        """Nobody comes above its limit; the claim of a task ends with its admission."""
        status, name = move.new, move.new.pool
        key = (name, move.task_id)
        if key in before and key in self.claims and key not in self._by_hand:
            raise Violation("I11", f"{move.task_id} was admitted, and its claim has not ended", move.task_id)
        pool = self._pool(name)
        if pool is None or pool.sharing is None or not self._shares.is_sure(name):
            return
        policy = pool.sharing.of(status.owner)
        line = self._shares.line(name, status.owner)
        above = [each for each, most in policy.limit._amounts.items() if line.held.get(each, 0) > most]
        if any(each in status.hold for each in above):
            raise Violation(
                "limit", f"{status.owner} holds {line.held} of {name}, above its limit", move.task_id
            )
        if policy.max_running is not None and line.tasks > policy.max_running:
            raise Violation(
                "limit", f"{status.owner} has {line.tasks} tasks in {name}, above its limit", move.task_id
            )

    def _check_reservations(
        self, name: str, admitted: list[Move], before: dict[tuple[str, str], Claim], op: str
    ) -> None:
        """I11: nobody of the same or a lower rank takes what a claim reserves."""
        pool = self._pool(name)
        claims = {key[1]: claim for key, claim in before.items() if key[0] == name and key in self.claims}
        if pool is None or pool.sharing is None or not claims or not self._shares.is_sure(name):
            return
        free = pool.capacity - self._oracle.ledgers.get(name, ZERO)
        waiting = self.waiting(pool)
        for one in waiting:
            claim = claims.get(one.task_id)
            if claim is None or claim.asked != one.asked or (name, one.task_id) in self._by_hand:
                continue
            if not self._is_queued(pool, one):
                continue
            for move in admitted:
                taken = [each for each in claim.short if each in move.new.hold]
                if not any(free.get(each) < one.asked.get(each) for each in taken):
                    continue
                if self._deleted_at > self._oracle.sent.get(op, (0, 0))[0]:
                    continue  # another of theirs may have come first, in the plan that this was sent with
                if self._passes(pool, move, one, waiting, admitted, before):
                    raise Violation(
                        "I11",
                        f"{move.task_id} of {move.new.owner} took what is reserved for {one.task_id} of"
                        f" {one.owner}: {free} is left of {name}",
                        move.task_id,
                        one.task_id,
                    )
            self.reservations += 1

    def _is_queued(self, pool: Pool, one: Waiting) -> bool:
        """Whether each leader that looks at the pool finds the task in its queue, within its limits."""
        oracle, task_id = self._oracle, one.task_id
        status = oracle.statuses.get(task_id)
        if status is not None and (status.retry_at or 0.0) > oracle.now() - oracle.wall_spread - 1.0:
            return False
        return (
            one.asked.fits(pool.capacity)
            and not self._may_be_kept_back(pool, one)
            and oracle.specs_put.get(task_id) == 1
            and oracle.keys.quarantined(task_id) not in oracle.values
            and not self._is_over_limit(pool, one.owner, one.asked)
        )

    def _may_be_kept_back(self, pool: Pool, one: Waiting) -> bool:
        """Whether a maintenance window may keep the task back for some leader, about now."""
        spread = self._oracle.wall_spread + IDLE_SECONDS
        return may_be_kept_back(pool, one.spec, self._oracle.now(), spread)

    def _is_ready(self, pool: Pool, one: Waiting) -> bool:
        """Whether it may start, too."""
        keys, values = self._oracle.keys, self._oracle.values
        attempts = self._oracle.engine.every.get(one.task_id, ())
        return (
            self._is_queued(pool, one)
            and not any(key.startswith(keys.request(one.task_id, "")) for key in values)
            and not any(not each.ended or each.forged or each.removed for each in attempts)
        )

    def _is_over_limit(self, pool: Pool, owner: str, asked: Vector) -> bool:
        assert pool.sharing is not None
        policy, line = pool.sharing.of(owner), self._shares.line(pool.name, owner)
        if policy.max_running is not None and line.tasks >= policy.max_running:
            return True
        return any(
            each in asked and line.held.get(each, 0) + asked[each] > most
            for each, most in policy.limit._amounts.items()
        )

    def _passes(
        self,
        pool: Pool,
        move: Move,
        one: Waiting,
        waiting: list[Waiting],
        admitted: list[Move],
        before: dict[tuple[str, str], Claim],
    ) -> bool:
        """Whether the admitted task is certainly behind the one that has a claim."""
        mine = self._waiting(pool, move.task_id, None if move.old is None else move.old)
        if mine is None:
            return False
        if mine.owner == one.owner:
            return one[:4] < mine[:4]
        assert pool.sharing is not None
        if pool.sharing.half_life_seconds or any(w < one for w in waiting if w.owner == one.owner):
            return False  # an average; or others of its owner come first
        if not self._moved.isdisjoint((one.owner, mine.owner)):
            return False  # another of theirs may have come first, and has left the queue with this
        others = [each for each in admitted if each.new.owner in (mine.owner, one.owner) and each != move]
        if others or any(w < mine for w in waiting if w.owner == mine.owner):
            return False
        self.turns += 1
        first = self._turn(pool, one, self._held(pool.name, one.owner), before)
        return first < self._turn(pool, mine, self._held(pool.name, mine.owner) - move.new.hold, before)

    def _turn(
        self, pool: Pool, one: Waiting, held: Vector, claims: dict[tuple[str, str], Claim]
    ) -> tuple[bool, bool, int, Fraction, Fraction, str]:
        """The turn of an owner whose first task this is, of which half counts as held."""
        assert pool.sharing is not None
        guarantee = _guarantee(pool, one.owner)
        named = [each for each in guarantee if each in one.asked]
        fits = bool(named) and all(held.get(each) + one.asked[each] <= guarantee[each] for each in named)
        # its own claim counts, too: one that has just been admitted waits no more
        short = {
            each
            for other in [*self.waiting(pool), one]
            if other.owner == one.owner
            and (claim := claims.get((pool.name, other.task_id))) is not None
            and claim.kind == "reclaim"
            for each in claim.short
        }
        gets_back = fits and bool(short)
        gets_back &= all(
            held.get(each) + one.asked.get(each) <= guarantee.get(each) for each in sorted(short)
        )
        shares = [
            Fraction(2 * held.get(each) + one.asked.get(each), 2 * pool.capacity[each])
            for each in pool.capacity
        ]
        weight = Fraction(pool.sharing.of(one.owner).weight)
        rank = one.rank if pool.sharing.priority == "across-owners" else 0
        holds = [Fraction(held.get(each), pool.capacity[each]) for each in pool.capacity]
        share, now = (max(parts, default=Fraction(0)) / weight for parts in (shares, holds))
        return not fits, not gets_back, rank, share, now, one.owner

    # -- whom leaders stop

    def _check_victims(self, stopped: list[Move], before: dict[tuple[str, str], Claim], op: str) -> None:
        """I11: each is stopped for a claim that names it, by right, and within the budget."""
        for move in stopped:
            self.preemptions += 1
            name, attempt = move.new.pool, f"{move.task_id}-{move.new.attempt}"
            kept = move.old.hold if move.old is not None and not move.new.reserved else ZERO
            if move.new.hold != kept:
                raise Violation("I11", f"the hold of {attempt} changed as it was preempted", move.task_id)
            keys = [
                key
                for key, claim in self.claims.items()
                if key[0] == name
                and attempt in claim.victims
                and (key not in before or attempt not in before[key].victims)
            ]
            if len(keys) != 1:
                raise Violation("I11", f"{attempt} is stopped for {keys or 'no claim'}", move.task_id)
            minute = (name, move.at // MINUTE)
            self._minutes[minute] = self._minutes.get(minute, 0) + 1
            problem = "nobody shares that pool"
            for version in self.versions(name, op):
                found = self._why_not(version, move, keys[0][1], self.claims[keys[0]], self._minutes[minute])
                if not found:
                    problem = ""
                    break
                problem = found
            if problem:
                raise Violation(
                    "I11", f"{attempt} is stopped for {keys[0][1]}, but {problem}", move.task_id, keys[0][1]
                )

    def _why_not(self, pool: Pool | None, move: Move, task_id: str, claim: Claim, count: int) -> str:
        """Why such a pool would not let this attempt be stopped for that task; "" if it would."""
        if pool is None or pool.sharing is None or pool.preemption is None:
            return "there is no preemption"
        policy, status = pool.preemption, move.new
        if count > policy.per_minute:
            return f"it is the {count}th in its minute"
        since = status.started_at or status.admitted_at or 0.0
        # the plan's own time is this one or before
        if status.state == "Running" and move.at / 1000 + 0.002 < since + policy.min_run_seconds:
            return f"it had run for {move.at / 1000 - since:.3f} s only"
        task = self._oracle.statuses.get(task_id)
        one = self._waiting(pool, task_id, task)
        if one is None or self._oracle.specs_put.get(task_id) != 1:
            return ""  # its spec has just been deleted, or replaced
        if claim.kind == "priority" and not policy.by_priority:
            return "none is stopped by priority"
        if claim.kind == "reclaim" and not policy.reclaim:
            return "nothing is reclaimed"
        if not self._shares.is_sure(pool.name):
            return ""
        if claim.kind == "priority":
            return self._why_not_by_priority(pool, move, one)
        return self._why_not_reclaimed(pool, move, one, claim)

    def _why_not_by_priority(self, pool: Pool, move: Move, one: Waiting) -> str:
        assert pool.sharing is not None
        key = self._oracle.keys.task(move.task_id)
        if self._oracle.specs_put.get(move.task_id) != 1 or key not in self._oracle.values:
            return ""
        priority = _priority(codec.decode_spec(move.task_id, self._oracle.values[key]).spec, move.new)
        if priority >= -one.rank:
            return f"its priority is {priority}, and that of the other {-one.rank}"
        if move.new.owner == one.owner:
            return ""
        if pool.sharing.priority != "across-owners":
            return "it is of another owner"
        guarantee = _guarantee(pool, move.new.owner)
        left = self._left(pool, move.new.owner) + self._own_victims(pool, move)
        hold = self._given_up(move.task_id, move.new)
        if any(left.get(each) < guarantee[each] for each in guarantee if each in hold):
            return f"{move.new.owner} would hold {left}, below its guarantee of {guarantee}"
        return ""

    def _why_not_reclaimed(self, pool: Pool, move: Move, one: Waiting, claim: Claim) -> str:
        owner = move.new.owner
        if owner == one.owner:
            assert pool.preemption is not None
            return (
                self._why_not_by_priority(pool, move, one) if pool.preemption.by_priority else "it is its own"
            )
        guarantee, left = _guarantee(pool, owner), self._left(pool, owner)
        # what it held as the last was chosen that this transaction stops; each claim has them in order
        stopped = self._last_stopped(pool, move)
        named = [each for each in claim.short if each in self._given_up(move.task_id, move.new)]
        if not any((left + hold).get(each) > guarantee.get(each) for hold in stopped for each in named):
            return f"{owner} held {left} and one of {stopped}, within its guarantee of {guarantee}"
        ahead = [
            other
            for other in self.waiting(pool)
            if other.owner == one.owner and other < one and (pool.name, other.task_id) in self.claims
        ]
        after = self._still_held(pool, one.owner) + one.asked
        for other in ahead:
            after += other.asked
        mine = _guarantee(pool, one.owner)
        if any(after.get(each) > mine.get(each) for each in claim.short):
            return f"{one.owner} would hold {after}, above its guarantee of {mine}"
        return ""

    def _still_held(self, pool: Pool, owner: str) -> Vector:
        """What an owner will hold once all has stopped that is to be."""
        held = self._held(pool.name, owner)
        for task_id, status in self._oracle.statuses.items():
            if (status.pool, status.owner) == (pool.name, owner) and status.state in HOLDING:
                stops = status.stopping and status.lost_since is None and not status.of_gang
                held -= self._hold(task_id, status) if stops else ZERO
        return held

    def _hold(self, task_id: str, status: Status) -> Vector:
        """What comes free with it: of a gang, what its members hold as well."""
        hold = status.hold
        for member in self._oracle.statuses.values() if status.reserved else ():
            is_one = member.array == task_id and member.state in HOLDING and member.lost_since is None
            hold += member.hold if is_one else ZERO
        return hold

    def _given_up(self, task_id: str, status: Status) -> Vector:
        """What it held until it was stopped: a gang releases at once what no member has taken over."""
        return self._hold(task_id, status) + total(status.reserved)

    def _left(self, pool: Pool, owner: str) -> Vector:
        """The most that an owner may take itself to hold then: with all that it waits for."""
        held = self._still_held(pool, owner)
        for one in self.waiting(pool):
            held += one.asked if one.owner == owner else ZERO
        return held

    def _own_victims(self, pool: Pool, move: Move) -> Vector:
        """What its owner gives up for tasks of its own in the same transaction, perhaps after this."""
        owner, holds = move.new.owner, ZERO
        others = {one.task_id for one in self.waiting(pool) if one.owner != owner}
        # a task may be of this owner if its spec has been deleted meanwhile
        own = [
            claim for (of, task_id), claim in self.claims.items() if of == pool.name and task_id not in others
        ]
        victims = {name for claim in own for name in claim.victims}
        for name, status in self._stopped_with(move):
            holds += self._given_up(name.rpartition("-")[0], status) if name in victims else ZERO
        return holds

    def _last_stopped(self, pool: Pool, move: Move) -> list[Vector]:
        """What those hold of which one must have been chosen last."""
        holds = {
            name: self._given_up(name.rpartition("-")[0], status) for name, status in self._stopped_with(move)
        }
        claims = [claim.victims for (of, _), claim in self.claims.items() if of == pool.name]
        orders = [[name for name in victims if name in holds] for victims in claims]
        lasts = {names[-1] for names in orders if names}
        return [hold for name, hold in holds.items() if name in lasts]

    def _stopped_with(self, move: Move) -> Iterator[tuple[str, Status]]:
        """The attempts of that owner which the same transaction stops for others."""
        for task_id, status in self._oracle.statuses.items():
            if (status.op, status.owner, status.stopping) == (move.new.op, move.new.owner, "preempted"):
                yield f"{task_id}-{status.attempt}", status

    def _check_preempted(self, move: Move) -> None:
        """It has used up no attempt, and waits for its turn again, at once."""
        old, new = move.old, move.new
        if old is None or old.state not in HOLDING or new.state in HOLDING:
            return
        steps = steps_since(old, new)
        if new.state == "WaitingRetry" and steps[0].event == "preempted":
            counts = ("failures", "start_failures", "uncounted")
            changed = [each for each in counts if getattr(old, each) != getattr(new, each)]
            late = (new.retry_at or 0.0) * 1000 > move.at + 1
            if old.stopping != "preempted" or changed or late or new.reason != "Preempted":
                raise Violation("I11", f"{move.task_id} was preempted, but {changed or new}", move.task_id)
            self.ended += 1
        elif old.stopping == "preempted" and new.state in ("WaitingRetry", "Failed"):
            key = self._oracle.keys.task(move.task_id)
            if self._oracle.specs_put.get(move.task_id) == 1 and key in self._oracle.values:
                raise Violation("I11", f"{move.task_id} was preempted, and has failed for it", move.task_id)

    # -- the end of claims

    def _check_end(self, key: tuple[str, str], claim: Claim, op: str) -> None:
        """I11: it ended for a reason."""
        name, task_id = key
        oracle = self._oracle
        status = oracle.statuses.get(task_id)
        if status is not None and (
            status.state not in WAITING
            or status.on_hold
            or (status.retry_at or 0.0) > oracle.now() - oracle.wall_spread - 1.0
        ):
            return
        is_aside = oracle.keys.quarantined(task_id) in oracle.values
        is_closed = oracle.dependents.is_closed(task_id)
        if is_aside or is_closed or task_id in {**oracle.frozen, **oracle.rubbish}:
            return
        for pool in self.versions(name, op):
            if pool is None or pool.sharing is None or pool.preemption is None or pool.paused:
                return
            one = self._waiting(pool, task_id, status)
            if one is None or not self._shares.is_sure(name) or oracle.specs_put.get(task_id) != 1:
                return
            free = pool.capacity - oracle.ledgers.get(name, ZERO)
            if self._is_over_limit(pool, one.owner, one.asked) or one.asked.fits(free):
                return
            if self._may_be_kept_back(pool, one):
                return
        raise Violation("I11", f"the claim of {task_id} on {name} has ended, and it still waits", task_id)

    def left(self) -> Iterator[str]:
        """What must not be there once all has finished."""
        for pool, task_id in self.claims:
            yield f"the claim of {task_id} on {pool} is left"

    def check_rest(self, before: int, waiting: int) -> None:
        """So many preemptions at most follow the last submission."""
        most = AT_LEAST + PER_OPEN_TASK * waiting
        if self.preemptions - before > most:
            raise Violation(
                "I11", f"{self.preemptions - before} preemptions, and {waiting} tasks had not ended"
            )

    # -- whose turn comes at all

    def check_idle(self) -> None:
        """Where nothing goes wrong, no owner's first task waits for long though it fits."""
        if not self.judges:
            return
        now, idle = self._oracle.scheduler.now, {}
        for name in self.pools:
            pool = self._pool(name)
            if pool is None or pool.sharing is None or pool.paused or not self._shares.is_sure(name):
                continue
            heads: dict[str, Waiting] = {}
            for one in self.waiting(pool):
                if not self._may_be_kept_back(pool, one):
                    heads.setdefault(one.owner, one)
            for one in heads.values():
                free = pool.capacity - self._oracle.ledgers.get(name, ZERO)
                for other in heads.values():
                    reserves = (name, other.task_id) in self.claims or pool.backfill_seconds < 60
                    free -= other.asked if other != one and reserves else ZERO
                self.heads += 1
                if one.asked.fits(free) and self._is_ready(pool, one):
                    idle[one.task_id] = self._idle.get(one.task_id, now)
        self._idle = idle
        for task_id, since in idle.items():
            if now - since > IDLE_SECONDS:
                raise Violation("turn", f"{task_id} fits its pool, and is not admitted", task_id)


def _guarantee(pool: Pool, owner: str) -> Vector:
    """What is guaranteed to an owner, scaled where the pool is too small for all."""
    assert pool.sharing is not None
    policy = pool.sharing.owners.get(owner)
    if policy is None:
        return ZERO
    scaled = {}
    for name, amount in policy.guarantee.items():
        total = sum(each.guarantee.get(name) for each in pool.sharing.owners.values())
        scaled[name] = amount * min(total, pool.capacity.get(name)) // total
    return Vector(scaled)


def _priority(spec: Spec, status: Status | None) -> int:
    """Its spec's, unless a user has changed it."""
    return spec.priority if status is None or status.priority is None else status.priority


def _is_admission(move: Move) -> bool:
    return move.new.state in HOLDING and (move.old is None or move.old.state not in HOLDING)


def _is_preemption(move: Move) -> bool:
    return move.new.stopping == "preempted" and (move.old is None or move.old.stopping != "preempted")
