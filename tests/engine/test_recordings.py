"""What a real Kubernetes (v1.20.2) said, replayed: what each step says of the attempt, and what the task
becomes by it.

A row: seconds since the watch began; the observation, `!` with the proof of stop and `?` in a terminal phase
without; the task. Steps that change neither are left out. The tasks retry nothing by themselves.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from controller.clock import SystemClock
from controller.core.model.codec import decode_history
from controller.core.model.requests import RequestKind
from controller.core.model.task import Observation, Phase
from controller.engine.base import AttemptRefused, EngineUnavailable
from controller.engine.kubernetes.api import ClusterAccess
from controller.engine.kubernetes.engine import KubernetesEngine, KubernetesOptions
from controller.engine.kubernetes.pod import decode_pod
from controller.engine.kubernetes.pod_observation import observe
from tests.engine.kubernetes_cases import launch
from tests.support.bench import Stage, stops
from tests.support.kubernetes_recordings import NAMES, Document, load

Row = tuple[float, str, str]

LOST = "lost, resources held"
BY_ITSELF, CANCELLED = False, True  # whether the task was cancelled just before its pod was deleted

TABLE: dict[tuple[str, str, bool], list[Row]] = {
    ("cancelled-by-active-deadline-patch", "t-deadlinepatch-1", BY_ITSELF): [
        (0.4, "Pending", "Pending"),
        (0.9, "Running", "Running"),
        (4.4, "Failed? DeadlineExceeded", f"Running, {LOST}"),
    ],
    ("command-not-found", "t-nocmd-1", BY_ITSELF): [
        (0.3, "Pending", "Pending"),
        (1.2, "Failed! 127 CommandNotFound, never ran", "Failed CommandNotFound"),
    ],
    ("deadline-exceeded", "t-deadline-1", BY_ITSELF): [
        (0.3, "Pending", "Pending"),
        (0.8, "Running", "Running"),
        (4.0, "Failed? DeadlineExceeded", f"Running, {LOST}"),
    ],
    ("deleted-while-pending", "t-deleted-3", BY_ITSELF): [
        (0.3, "Pending", "Pending"),
        (0.3, "Pending Unschedulable", "Pending"),
        (1.3, "Failed! Stopped, never ran", "WaitingRetry Stopped"),
    ],
    ("deleted-while-pending", "t-deleted-3", CANCELLED): [
        (0.3, "Pending", "Pending"),
        (0.3, "Pending Unschedulable", "Pending"),
        (1.3, "Failed! Stopped, never ran", "Cancelled"),
    ],
    ("deleted-while-running-exits-0-on-term", "t-deleted-6", BY_ITSELF): [
        (0.3, "Pending", "Pending"),
        (1.0, "Running", "Running"),
        (15.2, "Failed?", f"Running, {LOST}"),
        (51.5, "Failed! Stopped", "WaitingRetry Stopped"),
    ],
    ("deleted-while-running-exits-0-on-term", "t-deleted-6", CANCELLED): [
        (0.3, "Pending", "Pending"),
        (1.0, "Running", "Running"),
        (4.3, "Running", "Running (cancelling)"),
        (15.2, "Failed?", "Running (cancelling)"),
        (51.5, "Failed! Stopped", "Cancelled"),
    ],
    ("deleted-while-running-killed-after-grace", "t-deleted-7", BY_ITSELF): [
        (0.3, "Pending", "Pending"),
        (1.6, "Running", "Running"),
        (16.7, "Failed?", f"Running, {LOST}"),
        (34.4, "Failed! Stopped", "WaitingRetry Stopped"),
    ],
    ("deleted-while-running-killed-after-grace", "t-deleted-7", CANCELLED): [
        (0.3, "Pending", "Pending"),
        (1.6, "Running", "Running"),
        (4.3, "Running", "Running (cancelling)"),
        (16.7, "Failed?", "Running (cancelling)"),
        (34.4, "Failed! Stopped", "Cancelled"),
    ],
    ("duplicate-create-and-delete-missing", "t-dup-1", BY_ITSELF): [
        (0.3, "Pending", "Pending"),
        (0.9, "Running", "Running"),
        (2.9, "Succeeded! 0 Completed", "Succeeded Completed"),
    ],
    ("failed-exit-7", "t-failed-1", BY_ITSELF): [
        (0.3, "Pending", "Pending"),
        (1.1, "Running", "Running"),
        (2.1, "Failed! 7 Error", "Failed Error"),
    ],
    ("force-deleted-while-running", "t-deleted-4", BY_ITSELF): [
        (0.3, "Pending", "Pending"),
        (0.7, "Running", "Running"),
        (4.3, "Failed! Stopped", "WaitingRetry Stopped"),
    ],
    ("force-deleted-while-running", "t-deleted-4", CANCELLED): [
        (0.3, "Pending", "Pending"),
        (0.7, "Running", "Running"),
        (4.3, "Failed! Stopped", "Cancelled"),
    ],
    ("image-never-present", "t-noimage-1", BY_ITSELF): [
        (0.3, "Pending", "Pending"),
        (1.2, "Pending ErrImageNeverPull", "Pending"),
    ],
    ("node-lost-and-back", "t-nodelost-1", BY_ITSELF): [
        (0.4, "Pending", "Pending"),
        (1.8, "Running", "Running"),
        (41.0, "Unknown NodeLost", f"Running, {LOST}"),
        (111.5, "Running", "Running"),
    ],
    ("node-lost-and-back", "t-nodelost-2", BY_ITSELF): [
        (0.4, "Pending", "Pending"),
        (1.8, "Running", "Running"),
        (41.0, "Unknown NodeLost", f"Running, {LOST}"),
        (111.6, "Succeeded! 0 Completed", "Succeeded Completed"),
    ],
    ("oom-killed", "t-oom-1", BY_ITSELF): [
        (0.3, "Pending", "Pending"),
        (0.9, "Failed! 137 OOMKilled", "Failed OOMKilled"),
    ],
    ("succeeded", "t-succeeded-1", BY_ITSELF): [
        (0.4, "Pending", "Pending"),
        (1.1, "Running", "Running"),
        (2.1, "Succeeded! 0 Completed", "Succeeded Completed"),
    ],
    ("unschedulable", "t-unsched-1", BY_ITSELF): [
        (0.3, "Pending", "Pending"),
        (0.4, "Pending Unschedulable", "Pending"),
    ],
}

WITHOUT_PODS = {"api-errors", "invalid-specs"}  # requests only


def said(seen: Observation) -> str:
    """The observation in a few words."""
    words = seen.phase + (
        "!" if seen.stopped else "?" if seen.phase in (Phase.SUCCEEDED, Phase.FAILED) else ""
    )
    code = f" {seen.exit_code}" if seen.exit_code is not None else ""
    why = seen.waiting or seen.reason
    return f"{words}{code} {why}".strip() + ("" if seen.ran else ", never ran")


def become(stage: Stage, task_id: str) -> str:
    """The task in a few words."""
    status = stage.status(task_id)
    assert status is not None
    if status.lost_since is not None:
        return f"{status.state}, {LOST}"
    reason = f" {status.reason}" if not status.is_holding and status.reason != status.state else ""
    return f"{status.state}{reason}" + (" (cancelling)" if status.cancelling else "")


def replay(name: str, pod_name: str, *, cancel: bool = False) -> tuple[list[Row], Stage]:
    """The rows of one pod's events, as attempt 1 of a task named as the pod is.

    With `cancel`, the task is cancelled just before the pod's deletion was requested.
    """
    stage = Stage()
    stage.pool()
    stage.submit(pod_name)
    leader = stage.replica()
    leader.list_engine()
    began = stage.clock.now()
    leader.acknowledge(leader.run())
    rows: list[Row] = []
    for event in load(name).pod_events(pod_name):
        stage.clock.seconds = began + event["t"]
        event["object"]["metadata"]["name"] = f"{pod_name}-1"
        pod = decode_pod(json.dumps(event["object"]).encode())
        if cancel and pod.is_deleting:
            cancel = False
            stage.request(pod_name, RequestKind.CANCEL)
            leader.sync()
            effects = leader.run()
            assert stops(effects) == [f"{pod_name}-1"]
            leader.acknowledge(effects)
        seen = observe(pod, removed=event["type"] == "DELETED")
        leader.see(seen)
        leader.run()
        row = (round(event["t"], 1), said(seen), become(stage, pod_name))
        if not rows or rows[-1][1:] != row[1:]:
            rows.append(row)
        stage.check()
    return rows, stage


@pytest.mark.parametrize(("name", "pod", "cancel"), TABLE)
def test_what_the_task_becomes(name: str, pod: str, cancel: bool) -> None:
    assert replay(name, pod, cancel=cancel)[0] == TABLE[name, pod, cancel]


def test_every_recording_is_in_the_table() -> None:
    """Also one that is added later."""
    pods = {
        (name, event["object"]["metadata"].get("name", "")) for name in NAMES for event in load(name).events
    }
    assert {(name, pod) for name, pod in pods if pod} == {(name, pod) for name, pod, _ in TABLE}
    assert {name for name, _, _ in TABLE} | WITHOUT_PODS == set(NAMES)


@pytest.mark.parametrize("pod", ["t-nodelost-1", "t-nodelost-2"])
def test_a_task_on_a_lost_node_is_never_given_up(pod: str) -> None:
    """The containers ran on: until the node was back, its resources stayed held and no second attempt was
    admitted.
    """
    _, stage = replay("node-lost-and-back", pod)
    status = stage.status(pod)
    assert status is not None
    assert status.attempt == 1
    assert [step.reason for step in decode_history(status) if step.event == "noted"] == ["NodeLost"] + (
        ["Found"] if pod == "t-nodelost-1" else []
    )


def test_reasons_of_waiting_reach_the_task() -> None:
    """In the cluster's words, once."""
    _, stage = replay("unschedulable", "t-unsched-1")
    status = stage.status("t-unsched-1")
    assert status is not None
    assert (status.reason, status.message) == (
        "Unschedulable",
        "0/1 nodes are available: 1 Insufficient cpu.",
    )


class _RecordedAnswer(BaseHTTPRequestHandler):
    """Answers every request with the recorded code and body."""

    protocol_version = "HTTP/1.1"
    answer: Document

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        body = self.answer["body"]
        data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        self.send_response(self.answer["code"])
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def answering(tmp_path: Path) -> Iterator[Callable[[Document], KubernetesEngine]]:
    """Makes an engine whose server gives one recorded answer to every creation."""
    with ExitStack() as stack:

        def make(answer: Document) -> KubernetesEngine:
            server = ThreadingHTTPServer(
                ("127.0.0.1", 0), type("Answering", (_RecordedAnswer,), {"answer": answer})
            )
            thread = threading.Thread(target=server.serve_forever, args=(0.05,), name="recorded-answers")
            thread.start()
            path = tmp_path / "kubeconfig"
            named = {"name": "x", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}, "user": {}}
            context = {"name": "x", "context": {"cluster": "x", "user": "x"}}
            config = {"clusters": [named], "users": [named], "contexts": [context], "current-context": "x"}
            path.write_text(json.dumps(config))
            engine = KubernetesEngine(
                "test", SystemClock(), KubernetesOptions(access=ClusterAccess(kubeconfig=path))
            )
            for end in (engine.close, server.server_close, thread.join, server.shutdown):
                stack.callback(end)
            return engine

        yield make


REFUSED = [
    ("invalid-specs", 0, "InvalidPod", False, "quantities must match the regular expression"),
    ("invalid-specs", 1, "InvalidPod", False, "fields: metadata.name"),
    ("invalid-specs", 2, "InvalidPod", False, "spec.containers: Required value"),
    ("api-errors", 1, "Forbidden", True, "cannot create resource"),
]


@pytest.mark.parametrize(("name", "index", "reason", "transient", "words"), REFUSED)
def test_refusals(
    answering: Callable[[Document], KubernetesEngine],
    name: str,
    index: int,
    reason: str,
    transient: bool,
    words: str,
) -> None:
    """The server's words, a reason that retry rules can name, and whether the same may pass later."""
    with pytest.raises(AttemptRefused, match=words) as refused:
        answering(load(name).answers("POST")[index]).start(launch("true"))
    assert (refused.value.reason, refused.value.transient) == (reason, transient)


def test_credentials_that_are_not_accepted_conclude_nothing(
    answering: Callable[[Document], KubernetesEngine],
) -> None:
    with pytest.raises(EngineUnavailable, match="401 Unauthorized"):
        answering(load("api-errors").answers("POST")[0]).start(launch("true"))
