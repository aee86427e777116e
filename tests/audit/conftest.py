"""A local cluster that tests damage by raw writes, as an operator with etcdctl could."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from controller.audit import Report, run_audit
from controller.client import Client
from controller.core import codec
from controller.core.finding import Severity
from controller.core.lifecycle import State
from controller.core.resources import Vector
from controller.core.task import Status
from controller.dev import LocalCluster
from controller.engine.process import ProcessEngine
from controller.store.base import Committed, Delete, Put, Transaction
from tests.support.local import QUICK, Gate, leader_of, local_cluster
from tests.support.waiting import wait_until

CPU = Vector({"cpu": 500})


@dataclass
class Damaged:
    """One replica on a real etcd and the process engine, and the hand that writes around it."""

    cluster: LocalCluster
    client: Client
    engine: ProcessEngine
    gate: Gate
    names: Iterator[int] = field(default_factory=itertools.count)

    def put(self, key: str, value: bytes | None) -> int:
        """Write (None: delete) a key below the cluster's prefix, without any guard; returns the revision."""
        whole = self.client.keys.prefix + key
        write = Put(whole, value) if value is not None else Delete(whole)
        result = self.client.store.commit(Transaction((), (write,), f"hand{next(self.names)}"), deadline=self.soon())
        assert isinstance(result, Committed)
        return result.revision

    def get(self, key: str) -> bytes | None:
        """A key as it stands."""
        item, _ = self.client.store.get(self.client.keys.prefix + key, deadline=self.soon())
        return item.value if item is not None else None

    def soon(self) -> float:
        return self.client.clock.boottime() + 10

    def submit(self, body: str) -> str:
        """A task of half a cpu that runs `body`; returns its name."""
        name = f"task-{next(self.names)}"
        self.client.submit({"id": name, "command": ["sh", "-c", body], "resources": {"cpu": "500m"}, "grace_seconds": 1})
        return name

    def runs(self) -> str:
        """A task that runs until the gate is opened."""
        name = self.submit(self.gate.body)
        self.client.wait([name], for_="running", timeout_seconds=30)
        return name

    def done(self) -> str:
        """A task that has succeeded."""
        name = self.submit("true")
        assert self.client.wait([name], timeout_seconds=30)[name].state is State.SUCCEEDED
        return name

    def status(self, name: str) -> Status:
        """A task's status, as it is stored."""
        value = self.get(f"states/{name}")
        assert value is not None
        return codec.decode_status(value)[0]

    def held(self) -> Vector:
        """What the ledger says is held."""
        value = self.get("ledgers/default")
        return codec.decode_ledger(value)[0] if value is not None else Vector()

    def set_held(self, cpu: int) -> None:
        """Write a ledger by hand."""
        self.put("ledgers/default", codec.encode_ledger(Vector({"cpu": cpu}), "hand", {}))

    def audit(self) -> Report:
        """An audit over etcd and the engine."""
        return run_audit(self.client.store, self.engine, self.client.keys.cluster, self.client.clock)

    def wrong(self) -> list[tuple[str, str]]:
        """What an audit finds against the promise: invariant and subject."""
        return [(f.invariant, f.subject) for f in self.audit().findings if f.severity is Severity.WRONG]


@pytest.fixture
def damaged(tmp_path: Path) -> Iterator[Damaged]:
    """A fresh cluster, with a pool of eight cpus and a leader."""
    settings = {**QUICK, "TALLY_RELIST_SECONDS": "3600", "TALLY_AUDIT_INTERVAL_SECONDS": "1"}
    with local_cluster(tmp_path / "data", replicas=1, settings=settings) as cluster, cluster.client() as client:
        client.apply_pool({"name": "default", "capacity": {"cpu": 8}})
        leader_of(cluster)
        engine = ProcessEngine(cluster.state_dir, client.keys.cluster, client.clock)
        gate = Gate(tmp_path / "gate")
        yield Damaged(cluster, client, engine, gate)
        gate.open()
        engine.close()


def resume(damaged: Damaged) -> None:
    """Start the replica again, and wait until it leads."""
    for replica in damaged.cluster.replicas:
        damaged.cluster.start_replica(replica)
    leader_of(damaged.cluster)


def pause(damaged: Damaged) -> None:
    """End the replica: nobody leads."""
    for replica in damaged.cluster.replicas:
        assert replica.process is not None
        replica.process.terminate()
        replica.process.wait(20)
    wait_until(lambda: damaged.client.leader() is None, "nobody leading")
