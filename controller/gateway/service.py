"""What the gateway shows a caller: what the client reads, within the caller's rights.

A task that a caller may not read does not exist for it: to ask for it is NotFound.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import msgspec

from controller.client import Client
from controller.client.members import no_array
from controller.client.reading import Reading, sorted_tasks
from controller.client.replica_views import LeaderView, ReplicaView, leader_view, replica_views
from controller.client.views import (
    OwnerView,
    PoolView,
    SharingView,
    TaskView,
    owner_view,
    pool_views,
    sharing_view,
    task_view,
)
from controller.core.model import kept_log
from controller.core.model.kept_log import KeptLog
from controller.core.model.model import Model
from controller.core.model.notify_url import masked_url
from controller.core.model.records import Task
from controller.core.model.scalars import parse_name
from controller.core.model.selector import Requirement
from controller.core.model.task import Pool
from controller.endpoint.documents import masked_pod
from controller.endpoint.pages import TaskPages
from controller.errors import CorruptValue
from controller.forecaster.wire import Question, Reply
from controller.gateway.caller import Caller
from controller.gateway.hour_reads import ShownHour
from controller.gateway.noted import NotedCalls
from controller.gateway.policy import Forbidden, PolicyVerb, Right, Rights
from controller.gateway.schedule_reads import ShownSchedules
from controller.gateway.shown_forecasts import ShownForecasts
from controller.gateway.veil import own_notes, veiled
from controller.runtime.standby import Standby
from controller.views.absent import why_absent
from controller.views.dependencies import Direction, NeighboursView, neighbours
from controller.views.explain import explain
from controller.views.gateways import GatewayView, gateway_views
from controller.views.pools import all_owners, owners_of, sharing_facts
from controller.views.tasks import owner_of
from controller.views.usage import Usage

T = TypeVar("T")


class Service:
    """See the module's docstring. Its methods block, and may be called from any thread."""

    def __init__(self, calls: NotedCalls, standby: Standby, look_ahead: Callable[[Question], Reply]) -> None:
        self._calls = calls
        self._standby = standby
        self.pages = TaskPages(standby.reading)
        self.hour = ShownHour(standby, calls.clock)
        self._reading = Reading(calls.store, calls.keys, calls.clock, calls.timeout_seconds)
        self.has_come_to = self._reading.has_come_to
        self._client = Client.of_store(
            calls.store, cluster=calls.keys.cluster, clock=calls.clock, timeout_seconds=calls.timeout_seconds
        )
        self.schedules = ShownSchedules(self._client, standby)
        self.forecasts = ShownForecasts(standby, look_ahead, self.task, calls.clock.now)

    @property
    def cluster(self) -> str:
        """The name of the installation."""
        return self._calls.keys.cluster

    # -- reading

    def no_tasks(self, caller: Caller, task_ids: Iterable[str]) -> dict[str, str]:
        """What is told of each of these, which do not exist, as far as the caller may know."""
        with self._standby.reading() as model:
            found = {name: why_absent(model, name, caller.sees) for name in task_ids}
        return {name: str(self._reading.no_task(name, why)) for name, why in found.items()}

    def task(self, caller: Caller, task_id: str) -> TaskView:
        """One task. Raises NotFound, and InvalidField for what cannot be a task's name."""
        parse_name(task_id, "id", "a task id")
        with self._standby.reading() as model:
            return self.found(caller, task_view(model, task_id, sees=caller.sees), task_id, model)

    def of_array(self, caller: Caller, task_id: str, look: Callable[[Model], T | None]) -> T:
        """What `look` finds of an array's members; None: it is none. Raises as `task`, and UserError."""
        parse_name(task_id, "id", "a task id")
        with self._standby.reading() as model:
            self.found(caller, task_view(model, task_id, alone=True), task_id, model)
            found = look(model)
        if found is None:
            raise no_array(task_id)
        return found

    def neighbours(
        self, caller: Caller, task_id: str, *, direction: Direction, depth: int, limit: int
    ) -> NeighboursView:
        """The neighbourhood of a task, of tasks that the caller may read. Raises as `task`."""
        parse_name(task_id, "id", "a task id")
        with self._standby.reading() as model:
            found = neighbours(
                model, task_id, direction=direction, depth=depth, limit=limit, sees=caller.sees
            )
            why = why_absent(model, task_id, caller.sees)
        if found is None:
            raise self._reading.no_task(task_id, why)
        return found

    def task_ids(
        self,
        caller: Caller,
        *,
        pool: str = "",
        states: frozenset[str] | None = None,
        terms: Sequence[Requirement] = (),
        owner: str = "",
        only: set[str] | None = None,
    ) -> list[str]:
        """The tasks that match and that the caller may read, in the order in which they were submitted.

        `only` limits them to these ids.
        """
        with self._standby.reading() as model:
            return [
                task.id for task in sorted_tasks(model, pool, states, terms, only, owner) if caller.sees(task)
            ]

    def page(self, caller: Caller, wanted: Mapping[str, Any]) -> tuple[list[TaskView], str]:
        """A page of the tasks that match and that the caller may read; see `TaskPages.page`."""

        def view(model: Model, task: Task) -> TaskView | None:
            return task_view(model, task.id, sees=caller.sees)

        found, token = self.pages.page(wanted, view, None if caller.rights.may_read_all else caller.sees)
        return [each for each in found if each is not None], token

    def explain(self, caller: Caller, task_id: str) -> str:
        """Why the task waits, runs or ended, in one sentence. Raises NotFound."""
        with self._standby.reading() as model:
            view = self.found(caller, task_view(model, task_id), task_id, model)
            text = explain(model, task_id, self._calls.clock.now(), caller.sees)
            if caller.rights.may_read_all:
                return text
            may = partial(caller.rights.allows, Right.READ)

            def sees(name: str) -> bool:
                return name in model.tasks and may(owner_of(model.tasks[name]))

            record = model.pools.get(view.pool)
            sharing = record.pool.sharing if record is not None else None
            owners = {*model.shares.get(view.pool, ()), *(sharing.owners if sharing is not None else ())}
            return veiled(text, sees, may, owners)

    def readable(self, caller: Caller, task_ids: Iterable[str]) -> dict[str, TaskView]:
        """Of these tasks, those that exist as far as the caller may know."""
        with self._standby.reading() as model:
            found = (task_view(model, task_id, sees=caller.sees) for task_id in task_ids)
            views = [view for view in found if view is not None]
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
                msgspec.structs.replace(claim, victims=(), stopping=0)  # they may be of others
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
            raise Forbidden(Right.READ, "the tasks of all owners, which are summed here", PolicyVerb.READ_ANY)
        try:
            found = self._client.usage(by=by, pool=pool, since=since, until=until)
        except CorruptValue as error:
            if caller.rights.may_read_all:
                raise
            raise CorruptValue("the use of a closed day cannot be read: choose another day") from error
        if by != "owner":
            return found
        sees = partial(caller.rights.allows, Right.READ)
        items = [line for line in found.items if sees(line.name)]
        return msgspec.structs.replace(found, items=items, notes=own_notes(found.notes, sees))

    def replicas(self) -> list[ReplicaView]:
        """The registered replicas."""
        with self._standby.reading() as model:
            return replica_views(model)

    def gateways(self) -> list[GatewayView]:
        """The registered gateways."""
        with self._standby.reading() as model:
            return gateway_views(model)

    def leader(self) -> LeaderView | None:
        """The leader; None when no replica leads."""
        with self._standby.reading() as model:
            return leader_view(model.leader)

    def kept_log(self, caller: Caller, task_id: str) -> KeptLog | None:
        """The kept log of the task; None if none was kept. Raises NotFound, CorruptValue."""
        self.task(caller, task_id)
        calls = self._calls
        item, _ = calls.store.get(calls.keys.log(task_id), deadline=calls.deadline())
        if item is None:
            return None
        # the model may be behind: what is stored after the log was read decides whose it is
        model = self._reading.tasks(task_id)
        view = self.found(caller, task_view(model, task_id, alone=True), task_id, model)
        # a log that is older than its task is of another one, which had its name
        return kept_log.decode(item.value) if item.mod > view.create_revision else None

    def pools(self, caller: Caller) -> list[PoolView]:
        """All pools: a task names its pool.

        How many tasks they have is told to who may read all of them; of owners, those that it may read.
        """
        rights = caller.rights
        with self._standby.reading() as model:
            views = pool_views(model, self._calls.clock.now())
        views = [
            msgspec.structs.replace(view, definition=_own_part(view.definition, rights)) for view in views
        ]
        if rights.may_read_all:
            return views
        return [msgspec.structs.replace(view, counts={}, on_hold=None, demand=None) for view in views]

    def may(self, caller: Caller, act: Right, task_id: str) -> bool:
        """Whether the caller may do this with the task. Raises NotFound for one that it may not read."""
        view = self.task(caller, task_id)
        return caller.rights.allows(act, view.owner, view.pool)

    # -- details

    def found(self, caller: Caller, view: TaskView | None, task_id: str, model: Model) -> TaskView:
        """The view of the task, which is of this model, as the caller may read it. Raises NotFound."""
        if view is None or not caller.rights.allows(Right.READ, view.owner):
            raise self._reading.no_task(task_id, why_absent(model, task_id, caller.sees))
        return view


def _own_part(pool: Pool | None, rights: Rights) -> Pool | None:
    """The definition, with those of its owners whose tasks may be read; of receivers only the hosts, and
    without values of environment variables.
    """
    if pool is None:
        return None
    if not rights.is_admin:
        notify = tuple(msgspec.structs.replace(rule, url=masked_url(rule.url)) for rule in pool.notify)
        options = masked_pod(pool.engine_options)
        pool = msgspec.structs.replace(pool, notify=notify, engine_options=options)
    if rights.may_read_all or pool.sharing is None:
        return pool
    owners = {name: part for name, part in pool.sharing.owners.items() if rights.allows(Right.READ, name)}
    return msgspec.structs.replace(pool, sharing=msgspec.structs.replace(pool.sharing, owners=owners))
