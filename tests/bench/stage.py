"""What is measured on: an etcd that syncs to disk, filled with tasks of one's choice, and replicas with the null engine."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from controller.client import Client
from controller.clock import SystemClock
from controller.core import codec
from controller.core.lifecycle import State
from controller.core.records import Task
from controller.core.task import Observation, Phase, Spec, Status
from controller.core.transitions import Moment, admitted, succeeded
from controller.core.validation import parse_spec
from controller.embedded_etcd import EtcdConfig, EtcdProcess, find_etcd
from controller.store.base import Guard, Put, Store, Transaction
from controller.store.keys import Keys
from tests.support.etcd import free_ports

CLOCK = SystemClock()
CLUSTER = "bench"
KEYS = Keys(CLUSTER)
POOL = {"name": "default", "capacity": {"cpu": 1000}}
TASKS_A_TRANSACTION = 40

_ops = itertools.count()


@contextmanager
def etcd() -> Iterator[EtcdProcess]:
    """One member, empty, with fsync."""
    with tempfile.TemporaryDirectory(prefix="tally-bench-") as folder:
        client_port, peer_port = free_ports(2)
        process = EtcdProcess(find_etcd(), EtcdConfig(Path(folder) / "etcd", client_port, peer_port))
        process.start()
        try:
            yield process
        finally:
            process.stop()


def client_of(store_or_url: Store | str) -> Client:
    """A client whose cluster has the pool."""
    client = Client(store_or_url, cluster=CLUSTER) if isinstance(store_or_url, str) else Client(store=store_or_url, cluster=CLUSTER)
    client.apply_pool(POOL)
    return client


def specs(count: int, name: str, **fields: object) -> list[dict[str, object]]:
    """Specs as users write them."""
    return [{"id": f"{name}-{n}", "command": ["x"], "resources": {"cpu": 1}, **fields} for n in range(count)]


def store_finished(store: Store, count: int, name: str = "done") -> None:
    """Tasks that have run and succeeded, put as the leader would have."""
    now = CLOCK.now()
    moment = Moment(now, 1, "bench")
    for batch in _batches(count):
        guards, writes = [], []
        for n in batch:
            spec = parse_spec({"id": f"{name}-{n}", "command": ["x"], "resources": {"cpu": 1}})
            guards += [Guard(KEYS.task(spec.id), 0), Guard(KEYS.state(spec.id), 0)]
            op = f"bench/{next(_ops)}"
            writes += [
                Put(KEYS.task(spec.id), codec.encode_spec(spec, now, op)),
                Put(KEYS.state(spec.id), codec.encode_status(_finished(spec, moment), {})),
            ]
        store.commit(Transaction(tuple(guards), tuple(writes), f"bench/{next(_ops)}"), deadline=CLOCK.boottime() + 30)


def _batches(count: int) -> Iterator[range]:
    for first in range(0, count, TASKS_A_TRANSACTION):
        yield range(first, min(count, first + TASKS_A_TRANSACTION))


def _finished(spec: Spec, moment: Moment) -> Status:
    task = Task(spec.id)
    task.spec, task.submitted_at = spec, moment.now
    status = admitted(task, spec, 1, moment)
    seen = Observation(attempt=(spec.id, 1), phase=Phase.SUCCEEDED, stopped=True, exit_code=0)  # type: ignore[arg-type]
    ended = succeeded(status, seen, moment)
    assert ended.state is State.SUCCEEDED
    return ended
