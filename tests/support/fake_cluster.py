"""Fake Kubernetes clusters for tests, ended with the test.

A folder's conftest imports the fixtures it wants.
"""

from __future__ import annotations

import json
import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import requests
from kubernetes import client, config

from controller.dev.fake_kubernetes import TOKEN, ClusterOptions, FakeCluster

SCALE = 0.02
"""A minute of the cluster passes in 1.2 s."""

ClusterFactory = Callable[..., FakeCluster]


class RawApi:
    """Plain requests to a fake cluster, where a test is about the wire; paths are below the pods of
    `default`.
    """

    def __init__(self, cluster: FakeCluster, *, token: str = TOKEN) -> None:
        self.cluster = cluster
        self.http = requests.Session()
        self.http.headers["Authorization"] = f"Bearer {token}"

    def send(self, method: str, path: str = "", **options: Any) -> requests.Response:
        """One request; `path` starts with / and follows `/api/v1/namespaces/default/pods`."""
        return self.http.request(
            method, f"{self.cluster.url}/api/v1/namespaces/default/pods{path}", timeout=20, **options
        )

    def create(self, pod: dict[str, Any]) -> dict[str, Any]:
        """Create a pod that must be accepted."""
        answer = self.send("POST", json=pod)
        assert answer.status_code == 201, answer.text
        return dict(answer.json())

    def patch(self, name: str, patch: Any, kind: str = "merge-patch") -> requests.Response:
        """Patch a pod."""
        return self.send(
            "PATCH", f"/{name}", json=patch, headers={"Content-Type": f"application/{kind}+json"}
        )

    def watch(self, **query: Any) -> Iterator[dict[str, Any]]:
        """Events of a watch that is open when this returns; from now on unless `resourceVersion` is given."""
        query = {
            "watch": "1",
            "timeoutSeconds": "15",
            "resourceVersion": str(self.cluster.state.storage.revision),
        } | query
        answer = self.send("GET", params=query, stream=True)
        assert answer.status_code == 200, answer.text
        return map(json.loads, answer.iter_lines(chunk_size=None))


def core_api(cluster: FakeCluster, folder: Path, *, token: str = TOKEN, namespace: str = "default") -> Any:
    """The official client on this cluster, configured by a kubeconfig as a user's would be.

    Its own types let a call take no document, and any field of an answer be None.
    """
    path = cluster.kubeconfig(folder / "kubeconfig", token=token, namespace=namespace)
    return client.CoreV1Api(config.new_client_from_config(str(path)))


def task_pod(
    name: str, *command: str, annotations: dict[str, str] | None = None, **spec: Any
) -> dict[str, Any]:
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
    """Makes running clusters; the options are those of FakeCluster and of ClusterOptions, `scale`
    SCALE unless given.
    """
    with ExitStack() as stack:

        def make(*, port: int = 0, tls: ssl.SSLContext | None = None, **options: Any) -> FakeCluster:
            made = ClusterOptions(**{"scale": SCALE, **options})
            return stack.enter_context(FakeCluster(made, port=port, tls=tls).start())

        yield make


@pytest.fixture
def fake_cluster(fake_clusters: ClusterFactory) -> FakeCluster:
    """One running cluster with a node and the namespace default, of a new version."""
    return fake_clusters()
