"""Preemption: which attempts are stopped for a waiting task, and for which tasks (invariant I11).

A claim says for which task attempts are stopped. It is written in the transaction that marks the first of
them, and appended to in those that mark more. Their holds stay until their stop is proven, as after any stop.
What comes free is set aside for the tasks with claims, in the order of the pool's queue.

Nothing is stopped that need not be: what is free and what is coming free already, after whatever stop, counts
first. Nothing can loop: a reclaim takes from an owner above its guarantee for one that stays within its own,
so the sum of what owners hold beyond their guarantees falls; and a priority takes from strictly lower ones,
never from what is guaranteed to another owner. A task whose owner has filled its guarantee with lower ones
has both rights at once: it takes the place of these, and reclaims the rest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator

import msgspec

from controller.core.model.claims import MAX_VICTIMS, Claim, ClaimKind
from controller.core.model.fair_order import Turn
from controller.core.model.lifecycle import State
from controller.core.model.model import Model
from controller.core.model.owner_cursor import is_over_limit
from controller.core.model.records import PoolRecord, Task
from controller.core.model.resources import ZERO, Vector
from controller.core.model.shares import MINUTE_MS
from controller.core.model.sharing import Preemption, Sharing, SharingPriority
from controller.core.model.task import AttemptId, Pool, Status, StopReason
from controller.core.planning import transitions
from controller.core.planning.agenda import Agenda
from controller.core.planning.decide import Decision
from controller.core.planning.draft import Draft
from controller.core.planning.victims import Candidates, Victim


class Preemptor:
    """See the module's docstring."""

    def __init__(self, model: Model, agenda: Agenda) -> None:
        self._model = model
        self._agenda = agenda

    def end_claims(self, name: str, draft: Draft) -> None:
        """End the claims of a pool that no longer serve: of tasks that do not wait for it, or may not run."""
        if name not in self._model.claims:
            return
        record, queue = self._model.pools.get(name), self._model.eligible(name, draft.moment.now)
        for task_id in self._model.claims[name]:
            if draft.has_changed(task_id):
                continue
            task = self._model.tasks.get(task_id)
            if (
                record is None
                or record.pool.sharing is None
                or record.pool.preemption is None
                or task is None
                or task_id not in queue
                or is_over_limit(
                    record.pool.sharing.of(task.owner), draft.share(name, task.owner), task.demand
                )
            ) and not draft.put_claim(name, task_id, None):
                self._agenda.pools[name] = None
                return

    def plan(
        self,
        record: PoolRecord,
        turns: list[Turn],
        free: Vector,
        may_start: Callable[[str], bool],
        draft: Draft,
    ) -> None:
        """Add claims, and the stops that they ask for, to the draft.

        `turns` are those of the owners whose first task does not fit, in order; `free` is what the pool has
        left.
        """
        pool = record.pool
        assert pool.sharing is not None
        if pool.preemption is None or not (pool.preemption.reclaim or pool.preemption.by_priority):
            return
        queue = self._model.eligible(pool.name, draft.moment.now)
        search = _Search(self._model, pool, pool.sharing, pool.preemption, free, draft)
        is_left = queue.any_fits(search.left)
        for turn in turns:
            if not is_left and not search.may_stop_for(turn):
                continue
            left = search.left
            for place, request in queue.of_owner(turn.owner):
                if not may_start(place.task_id):
                    break
                served = search.serve(self._model.tasks[place.task_id], request)
                if served is None:
                    self._agenda.pools[pool.name] = None
                    return
                if not served:
                    break
            if search.left is not left:
                is_left = queue.any_fits(search.left)
        if search.soonest is not None:
            self._agenda.wake_pool(search.soonest, pool.name)


class _Search:
    """One pass over the tasks of a pool that do not fit, in the order of their turn."""

    def __init__(
        self,
        model: Model,
        pool: Pool,
        sharing: Sharing,
        policy: Preemption,
        free: Vector,
        draft: Draft,
    ) -> None:
        self._model = model
        self._holders = model.indexes.holders
        self._pool = pool
        self._sharing = sharing
        self._is_across = sharing.priority is SharingPriority.ACROSS_OWNERS
        self._policy = policy
        self._draft = draft
        self._claims = draft.claims(pool.name)
        self.soonest: float | None = None  # when an attempt that is too young may be stopped
        self.left = free  # and what comes free, without what is for the tasks looked at so far
        self._taken: dict[str, Vector] = {}  # owner → what the attempts hold that are being stopped
        self._given: dict[str, Vector] = {}  # owner → what its waiting tasks will hold, of those looked at
        self._tasks: dict[str, int] = {}  # owner → how many these are
        self._stopped: set[str] = set()
        # what `_candidates` has found, and how many had been stopped then
        self._found: dict[str, tuple[int, Candidates]] = {}
        # what the draft has released is in `free`, and comes free no more
        self._changes = {change.task_id: change.status for change in draft.changes()}
        for task in self._holders.stopping(pool.name):
            if task.status is not None and not draft.has_changed(task.id):
                self._comes_free(task.id, task.status)
        for task_id, status in self._changes.items():
            if status is not None and status.pool == pool.name and status.stopping:
                self._comes_free(task_id, status)

    def may_stop_for(self, turn: Turn) -> bool:
        """Whether attempts may be stopped for the owner's first task, as far as can be told at once."""
        if self._policy.reclaim and not turn.beyond:
            return True
        lowest = self._holders.lowest(self._pool.name, None if self._is_across else turn.owner)
        return self._policy.by_priority and lowest is not None and lowest < turn.priority

    def serve(self, task: Task, request: Vector) -> bool | None:
        """Give the task what is free and what comes free, and have attempts stopped for the rest.

        False if it cannot be served now. None if the draft is full.
        """
        owner = task.owner
        given = self._given.get(owner, ZERO)
        share = self._draft.share(self._pool.name, owner)
        running = share.running + self._tasks.get(owner, 0)
        share = share._replace(held=self._held(owner) + given, running=running)
        if is_over_limit(self._sharing.of(owner), share, request):
            return False
        short = Vector({name: request[name] - self.left.get(name) for name in request.exceeding(self.left)})
        if short:
            kind, victims = self._victims(task, request, short)
            victims = self._within_budget(victims)
            if not victims:
                return False
            stopped = self._stop(task, kind, request, short, victims)
            if stopped is None or len(stopped) < len(victims):
                return None
        self.left = self.left - request
        self._given[owner] = given + request
        self._tasks[owner] = self._tasks.get(owner, 0) + 1
        return True

    def _held(self, owner: str) -> Vector:
        """What the owner holds, without what is being stopped."""
        return self._draft.share(self._pool.name, owner).held - self._taken.get(owner, ZERO)

    def _comes_free(self, task_id: str, status: Status) -> None:
        """Count on what an attempt holds that is being stopped, unless its end may never be proven."""
        if status.lost_since is None and not status.of_gang:  # else its gang counts
            hold = self._hold_of(task_id, status)
            self.left += hold
            self._taken[status.owner] = self._taken.get(status.owner, ZERO) + hold
            self._stopped.add(task_id)

    def _hold(self, task: Task) -> Vector:
        """What comes free if the task is stopped."""
        assert task.status is not None
        return self._hold_of(task.id, task.status)

    def _hold_of(self, task_id: str, status: Status) -> Vector:
        """What a task with this status holds: of a gang, what its members hold as well."""
        array = self._model.arrays.of(task_id) if status.reserved else None
        hold = status.hold
        for member in array.members.values() if array is not None else ():
            one = self._changes.get(member.id, member.status)
            if one is not None and one.is_holding and one.lost_since is None:
                hold += one.hold
        return hold

    # -- whom to stop

    def _victims(self, task: Task, request: Vector, short: Vector) -> tuple[ClaimKind, list[Task]]:
        """By which right attempts are stopped for the task, and which; none if that would not be enough."""
        owner = task.owner
        if self._policy.reclaim and self._is_guaranteed(owner, request, short):
            found = self._enough(owner, short, self._reclaimable())
            if found:
                return ClaimKind.RECLAIM, found
        if not self._policy.by_priority:
            return ClaimKind.PRIORITY, []
        found = self._enough(owner, short, self._lower(task), task.priority)
        if not found and self._policy.reclaim:
            return ClaimKind.RECLAIM, self._replaced(task, request, short)
        return ClaimKind.PRIORITY, found

    def _replaced(self, task: Task, request: Vector, short: Vector) -> list[Task]:
        """By both rights: lower ones of the owner, so that it stays within its guarantee, and others' for the
        rest.

        Not while others of the owner are being stopped. Its turn comes first once that is proven; until then,
        what is reclaimed may go to others, and would be reclaimed again.
        """
        owner = task.owner
        if owner in self._taken:
            return []
        after = self._held(owner) + self._given.get(owner, ZERO) + request
        guarantee = self._pool.guarantee_of(owner)
        beyond = Vector({name: max(0, after.get(name) - guarantee.get(name)) for name in short})
        own = self._candidates(owner, (owner,))
        replaced = self._enough(owner, beyond, own, task.priority)
        for victim in replaced:
            short = short.without(self._hold(victim))
        reclaimed = replaced and self._enough(owner, short, self._reclaimable())
        return [*replaced, *reclaimed] if reclaimed else []

    def _is_guaranteed(self, owner: str, request: Vector, short: Vector) -> bool:
        """Whether the owner is below its guarantee of all that is short, and stays within it.

        What it holds of attempts that are being stopped counts, as it does for its turn: otherwise what is
        stopped for the owner would go to others, whose turn comes first, and be stopped again.
        """
        guarantee, held = self._pool.guarantee_of(owner), self._draft.share(self._pool.name, owner).held
        after = held + self._given.get(owner, ZERO) + request
        return all(after.get(name) <= guarantee.get(name) for name in short)

    def _enough(
        self, asking: str, short: Vector, candidates: Candidates, priority: int | None = None
    ) -> list[Task]:
        """The first candidates that free what is short, without those that turn out not to be needed.

        `asking` is the owner for which they are stopped: of lower ones than `priority`; None: it reclaims,
        from others.
        """
        reclaims, below = priority is None, math.inf if priority is None else priority
        is_of_none = asking not in candidates.owners  # so that what comes of it does not depend on who asks
        if is_of_none and candidates.has_failed(short, below):
            return []
        chosen: list[Task] = []
        missing, taken = short, dict[str, Vector]()
        for victim in candidates.that_help(short):
            hold, owner = victim.hold, victim.task.owner
            if victim.priority >= below or (reclaims and owner == asking):
                continue
            helps = any(name in missing for name in hold)
            if not helps or not (
                (owner == asking and not reclaims)
                or self._may_lose(owner, hold, missing, taken.get(owner, ZERO), reclaims=reclaims)
            ):
                continue
            chosen.append(victim.task)
            taken[owner] = taken.get(owner, ZERO) + hold
            missing = missing.without(hold)
            if not missing:
                return self._needed(chosen, short)
        if is_of_none:
            candidates.note_failure(short, below)
        return []

    def _needed(self, chosen: list[Task], short: Vector) -> list[Task]:
        """Without those whose hold is not needed, the last of them first."""
        freed = ZERO
        for task in chosen:
            freed += self._hold(task)
        kept = []
        for task in reversed(chosen):
            if short.fits(freed - self._hold(task)):
                freed -= self._hold(task)
            else:
                kept.append(task)
        return kept[::-1]

    def _may_lose(self, owner: str, hold: Vector, missing: Vector, taken: Vector, *, reclaims: bool) -> bool:
        """Whether another owner that loses `taken` already may lose this hold as well."""
        held, guarantee = self._held(owner) - taken, self._pool.guarantee_of(owner)
        if reclaims:  # it is above its guarantee of something that is short, before the loss
            return any(held.get(name) > guarantee.get(name) for name in missing if name in hold)
        after = held - hold  # nothing of what is guaranteed
        return all(after.get(name) >= guarantee.get(name) for name in guarantee if name in hold)

    def _reclaimable(self) -> Candidates:
        """Those of owners that are above their guarantees."""
        above = (
            other
            for other in self._holders.owners(self._pool.name)
            if self._held(other).exceeding(self._pool.guarantee_of(other))
        )
        return self._candidates("above/", above)

    def _lower(self, task: Task) -> Candidates:
        """Those among which are those of a lower priority."""
        owners = self._holders.owners(self._pool.name) if self._is_across else (task.owner,)
        return self._candidates("all/" if self._is_across else task.owner, owners)

    def _candidates(self, key: str, owners: Iterable[str]) -> Candidates:
        """The attempts of these owners that may be stopped, in order. They are looked at once in a search."""
        stopped, found = self._found.get(key, (-1, None))
        if found is None:
            victims = [victim for owner in owners for victim in self._stoppable(owner)]
            victims.sort(key=lambda one: (*one[:3], one.task.id))
            found = Candidates(victims)
        elif stopped < len(self._stopped):
            found = Candidates(victim for victim in found.victims if victim.task.id not in self._stopped)
        self._found[key] = len(self._stopped), found
        return found

    def _stoppable(self, owner: str) -> Iterator[Victim]:
        """The owner's attempts that may be stopped now, whoever asks."""
        if self._model.share_is_frozen(self._pool.name, owner):
            return
        now = self._draft.moment.now
        for task in self._holders.of(self._pool.name, owner):
            status = task.status
            if (
                status is None
                or status.stopping
                or status.lost_since is not None
                or status.of_gang  # it is stopped with its gang, or not at all
                or task.id in self._stopped
                or task.frozen
                or task.requests
                or self._draft.has_changed(task.id)
            ):
                continue
            runs = status.state is State.RUNNING
            since = status.started_at or status.admitted_at or 0.0
            if runs and now < since + self._policy.min_run_seconds:
                ready = since + self._policy.min_run_seconds
                self.soonest = ready if self.soonest is None else min(self.soonest, ready)
                continue
            yield Victim(runs, task.priority, -since, task, self._hold(task))

    # -- stopping them

    def _within_budget(self, victims: list[Task]) -> list[Task]:
        """As many as may be stopped in this minute: all, or if even a whole minute is too short, some."""
        account = self._draft.account(self._pool.name)
        minute = self._draft.moment.at // MINUTE_MS
        stopped = account.stopped if account.minute == minute else 0
        left = max(0, self._policy.per_minute - stopped)
        if len(victims) <= left:
            return victims
        next_minute = (minute + 1) * MINUTE_MS / 1000
        self.soonest = next_minute if self.soonest is None else min(self.soonest, next_minute)
        return victims[:left] if not stopped else []

    def _stop(
        self, task: Task, kind: ClaimKind, request: Vector, short: Vector, victims: list[Task]
    ) -> list[Task] | None:
        """Mark as many as the draft has room for. None if it has no room for the claim."""
        known = self._claims.get(task.id)
        claim = known or Claim(kind=kind, asked=request, at=self._draft.moment.at)
        claim = msgspec.structs.replace(claim, kind=kind, asked=request, short=short)
        if self._draft.is_full or not self._draft.put_claim(self._pool.name, task.id, claim):
            return None
        stopped = []
        for victim in victims:
            assert victim.status is not None
            right = ClaimKind.PRIORITY if victim.owner == task.owner else kind
            why = f"its resources go to {task.id} of owner {task.owner}, by {right}"
            status = transitions.stop_requested(victim.status, StopReason.PREEMPTED, why, self._draft.moment)
            if not self._draft.add(victim, Decision(status)):
                break
            stopped.append(victim)
            self.left += victim.status.hold - status.hold  # a gang releases at once what no member has
            self._comes_free(victim.id, status)
        names = (str(AttemptId(victim.id, victim.attempt)) for victim in stopped)
        claim = msgspec.structs.replace(claim, victims=(*claim.victims, *names)[-MAX_VICTIMS:])
        self._draft.put_claim(self._pool.name, task.id, claim)
        self._draft.count_stopped(self._pool.name, len(stopped))
        return stopped
