"""A gang on a real Kubernetes: its members look each other up by name, and meet."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes import client
from kubernetes.stream import stream

from controller.core.model.lifecycle import State
from controller.dev.cluster import LocalCluster
from tests.cluster.conftest import engine_of, option
from tests.cluster.test_cluster import PATIENCE, is_running, wait_for
from tests.support.etcd import free_ports
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("cluster"), pytest.mark.timeout(900)]

Make = Callable[..., dict[str, Any]]
SERVICE = Path(__file__).parents[2] / "deploy/kubernetes/components/gangs/service.yaml"
SIZE = 3
MEET = """
[ "$TALLY_ATTEMPT $TALLY_ARRAY_INDEX" != "1 2" ] || exit 7
cd /work
echo "$TALLY_ROLE $TALLY_ROLE_INDEX of $TALLY_ROLE_SIZE, led by $MASTER_ADDR" | tee index.html
httpd -p "$BIND:$(echo $PORTS | cut -d ' ' -f $((TALLY_ARRAY_INDEX + 1)))" || exit 1
for index in $(seq 0 $((TALLY_ARRAY_SIZE - 1))); do
  host=$(printf "$TALLY_ARRAY_HOSTS" $index)
  url="http://$host:$(echo $PORTS | cut -d ' ' -f $((index + 1)))/index.html"
  until said=$(wget -q -O - "$url" 2>/dev/null); do sleep 0.2; done
  echo "$host says: $said"
done
touch met
until [ -e go ]; do sleep 0.2; done
"""
"""Each member serves a page on a port of its own, and reads the pages of all. Member 2 fails in round 1."""


@pytest.fixture
def service(core: Any, namespace: str) -> Iterator[str]:
    """The headless Service of `components/gangs`, in the namespace of the tests."""
    body = yaml.safe_load(SERVICE.read_text())
    name: str = body["metadata"]["name"]
    del body["metadata"]["namespace"]
    core.create_namespaced_service(namespace, body)
    yield name
    core.delete_namespaced_service(
        name, namespace, _preload_content=False
    )  # the server answers with a Status


def published(core: Any, namespace: str, service: str) -> dict[str, str]:
    """The host names of the Service, and their pods: what a DNS server of the cluster answers from."""
    group, selector = "discovery.k8s.io", f"kubernetes.io/service-name={service}"
    api: Any = client.CustomObjectsApi(core.api_client)
    versions: Any = client.ApisApi(core.api_client).get_api_versions()
    (version,) = [each.preferred_version.version for each in versions.groups if each.name == group]
    slices = api.list_namespaced_custom_object(
        group, version, namespace, "endpointslices", label_selector=selector
    )
    endpoints = [each for found in slices["items"] for each in found.get("endpoints") or ()]
    return {each["targetRef"]["name"]: each.get("hostname", "") for each in endpoints}


def in_pod(core: Any, namespace: str, pod: str, command: str) -> str:
    """The output of a shell's command in the pod's container."""
    output: str = stream(
        core.connect_get_namespaced_pod_exec,
        pod,
        namespace,
        command=["sh", "-c", command],
        stdout=True,
        stderr=True,
    )
    return output


def test_members_meet_by_name_also_in_the_round_after_one_has_failed(
    request: pytest.FixtureRequest, tally: LocalCluster, core: Any, namespace: str, task: Make, service: str
) -> None:
    """One launcher and two workers. In round 1 a worker fails, and those who wait for it are stopped."""
    spec = task(MEET, retry={"max_attempts": 2, "backoff_seconds": 0})
    name, on_host = spec["id"], option(request, "host_network")
    hosts = [f"{name}-i{index}.{service}" for index in range(SIZE)]
    container = {
        "name": "task",
        "volumeMounts": [{"name": "work", "mountPath": "/work"}],
        "env": [{"name": "MASTER_ADDR", "value": "$(TALLY_ARRAY_LEADER)"}],
    }
    template = {
        "subdomain": service,
        "containers": [container],
        "volumes": [{"name": "work", "emptyDir": {}}],
    }
    if on_host:  # a cluster without a network plugin has no DNS either: the kubelet writes the names down
        template["hostAliases"] = [{"ip": "127.0.0.1", "hostnames": hosts}]
    spec |= {
        "array": {"gang": True, "roles": [{"name": "launcher", "size": 1}, {"name": "worker", "size": 2}]},
        "env": {"PORTS": " ".join(map(str, free_ports(SIZE))), "BIND": "127.0.0.1" if on_host else "0.0.0.0"},
        "pod_template": {"spec": template},
    }
    with tally.client() as users:
        for feature in ("arrays", "gangs"):
            users.features.enable(feature)
        users.submit(spec)
    wait_for(tally, name, "in round 2", lambda view: view.attempt == 2 and is_running(view))
    pods = {f"{name}-i{index}-2": f"{name}-i{index}" for index in range(SIZE)}
    wait_until(
        lambda: published(core, namespace, service) == pods,
        "the names of round 2, and of none before",
        timeout=PATIENCE,
        poll=0.5,
    )
    wait_until(
        lambda: all(in_pod(core, namespace, pod, "ls /work/met") == "/work/met\n" for pod in pods),
        "all having met all",
        timeout=PATIENCE,
        poll=0.5,
    )
    for pod in pods:
        in_pod(core, namespace, pod, "touch /work/go")
    with tally.client() as users:
        view = users.wait([name], timeout_seconds=PATIENCE)[name]
        assert (view.state, view.attempt) == (State.SUCCEEDED, 2), view
        engine = engine_of(namespace)
        outputs = [b"".join(users.outputs.logs(member, engine=engine)).decode() for member in pods.values()]
        engine.close()
    roles = ["launcher 0 of 1", "worker 0 of 2", "worker 1 of 2"]
    said = [f"{host} says: {role}, led by {hosts[0]}\n" for host, role in zip(hosts, roles, strict=True)]
    assert outputs == [f"{role}, led by {hosts[0]}\n" + "".join(said) for role in roles]
    wait_until(
        lambda: not published(core, namespace, service),
        "no name of what has ended",
        timeout=PATIENCE,
        poll=0.5,
    )
