"""Whatever the API server answers: one bad object is that attempt's trouble alone, and no thread ends for
it (fault 44).
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from controller.client import Client
from controller.clock import SystemClock
from controller.core.model.lifecycle import State
from controller.core.model.task import AttemptId, Observation, Phase
from controller.dev.fake_kubernetes import FakeCluster, script_annotation, storage
from controller.engine.base import EngineError, EngineUnavailable
from controller.engine.kubernetes.api import ClusterAccess
from controller.engine.kubernetes.engine import KubernetesEngine, KubernetesOptions
from controller.engine.kubernetes.pod import LABEL_ATTEMPT, LABEL_CLUSTER, LABEL_TASK, read_pod
from controller.engine.kubernetes.pod_observation import UNREADABLE, observe
from tests.engine.kubernetes_cases import Engines, running, watching
from tests.runtime.conftest import CLUSTER, Start, client, memory, start  # noqa: F401  # fixtures
from tests.support.answering import Server
from tests.support.examples import examples
from tests.support.kubernetes_recordings import NAMES, load
from tests.support.waiting import wait_until

Document = dict[str, Any]

anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=6,
)
PODS = [
    event["object"] for name in NAMES for event in load(name).events if event["object"].get("kind") == "Pod"
]
many = settings(
    deadline=None, max_examples=examples(150), suppress_health_check=[HealthCheck.function_scoped_fixture]
)
few = settings(many, max_examples=examples(40))


def paths(value: Any, so_far: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """To each value inside."""
    if so_far:
        yield so_far
    for key, each in (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    ):
        yield from paths(each, (*so_far, key))


@st.composite
def mutated(draw: st.DrawFn) -> Document:
    """A recorded pod with up to three values replaced by anything."""
    pod: Document = json.loads(json.dumps(draw(st.sampled_from(PODS))))
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(list(paths(pod))))
        at: Any = pod
        for key in path[:-1]:
            at = at[key]
        at[path[-1]] = draw(anything)
    return pod


def ours(name: str, **changed: Any) -> Document:
    """A running pod of the cluster `test`."""
    task, _, number = name.rpartition("-")
    labels = {LABEL_CLUSTER: "test", LABEL_TASK: task, LABEL_ATTEMPT: number}
    metadata = {
        "name": name,
        "namespace": "default",
        "uid": f"uid-{name}",
        "resourceVersion": "7",
        "labels": labels,
    }
    status = {"phase": "Running", "containerStatuses": [{"name": "task", "state": {"running": {}}}]}
    spec = {"nodeName": "n1", "containers": [{"name": "task"}]}
    return {"metadata": metadata, "spec": spec, "status": status} | changed


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


@pytest.fixture
def engine(server: Server, tmp_path: Path) -> Iterator[KubernetesEngine]:
    named = {"name": "x", "cluster": {"server": server.url}, "user": {}}
    context = {"name": "x", "context": {"cluster": "x", "user": "x"}}
    config = {"clusters": [named], "users": [named], "contexts": [context], "current-context": "x"}
    path = tmp_path / "kubeconfig"
    path.write_text(json.dumps(config))
    access = ClusterAccess(kubeconfig=path, qps=10_000, burst=10_000)
    made = KubernetesEngine("test", SystemClock(), KubernetesOptions(access=access))
    yield made
    made.close()


@many
@given(pod=mutated())
def test_a_pod_of_any_content_is_an_observation_or_an_outage(pod: Document) -> None:
    """And what cannot be read never proves that an attempt has stopped."""
    try:
        read = read_pod(json.dumps(pod).encode())
        AttemptId.parse(read.metadata.name)
    except (EngineUnavailable, ValueError):
        return  # without a name of an attempt it is none, and the engine passes over it
    seen = observe(read)
    assert isinstance(seen, Observation)
    if read.unreadable:
        assert (seen.phase, seen.stopped, seen.reason) == (Phase.UNKNOWN, False, UNREADABLE)


@few
@given(status=anything, spec=anything, more=anything)
def test_one_bad_pod_does_not_hide_the_others(
    server: Server, engine: KubernetesEngine, status: Any, spec: Any, more: Any
) -> None:
    """In lists; it is itself listed, so that it is not taken for gone."""
    bad = ours("bad-1", status=status, spec=spec, more=more)
    items = [ours("good-1"), bad, ours("good-2")]
    server.answer = lambda _: (
        200,
        json.dumps({"metadata": {"resourceVersion": "7"}, "items": items}).encode(),
    )
    seen = {str(each.attempt): each for each in engine.attempts()}
    assert [seen["good-1"].phase, seen["good-2"].phase] == [Phase.RUNNING, Phase.RUNNING]
    assert not seen["bad-1"].stopped


def test_a_bad_event_does_not_end_the_watch(server: Server, engine: KubernetesEngine) -> None:
    lines = [
        {"type": "MODIFIED", "object": ours("bad-1", status=[])},
        {"type": "DELETED", "object": ours("bad-1", status=[])},  # proves nothing: a list tells
        {"type": "MODIFIED", "object": 7},
        {"type": 5},
        {"type": "ERROR", "object": {"code": "x"}},
        {"type": "ERROR", "object": {"code": 500, "details": {"retryAfterSeconds": -(10**15)}}},
        {"type": "MODIFIED", "object": ours("bad-2", status={"phase": "Dancing"})},
        {"type": "MODIFIED", "object": ours("good-1")},
    ]
    served = iter(lines)

    def answer(path: str) -> tuple[int, bytes]:
        if "watch" not in path:
            return 200, json.dumps({"metadata": {"resourceVersion": "7"}, "items": []}).encode()
        return 200, json.dumps(next(served, {"type": "MODIFIED", "object": ours("good-2")})).encode() + b"\n"

    server.answer = answer
    with watching(engine) as reported:
        wait_until(
            lambda: any(str(seen.attempt) == "good-2" for seen in reported), "the last event", timeout=60
        )
    by_name = {str(seen.attempt): seen for seen in reported}
    assert by_name["good-1"].phase is Phase.RUNNING
    assert (by_name["bad-1"].reason, by_name["bad-2"].reason) == (UNREADABLE, UNREADABLE)
    assert not any(seen.stopped for seen in reported)


@few
@given(
    code=st.sampled_from([200, 201, 400, 403, 404, 409, 422, 429, 500, 503]),
    body=st.binary(max_size=40)
    | anything.map(lambda value: json.dumps(value).encode())
    | mutated().map(lambda pod: json.dumps(pod).encode())
    | st.just(b"[" * 100_000)
    | st.just(b'{"metadata":' * 50_000),
)
def test_any_answer_to_any_call_is_one_of_the_engines_own_errors(
    server: Server, engine: KubernetesEngine, code: int, body: bytes
) -> None:
    server.answer = lambda _: (code, body)
    attempt = AttemptId("job", 1)
    calls: list[Callable[[], object]] = [
        engine.attempts,
        lambda: engine.start(running(engine_options={"scheduling_gates": True})),
        lambda: engine.start(running()),
        lambda: engine.stop(attempt, grace_seconds=1),
        lambda: engine.settle(attempt),
        lambda: engine.forget(attempt),
        lambda: list(engine.logs(attempt, follow=False)),
        lambda: engine.events(attempt),
        engine.check_rights,
        engine.release_finalizers,
    ]
    for call in calls:
        try:
            call()
        except EngineError:
            continue


def test_a_task_whose_pod_cannot_be_read_is_lost_and_the_others_finish(
    fake_cluster: FakeCluster,
    engines: Engines,
    start: Start,  # noqa: F811
    client: Client,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It holds what it holds, and says why; once it can be read again it goes on (faults 44, 30)."""
    poisoned = threading.Event()
    poisoned.set()
    encode = storage.Collection._encode

    def poison(self: storage.Collection, key: storage.Key, document: Document) -> storage.Stored:
        stored = encode(self, key, document)
        if key[1] != "poison-1" or self.resource != "pods" or not poisoned.is_set():
            return stored
        # of which the cluster's own parts know nothing
        status = {**document["status"], "ephemeralContainerStatuses": 7}
        return stored._replace(body=json.dumps({**document, "status": status}).encode())

    monkeypatch.setattr(storage.Collection, "_encode", poison)
    replica = start(engine=engines(fake_cluster, name=CLUSTER))
    replica.until_leading()

    def submit(name: str, **script: Any) -> None:
        template = {"metadata": {"annotations": script_annotation(**script)}}
        client.submit({"id": name, "image": "busybox:1", "command": ["run"], "pod_template": template})

    submit("poison", run_seconds=None, on_term=143, term_seconds=0.01)
    wait_until(lambda: client.get("poison").lost, "the task being lost", timeout=30)
    for number in range(5):
        submit(f"other-{number}", run_seconds=1)
    views = client.wait([f"other-{number}" for number in range(5)], timeout_seconds=60)
    assert {view.state for view in views.values()} == {State.SUCCEEDED}
    status = client.get("poison").status
    assert status is not None
    assert status.reason == UNREADABLE
    assert "its pod cannot be read: Expected" in status.message
    assert not replica.fatal
    poisoned.clear()
    with fake_cluster.state.storage.lock:
        pods = fake_cluster.state.storage.pods
        pod = pods.items["default", "poison-1"].copy()
        del pod["status"]["ephemeralContainerStatuses"]
        pods.put(pod)
    wait_until(
        lambda: client.get("poison").state is State.RUNNING and not client.get("poison").lost,
        "it, found",
        timeout=30,
    )
    client.cancel("poison")
    assert client.wait(["poison"], timeout_seconds=60)["poison"].state is State.CANCELLED
