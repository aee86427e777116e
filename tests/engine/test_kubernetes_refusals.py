"""Fault 32, and what an operator asks: refusals in the server's words, rights, output, events."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from controller.core.model.resources import Vector
from controller.core.model.task import AttemptId, Launch
from controller.dev.fake_kubernetes import FakeCluster
from controller.engine.base import AttemptRefused
from controller.engine.kubernetes.api import ApiRefused
from controller.engine.kubernetes.engine import KubernetesEngine
from controller.engine.kubernetes.refusals import to_refusal
from tests.engine.kubernetes_cases import Engines, launch, running, scripted
from tests.engine.process_cases import observation, wait_for, wait_stopped


@pytest.fixture
def engine(fake_cluster: FakeCluster, engines: Engines) -> KubernetesEngine:
    return engines(fake_cluster)


def no_pods(cluster: FakeCluster) -> Launch:
    cluster.state.set_quota("default", {"pods": "0"})
    return running()


def no_cpu(cluster: FakeCluster) -> Launch:
    cluster.state.set_quota("default", {"requests.cpu": "1"})
    return launch("true", resources=Vector.parse({"cpu": 2}))


def denied(cluster: FakeCluster) -> Launch:
    cluster.state.add_webhook("images must come from our registry")
    return running()


def invalid_by_webhook(cluster: FakeCluster) -> Launch:
    cluster.state.add_webhook("images must come from our registry", code=400)
    return running()


def insecure(cluster: FakeCluster) -> Launch:
    cluster.state.add_namespace("default", labels={"pod-security.kubernetes.io/enforce": "restricted"})
    return launch("true", pod_template={"spec": {"hostNetwork": True}})


def no_namespace(cluster: FakeCluster) -> Launch:
    cluster.state.remove_namespace("default")
    return running()


def ending_namespace(cluster: FakeCluster) -> Launch:
    cluster.state.add_namespace("default", terminating=True)
    return running()


def no_right(cluster: FakeCluster) -> Launch:
    cluster.state.access.deny("create", "pods")
    return running()


def invalid(cluster: FakeCluster) -> Launch:
    return launch("true", pod_template={"spec": {"containers": [{"name": "Not A Name", "image": "x"}]}})


def wrong_template(cluster: FakeCluster) -> Launch:
    return launch("true", pod_template={"spec": {"restartPolicy": "Always"}})


def wrong_pool(cluster: FakeCluster) -> Launch:
    return launch("true", engine_options={"name_space": "x"})


def other_namespace(cluster: FakeCluster) -> Launch:
    return launch("true", engine_options={"namespace": "elsewhere"})


@pytest.mark.parametrize(
    ("given", "reason", "transient", "words"),
    [
        (
            no_pods,
            "QuotaExceeded",
            True,
            "exceeded quota: quota, requested: pods=1, used: pods=0, limited: pods=0",
        ),
        (no_cpu, "QuotaExceeded", True, "limited: requests.cpu=1"),
        (denied, "AdmissionDenied", False, "denied the request: images must come from our registry"),
        (
            invalid_by_webhook,
            "AdmissionDenied",
            False,
            "denied the request: images must come from our registry",
        ),
        (insecure, "PodSecurityViolation", False, "host namespaces"),
        (no_namespace, "NamespaceNotFound", True, 'namespaces "default" not found'),
        (ending_namespace, "NamespaceTerminating", True, "is being terminated"),
        (no_right, "Forbidden", True, "must allow the verb create on pods"),
        (invalid, "InvalidPod", False, "fields: spec.containers"),
        (wrong_template, "InvalidPod", False, "pod_template.spec.restartPolicy: is set by Tally"),
        (wrong_pool, "InvalidPool", True, "engine_options.name_space: is not an option"),
        (other_namespace, "InvalidPool", True, "add it to kube_namespaces"),
    ],
)
def test_32_refused(
    fake_cluster: FakeCluster,
    engine: KubernetesEngine,
    given: Callable[[FakeCluster], Launch],
    reason: str,
    transient: bool,
    words: str,
) -> None:
    """The server's words; what depends on the cluster and not on the task is transient, and so retried
    without limit.
    """
    with pytest.raises(AttemptRefused) as refused:
        engine.start(given(fake_cluster))
    assert (refused.value.reason, refused.value.transient) == (reason, transient)
    assert words in str(refused.value)
    assert fake_cluster.state.pods() == []


def test_32_the_defaults_pass_pod_security_restricted(
    fake_cluster: FakeCluster, engine: KubernetesEngine
) -> None:
    """Attempts and tombstones."""
    fake_cluster.state.add_namespace("default", labels={"pod-security.kubernetes.io/enforce": "restricted"})
    fake_cluster.state.set_quota("default", {"requests.cpu": "1", "requests.memory": "1Gi"})
    engine.start(launch("true", resources=Vector.parse({"cpu": 1, "memory": "1Gi"})))
    assert engine.stop(AttemptId("other", 1), grace_seconds=1.0)


@pytest.mark.parametrize(
    ("script", "waiting"),
    [
        ({"start": "unschedulable"}, "Unschedulable"),
        ({"start": "image-never"}, "ErrImageNeverPull"),
        ({"start": "image-error"}, "ErrImagePull"),
        ({"start": "config-error"}, "CreateContainerConfigError"),
    ],
)
def test_why_an_attempt_waits(engine: KubernetesEngine, script: dict[str, Any], waiting: str) -> None:
    given = scripted(**script)
    engine.start(given)

    def why() -> str:
        seen = observation(engine, given.attempt)
        assert seen is not None
        return seen.waiting

    assert wait_for(why, "a reason") == waiting
    seen = observation(engine, given.attempt)
    assert seen is not None
    assert seen.waiting_message
    assert not seen.stopped


def test_rights_that_are_missing_are_named_with_their_rule(
    fake_cluster: FakeCluster, engine: KubernetesEngine
) -> None:
    assert engine.check_rights() == []
    fake_cluster.state.access.deny("patch", "pods")
    fake_cluster.state.access.deny("get", "pods/log")
    assert [str(right) for right in engine.check_rights()] == [
        'namespace default: {apiGroups: [""], resources: [pods], verbs: [patch]}',
        'namespace default: {apiGroups: [""], resources: [pods/log], verbs: [get]}',
    ]


def test_the_right_that_tells_clusters_apart_is_named(
    fake_cluster: FakeCluster, engine: KubernetesEngine
) -> None:
    """Without it no replica leads, and sends whoever asks why to `tally check`. On kube-system it will do."""
    fake_cluster.state.access.deny("get", "namespaces")
    rule = 'namespace default: {apiGroups: [""], resources: [namespaces], verbs: [get]}'
    assert [str(right) for right in engine.check_rights()] == [rule]


def test_events_of_a_pod(engine: KubernetesEngine) -> None:
    """Oldest first; of this pod alone."""
    given = launch("true")
    engine.start(launch("true"))
    engine.start(given)
    wait_stopped(engine, given.attempt)
    events = engine.events(given.attempt)
    assert [event.reason for event in events][:1] == ["Scheduled"]
    assert "Started" in {event.reason for event in events}
    assert all(event.at and event.component for event in events)
    engine.forget(given.attempt)
    wait_for(lambda: observation(engine, given.attempt) is None, "the pod's removal")
    assert set(events) <= set(engine.events(given.attempt))  # they outlive it
    assert engine.events(AttemptId("unknown", 1)) == []


def test_following_output_survives_a_cut(fake_cluster: FakeCluster, engine: KubernetesEngine) -> None:
    """Each byte once."""
    given = scripted(run_seconds=60.0, output=[(0.0, "first"), (55.0, "last")])
    engine.start(given)
    output = engine.logs(given.attempt, follow=True)
    assert next(output) == b"first\n"
    fake_cluster._server.drop_connections()
    assert b"".join(output) == b"last\n"


def test_following_output_ends_when_told(engine: KubernetesEngine) -> None:
    """Also while nothing is printed."""
    given = scripted(run_seconds=None, output=[(0.0, "first")])
    engine.start(given)
    stop = threading.Event()
    output = engine.logs(given.attempt, follow=True, stop=stop)
    assert next(output) == b"first\n"
    stop.set()
    assert list(output) == []


def test_output_of_a_pod_that_does_not_run(engine: KubernetesEngine) -> None:
    """Nothing, rather than an error."""
    given = scripted(start="unschedulable")
    engine.start(given)
    assert list(engine.logs(given.attempt, follow=False)) == []
    engine.stop(given.attempt, grace_seconds=1.0)
    assert list(engine.logs(given.attempt, follow=True)) == []


@pytest.mark.parametrize(
    ("words", "passes"),
    [
        ('error looking up service account team/default: serviceaccount "default" not found', True),
        ('error looking up service account team/mine: serviceaccount "mine" not found', False),
        ("status unknown for quota: compute, resources: cpu", True),
        ("pods is forbidden: not yet ready to handle request", True),
        ("images must come from our registry", False),
    ],
)
def test_what_passes_with_a_new_namespace_fails_no_task(words: str, passes: bool) -> None:
    refused = to_refusal(ApiRefused(403, "Forbidden", words), "team")
    assert (refused.reason, refused.transient) == ("AdmissionDenied", passes)


def asks_for_no_cpu(pod: dict[str, Any]) -> bool:
    """As a LimitRange with a least value refuses; it gives that to a container without any."""
    return any(
        each.get("resources", {}).get("requests", {}).get("cpu") == "0" for each in pod["spec"]["containers"]
    )


def test_a_tombstone_asks_for_what_a_limit_range_gives(
    fake_cluster: FakeCluster, engine: KubernetesEngine
) -> None:
    fake_cluster.state.add_webhook("minimum cpu usage per Container is 50m", denies=asks_for_no_cpu)
    given = running()
    stopped = engine.stop(given.attempt, grace_seconds=1.0)
    assert stopped is not None
    assert (stopped.stopped, stopped.reason) == (True, "NeverStarted")
