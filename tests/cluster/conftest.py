"""A real cluster, whichever KUBECONFIG names; three local replicas on an embedded etcd run their tasks there.

Only pods of this run's own cluster name are created, and all of them are removed; the namespace is created
when it is not there, and then removed too. Options: `--cluster-image` (present on the node, or to be pulled),
`--cluster-namespace`, `--cluster-host-network` (for a cluster without a network plugin),
`--cluster-pull-policy`.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client, config

from controller.audit.audit import run_audit
from controller.clock import SystemClock
from controller.config import load_settings
from controller.dev.cluster import CLUSTER, LocalCluster
from controller.engine.kubernetes.engine import KubernetesEngine
from controller.store.etcd.gateway import GatewayOptions
from controller.store.etcd.store import EtcdStore
from tests.support.local import Tending, leader_of, local_cluster
from tests.support.waiting import wait_until

LABEL = f"tally.dev/cluster={CLUSTER}"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of `make test-cluster`."""
    group = parser.getgroup("cluster", "tests on a real Kubernetes cluster")
    group.addoption("--cluster-image", default="busybox:1.36", help="image with sh, sleep and dd")
    group.addoption(
        "--cluster-namespace", default="tally-test", help="namespace of the pods; created if it is not there"
    )
    group.addoption("--cluster-host-network", action="store_true", help="pods use the node's network")
    group.addoption("--cluster-pull-policy", default="IfNotPresent", help="imagePullPolicy of the pods")
    group.addoption("--cluster-preemptions", type=int, default=20, help="how many attempts are preempted")
    group.addoption("--cluster-tasks", type=int, default=200, help="how many tasks the take-over test runs")


def option(request: pytest.FixtureRequest, name: str) -> Any:
    """An option; its default too when this folder was not named on the command line."""
    defaults = {
        "image": "busybox:1.36",
        "namespace": "tally-test",
        "host_network": False,
        "pull_policy": "IfNotPresent",
        "tasks": 200,
        "preemptions": 20,
    }
    return request.config.getoption(f"--cluster-{name.replace('_', '-')}", defaults[name])


@pytest.fixture(scope="session")
def core() -> Any:
    """The cluster's API, through the official client; by its types any field of an answer may be None."""
    if not os.environ.get("KUBECONFIG"):
        pytest.skip("KUBECONFIG is not set. Run: make test-cluster KUBECONFIG=…")
    config.load_kube_config()
    api = client.CoreV1Api()
    api.list_node(_request_timeout=10)
    return api


@pytest.fixture(scope="session")
def namespace(request: pytest.FixtureRequest, core: Any) -> Iterator[str]:
    """The namespace, created when it was not there; each worker of xdist has one."""
    name = "-".join(filter(None, (option(request, "namespace"), os.environ.get("PYTEST_XDIST_WORKER"))))
    created = False
    if all(found.metadata.name != name for found in core.list_namespace().items):
        core.create_namespace(client.V1Namespace(metadata=client.V1ObjectMeta(name=name)))
        created = True
    if core.list_namespaced_pod(name, label_selector=LABEL).items:
        pytest.fail(
            f"namespace {name} has pods of a Tally cluster named {CLUSTER!r}: choose another with"
            " --cluster-namespace"
        )
    yield name
    if created:
        core.delete_namespace(name)


@pytest.fixture(scope="session")
def tally(installation: LocalCluster, core: Any, namespace: str) -> Iterator[LocalCluster]:
    """The installation. After all tests: nothing is held, the audit finds nothing, no pod of ours runs."""
    yield installation
    with installation.client() as users:
        assert not [pool.name for pool in users.pools() if pool.held]
    engine, store = engine_of(namespace), EtcdStore(GatewayOptions((installation.endpoint,)), SystemClock())
    report = run_audit(store, engine, CLUSTER, SystemClock())
    store.close()
    assert report.verdict == "ok", report.to_text()
    assert not [pod.metadata.name for pod in _ours(core, namespace) if pod.status.phase == "Running"]
    engine.release_finalizers()
    engine.close()
    assert not [pod.metadata.name for pod in _ours(core, namespace) if pod.metadata.finalizers]


@pytest.fixture(scope="session")
def installation(
    request: pytest.FixtureRequest,
    core: Any,
    namespace: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[LocalCluster]:
    """Three replicas with the kubernetes engine, and a pool without a limit that matters; all pods of ours
    are removed.
    """
    settings = {
        "TALLY_KUBECONFIG": os.environ["KUBECONFIG"].split(os.pathsep)[0],
        "TALLY_KUBE_NAMESPACES": namespace,
        "TALLY_RELIST_SECONDS": "10",
    }
    with (
        local_cluster(tmp_path_factory.mktemp("tally"), engine="kubernetes", settings=settings) as cluster,
        Tending(cluster),
    ):
        with cluster.client() as users:
            users.apply_pool(pool(request, namespace))
        leader_of(cluster)
        yield cluster
    engine = engine_of(namespace)
    engine.release_finalizers()
    engine.close()
    for pod in _ours(core, namespace):
        core.delete_namespaced_pod(pod.metadata.name, namespace, grace_period_seconds=1)
    wait_until(
        lambda: not _ours(core, namespace),
        "our pods being gone",
        timeout=120,
        poll=1,
    )


def _ours(core: Any, namespace: str) -> list[Any]:
    return list(core.list_namespaced_pod(namespace, label_selector=LABEL).items)


def pool(request: pytest.FixtureRequest, namespace: str) -> dict[str, Any]:
    """The pool's definition for this cluster."""
    template: dict[str, Any] = {"spec": {"hostNetwork": True}} if option(request, "host_network") else {}
    options = {
        "namespace": namespace,
        "image_pull_policy": option(request, "pull_policy"),
        "pod_template": template,
    }
    return {"name": "default", "capacity": {"cpu": "1000", "memory": "1Ti"}, "engine_options": options}


def engine_of(namespace: str) -> KubernetesEngine:
    """The engine, as a replica has it."""
    from controller.app import make_engine

    kubeconfig = os.environ["KUBECONFIG"].split(os.pathsep)[0]
    settings = load_settings(
        {"kubeconfig": kubeconfig, "kube_namespaces": namespace, "cluster": CLUSTER}, {}
    ).settings
    engine = make_engine("kubernetes", settings, SystemClock())
    assert isinstance(engine, KubernetesEngine)
    return engine


@pytest.fixture
def task(request: pytest.FixtureRequest) -> Any:
    """Makes specs with names of their own: `task("sleep 1", memory="16Mi")`."""
    run = uuid.uuid4().hex[:8]
    numbers = iter(range(10_000))

    def make(shell: str, **fields: Any) -> dict[str, Any]:
        spec = {
            "id": f"c-{run}-{next(numbers)}",
            "image": option(request, "image"),
            "command": ["sh", "-c", shell],
            "grace_seconds": 2,
        }
        return {**spec, "resources": {"cpu": "10m", "memory": "32Mi"}, **fields}

    return make


@pytest.fixture
def kubeconfig() -> Path:
    """The cluster's kubeconfig."""
    return Path(os.environ["KUBECONFIG"].split(os.pathsep)[0])
