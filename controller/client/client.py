"""`Client` and its verbs. See the package's docstring."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, Self

from controller.client.bulk import Bulk
from controller.client.calls import FEW, Calls
from controller.client.downstream import Downstream
from controller.client.errors import Conflict, Still
from controller.client.features import Features
from controller.client.forecasts import Forecasts
from controller.client.maintenance import Maintenance
from controller.client.members import ArrayMembers
from controller.client.neighbours import Neighbours
from controller.client.newcomers import Newcomers
from controller.client.notices import Notices
from controller.client.ordering import ordered, several
from controller.client.outputs import Outputs
from controller.client.owners import Owners
from controller.client.parents import Parents
from controller.client.pools import PoolAdmission, apply_pool, delete_pool, warning_of
from controller.client.prepared import SubmitResult
from controller.client.reading import (
    OF_POOLS,
    OF_TASKS,
    Reading,
    parse_state,
    requirements,
    sorted_views,
    wanted_states,
)
from controller.client.replicas import Replicas
from controller.client.requests import Requests
from controller.client.schedules import Schedules
from controller.client.stop_event import StopEvent
from controller.client.submission import KnownPools, Submission
from controller.client.views import (
    ApplyResult,
    PoolView,
    RequestResult,
    TasksLook,
    TaskView,
    pool_views,
)
from controller.clock import Clock, WallClock
from controller.core.model.scalars import parse_name
from controller.core.model.task import Pool, Spec
from controller.errors import InvalidField
from controller.store.base import ClusterChanged, Store
from controller.store.keys import Keys
from controller.views.array_changes import named_among
from controller.views.explain import explain
from controller.views.queue_room import QueueRoom
from controller.views.tasks import is_asked_again, stored_tasks

if TYPE_CHECKING:
    from controller.config import Settings


class Client:
    """See the package's docstring.

    `endpoints` are etcd's client URLs: one string with commas, or a sequence. `timeout_seconds` limits each
    call; a submission waits at least SUBMIT_TIMEOUT_SECONDS for etcd.
    """

    clock: Clock
    store: Store
    """The open store."""
    keys: Keys
    """The keys of the installation in the store."""
    cluster: str
    """The name of the installation."""
    replicas: Replicas
    """The registered replicas, the leader, and `step_down`."""
    outputs: Outputs
    """The output of attempts."""
    admission: PoolAdmission
    """`pause` and `resume` the admission of tasks to a pool."""
    maintenance: Maintenance
    """Maintenance windows of pools: `drain` sets one, `undrain` removes some or all."""
    bulk: Bulk
    """One act on many tasks: `act`."""
    members: ArrayMembers
    """The members of an array: `members("render", state="Failed")`, and `members.page`."""
    downstream: Downstream
    """What waits for a task: `retry` of it together with that."""
    owners: Owners
    """What owners hold of pools with `sharing`, and have used of them."""
    notices: Notices
    """Notices about ended tasks: `all` that are kept, `retry` and `drop` those that were given up."""
    schedules: Schedules
    """Tasks that are made at the times of a cron expression: `apply`, `all`, `get`, `delete`, `suspend`."""
    forecasts: Forecasts
    """What is to come: `of` tasks, and what would come if one `suppose`s something."""
    features: Features
    """The features that data may use: `all`, `enable`, `drop`."""

    def __init__(
        self,
        endpoints: str | Sequence[str] = "http://127.0.0.1:2379",
        *,
        cluster: str = "default",
        user: str = "",
        password_file: str = "",
        ca_file: str = "",
        cert_file: str = "",
        key_file: str = "",
        timeout_seconds: float = 5.0,
    ) -> None:
        from controller.config.values import parse_endpoints, positive_seconds
        from controller.store.etcd.gateway import GatewayOptions
        from controller.store.etcd.store import EtcdStore

        clock, seconds = WallClock(), positive_seconds(timeout_seconds, "timeout_seconds")
        options = GatewayOptions(
            parse_endpoints(endpoints, "endpoints"), user, password_file, ca_file, cert_file, key_file
        )
        self._owns_store = True
        self._use(Calls(EtcdStore(options, clock), Keys(cluster), clock, seconds))

    @classmethod
    def of_store(
        cls,
        store: Store,
        *,
        cluster: str = "default",
        clock: Clock | None = None,
        timeout_seconds: float = 5.0,
    ) -> Self:
        """A client of an open store. The client does not close the store."""
        client = cls.__new__(cls)
        client._owns_store = False
        client._use(Calls(store, Keys(cluster), clock or WallClock(), timeout_seconds))
        return client

    def _use(self, calls: Calls) -> None:
        self._calls = calls
        self.store, self.clock = calls.store, calls.clock
        self.keys, self.cluster = calls.keys, calls.keys.cluster
        self._reading = Reading(calls.store, calls.keys, calls.clock, calls.timeout_seconds)
        self.features = Features(calls, self._reading)
        self._known_pools = KnownPools(lambda: self._reading.model("pools/").pools, self.features.check)
        self._newcomers = Newcomers(
            lambda pool, owner: calls.stored(calls.keys.share(pool, owner)) is not None
        )
        self._requests = asks = Requests(calls, self._reading, self.features)
        self.replicas = Replicas(calls, self._reading)
        self.outputs = Outputs(calls, self._reading, self.replicas)
        self.admission = PoolAdmission(calls)
        self.maintenance = Maintenance(calls, self.features, self._reading)
        self.bulk = Bulk(self._requests)
        self.downstream = Downstream(self.tasks, self.get, self.bulk)
        self.members = ArrayMembers(self._reading)
        self.owners = Owners(calls, self._reading)
        self.notices = Notices(calls, self._reading)
        self.schedules = Schedules(calls, self._reading, self.features)
        self.forecasts = Forecasts(self._reading, calls.clock)
        self.usage = self.owners.usage
        self.neighbours = Neighbours(self._reading).of
        self.hold, self.release, self.set_priority = asks.hold, asks.release, asks.set_priority

    @classmethod
    def from_config(cls, config: str | None = None) -> Self:
        """A client of etcd with the settings that the command `tally` would use. `connect` goes either way.

        Settings come from the environment, then from a TOML file: `config`, or the file that `tally` finds by
        default. The client therefore finds a `tally dev` that runs in this folder. Raises InvalidField.
        """
        from controller.config import load_settings

        loaded = load_settings({}, os.environ, config)
        if loaded.uses_gateway:
            raise InvalidField(
                "server", "is set, and this is a client of etcd: use controller.client.connect"
            )
        return cls(**of_settings(loaded.settings))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; idempotent. Waits, and all later calls, raise Closed."""
        if self._owns_store:
            self.store.close()

    def submit(self, task: Mapping[str, Any] | Spec, *, dry_run: bool = False) -> SubmitResult:
        """Submit one task, as `submit_many` does. Raises InvalidField and Conflict."""
        [result] = self.submit_many([task], dry_run=dry_run)
        if result.outcome in ("invalid", "denied"):
            raise InvalidField(result.field, result.message.removeprefix(f"{result.field}: "))
        if result.outcome == "conflict":
            raise Conflict(result.message)
        return result

    def submit_many(
        self,
        tasks: Iterable[Mapping[str, Any] | Spec],
        *,
        dry_run: bool = False,
        on_result: Callable[[SubmitResult], None] | None = None,
    ) -> list[SubmitResult]:
        """Submit tasks in batches, and return one result for each, in the order in which they became known.

        A batch is one transaction, of about sixty tasks at most. An invalid task or a conflict is a result;
        the other tasks are submitted all the same. `dry_run` validates against the current pools and writes
        nothing. If etcd stays unavailable, the results that `on_result` has seen are final, and a repeated
        call reports the created tasks as `unchanged`.

        What a task waits for (`after`) must be stored, or among the tasks. A sequence may have them in any
        order; of an iterator, they are taken as they come, so a task must come behind what it waits for.
        """
        room = QueueRoom(lambda: stored_tasks(self._reading.model(*OF_TASKS)))
        commit = self._calls.commit_patiently
        submission = Submission(self.keys, self._known_pools, self.clock, commit, room, self._newcomers)
        read, order = self._calls.stored_tasks, ordered(several(tasks, "tasks"))
        parents, results = Parents(self.keys, read), []
        todo = order.tasks
        run = submission.dry_run(todo, parents, read) if dry_run else submission.run(todo, parents)
        try:
            for result in chain(order.cyclic, map(order.placed, run)):
                results.append(parents.refuse(result))
                if on_result is not None:
                    on_result(result)
        except ClusterChanged:
            self._known_pools.forget()  # they are those of another etcd: the next call reads them
            raise
        return results

    def get(self, task_id: str) -> TaskView:
        """One task. Raises NotFound."""
        return self._reading.task_with_parents(task_id)

    def tasks(
        self,
        *,
        pool: str = "",
        state: str = "",
        labels: Mapping[str, str] | None = None,
        selector: str = "",
        owner: str = "",
    ) -> list[TaskView]:
        """The tasks that match, at one revision, in the order in which they were submitted.

        Those that were stored in one transaction are sorted by name.
        `state` names one or more, separated by commas; also `waiting`, `holding`, `finished` or `on-hold`.
        `selector` is a label selector, as for kubectl: `team=a,tier!=test,zone in (x,y),!spot`. Raises
        UserError for an unknown state, an invalid selector, or labels that no task can have.
        """
        wanted, terms = wanted_states(state), requirements(labels, selector)
        return sorted_views(self._reading.model(*OF_TASKS), pool, wanted, terms, owner=owner)

    def explain(self, task_id: str) -> str:
        """One sentence that says why the task waits, runs or ended. Raises NotFound."""
        parse_name(task_id, "id", "a task id")
        model = self._reading.model("")
        self._reading.found(model, task_id)
        return explain(model, task_id, self.clock.now())

    def pools(self, *, counts: bool = False) -> list[PoolView]:
        """All pools, sorted by name; with `counts`, each with its number of tasks by state."""
        model = self._reading.model("") if counts else self._reading.model(*OF_POOLS)
        return pool_views(model, self.clock.now(), counts=counts)

    def wait(
        self,
        task_ids: Iterable[str],
        *,
        for_: str = "finished",
        timeout_seconds: float | None = None,
        on_change: Callable[[TaskView], None] | None = None,
    ) -> dict[str, TaskView]:
        """Wait until each task is in the state `for_` (in any case) or has finished.

        A finished task ends the wait in whatever state it is, since it will not reach another one; the caller
        looks at the states of the returned tasks. A finished task with a pending retry request does not count
        as finished. A wait that has begun goes on while etcd restarts. Raises NotFound for a task that does
        not exist or is removed meanwhile, also if its name is used again, and Still when the time is over.
        """
        target = None if for_ == "finished" else parse_state(for_)
        waiting = dict.fromkeys(several(task_ids, "task_ids"))
        views: dict[str, TaskView] = {}
        few, ids = len(waiting) <= FEW, tuple(waiting)
        load = (lambda: self._reading.tasks(*waiting)) if few else (lambda: self._reading.model(*OF_TASKS))
        prefix = lambda model: self._reading.prefix_of(model, ids)  # noqa: E731
        for model, changed in self._reading.follow(load, prefix, timeout_seconds):
            for task_id in [*waiting] if changed is None else named_among(changed, waiting):
                view = self._reading.still(model, task_id, views.get(task_id))
                if on_change is not None and views.get(task_id) != view:
                    on_change(view)
                views[task_id] = view
                if (view.finished and not is_asked_again(model, task_id)) or view.state is target:
                    del waiting[task_id]
            if not waiting:
                return views
        raise Still(list(waiting), views)

    def watch_tasks(
        self,
        *,
        pool: str = "",
        state: str = "",
        labels: Mapping[str, str] | None = None,
        selector: str = "",
        owner: str = "",
        task_id: str = "",
        stop: StopEvent | None = None,
    ) -> Generator[TasksLook, None, None]:
        """The tasks that match, as for `tasks`: first all, then those that changed.

        Ends when the iterator is closed, or `stop` is set, which any thread may do.
        """
        selection = pool, wanted_states(state), requirements(labels, selector), owner
        return self._reading.looks(selection, task_id, stop)

    def cancel(
        self, task_id: str, *, members: str = "", reason: str = "", of: TaskView | None = None
    ) -> RequestResult:
        """Ask the leader to cancel a task, or of an array these `members`, such as `7` or `100-200,300`.

        What has finished is left as it is (`already finished`). Raises NotFound; with `of`, the task as it
        was shown, also if another one of its name has taken its place. Raises InvalidField for members that
        the array does not have, and UserError for those of a task that is none.
        """
        return self._requests.cancel(task_id, members=members, reason=reason, of=of)

    def retry(
        self,
        task_id: str,
        *,
        members: str = "",
        only_failed: bool = False,
        reason: str = "",
        of: TaskView | None = None,
    ) -> RequestResult:
        """Ask the leader to run a Failed or Cancelled task again.

        Of an array, its members that are Failed or Cancelled, or with `only_failed` those that are Failed;
        `members` as for `cancel`. Other members may run meanwhile. Raises as `cancel`, and UserError for a
        task in another state, unless it is being cancelled. What waits for it is retried with it by
        `downstream.retry`.
        """
        return self._requests.retry(task_id, members=members, only_failed=only_failed, reason=reason, of=of)

    def confirm_stopped(self, task_id: str, *, reason: str = "") -> RequestResult:
        """Confirm, as an operator, that the attempt of a task no longer runs.

        The leader releases its resources, and may retry the task. If the confirmation is wrong, two attempts
        may run at the same time. Raises NotFound, and UserError when the attempt is neither lost nor being
        stopped.
        """
        return self._requests.confirm_stopped(task_id, reason=reason)

    def apply_pool(self, definition: Mapping[str, Any] | Pool) -> ApplyResult:
        """Create a pool, or replace its whole definition.

        Fields that are left out get their defaults. The features that the pool needs are turned on. Raises
        InvalidField, and UserError if a replica does not know such a feature.
        """
        applied = apply_pool(self._calls, self.features, definition)
        return ApplyResult(
            name=applied.pool.name,
            outcome=applied.outcome,
            message=warning_of(self._reading, applied),
            turned_on=tuple(applied.turned_on),
        )

    def delete_pool(self, name: str) -> None:
        """Remove a pool's definition.

        Running tasks continue; waiting tasks wait until the pool is defined again. Raises NotFound.
        """
        delete_pool(self._calls, name)


def of_calls(calls: Calls) -> Client:
    """As `Client.of_store`, with these calls."""
    (client := Client.of_store(calls.store))._use(calls)
    return client


def of_settings(settings: Settings) -> dict[str, Any]:
    """The arguments of a Client, from the settings (flags, environment, file)."""
    return {
        "endpoints": settings.etcd,
        "cluster": settings.cluster,
        "user": settings.user,
        "password_file": str(settings.password_file or ""),
        "ca_file": str(settings.ca_file or ""),
        "cert_file": str(settings.cert_file or ""),
        "key_file": str(settings.key_file or ""),
        "timeout_seconds": settings.request_timeout_seconds,
    }
