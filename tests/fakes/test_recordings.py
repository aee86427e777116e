"""The fake cluster says what the real one said.

Each recording is made again: its requests are sent to a fake cluster of the same version, which runs faster,
and the events of the watch are compared in order, with equal neighbours merged: the type, whether a deletion
is marked, and the whole status. The pods' other fields and the answers to requests are compared too.

Tolerated, because nobody can depend on them: times (masked, but whether there is one is compared), ids,
addresses of versions, and *where a repeated status falls* (a status that is sent again unchanged but for its
version). The wording of one decoding error is cut to its meaning, see `test_invalid_specs`. The number of
seconds between events is not compared: the fake's clock is its own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
import requests

from controller.dev.fake_kubernetes import FakeCluster, Script
from tests.support.fake_cluster import ClusterFactory, RawApi
from tests.support.kubernetes_recordings import NAMES, Document, Recording, load
from tests.support.waiting import wait_until

VERSION = "v1.20.2"
PODS = "/api/v1/namespaces/default/pods"
WITHOUT_PODS = {"api-errors", "invalid-specs"}

_ADDED_BY_SERVER = {
    "terminationMessagePath",
    "terminationMessagePolicy",
    "dnsPolicy",
    "securityContext",
    "schedulerName",
}
_ADDED_BY_SERVER |= {"priority", "enableServiceLinks", "preemptionPolicy", "nodeName"}
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
_ID = re.compile(r"docker://[0-9a-f]{64}|[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


def masked(value: Any) -> Any:
    """The document without what differs from run to run."""
    text = json.dumps(value, sort_keys=True)
    return json.loads(_ID.sub("ID", _TIME.sub("TIME", text)))


def seen(events: list[Document]) -> list[Document]:
    """What a watcher learns, event by event, equal neighbours merged."""
    learned: list[Document] = []
    for event in events:
        pod = event["object"]
        metadata = pod["metadata"]
        entry = {"type": event["type"], "status": masked(pod["status"]), "spec": masked(pod["spec"])}
        entry |= {
            "deleting": "deletionTimestamp" in metadata,
            "grace": metadata.get("deletionGracePeriodSeconds"),
        }
        if not learned or learned[-1] != entry:
            learned.append(entry)
    return learned


def request_of(answer: Document) -> Document:
    """The pod that was sent, from the pod that was answered: without what the server had added."""
    spec = {name: value for name, value in answer["spec"].items() if name not in _ADDED_BY_SERVER}
    if all(each.get("tolerationSeconds") == 300 for each in spec["tolerations"]):
        del spec["tolerations"]
    spec["containers"] = [
        {k: v for k, v in each.items() if k not in _ADDED_BY_SERVER} for each in spec["containers"]
    ]
    return {
        "metadata": {"name": answer["metadata"]["name"], "labels": answer["metadata"]["labels"]},
        "spec": spec,
    }


@pytest.fixture
def api(fake_clusters: ClusterFactory, request: pytest.FixtureRequest) -> RawApi:
    """A cluster of the recorded version, in which a minute passes in 1.2 s."""

    # the others' commands say enough
    scripts = {"t-oom-1": Script(oom=True), "t-nocmd-1": Script(start="not-found")}

    def script(pod: Document) -> Script | None:
        return scripts.get(pod["metadata"]["name"])

    # In `node-lost-and-back` the node must be lost within the 20 s that one container runs; a busy machine
    # may take a while.
    scale = 0.05 if "node-lost-and-back" in request.node.name else 0.02
    cluster = fake_clusters(version=VERSION, scale=scale, script=script, bookmark_seconds=10 * scale)
    cluster.state.missing_images.add("absent:1")
    return RawApi(cluster)


def running(api: RawApi, name: str) -> Callable[[], bool]:
    """Whether the pod's container is reported to run."""

    def reported() -> bool:
        status = (api.cluster.state.pod(name) or {}).get("status", {})
        return bool(status.get("phase") == "Running")

    return reported


def act(api: RawApi, recording: Recording) -> None:
    """Do what was done while the recording was made."""
    first = recording.requests[0]["body"]["metadata"]["name"]
    for request in recording.requests:
        method, path, body = request["method"], request["path"].removeprefix("/pods"), request["body"]
        if method == "POST":
            sent = recording.answers("POST")[0]["body"] if body["kind"] == "Status" else body
            answer = api.send("POST", json=request_of(sent))
        elif method == "NOTE":
            lose_and_restore(api)
            continue
        else:
            if request["code"] == 200:
                before = (
                    running(api, first)
                    if recording.name != "deleted-while-pending"
                    else unschedulable(api, first)
                )
                wait_until(before, "the state in which the recorded request was sent")
            if method == "PATCH":
                deadline = body["spec"]["activeDeadlineSeconds"]
                patch = {"spec": {"activeDeadlineSeconds": deadline}}
                answer = api.send(
                    "PATCH", path, json=patch, headers={"Content-Type": "application/merge-patch+json"}
                )
            else:
                answer = api.send("DELETE", path, params=request["query"])
        assert answer.status_code == request["code"]
        assert_same_answer(answer.json(), body)


def unschedulable(api: RawApi, name: str) -> Callable[[], bool]:
    """Whether the scheduler has said that no node fits."""
    return lambda: bool((api.cluster.state.pod(name) or {"status": {}})["status"].get("conditions"))


def lose_and_restore(api: RawApi) -> None:
    """The kubelet is killed while both pods run, and started again after one of them has ended."""
    cluster = api.cluster
    names = ("t-nodelost-1", "t-nodelost-2")
    for name in names:
        wait_until(running(api, name), f"{name} running")
    cluster.state.lose_node()
    wait_until(lambda: any(each.ended for each in cluster.state.executions), "the end of one container")
    wait_until(lambda: all(ready(cluster, name) == "False" for name in names), "both marked not ready")
    cluster.state.restore_node()


def ready(cluster: FakeCluster, name: str) -> str:
    """The status of the pod's condition Ready."""
    pod = cluster.state.pod(name)
    assert pod is not None
    return next(
        (each["status"] for each in pod["status"].get("conditions", ()) if each["type"] == "Ready"), ""
    )


def assert_same_answer(answer: Document, recorded: Document) -> None:
    """The bodies are equal, but for what differs from run to run."""
    answer, recorded = masked(answer), masked(recorded)
    for body in (answer, recorded):
        body["metadata"].pop("resourceVersion", None)
    assert answer == recorded


@pytest.mark.parametrize("name", [name for name in NAMES if name not in WITHOUT_PODS])
def test_the_watch_says_what_the_real_one_said(api: RawApi, name: str) -> None:
    """The same requests lead to the same events, pod by pod, and to the same answers."""
    recording = load(name)
    pods = [
        request["body"]["metadata"]["name"] for request in recording.answers("POST") if request["code"] == 201
    ]
    events = api.watch(allowWatchBookmarks="1")
    act(api, recording)

    expected = {pod: seen(recording.pod_events(pod)) for pod in pods}
    received: dict[str, list[Document]] = {pod: [] for pod in pods}
    complete = False
    for event in events:
        if event["type"] == "BOOKMARK":
            assert event["object"].keys() == {"kind", "apiVersion", "metadata", "spec", "status"}
            if complete:  # and nothing more came before the next bookmark, which is 10 s of the cluster later
                break
            complete = all(seen(received[pod]) == expected[pod] for pod in pods)
        else:
            received[event["object"]["metadata"]["name"]].append(event)
            assert all(len(seen(received[pod])) <= len(expected[pod]) for pod in pods), seen(
                received[pods[0]]
            )[-1]
    for pod in pods:
        assert seen(received[pod]) == expected[pod]


def test_errors_in_the_servers_words(api: RawApi) -> None:
    """Compacted watch, bad continue token, bad credentials, no right, missing pod."""
    compacted, token, unauthorized, forbidden, missing = load("api-errors").requests

    answer = api.send("GET", params={"watch": "true", "resourceVersion": "5"}, stream=True)
    assert answer.status_code == compacted["code"] == 200
    number = re.compile(r"\(\d+\)")  # the server's own revision
    assert json.loads(number.sub("()", answer.text)) == json.loads(number.sub("()", compacted["body"]))

    answer = api.send("GET", params={"limit": 1, "continue": "abc"})
    assert (answer.status_code, answer.json()) == (token["code"], json.loads(token["body"]))

    answer = api.send("POST", json={}, headers={"Authorization": "Bearer wrong"})
    assert (answer.status_code, answer.json()) == (unauthorized["code"], unauthorized["body"])

    anonymous = requests.post(f"{api.cluster.url}{PODS}", json={}, timeout=10)
    assert (anonymous.status_code, anonymous.json()) == (forbidden["code"], forbidden["body"])

    answer = api.send("DELETE", "/t-deleted-7", json={"preconditions": {"uid": "wrong"}})
    assert (answer.status_code, answer.json()) == (missing["code"], missing["body"])


def test_invalid_specs(api: RawApi) -> None:
    """A quantity that does not parse is 400; fields that are not valid are 422, with their causes."""
    undecodable, bad_name, no_containers = load("invalid-specs").requests
    container = {"name": "task", "image": "busybox:1", "command": ["true"]}

    bad_quantity = container | {"resources": {"requests": {"cpu": "abc"}}}
    answer = api.send("POST", json={"metadata": {"name": "t-bad-1"}, "spec": {"containers": [bad_quantity]}})
    assert answer.status_code == undecodable["code"] == 400
    # v1.20's decoder tells its own stack and the bytes around the fault; newer servers, and the fake, only
    # what is wrong.
    told, recorded = answer.json(), undecodable["body"]
    matching = re.search(r"quantities must match.*\$'", recorded["message"])
    assert matching is not None
    for part in (
        'Pod in version "v1" cannot be handled as a Pod: ',
        matching[0],
    ):
        assert part in told["message"]
        assert part in recorded["message"]
    assert told | {"message": ""} == recorded | {"message": ""}

    answer = api.send("POST", json={"metadata": {"name": "T_BAD"}, "spec": {"containers": [container]}})
    assert (answer.status_code, answer.json()) == (bad_name["code"], bad_name["body"])

    answer = api.send("POST", json={"metadata": {"name": "t-bad-3"}, "spec": {"containers": []}})
    assert (answer.status_code, answer.json()) == (no_containers["code"], no_containers["body"])
