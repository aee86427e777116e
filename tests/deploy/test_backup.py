"""Backup and restore, as deploy/upgrades.md describes them: a snapshot, a new etcd of it, the audit before
any replica runs.
"""

from __future__ import annotations

from pathlib import Path

from controller.core.model.lifecycle import State
from controller.dev.etcd import EtcdBinary
from tests.support.backups import SNAPSHOT, USER, audited, noted, restore, save_snapshot, shell, wrong
from tests.support.etcd import EtcdFactory
from tests.support.local import QUICK, Gate, Journal, leader_of, local_cluster
from tests.support.waiting import wait_until


def test_a_restored_backup(tmp_path: Path) -> None:
    """What ended, and what was submitted, after the backup: the audit names it before a replica runs; then
    the ends are learnt from the engine, what nobody knows of any more is stopped, nothing runs twice, and
    epochs go on from the backup's."""
    journal, gate, second = Journal(tmp_path / "journal"), Gate(tmp_path / "gate"), Gate(tmp_path / "second")
    with local_cluster(tmp_path / "data", settings=QUICK) as cluster:
        with cluster.client() as client:
            client.apply_pool({"name": "default", "capacity": {"cpu": 4}})
            client.submit({"id": "ended", "command": journal.command("true"), "resources": {"cpu": 1}})
            client.wait(["ended"], timeout_seconds=60)
            client.submit({"id": "running", "command": journal.command(gate.body), "resources": {"cpu": 1}})
            wait_until(lambda: client.get("running").state is State.RUNNING, "the attempt", timeout=60)
            leader = client.replicas.leader()
            assert leader is not None

            save_snapshot(cluster.etcd.binary, cluster.endpoint, tmp_path)
            gate.open()
            client.wait(["running"], timeout_seconds=60)
            later = {"resources": {"cpu": 1}, "grace_seconds": 1}
            kept = {"id": "kept", "command": journal.command(second.body), **later}
            client.submit(kept)
            client.submit({"id": "unknown", "command": journal.command("sleep 600"), **later})
            wait_until(
                lambda: all(client.get(name).state is State.RUNNING for name in ("kept", "unknown")),
                "attempts after the backup",
                timeout=60,
            )

        restore(cluster, tmp_path)
        assert wrong(audited(cluster)) == {("I5", "attempt/kept-1"), ("I5", "attempt/unknown-1")}

        with cluster.client() as client:
            client.submit(kept)
            for replica in cluster.replicas:
                cluster.start_replica(replica)
            wait_until(lambda: client.get("kept").state is State.RUNNING, "its adoption", timeout=60)
            second.open()
            views = client.wait(["running", "ended", "kept"], timeout_seconds=60)
            assert {view.state for view in views.values()} == {State.SUCCEEDED}
            leader_of(cluster)
            after = client.replicas.leader()
            assert after is not None
            assert after.epoch > leader.epoch
            wait_until(lambda: not wrong(audited(cluster)), "a clean audit", timeout=60)
            assert client.pools()[0].free["cpu"] == 4000
    assert set(journal.starts().values()) == {1}, "an attempt ran more than once"


def test_a_snapshot_of_an_etcd_with_users(
    etcd_factory: EtcdFactory, etcd_binary: EtcdBinary, tmp_path: Path
) -> None:
    """Only with root's password; without it etcd refuses."""
    etcd = etcd_factory.start()
    (tmp_path / "passwords").mkdir()
    (tmp_path / "passwords" / "root").write_text("secret\n")
    control = f"etcdctl --endpoints={etcd.url}"
    made = shell(
        etcd_binary,
        f"{control} user add root:secret && {control} role add root; {control} user grant-role root root",
        {},
        tmp_path,
    )
    assert made.returncode == 0, made.stderr
    assert shell(etcd_binary, f"{control} auth enable", {}, tmp_path).returncode == 0
    own = {**SNAPSHOT, "https://etcd-1.example.org:2379": etcd.url}
    refused = shell(etcd_binary, noted("etcdctl --endpoints"), {**own, USER: ""}, tmp_path)
    assert refused.returncode != 0
    done = shell(etcd_binary, noted("etcdctl --endpoints"), own, tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "tally.db").stat().st_size > 0


def test_the_audit_says_when_it_checks_no_engine(
    etcd_factory: EtcdFactory, etcd_binary: EtcdBinary, tmp_path: Path
) -> None:
    """Nobody is registered after a restore: a verdict on the records alone must not look like one on the
    attempts.
    """
    etcd = etcd_factory.start()
    done = shell(etcd_binary, f"tally audit --etcd {etcd.url}", {}, tmp_path)
    assert "the engine is not checked" in done.stderr
    assert "--state-dir" in done.stderr
    command = noted("tally audit --engine kubernetes").partition("#")[0]
    elsewhere = shell(etcd_binary, f"KUBECONFIG=nowhere {command} --etcd {etcd.url}", {}, tmp_path)
    assert "no access to Kubernetes" in elsewhere.stderr
