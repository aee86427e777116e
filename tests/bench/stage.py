"""What is measured on: an etcd that syncs to a real disk, stocked with tasks of one's choice, and real
replica processes.

The folder is TALLY_BENCH_DIR, or `.bench` beside the code; a folder in memory is refused, since an fsync
there costs nothing.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import cache
from http import HTTPStatus
from http.client import HTTPConnection
from pathlib import Path
from typing import NamedTuple

import psutil

from controller.client import Client
from controller.clock import SystemClock
from controller.core.model import codec
from controller.core.model.lifecycle import State
from controller.core.model.op import Op
from controller.core.model.records import Task
from controller.core.model.task import AttemptId, Observation, Phase
from controller.core.model.validation import parse_pool, parse_spec
from controller.core.planning.transitions import Moment, admitted, running, succeeded
from controller.dev.cluster import LocalCluster, ReplicaProcess
from controller.dev.etcd import EtcdConfig, EtcdProcess, find_etcd
from controller.store.base import KeyEvent, Put, Transaction
from controller.store.etcd.gateway import GatewayOptions
from controller.store.etcd.store import EtcdStore
from controller.store.keys import Keys
from tests.support.etcd import free_ports
from tests.support.local import add_replica, local_cluster, pid_of
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]
CLOCK = SystemClock()
KEYS = Keys("default")
POOL: dict[str, object] = {"name": "default", "capacity": {"cpu": 1000}}
STOCK = "stock"
"""The pool of the tasks that are merely there: paused, so that half of them wait for ever."""

PATIENCE_SECONDS = 900.0
_TASKS_A_TRANSACTION = 40
_IN_MEMORY = ("tmpfs", "ramfs")


def bench_folder() -> Path:
    """Where all that is measured is kept. Raises SystemExit when it is not on a disk."""
    folder = Path(os.environ.get("TALLY_BENCH_DIR") or ROOT / ".bench").absolute()
    folder.mkdir(parents=True, exist_ok=True)
    if (kind := filesystem(folder)) in _IN_MEMORY:
        raise SystemExit(
            f"{folder} is on {kind}, where an fsync costs nothing: name a folder on a disk by TALLY_BENCH_DIR"
        )
    return folder


@contextmanager
def alone() -> Iterator[None]:
    """One run at a time; what one that was killed left behind is removed first.

    Raises SystemExit while another runs.
    """
    folder = bench_folder()
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise SystemExit(
                f"another run uses {folder}: wait for its end, or name another folder by TALLY_BENCH_DIR"
            ) from None
        for left in (*folder.glob("run-*"), *folder.glob("stock-*")):
            shutil.rmtree(left, ignore_errors=True)
        try:
            yield
        finally:
            drop_stocks()


def filesystem(folder: Path) -> str:
    """The type of the file system that the folder is on."""
    mounts = [part for part in psutil.disk_partitions(all=True) if folder.is_relative_to(part.mountpoint)]
    return max(mounts, key=lambda part: len(part.mountpoint)).fstype if mounts else "unknown"


@contextmanager
def disk() -> Iterator[Path]:
    """An empty folder on the disk, removed at the end."""
    with tempfile.TemporaryDirectory(prefix="run-", dir=bench_folder()) as folder:
        yield Path(folder)


@contextmanager
def etcd(data: Path | None = None) -> Iterator[EtcdProcess]:
    """One member with fsync: empty, or on this data."""
    with disk() as folder:
        client_port, peer_port = free_ports(2)
        process = EtcdProcess(
            find_etcd(),
            EtcdConfig(data or folder / "etcd", client_port, peer_port, log_file=folder / "etcd.log"),
        )
        process.start()
        try:
            yield process
        finally:
            process.stop()


@contextmanager
def store_on(url: str) -> Iterator[EtcdStore]:
    """A store, closed at the end."""
    store = EtcdStore(GatewayOptions((url,)), CLOCK)
    try:
        yield store
    finally:
        store.close()


@contextmanager
def cluster(
    *, replicas: int = 1, engine: str = "null", stock: int = 0, stock_ended: bool = False, **settings: str
) -> Iterator[LocalCluster]:
    """etcd, stocked with so many tasks (`stock_ended`: which have all ended), and replica processes that are
    ready, the first of them the leader.
    """
    with disk() as folder:
        if stock:
            shutil.copytree(stocked(stock, ended=stock_ended), folder / "etcd")
        with local_cluster(folder, replicas=0, engine=engine, settings=settings) as running_cluster:
            for number in range(replicas):
                start(running_cluster, f"r{number + 1}")
            yield running_cluster


def start(running_cluster: LocalCluster, name: str, **settings: str) -> ReplicaProcess:
    """One more replica that is ready; the first one leads."""
    replica = add_replica(running_cluster, name, **settings)
    wait_started(running_cluster, replica)
    if len(running_cluster.replicas) == 1:
        with running_cluster.client() as client:
            wait_until(client.replicas.leader, "a leader", timeout=60.0)
    return replica


def wait_started(running_cluster: LocalCluster, replica: ReplicaProcess) -> None:
    """Wait until it is ready. Raises RuntimeError with the end of its log when it has died."""

    def ready() -> bool:
        if replica.process is not None and replica.process.poll() is not None:
            log = (running_cluster.data_dir / "logs" / f"{replica.name}.log").read_text(errors="replace")
            raise RuntimeError(
                f"{replica.name} ended with exit code {replica.process.returncode}: {log[-2000:]}"
            )
        try:
            return ask(replica, "/readyz")[0] == HTTPStatus.OK
        except OSError:
            return False

    wait_until(ready, f"{replica.name} being ready", timeout=PATIENCE_SECONDS, poll=0.02)


def ask(replica: ReplicaProcess, path: str) -> tuple[int, bytes]:
    """Status and body of a GET.

    Plain, so that asking often costs little beside what is measured. Raises OSError.
    """
    with closing(HTTPConnection("127.0.0.1", replica.status_port, timeout=30)) as connection:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()


def specs(count: int, name: str, **fields: object) -> list[dict[str, object]]:
    """Specs as users write them."""
    return [
        {"id": f"{name}-{n}", "command": ["true"], "resources": {"cpu": 1}, **fields} for n in range(count)
    ]


def pool_counts(replica: ReplicaProcess, pool: str = "default") -> dict[str, int]:
    """The pool's tasks by state, as the replica knows them."""
    status, body = ask(replica, f"/v1/pools/{pool}")
    if status == HTTPStatus.NOT_FOUND:
        return {}
    assert status == HTTPStatus.OK, body
    return dict(json.loads(body)["tasks"])


class Burned(NamedTuple):
    """A burn-down: how long it took, the leader's CPU, and what was written meanwhile, as etcd's history
    tells.
    """

    seconds: float
    cpu_seconds: float
    writes: int
    revisions: int


def burn(
    running_cluster: LocalCluster,
    count: int,
    name: str,
    pool: Mapping[str, object] = POOL,
    submitter: Client | None = None,
    tasks: Sequence[dict[str, object]] | None = None,
) -> Burned:
    """Submit to a paused pool, let the leader learn of all, resume it, and wait until all have succeeded.

    `tasks` None: so many alike.
    """
    leader = running_cluster.replicas[0]
    with running_cluster.client() as client, store_on(running_cluster.endpoint) as store:
        client.apply_pool({**pool, "paused": True})
        before = pool_counts(leader).get("Succeeded", 0)
        results = (submitter or client).submit_many(tasks or specs(count, name))
        assert all(result.accepted for result in results), [each for each in results if not each.accepted][:3]
        wait_until(
            lambda: pool_counts(leader).get("Created", 0) >= count,
            "the leader to know all",
            timeout=PATIENCE_SECONDS,
        )
        _, first = store.get(KEYS.leader, deadline=CLOCK.boottime() + 10)
        began, used = CLOCK.boottime(), cpu_seconds(leader)
        client.apply_pool(pool)
        wait_until(
            lambda: pool_counts(leader).get("Succeeded", 0) >= before + count,
            "the end of all",
            timeout=PATIENCE_SECONDS,
            poll=0.03,
        )
        seconds = CLOCK.boottime() - began
        return Burned(seconds, cpu_seconds(leader) - used, *_written(store, first))


def _written(store: EtcdStore, after: int) -> tuple[int, int]:
    """Keys that were written in leader's transactions since, and in how many revisions."""
    by_revision: dict[int, int] = {}
    for event in history(store, after):
        if event.key.startswith((f"{KEYS.prefix}states/", f"{KEYS.prefix}ledgers/")):
            by_revision[event.mod] = by_revision.get(event.mod, 0) + 1
    return sum(by_revision.values()), len(by_revision)


def history(store: EtcdStore, after: int = 1) -> Iterator[KeyEvent]:
    """All changes of Tally's keys since then, up to now."""
    _, last = store.get(KEYS.leader, deadline=CLOCK.boottime() + 10)
    watch = store.watch(KEYS.prefix, after=after)
    try:
        for batch in watch:
            yield from (event for event in batch.events if event.mod <= last)
            if batch.revision >= last:
                return
    finally:
        watch.close()


def cpu_seconds(replica: ReplicaProcess) -> float:
    """What the replica's process has used so far."""
    times = psutil.Process(pid_of(replica)).cpu_times()
    return float(times.user + times.system)


def resident_bytes(replica: ReplicaProcess) -> int:
    """What the replica's process has in memory, once it no longer changes."""
    process = psutil.Process(pid_of(replica))
    seen = [0, 1, 2]

    def settled() -> bool:
        seen[:] = [*seen[1:], process.memory_info().rss]
        return max(seen) - min(seen) < 2**20

    wait_until(settled, "memory to settle", timeout=120.0, poll=0.3)
    return seen[-1]


@cache
def stocked(count: int, *, ended: bool = False) -> Path:
    """The data of an etcd with so many tasks in the pool `stock`: every other one waits, or none (`ended`).

    Made once; to be copied.
    """
    folder = bench_folder() / f"stock-{os.getpid()}" / (f"{count}-ended" if ended else str(count))
    folder.parent.mkdir(exist_ok=True)
    with etcd(folder) as member, store_on(member.url) as store:
        pool = parse_pool({"name": STOCK, "capacity": {"cpu": 1000}, "paused": True})
        writes = [Put(KEYS.pool(STOCK), codec.encode_pool(pool, Op("stock")))]
        for key, value in stock_records(count, ended=ended):
            writes.append(Put(key, value))
            if len(writes) >= 2 * _TASKS_A_TRANSACTION:
                _put(store, writes)
                writes = []
        _put(store, writes)
    return folder


def drop_stocks() -> None:
    """Remove what `stocked` made."""
    shutil.rmtree(bench_folder() / f"stock-{os.getpid()}", ignore_errors=True)
    stocked.cache_clear()


def stock_records(count: int, *, ended: bool = False) -> Iterator[tuple[str, bytes]]:
    """Specs, and the statuses of every other task (`ended`: of all), as client and leader write them."""
    model = "stock-00000000"
    spec, moment = (
        parse_spec({"id": model, "pool": STOCK, "command": ["true"], "resources": {"cpu": 1}}),
        Moment(CLOCK.now(), 1, Op("stock")),
    )
    task = Task(model)
    task.spec, task.submitted_at, task.demand = spec, moment.now, spec.resources
    attempt = AttemptId(model, 1)
    seen = Observation(attempt=attempt, phase=Phase.RUNNING, uid=f"null-{model}-1-1", started_at=moment.now)
    status = running(admitted(task, spec, 1, 1, moment), seen, moment)
    told = succeeded(
        status, Observation(attempt=attempt, phase=Phase.SUCCEEDED, stopped=True, exit_code=0), moment
    )
    assert told.state is State.SUCCEEDED
    spec_bytes, status_bytes = (
        codec.encode_spec(spec, moment.now, Op("stock")),
        codec.encode_status(told, {}),
    )
    for number in range(count):
        name = f"stock-{number:08}"
        yield KEYS.task(name), spec_bytes.replace(model.encode(), name.encode())
        if number % 2 or ended:
            yield KEYS.state(name), status_bytes.replace(model.encode(), name.encode())


def _put(store: EtcdStore, writes: list[Put]) -> None:
    if writes:
        store.commit(Transaction((), tuple(writes), Op("stock")), deadline=CLOCK.boottime() + 60)


def client_of(url: str) -> Client:
    """A client of the cluster on this etcd."""
    return Client(url, cluster=KEYS.cluster)
