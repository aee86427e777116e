"""Views of tasks and pools, for the client library and the command line.

They are frozen values, made of the facts of `controller.views`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import msgspec

from controller.core.model import codec
from controller.core.model.capacities import ObservedCapacity
from controller.core.model.fair_order import dominant
from controller.core.model.lifecycle import State
from controller.core.model.model import Model
from controller.core.model.op import NO_OP
from controller.core.model.paired import SKIPPED
from controller.core.model.resources import ZERO, Vector
from controller.core.model.shares import digits
from controller.core.model.task import DEFAULT_OWNER, Pool, Spec, Status
from controller.views.arrays import ArrayProgress
from controller.views.dependencies import ParentView, Sees, parents_of, waits_for
from controller.views.pools import ClaimFacts, OwnerFacts, SharingFacts, all_pools
from controller.views.step import StepView, step_views
from controller.views.tasks import can_be_changed, find_task


class TaskView(msgspec.Struct, frozen=True, kw_only=True):
    """A task as it is stored.

    Times are seconds since the Unix epoch; None means that it has not happened.
    """

    id: str
    pool: str
    owner: str = DEFAULT_OWNER  # whom its resources are charged to
    state: State | None  # None: its status cannot be read
    attempt: int = 0
    reason: str = ""
    message: str = ""
    problem: str = ""  # why its spec is invalid, or which of its records cannot be read
    requests: tuple[str, ...] = ()  # the kinds of requests that wait for the leader
    on_hold: bool = False  # not admitted until it is released
    priority: int = 0  # as a user has set it since, or else as in its spec
    submitted_at: float = 0.0
    create_revision: int = 0  # of its spec: another task of the same name has another; 0 if it is gone
    # who has submitted it, as a gateway attests; "" if none does: its owner is then its writer's own word
    attested_by: str = ""
    # the tasks that it waits for; empty where no other task was read, as in what `Client.wait` returns
    after: tuple[ParentView, ...] = ()
    progress: ArrayProgress | None = None  # of an array: how many of its members are in each state
    member_of: str = ""  # of a member of an array: that array
    spec: Spec | None = None
    status: Status | None = None

    @property
    def finished(self) -> bool:
        """Whether the task has finished. A retry can still undo that, unless it is Succeeded."""
        return self.status is not None and self.status.is_finished

    @property
    def skipped(self) -> bool:
        """Whether it was to run after the failure of a task that did not fail, and so is Cancelled."""
        return self.state is State.CANCELLED and self.reason == SKIPPED

    @property
    def lost(self) -> bool:
        """Whether its attempt is lost; its resources stay held."""
        return self.status is not None and self.status.lost_since is not None

    @property
    def can_be_changed(self) -> bool:
        """Whether the task waits, or is about to wait again since its attempt is being preempted.

        An array waits until its last member has ended, and a gang until all of them begin.
        """
        return can_be_changed(self.state, self.spec, self.status, self.progress)

    @property
    def waits_for(self) -> int:
        """How many of the tasks in `after` it waits for: those that have not ended."""
        return waits_for(self.after, self.state)

    def history(self) -> list[StepView]:
        """The steps of its lifecycle, oldest first. Raises CorruptValue when they cannot be read."""
        return step_views(self.status) if self.status is not None else []

    def to_builtins(self) -> dict[str, Any]:
        """The view as dicts, lists, strings and numbers, with its history."""
        plain: dict[str, Any] = codec.to_builtins(msgspec.structs.replace(self, spec=None, status=None))
        if self.spec is not None:
            plain["spec"] = codec.spelled_out(self.spec)
        if self.status is not None:
            plain["status"] = codec.to_builtins(msgspec.structs.replace(self.status, history=(), epoch=0))
            plain["status"]["epoch"] = self.status.epoch  # it is stored under another name
            plain["status"]["history"] = codec.to_builtins(self.history())
        return plain


class PoolView(msgspec.Struct, frozen=True, kw_only=True):
    """A pool: its capacity, what is held, and what is free (below zero when overcommitted)."""

    name: str
    capacity: Vector = ZERO
    held: Vector = ZERO
    free: Vector = ZERO
    # what nodes give, if the capacity follows them and they were counted
    observed: ObservedCapacity | None = None
    # what waits and would be admitted at once, if the capacity had no bounds; None when no tasks were read
    demand: Vector | None = None
    # None: tasks draw on a pool that is not defined, or whose definition cannot be read
    definition: Pool | None = None
    problem: str = ""
    counts: dict[str, int] = {}  # state → number of tasks; empty when no tasks were read
    on_hold: int | None = None  # of the tasks that wait; None when no tasks were read

    @property
    def resources(self) -> list[str]:
        """The resources of its capacity and of its holds, sorted."""
        return sorted({*self.capacity, *self.held})

    @property
    def part_held(self) -> float:
        """The part of the resource of which most is held; infinite if the pool has none of it."""
        return dominant(self.held, self.capacity)

    @property
    def overcommitted(self) -> list[str]:
        """The resources of which more is held than the pool has."""
        return self.held.exceeding(self.capacity)


class OwnerView(msgspec.Struct, frozen=True, kw_only=True):
    """What one owner has of a pool with `sharing`.

    `share` is its dominant share: the largest part of any resource that it holds, averaged with the pool's
    half-life, divided by its weight. `used` is in resource units (milli-cpu, bytes, counts) times
    milliseconds, since the beginning; as text, since such integers exceed what JSON readers can count.
    """

    pool: str
    owner: str
    weight: float
    held: Vector
    guarantee: Vector  # scaled down if the pool cannot give all guarantees
    limit: dict[str, str]  # as quantities; a resource that is not named has none
    max_running: int | None
    max_queued: int | None
    part_held: float  # its part of the resource of which it holds most, whatever its weight; at most 1
    share: float | None  # None: it holds something that the pool has no more
    running: int  # its Pending and Running tasks
    waiting: int  # its tasks in the queue, without those in back-off or on hold
    on_hold: int  # its tasks that are not admitted until they are released
    used: dict[str, str]
    lost: dict[str, str]  # of what it has used: held while the attempt was lost
    stopping: dict[str, str]  # of what it has used: held while the attempt was being stopped
    problem: str = ""  # why its share cannot be read


class ClaimView(msgspec.Struct, frozen=True, kw_only=True):
    """What is being freed for a waiting task by stopping other attempts.

    `stopping` is how many of the `victims` still hold something. `at` is when that began, in seconds since
    the Unix epoch; None if it cannot be read.
    """

    task: str
    kind: str = ""
    asked: Vector = ZERO
    short: Vector = ZERO
    victims: tuple[str, ...] = ()
    stopping: int = 0
    at: float | None = None
    problem: str = ""  # why it cannot be read


class SharingView(msgspec.Struct, frozen=True, kw_only=True):
    """How a pool is shared: its owners, by name, and its claims, by task.

    `rebuilding`: its shares are not whole, and no hold of the pool changes until they are. `stopped` is how
    many attempts were stopped for other tasks in this minute.
    """

    owners: list[OwnerView]
    claims: list[ClaimView]
    rebuilding: bool
    stopped: int


class RequestResult(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of a request: stored, already pending or acted on, or not needed."""

    id: str
    outcome: Literal["requested", "already requested", "already finished", "unchanged"]
    message: str = ""


class ApplyResult(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of the definition of a pool or a schedule. `message` warns of what it entails.

    `turned_on` are the features that it needs and that were off.
    """

    name: str
    outcome: Literal["created", "configured", "unchanged"]
    message: str = ""
    turned_on: tuple[str, ...] = ()


class TasksLook(list[TaskView]):
    """What a look of a watch shows: all tasks that match if it `is_whole`, else those that changed.

    `gone` are those that changed and are not there any more, of all tasks: their ends may never be shown. A
    watch of one task shows with a whole look that has none that it is gone.
    """

    def __init__(self, views: Iterable[TaskView], *, is_whole: bool, gone: Iterable[str] = ()) -> None:
        super().__init__(views)
        self.is_whole = is_whole
        self.gone = frozenset(gone)


def task_view(
    model: Model, task_id: str, *, alone: bool = False, sees: Sees | None = None
) -> TaskView | None:
    """The view of a task, or of a member of an array; None if there is neither.

    `alone`: the model has no other tasks, so it is not told what the task waits for. Otherwise, `sees` tells
    of which tasks the reader may know the states; None: of all.
    """
    facts = find_task(model, task_id)
    if facts is None:
        return None
    if alone:
        facts = facts._replace(waits_for=0)
    broken = (f"{kind}/{facts.id}: {why}" for kind, why in facts.broken)
    return TaskView(
        id=facts.id,
        pool=facts.pool,
        owner=facts.owner,
        state=facts.state,
        attempt=facts.attempt,
        reason=facts.reason,
        message=facts.message,
        problem="; ".join(filter(None, [facts.spec_error, *broken])),
        requests=tuple(sorted(request.kind for request in facts.requests)),
        on_hold=facts.on_hold,
        priority=facts.priority,
        submitted_at=facts.submitted_at,
        create_revision=facts.create_revision,
        attested_by=facts.attested_by,
        after=() if alone else parents_of(model, task_id, sees),
        progress=facts.progress,
        member_of=facts.member_of,
        spec=facts.spec,
        status=facts.status,
    )


def pool_views(model: Model, now: float, *, counts: bool = True) -> list[PoolView]:
    """The pools that are defined or have holds, sorted by name; without `counts`, the model has no tasks."""
    return [
        PoolView(
            name=facts.name,
            capacity=facts.capacity,
            held=facts.held,
            free=facts.free,
            observed=_without_op(facts.observed),
            demand=facts.demand if counts else None,
            definition=facts.definition,
            problem="; ".join(f"{kind}/{facts.name}: {why}" for kind, why in facts.broken),
            counts={state.value: number for state, number in facts.tasks.items()},
            on_hold=facts.on_hold if counts else None,
        )
        for facts in all_pools(model, now)
    ]


def _without_op(observed: ObservedCapacity | None) -> ObservedCapacity | None:
    return msgspec.structs.replace(observed, op=NO_OP) if observed is not None else None


def owner_view(facts: OwnerFacts) -> OwnerView:
    """The view of an owner."""
    policy = facts.policy
    return OwnerView(
        pool=facts.pool,
        owner=facts.owner,
        weight=policy.weight,
        held=facts.held,
        guarantee=facts.guarantee,
        limit=policy.limit.format(),
        max_running=policy.max_running,
        max_queued=policy.max_queued,
        part_held=facts.part_held,
        share=facts.share,
        running=facts.running,
        waiting=facts.waiting,
        on_hold=facts.on_hold,
        used=digits(facts.used),
        lost=digits(facts.parts.lost),
        stopping=digits(facts.parts.stopping),
        problem=facts.broken,
    )


def sharing_view(facts: SharingFacts) -> SharingView:
    """The view of how a pool is shared."""
    return SharingView(
        owners=[owner_view(owner) for owner in facts.owners],
        claims=[_claim_view(claim) for claim in facts.claims],
        rebuilding=facts.is_rebuilding,
        stopped=facts.stopped,
    )


def _claim_view(facts: ClaimFacts) -> ClaimView:
    claim = facts.claim
    if claim is None:
        return ClaimView(task=facts.task, problem=facts.broken)
    return ClaimView(
        task=facts.task,
        kind=claim.kind,
        asked=claim.asked,
        short=claim.short,
        victims=claim.victims,
        stopping=facts.stopping,
        at=claim.at / 1000,
    )
