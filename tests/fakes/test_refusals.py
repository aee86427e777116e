"""Whom and what the fake API refuses, in the server's words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from kubernetes import client

from controller.dev.fake_kubernetes import USER, FakeCluster
from tests.support.fake_cluster import RawApi, core_api, task_pod


@pytest.fixture
def api(fake_cluster: FakeCluster) -> RawApi:
    """Plain requests."""
    return RawApi(fake_cluster)


def refused(api: RawApi, pod: dict[str, Any]) -> tuple[int, str, str]:
    """Status, reason and message of a creation that must be refused."""
    answer = api.send("POST", json=pod)
    assert answer.status_code >= 400, answer.text
    body = answer.json()
    assert (body["kind"], body["status"], body["code"]) == ("Status", "Failure", answer.status_code)
    return answer.status_code, body["reason"], body["message"]


def test_quota(api: RawApi, fake_cluster: FakeCluster) -> None:
    """403 with what was asked, used and limited; ended pods do not count."""
    fake_cluster.state.set_quota("default", {"pods": "1", "requests.cpu": "1"}, name="compute")
    pod = task_pod("a-1", "sleep", "1000")
    assert refused(api, pod)[2] == 'pods "a-1" is forbidden: failed quota: compute: must specify requests.cpu'
    pod["spec"]["containers"][0]["resources"] = {"requests": {"cpu": "600m"}}
    api.create(pod)
    pod["metadata"]["name"] = "a-2"
    same = "pods=1,requests.cpu=600m"
    message = f"exceeded quota: compute, requested: {same}, used: {same}, limited: pods=1,requests.cpu=1"
    assert refused(api, pod) == (403, "Forbidden", f'pods "a-2" is forbidden: {message}')
    fake_cluster.state.set_quota("default", None, name="compute")
    api.create(pod)


def test_admission_webhook(api: RawApi, fake_cluster: FakeCluster) -> None:
    """Denied in the webhook's words."""
    fake_cluster.state.add_webhook("no pods on Mondays", denies=lambda pod: pod["metadata"]["name"] == "a-1")
    message = 'admission webhook "policy.example.com" denied the request: no pods on Mondays'
    assert refused(api, task_pod("a-1")) == (403, "Forbidden", message)
    api.create(task_pod("b-1"))


def test_namespaces(api: RawApi, fake_cluster: FakeCluster) -> None:
    """Missing: 404. Terminating: 403 with its cause."""
    path = f"{fake_cluster.url}/api/v1/namespaces/batch/pods"
    missing = api.http.post(path, json=task_pod("a-1"), timeout=10)
    assert (missing.status_code, missing.json()["message"]) == (404, 'namespaces "batch" not found')
    assert api.http.get(path, timeout=10).json()["items"] == []
    fake_cluster.state.add_namespace("batch", terminating=True)
    terminating = api.http.post(path, json=task_pod("a-1"), timeout=10)
    assert terminating.status_code == 403
    assert "because it is being terminated" in terminating.json()["message"]
    assert terminating.json()["details"]["causes"][0]["reason"] == "NamespaceTerminating"


def test_namespaces_are_made_and_listed(fake_cluster: FakeCluster, tmp_path: Path) -> None:
    """Through the official client."""
    core = core_api(fake_cluster, tmp_path)
    core.create_namespace({"metadata": {"name": "batch"}})
    assert [each.metadata.name for each in core.list_namespace().items] == ["batch", "default"]
    assert core.read_namespace("batch").status.phase == "Active"


def test_priority_class(api: RawApi, fake_cluster: FakeCluster) -> None:
    """One that does not exist is refused; one that does sets the priority."""
    message = 'pods "a-1" is forbidden: no PriorityClass with name high was found'
    assert refused(api, task_pod("a-1", priorityClassName="high")) == (403, "Forbidden", message)
    fake_cluster.state.admission.priority_classes["high"] = 7
    assert api.create(task_pod("a-1", priorityClassName="high"))["spec"]["priority"] == 7


def test_pod_security(api: RawApi, fake_cluster: FakeCluster) -> None:
    """A namespace that enforces *restricted* names each violation, and takes a pod without one."""
    fake_cluster.state.add_namespace("default", labels={"pod-security.kubernetes.io/enforce": "restricted"})
    _, reason, message = refused(api, task_pod("a-1"))
    assert reason == "Forbidden"
    for part in (
        'violates PodSecurity "restricted:latest"',
        "allowPrivilegeEscalation",
        "capabilities",
        "runAsNonRoot",
        "seccompProfile",
    ):
        assert part in message
    pod = task_pod(
        "a-1", securityContext={"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    )
    pod["spec"]["containers"][0]["securityContext"] = {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
    }
    api.create(pod)


def test_rights(api: RawApi, fake_cluster: FakeCluster, tmp_path: Path) -> None:
    """Denied by verb, resource and namespace, in the server's form; the review says the same."""
    fake_cluster.state.access.deny("create", "pods", namespace="default")
    fake_cluster.state.access.deny("get", "pods/log")
    where = 'in API group "" in the namespace "default"'
    message = f'pods is forbidden: User "{USER}" cannot create resource "pods" {where}'
    assert refused(api, task_pod("a-1")) == (403, "Forbidden", message)
    log = api.send("GET", "/a-1/log").json()["message"]
    assert log == f'pods "a-1" is forbidden: User "{USER}" cannot get resource "pods/log" {where}'
    fake_cluster.state.access.deny("list", "namespaces")
    listed = api.http.get(f"{fake_cluster.url}/api/v1/namespaces", timeout=10).json()["message"]
    assert listed.endswith('cannot list resource "namespaces" in API group "" at the cluster scope')

    reviews: Any = client.AuthorizationV1Api(core_api(fake_cluster, tmp_path).api_client)

    def allowed(**attributes: str) -> bool:
        review = {"spec": {"resourceAttributes": attributes}}
        return bool(reviews.create_self_subject_access_review(review).status.allowed)

    assert not allowed(verb="create", resource="pods", namespace="default")
    assert allowed(verb="create", resource="pods", namespace="other")
    assert not allowed(verb="get", resource="pods", subresource="log", namespace="default")
    fake_cluster.state.access.permit("create", "pods", namespace="default")
    assert allowed(verb="create", resource="pods", namespace="default")
    api.create(task_pod("a-1"))


def test_tokens_may_change(fake_cluster: FakeCluster) -> None:
    """A token that was taken back is 401, a new one is good at once."""
    old, new = RawApi(fake_cluster), RawApi(fake_cluster, token="second")
    assert (old.send("GET").status_code, new.send("GET").status_code) == (200, 401)
    fake_cluster.state.access.tokens = {"second": USER}
    assert (old.send("GET").status_code, new.send("GET").status_code) == (401, 200)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"metadata": {"labels": {"x": "not valid"}}}, "metadata.labels"),
        ({"metadata": {"labels": {"a b": "x"}}}, "metadata.labels"),
        ({"metadata": {"annotations": {"x": "y" * 300_000}}}, "metadata.annotations"),
        ({"metadata": {"finalizers": ["unqualified"]}}, "metadata.finalizers[0]"),
        (
            {"metadata": {"annotations": {"fake.tally.dev/script": '{"sleep": 3}'}}},
            "metadata.annotations[fake.tally.dev/script]",
        ),
        ({"spec": {"restartPolicy": "Sometimes"}}, "spec.restartPolicy"),
        ({"spec": {"activeDeadlineSeconds": 0}}, "spec.activeDeadlineSeconds"),
        ({"spec": {"containers": [{"name": "Task", "image": "x"}]}}, "spec.containers[0].name"),
        ({"spec": {"containers": [{"name": "task"}]}}, "spec.containers[0].image"),
        ({"spec": {"containers": [{"name": "a", "image": "x"}] * 2}}, "spec.containers[1].name"),
        (
            {"spec": {"containers": [{"name": "a", "image": "x", "env": [{"name": "1A"}]}]}},
            "spec.containers[0].env[0].name",
        ),
        (
            {
                "spec": {
                    "containers": [
                        {
                            "name": "a",
                            "image": "x",
                            "resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "1"}},
                        }
                    ]
                }
            },
            "spec.containers[0].resources.requests",
        ),
        (
            {"spec": {"containers": [{"name": "a", "image": "x", "resources": {"limits": {"cpu": "-1"}}}]}},
            "spec.containers[0].resources.limits[cpu]",
        ),
    ],
)
def test_invalid_fields_are_named(api: RawApi, change: dict[str, Any], field: str) -> None:
    """422 with the field as a cause."""
    pod = task_pod("a-1")
    pod["metadata"] |= change.get("metadata", {})
    pod["spec"] |= change.get("spec", {})
    answer = api.send("POST", json=pod)
    assert answer.status_code == 422
    assert [cause["field"] for cause in answer.json()["details"]["causes"]] == [field]
    assert f"{field}: " in answer.json()["message"]


@pytest.mark.parametrize(
    ("patch", "field"),
    [
        ({"spec": {"nodeName": "elsewhere"}}, "spec"),
        ({"spec": {"activeDeadlineSeconds": 200}}, "spec.activeDeadlineSeconds"),
        ({"spec": {"activeDeadlineSeconds": None}}, "spec.activeDeadlineSeconds"),
        ({"spec": {"schedulingGates": [{"name": "tally.dev/new"}]}}, "spec.schedulingGates"),
    ],
)
def test_what_a_pod_does_not_let_change(api: RawApi, patch: dict[str, Any], field: str) -> None:
    """422; a shorter deadline is allowed."""
    api.create(task_pod("a-1", "sleep", "1000", activeDeadlineSeconds=100))
    answer = api.patch("a-1", patch)
    assert answer.status_code == 422
    assert [cause["field"] for cause in answer.json()["details"]["causes"]] == [field]
    assert api.patch("a-1", {"spec": {"activeDeadlineSeconds": 50}}).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "code"),
    [
        ("GET", "/apis/batch/v1/jobs", 404),
        ("GET", "/api/v1/namespaces/default/secrets", 404),
        ("POST", "/api/v1/namespaces/default/pods/a-1", 405),
        ("DELETE", "/api/v1/nodes/node1", 405),
        ("GET", "/api/v1/pods?limit=many", 400),
        ("GET", "/api/v1/pods?labelSelector=%3D%3D", 400),
        ("GET", "/api/v1/pods?resourceVersion=x&watch=1", 400),
    ],
)
def test_what_this_api_does_not_have(api: RawApi, method: str, path: str, code: int) -> None:
    """A Status document, and never a broken connection."""
    answer = api.http.request(method, f"{api.cluster.url}{path}", timeout=10)
    assert (answer.status_code, answer.json()["kind"]) == (code, "Status")


def test_bodies_that_do_not_decode(api: RawApi) -> None:
    """400 for what is no pod, 413 for what is too large."""
    assert api.send("POST", data=b"{").status_code == 400
    assert api.send("POST", json=[]).status_code == 400
    assert api.send("POST", json=task_pod("a-1", activeDeadlineSeconds="soon")).status_code == 400
    assert api.send("POST", data=b" " * (3 * 1024 * 1024 + 1)).status_code == 413
