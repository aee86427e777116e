"""The naive replicas' own faults: what ends the demo says why, at once."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from controller.clock import SystemClock
from controller.dev.demo.course import Course, Design
from controller.dev.demo.designs import Naive
from controller.dev.demo.replicas import DemoFailed, NaiveReplicas
from controller.dev.etcd import EtcdProcess
from controller.engine.process.table import processes
from controller.store.base import Delete, Transaction, new_op
from controller.store.etcd.gateway import GatewayOptions
from controller.store.etcd.store import EtcdStore


def pids() -> list[int]:
    """Of this process's children."""
    return [each.pid for each in processes() if each.parent == os.getpid()]


@pytest.mark.parametrize("design", [Design.IN_TURN, Design.FENCED])
def test_a_replica_that_is_killed_is_named(
    etcd: EtcdProcess, store: EtcdStore, tmp_path: Path, prefix: str, design: Design
) -> None:
    before = pids()

    def kill_one(course: Course) -> None:
        if len(course.points) == 10:
            os.kill(min(set(pids()) - set(before)), signal.SIGKILL)

    with NaiveReplicas(GatewayOptions((etcd.url,)), tmp_path / "log") as replicas:
        naive = Naive(replicas, store, SystemClock(), kill_one, prefix)
        with pytest.raises(DemoFailed, match=r"naive replica \d has ended \(exit code -9\)"):
            naive.run(design)
    assert pids() == before


def test_a_lease_that_expires_by_itself_is_told(
    etcd: EtcdProcess, store: EtcdStore, tmp_path: Path, prefix: str
) -> None:
    """The leader's key is deleted, as if its lease had expired while the machine stood still."""

    def depose(course: Course) -> None:
        if len(course.points) == 10:
            leader = f"{prefix}{course.design}/leader"
            clock = SystemClock()
            store.commit(Transaction((), (Delete(leader),), new_op()), deadline=clock.boottime() + 10.0)
            # the run must not be over before another one leads
            deadline = clock.boottime() + 10.0
            while store.get(leader, deadline=deadline)[0] is None:
                assert clock.boottime() < deadline, "no other replica leads"

    with NaiveReplicas(GatewayOptions((etcd.url,)), tmp_path / "log") as replicas:
        naive = Naive(replicas, store, SystemClock(), depose, prefix)
        with pytest.raises(
            DemoFailed, match=r"the lease of a naive leader has expired .* Run the demo again"
        ):
            naive.run(Design.LEADER)
