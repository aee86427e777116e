"""`Client`: the verbs. See the package's docstring."""

from __future__ import annotations

import getpass
import os
import socket
import threading
import uuid
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from controller.client.asking import ask
from controller.client.errors import Conflict, NotFound, Still
from controller.client.pools import apply_pool, delete_pool
from controller.client.reading import OF_TASKS, Reading, parse_state, requirements, sorted_views
from controller.client.submission import KnownPools, Submission, SubmitResult
from controller.client.views import (
    ApplyResult,
    LeaderView,
    PoolView,
    ReplicaView,
    RequestResult,
    TaskView,
    by_engine,
    leader_view,
    pool_views,
    replica_views,
    task_view,
)
from controller.clock import Clock, SystemClock
from controller.core.model.kept_log import KeptLog
from controller.core.model.lifecycle import State
from controller.core.model.model import Model
from controller.core.model.records import Change
from controller.core.model.task import AttemptId, Pool, Request, RequestKind, Spec
from controller.engine.base import ALL_LOGS, AttemptUnknown, Engine, LogOptions
from controller.errors import InvalidField, UserError
from controller.store.base import Committed, Delete, Guard, KeyValue, Refused, Store, Transaction
from controller.store.keys import Keys
from controller.views.explain import explain
from controller.views.step import StepView
from controller.views.tasks import UNREADABLE, is_asked_again

if TYPE_CHECKING:
    from controller.config import Settings

SUBMIT_TIMEOUT_SECONDS = 30.0  # a submission waits this long for an etcd that restarts
FEW = 20  # tasks that are waited for are read one by one up to here, and all at once above


class Client:
    """See the module's docstring.

    `endpoints` are etcd's client URLs, as one text with commas or as several; `timeout_seconds` limits each
    call (a submission waits up to SUBMIT_TIMEOUT_SECONDS). A `store` that is given is used instead, and not
    closed.
    """

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
        store: Store | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.keys = Keys(cluster)
        self.clock = clock or SystemClock()
        self._timeout_seconds = timeout_seconds
        self._owns_store = store is None
        if store is None:
            from controller.config import parse_endpoints
            from controller.store.etcd.gateway import GatewayOptions
            from controller.store.etcd.store import EtcdStore

            options = GatewayOptions(
                parse_endpoints(endpoints, "endpoints"), user, password_file, ca_file, cert_file, key_file
            )
            store = EtcdStore(options, self.clock)
        self.store = store
        self._reading = Reading(store, self.keys, self.clock, timeout_seconds)
        self._pools = KnownPools(lambda: self._reading.model("pools/").pools)

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """A client as the settings (flags, environment, file) say."""
        return cls(
            settings.etcd,
            cluster=settings.cluster,
            user=settings.user,
            password_file=str(settings.password_file or ""),
            ca_file=str(settings.ca_file or ""),
            cert_file=str(settings.cert_file or ""),
            key_file=str(settings.key_file or ""),
            timeout_seconds=settings.request_timeout_seconds,
        )

    @classmethod
    def from_config(cls, config: str | None = None) -> Self:
        """A client as `tally` itself has one: by the environment, then by a TOML file (`config`, or as
        `--config` says).

        So it finds a `tally dev` in this folder. Raises InvalidField.
        """
        from controller.config import load_settings

        return cls.from_settings(load_settings({}, os.environ, config).settings)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; idempotent."""
        if self._owns_store:
            self.store.close()

    # -- submitting
    # --------------------------------------------------------------------------------------------------

    def submit(self, task: Mapping[str, Any] | Spec, *, dry_run: bool = False) -> SubmitResult:
        """Submit one task: `created` or `unchanged`, else raises InvalidField or Conflict.

        See submit_many.
        """
        [result] = self.submit_many([task], dry_run=dry_run)
        if result.outcome == "invalid":
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
        """Submit tasks, about a hundred to a transaction; returns one result for each, in the order they
        became known.

        Invalid tasks and conflicts are results and keep no other from being submitted. Tasks of one
        transaction count as submitted at the same moment. `dry_run` validates against the pools as they are,
        and writes nothing. When etcd stays away, what `on_result` has seen is stored, and the same call again
        counts it as unchanged.
        """
        submission = Submission(self.keys, self._pools, self.clock, self._commit_patiently)
        results = []
        for result in submission.dry_run(tasks, self._stored_tasks) if dry_run else submission.run(tasks):
            results.append(result)
            if on_result is not None:
                on_result(result)
        return results

    # -- looking
    # -----------------------------------------------------------------------------------------------------

    def get(self, task_id: str) -> TaskView:
        """One task. Raises NotFound."""
        return self._found(self._reading.tasks(task_id), task_id)

    def tasks(
        self, *, pool: str = "", state: str = "", labels: Mapping[str, str] | None = None, selector: str = ""
    ) -> list[TaskView]:
        """The tasks that match, in the order in which they were submitted, at one revision.

        `selector` is one of labels, as kubectl takes it: `team=a,tier!=test,zone in (x,y),!spot`. Raises
        UserError for none.
        """
        wanted, terms = parse_state(state) if state else None, requirements(labels, selector)
        return sorted_views(self._reading.model(*OF_TASKS), pool, wanted, terms)

    def history(self, task_id: str) -> list[StepView]:
        """What happened to a task, oldest first. Raises NotFound."""
        return self.get(task_id).history()

    def explain(self, task_id: str) -> str:
        """One sentence on why the task waits, runs or ended. Raises NotFound."""
        model = self._reading.model("")
        self._found(model, task_id)
        return explain(model, task_id, self.clock.now())

    def pools(self, *, counts: bool = False) -> list[PoolView]:
        """All pools, sorted by name; with `counts` also how many tasks of each are in which state."""
        return pool_views(self._reading.model("") if counts else self._reading.model("pools/", "ledgers/"))

    def replicas(self) -> list[ReplicaView]:
        """The registered replicas, sorted by id."""
        return replica_views(self._reading.model("replicas/", "leader"))

    def leader(self) -> LeaderView | None:
        """The replica that leads, None when none does."""
        item = self._stored(self.keys.leader)
        return leader_view(
            Change("leader", (), item.value, item.mod, item.create) if item is not None else None
        )

    def logs(
        self,
        task_id: str,
        *,
        attempt: int | None = None,
        follow: bool = False,
        stop: threading.Event | None = None,
        engine: Engine | None = None,
        options: LogOptions = ALL_LOGS,
    ) -> Iterator[bytes]:
        """The output of an attempt (None: the last one) in chunks; with `follow` until it has ended, or
        `stop` is set.

        `engine` None is the process engine of the registered replicas, which keeps output in the state folder
        of its machine: then this works on that machine only. Raises NotFound, EngineError, and UserError
        where no output can be read from here.
        """
        number = self.get(task_id).attempt if attempt is None else attempt
        if number < 1:
            raise NotFound(
                f"task {task_id!r} has not started yet, so that it has no output: see `tally explain"
                f" {task_id}`"
            )
        engine = engine if engine is not None else self.engine()
        if engine is None:
            raise UserError(
                "no replica is registered whose engine keeps output that can be read from here: give"
                " --state-dir"
            )
        try:
            return engine.logs(AttemptId(task_id, number), follow=follow, stop=stop, options=options)
        except AttemptUnknown as error:
            raise NotFound(
                f"{error}: it never started, or was removed, by its stop or after its retention"
            ) from error

    def kept_log(self, task_id: str) -> KeptLog | None:
        """The end of the output of the task's last attempt that ended, where `keep_logs` has it kept.

        Raises CorruptValue.
        """
        return self._reading.kept_log(task_id)

    def engine(self, state_dir: Path | None = None) -> Engine | None:
        """The engine that the registered replicas use, opened for reading; None when none is registered that
        can be.

        `state_dir` names the process engine's folder, instead of what the replicas say. Raises UserError when
        it is on another machine, EngineUnavailable when it cannot be used.
        """
        from controller.engine.process.engine import ProcessEngine

        if state_dir is None:
            known = by_engine(self.replicas())
            replica = next(
                (r for r in known if r.engine.get("name") == "process" and r.engine.get("state_dir")), None
            )
            if replica is None:
                return None
            state_dir = Path(str(replica.engine["state_dir"]))
            if replica.host not in ("", socket.gethostname()):
                raise UserError(
                    f"the replicas run attempts in {state_dir} on {replica.host}: call this there"
                )
        engine = ProcessEngine(state_dir, self.keys.cluster, self.clock, make=False)
        self.bind(engine)
        return engine

    def bind(self, engine: Engine) -> None:
        """Let the engine show what is this installation's, and nothing else that has the cluster's name
        there.
        """
        installation = self._reading.model("installation").installation
        if installation is not None:
            engine.bind(installation)

    # -- waiting
    # -----------------------------------------------------------------------------------------------------

    def wait(
        self,
        task_ids: Iterable[str],
        *,
        for_: str = "finished",
        timeout_seconds: float | None = None,
        on_change: Callable[[TaskView], None] | None = None,
    ) -> dict[str, TaskView]:
        """Wait until each task is in the state `for_` (any case), or has finished otherwise: what has ended
        never gets there.

        A task for which a retry was asked since it ended has not finished. Returns the tasks as they came to
        it; the caller looks at their states. An etcd that restarts does not end the wait. Raises NotFound for
        a task that is not there or is removed meanwhile, Still when the time is over.
        """
        target = None if for_ == "finished" else parse_state(for_)
        waiting = dict.fromkeys(task_ids)
        views: dict[str, TaskView] = {}
        prefix = self.keys.state(next(iter(waiting))) if len(waiting) == 1 else self.keys.state("")
        few = len(waiting) <= FEW
        load = (lambda: self._reading.tasks(*waiting)) if few else (lambda: self._reading.model(*OF_TASKS))
        for model, changed in self._reading.follow(load, prefix, timeout_seconds):
            for task_id in [i for i in (waiting if changed is None else changed) if i in waiting]:
                view = self._found(model, task_id)
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
        task_id: str = "",
    ) -> Generator[list[TaskView], None, None]:
        """The tasks that match as `tasks` has it, all at first and then those that changed, until the
        iterator is closed.
        """
        wanted, terms = parse_state(state) if state else None, requirements(labels, selector)
        load = (lambda: self._reading.tasks(task_id)) if task_id else (lambda: self._reading.model(*OF_TASKS))
        prefix = self.keys.state(task_id) if task_id else self.keys.prefix
        for model, changed in self._reading.follow(load, prefix, None):
            yield sorted_views(
                model, pool, wanted, terms, changed if changed is None or not task_id else {task_id}
            )

    # -- asking the leader
    # -------------------------------------------------------------------------------------------

    def cancel(self, task_id: str, *, reason: str = "") -> RequestResult:
        """Ask for a task to be cancelled.

        One that has finished is left as it is (`already finished`). Raises NotFound.
        """
        view = self.get(task_id)
        if view.finished:
            return RequestResult(
                id=task_id, outcome="already finished", message=f"{task_id} is {view.state} already"
            )
        return self._request(RequestKind.CANCEL, task_id, reason)

    def retry(self, task_id: str, *, reason: str = "") -> RequestResult:
        """Ask for another attempt at a Failed or Cancelled task.

        Raises NotFound, and UserError for one in another state.
        """
        view = self.get(task_id)
        if view.state is State.SUCCEEDED:
            raise UserError(
                f"{task_id} is Succeeded, and what has succeeded is not run again: submit it under another"
                " name"
            )
        if not view.finished and not (view.status is not None and view.status.cancelling):
            raise UserError(
                f"{task_id} is {view.state or UNREADABLE}: only a Failed or Cancelled task can be retried;"
                f" see `tally explain {task_id}`"
            )
        return self._request(RequestKind.RETRY, task_id, reason)

    def confirm_stopped(self, task_id: str, *, reason: str = "") -> RequestResult:
        """An operator's word that the lost attempt of a task no longer runs: its resources are released, and
        it may be retried.

        If the word is wrong, two attempts may run at the same time. Raises NotFound, and UserError when it is
        not lost.
        """
        view = self.get(task_id)
        if view.status is None or not view.status.is_holding or not (view.lost or view.status.stopping):
            raise UserError(
                f"{task_id} is {view.state or UNREADABLE} and neither lost nor being stopped: there is"
                " nothing to confirm"
            )
        return self._request(RequestKind.CONFIRM_STOPPED, task_id, reason, view.attempt)

    def step_down(self) -> LeaderView:
        """Take the leadership from whoever has it, so that a replica is elected anew; returns who had it.

        Raises NotFound.

        Deletes the leader's key, if it still is that term's: the leader's next write fails its fence, and its
        watch tells it.
        """
        leader = self.leader()
        if leader is None:
            raise NotFound("no replica leads: there is nobody to step down; see `tally get replicas`")
        guard = Guard(self.keys.leader, leader.term, on_create=True)
        # Another term by now is what was wanted: the one that led when this was called no longer does.
        self._commit(Transaction((guard,), (Delete(self.keys.leader),), uuid.uuid4().hex))
        return leader

    def _request(self, kind: RequestKind, task_id: str, reason: str, attempt: int = 0) -> RequestResult:
        request = Request(kind=kind, by=requester(), reason=reason, at=self.clock.now(), attempt=attempt)
        result = ask(self._stored, self._commit, self.keys, task_id, request)
        if result is None:
            raise self._no_task(task_id)
        return result

    # -- pools
    # -------------------------------------------------------------------------------------------------------

    def apply_pool(self, definition: Mapping[str, Any] | Pool) -> ApplyResult:
        """Create a pool, or replace its definition as a whole: what is left out becomes the default.

        Raises InvalidField.
        """
        pool, outcome = apply_pool(self._stored, self._commit, self.keys, definition)
        return ApplyResult(name=pool.name, outcome=outcome, message=self._overcommit(pool))

    def delete_pool(self, name: str) -> None:
        """Remove a pool's definition: what runs goes on, what waits waits until there is one again.

        Raises NotFound.
        """
        delete_pool(self._stored, self._commit, self.keys, name)

    def _overcommit(self, pool: Pool) -> str:
        held = self._reading.model("ledgers/").ledger(pool.name).held
        over = ", ".join(held.exceeding(pool.capacity))
        return (
            f"more is held than this capacity has ({over}: {held} held): nothing is admitted until enough has"
            " ended"
            if over
            else ""
        )

    def _found(self, model: Model, task_id: str) -> TaskView:
        view = task_view(model, task_id)
        if view is None:
            raise self._no_task(task_id)
        return view

    def _no_task(self, task_id: str) -> NotFound:
        return NotFound(
            f"there is no task {task_id!r} in cluster {self.keys.cluster!r}: see `tally get tasks`"
        )

    def _stored_tasks(self, keys: Collection[str]) -> dict[str, KeyValue]:
        if len(keys) <= FEW:
            return {key: item for key in keys if (item := self._stored(key)) is not None}
        snapshot = self.store.load(self.keys.task(""), deadline=self._reading.deadline())
        return {item.key: item for item in snapshot.items if item.key in keys}

    def _stored(self, key: str) -> KeyValue | None:
        return self.store.get(key, deadline=self._reading.deadline())[0]

    def _commit(self, transaction: Transaction) -> Committed | Refused:
        return self.store.commit(transaction, deadline=self._reading.deadline())

    def _commit_patiently(self, transaction: Transaction) -> Committed | Refused:
        return self.store.commit(
            transaction, deadline=self.clock.boottime() + max(SUBMIT_TIMEOUT_SECONDS, self._timeout_seconds)
        )


def requester() -> str:
    """Who asks, for the record: user and machine."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a user id without a name, as in many containers
        user = "unknown"
    return f"{user}@{socket.gethostname()}"
