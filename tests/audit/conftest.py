"""A local cluster that tests damage by raw writes, as an operator with etcdctl could."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from controller.audit.audit import Report, run_audit
from controller.audit.repairs import ask, wanted
from controller.client import Client
from controller.core.model import codec
from controller.core.model.lifecycle import State
from controller.core.model.op import Op
from controller.core.model.requests import RepairRequest
from controller.core.model.resources import Vector
from controller.core.model.task import Status
from controller.core.promise.finding import FindingSeverity, Mender
from controller.dev.cluster import LocalCluster
from controller.engine.process.engine import ProcessEngine
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
    names: Iterator[int]

    def put(self, key: str, value: bytes | None) -> int:
        """Write (None: delete) a key below the cluster's prefix, without any guard; returns the revision."""
        whole = self.client.keys.prefix + key
        write = Put(whole, value) if value is not None else Delete(whole)
        result = self.client.store.commit(
            Transaction((), (write,), Op(f"hand{next(self.names)}")), deadline=self.soon()
        )
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
        self.client.submit(
            {"id": name, "command": ["sh", "-c", body], "resources": {"cpu": "500m"}, "grace_seconds": 1}
        )
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
        self.put("ledgers/default", codec.encode_ledger(Vector({"cpu": cpu}), Op("hand"), {}))

    def audit(self) -> Report:
        """An audit over etcd and the engine."""
        return run_audit(self.client.store, self.engine, self.client.keys.cluster, self.client.clock)

    def wrong(self) -> list[tuple[str, str]]:
        """What an audit finds against the promise: invariant and subject."""
        return [
            (f.invariant, f.subject) for f in self.audit().findings if f.severity is FindingSeverity.WRONG
        ]


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """A cluster that the tests of a module share; each mends at its end what it has broken."""
    settings = {**QUICK, "TALLY_RELIST_SECONDS": "3600", "TALLY_AUDIT_INTERVAL_SECONDS": "1"}
    with local_cluster(tmp_path_factory.mktemp("ground"), replicas=1, settings=settings) as cluster:
        yield cluster


_names = itertools.count()


@pytest.fixture
def damaged(ground: LocalCluster, tmp_path: Path) -> Iterator[Damaged]:
    """The cluster with a pool of eight cpus and a leader; whatever a test did to it can be mended."""
    with ground.client() as client:
        client.apply_pool({"name": "default", "capacity": {"cpu": 8}})
        leader_of(ground)
        engine = ProcessEngine(ground.state_dir, client.keys.cluster, client.clock)
        damaged = Damaged(ground, client, engine, Gate(tmp_path / "gate"), _names)
        yield damaged
        damaged.gate.open()
        if all(replica.process is None or replica.process.poll() is not None for replica in ground.replicas):
            resume(damaged)
        wait_until(lambda: is_mended(damaged), "everything being mended", timeout=90)
        engine.close()


def is_mended(damaged: Damaged) -> bool:
    """Whether nothing is wrong any more and everything has ended; else the leader is asked to repair,
    whatever it takes.
    """
    report = damaged.audit()
    quarantined = [f.subject.removeprefix("key/") for f in report.findings if f.mender is Mender.DELETION]
    client, findings = damaged.client, wanted(report, quarantined)
    if findings:
        ask(client.store, client.keys, client.clock, RepairRequest(findings=findings, by="teardown"), 30)
        return False
    return not report.wrong and all(view.finished for view in client.tasks())


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
    wait_until(lambda: damaged.client.replicas.leader() is None, "nobody leading")
