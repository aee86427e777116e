"""The fake API's rules for pods: identity, versions, lists, patches, deletion.

Through the official client where it can.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from kubernetes import client

from controller.dev.fake_kubernetes import FakeCluster
from tests.support.fake_cluster import RawApi, core_api, task_pod
from tests.support.waiting import wait_until

# a gated pod changes only when the test changes it
NEVER: dict[str, Any] = {"schedulingGates": [{"name": "tally.dev/closed"}]}


@pytest.fixture
def api(fake_cluster: FakeCluster) -> RawApi:
    """Plain requests."""
    return RawApi(fake_cluster)


@pytest.fixture
def core(fake_cluster: FakeCluster, tmp_path: Path) -> Any:
    """The official client."""
    return core_api(fake_cluster, tmp_path)


def finished(cluster: FakeCluster, name: str) -> Any:
    """Wait for the pod's terminal phase."""
    return wait_until(
        lambda: (
            (cluster.state.pod(name) or {"status": {"phase": ""}})["status"]["phase"]
            in {"Succeeded", "Failed"}
        ),
        name,
    )


def test_created_read_listed_deleted_by_the_official_client(core: Any, fake_cluster: FakeCluster) -> None:
    """A pod runs, is read and listed as models, and goes at once when it has ended."""
    created = core.create_namespaced_pod("default", task_pod("a-1", "true"))
    finished(fake_cluster, "a-1")
    read = core.read_namespaced_pod("a-1", "default")
    assert (read.metadata.uid, read.status.phase) == (created.metadata.uid, "Succeeded")
    listed = core.list_namespaced_pod("default", label_selector="tally.dev/task=a")
    assert [pod.metadata.name for pod in listed.items] == ["a-1"]
    core.delete_namespaced_pod("a-1", "default")
    with pytest.raises(client.ApiException) as error:
        core.read_namespaced_pod("a-1", "default")
    assert error.value.status == 404


def test_a_name_is_used_once_and_a_uid_never_again(api: RawApi) -> None:
    """The second creation answers 409 AlreadyExists; the same name later has another uid."""
    first = api.create(task_pod("a-1", **NEVER))
    again = api.send("POST", json=task_pod("a-1", **NEVER))
    assert (again.status_code, again.json()["reason"]) == (409, "AlreadyExists")
    assert api.send("DELETE", "/a-1").status_code == 200
    assert api.create(task_pod("a-1", **NEVER))["metadata"]["uid"] != first["metadata"]["uid"]


def test_resource_versions_grow_over_all_objects(api: RawApi) -> None:
    """One counter."""
    versions = [int(api.create(task_pod(f"a-{n}", **NEVER))["metadata"]["resourceVersion"]) for n in range(3)]
    assert versions == sorted(set(versions))
    assert int(api.send("GET").json()["metadata"]["resourceVersion"]) >= versions[-1]


@pytest.mark.parametrize(
    ("selector", "names"),
    [
        ("app=x", ["a", "b"]),
        ("app==x,tier!=2", ["a"]),
        ("app in (x, y),tier notin (1)", ["b", "c"]),
        ("tier", ["a", "b", "d"]),
        ("!tier", ["c"]),
        ("app=nothing", []),
    ],
)
def test_label_selectors(api: RawApi, selector: str, names: list[str]) -> None:
    """All forms of label selectors."""
    labels = {
        "a": {"app": "x", "tier": "1"},
        "b": {"app": "x", "tier": "2"},
        "c": {"app": "y"},
        "d": {"tier": "1"},
    }
    for name, each in labels.items():
        pod = task_pod(name, **NEVER)
        pod["metadata"]["labels"] = each
        api.create(pod)
    listed = api.send("GET", params={"labelSelector": selector}).json()
    assert [pod["metadata"]["name"] for pod in listed["items"]] == names


def test_field_selectors(api: RawApi) -> None:
    """Those that pods support; others are 400."""
    for name in ("a", "b"):
        api.create(task_pod(name, **NEVER))
    listed = api.send("GET", params={"fieldSelector": "metadata.name=b,status.phase!=Running"}).json()
    assert [pod["metadata"]["name"] for pod in listed["items"]] == ["b"]
    refused = api.send("GET", params={"fieldSelector": "spec.color=red"})
    assert (refused.status_code, refused.json()["message"]) == (400, "field label not supported: spec.color")


def page(api: RawApi, token: str = "", limit: int = 2) -> dict[str, Any]:
    """One page of the list."""
    return dict(api.send("GET", params={"limit": limit, "continue": token}).json())


def test_pages_are_one_consistent_list(api: RawApi) -> None:
    """What is created, changed or deleted between pages does not show."""
    for number in range(5):
        api.create(task_pod(f"a-{number}", **NEVER))
    first = page(api)
    assert first["metadata"]["remainingItemCount"] == 3
    api.create(task_pod("a-2-and-more", **NEVER))
    api.send("DELETE", "/a-4")
    api.patch("a-3", {"metadata": {"labels": {"new": "1"}}})
    second = page(api, first["metadata"]["continue"])
    third = page(api, second["metadata"]["continue"])
    pods = first["items"] + second["items"] + third["items"]
    assert [pod["metadata"]["name"] for pod in pods] == [f"a-{number}" for number in range(5)]
    assert "new" not in pods[3]["metadata"]["labels"]
    assert first["metadata"]["resourceVersion"] == third["metadata"]["resourceVersion"]
    assert "continue" not in third["metadata"]


def test_a_page_after_compaction_is_gone(api: RawApi, fake_cluster: FakeCluster) -> None:
    """410 Expired, with a token that goes on without consistency."""
    for number in range(4):
        api.create(task_pod(f"a-{number}", **NEVER))
    token = page(api)["metadata"]["continue"]
    api.create(task_pod("z", **NEVER))
    fake_cluster.state.storage.compact()
    gone = api.send("GET", params={"limit": 2, "continue": token})
    assert (gone.status_code, gone.json()["reason"]) == (410, "Expired")
    rest = page(api, gone.json()["metadata"]["continue"], limit=9)
    assert [pod["metadata"]["name"] for pod in rest["items"]] == ["a-2", "a-3", "z"]


def test_a_lagging_cache_answers_only_lists_at_version_0(api: RawApi, fake_cluster: FakeCluster) -> None:
    """resourceVersion=0 may be old; no resourceVersion is the truth."""
    fake_cluster.state.api.lag()
    api.create(task_pod("a", **NEVER))
    assert api.send("GET", params={"resourceVersion": "0"}).json()["items"] == []
    assert len(api.send("GET").json()["items"]) == 1
    fake_cluster.state.api.lag(behind=False)
    assert len(api.send("GET", params={"resourceVersion": "0"}).json()["items"]) == 1


def test_a_version_that_is_not_yet_there(api: RawApi) -> None:
    """504, as from a server that was restored or lags."""
    answer = api.send("GET", params={"resourceVersion": "99999999"})
    assert answer.status_code == 504
    assert "Too large resource version" in answer.json()["message"]


def test_deletion_waits_for_finalizers_and_containers(api: RawApi, fake_cluster: FakeCluster) -> None:
    """The object stays, marked, until the container has stopped and the last finalizer is gone."""
    pod = task_pod("a", "sleep", "1000", terminationGracePeriodSeconds=2)
    pod["metadata"]["finalizers"] = ["tally.dev/held"]
    api.create(pod)
    wait_until(lambda: fake_cluster.state.executions, "the start")
    marked = api.send("DELETE", "/a").json()["metadata"]
    assert marked["deletionGracePeriodSeconds"] == 2
    assert marked["deletionTimestamp"]
    finished(fake_cluster, "a")
    wait_until(
        lambda: api.send("GET", "/a").json()["metadata"]["deletionGracePeriodSeconds"] == 0,
        "the kubelet's own deletion",
    )
    added = api.patch("a", {"metadata": {"finalizers": ["tally.dev/held", "tally.dev/more"]}})
    assert (added.status_code, added.json()["details"]["causes"][0]["field"]) == (422, "metadata.finalizers")
    assert api.patch("a", {"metadata": {"finalizers": None}}).status_code == 200
    assert api.send("GET", "/a").status_code == 404


def test_finalizers_taken_off_first_leave_the_pod_to_its_kubelet(
    api: RawApi, fake_cluster: FakeCluster
) -> None:
    """Without finalizers the pod still stays until its containers have stopped."""
    pod = task_pod("a", "sleep", "1000", terminationGracePeriodSeconds=5)
    pod["metadata"]["finalizers"] = ["tally.dev/held"]
    api.create(pod)
    wait_until(lambda: fake_cluster.state.executions, "the start")
    api.send("DELETE", "/a")
    assert (
        api.patch("a", [{"op": "remove", "path": "/metadata/finalizers/0"}], "json-patch").status_code == 200
    )
    assert fake_cluster.state.pod("a") or fake_cluster.state.executions[0].ended
    wait_until(lambda: fake_cluster.state.pod("a") is None, "the removal")
    assert fake_cluster.state.executions[0].ended


def test_forced_deletion_removes_at_once_and_the_container_runs_on(
    api: RawApi, fake_cluster: FakeCluster
) -> None:
    """Grace 0: DELETED proves nothing about the container."""
    for name, grace in (("a", 10_000), ("b", 2)):
        api.create(task_pod(name, "sleep", "100000", terminationGracePeriodSeconds=grace))
    wait_until(lambda: len(fake_cluster.state.executions) == 2, "both starts")
    for name in ("a", "b"):
        assert api.send("DELETE", f"/{name}", params={"gracePeriodSeconds": 0}).status_code == 200
        assert api.send("GET", f"/{name}").status_code == 404
    wait_until(lambda: fake_cluster.state.executions[1].ended, "the end of b, after its grace")
    assert fake_cluster.state.executions[0].ended is None


def test_only_a_shorter_grace_changes_a_deletion(api: RawApi, fake_cluster: FakeCluster) -> None:
    """A second deletion may hurry, never delay."""
    api.create(task_pod("a", "sleep", "100000", terminationGracePeriodSeconds=5000))
    wait_until(lambda: fake_cluster.state.executions, "the start")
    graces = [
        api.send("DELETE", "/a", json={"gracePeriodSeconds": grace}).json()["metadata"][
            "deletionGracePeriodSeconds"
        ]
        for grace in (4000, 5000, 3)
    ]
    assert graces == [4000, 4000, 3]
    wait_until(lambda: fake_cluster.state.pod("a") is None, "the removal after the short grace")


def test_preconditions(api: RawApi) -> None:
    """A deletion meant for another uid or version answers 409 and touches nothing."""
    pod = api.create(task_pod("a", **NEVER))
    uid = pod["metadata"]["uid"]
    wrong = api.send("DELETE", "/a", json={"preconditions": {"uid": "other"}})
    assert (wrong.status_code, wrong.json()["reason"]) == (409, "Conflict")
    assert (
        f"the UID in the precondition (other) does not match the UID in record ({uid})"
        in wrong.json()["message"]
    )
    wrong = api.send("DELETE", "/a", json={"preconditions": {"resourceVersion": "1"}})
    assert (wrong.status_code, wrong.json()["reason"]) == (409, "Conflict")
    assert "deletionTimestamp" not in api.send("GET", "/a").json()["metadata"]
    assert api.send("DELETE", "/a", json={"preconditions": {"uid": uid}}).status_code == 200


def test_changes_of_an_older_version_conflict(api: RawApi) -> None:
    """By replacing, and by a patch that names a version or a uid."""
    pod = api.create(task_pod("a", **NEVER))
    assert api.patch("a", {"metadata": {"labels": {"x": "1"}}}).status_code == 200
    for answer in (
        api.send("PUT", "/a", json=pod),
        api.patch(
            "a", {"metadata": {"resourceVersion": pod["metadata"]["resourceVersion"], "labels": {"x": "2"}}}
        ),
        api.patch("a", {"metadata": {"uid": "other"}}),
    ):
        assert (answer.status_code, answer.json()["reason"]) == (409, "Conflict")
    assert api.send("GET", "/a").json()["metadata"]["labels"]["x"] == "1"


def test_a_patch_that_changes_nothing_makes_no_version(api: RawApi) -> None:
    """So repeating it wakes nobody."""
    api.create(task_pod("a", **NEVER))
    versions = {
        api.patch("a", {"metadata": {"labels": {"x": "1"}}}).json()["metadata"]["resourceVersion"]
        for _ in range(2)
    }
    assert len(versions) == 1


def test_strategic_merge_patch(api: RawApi) -> None:
    """What the official client sends by default: maps merged, finalizers united, gates merged by name."""
    pod = task_pod("a", schedulingGates=[{"name": "tally.dev/a"}, {"name": "tally.dev/b"}])
    pod["metadata"]["finalizers"] = ["tally.dev/held"]
    api.create(pod)
    metadata = {"labels": {"x": "1", "tally.dev/task": None}, "finalizers": ["tally.dev/more"]}
    gates = [{"$patch": "delete", "name": "tally.dev/a"}]
    patched = api.patch(
        "a", {"metadata": metadata, "spec": {"schedulingGates": gates}}, "strategic-merge-patch"
    ).json()
    assert patched["metadata"]["labels"] == {"x": "1"}
    assert patched["metadata"]["finalizers"] == ["tally.dev/held", "tally.dev/more"]
    assert patched["spec"]["schedulingGates"] == [{"name": "tally.dev/b"}]
    removal = {"metadata": {"$deleteFromPrimitiveList/finalizers": ["tally.dev/held"]}}
    assert api.patch("a", removal, "strategic-merge-patch").json()["metadata"]["finalizers"] == [
        "tally.dev/more"
    ]


def test_json_patch_tests_before_it_changes(api: RawApi) -> None:
    """A failed test answers 422 and changes nothing."""
    api.create(task_pod("a", **NEVER))
    label = "/metadata/labels/tally.dev~1task"
    patch = [{"op": "test", "path": label, "value": "other"}, {"op": "remove", "path": label}]
    assert api.patch("a", patch, "json-patch").status_code == 422
    patch[0]["value"] = "a"
    assert api.patch("a", patch, "json-patch").json()["metadata"].get("labels") is None
    assert api.patch("a", {}, "apply-patch").status_code == 415


def test_status_and_pod_are_written_apart(api: RawApi) -> None:
    """A patch of the pod leaves the status, a patch of the status leaves the pod."""
    api.create(task_pod("a", **NEVER))
    assert api.patch("a", {"status": {"phase": "Failed"}}).json()["status"]["phase"] == "Pending"
    patched = api.patch(
        "a/status", {"status": {"phase": "Failed"}, "metadata": {"labels": {"x": "1"}}}
    ).json()
    assert patched["status"]["phase"] == "Failed"
    assert "x" not in patched["metadata"]["labels"]


def test_dry_run_validates_and_keeps_nothing(api: RawApi) -> None:
    """As a check of rights and admission would use it."""
    assert api.send("POST", params={"dryRun": "All"}, json=task_pod("a")).status_code == 201
    assert api.send("POST", params={"dryRun": "All"}, json=task_pod("A")).status_code == 422
    assert api.send("GET", "/a").status_code == 404


def test_events_of_a_pod(core: Any, fake_cluster: FakeCluster) -> None:
    """What `describe` shows."""
    core.create_namespaced_pod("default", task_pod("a-1", "true"))
    core.create_namespaced_pod("default", task_pod("b-1", nodeSelector={"no": "such-node"}))
    finished(fake_cluster, "a-1")

    def reasons(name: str) -> list[str]:
        return [
            event.reason
            for event in core.list_namespaced_event(
                "default", field_selector=f"involvedObject.name={name}"
            ).items
        ]

    assert reasons("a-1") == ["Scheduled", "Started"]
    assert wait_until(lambda: reasons("b-1"), "an event") == ["FailedScheduling"]


def test_logs(core: Any, fake_cluster: FakeCluster) -> None:
    """Printed lines, the last ones, and following until the end; 400 before the start."""
    core.create_namespaced_pod(
        "default", task_pod("a-1", "sh", "-c", "echo one; sleep 20; echo two $WHO; sleep 1")
    )
    core.create_namespaced_pod("default", task_pod("b-1", **NEVER))
    wait_until(lambda: fake_cluster.state.executions, "the start")
    follow = core.read_namespaced_pod_log("a-1", "default", follow=True, _preload_content=False)
    assert b"".join(follow.stream()) == b"one\ntwo \n"
    assert (
        core.read_namespaced_pod_log("a-1", "default", tail_lines=1, _preload_content=False).data == b"two \n"
    )
    with pytest.raises(client.ApiException, match="waiting to start: ContainerCreating"):
        core.read_namespaced_pod_log("b-1", "default")
