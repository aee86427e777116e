"""Faults on command: each strikes as often as asked, and leaves behind what it says."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import requests

from controller.dev.fake_kubernetes import FakeCluster
from tests.support.fake_cluster import RawApi, core_api, task_pod
from tests.support.waiting import wait_until

NEVER: dict[str, Any] = {"schedulingGates": [{"name": "tally.dev/closed"}]}
BROKEN = requests.exceptions.ConnectionError


@pytest.fixture
def api(fake_cluster: FakeCluster) -> RawApi:
    """Plain requests."""
    return RawApi(fake_cluster)


def names(cluster: FakeCluster) -> list[str]:
    """The pods that exist."""
    return [pod["metadata"]["name"] for pod in cluster.state.pods()]


def test_an_answer_dropped_after_the_effect(api: RawApi, fake_cluster: FakeCluster) -> None:
    """The pod exists, the client knows nothing; the next request is answered."""
    fake_cluster.state.faults.drop_answers("create", times=1)
    with pytest.raises(BROKEN):
        api.send("POST", json=task_pod("a-1", **NEVER))
    assert names(fake_cluster) == ["a-1"]
    assert api.send("POST", json=task_pod("a-1", **NEVER)).status_code == 409
    assert fake_cluster.state.faults.struck == {"drop-answer create": 1}


def test_a_request_dropped_before_the_effect(api: RawApi, fake_cluster: FakeCluster) -> None:
    """An outage: nothing has happened; it lasts until the fault is removed."""
    outage = fake_cluster.state.faults.drop_requests()
    for _ in range(3):
        with pytest.raises(BROKEN):
            api.send("POST", json=task_pod("a-1", **NEVER))
    fake_cluster.state.faults.remove(outage)
    assert names(fake_cluster) == []
    api.create(task_pod("a-1", **NEVER))


def test_faults_choose_verb_and_resource(api: RawApi, fake_cluster: FakeCluster) -> None:
    """Others pass."""
    fake_cluster.state.faults.fail(500, "delete")
    fake_cluster.state.faults.fail(500, "get", resource="pods/log")
    api.create(task_pod("a-1", **NEVER))
    assert api.send("GET", "/a-1").status_code == 200
    assert [api.send("GET", "/a-1/log").status_code, api.send("DELETE", "/a-1").status_code] == [500, 500]
    assert api.send("DELETE", "/a-1").json()["reason"] == "InternalError"
    assert names(fake_cluster) == ["a-1"]


def test_too_many_requests(api: RawApi, fake_cluster: FakeCluster) -> None:
    """429 with Retry-After, as text, as the server's filters send it."""
    fake_cluster.state.faults.fail(429, "list", times=2, retry_after=1)
    answers = [api.send("GET") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [429, 429, 200]
    assert answers[0].headers["Retry-After"] == "1"
    assert answers[0].text == "Too many requests, please try again later.\n"


def test_unauthorized_once(api: RawApi, fake_cluster: FakeCluster) -> None:
    """As when a token has just expired."""
    fake_cluster.state.faults.fail(401, times=1)
    assert [api.send("GET").status_code for _ in range(2)] == [401, 200]


def test_a_rate_is_drawn_from_a_seed(api: RawApi, fake_cluster: FakeCluster) -> None:
    """Some strike, some do not, the same in each run."""
    fake_cluster.state.faults.fail(503, "list", rate=0.3)
    codes = [api.send("GET").status_code for _ in range(40)]
    assert codes.count(503) == fake_cluster.state.faults.struck["status list"] == 6


def test_a_delay_outlasts_the_client(fake_cluster: FakeCluster, tmp_path: Path) -> None:
    """The client gives up, and the request takes effect all the same."""
    core = core_api(fake_cluster, tmp_path)
    hold = fake_cluster.state.faults.hold("create", times=1)
    with pytest.raises(Exception, match="timed out"):
        core.create_namespaced_pod("default", task_pod("a-1", "true"), _request_timeout=0.2)
    assert hold.wait_held(1)
    assert names(fake_cluster) == []
    core.create_namespaced_pod("default", task_pod("b-1", "true"))  # later requests pass
    hold.release()
    wait_until(lambda: "a-1" in names(fake_cluster), "the late creation")


def test_held_requests_pass_in_the_end(api: RawApi, fake_cluster: FakeCluster) -> None:
    """A client that waits gets its answer, also when all faults are cleared."""
    hold = fake_cluster.state.faults.hold("create")
    thread = threading.Thread(target=api.create, args=(task_pod("a-1", **NEVER),))
    thread.start()
    assert hold.wait_held(1)
    assert not hold.wait_held(2, timeout=0.01)
    fake_cluster.state.faults.clear()
    thread.join(10)
    assert not thread.is_alive()
    assert names(fake_cluster) == ["a-1"]


def test_a_delayed_request(api: RawApi, fake_cluster: FakeCluster) -> None:
    """It is answered late."""
    fake_cluster.state.faults.delay(0.3, "list", times=1)
    with pytest.raises(requests.exceptions.ReadTimeout):
        api.http.get(f"{fake_cluster.url}/api/v1/pods", timeout=0.1)
    assert fake_cluster.state.faults.struck == {"delay list": 1}
    assert api.send("GET").status_code == 200


def test_faults_over_http(api: RawApi, fake_cluster: FakeCluster) -> None:
    """For a cluster in another process: ordered, listed, cleared; what ran is listed too."""
    url = f"{fake_cluster.url}/_faults"
    assert requests.post(url, data='{"fault": "restart"}', timeout=10).status_code == 401, (
        "a web page can post, too"
    )
    ordered = api.http.post(
        url, json={"fault": "fail", "status": 503, "verb": "list", "times": 2}, timeout=10
    )
    assert ordered.json() == {"active": ["status list * left=2 rate=1.0"], "struck": {}}
    assert api.send("GET").status_code == 503
    assert api.http.get(url, timeout=10).json()["struck"] == {"status list": 1}
    assert api.http.delete(url, timeout=10).json()["active"] == []
    assert api.send("GET").status_code == 200

    api.create(task_pod("a-1", "true"))
    wait_until(
        lambda: fake_cluster.state.executions and fake_cluster.state.executions[0].ended, "the end of a-1"
    )
    [execution] = api.http.get(f"{url}/executions", timeout=10).json()
    assert (execution["pod"], execution["task"], execution["exit_code"]) == ("a-1", "a", 0)

    # its last report is in the history, and no event of the watch that begins now
    wait_until(
        lambda: (fake_cluster.state.pod("a-1") or {})["status"]["phase"] == "Succeeded",
        "the report of its end",
    )
    events = api.watch()
    assert api.http.post(url, json={"fault": "expire-watches"}, timeout=10).status_code == 200
    assert next(events)["object"]["code"] == 410
    for body in ({"fault": "no-such"}, {"fault": "compact", "often": 3}, {}):
        assert api.http.post(url, json=body, timeout=10).status_code == 400
