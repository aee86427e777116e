"""What a real Kubernetes does to tasks, and what Tally makes of it.

`make test-cluster KUBECONFIG=…` runs it.
"""

from __future__ import annotations

import json
import signal
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client

from controller.audit.audit import run_audit
from controller.client import TaskView
from controller.clock import SystemClock
from controller.core.model.lifecycle import State
from controller.dev.cluster import CLUSTER, LocalCluster
from controller.engine.base import LogOptions, LogsRefused
from controller.engine.kubernetes.pod import LABEL_TASK
from controller.store.etcd.gateway import GatewayOptions
from controller.store.etcd.store import EtcdStore
from tests.cluster.conftest import LABEL, engine_of, option, pool
from tests.support.history import replay
from tests.support.local import kill, leader_of, local_cluster, wait_ready
from tests.support.preemptions import preempt
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("cluster"), pytest.mark.timeout(900)]

Make = Callable[..., dict[str, Any]]
PATIENCE = 240.0  # seconds: images are pulled, and an old server takes up to 50 s to remove a deleted pod


def run(tally: LocalCluster, spec: dict[str, Any]) -> TaskView:
    """Submit a task and wait until it has finished."""
    with tally.client() as users:
        users.submit(spec)
        return users.wait([spec["id"]], timeout_seconds=PATIENCE)[spec["id"]]


def wait_for(tally: LocalCluster, task_id: str, what: str, condition: Callable[[TaskView], bool]) -> TaskView:
    """Wait until the task is as the condition says."""
    with tally.client() as users:

        def found() -> TaskView | None:
            view = users.get(task_id)
            return view if condition(view) else None

        view = wait_until(found, f"{task_id} being {what}", timeout=PATIENCE, poll=0.5)
    assert view is not None
    return view


def is_running(view: TaskView) -> bool:
    """Whether the task is Running."""
    return view.state is State.RUNNING


def test_success_and_its_output(tally: LocalCluster, task: Make) -> None:
    """A pod that exits 0 is Succeeded, and its output can be read afterwards."""
    spec = task('echo "attempt $TALLY_ATTEMPT of $TALLY_TASK_ID"')
    view = run(tally, spec)
    assert view.state is State.SUCCEEDED, view
    with tally.client() as users:
        engine = engine_of(_namespace(tally))
        output = b"".join(users.outputs.logs(spec["id"], engine=engine))
        engine.close()
    assert output == f"attempt 1 of {spec['id']}\n".encode()


@pytest.mark.parametrize("code", [1, 7, 137])
def test_exit_codes(tally: LocalCluster, task: Make, code: int) -> None:
    """The exit code is told, and decides on the retry."""
    rules = [{"exit_codes": [7], "action": "fail"}]
    view = run(tally, task(f"exit {code}", retry={"max_attempts": 2, "backoff_seconds": 0, "rules": rules}))
    assert view.state is State.FAILED
    assert view.status is not None
    assert view.status.exit_code == code
    assert view.attempt == (1 if code == 7 else 2)


def test_cancel_running(tally: LocalCluster, task: Make) -> None:
    """A running pod is deleted; its resources are held until its end is proven, then released."""
    spec = task("sleep 600")
    with tally.client() as users:
        users.submit(spec)
    wait_for(tally, spec["id"], "running", is_running)
    with tally.client() as users:
        users.cancel(spec["id"])
        view = users.wait([spec["id"]], timeout_seconds=PATIENCE)[spec["id"]]
    assert view.state is State.CANCELLED, view


def test_cancel_pending(tally: LocalCluster, task: Make) -> None:
    """A pod that never ran is deleted, and its task Cancelled."""
    spec = task("true", image="tally.invalid/no-such-image:0")
    with tally.client() as users:
        users.submit(spec)
    wait_for(
        tally,
        spec["id"],
        "pending with a reason",
        lambda view: view.state is State.PENDING and bool(view.status and view.status.reason),
    )
    with tally.client() as users:
        users.cancel(spec["id"])
        assert users.wait([spec["id"]], timeout_seconds=PATIENCE)[spec["id"]].state is State.CANCELLED


def test_an_image_that_cannot_be_is_a_failure_to_start(tally: LocalCluster, task: Make) -> None:
    """The kubelet says so at once, the pod is stopped with proof, and no attempt is used up."""
    view = run(tally, task("true", image="tally.invalid/No-Such-Image:0", retry={"max_start_failures": 2}))
    assert view.status is not None
    assert (view.state, view.status.reason) == (State.FAILED, "InvalidImageName"), view
    assert (view.status.start_failures, view.status.failures) == (1, 0)


@pytest.mark.parametrize(
    ("reason", "fields"),
    [
        ("ErrImagePull", {"image": "tally.invalid/no-such-image:0"}),
        (
            "CreateContainerConfigError",
            {
                "pod_template": {
                    "spec": {
                        "containers": [{"name": "task", "envFrom": [{"secretRef": {"name": "tally-none"}}]}]
                    }
                }
            },
        ),
    ],
)
def test_what_keeps_a_container_from_starting_counts_after_its_grace(
    tally: LocalCluster, task: Make, reason: str, fields: dict[str, Any]
) -> None:
    """No start deadline is given: a minute after the kubelet's first word the attempt is stopped, and has
    failed to start.
    """
    view = run(tally, task("true", retry={"max_start_failures": 0}, **fields))
    assert view.status is not None
    assert (view.state, view.status.reason, view.status.start_failures) == (State.FAILED, reason, 1), view


def test_a_running_task_does_not_say_why_it_waited(tally: LocalCluster, task: Make, core: Any) -> None:
    """Unschedulable until a label was there; then nothing of it is left but the step in its history."""
    node = core.list_node().items[0].metadata.name
    label = f"tally-test-{uuid.uuid4().hex[:8]}"
    spec = task("sleep 5", pod_template={"spec": {"nodeSelector": {label: "yes"}}})
    with tally.client() as users:
        users.submit(spec)
    wait_for(
        tally,
        spec["id"],
        "unschedulable",
        lambda view: bool(view.status and view.status.reason == "Unschedulable"),
    )
    core.patch_node(node, {"metadata": {"labels": {label: "yes"}}})
    view = wait_for(tally, spec["id"], "running", is_running)
    core.patch_node(node, {"metadata": {"labels": {label: None}}})
    assert view.status is not None
    assert (view.status.reason, view.status.message) == ("", "")
    with tally.client() as users:
        assert users.wait([spec["id"]], timeout_seconds=PATIENCE)[spec["id"]].state is State.SUCCEEDED


def test_a_webhook_that_fails_is_told_and_tried_ever_more_slowly(
    tally: LocalCluster, task: Make, core: Any
) -> None:
    """Nobody answers it, so that each creation is a 500: the server's words stand on the task until it is
    mended.
    """
    spec = task("true")
    namespace, name = _namespace(tally), f"tally-test-{uuid.uuid4().hex[:8]}"
    core.patch_namespace(namespace, {"metadata": {"labels": {name: "yes"}}})
    hooks: Any = client.AdmissionregistrationV1Api(core.api_client)
    rules = [
        {
            "apiGroups": [""],
            "apiVersions": ["v1"],
            "operations": ["CREATE"],
            "resources": ["pods"],
            "scope": "Namespaced",
        }
    ]
    hook = {
        "name": f"{name}.example.com",
        "clientConfig": {"url": "https://127.0.0.1:1/never"},
        "rules": rules,
        "namespaceSelector": {"matchLabels": {name: "yes"}},
        "failurePolicy": "Fail",
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
        "timeoutSeconds": 2,
    }
    hooks.create_validating_webhook_configuration({"metadata": {"name": name}, "webhooks": [hook]})
    try:
        with tally.client() as users:
            users.submit(spec)
        view = wait_for(
            tally,
            spec["id"],
            "delayed",
            lambda view: bool(view.status and view.status.reason == "StartDelayed"),
        )
        assert view.status is not None
        assert "failed calling webhook" in view.status.message
        with tally.client() as users:
            sentence = users.explain(spec["id"])
        assert "could not be started yet" in sentence
    finally:
        hooks.delete_validating_webhook_configuration(name)
        core.patch_namespace(namespace, {"metadata": {"labels": {name: None}}})
    with tally.client() as users:
        view = users.wait([spec["id"]], timeout_seconds=PATIENCE)[spec["id"]]
    assert (view.state, view.attempt) == (State.SUCCEEDED, 1), view


def test_a_part_of_the_output(tally: LocalCluster, task: Make) -> None:
    """The last lines, the last minutes, and an init container's."""
    first = {"name": "first", "image": task("true")["image"], "command": ["sh", "-c", "echo from init"]}
    spec = task("for n in 1 2 3 4 5; do echo $n; done", pod_template={"spec": {"initContainers": [first]}})
    assert run(tally, spec).state is State.SUCCEEDED
    engine = engine_of(_namespace(tally))

    def told(**options: Any) -> str:
        with tally.client() as users:
            return b"".join(
                users.outputs.logs(spec["id"], engine=engine, options=LogOptions(**options))
            ).decode()

    assert told(tail=2) == "4\n5\n"
    assert told(since_seconds=3600) == "1\n2\n3\n4\n5\n"
    assert told(container="first") == "from init\n"
    with pytest.raises(LogsRefused, match="there are first, task"):
        told(container="second")
    with pytest.raises(LogsRefused, match="previous"):
        told(previous=True)
    engine.close()


def test_a_task_that_exceeds_its_own_storage_has_failed(tally: LocalCluster, task: Make, core: Any) -> None:
    """The kubelet evicts it, and that counts.

    Before 1.21 nothing proves the stop of an evicted pod: it is lost, undisrupted.
    """
    mounted = {"name": "task", "volumeMounts": [{"name": "scratch", "mountPath": "/scratch"}]}
    template = {
        "metadata": {"annotations": {"fake.tally.dev/script": '{"run_seconds": 1, "exit_code": 1}'}},
        "spec": {"volumes": [{"name": "scratch", "emptyDir": {"sizeLimit": "1Mi"}}], "containers": [mounted]},
    }
    spec = task(
        "dd if=/dev/zero of=/scratch/full bs=1M count=20; sleep 600",
        pod_template=template,
        retry={"max_attempts": 1},
    )
    with tally.client() as users:
        users.submit(spec)
    wait_for(tally, spec["id"], "running", lambda view: view.state not in (State.CREATED, State.PENDING))
    if not _is_measured(core, f"{spec['id']}-1"):
        with tally.client() as users:
            users.cancel(spec["id"])
            users.wait([spec["id"]], timeout_seconds=PATIENCE)
        pytest.skip(
            "the kubelet measures no pods (it has no cgroups for them), and so evicts none for its own limits"
        )
    view = wait_for(tally, spec["id"], "evicted", lambda view: view.lost or view.state is State.FAILED)
    assert view.status is not None
    if view.lost:
        assert "exceed" in view.status.message
        with tally.client() as users:
            users.confirm_stopped(spec["id"])
            view = users.wait([spec["id"]], timeout_seconds=PATIENCE)[spec["id"]]
    assert view.status is not None
    assert (view.state, view.status.failures) == (State.FAILED, 1), view


def test_missing_image(tally: LocalCluster, task: Make) -> None:
    """It waits with the cluster's words until its start deadline, and fails without using up an attempt."""
    spec = task(
        "true",
        image="tally.invalid/no-such-image:0",
        deadlines={"start": 20},
        retry={"max_start_failures": 0},
    )
    view = run(tally, spec)
    assert (view.state, view.status.reason if view.status else "") == (
        State.FAILED,
        "StartDeadlineExceeded",
    ), view


def test_unschedulable(tally: LocalCluster, task: Make) -> None:
    """A pod that fits on no node waits, and says so."""
    spec = task("true", resources={"cpu": "900", "memory": "16Mi"})
    with tally.client() as users:
        users.submit(spec)
        view = wait_for(
            tally,
            spec["id"],
            "unschedulable",
            lambda view: bool(view.status and view.status.reason == "Unschedulable"),
        )
        assert view.state is State.PENDING
        users.cancel(spec["id"])
        assert users.wait([spec["id"]], timeout_seconds=PATIENCE)[spec["id"]].state is State.CANCELLED


def test_run_deadline(tally: LocalCluster, task: Make) -> None:
    """A pod over its deadline is stopped, and the task fails with that reason once the stop is proven."""
    view = run(tally, task("sleep 600", deadlines={"run": 5}))
    assert (view.state, view.status.reason if view.status else "") == (State.FAILED, "DeadlineExceeded"), view


def test_out_of_memory(tally: LocalCluster, task: Make) -> None:
    """A container that the kernel kills for its memory says OOMKilled."""
    hog = "x=$(dd if=/dev/zero bs=1M count=256 | tr '\\0' x); echo ${#x}"
    fake_has_no_memory = {
        "metadata": {"annotations": {"fake.tally.dev/script": '{"oom": true}'}}
    }  # means nothing to a real cluster
    spec = task(hog, resources={"cpu": "100m", "memory": "24Mi"}, pod_template=fake_has_no_memory)
    view = run(tally, spec)
    assert (view.state, view.status.reason if view.status else "") == (State.FAILED, "OOMKilled"), view


def test_pod_deleted_by_hand(tally: LocalCluster, task: Make, core: Any) -> None:
    """The attempt is lost when it is really gone, and the next one has another name."""
    spec = task("sleep 20", retry={"max_attempts": 2, "backoff_seconds": 0})
    with tally.client() as users:
        users.submit(spec)
        wait_for(tally, spec["id"], "running", is_running)
        core.delete_namespaced_pod(f"{spec['id']}-1", _namespace(tally), grace_period_seconds=1)
        view = users.wait([spec["id"]], timeout_seconds=PATIENCE)[spec["id"]]
    assert (view.state, view.attempt) == (State.SUCCEEDED, 2), view


@pytest.mark.parametrize("phase", ["before it runs", "while it runs", "as it ends"])
def test_controller_killed(tally: LocalCluster, task: Make, core: Any, phase: str) -> None:
    """The leader dies; the pod is adopted, neither started twice nor lost."""
    spec = task("sleep 8")
    wait_ready(tally)
    with tally.client() as users:
        users.submit(spec)
        if phase == "while it runs":
            wait_for(tally, spec["id"], "running", is_running)
        elif phase == "as it ends":
            wait_until(
                lambda: _container_ended(core, _namespace(tally), f"{spec['id']}-1"),
                "the container's end",
                timeout=PATIENCE,
                poll=0.2,
            )
        kill(leader_of(tally), signal.SIGKILL)
        view = users.wait([spec["id"]], timeout_seconds=PATIENCE)[spec["id"]]
    assert (view.state, view.attempt) == (State.SUCCEEDED, 1), view


def test_two_installations_of_one_name_share_a_namespace(
    request: pytest.FixtureRequest, tally: LocalCluster, task: Make, core: Any, tmp_path: Path
) -> None:
    """Fault 42.

    Each runs its own to the end, beyond a take-over; each says that the other is there; and a name that the
    other has is neither adopted nor stopped."""
    namespace = _namespace(tally)
    with local_cluster(
        tmp_path / "other", replicas=1, engine="kubernetes", settings=tally.options.settings
    ) as other:
        with other.client() as users:
            users.apply_pool(pool(request, namespace))
        both = {"one": tally, "other": other}
        specs = {name: [task("sleep 20") for _ in range(3)] for name in both}
        for name, cluster in both.items():
            with cluster.client() as users:
                assert all(result.outcome == "created" for result in users.submit_many(specs[name]))
            for spec in specs[name]:
                wait_for(cluster, spec["id"], "running", is_running)
        taken = specs["one"][0] | {"retry": {"max_attempts": 1}}
        with other.client() as users:
            users.submit(taken)
        for cluster in both.values():
            with cluster.client() as users:
                users.replicas.step_down()
            leader_of(cluster)
        for cluster in both.values():
            engine, store = (
                engine_of(namespace),
                EtcdStore(GatewayOptions((cluster.endpoint,)), SystemClock()),
            )
            report = run_audit(store, engine, CLUSTER, SystemClock())
            store.close()
            engine.close()
            assert "in the engine, under this cluster's name" in report.to_text(), report.to_text()
        for name, cluster in both.items():
            with cluster.client() as users:
                views = users.wait([spec["id"] for spec in specs[name]], timeout_seconds=PATIENCE)
            assert {(view.state, view.attempt) for view in views.values()} == {(State.SUCCEEDED, 1)}
        with other.client() as users:
            view = users.wait([taken["id"]], timeout_seconds=PATIENCE)[taken["id"]]
            assert (view.state, view.reason) == (State.FAILED, "NameTaken")
            assert "is of another installation of Tally" in view.message
            engine = engine_of(namespace)
            users.outputs.bind(engine)
    engine.release_finalizers()  # of the other one's pods alone
    engine.close()
    for pod in core.list_namespaced_pod(
        namespace, label_selector=f"tally.dev/installation={engine.mark}"
    ).items:
        core.delete_namespaced_pod(pod.metadata.name, namespace, grace_period_seconds=1)


def test_many_tasks_while_leaders_die(
    request: pytest.FixtureRequest, tally: LocalCluster, task: Make
) -> None:
    """All succeed with one attempt each, and nothing is held afterwards."""
    specs = [task("sleep 1") for _ in range(option(request, "tasks"))]
    with tally.client() as users:
        # thirty at a time
        users.apply_pool({**_pool_of(tally), "capacity": {"cpu": "300m", "memory": "1Ti"}})
        assert all(result.outcome == "created" for result in users.submit_many(specs))
        for _ in range(2):
            wait_ready(tally)
            kill(leader_of(tally), signal.SIGKILL)
        views = users.wait([spec["id"] for spec in specs], timeout_seconds=4 * PATIENCE)
        users.apply_pool({**_pool_of(tally), "capacity": {"cpu": "1000", "memory": "1Ti"}})
    assert {(view.state, view.attempt) for view in views.values()} == {(State.SUCCEEDED, 1)}


def test_preempted_pods_hold_until_they_have_stopped(
    request: pytest.FixtureRequest, tally: LocalCluster, task: Make, core: Any
) -> None:
    """At no look at the API server do more pods run than the pool has room for, while leaders die."""
    size, wanted, most = 10, option(request, "preemptions"), 0

    def looks() -> None:
        nonlocal most
        pods = core.list_namespaced_pod(_namespace(tally), label_selector=LABEL).items
        tasks = [pod.metadata.labels[LABEL_TASK] for pod in pods if pod.status.phase == "Running"]
        assert len(tasks) == len(set(tasks)), "no task runs twice"
        most = max(most, len(tasks))

    with tally.client() as users:
        before = _pool_of(tally)
        make = lambda shell: task(f"exec {shell}", retention_seconds=86400)  # noqa: E731
        rounds = -(-wanted // size)
        ids = preempt(tally, users, before, make, rounds=rounds, size=size, kills=True, looks=looks)
        views = {view.id: view for view in users.tasks()}
        users.apply_pool({**before, "capacity": {"cpu": "1000", "memory": "1Ti"}})
    assert 0 < most <= size
    assert {(views[name].state, views[name].attempt) for name in ids["owner"]} == {(State.SUCCEEDED, 1)}
    preempted = [views[name] for name in ids["borrower"]]
    assert sum(view.attempt - 1 for view in preempted) >= wanted
    assert {view.status.failures for view in preempted if view.status is not None} == {0}
    history = replay(tally.endpoint)
    assert not history.findings, "\n".join(history.findings)


def _namespace(tally: LocalCluster) -> str:
    return tally.options.settings["TALLY_KUBE_NAMESPACES"]


def _pool_of(tally: LocalCluster) -> dict[str, Any]:
    from controller.core.model.codec import to_builtins

    with tally.client() as users:
        (pool,) = users.pools()
    plain: dict[str, Any] = to_builtins(pool.definition)
    return plain


def _is_measured(core: Any, pod: str) -> bool:
    """Whether the node's kubelet has statistics of the pod; it takes them every ten seconds."""
    node = core.list_node().items[0].metadata.name
    for _ in range(20):
        answer = core.connect_get_node_proxy_with_path(node, "stats/summary", _preload_content=False)
        if any(each["podRef"]["name"] == pod for each in json.loads(answer.data)["pods"]):
            return True
        time.sleep(1)  # nothing tells that there are none
    return False


def _container_ended(core: Any, namespace: str, name: str) -> bool:
    try:
        pod = core.read_namespaced_pod(name, namespace)
    except client.ApiException as error:
        if error.status == 404:
            return False
        raise
    return any(status.state.terminated for status in pod.status.container_statuses or [])
