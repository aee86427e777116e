"""Backup and restore, as deploy/upgrades.md describes them: a snapshot, a new etcd of it, the audit before
any replica runs.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from controller.clock import SystemClock
from controller.core.model.lifecycle import State
from controller.dev.etcd import EtcdBinary, EtcdProcess
from controller.runtime.standby import Standby
from controller.store.keys import Keys
from controller.views.freshness import RULE
from tests.support.backups import SNAPSHOT, USER, audited, noted, restore, save_snapshot, shell, wrong
from tests.support.etcd import EtcdFactory
from tests.support.local import QUICK, Gate, Journal, leader_of, local_cluster
from tests.support.waiting import wait_until

GOES_ON = ("--bump-revision=1000000000", "--mark-compacted")


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


def test_a_restore_under_replicas_that_run_whose_revisions_go_on(
    tmp_path: Path, etcd_factory: EtcdFactory
) -> None:
    """Neither the cluster's id nor a lower revision shows it. What is held is released all the same, and all
    that keep a model show what is stored.
    """
    journal, gate = Journal(tmp_path / "journal"), Gate(tmp_path / "gate")
    with local_cluster(tmp_path / "data", settings=QUICK) as cluster:
        etcd, clock = cluster.etcd, SystemClock()
        restore = _restore_going_on(etcd, tmp_path)
        standby = Standby(etcd_factory.store(cluster.endpoint), Keys("default"), clock, RULE, 10.0)
        standby.start()
        with cluster.client() as client:
            client.apply_pool({"name": "default", "capacity": {"cpu": 2}})
            command = journal.command(gate.body)
            client.submit_many({"id": name, "command": command, "resources": {"cpu": 1}} for name in "ab")
            wait_until(
                lambda: {client.get(name).state for name in "ab"} == {State.RUNNING}, "both", timeout=60
            )
            save_snapshot(etcd.binary, cluster.endpoint, tmp_path)
            gate.open()
            client.wait(["a", "b"], timeout_seconds=60)
            etcd.stop()
            shutil.rmtree(etcd.config.data_dir)
            subprocess.run(restore, check=True, capture_output=True, timeout=60)
            etcd.start()
        with cluster.client() as client:
            client.submit({"id": "c", "command": journal.command("true"), "resources": {"cpu": 2}})
            views = client.wait(["a", "b", "c"], timeout_seconds=60)
            assert {view.state for view in views.values()} == {State.SUCCEEDED}
            wait_until(lambda: not wrong(audited(cluster)), "a clean audit", timeout=60)
            wait_until(lambda: _states(standby) == dict.fromkeys("abc", State.SUCCEEDED), "what is stored")
        standby.close()
        assert set(journal.starts().values()) == {1}


def _states(standby: Standby) -> dict[str, State]:
    with standby.reading() as model:
        return {name: task.state for name, task in model.tasks.items()}


def _restore_going_on(etcd: EtcdProcess, folder: Path) -> list[str]:
    """The command, as the notes recommend it; skips the test if there is no tool that knows it."""
    tool, config = Path(etcd.binary.path).parent / "etcdutl", etcd.config
    if not tool.exists():
        pytest.skip("there is no etcdutl beside this etcd")
    known = subprocess.run(
        [tool, "snapshot", "restore", "--help"], capture_output=True, text=True, check=False
    )
    if "--bump-revision" not in known.stdout:
        pytest.skip("this etcdutl does not know --bump-revision")
    return [
        *(str(tool), "snapshot", "restore", str(folder / "tally.db"), f"--data-dir={config.data_dir}"),
        *(f"--name={config.name}", f"--initial-cluster={config.name}={config.peer_url}"),
        *(f"--initial-advertise-peer-urls={config.peer_url}", *GOES_ON),
    ]
