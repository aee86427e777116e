"""kubectl itself, on a fake cluster: with the kubeconfig that it writes, as a user of `tally dev
--fake-cluster` has it.
"""

from __future__ import annotations

import os
import shutil
import ssl
import subprocess
from pathlib import Path

import pytest

# fixtures
from tests.support.fake_cluster import ClusterFactory, RawApi, fake_clusters, task_pod  # noqa: F401
from tests.support.tls import Authority

KUBECTL = shutil.which("kubectl")


@pytest.mark.skipif(KUBECTL is None, reason="kubectl is not on PATH")
def test_kubectl_is_who_its_token_says(fake_clusters: ClusterFactory, tmp_path: Path) -> None:  # noqa: F811
    """Over TLS alone, since it sends no token in the clear."""
    authority = Authority(tmp_path / "tls")
    files = authority.issue("server")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files["cert_file"], files["key_file"])
    cluster = fake_clusters(tls=context)
    path = cluster.kubeconfig(tmp_path / "kubeconfig", ca_file=str(authority.ca_file))

    def kubectl(*arguments: str, stdin: bytes = b"") -> str:
        assert KUBECTL is not None
        environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "KUBECONFIG": str(path)}
        done = subprocess.run(
            [KUBECTL, *arguments], input=stdin, capture_output=True, env=environment, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode()

    api = RawApi(cluster)
    api.http.verify = str(authority.ca_file)
    api.http.trust_env = False
    api.create(task_pod("job-1", "true"))
    assert "job-1" in kubectl("get", "pods")
    assert "default" in kubectl("get", "namespaces")
