"""An array of another owner does not exist, nor do its members; to act on members needs the same verbs."""

from __future__ import annotations

import json

import pytest

from controller.client import Client
from controller.core.model.blocks import WAITS, Fate, MemberOutcome
from controller.core.model.lifecycle import State
from tests.client.conftest import PutRaw, PutStatus
from tests.client.conftest import put_status as put_status
from tests.gateway.conftest import As
from tests.support.array_records import begin_array, put_block, submit_array
from tests.support.gang_records import begin_gang, submit_gang


@pytest.fixture
def at(client: Client, put_raw: PutRaw, put_status: PutStatus) -> str:
    """Revision of an array of the owner vision, as a parameter."""
    submit_array(client, "render", owner="vision", env={"KEY": "secret"})
    revision = begin_array(client, put_raw, put_status, "render", "vision")
    return f"?min_revision={revision}&wait=20"


@pytest.mark.parametrize("name", ["render", "render-i0", "render-i3", "render-i9"])
def test_what_may_not_be_read_does_not_exist(as_: As, at: str, name: str) -> None:
    none = as_("bob").get(f"/v1/tasks/nobody{at}")
    assert none.status_code == 404
    for path in ("", "/members", "/neighbours", "/explain", "/logs", "/log"):
        assert as_("bob").get(f"/v1/tasks/{name}{path}{at}").status_code == 404
    told = as_("bob").get(f"/v1/tasks/{name}{at}").json()["detail"]
    assert told.replace(name, "nobody") == none.json()["detail"]
    for verb in ("cancel", "retry"):
        assert as_("bob").post(f"/v1/tasks/{name}/{verb}", json={"members": ""}).status_code == 404
        assert as_("watcher").post(f"/v1/tasks/{name}/{verb}", json={}).status_code == 403
    assert as_("alice").get(f"/v1/tasks/{name}{at}").status_code == 200
    assert as_("alice").get(f"/v1/tasks/{name}/neighbours{at}").json()["id"] == "render"


def test_members_of_an_array(as_: As, at: str) -> None:
    alice = as_("alice")
    found = alice.get(f"/v1/tasks/render/members{at}&limit=3&offset=1").json()
    assert [(each["index"], each["state"]) for each in found["items"]] == [
        (1, "Failed"),
        (2, "Cancelled"),
        (3, "Running"),
    ]
    assert found["next_offset"] == 4
    assert (found["progress"]["size"], found["progress"]["waiting"]) == (10, 6)
    assert alice.get(f"/v1/tasks/render-i3/members{at}").status_code == 409
    assert alice.get(f"/v1/tasks/render/members{at}&state=odd").json()["parameter"] == "state"
    assert alice.get(f"/v1/tasks/render/members{at}&members=4-2").json()["parameter"] == "members"


def test_lists_and_environments(as_: As, at: str) -> None:
    lines = as_("alice").get(f"/v1/tasks{at}").text.splitlines()
    assert [json.loads(line)["id"] for line in lines] == ["render"]
    assert [each["id"] for each in as_("alice").get(f"/v1/tasks:page{at}").json()["items"]] == ["render"]
    member = as_("watcher").get(f"/v1/tasks/render-i9{at}").json()
    assert set(member["spec"]["env"].values()) == {"***"}
    assert member["member_of"] == "render"


def test_members_are_asked_for(as_: As, at: str, client: Client) -> None:
    alice = as_("alice")
    asked = alice.post("/v1/tasks/render/cancel", json={"members": "7-8"})
    assert asked.json()["outcome"] == "requested"
    refused = alice.post("/v1/tasks/render/cancel", json={"members": "7-80"})
    assert (refused.status_code, refused.json()["field"]) == (400, "members")
    asked = alice.post("/v1/tasks/render/retry", json={"only_failed": True})
    assert asked.status_code == 409  # the leader has yet to cancel
    [request] = [each for each, _ in client._reading.tasks("render").tasks["render"].requests.values()]
    assert (request.members, request.by) == ("7-8", "alice")
    assert client.get("render").state is State.RUNNING


def test_a_part_of_a_gang_is_refused_with_the_reason(as_: As, client: Client, put_status: PutStatus) -> None:
    submit_gang(client, "train", owner="vision")
    at = f"?min_revision={begin_gang(put_status, 'train', 'vision')}&wait=20"
    alice = as_("alice")
    found = alice.get(f"/v1/tasks/train/members{at}").json()
    assert [each["role"] for each in found["items"]] == ["launcher", "worker", "worker", "worker"]
    assert alice.get(f"/v1/tasks/train/members/runs{at}").json()["runs"] == [
        [1, "Running"],
        [1, "Pending"],
        [2, "Waiting"],
    ]
    bodies: list[tuple[str, dict[str, object]]] = [
        ("train/cancel", {"members": "3"}),
        ("train/retry", {"only_failed": True}),
        ("train-i3/cancel", {}),
    ]
    for path, body in bodies:
        refused = alice.post(f"/v1/tasks/{path}", json=body)
        assert refused.status_code == 409
        assert "which runs and ends whole: ask for all of it, as train" in refused.json()["detail"]
    assert not client._reading.tasks("train").tasks["train"].requests
    assert as_("bob").post("/v1/tasks/train-i3/cancel", json={}).status_code == 404
    assert alice.post("/v1/tasks/train/cancel", json={}).status_code in (200, 202)


def test_a_task_of_others_has_the_name_of_a_member(as_: As, client: Client, put_raw: PutRaw) -> None:
    """The owner of the array is told why the member never ran, and nothing of that task."""
    client.submit({"id": "col-i1", "command": ["true"], "owner": "speech"})
    submit_array(client, "col", owner="vision")
    taken = Fate(MemberOutcome.FAILED, reason="NameTaken")
    seen = f"?min_revision={put_block(client, put_raw, 'col', WAITS, taken)}&wait=20"
    for path in ("", "/explain", "/neighbours", "/log"):
        answer = as_("alice").get(f"/v1/tasks/col-i1{path}{seen}")
        assert answer.status_code == 404
        told = answer.json()["detail"]
        assert "member 1 of col never ran, since another task has its name" in told, path
        assert "speech" not in told
    theirs = as_("bob").get(f"/v1/tasks/col-i1/explain{seen}").json()["text"]
    assert "col" not in theirs.replace("col-i1", "")


def test_nobody_fails_an_array_of_others_by_the_name_of_a_member(as_: As, at: str) -> None:
    """The name is taken, as that of any task."""
    task = {"id": "render-i1", "command": ["true"], "owner": "speech"}
    for parameters in ({"dry_run": "true"}, {}):
        answer = as_("bob").post("/v1/tasks", json=task, params=parameters)
        assert answer.status_code == 409, answer.text
    assert as_("bob").post("/v1/tasks", json={**task, "id": "render-i99"}).status_code == 201
