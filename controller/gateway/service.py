"""What the gateway does for a caller: the client's verbs, each within the caller's rights.

A task that a caller may not read does not exist for it: to ask for it is NotFound, and to submit another one
of its name is a conflict that says no more than that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, TypeVar

import msgspec

from controller.client import Client
from controller.client.errors import NotFound
from controller.client.features import Features
from controller.client.newcomers import Newcomers
from controller.client.queue_room import QueueRoom
from controller.client.reading import Reading, sorted_views
from controller.client.requests import Requests
from controller.client.submission import Denied, KnownPools, Submission, SubmitResult
from controller.client.views import (
    LeaderView,
    OwnerView,
    PoolView,
    ReplicaView,
    RequestResult,
    SharingView,
    TaskView,
    leader_view,
    owner_view,
    pool_views,
    replica_views,
    sharing_view,
    task_view,
)
from controller.core.model.kept_log import KeptLog
from controller.core.model.model import Model
from controller.core.model.scalars import parse_name
from controller.core.model.task import Spec
from controller.errors import UserError
from controller.gateway.identity import Identity
from controller.gateway.noted import NotedCalls
from controller.gateway.policy import Right, Rights, needed
from controller.gateway.standby import Standby
from controller.views.explain import explain
from controller.views.pools import all_owners, owners_of, sharing_facts
from controller.views.selector import Requirement
from controller.views.tasks import owner_of
from controller.views.usage import Usage

TAKEN = "a task of this name exists already, and is another one: use another name"


V = TypeVar("V")


class Forbidden(UserError):
    """The caller lacks a verb."""

    def __init__(self, act: Right, what: str) -> None:
        super().__init__(f"you lack the verb {needed(act)} for {what}: ask who keeps the gateway's policy")
        self.verb = needed(act)


class Caller(NamedTuple):
    """Who asks, and what it may do."""

    identity: Identity
    rights: Rights


class Service:
    """See the module's docstring. Its methods block, and may be called from any thread."""

    def __init__(self, calls: NotedCalls, standby: Standby) -> None:
        self._calls = calls
        self._standby = standby
        self._reading = Reading(calls.store, calls.keys, calls.clock, calls.timeout_seconds)
        self._features = Features(calls, self._reading)
        self._client = Client.of_store(
            calls.store, cluster=calls.keys.cluster, clock=calls.clock, timeout_seconds=calls.timeout_seconds
        )
        self._pools = KnownPools(lambda: self._reading.model("pools/").pools, self._features.check)

    @property
    def cluster(self) -> str:
        """The name of the installation."""
        return self._calls.keys.cluster

    # -- reading

    def no_task(self, task_id: str) -> str:
        """What is told of a task that does not exist, as far as the caller may know."""
        return str(self._reading.no_task(task_id))

    def task(self, caller: Caller, task_id: str) -> TaskView:
        """One task. Raises NotFound, and InvalidField for what cannot be a task's name."""
        parse_name(task_id, "id", "a task id")
        with self._standby.reading() as model:
            return self._found(caller, task_view(model, task_id), task_id)

    def tasks(
        self,
        caller: Caller,
        *,
        pool: str = "",
        states: frozenset[str] | None = None,
        terms: Sequence[Requirement] = (),
        owner: str = "",
        only: set[str] | None = None,
    ) -> list[TaskView]:
        """The tasks that match and that the caller may read, in the order in which they were submitted.

        `only` limits them to these ids.
        """
        with self._standby.reading() as model:
            found = sorted_views(model, pool, states, terms, only, owner)
        return [view for view in found if caller.rights.allows(Right.READ, view.owner)]

    def explain(self, caller: Caller, task_id: str) -> str:
        """Why the task waits, runs or ended, in one sentence. Raises NotFound."""
        with self._standby.reading() as model:
            self._found(caller, task_view(model, task_id), task_id)
            return explain(model, task_id, self._calls.clock.now())

    def readable(self, caller: Caller, task_ids: Iterable[str]) -> dict[str, TaskView]:
        """Of these tasks, those that exist as far as the caller may know."""
        with self._standby.reading() as model:
            views = [view for task_id in task_ids if (view := task_view(model, task_id)) is not None]
        return {view.id: view for view in views if caller.rights.allows(Right.READ, view.owner)}

    def owners(self, caller: Caller, pool: str) -> list[OwnerView]:
        """The owners, as `Owners.all`, of whom the caller may read the tasks."""
        now = self._calls.clock.now()
        with self._standby.reading() as model:
            found = owners_of(model, pool, now) if pool else all_owners(model, now)
        return [owner_view(facts) for facts in found if caller.rights.allows(Right.READ, facts.owner)]

    def sharing(self, caller: Caller, pool: str) -> SharingView:
        """How a pool is shared; of owners and claims those of which the caller may read the tasks."""
        with self._standby.reading() as model:
            view = sharing_view(sharing_facts(model, pool, self._calls.clock.now()))
            owners = {
                claim.task: owner_of(model.tasks[claim.task])
                for claim in view.claims
                if claim.task in model.tasks
            }
        may = caller.rights.allows
        return msgspec.structs.replace(
            view,
            owners=[owner for owner in view.owners if may(Right.READ, owner.owner)],
            claims=[
                msgspec.structs.replace(claim, victims=())  # they may be of others
                if not caller.rights.may_read_all
                else claim
                for claim in view.claims
                if may(Right.READ, owners.get(claim.task, ""))
            ],
        )

    def usage(self, caller: Caller, by: str, pool: str, since: str, until: str) -> Usage:
        """What was used, as `Client.usage`; by owner, of the owners that the caller may read.

        Raises Forbidden for sums over owners of whom some may not be read.
        """
        if by != "owner" and not caller.rights.may_read_all:
            raise Forbidden(Right.READ, "the tasks of all owners, which are summed here")
        found = self._client.usage(by=by, pool=pool, since=since, until=until)
        if by != "owner":
            return found
        items = [line for line in found.items if caller.rights.allows(Right.READ, line.name)]
        return msgspec.structs.replace(found, items=items)

    def replicas(self) -> list[ReplicaView]:
        """The registered replicas."""
        with self._standby.reading() as model:
            return replica_views(model)

    def leader(self) -> LeaderView | None:
        """The leader; None when no replica leads."""
        with self._standby.reading() as model:
            return leader_view(model.leader)

    def kept_log(self, caller: Caller, task_id: str) -> KeptLog | None:
        """The kept log of the task; None if none was kept. Raises NotFound, CorruptValue."""
        self.task(caller, task_id)
        return self._reading.kept_log(task_id)

    def pools(self) -> list[PoolView]:
        """All pools. Whoever has signed in may know them: a task names its pool."""
        with self._standby.reading() as model:
            return pool_views(model)

    def may(self, caller: Caller, act: Right, task_id: str) -> bool:
        """Whether the caller may do this with the task. Raises NotFound for one that it may not read."""
        return caller.rights.allows(act, self.task(caller, task_id).owner)

    # -- writing

    def submit(
        self, caller: Caller, tasks: Iterable[object], *, dry_run: bool = False
    ) -> Iterator[SubmitResult]:
        """Submit tasks; as `Client.submit_many`."""

        def allows(spec: Spec) -> None:
            if not caller.rights.allows(Right.SUBMIT, spec.owner, spec.pool):
                raise Denied("owner", str(Forbidden(Right.SUBMIT, f"owner {spec.owner} in pool {spec.pool}")))

        submission = Submission(
            self._calls.keys,
            self._pools,
            self._calls.clock,
            self._calls.commit_patiently,
            QueueRoom(self._all),
            Newcomers(self._has_share),
            allows,
        )
        results = submission.dry_run(tasks, self._calls.stored_tasks) if dry_run else submission.run(tasks)
        return map(self._plain, results)

    def noting(self, what: Callable[[], V]) -> tuple[V, int]:
        """The result, and the revision of the last commit on the way to it; 0 for none."""
        return self._calls.noting(what)

    def cancel(self, caller: Caller, task_id: str, reason: str, create: int) -> RequestResult:
        """As `Client.cancel`. Raises NotFound, and Forbidden."""
        return self._ask(caller, task_id, create, lambda asks, of: asks.cancel(task_id, reason=reason, of=of))

    def retry(self, caller: Caller, task_id: str, reason: str, create: int) -> RequestResult:
        """As `Client.retry`. Raises NotFound, Forbidden, UserError."""
        return self._ask(caller, task_id, create, lambda asks, of: asks.retry(task_id, reason=reason, of=of))

    def hold(self, caller: Caller, task_id: str, reason: str, create: int) -> RequestResult:
        """As `Client.hold`. Raises NotFound, Forbidden, UserError."""
        return self._ask(caller, task_id, create, lambda asks, of: asks.hold(task_id, reason=reason, of=of))

    def release(self, caller: Caller, task_id: str, reason: str, create: int) -> RequestResult:
        """As `Client.release`. Raises NotFound, Forbidden, UserError."""
        return self._ask(
            caller, task_id, create, lambda asks, of: asks.release(task_id, reason=reason, of=of)
        )

    def set_priority(
        self, caller: Caller, task_id: str, priority: int, reason: str, create: int
    ) -> RequestResult:
        """As `Client.set_priority`. Raises NotFound, Forbidden, UserError."""
        return self._ask(
            caller,
            task_id,
            create,
            lambda asks, of: asks.set_priority(task_id, priority, reason=reason, of=of),
        )

    def confirm_stopped(self, caller: Caller, task_id: str, reason: str, create: int) -> RequestResult:
        """As `Client.confirm_stopped`, for who may do everything. Raises NotFound, Forbidden, UserError."""
        self._check_admin(caller, "confirm-stopped, after which an attempt may run twice")
        return self._ask(
            caller, task_id, create, lambda asks, of: asks.confirm_stopped(task_id, reason=reason, of=of)
        )

    def admin(self, caller: Caller, what: str) -> Client:
        """A client, for who may do everything. Raises Forbidden that names `what`."""
        self._check_admin(caller, what)
        return self._client

    # -- details

    def _check_admin(self, caller: Caller, what: str) -> None:
        if not caller.rights.is_admin:
            raise Forbidden(Right.ADMIN, what)

    def _ask(
        self,
        caller: Caller,
        task_id: str,
        create: int,
        what: Callable[[Requests, TaskView], RequestResult],
    ) -> RequestResult:
        """Ask the leader for something, of the very task that the caller may change.

        `create` is the create revision of its spec as the caller knows it; 0 if it does not say.
        """
        # of the store, since the model may be behind: what is authorised is compared in the transaction
        view = self._found(caller, self._stored(task_id), task_id)
        if create not in (0, view.create_revision):
            raise self._reading.no_task(task_id)
        if not caller.rights.allows(Right.CANCEL, view.owner):
            raise Forbidden(Right.CANCEL, f"owner {view.owner}")
        requests = Requests(self._calls, self._reading, self._features, by=caller.identity.name)
        return what(requests, view)

    def _stored(self, task_id: str) -> TaskView | None:
        try:
            return self._reading.task(task_id)
        except NotFound:
            return None

    def _found(self, caller: Caller, view: TaskView | None, task_id: str) -> TaskView:
        if view is None or not caller.rights.allows(Right.READ, view.owner):
            raise self._reading.no_task(task_id)
        return view

    def _plain(self, result: SubmitResult) -> SubmitResult:
        """A conflict tells nothing of the other task."""
        return msgspec.structs.replace(result, message=TAKEN) if result.outcome == "conflict" else result

    def _all(self) -> Model:
        with self._standby.reading() as model:
            return model

    def _has_share(self, pool: str, owner: str) -> bool:
        with self._standby.reading() as model:
            return owner in model.shares.get(pool, ())
