"""Commands that speak to Kubernetes: what they do without etcd, and what they say of a server that is not
verified.
"""

from __future__ import annotations

from pathlib import Path

from msgspec.structs import replace

from controller.core.model.installation import Installation
from controller.dev.fake_kubernetes import FakeCluster
from tests.cli.conftest import Tally
from tests.client.conftest import PutRaw
from tests.engine.kubernetes_cases import engine_on, running
from tests.support.etcd import free_ports
from tests.support.fake_cluster import fake_cluster, fake_clusters  # noqa: F401  # fixtures


def without_etcd(tmp_path: Path) -> list[str]:
    """The flags of a command for the fake cluster whose etcd is gone."""
    gone = f"http://127.0.0.1:{free_ports(1)[0]}"
    cluster = ["--cluster", "test", "--kubeconfig", str(tmp_path / "kubeconfig")]
    return [*cluster, "--etcd", gone, "--request-timeout-seconds", "1"]


def test_finalizers_are_released_without_etcd(
    fake_cluster: FakeCluster,  # noqa: F811
    tally: Tally,
    tmp_path: Path,
) -> None:
    """An uninstallation may have removed it; that nobody could be asked is said."""
    engine = engine_on(fake_cluster, tmp_path)
    given = running()
    engine.start(given)
    flags = without_etcd(tmp_path)
    answer = tally("release-finalizers", *flags)
    assert (answer.exit_code, answer.out) == (0, "1 pod released\n"), answer.err
    assert "cannot tell whether replicas still run" in answer.err
    engine.close()


def test_whose_finalizers_is_asked_where_several_have_the_name(
    fake_cluster: FakeCluster,  # noqa: F811
    tally: Tally,
    tmp_path: Path,
) -> None:
    """Fault 42.

    Without etcd nobody says which installation is ours; nothing of another one is let go of by its name.
    """
    for mark in ("one", "two"):
        engine = engine_on(fake_cluster, tmp_path)
        engine.bind(Installation(id=mark))
        engine.start(replace(running(), installation=mark))
        engine.close()
    flags = without_etcd(tmp_path)
    refused = tally("release-finalizers", *flags)
    assert refused.exit_code == 1
    assert (
        "several installations have the name test here: one (1 pod), two (1 pod). Name one with"
        " --installation ID" in refused.err
    )
    assert all(pod["metadata"]["finalizers"] for pod in fake_cluster.state.pods())
    answer = tally("release-finalizers", "--installation", "two", *flags)
    assert (answer.exit_code, answer.out) == (0, "1 pod released\n"), answer.err
    kept = [
        pod["metadata"]["labels"]["tally.dev/installation"]
        for pod in fake_cluster.state.pods()
        if pod["metadata"].get("finalizers")
    ]
    assert kept == ["one"]


def test_one_replica_is_one(
    fake_cluster: FakeCluster,  # noqa: F811
    tally: Tally,
    put_raw: PutRaw,
    tmp_path: Path,
) -> None:
    put_raw("replicas/r1", b'{"id":"r1","engine":{"name":"kubernetes"}}')
    path = fake_cluster.kubeconfig(tmp_path / "kubeconfig")
    answer = tally("release-finalizers", "--kubeconfig", str(path))
    assert answer.exit_code == 1
    assert "registered: 1 replica. Stop all replicas first" in answer.err
