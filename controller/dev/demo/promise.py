"""Tally on the same course: three replicas that hear of every end; one leader is killed, one suspended."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from itertools import groupby
from pathlib import Path

import requests
from prometheus_client.parser import text_string_to_metric_families

from controller.client import Client
from controller.core.model.lifecycle import HOLDING, State
from controller.core.model.model import Model
from controller.core.model.resources import format_quantity
from controller.core.promise.finding import FindingSeverity
from controller.core.promise.invariants import check_model
from controller.dev.cluster import TALLY, LocalCluster, ReplicaProcess, without_settings
from controller.dev.demo.course import (
    REPLICAS,
    SUSPENDED_AT,
    TALLY_SUSPENDED_AT,
    TASKS,
    Course,
    CoursePoint,
    Design,
)
from controller.dev.demo.designs import Shown
from controller.dev.demo.replicas import ANSWER_SECONDS, DemoFailed
from controller.dev.demo.result import Audit
from controller.store.base import Batch, Store
from controller.store.keys import Keys
from controller.store.mirror import Changed, Loaded, Mirror
from controller.views.pools import pool_facts
from controller.views.replicas import all_replicas, leader_of
from controller.views.tasks import find_task, tasks_by_pool

WIDE, NARROW = "wide", "narrow"
"""The pools: one has room for all tasks at once, the other for one."""
GATE_SECONDS = "60"
"""After so long, tasks end by themselves: a demo that was killed leaves nothing for ever."""


class Witness:
    """Follows the store, and checks the promise at every single revision, none left out."""

    def __init__(self, store: Store, keys: Keys, deadline: float) -> None:
        self._keys = keys
        self._mirror = Mirror()
        self._changed = threading.Condition()
        self._looks: list[Callable[[Model], None]] = []
        self._failure: BaseException | None = None
        self.breaches: list[str] = []
        """What `tally audit` would call wrong in the records, with the revision."""
        for number, page in enumerate(store.pages(keys.prefix, deadline=lambda: deadline)):
            self._mirror.take(Loaded.of(keys, page, fresh=False, is_first=number == 0))
        self._watch = store.watch(keys.prefix, after=self.model.revision)
        self._thread = threading.Thread(target=self._follow, name="witness", daemon=True)
        self._thread.start()

    @property
    def model(self) -> Model:
        """The records as far as they have arrived."""
        return self._mirror.model

    def at_each_revision(self, look: Callable[[Model], None]) -> None:
        """Call `look` with the records at each revision from now on."""
        with self._changed:
            self._looks.append(look)

    def wait_for(self, holds: Callable[[Model], bool], what: str) -> None:
        """Wait until the records show it.

        Raises DemoFailed if they do not in time, and what ended the watch.
        """
        with self._changed:
            shown = self._changed.wait_for(lambda: self._failure or holds(self.model), ANSWER_SECONDS)
            if self._failure is not None:
                raise self._failure
            if not shown:
                raise DemoFailed(f"the records did not show within {ANSWER_SECONDS:g} s: {what}")

    def close(self) -> None:
        """End the watch."""
        self._watch.close()
        self._thread.join(ANSWER_SECONDS)

    def _follow(self) -> None:
        try:
            for batch in self._watch:
                for revision, events in groupby(batch.events, lambda event: event.mod):
                    self._take(Changed.of(self._keys, Batch(revision, tuple(events))))
        except BaseException as error:  # noqa: BLE001  # raised by who waits
            with self._changed:
                self._failure = error
                self._changed.notify_all()

    def _take(self, changed: Changed) -> None:
        with self._changed:
            self._mirror.take(changed)
            self.breaches += (
                f"revision {changed.revision}: {finding.subject} {finding.what}"
                for finding in check_model(self.model)
                if finding.severity is FindingSeverity.WRONG and not finding.transient
            )
            for look in self._looks:
                look(self.model)
            self._changed.notify_all()


class Promise:
    """Runs Tally's courses on a cluster whose etcd runs already. Raises DemoFailed, TallyError."""

    def __init__(self, cluster: LocalCluster, shown: Shown) -> None:
        self._cluster = cluster
        self._shown = shown
        self.take_over_seconds = 0.0
        """From the kill of the leader until another replica had written the end that came meanwhile."""

    def run(self) -> tuple[Course, Course, Audit]:
        """The course of releases, that of acquisitions, and the audit of both."""
        self._cluster.start_replicas()
        with self._cluster.client() as client:
            client.apply_pool({"name": WIDE, "capacity": {"cpu": str(TASKS)}})
            client.apply_pool({"name": NARROW, "capacity": {"cpu": "1"}})
            witness = Witness(client.store, client.keys, client.clock.boottime() + ANSWER_SECONDS)
            try:
                witness.wait_for(lambda model: leader_of(model) is not None, "a leader")
                witness.wait_for(lambda model: len(all_replicas(model)) == REPLICAS, "all replicas")
                released = self._release(client, witness)
                acquired = self._acquire(client, witness)
                if witness.breaches:
                    first, more = witness.breaches[0], len(witness.breaches) - 1
                    raise DemoFailed(f"Tally breaks its promise at {first} (and {more} more)")
            finally:
                witness.close()
        return released, acquired, self._audit()

    def _release(self, client: Client, witness: Witness) -> Course:
        course = Course(Design.TALLY)
        gates = self._cluster.data_dir / "gates"
        gates.mkdir()
        for task in range(1, TASKS + 1):
            os.mkfifo(gates / str(task))
        _submit(client, WIDE, lambda task: ["timeout", GATE_SECONDS, "cat", str(gates / str(task))])
        witness.wait_for(
            lambda model: all(_state(model, WIDE, task) is State.RUNNING for task in range(1, TASKS + 1)),
            "all tasks running",
        )
        begun = time.monotonic()
        refused_before = sum(map(self._refused, self._cluster.replicas))
        for task in range(1, TASKS + 1):
            if task == SUSPENDED_AT:
                leader = self._leader(witness.model)
                refused_of_leader = self._refused(leader)
                killed = time.monotonic()
                leader.signal(signal.SIGKILL)
            if task == TALLY_SUSPENDED_AT:
                suspended = self._leader(witness.model)
                suspended.signal(signal.SIGSTOP)
            _let_through(gates / str(task))
            witness.wait_for(
                lambda model, task=task: _state(model, WIDE, task) is State.SUCCEEDED,  # type: ignore[misc]
                f"the end of task {task}",
            )
            if task == SUSPENDED_AT:
                self.take_over_seconds = time.monotonic() - killed
            if task == TALLY_SUSPENDED_AT:
                suspended.signal(signal.SIGCONT)
            course.seconds = time.monotonic() - begun
            course.points.append(CoursePoint(task, _free(witness.model)))
            self._shown(course)
        living = (replica for replica in self._cluster.replicas if replica is not leader)
        course.refused = refused_of_leader + sum(map(self._refused, living)) - refused_before
        return course

    def _acquire(self, client: Client, witness: Witness) -> Course:
        course = Course(Design.TALLY_ACQUIRE)
        living = [replica for replica in self._cluster.replicas if replica.lives]
        refused_before = sum(map(self._refused, living))
        begun = time.monotonic()
        given = 0

        def look(model: Model) -> None:
            nonlocal given
            counts = tasks_by_pool(model)
            inside = sum(counts.get((NARROW, state), 0) for state in HOLDING)
            came_in = sum(counts.get((NARROW, state), 0) for state in State if state is not State.CREATED)
            before = course.points[-1].truth if course.points else 0
            if came_in > before:
                given += came_in - before + (inside - 1)  # `inside` is 1, if no other one is inside
                course.points.append(CoursePoint(came_in, given))
                self._shown(course)

        witness.at_each_revision(look)
        inside = self._cluster.data_dir / "inside"
        # the task itself fails if it meets another one inside
        _submit(client, NARROW, lambda _: ["sh", "-c", 'mkdir "$0" && rmdir "$0"', str(inside)])
        witness.wait_for(
            lambda model: all(_has_ended(model, NARROW, task) for task in range(1, TASKS + 1)),
            "the ends of all tasks",
        )
        failed = [
            task for task in range(1, TASKS + 1) if _state(witness.model, NARROW, task) is not State.SUCCEEDED
        ]
        if failed:
            raise DemoFailed(f"tasks met each other in a pool that has room for one: {failed}")
        course.seconds = time.monotonic() - begun
        course.refused = sum(map(self._refused, living)) - refused_before
        return course

    def _leader(self, model: Model) -> ReplicaProcess:
        leader = leader_of(model)
        for replica in self._cluster.replicas:
            if leader is not None and replica.name == leader.told.id:
                return replica
        raise DemoFailed("no replica leads")

    @staticmethod
    def _refused(replica: ReplicaProcess) -> int:
        """The replica's transactions on tasks and ledgers that etcd refused, from its metrics."""
        url = f"http://127.0.0.1:{replica.status_port}/metrics"
        try:
            with requests.Session() as session:
                session.trust_env = False
                answer = session.get(url, timeout=ANSWER_SECONDS)
                answer.raise_for_status()
        except requests.RequestException as error:
            raise DemoFailed(f"Tally's replica {replica.name} does not tell its metrics: {error}") from error
        samples = (
            sample for family in text_string_to_metric_families(answer.text) for sample in family.samples
        )
        wanted = {"kind": "plan", "outcome": "conflict"}
        return sum(
            int(sample.value)
            for sample in samples
            if sample.name == "tally_transaction_seconds_count" and wanted.items() <= sample.labels.items()
        )

    def _audit(self) -> Audit:
        """Run the command as a user does."""
        assert self._cluster.credentials is not None
        done = subprocess.run(
            [*TALLY, "audit", "--config", str(self._cluster.credentials.config)],
            capture_output=True,
            text=True,
            check=False,
            timeout=ANSWER_SECONDS,
            env=without_settings(os.environ),
        )
        return Audit((done.stdout + done.stderr).strip(), done.returncode)


def _let_through(gate: Path) -> None:
    """End the task that reads this FIFO. Raises DemoFailed if none does."""
    give_up_at = time.monotonic() + ANSWER_SECONDS
    while True:
        try:
            os.close(os.open(gate, os.O_WRONLY | os.O_NONBLOCK))
            return
        except OSError as error:
            if error.errno != errno.ENXIO or time.monotonic() > give_up_at:
                raise DemoFailed(f"task {gate.name} does not wait for its end: {error.strerror}") from error
        time.sleep(0.005)  # it runs, and nothing tells when it has opened the FIFO


def _submit(client: Client, pool: str, command: Callable[[int], list[str]]) -> None:
    tasks = [
        {"id": _name(pool, task), "pool": pool, "resources": {"cpu": "1"}, "command": command(task)}
        for task in range(1, TASKS + 1)
    ]
    for _ in client.submit_many(tasks):
        pass


def _name(pool: str, task: int) -> str:
    return f"{pool}-{task}"


def _state(model: Model, pool: str, task: int) -> State | None:
    found = find_task(model, _name(pool, task))
    return found.state if found is not None else None


def _has_ended(model: Model, pool: str, task: int) -> bool:
    return _state(model, pool, task) in (State.SUCCEEDED, State.FAILED, State.CANCELLED)


def _free(model: Model) -> int:
    """The free units of the wide pool, as its readers see them."""
    return int(format_quantity("cpu", pool_facts(model, WIDE).free.get("cpu")))
