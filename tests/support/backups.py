"""Backup and restore with the commands of deploy/upgrades.md, word for word."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from controller.dev.cluster import LocalCluster
from controller.dev.etcd import EtcdBinary, EtcdProcess
from tests.support.kustomize import DEPLOY

NOTES = (DEPLOY / "upgrades.md").read_text()


def noted(beginning: str) -> str:
    """The command of the notes that begins so, word for word."""
    (command,) = [line.strip() for line in NOTES.splitlines() if line.strip().startswith(beginning)]
    return command


def shell(
    etcd: EtcdBinary, command: str, replacing: dict[str, str], folder: Path
) -> subprocess.CompletedProcess[str]:
    """A command of the notes in a shell, with this machine's addresses and folders in place of the
    example's.
    """
    for name, value in replacing.items():
        assert name in command, f"{name} is not in: {command}"
        command = command.replace(name, value)
    # The tools beside the etcd that runs, else this machine's; the command of this checkout.
    paths = [str(Path(etcd.path).parent), str(Path(sys.executable).parent), os.environ["PATH"]]
    if shutil.which("etcdctl", path=os.pathsep.join(paths)) is None:
        pytest.skip("etcdctl is not installed (Debian: etcd-client)")
    environment = {**os.environ, "PATH": os.pathsep.join(paths)}
    script = f"{noted('export ETCDCTL_API')}\n{command}"
    return subprocess.run(
        ["sh", "-ec", script],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


SNAPSHOT = {"https://etcd-1.example.org:2379": "", " --cacert=etcd-ca.pem": ""}
USER = ' --user="root:$(cat passwords/root)"'


def save_snapshot(etcd: EtcdBinary, endpoint: str, folder: Path) -> None:
    """The snapshot tally.db in that folder, of an etcd that asks nobody who he is."""
    done = shell(
        etcd,
        noted("etcdctl --endpoints"),
        {**SNAPSHOT, "https://etcd-1.example.org:2379": endpoint, USER: ""},
        folder,
    )
    assert done.returncode == 0, done.stderr


def restore(cluster: LocalCluster, folder: Path) -> None:
    """End all replicas and etcd, and start a new etcd of the snapshot in its place; the replicas stay
    down.
    """
    for replica in cluster.replicas:
        assert replica.process is not None
        replica.process.terminate()
    for replica in cluster.replicas:
        assert replica.process is not None
        replica.process.wait(30)
    restore_etcd(cluster.etcd, folder)


def restore_etcd(etcd: EtcdProcess, folder: Path) -> None:
    """A new etcd of the snapshot in the place of the one that runs."""
    etcd.stop()
    config = etcd.config
    shutil.rmtree(config.data_dir)
    own = {  # in this order: a folder may be named as the example's member
        "https://etcd-1.example.org:2380": config.peer_url,
        "etcd-1": config.name,
        "/var/lib/etcd/restored": str(config.data_dir),
    }
    done = shell(etcd.binary, noted("etcdctl snapshot restore"), own, folder)
    assert done.returncode == 0, done.stderr
    etcd.start()


def audited(cluster: LocalCluster) -> dict[str, Any]:
    """The audit's report, with the engine's view, whoever is registered."""
    command = noted("tally audit --state-dir").partition("#")[0].strip()
    own = {"/var/lib/tally": f"{cluster.state_dir} --etcd {cluster.endpoint} -o json"}
    done = shell(cluster.etcd.binary, command, own, cluster.state_dir)
    assert "not checked" not in done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def wrong(report: dict[str, Any]) -> set[tuple[str, str]]:
    """Invariants and subjects of the contradictions."""
    return {
        (each["invariant"], each["subject"]) for each in report["findings"] if each["severity"] == "wrong"
    }
