"""`tally logs` of what the engine no longer has, on real etcd: with pods that are gone, and with the
process engine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from controller.client import Client
from controller.core.model import kept_log
from controller.core.model.codec import encode
from controller.core.model.kept_log import KeptLog
from controller.core.model.lifecycle import State
from controller.core.model.op import Op
from controller.dev.fake_kubernetes import FakeCluster, script_annotation
from tests.cli.conftest import Tally
from tests.client.conftest import PutRaw, PutStatus
from tests.engine.kubernetes_cases import engine_on
from tests.support.fake_cluster import RawApi, fake_cluster, fake_clusters  # noqa: F401  # fixtures
from tests.support.running import RunningReplica, submit
from tests.support.waiting import wait_until


@pytest.fixture
def run(client: Client) -> Iterator[Callable[..., None]]:
    """Runs a replica on the session's etcd, with an engine that ends with it."""
    running: list[RunningReplica] = []

    def make(engine: Any) -> None:
        running.append(RunningReplica(client.store, cluster=client.keys.cluster, engine=engine))
        running[-1].until_leading()

    yield make
    for replica in running:
        replica.close()
        replica.engine.close()


@pytest.mark.parametrize("how", ["ended by itself", "deleted while it ran"])
def test_the_output_of_a_pod_outlives_the_pod(
    fake_cluster: FakeCluster,  # noqa: F811
    tally: Tally,
    client: Client,
    put_raw: PutRaw,
    run: Callable[..., None],
    tmp_path: Path,
    how: str,
) -> None:
    """As `kubectl delete pod` ends it: before the pod goes, its output is read, and `tally logs` shows it
    afterwards.
    """
    run(engine_on(fake_cluster, tmp_path, client.keys.cluster))
    put_raw(
        "replicas/r2",
        encode({"id": "r2", "engine": {"name": "kubernetes", "kubeconfig": str(tmp_path / "kubeconfig")}}),
    )
    seconds = 1.0 if how == "ended by itself" else None
    script = script_annotation(run_seconds=seconds, on_term=0, output=((0.0, "first"), (0.5, "second")))
    submit(
        client, "job", image="busybox:1", keep_logs=True, pod_template={"metadata": {"annotations": script}}
    )
    pods = RawApi(fake_cluster)
    if seconds is None:
        wait_until(lambda: "second" in pods.send("GET", "/job-1/log").text, "its output")
        pods.send("DELETE", "/job-1")
    wait_until(lambda: client.outputs.kept_log("job"), "its log")
    assert "Kept log:  of attempt 1, whole" in tally("describe", "task/job").out
    if seconds is not None:
        answer = tally("logs", "job")
        assert (answer.out, answer.err) == ("first\nsecond\n", ""), "the pod's own, while it is there"
        pods.send("DELETE", "/job-1")
    wait_until(lambda: pods.send("GET", "/job-1").status_code == 404, "the pod to be gone")
    answer = tally("logs", "job", "--attempt", "1")  # the one that was deleted is followed by another
    assert (answer.exit_code, answer.out, answer.err) == (
        0,
        "first\nsecond\n",
        "kept log of attempt 1, whole\n",
    )
    assert tally("logs", "job", "--attempt", "1", "--tail", "1").out == "second\n"
    for flags in (
        ("--attempt", "9"),
        ("--attempt", "1", "-c", "x"),
        ("--attempt", "1", "--since", "5m"),
        ("--attempt", "1", "-p"),
    ):
        refused = tally("logs", "job", *flags)
        assert (refused.exit_code, refused.out) == (5, ""), flags


def test_what_was_cut_off_is_said(
    tally: Tally, client: Client, put_raw: PutRaw, put_status: PutStatus, tmp_path: Path
) -> None:
    """The process engine has lost the attempt's folder."""
    submit(client, "job")
    put_status("job", State.FAILED)
    put_raw("replicas/r1", encode({"id": "r1", "engine": {"name": "process", "state_dir": str(tmp_path)}}))
    assert tally("logs", "job").exit_code == 5
    put_raw("logs/job", kept_log.encode(KeptLog(attempt=1, text="the end\n", truncated=True), Op("op")))
    answer = tally("logs", "job")
    assert (answer.out, answer.err) == ("the end\n", "kept log of attempt 1, the last 64 KiB\n")
    put_raw("logs/job", b"\xff")
    assert tally("logs", "job").exit_code == 1
    assert "Kept log:  cannot be read: not a JSON object" in tally("describe", "task", "job").out
