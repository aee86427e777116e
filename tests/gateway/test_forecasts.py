"""What a gateway tells of what is to come: to each caller, of the tasks that it may read."""

from __future__ import annotations

from typing import Any

import pytest

from controller.client import Client
from controller.core.model.lifecycle import State
from controller.gateway.openings import LIMITS, Opening
from controller.gateway.veil import ANOTHER
from tests.client.conftest import PutStatus
from tests.client.conftest import put_status as put_status
from tests.gateway.conftest import As


def task(name: str, owner: str, **more: object) -> dict[str, object]:
    return {"id": name, "owner": owner, "command": [owner], "resources": {"cpu": 8}, **more}


@pytest.fixture(autouse=True)
def _tasks(client: Client, put_status: PutStatus) -> None:
    """One of vision has run for ten seconds; of it and of speech one waits, and one of speech runs on."""
    for result in client.submit_many(
        [
            task("seen", "vision"),
            task("mine", "vision"),
            task("theirs", "speech"),
            task("endless", "speech", command=["unknown"]),
        ]
    ):
        assert result.outcome == "created", result
    put_status("seen", State.SUCCEEDED, started_at=100.0, finished_at=110.0, owner="vision")
    put_status("endless", State.RUNNING, started_at=100.0, owner="speech")


def test_what_is_to_come_is_told_of_ones_own_tasks(as_: As) -> None:
    """Of pools, what they hold; of tasks of others, that they are there if one's own wait for them."""
    alice, bob, watcher = (as_(name) for name in ("alice", "bob", "watcher"))
    mine = alice.get("/v1/tasks/mine/forecast").json()
    assert mine["tasks"].keys() == {"mine"}
    assert mine["endless"] == {"default": [ANOTHER]}
    assert "of pool default will run" in mine["text"]
    assert "endless" not in mine["text"]
    assert mine["pools"]["default"]["running"]["cpu"][0] == 100
    assert mine["pools"]["default"]["waiting"] == []
    theirs = bob.get("/v1/forecast?tasks=theirs").json()
    assert theirs["endless"] == {"default": ["endless"]}
    assert watcher.get("/v1/forecast?tasks=mine,theirs").json()["tasks"].keys() == {"mine", "theirs"}
    assert watcher.get("/v1/forecast").json()["pools"]["default"]["waiting"][0] == 2
    assert mine["tasks"]["mine"]["before"] == {}
    for path in ("/v1/tasks/theirs/forecast", "/v1/forecast?tasks=mine,theirs", "/v1/tasks/nosuch/forecast"):
        assert alice.get(path).status_code == 404
    every = alice.post("/v1/forecast", json={}).json()
    assert every["now"]["tasks"].keys() == {"mine"}
    assert watcher.post("/v1/forecast", json={}).json()["now"]["tasks"].keys() == {
        "mine",
        "theirs",
        "endless",
    }


def test_arrays_of_others_are_not_told_by_what_is_supposed(as_: As, client: Client) -> None:
    """Not their sizes, and of their names no more than that they are taken."""
    alice = as_("alice")
    assert client.submit(task("secret", "speech", array={"size": 37})).outcome == "created"
    _, revision = client.store.get(client.keys.prefix, deadline=client.clock.boottime() + 5)

    def detail(**supposed: object) -> str:
        path = f"/v1/forecast?min_revision={revision}&wait=20"
        return str(alice.post(path, json={"supposed": supposed}).json()["detail"])

    for name in ("secret-i3", "secret-i99"):
        unused = name.replace("secret", "nosuch")
        assert detail(cancelled=[name]) == detail(cancelled=[unused]).replace(unused, name)
        assert detail(priorities={name: 5}) == detail(priorities={unused: 5}).replace(unused, name)
    taken = detail(tasks=[task("theirs", "vision")])
    assert "theirs already" in taken
    assert detail(tasks=[task("secret-i3", "vision")]) == taken.replace("theirs", "secret-i3")


def test_others_cannot_be_guessed(as_: As, client: Client, put_status: PutStatus) -> None:
    """Neither what they run, nor how much of it: also not by numbers beside."""
    more = [task(f"more-{number}", "speech", command=["secret"]) for number in range(9)]
    assert all(result.accepted for result in client.submit_many(more))
    for each in more:
        put_status(str(each["id"]), State.SUCCEEDED, started_at=100.0, finished_at=107.0, owner="speech")
    _, revision = client.store.get(client.keys.prefix, deadline=client.clock.boottime() + 5)
    told = {}
    for name in ("alice", "bob"):
        new = task("new", {"alice": "vision", "bob": "speech"}[name], command=["secret"])
        body = {"supposed": {"tasks": [new]}}
        path = f"/v1/forecast?min_revision={revision}&wait=20"
        [coming] = as_(name).post(path, json=body).json()["then"]["tasks"]
        told[name] = coming["by"], coming["runs"]
    assert told == {"alice": ("", 0), "bob": ("command", 9)}
    for name, of in (("alice", 0), ("watcher", 8)):
        assert as_(name).get("/v1/forecast").json()["error"]["of"] == of


def test_what_is_supposed_must_be_ones_own(as_: As, client: Client) -> None:
    """As a submission, and a change, would have to be; and nothing is written."""
    alice, ops = as_("alice"), as_("ops")
    _, before = client.store.get(client.keys.prefix, deadline=client.clock.boottime() + 5)

    def ask(caller: Any, **supposed: object) -> Any:
        return caller.post("/v1/forecast", json={"supposed": supposed})

    body = {"tasks": ["mine"], "supposed": {"tasks": [task("new", "vision")]}}
    both = alice.post("/v1/forecast", json=body).json()
    assert both["now"]["tasks"].keys() == {"mine"}
    assert [each["id"] for each in both["then"]["tasks"]] == ["new", "mine"]
    unknown = alice.post("/v1/forecast", json={**body, "tasks": ["theirs"]})
    assert unknown.status_code == 404
    wider = {"name": "default", "capacity": {"cpu": 64}}
    new = task("new", "vision", after=["mine"])
    answer = ask(alice, tasks=[new], priorities={"mine": 9}).json()
    assert [each["id"] for each in answer["then"]["tasks"]] == ["new"]
    assert {each["id"] for each in answer["then"]["changed"]} <= {"mine"}
    assert {line["owner"] for line in answer["then"]["waits"]} == {"vision"}
    hidden = ask(alice, pools=[wider])
    assert (hidden.status_code, hidden.json()["verb"]) == (403, "read-any")
    everything = ask(ops, pools=[wider]).json()["then"]
    assert [each["id"] for each in everything["changed"]] == ["mine", "theirs"]
    refused = ask(alice, tasks=[task("new", "speech")])
    assert (refused.status_code, refused.json()["verb"]) == (403, "submit")
    for supposed in ({"cancelled": ["theirs"]}, {"priorities": {"theirs": 1}}, {"held": ["nosuch"]}):
        answer = ask(alice, **supposed)
        assert answer.status_code == 404
    hidden = ask(alice, tasks=[task("new", "vision", after=["theirs"])])
    absent = ask(alice, tasks=[task("new", "vision", after=["nosuch"])])
    assert hidden.status_code == absent.status_code == 400
    assert hidden.text.replace("theirs", "nosuch") == absent.text
    wrong = ask(alice, tasks=[task("new", "vision", retry={"max_attempts": 0})])
    assert (wrong.status_code, wrong.json()["field"]) == (400, "tasks[0].retry.max_attempts")
    assert alice.post("/v1/forecast", json={"nosuch": 1}).status_code == 400
    _, after = client.store.get(client.keys.prefix, deadline=client.clock.boottime() + 5)
    assert after == before


def test_nobody_keeps_the_forecaster_busy_alone() -> None:
    of_all, of_one = LIMITS[Opening.FORECASTS]
    assert of_one < of_all
