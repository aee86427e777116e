"""Fake Kubernetes clusters for tests, ended with the test. A folder's conftest imports the fixtures it wants."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client, config

from controller.fake_kubernetes import TOKEN, FakeCluster

SCALE = 0.02
"""A minute of the cluster passes in 1.2 s."""

ClusterFactory = Callable[..., FakeCluster]


def core_api(cluster: FakeCluster, folder: Path, *, token: str = TOKEN, namespace: str = "default") -> client.CoreV1Api:
    """The official client on this cluster, configured by a kubeconfig as a user's would be."""
    path = cluster.kubeconfig(folder / "kubeconfig", token=token, namespace=namespace)
    return client.CoreV1Api(config.new_client_from_config(str(path)))


def task_pod(name: str, *command: str, annotations: dict[str, str] | None = None, **spec: Any) -> dict[str, Any]:
    """A bare pod that runs `command` once."""
    labels = {"tally.dev/task": name.rsplit("-", 1)[0]}
    container = {"name": "task", "image": "busybox:1", "command": list(command)}
    metadata = {"name": name, "labels": labels, "annotations": annotations or {}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": {"containers": [container], "restartPolicy": "Never", **spec},
    }


@pytest.fixture
def fake_clusters() -> Iterator[ClusterFactory]:
    """Makes running clusters; the options are FakeCluster's, `scale` SCALE unless given."""
    with ExitStack() as stack:

        def make(**options: Any) -> FakeCluster:
            return stack.enter_context(FakeCluster(**{"scale": SCALE, **options}).start())

        yield make


@pytest.fixture
def fake_cluster(fake_clusters: ClusterFactory) -> FakeCluster:
    """One running cluster with a node and the namespace default, of a new version."""
    return fake_clusters()
