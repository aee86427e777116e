"""Backup and restore, as deploy/upgrades.md describes them: a snapshot, a new etcd of it, the audit before any replica runs."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from controller.audit import Report, run_audit
from controller.core.lifecycle import State
from controller.dev import LocalCluster
from controller.engine.process import ProcessEngine
from tests.support.local import QUICK, Gate, Journal, leader_of, local_cluster
from tests.support.waiting import wait_until


def etcdctl(cluster: LocalCluster, *arguments: str) -> None:
    """The one beside the etcd that runs, or of this machine."""
    beside = Path(cluster.etcd.binary.path).with_name("etcdctl")
    found = str(beside) if beside.exists() else shutil.which("etcdctl")
    if found is None:
        pytest.skip("etcdctl is not installed (Debian: etcd-client)")
    done = subprocess.run([found, *arguments], env={**os.environ, "ETCDCTL_API": "3"}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_restored_backup(tmp_path: Path) -> None:
    """What ended, and what was submitted, after the backup: the audit names it before a replica runs; then the ends are learnt
    from the engine, what nobody knows of any more is stopped, nothing runs twice, and epochs go on from the backup's."""
    journal, gate, second = Journal(tmp_path / "journal"), Gate(tmp_path / "gate"), Gate(tmp_path / "second")
    backup = tmp_path / "backup.db"
    with local_cluster(tmp_path / "data", settings=QUICK) as cluster:
        with cluster.client() as client:
            client.apply_pool({"name": "default", "capacity": {"cpu": 4}})
            client.submit({"id": "ended", "command": journal.command("true"), "resources": {"cpu": 1}})
            client.wait(["ended"], timeout_seconds=60)
            client.submit({"id": "running", "command": journal.command(gate.body), "resources": {"cpu": 1}})
            wait_until(lambda: client.get("running").state is State.RUNNING, "the attempt", timeout=60)
            leader = client.leader()
            assert leader is not None

            etcdctl(cluster, f"--endpoints={cluster.endpoint}", "snapshot", "save", str(backup))
            gate.open()
            client.wait(["running"], timeout_seconds=60)
            later = {"resources": {"cpu": 1}, "grace_seconds": 1}
            kept = {"id": "kept", "command": journal.command(second.body), **later}
            client.submit(kept)
            client.submit({"id": "unknown", "command": journal.command("sleep 600"), **later})
            for name in ("kept", "unknown"):
                wait_until(lambda name=name: client.get(name).state is State.RUNNING, "attempts after the backup", timeout=60)

        restore(cluster, backup)
        report = audited(cluster)
        assert {("I5", "attempt/kept-1"), ("I5", "attempt/unknown-1")} == {
            (each.invariant, each.subject) for each in report.findings if each.severity == "wrong"
        }

        with cluster.client() as client:
            client.submit(kept)
            for replica in cluster.replicas:
                cluster.start_replica(replica)
            wait_until(lambda: client.get("kept").state is State.RUNNING, "its adoption", timeout=60)
            second.open()
            views = client.wait(["running", "ended", "kept"], timeout_seconds=60)
            assert {view.state for view in views.values()} == {State.SUCCEEDED}
            leader_of(cluster)
            after = client.leader()
            assert after is not None
            assert after.epoch > leader.epoch
            wait_until(lambda: audited(cluster).wrong == 0, "a clean audit", timeout=60)
            assert client.pools()[0].free["cpu"] == 4000
    assert set(journal.starts().values()) == {1}, "an attempt ran more than once"


def restore(cluster: LocalCluster, backup: Path) -> None:
    """End all replicas and etcd, and start a new etcd of the backup in its place; the replicas stay down."""
    for replica in cluster.replicas:
        assert replica.process is not None
        replica.process.terminate()
    for replica in cluster.replicas:
        assert replica.process is not None
        replica.process.wait(30)
    cluster.etcd.stop()
    config = cluster.etcd.config
    shutil.rmtree(config.data_dir)
    peer = f"{config.name}={config.peer_url}"
    members = [f"--name={config.name}", f"--initial-cluster={peer}", f"--initial-advertise-peer-urls={config.peer_url}"]
    etcdctl(cluster, "snapshot", "restore", str(backup), f"--data-dir={config.data_dir}", *members)
    cluster.etcd.start()


def audited(cluster: LocalCluster) -> Report:
    """The audit's report, with the engine's view."""
    with cluster.client() as client:
        engine = ProcessEngine(cluster.state_dir, "default", client.clock)
        try:
            return run_audit(client.store, engine, "default", client.clock)
        finally:
            engine.close()
