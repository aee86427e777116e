"""What the status endpoint tells of what is to come, and whom a leader sends elsewhere."""

from __future__ import annotations

import json

import httpx
import pytest

from controller.core.model.lifecycle import State
from controller.core.model.resources import Vector
from controller.core.model.validation import parse_spec
from controller.errors import TallyError
from tests.endpoint.model_view import ModelView


@pytest.fixture(autouse=True)
def _tasks(view: ModelView) -> None:
    """One runs for another minute, and one waits for it."""
    view.define_pool("default", cpu=1000)
    deadlines = parse_spec({"id": "x", "command": ["true"], "deadlines": {"run": "60s"}}).deadlines
    for name in ("runs", "waits"):
        view.submit(name, resources=Vector({"cpu": 1000}), deadlines=deadlines)
    view.set_state("runs", State.RUNNING, hold=Vector({"cpu": 1000}), started_at=view.time)


def register(view: ModelView, name: str, url: str, host: str = "node-1") -> None:
    view.write(("replicas", (name,), json.dumps({"status_url": url, "host": host}).encode()))
    view.ages[name] = 0.5


def test_a_beginning_is_told_in_numbers_and_words(http: httpx.Client, view: ModelView) -> None:
    told = http.get("/v1/tasks/waits/forecast").json()
    assert told["tasks"]["waits"]["begins_at"] == view.time + 60
    assert told["tasks"]["waits"]["ends_at"] == view.time + 120
    assert told["text"].startswith("waits is expected to begin at 1970-01-01T00:17:40Z, in 1m at the latest.")
    assert told["pools"]["default"]["running"]["cpu"] == [1000, 0, 0]
    assert told["pools"]["default"]["planned"]["cpu"] == [0, 1000, 0]
    both = http.get("/v1/forecast?tasks=waits,runs,nosuch").json()
    assert both["tasks"].keys() == {"waits", "runs"}
    assert http.get("/v1/forecast").json()["tasks"] == {}


def test_what_is_wrong_is_said(http: httpx.Client, view: ModelView) -> None:
    assert http.get("/v1/tasks/nosuch/forecast").status_code == 404
    many = ",".join(f"t{number}" for number in range(101))
    for tasks in ("", ",", many, "a" * 254):
        answer = http.get("/v1/forecast", params={"tasks": tasks})
        assert (answer.status_code, answer.json()["parameter"]) == (400, "tasks")
    view.no_look = TallyError("no look ahead was possible: its process has ended")
    for path in ("/v1/forecast", "/v1/tasks/waits/forecast"):
        answer = http.get(path)
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
        assert "its process has ended" in answer.json()["detail"]


def test_a_leader_sends_askers_to_a_follower(http: httpx.Client, view: ModelView) -> None:
    """To one that is heard of, within reach; else, or if it is asked to, it answers itself."""
    view.role, view.leader = "leader", "replica-a"
    register(view, "replica-a", "http://10.0.0.1:9180")
    assert http.get("/v1/forecast").status_code == 200, "there is no follower"
    register(view, "replica-b", "http://127.0.0.1:9180", host="node-2")
    assert http.get("/v1/forecast").status_code == 200, "the loopback of another machine"
    register(view, "replica-c", "http://10.0.0.3:9180")
    view.ages["replica-c"] = 1000.0
    assert http.get("/v1/forecast").status_code == 200, "it is silent"
    register(view, "replica-d", "https://10.0.0.4:9180/")
    revision = view.facts().revision
    for path in (
        "/v1/forecast?tasks=runs%2Cwaits",
        "/v1/tasks/waits/forecast",
        f"/v1/forecast?tasks=runs&min_revision={revision}&wait=5.0",
        f"/v1/tasks/waits/forecast?min_revision={revision}",
    ):
        answer = http.get(path)
        assert (answer.status_code, answer.headers["Location"]) == (307, f"https://10.0.0.4:9180{path}")
        assert http.get(f"{path.partition('?')[0]}?here").status_code == 200
    view.role = "follower"
    assert http.get("/v1/forecast").status_code == 200


def test_an_address_that_is_none_is_passed_over(http: httpx.Client, view: ModelView) -> None:
    """A record may have anything."""
    view.role, view.leader = "leader", "replica-a"
    register(view, "replica-b", "http://[::1")
    register(view, "replica-c", "nothing")
    view.write(("replicas", ("replica-d",), b'{"status_url": 7}'))
    view.ages["replica-d"] = 0.5
    assert http.get("/v1/forecast").status_code == 200
    register(view, "replica-e", "http://127.0.0.1:9180", host="node-1")
    register(view, "replica-a", "http://127.0.0.1:9181", host="node-1")
    answer = http.get("/v1/forecast")
    assert answer.headers["Location"] == "http://127.0.0.1:9180/v1/forecast"
