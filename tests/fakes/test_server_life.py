"""The fake server as a process: it starts, describes itself, holds many watches, and ends without a trace."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import stat
import subprocess
import sys
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import requests
from kubernetes import client, config

from controller.dev.fake_kubernetes import ClusterOptions, FakeCluster
from tests.support.fake_cluster import ClusterFactory, RawApi, core_api, task_pod
from tests.support.tls import Authority
from tests.support.waiting import wait_until


def fake_threads() -> list[str]:
    """The names of the fake's threads that are alive."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("fake-kubernetes")]


def test_stop_leaves_no_thread_and_no_listener() -> None:
    """Whatever was open: idle connections, watches, followed logs, held requests."""
    assert fake_threads() == []
    cluster = FakeCluster(ClusterOptions(scale=0.01)).start()
    api, held = RawApi(cluster), RawApi(cluster)
    api.create(task_pod("a-1", "sh", "-c", "echo x; sleep 1000"))
    wait_until(lambda: cluster.state.executions, "the start")
    streams = [RawApi(cluster).watch(), RawApi(cluster).watch()]
    log = RawApi(cluster).send("GET", "/a-1/log", params={"follow": "1"}, stream=True)
    hold = cluster.state.faults.hold("list")
    with ThreadPoolExecutor(1) as pool:
        parked = pool.submit(held.send, "GET")
        assert hold.wait_held(1)
        assert len(fake_threads()) >= 7
        cluster.stop()
        assert parked.exception() is None or isinstance(
            parked.exception(), requests.exceptions.ConnectionError
        )
    assert fake_threads() == []
    assert len(streams) == 2
    assert log.status_code == 200
    with pytest.raises(requests.exceptions.ConnectionError):
        api.send("GET")


def test_over_tls_a_silent_client_and_one_that_speaks_no_tls_hold_up_nobody(
    fake_clusters: ClusterFactory, tmp_path: Path
) -> None:
    """Each shakes hands in its own thread; all threads end with the server, also those that still wait for
    the first byte.
    """
    authority = Authority(tmp_path)
    files = authority.issue("server")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files["cert_file"], files["key_file"])
    cluster = fake_clusters(tls=context)
    with ExitStack() as clients:
        silent, plain = (
            clients.enter_context(socket.create_connection(("127.0.0.1", cluster.port), timeout=10))
            for _ in range(2)
        )
        plain.sendall(b"GET / HTTP/1.1\r\n\r\n")
        with suppress(ConnectionError):
            assert not plain.recv(4096).startswith(b"HTTP")
        api = RawApi(cluster)
        api.http.verify, api.http.trust_env = authority.ca_file, False
        api.create(task_pod("a-1", "true"))
        watch = api.watch()
        assert next(watch)["object"]["metadata"]["name"] == "a-1", "it is scheduled"
        cluster.stop()
        assert fake_threads() == []
        assert silent.recv(1) == b""


def test_a_cluster_that_was_never_started_can_be_stopped() -> None:
    """Its port is free again."""
    cluster = FakeCluster()
    cluster.stop()
    FakeCluster(port=cluster.port).stop()


def test_a_mistake_of_the_fake_is_raised_by_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not pass as a broken connection."""
    cluster = FakeCluster().start()
    monkeypatch.setattr(cluster.state, "access", None)
    with pytest.raises(requests.exceptions.ConnectionError):
        RawApi(cluster).send("GET")
    with pytest.raises(AttributeError, match="authenticate"):
        cluster.stop()


def test_kubeconfig_and_version(fake_clusters: ClusterFactory, tmp_path: Path) -> None:
    """Readable by its owner alone, with the context's namespace; the version is the one asked for."""
    cluster = fake_clusters(version="v1.20.2")
    path = cluster.kubeconfig(tmp_path / "kubeconfig", namespace="batch")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    _, active = config.list_kube_config_contexts(str(path))
    assert active["context"]["namespace"] == "batch"
    version = client.VersionApi(core_api(cluster, tmp_path).api_client).get_code()
    assert (version.git_version, version.minor) == ("v1.20.2", "20")
    with pytest.raises(ValueError, match=r"expected v1\.MINOR"):
        FakeCluster(ClusterOptions(version="1.20"))


def test_discovery(fake_cluster: FakeCluster) -> None:
    """What kubectl asks before `get pods`."""
    api = RawApi(fake_cluster)

    def get(path: str) -> requests.Response:
        return api.http.get(f"{fake_cluster.url}{path}", timeout=10)

    assert get("/api").json()["versions"] == ["v1"]
    assert get("/apis").json()["groups"][0]["name"] == "authorization.k8s.io"
    assert "pods" in [resource["name"] for resource in get("/api/v1").json()["resources"]]
    assert get("/readyz").text == "ok"


def test_ten_watches_hear_every_change_of_many_pods(fake_clusters: ClusterFactory) -> None:
    """300 pods created from eight connections: each watch sees each pod created, run and end."""
    cluster = fake_clusters(scale=0.001)
    watches = [RawApi(cluster).watch() for _ in range(10)]

    def create(worker: int) -> None:
        api = RawApi(cluster)
        for number in range(worker, 300, 8):
            api.create(task_pod(f"a-{number}", "true"))

    def hear(watch: Iterable[dict[str, Any]]) -> int:
        ended: set[str] = set()
        for event in islice(watch, 5000):
            if event["object"]["status"]["phase"] == "Succeeded":
                ended.add(event["object"]["metadata"]["name"])
            if len(ended) == 300:
                break
        return len(ended)

    with ThreadPoolExecutor(18) as pool:
        heard = [pool.submit(hear, watch) for watch in watches]
        list(pool.map(create, range(8)))
        assert [each.result() for each in heard] == [300] * 10
    assert len(cluster.state.executions) == 300


def test_as_a_command(tmp_path: Path) -> None:
    """`python -m controller.dev.fake_kubernetes` prints its address, serves, and ends on TERM."""
    path = tmp_path / "kubeconfig"
    command = [
        sys.executable,
        "-m",
        "controller.dev.fake_kubernetes",
        "--kubeconfig",
        str(path),
        "--namespace",
        "batch",
        "--scale",
        "0.01",
    ]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": "."}
    )
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        core: Any = client.CoreV1Api(config.new_client_from_config(str(path)))
        assert core.api_client.configuration.host == url
        core.create_namespaced_pod("batch", task_pod("a-1", "sh", "-c", "sleep 1; exit 3"))

        def code() -> int | None:
            status = core.read_namespaced_pod("a-1", "batch").status
            return (
                status.container_statuses[0].state.terminated.exit_code if status.phase == "Failed" else None
            )

        assert wait_until(code, "the end of the pod") == 3
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.communicate()
