"""What the gateway changes for a caller: the client's verbs that write, each within the caller's rights.

To submit a task of a name that another one has is a conflict that says no more than that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TypeVar

import msgspec

from controller.client import Client
from controller.client.errors import Conflict, NotFound
from controller.client.features import Features
from controller.client.newcomers import Newcomers
from controller.client.parents import Parents, Sight
from controller.client.prepared import SubmitResult
from controller.client.reading import Reading
from controller.client.requests import Requests
from controller.client.schedules import Schedules
from controller.client.submission import Denied, KnownPools, Submission
from controller.client.views import RequestResult, TaskView, task_view
from controller.core.model.features import ATTESTED
from controller.core.model.schedules import Schedule
from controller.core.model.task import Spec
from controller.gateway.caller import Caller
from controller.gateway.noted import NotedCalls
from controller.gateway.policy import Forbidden, Right
from controller.gateway.service import Service
from controller.gateway.waiting_tasks import WaitingTasks
from controller.runtime.standby import Standby
from controller.views import features
from controller.views.queue_room import QueueRoom
from controller.views.tasks import owner_of

TAKEN_SCHEDULE = "a schedule {name!r} exists already, and is another one: use another name"
TAKEN = "a task {id!r} exists already, and is another one: use another name"

V = TypeVar("V")


class Writing:
    """See the module's docstring. Its methods block, and may be called from any thread."""

    def __init__(self, calls: NotedCalls, standby: Standby, service: Service) -> None:
        self._calls = calls
        self._standby = standby
        self._service = service
        self._reading = Reading(calls.store, calls.keys, calls.clock, calls.timeout_seconds)
        self._features = Features(calls, self._reading)
        self.waiting = WaitingTasks(standby.reading)
        self._client = Client.of_store(
            calls.store, cluster=calls.keys.cluster, clock=calls.clock, timeout_seconds=calls.timeout_seconds
        )
        self._pools = KnownPools(
            lambda: self._reading.model("pools/").pools, self._features.check, self._attesting_mod
        )

    def submit(
        self, caller: Caller, tasks: Iterable[object], parents: Parents, *, dry_run: bool = False
    ) -> Iterator[SubmitResult]:
        """Submit tasks; as `Client.submit_many`, in their order. `parents` are those of the whole upload."""

        def allows(spec: Spec) -> None:
            if not caller.rights.allows(Right.SUBMIT, spec.owner, spec.pool):
                raise Denied("owner", str(Forbidden(Right.SUBMIT, f"owner {spec.owner} in pool {spec.pool}")))

        submission = Submission(
            self._calls.keys,
            self._pools,
            self._calls.clock,
            self._calls.commit_patiently,
            QueueRoom(lambda: self.waiting),
            Newcomers(self._has_share, partial(caller.rights.allows, Right.READ)),
            allows,
            caller.identity.name,
        )
        read = self._calls.stored_tasks
        results = submission.dry_run(tasks, parents, read) if dry_run else submission.run(tasks, parents)
        return map(partial(self._plain, caller), results)

    def parents(self, caller: Caller) -> Parents:
        """What submitted tasks wait for, as far as the caller may know. Nothing else tells that it exists."""
        rights = caller.rights

        def sees(task_id: str, mod: int) -> bool:
            if rights.may_read_all:
                return True
            with self._standby.reading() as model:
                task = model.tasks.get(task_id)
                if task is not None and task.spec_mod == mod and task.status is not None:
                    return rights.allows(Right.READ, owner_of(task))
            there = self._stored(task_id)  # the model is behind
            return there is not None and rights.allows(Right.READ, there.owner)

        return Parents(
            self._calls.keys, self._calls.stored_tasks, Sight(partial(rights.allows, Right.READ), sees)
        )

    def noting(self, what: Callable[[], V]) -> tuple[V, int]:
        """The result, and the revision of the last commit on the way to it; 0 for none."""
        return self._calls.noting(what)

    def cancel(
        self, caller: Caller, task_id: str, reason: str, create: int, members: str = ""
    ) -> RequestResult:
        """As `Client.cancel`. Raises NotFound, Forbidden, InvalidField, UserError."""
        verb = partial(Requests.cancel, task_id=task_id, members=members, reason=reason)
        return self._ask(caller, task_id, create, lambda asks, of: verb(asks, of=of))

    def retry(
        self,
        caller: Caller,
        task_id: str,
        reason: str,
        create: int,
        members: str = "",
        only_failed: bool = False,
    ) -> RequestResult:
        """As `Client.retry`. Raises NotFound, Forbidden, InvalidField, UserError."""
        verb = partial(
            Requests.retry, task_id=task_id, members=members, only_failed=only_failed, reason=reason
        )
        return self._ask(caller, task_id, create, lambda asks, of: verb(asks, of=of))

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

    def schedules(self, caller: Caller, name: str = "") -> Schedules:
        """As `Client.schedules`, to write, within the caller's rights: as submissions of their tasks.

        Raises Forbidden, and Conflict for another's that the caller may not read; NotFound, if it is asked
        for by `name`. What is stored decides, since a model may be behind the caller's last write.
        """

        def may(schedule: Schedule | None, is_new: bool) -> None:
            rights = caller.rights
            if rights.is_admin:
                return
            if schedule is None:
                if name and not rights.may_read_all:
                    raise self._client.schedules.none(name)
                raise Forbidden(Right.ADMIN, "a schedule that cannot be read")
            owner, pool = schedule.task.owner, schedule.task.pool
            if not is_new and not rights.allows(Right.READ, owner):
                if name:
                    raise self._client.schedules.none(name)
                raise Conflict(TAKEN_SCHEDULE.format(name=schedule.name))
            if not rights.allows(Right.SUBMIT, owner, pool):
                raise Forbidden(Right.SUBMIT, f"owner {owner} in pool {pool}")

        attesting = caller.identity.name, self._attesting_mod
        return Schedules(self._calls, self._reading, self._features, attesting=attesting, may=may)

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
        model = self._reading.tasks(task_id)
        view = self._service.found(caller, task_view(model, task_id, alone=True), task_id, model)
        if create not in (0, view.create_revision):
            raise self._reading.another(task_id)
        if not caller.rights.allows(Right.CANCEL, view.owner):
            raise Forbidden(Right.CANCEL, f"owner {view.owner}")
        requests = Requests(self._calls, self._reading, self._features, by=caller.identity.name)
        return what(requests, view)

    def _stored(self, task_id: str) -> TaskView | None:
        try:
            return self._reading.task(task_id)
        except NotFound:
            return None

    def _plain(self, caller: Caller, result: SubmitResult) -> SubmitResult:
        """A conflict tells nothing of a task that the caller may not read."""
        if result.outcome != "conflict":
            return result
        there = self._stored(result.id)
        if there is not None and caller.rights.allows(Right.READ, there.owner):
            return result
        return msgspec.structs.replace(result, message=TAKEN.format(id=result.id))

    def _attesting_mod(self) -> int:
        with self._standby.reading() as model:
            return features.mod_if_on(model, ATTESTED)

    def _has_share(self, pool: str, owner: str) -> bool:
        with self._standby.reading() as model:
            return owner in model.shares.get(pool, ())
