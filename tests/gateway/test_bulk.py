"""One act on many tasks in one request: each task has the answer that it would have alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from controller import bulkhead
from controller.client import Client
from controller.client.bulk import MAX_ACTS
from controller.client.reading import OF_TASKS
from controller.core.model.lifecycle import State
from controller.endpoint.problems import CONTENT_TYPE
from controller.gateway import bulk
from controller.gateway.openings import LIMITS, Limit, Opening, Openings
from controller.gateway.writing import Seen, Writing
from controller.runtime.standby import Standby
from controller.store.base import OutcomeUnknown, StoreUnavailable
from controller.store.etcd.store import EtcdStore
from tests.client.conftest import PutStatus
from tests.client.conftest import put_status as put_status
from tests.gateway.conftest import As, Served, serving
from tests.gateway.test_gateway import task

PATH = "/v1/tasks:act"


def body(act: str, *names: str, **more: object) -> dict[str, Any]:
    return {"act": act, "tasks": [{"id": name} for name in names], **more}


def results(answer: httpx.Response) -> list[dict[str, Any]]:
    """The results, in their order."""
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["results"]
    return found


def test_own_tasks_are_acted_on_and_those_of_others_are_not(as_: As, client: Client) -> None:
    """Of 300 tasks in turn, half are the caller's. The revision of the answer is that of the last write."""
    names = [f"t{number}" for number in range(300)]
    owner_of = {name: ("vision", "speech")[number % 2] for number, name in enumerate(names)}
    client.submit_many([task(name, owner=owner) for name, owner in owner_of.items()])
    alice = as_("alice")
    asked = names[:MAX_ACTS][::-1], names[MAX_ACTS:]
    for some in asked:
        answer = alice.post(PATH, json=body("cancel", *some, reason="wrong data"))
        found = results(answer)
        assert [each["id"] for each in found] == some
        for each in found:
            if owner_of[each["id"]] == "vision":
                assert each == {"id": each["id"], "outcome": "requested", "message": ""}
                continue
            alone = alice.post(f"/v1/tasks/{each['id']}/cancel", json={})
            assert (alone.status_code, alone.headers["Content-Type"]) == (404, CONTENT_TYPE)
            assert each == {"id": each["id"], "problem": alone.json()}
        read: dict[str, str | int] = {"min_revision": answer.headers["Tally-Revision"], "wait": 5}
        lines = map(json.loads, alice.get("/v1/tasks", params=read).iter_lines())
        shown = {each["id"]: each["requests"] for each in lines}
        assert [shown.get(name) for name in some] == [
            ["cancel"] if owner_of[name] == "vision" else None for name in some
        ]
    asked_for = {view.id for view in client.tasks() if view.requests == ("cancel",)}
    assert asked_for == {name for name, owner in owner_of.items() if owner == "vision"}


def test_each_task_has_the_answer_that_it_would_have_alone(
    as_: As, client: Client, put_status: PutStatus
) -> None:
    """Not there, no name, replaced, ended, not to be changed; and the verb that is lacking."""
    client.submit_many([task(name) for name in ("waits", "ended", "replaced")])
    put_status("ended", State.SUCCEEDED, owner="vision")
    named: list[dict[str, Any]] = [
        {"id": "none"},
        {"id": "No Name"},
        {"id": ""},
        {"id": "replaced", "create_revision": client.get("replaced").create_revision - 1},
        {"id": "ended"},
        {"id": "waits", "create_revision": client.get("waits").create_revision},
    ]
    for act, statuses in {
        "retry": [404, 400, 400, 404, 409, 409],
        "set-priority": [404, 400, 400, 404, 409, None],
        "hold": [404, 400, 400, 404, 409, None],
        "cancel": [404, 400, 400, 404, None, None],
    }.items():
        more = {"priority": 7} if act == "set-priority" else {}
        found = results(as_("alice").post(PATH, json={"act": act, "tasks": named, **more}))
        assert [each.get("problem", {}).get("status") for each in found] == statuses, act
        for each, asked in zip(found, named, strict=True):
            if "problem" in each and asked["id"]:
                verb = "priority" if act == "set-priority" else act
                alone = {"create_revision": asked.get("create_revision", 0), **more}
                answer = as_("alice").post(f"/v1/tasks/{asked['id']}/{verb}", json=alone)
                assert each["problem"] == answer.json()
    assert [each.get("outcome") for each in found] == [*[None] * 4, "already finished", "requested"]
    assert found[1]["problem"]["field"] == "id"
    [denied, absent] = results(as_("watcher").post(PATH, json=body("cancel", "waits", "none")))
    assert (denied["problem"]["status"], denied["problem"]["verb"]) == (403, "cancel-own")
    assert absent["problem"]["status"] == 404
    view = client.get("waits")
    assert sorted(view.requests) == ["cancel", "change"]


def test_the_revision_is_that_of_the_last_write(
    as_: As, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also from a gateway whose own copy of the records is behind, and if the last task was not written."""
    client.submit_many([task(name) for name in "abcd"])
    alice = as_("alice")
    monkeypatch.setattr(Standby, "revision", property(lambda _: 1))
    answer = alice.post(PATH, json=body("cancel", *"abcd", "none"))
    assert "problem" in results(answer)[-1]
    tasks = client._reading.model(*OF_TASKS).tasks.values()
    mods = [mod for each in tasks for _, mod in each.requests.values()]
    assert len(mods) == 4
    assert answer.headers["Tally-Revision"] == str(max(mods))


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        (body("cancel", *(f"t{number}" for number in range(MAX_ACTS + 1))), "tasks"),
        (body("cancel"), "tasks"),
        (body("cancel", "a", "b", "a"), "tasks[2].id"),
        (body("cancel", "a", priority=1), "priority"),
        (body("set-priority", "a"), "priority"),
        (body("set-priority", "a", priority="1"), "priority"),
        (body("confirm-stopped", "a"), "act"),
        (body("cancel", "a", colour="red"), "colour"),
        ({"act": "cancel"}, "tasks"),
        ({"act": "cancel", "tasks": [{"id": "a", "revision": 1}]}, "tasks[0].revision"),
    ],
)
def test_a_wrong_body_is_refused_whole(as_: As, client: Client, wrong: dict[str, Any], field: str) -> None:
    """With the field that is wrong; nothing is asked for."""
    client.submit(task("a"))
    answer = as_("alice").post(PATH, json=wrong)
    assert (answer.status_code, answer.json()["field"]) == (400, field)
    assert answer.json()["detail"].startswith(f"{field}: ")
    assert client.get("a").requests == ()


def test_it_is_one_request_for_the_rate(client: Client, store: EtcdStore, tmp_path: Path) -> None:
    """Of two that the caller has, one is left after as many tasks as there may be."""
    names = [f"t{number}" for number in range(MAX_ACTS)]
    client.submit_many([task(name) for name in names])
    with (
        serving(store, client.keys.cluster, tmp_path, rates=(0.001, 2)) as served,
        httpx.Client(base_url=served.gateway.url, trust_env=False, timeout=30.0) as alice,
    ):
        alice.headers["Authorization"] = f"Bearer {served.tokens['alice']}"
        found = results(alice.post(PATH, json=body("cancel", *names)))
        assert {each["outcome"] for each in found} == {"requested"}
        statuses = [alice.post(PATH, json=body("cancel", "t0")).status_code for _ in range(2)]
        assert statuses == [200, 429]


def test_one_error_stops_no_other(as_: As, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """etcd that does not answer is a task's 503; what nobody expects is its 500, and counted."""
    client.submit_many([task(name) for name in "abcd"])
    errors = {
        "a": StoreUnavailable("no endpoint"),
        "b": OutcomeUnknown("the deadline has passed"),
        "c": ZeroDivisionError("a bug"),
    }
    cancel = Writing.cancel

    def failing(self: Writing, caller: Any, task_id: str, reason: str, seen: Seen) -> Any:
        if task_id in errors:
            raise errors[task_id]
        return cancel(self, caller, task_id, reason, seen)

    monkeypatch.setattr(Writing, "cancel", failing)
    before = bulkhead.counts.total()
    found = results(as_("alice").post(PATH, json=body("cancel", *"abcd")))
    assert [each.get("problem", {}).get("status") for each in found] == [503, 503, 500, None]
    assert "a bug" not in found[2]["problem"]["detail"].replace("this is a bug", "")
    assert bulkhead.counts.total() == before + 1
    assert found[3]["outcome"] == "requested"


def test_what_has_no_turn_in_time_is_not_asked_for(
    as_: As, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told with 503, so that its caller sends it again."""
    client.submit(task("a"))
    monkeypatch.setattr(bulk, "ACTING_SECONDS", -1.0)
    [late] = results(as_("alice").post(PATH, json=body("cancel", "a")))
    assert late["problem"]["status"] == 503
    assert "send it again" in late["problem"]["detail"]
    assert client.get("a").requests == ()


def test_how_many_are_open_is_limited(as_: As, served: Served, client: Client) -> None:
    """For one caller: the next one is told to wait."""
    client.submit(task("a"))
    api = served.gateway._api
    api.openings = Openings({**LIMITS, Opening.ACTS: Limit(2, 1)})
    with api.openings.one(Opening.ACTS, "alice"):
        refused = as_("alice").post(PATH, json=body("cancel", "a"))
        assert (refused.status_code, refused.headers["Retry-After"]) == (429, "2")
    assert results(as_("alice").post(PATH, json=body("cancel", "a")))[0]["outcome"] == "requested"
    metrics = as_("ops").get("/metrics").text
    assert 'tally_gateway_open{kind="acts"} 0.0' in metrics
    assert 'operation="actOnTasks"' in metrics
