"""Pods with more than the task's own container, on a real Kubernetes: templates merged, what is held,
whose end is the task's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from kubernetes import client

from controller.client import TaskView
from controller.core.model.lifecycle import State
from controller.core.model.resources import Vector
from controller.dev.cluster import LocalCluster
from tests.cluster.conftest import engine_of, option
from tests.cluster.conftest import pool as usual_pool
from tests.cluster.test_cluster import is_running, run, wait_for
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("cluster"), pytest.mark.timeout(900)]

Make = Callable[..., dict[str, Any]]
QUOTA = "tally-counts"


@pytest.fixture
def pool_with(
    request: pytest.FixtureRequest, tally: LocalCluster, namespace: str
) -> Iterator[Callable[..., None]]:
    """Gives the pool a template, and more; afterwards it is as it was."""
    usual = usual_pool(request, namespace)

    def change(
        template: dict[str, Any] | None = None, capacity: dict[str, str] | None = None, **options: Any
    ) -> None:
        network = usual["engine_options"]["pod_template"].get("spec", {})
        given = {"pod_template": {"spec": {**network, **(template or {})}}} | options
        with tally.client() as users:
            users.apply_pool(
                {
                    **usual,
                    "capacity": capacity or usual["capacity"],
                    "engine_options": {**usual["engine_options"], **given},
                }
            )

    yield change
    with tally.client() as users:
        users.apply_pool(usual)


@pytest.fixture
def counted(core: Any, namespace: str) -> Iterator[Callable[[], dict[str, Any]]]:
    """What Kubernetes itself counts for the namespace's pods: a quota that refuses nothing."""
    hard = {"requests.cpu": "1k", "requests.memory": "1Ti"}
    body = client.V1ResourceQuota(
        metadata=client.V1ObjectMeta(name=QUOTA), spec=client.V1ResourceQuotaSpec(hard=hard)
    )
    core.create_namespaced_resource_quota(namespace, body)

    def used() -> dict[str, Any]:
        found = core.read_namespaced_resource_quota(QUOTA, namespace).status.used or {}
        return {name.removeprefix("requests."): amount for name, amount in found.items()}

    yield used
    core.delete_namespaced_resource_quota(QUOTA, namespace)


def side(
    request: pytest.FixtureRequest, shell: str, cpu: str = "10m", name: str = "side", **fields: Any
) -> dict[str, Any]:
    """Another container."""
    resources = {"requests": {"cpu": cpu, "memory": "16Mi"}}
    image, policy = option(request, "image"), option(request, "pull_policy")
    command = ["sh", "-c", shell]
    return {
        "name": name,
        "image": image,
        "imagePullPolicy": policy,
        "command": command,
        "resources": resources,
        **fields,
    }


def output_of(tally: LocalCluster, view: TaskView) -> str:
    """What the task's container printed."""
    engine = engine_of(tally.options.settings["TALLY_KUBE_NAMESPACES"])
    with tally.client() as users:
        text = b"".join(users.outputs.logs(view.id, engine=engine)).decode()
    engine.close()
    return text


def test_templates_are_merged_by_merge_keys(
    tally: LocalCluster, task: Make, pool_with: Callable[..., None]
) -> None:
    """One volume at three places; a volume whose type the task changes; a variable with another source;
    ports without names.
    """
    of_pool = {
        "volumes": [{"name": "data", "emptyDir": {"medium": "Memory"}}],
        "containers": [
            {
                "name": "task",
                "env": [{"name": "WHO", "value": "pool"}],
                "ports": [{"containerPort": 10053, "protocol": "UDP"}],
                "volumeMounts": [{"name": "data", "mountPath": "/data"}],
            }
        ],
    }
    of_task = {
        "volumes": [
            {
                "name": "data",
                "downwardAPI": {"items": [{"path": "name", "fieldRef": {"fieldPath": "metadata.name"}}]},
            }
        ],
        "containers": [
            {
                "name": "task",
                "env": [{"name": "WHO", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
                "ports": [{"containerPort": 10053, "protocol": "TCP"}],
                "volumeMounts": [{"name": "data", "mountPath": "/a"}, {"name": "data", "mountPath": "/b"}],
            }
        ],
    }
    pool_with(of_pool)
    spec = task("echo $WHO $(cat /data/name /a/name /b/name)", pod_template={"spec": of_task})
    view = run(tally, spec)
    assert view.state is State.SUCCEEDED, view
    name = f"{spec['id']}-1"
    assert output_of(tally, view) == f"{name} {name}{name}{name}\n"


def test_the_fence_comes_first_in_every_container(
    request: pytest.FixtureRequest, tally: LocalCluster, task: Make
) -> None:
    """A variable may refer to it, and to the task's own; init containers and others have it too."""
    prepare = side(request, "echo $TALLY_TASK_ID $OUT > /shared/from-init", name="prepare")
    template = {
        "volumes": [{"name": "shared", "emptyDir": {}}],
        "initContainers": [
            {
                **prepare,
                "env": [{"name": "OUT", "value": "/data/$(TALLY_ATTEMPT)"}],
                "volumeMounts": [{"name": "shared", "mountPath": "/shared"}],
            }
        ],
        "containers": [
            {
                "name": "task",
                "env": [{"name": "OUT", "value": "/data/$(TALLY_TASK_ID)/$(TALLY_ATTEMPT)/$(SEED)"}],
                "volumeMounts": [{"name": "shared", "mountPath": "/shared"}],
            }
        ],
    }
    spec = task(
        'echo "$OUT $RAW"; cat /shared/from-init',
        env={"SEED": "7", "RAW": "$(SEED)"},
        pod_template={"spec": template},
    )
    view = run(tally, spec)
    assert view.state is State.SUCCEEDED, view
    assert output_of(tally, view) == f"/data/{spec['id']}/1/7 $(SEED)\n{spec['id']} /data/1\n"


def test_the_ledger_has_what_kubernetes_counts(
    request: pytest.FixtureRequest,
    tally: LocalCluster,
    task: Make,
    pool_with: Callable[..., None],
    counted: Callable[[], dict[str, Any]],
) -> None:
    """Containers of the task's template and of the pool's, init containers that need more, and not more
    tasks than fit.
    """
    pool_with({"containers": [side(request, "sleep 20", "150m")]}, capacity={"cpu": "700m", "memory": "1Gi"})
    more = {"spec": {"containers": [side(request, "sleep 20", "40m", name="more")]}}
    needs = {"spec": {"initContainers": [side(request, "true", "300m", name="needs")]}}
    specs = [task("sleep 20"), task("sleep 20", pod_template=more), task("sleep 20", pod_template=needs)]
    waits = task("true")
    with tally.client() as users:
        users.submit_many([*specs, waits])
        for spec in specs:
            wait_for(tally, spec["id"], "running", is_running)
        (pool,) = users.pools()
        held = pool.held
        assert held == Vector.parse({"cpu": "660m", "memory": "160Mi"})  # 160m + 200m + 300m
        assert users.get(waits["id"]).state is State.CREATED
        wait_until(lambda: Vector.parse(counted()) == held, f"Kubernetes counting {held}", timeout=60, poll=1)
        views = users.wait([*(spec["id"] for spec in specs), waits["id"]], timeout_seconds=240)
    assert {view.state for view in views.values()} == {State.SUCCEEDED}


@pytest.mark.parametrize(("code", "state"), [(0, State.SUCCEEDED), (7, State.FAILED)])
@pytest.mark.parametrize("says", ["task", "pool"])
def test_the_main_containers_end_is_the_tasks(
    request: pytest.FixtureRequest,
    tally: LocalCluster,
    task: Make,
    pool_with: Callable[..., None],
    core: Any,
    code: int,
    state: State,
    says: str,
) -> None:
    """A sidecar that never ends is stopped then, and held until that is proven."""
    sidecar = {"spec": {"containers": [side(request, "sleep 3600")]}}
    if says == "pool":
        pool_with(main_container="task")
    spec = task(
        f"sleep 3; exit {code}",
        pod_template=sidecar,
        **({"main_container": "task"} if says == "task" else {}),
    )
    with tally.client() as users:
        users.submit(spec)
        stopping = wait_for(
            tally,
            spec["id"],
            "stopping",
            lambda view: bool(view.status and view.status.stopping) or view.finished,
        )
        assert stopping.status is not None
        assert (stopping.status.stopping, stopping.status.hold) == (
            "main-ended",
            Vector.parse({"cpu": "20m", "memory": "48Mi"}),
        )
        view = users.wait([spec["id"]], timeout_seconds=240)[spec["id"]]
    assert view.status is not None
    assert (view.state, view.status.exit_code, view.attempt) == (state, code, 1), view


def test_another_container_can_be_the_main_one(
    request: pytest.FixtureRequest, tally: LocalCluster, task: Make
) -> None:
    """Its output is the task's, and its end is."""
    trainer = {"spec": {"containers": [side(request, "echo trained; sleep 8; exit 5", name="trainer")]}}
    spec = task("echo other; sleep 3600", pod_template=trainer, main_container="trainer")
    with tally.client() as users:
        users.submit(spec)
        running = wait_for(tally, spec["id"], "running", is_running)
        wait_until(lambda: output_of(tally, running), "its output", timeout=60, poll=1)
        assert output_of(tally, running) == "trained\n"
        view = users.wait([spec["id"]], timeout_seconds=240)[spec["id"]]
    assert view.status is not None
    assert (view.state, view.status.exit_code) == (State.FAILED, 5), view
