"""The fake scheduler and kubelets: scripts, nodes, gates, versions, and the record of what really ran."""

from __future__ import annotations

from typing import Any

import pytest

from controller.dev.fake_kubernetes import FakeCluster, Script, script_annotation
from controller.dev.fake_kubernetes.script import from_command
from tests.support.fake_cluster import ClusterFactory, RawApi, task_pod
from tests.support.waiting import wait_until

OLD, NEW = "v1.20.2", "v1.33.1"


@pytest.fixture
def api(fake_cluster: FakeCluster) -> RawApi:
    """Plain requests to a cluster of a new version."""
    return RawApi(fake_cluster)


def scripted(name: str, *, spec: dict[str, Any] | None = None, **script: Any) -> dict[str, Any]:
    """A pod with this script."""
    return task_pod(name, "x", annotations=script_annotation(**script), **(spec or {}))


def state(cluster: FakeCluster, name: str) -> tuple[str, str, str, int | None]:
    """Phase, the pod's reason, the container's state with its reason, its exit code."""
    status = (cluster.state.pod(name) or {"status": {"phase": "gone"}})["status"]
    for container in status.get("containerStatuses", ()):
        [(kind, body)] = container["state"].items()
        shown = f"{kind} {body.get('reason', '')}".strip()
        return status["phase"], status.get("reason", ""), shown, body.get("exitCode")
    return status["phase"], status.get("reason", ""), "", None


def becomes(cluster: FakeCluster, name: str, expected: tuple[str, str, str, int | None]) -> None:
    """Wait for that state."""
    wait_until(lambda: state(cluster, name) == expected, f"{expected}; it is {state(cluster, name)}")


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ({"run_seconds": 3}, ("Succeeded", "", "terminated Completed", 0)),
        ({"exit_code": 7}, ("Failed", "", "terminated Error", 7)),
        ({"oom": True}, ("Failed", "", "terminated OOMKilled", 137)),
        ({"start": "stuck"}, ("Pending", "", "waiting ContainerCreating", None)),
        ({"start": "image-error"}, ("Pending", "", "waiting ImagePullBackOff", None)),
        ({"start": "image-never"}, ("Pending", "", "waiting ErrImageNeverPull", None)),
        ({"start": "config-error"}, ("Pending", "", "waiting CreateContainerConfigError", None)),
        ({"start": "not-found"}, ("Failed", "", "terminated StartError", 128)),
        ({"run_seconds": None, "evict_after": 1}, ("Failed", "Evicted", "terminated Error", 137)),
        ({"run_seconds": None, "vanish_after": 1}, ("gone", "", "", None)),
    ],
)
def test_scripts(
    api: RawApi, fake_cluster: FakeCluster, script: dict[str, Any], expected: tuple[str, str, str, int | None]
) -> None:
    """What a pod becomes."""
    api.create(scripted("a-1", **script))
    becomes(fake_cluster, "a-1", expected)


def test_image_error_first_says_that_the_pull_failed(api: RawApi, fake_cluster: FakeCluster) -> None:
    """ErrImagePull, then ImagePullBackOff."""
    fake_cluster.state.missing_images.add("absent:1")
    events = api.watch()
    pod = task_pod("a-1", "true")
    pod["spec"]["containers"][0]["image"] = "absent:1"
    api.create(pod)
    reasons: list[str] = []
    while "ImagePullBackOff" not in reasons:
        statuses = next(events)["object"]["status"].get("containerStatuses", [{"state": {}}])
        reasons.append(statuses[0]["state"].get("waiting", {}).get("reason", ""))
    assert [reason for reason in reasons if reason] == [
        "ContainerCreating",
        "ErrImagePull",
        "ImagePullBackOff",
    ]


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (["sleep", "3"], Script(run_seconds=3)),
        (["sleep", "infinity"], Script(run_seconds=None)),
        (["false"], Script(exit_code=1)),
        (["sh", "-c", "sleep 1; exit 7"], Script(run_seconds=1, exit_code=7)),
        (
            ["/bin/sh", "-c", "echo a b && sleep 2m; echo $WHO"],
            Script(run_seconds=120, output=((0, "a b"), (120, "me"))),
        ),
        (["sh", "-c", 'trap "echo term; exit 3" TERM; sleep 60 & wait'], Script(run_seconds=60, on_term=3)),
        (["python", "-c", "print(1)"], Script()),
        (["sh", "-c", "echo 'unbalanced"], Script(output=((0, "'unbalanced"),))),
    ],
)
def test_a_command_is_read_as_a_script(command: list[str], expected: Script) -> None:
    """For users of `tally dev`, whose pods have no script."""
    container = {"command": command[:1], "args": command[1:], "env": [{"name": "WHO", "value": "me"}]}
    assert from_command(container) == expected


def test_a_function_gives_scripts(fake_clusters: ClusterFactory) -> None:
    """The annotation goes first, then the function, then the command."""
    cluster = fake_clusters(
        script=lambda pod: Script(exit_code=5) if pod["metadata"]["name"] != "c-1" else None
    )
    api = RawApi(cluster)
    api.create(scripted("a-1", exit_code=6))
    api.create(task_pod("b-1", "true"))
    api.create(task_pod("c-1", "false"))
    for name, code in (("a-1", 6), ("b-1", 5), ("c-1", 1)):
        becomes(cluster, name, ("Failed", "", "terminated Error", code))


@pytest.mark.parametrize(("on_term", "code"), [(None, 137), (0, 0), (3, 3)])
def test_a_new_server_reports_how_a_deleted_pod_ended(
    api: RawApi, fake_cluster: FakeCluster, on_term: int | None, code: int
) -> None:
    """The terminated status comes before DELETED, with the exit code; TERM ignored means KILL after the
    grace.
    """
    api.create(scripted("a-1", run_seconds=None, on_term=on_term, spec={"terminationGracePeriodSeconds": 4}))
    wait_until(lambda: state(fake_cluster, "a-1")[0] == "Running", "Running")
    events = api.watch()
    api.send("DELETE", "/a-1")
    told: list[tuple[Any, ...]] = []
    while not told or told[-1][0] != "DELETED":
        event = next(events)
        [(kind, body)] = event["object"]["status"]["containerStatuses"][0]["state"].items()
        told.append((event["type"], event["object"]["status"]["phase"], kind, body.get("exitCode")))
    phase = "Failed" if code else "Succeeded"
    assert told[0] == ("MODIFIED", "Running", "running", None)
    assert told[-1] == ("DELETED", phase, "terminated", code)
    assert fake_cluster.state.executions[0].exit_code == code


@pytest.mark.parametrize(
    ("version", "kind", "grace"), [(OLD, "running", 10_000), (NEW, "terminated Error", 2)]
)
def test_deadline(fake_clusters: ClusterFactory, version: str, kind: str, grace: int) -> None:
    """An old server says Failed while the container runs; a new one once it has stopped."""
    cluster = fake_clusters(version=version)
    api = RawApi(cluster)
    api.create(
        scripted(
            "a-1", run_seconds=None, spec={"activeDeadlineSeconds": 3, "terminationGracePeriodSeconds": grace}
        )
    )
    wait_until(lambda: state(cluster, "a-1")[0] == "Failed", "Failed")
    assert state(cluster, "a-1")[1:3] == ("DeadlineExceeded", kind)
    assert (cluster.state.executions[0].ended is None) == (version == OLD)


@pytest.mark.parametrize("version", [OLD, NEW])
def test_scheduling_gates(fake_clusters: ClusterFactory, version: str) -> None:
    """A new server holds the pod until the gates are gone; an old one drops the field and runs it."""
    cluster = fake_clusters(version=version)
    api = RawApi(cluster)
    created = api.create(task_pod("a-1", "true", schedulingGates=[{"name": "tally.dev/admitted"}]))
    if version == OLD:
        assert "schedulingGates" not in created["spec"]
    else:
        [condition] = created["status"]["conditions"]
        assert (condition["type"], condition["reason"]) == ("PodScheduled", "SchedulingGated")
        api.create(task_pod("b-1", "true"))  # it passes the gated one
        wait_until(lambda: [each.pod for each in cluster.state.executions] == ["b-1"], "the end of b-1")
        assert api.patch("a-1", {"spec": {"schedulingGates": None}}).status_code == 200
    wait_until(lambda: "a-1" in [each.pod for each in cluster.state.executions], "the start of a-1")


def test_a_gated_pod_that_is_deleted_never_runs(api: RawApi, fake_cluster: FakeCluster) -> None:
    """Even when its gate opens while a finalizer keeps it."""
    pod = task_pod("a-1", "true", schedulingGates=[{"name": "tally.dev/admitted"}])
    pod["metadata"]["finalizers"] = ["tally.dev/held"]
    api.create(pod)
    api.send("DELETE", "/a-1")
    api.patch("a-1", {"spec": {"schedulingGates": None}})
    api.create(task_pod("b-1", "true"))
    wait_until(lambda: state(fake_cluster, "b-1")[0] == "Succeeded", "a pod that came later")
    assert [each.pod for each in fake_cluster.state.executions] == ["b-1"]


def test_what_fits_runs_and_the_rest_waits_for_its_turn(fake_clusters: ClusterFactory) -> None:
    """Requests against allocatable; freed room goes to who waits, the highest priority first."""
    cluster = fake_clusters(node=False)
    cluster.state.add_node("small", cpu="1", memory="1Gi", pods=2)
    cluster.state.admission.priority_classes["high"] = 1000
    api = RawApi(cluster)

    def asking(name: str, cpu: str, seconds: str = "1", **spec: Any) -> None:
        pod = task_pod(name, "sleep", seconds, **spec)
        pod["spec"]["containers"][0]["resources"] = {"requests": {"cpu": cpu}}
        api.create(pod)

    asking("a-1", "600m", "100000", terminationGracePeriodSeconds=2)
    wait_until(lambda: cluster.state.executions, "the first start")
    asking("b-1", "500m")
    asking("c-1", "500m", priorityClassName="high")
    [condition] = wait_until(
        lambda: (cluster.state.pod("c-1") or {})["status"].get("conditions"), "an answer of the scheduler"
    )
    assert condition["reason"] == "Unschedulable"
    assert condition["message"] == "0/1 nodes are available: 1 Insufficient cpu."
    api.send("DELETE", "/a-1")
    wait_until(
        lambda: all(each.ended for each in cluster.state.executions) and len(cluster.state.executions) == 3,
        "three ends",
    )
    assert [each.pod for each in cluster.state.executions] == ["a-1", "c-1", "b-1"]


def test_a_lost_node_runs_on_and_reports_when_it_is_back(api: RawApi, fake_cluster: FakeCluster) -> None:
    """Deletions wait for it, ends are told late, nothing runs twice."""
    api.create(scripted("a-1", run_seconds=20))
    api.create(scripted("b-1", run_seconds=None, spec={"terminationGracePeriodSeconds": 2}))
    wait_until(lambda: state(fake_cluster, "b-1")[0] == "Running", "Running")
    fake_cluster.state.lose_node()
    api.send("DELETE", "/b-1")
    wait_until(lambda: any(each.ended for each in fake_cluster.state.executions), "the end of a-1")

    def ready() -> str:
        conditions = api.http.get(f"{fake_cluster.url}/api/v1/nodes/node1", timeout=10).json()["status"][
            "conditions"
        ]
        return str(next(each["status"] for each in conditions if each["type"] == "Ready"))

    wait_until(lambda: ready() == "Unknown", "the node controller's notice")
    assert state(fake_cluster, "a-1")[0] == "Running"
    assert fake_cluster.state.executions[1].ended is None
    fake_cluster.state.restore_node()
    becomes(fake_cluster, "a-1", ("Succeeded", "", "terminated Completed", 0))
    wait_until(lambda: fake_cluster.state.pod("b-1") is None, "the deletion")
    assert (ready(), len(fake_cluster.state.executions)) == ("True", 2)


def test_a_machine_that_went_down_lost_its_containers(api: RawApi, fake_cluster: FakeCluster) -> None:
    """Nobody saw their end: ContainerStatusUnknown, once the node is back."""
    api.create(scripted("a-1", run_seconds=None))
    wait_until(lambda: fake_cluster.state.executions, "the start")
    fake_cluster.state.lose_node(containers_die=True)
    assert fake_cluster.state.executions[0].ended
    fake_cluster.state.restore_node()
    becomes(fake_cluster, "a-1", ("Failed", "", "terminated ContainerStatusUnknown", 137))


def test_with_another_node_alive_the_lost_ones_pods_are_deleted(fake_clusters: ClusterFactory) -> None:
    """After their toleration, and they stay marked until the kubelet is back; a removed node's pods are
    removed by force.
    """
    cluster = fake_clusters()
    cluster.state.add_node("node2", labels={"room": "2"})
    api = RawApi(cluster)
    tolerations = [
        {
            "key": "node.kubernetes.io/unreachable",
            "operator": "Exists",
            "effect": "NoExecute",
            "tolerationSeconds": 5,
        }
    ]
    api.create(
        scripted("a-1", run_seconds=None, spec={"nodeSelector": {"room": "2"}, "tolerations": tolerations})
    )
    becomes(cluster, "a-1", ("Running", "", "running", None))
    cluster.state.lose_node("node2")
    wait_until(lambda: "deletionTimestamp" in (cluster.state.pod("a-1") or {})["metadata"], "the eviction")
    assert state(cluster, "a-1")[0] == "Running"
    assert cluster.state.executions[0].ended is None
    cluster.state.remove_node("node2")
    assert cluster.state.pod("a-1") is None


def test_preemption_marks_and_deletes(api: RawApi, fake_cluster: FakeCluster) -> None:
    """DisruptionTarget, then a graceful deletion."""
    api.create(scripted("a-1", run_seconds=None, on_term=0))
    becomes(fake_cluster, "a-1", ("Running", "", "running", None))
    events = api.watch()
    fake_cluster.state.preempt("a-1")
    conditions = next(events)["object"]["status"]["conditions"]
    assert [each["reason"] for each in conditions if each["type"] == "DisruptionTarget"] == [
        "PreemptionByScheduler"
    ]
    wait_until(lambda: fake_cluster.state.pod("a-1") is None, "the removal")


def test_the_record_of_what_ran_shows_overlaps(api: RawApi, fake_cluster: FakeCluster) -> None:
    """Two attempts of one task at the same time are found; one after the other are not."""
    api.create(scripted("a-1", run_seconds=2))
    wait_until(
        lambda: fake_cluster.state.executions and fake_cluster.state.executions[0].ended,
        "the first attempt's end",
    )
    api.create(scripted("a-2", run_seconds=None))
    wait_until(lambda: len(fake_cluster.state.executions) == 2, "the second attempt")
    assert fake_cluster.state.overlaps() == []
    api.create(scripted("a-3", run_seconds=None))
    wait_until(lambda: len(fake_cluster.state.executions) == 3, "the third attempt")
    assert [(one.pod, two.pod) for one, two in fake_cluster.state.overlaps()] == [("a-2", "a-3")]
