"""A local cluster for tests that treat it badly: real etcd, real replica processes, real attempts, and a
witness.

The `Witness` watches the store and notes when each term wrote first; the `Journal` is a file to which the
tasks themselves append when they start and end. What a test proves, it proves from these two and not from
Tally's own words.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import signal
import threading
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import httpx

from controller.audit.audit import run_audit
from controller.client import NotFound
from controller.clock import SystemClock
from controller.core.model import codec
from controller.dev.cluster import DevOptions, LocalCluster, ReplicaProcess
from controller.engine.base import Engine
from controller.engine.process.engine import ProcessEngine
from controller.errors import CorruptValue
from controller.store.base import StoreError
from controller.store.etcd.gateway import GatewayOptions
from controller.store.etcd.store import EtcdStore
from controller.store.keys import Keys
from tests.support.etcd import free_ports
from tests.support.history import History, replay
from tests.support.waiting import wait_until

SHELL = ["sh", "-c"]
QUICK = {
    "TALLY_LEASE_TTL_SECONDS": "2",
    "TALLY_KEEPALIVE_INTERVAL_SECONDS": "0.5",
    "TALLY_DEADLINE_MARGIN_SECONDS": "0.3",
}
"""Settings of replicas whose death is noticed as soon as etcd allows."""


class Line(NamedTuple):
    """One line of the journal: which attempt, whether it started or ended, and when (seconds since the
    epoch).
    """

    task_id: str
    attempt: int
    what: str
    at: float


class Journal:
    """Where tasks write by themselves: `id attempt start|end time`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def command(self, body: str) -> list[str]:
        """A command that notes its start, runs `body` (shell), and notes its end and passes on the exit
        code.
        """
        note = f'echo "$TALLY_TASK_ID $TALLY_ATTEMPT %s $(date +%%s.%%N)" >> {self.path}'
        return [*SHELL, f"{note % 'start'}; ( {body} ); code=$?; {note % 'end'}; exit $code"]

    def lines(self) -> list[Line]:
        """All lines, as they were written."""
        if not self.path.exists():
            return []
        rows = (line.split() for line in self.path.read_text().splitlines())
        return [Line(task_id, int(attempt), what, float(at)) for task_id, attempt, what, at in rows]

    def starts(self) -> dict[tuple[str, int], int]:
        """(task, attempt) → how often it started."""
        counts: dict[tuple[str, int], int] = defaultdict(int)
        for line in self.lines():
            if line.what == "start":
                counts[line.task_id, line.attempt] += 1
        return counts

    def overlaps(self) -> list[str]:
        """Tasks of which two attempts ran at the same time, as far as the lines tell."""
        by_task: dict[str, list[Line]] = defaultdict(list)
        for line in self.lines():
            by_task[line.task_id].append(line)
        found = []
        for task_id, lines in by_task.items():
            ends = {line.attempt: line.at for line in lines if line.what == "end"}
            starts = sorted((line.attempt, line.at) for line in lines if line.what == "start")
            for (attempt, started), (following, began) in itertools.pairwise(starts):
                if began < ends.get(attempt, started):
                    found.append(f"{task_id}: attempt {following} began before attempt {attempt} ended")
        return found


class Gate:
    """Holds attempts up, for as long as the test wants and at no cost: their `body` ends once `open` was
    called.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        os.mkfifo(path)
        self.body = f"cat {path} > /dev/null"

    def open(self) -> None:
        """Let go of those who wait, and of all who come later."""
        writer = os.open(self._path, os.O_RDWR)  # wakes those who wait for a writer
        later = self._path.with_name(f"{self._path.name}.open")
        later.touch()
        later.rename(self._path)
        os.close(writer)  # and this is the end of what they read


class Ran(Protocol):
    """Who knows what really ran: the tasks themselves, by a Journal, or the machines they ran on."""

    def starts(self) -> Mapping[tuple[str, int], int]:
        """(task, attempt) → how often it started."""
        ...

    def overlaps(self) -> list[str]:
        """Tasks of which two attempts ran at the same time."""
        ...


def check_promise(
    cluster: LocalCluster,
    journal: Ran,
    acknowledged: Iterable[str],
    *,
    audit: bool = True,
    engine: Engine | None = None,
    history: History | None = None,
) -> History:
    """What must hold when all has finished: each attempt ran once and alone, nothing is lost, nothing is
    held, and the invariants held at every revision that etcd ever had. Returns the history, which is replayed
    unless it was recorded.

    The audit asks `engine`, by default the process engine of that cluster, and closes it."""
    acknowledged = set(acknowledged)
    starts = journal.starts()
    twice = {attempt: times for attempt, times in starts.items() if times != 1}
    assert not twice, f"attempts ran more than once: {twice}"
    assert not (overlaps := journal.overlaps()), overlaps
    history = history or replay(cluster.endpoint)
    assert not history.findings, "\n".join(history.findings)
    assert not (missing := history.missing(acknowledged)), f"acknowledged, and lost: {missing}"
    assert not (unfinished := history.unfinished()), f"not finished: {unfinished}"
    assert not (held := history.held()), f"still held: {held}"
    began = Counter(task_id for task_id, _ in starts)
    for task_id in acknowledged:
        assert began[task_id] <= history.admissions[task_id], f"{task_id} ran without a hold"
    if audit:
        clock = SystemClock()
        engine = engine or ProcessEngine(cluster.state_dir, "default", clock)
        with cluster.client() as client:
            report = run_audit(client.store, engine, "default", clock)
        engine.close()
        assert report.verdict == "ok", report.to_text()
    return history


@dataclass
class Witness:
    """Watches the cluster's keys from outside.

    `first_commits`: epoch → boottime of its first write of a status.
    """

    endpoint: str
    cluster: str = "default"
    first_commits: dict[int, float] = field(default_factory=dict)
    terms_out_of_order: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._clock = SystemClock()
        self._store = EtcdStore(GatewayOptions((self.endpoint,)), self._clock)
        self._keys = Keys(self.cluster)
        self._ready = threading.Event()
        self._closed = threading.Event()
        self._highest = 0
        self._thread = threading.Thread(target=self._run, name="witness", daemon=True)
        self._thread.start()
        assert self._ready.wait(30)

    def _run(self) -> None:
        _, revision = self._store.get(self._keys.leader, deadline=self._clock.boottime() + 30)
        self._watch = self._store.watch(f"{self._keys.prefix}states/", after=revision)
        self._ready.set()
        try:
            for batch in self._watch:
                for event in batch.events:
                    self._note(event.key, event.item.value if event.item is not None else None)
        except StoreError:
            if not self._closed.is_set():
                raise

    def _note(self, key: str, value: bytes | None) -> None:
        if value is None:
            return
        try:
            status, _ = codec.decode_status(value)
        except CorruptValue:
            return  # put there by the test
        self.first_commits.setdefault(status.epoch, self._clock.boottime())
        if status.epoch < self._highest:
            self.terms_out_of_order.append(f"{key}: epoch {status.epoch} wrote after epoch {self._highest}")
        self._highest = max(self._highest, status.epoch)

    def next_term(self, after: float) -> float:
        """Seconds from `after` (boottime) to the first commit of the first term that began to write after
        it; waits for it.
        """

        def found() -> float:
            later = [at for at in list(self.first_commits.values()) if at > after]
            return min(later, default=0.0)

        return wait_until(found, "the next leader's first commit", timeout=60.0) - after

    def close(self) -> None:
        """End the watch."""
        self._closed.set()
        self._watch.close()
        self._thread.join(10)
        self._store.close()


@contextmanager
def local_cluster(path: Path, **options: Any) -> Iterator[LocalCluster]:
    """A local cluster on free ports, without samples, all of whose replicas are ready; ended with the
    block.
    """
    cluster = LocalCluster(
        DevOptions(data_dir=path, samples=False, etcd_port=adjacent_ports(), **options), guarded=False
    )
    for replica, port in zip(cluster.replicas, free_ports(len(cluster.replicas)), strict=True):
        replica.status_port = port
    cluster.start()
    try:
        wait_ready(cluster)
        yield cluster
    finally:
        cluster.stop()


def adjacent_ports() -> int:
    """A free port whose successor is free too; neither is given to anybody else."""
    first, second = free_ports(2)
    while second != first + 1:
        first, (second,) = second, free_ports(1)
    return first


class Tending:
    """Restarts dead replicas in the background, as `tally dev` and any supervisor do."""

    def __init__(self, cluster: LocalCluster) -> None:
        self._cluster = cluster
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tending", daemon=True)

    def __enter__(self) -> Tending:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        self._thread.join(10)

    def _run(self) -> None:
        while not self._closed.wait(0.2):
            self._cluster.tend()


def add_replica(cluster: LocalCluster, name: str, **settings: str) -> ReplicaProcess:
    """One more replica, started with the cluster's settings and these; restarted, if it dies, without
    these.
    """
    (port,) = free_ports(1)
    replica = ReplicaProcess(name, port)
    common = cluster.options
    cluster.options = dataclasses.replace(common, settings={**common.settings, **settings})
    try:
        cluster.start_replica(replica)
    finally:
        cluster.options = common
    cluster.replicas.append(replica)
    return replica


def lead_by_turns(cluster: LocalCluster, replica: ReplicaProcess) -> None:
    """Let `replica` become the leader: whoever else leads steps down until it is elected, or until its
    leading killed it.
    """
    while (
        leader_of(cluster) is not replica and replica.process is not None and replica.process.poll() is None
    ):
        with cluster.client() as client, suppress(NotFound):
            client.replicas.step_down()


def logged(cluster: LocalCluster, replica: ReplicaProcess, **fields: str) -> list[dict[str, Any]]:
    """The lines of a replica's log that have these fields, oldest first; those of its predecessors of that
    name too.
    """
    lines = (cluster.data_dir / "logs" / f"{replica.name}.log").read_text(errors="replace").splitlines()
    entries = [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]
    return [entry for entry in entries if fields.items() <= entry.items()]


def leads(replica: ReplicaProcess) -> bool:
    """Whether the replica itself says that it leads."""
    return _answers(replica, "leader")


def is_ready(replica: ReplicaProcess) -> bool:
    """Whether the replica says that it is ready."""
    return _answers(replica, "readyz")


def _answers(replica: ReplicaProcess, path: str) -> bool:
    try:
        return (
            httpx.get(
                f"http://127.0.0.1:{replica.status_port}/{path}", timeout=2, trust_env=False
            ).status_code
            == 200
        )
    except httpx.TransportError:
        return False


def leader_of(cluster: LocalCluster) -> ReplicaProcess:
    """The replica that leads now; waits until one does and its process lives."""

    def found() -> ReplicaProcess | None:
        with cluster.client() as client:
            leader = client.replicas.leader()
        for replica in cluster.replicas:
            if (
                leader is not None
                and replica.name == leader.id
                and replica.process is not None
                and replica.process.poll() is None
            ):
                return replica
        return None

    replica = wait_until(found, "a live leader", timeout=60.0, poll=0.1)
    assert replica is not None
    return replica


def pid_of(replica: ReplicaProcess) -> int:
    """The process of a replica that is up."""
    assert replica.process is not None
    return replica.process.pid


def kill(replica: ReplicaProcess, number: int = signal.SIGKILL) -> float:
    """Send the signal; returns when (boottime)."""
    at = SystemClock().boottime()
    os.kill(pid_of(replica), number)
    return at


def wait_ready(cluster: LocalCluster) -> None:
    """Wait until every replica is up and ready: all but the leader are then warm followers."""
    wait_until(
        lambda: all(map(is_ready, cluster.replicas)), "all replicas being ready", timeout=60.0, poll=0.1
    )
