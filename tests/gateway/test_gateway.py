"""The gateway over HTTP, on a real etcd: who may submit, read and change what."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from controller.client import Client
from controller.core.model.lifecycle import State
from controller.gateway.operations import OPERATIONS
from controller.store.base import Delete, Transaction, new_op
from controller.views.tasks import stored_tasks
from tests.client.conftest import PutStatus
from tests.client.conftest import put_status as put_status
from tests.gateway.conftest import As, Served
from tests.support.busy import kept_busy
from tests.support.etcd import in_seconds
from tests.support.waiting import wait_until


class Unwalked(dict[str, Any]):
    """The tasks of a model, of which each is looked at only by its name."""

    def values(self) -> Any:
        raise AssertionError("all tasks are looked at")


def task(name: str, owner: str = "vision", **more: object) -> dict[str, object]:
    return {"id": name, "owner": owner, "command": ["true"], **more}


def test_who_has_not_signed_in_is_refused(as_: As) -> None:
    """With 401 and the scheme; probes need nothing."""
    nobody = as_("")
    for path in ("/v1/whoami", "/v1/tasks/x", "/v1/pools"):
        answer = nobody.get(path)
        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"] == 'Bearer realm="Tally"'
        assert answer.headers["Content-Type"] == "application/problem+json"
    assert nobody.get("/v1/whoami", headers={"Authorization": "Bearer wrong"}).status_code == 401
    assert nobody.get("/livez").text == "ok\n"
    assert nobody.get("/readyz").text == "ok\n"


def test_what_is_known_is_read_while_etcd_is_silent(as_: As, served: Served) -> None:
    """Although those that write have every thread that may wait for etcd."""
    api, alice = served.gateway._api, as_("alice")
    revision = alice.post("/v1/tasks", json=task("a")).headers["Tally-Revision"]
    assert as_("ops").get(f"/v1/tasks/a?min_revision={revision}&wait=20").status_code == 200
    paths = [
        each.path.replace("{id}", "a").replace("{name}", "default")
        for each in OPERATIONS
        if each.method == "GET" and each.from_memory
    ]
    assert {"/v1/tasks/a", "/v1/whoami", "/v1/pools"} < set(paths)
    known = [*paths, "/v1/tasks", "/v1/can-i?act=read&task=a"]
    others = {"/v1/tasks/a/members", "/v1/tasks/a/members/runs", "/v1/tasks:watch", "/v1/can-i"}
    with kept_busy(api.workers.pool):
        for path in known:
            if path not in others:  # which are of arrays, have no end, or need parameters
                assert as_("ops").get(path).status_code in (200, 404), path
        waited = alice.post("/v1/tasks:wait", json={"ids": ["a"], "timeout_seconds": 1})
        assert [item["id"] for item in waited.json()["items"]] == ["a"]
        with alice.stream("GET", "/v1/tasks:watch") as watched:
            assert "a" in next(watched.iter_lines())


def test_whoami(as_: As, client: Client) -> None:
    """The name, the groups and the rights."""
    assert as_("alice").get("/v1/whoami").json() == {
        "name": "alice",
        "cluster": client.cluster,
        "groups": [],
        "method": "token",
        "is_admin": False,
        "owners": {"cancel": ["vision"], "read": ["vision"]},
        "pools": {"vision": None},
    }


def test_a_task_is_submitted_once(as_: As, client: Client) -> None:
    """201 after the commit; the same again is unchanged, another of its name a silent conflict."""
    alice, bob = as_("alice"), as_("bob")
    first = alice.post("/v1/tasks", json=task("a"))
    assert (first.status_code, first.json()["outcome"]) == (201, "created")
    assert client.get("a").owner == "vision"
    again = alice.post("/v1/tasks", json=task("a"))
    assert (again.status_code, again.json()["outcome"]) == (200, "unchanged")
    other = alice.post("/v1/tasks", json=task("a", command=["false"]))
    theirs = bob.post("/v1/tasks", json=task("a", owner="speech"))
    assert other.status_code == theirs.status_code == 409
    assert "differs in command" in other.text
    assert theirs.json()["detail"] == "a task 'a' exists already, and is another one: use another name"


def test_no_submission_looks_at_all_tasks(as_: As, served: Served) -> None:
    """Also to a pool with max_queued, for which those that wait are counted."""
    pool = {"name": "few", "capacity": {"cpu": 8}, "sharing": {"owners": {"vision": {"max_queued": 1}}}}
    assert as_("ops").put("/v1/pools/few", json=pool).status_code < 300
    alice, mirror = as_("alice"), served.gateway._standby._mirror
    first = alice.post("/v1/tasks", json=task("a", pool="few"))
    assert first.status_code == 201
    wait_until(lambda: "a" in mirror.model.tasks, "the first task in the gateway's model")
    with mirror.reading() as model:
        model.tasks = Unwalked(model.tasks)
    second = alice.post("/v1/tasks", json=task("b", pool="few"))
    assert second.status_code == 400
    assert "may have at most 1 (max_queued)" in second.text
    assert alice.post("/v1/tasks", json=task("a", pool="few")).json()["outcome"] == "unchanged"


def test_the_tasks_that_wait_are_those_of_the_model(
    served: Served, client: Client, put_status: PutStatus
) -> None:
    """Whatever becomes of them, of arrays and of their members; and after a reload."""
    kept, standby = served.gateway._api.writing.waiting, served.gateway._standby
    steps: list[Callable[[], object]] = [
        lambda: client.submit(task("a")),
        lambda: client.submit(task("b", owner="speech")),
        lambda: client.submit(task("c", array={"size": 3})),
        lambda: put_status("a", State.CREATED, owner="vision", attempt=0, on_hold=True),
        lambda: put_status("c-i0", State.RUNNING, owner="vision"),
        lambda: put_status("b", State.RUNNING, owner="speech"),
        lambda: put_status("b", State.WAITING_RETRY, owner="speech"),
        lambda: put_status("a", State.CANCELLED, owner="vision"),
        lambda: client.store.commit(
            Transaction((), (Delete(client.keys.task("c")),), new_op()), deadline=in_seconds()
        ),
    ]
    seen = list[dict[tuple[str, str], dict[str, bool]]]()
    for step in steps:
        step()
        revision = client.store.get("a", deadline=in_seconds())[1]
        wait_until(lambda: standby.revision >= revision, "the gateway's model")  # noqa: B023
        with standby.reading() as model:
            expected = stored_tasks(model).by_owner
            assert kept._waiting == expected
            assert expected.keys() == set(kept._places.values())
            seen.append({place: dict(tasks) for place, tasks in expected.items()})
    assert len({json.dumps([*map(str, each.items())]) for each in seen}) > len(steps) // 2
    kept.reloaded(standby.revision)
    assert kept._waiting == seen[-1]


def test_what_is_wrong_with_a_task_is_named(as_: As) -> None:
    """The field, in a problem document; a verb that is lacking by its name."""
    alice = as_("alice")
    wrong = alice.post("/v1/tasks", json=task("a", retry={"max_attempts": -1}))
    assert (wrong.status_code, wrong.json()["field"]) == (400, "retry.max_attempts")
    denied = alice.post("/v1/tasks", json=task("a", owner="speech"))
    assert (denied.status_code, denied.json()["verb"], denied.json()["field"]) == (403, "submit", "owner")
    assert as_("watcher").post("/v1/tasks", json=task("a")).status_code == 403
    half = alice.post("/v1/tasks", content=b'{"id": "a", "command": ["\\ud800"]}')
    assert (half.status_code, "surrogate" in half.text) == (400, True)
    twice = alice.post("/v1/tasks", content=b'{"id": "a", "id": "b"}')
    assert (twice.status_code, "given twice" in twice.text) == (400, True)
    assert alice.post("/v1/tasks", content=b"x" * 2_000_000).status_code == 413


def test_many_tasks_in_one_request(as_: As, client: Client) -> None:
    """Each line has its outcome, in order; a wrong line stops no other."""

    def lines() -> Iterator[bytes]:
        for number in range(1000):
            yield json.dumps(task(f"n{number}")).encode() + b"\n"
            if number == 500:
                yield b"{\n\n"
        yield json.dumps(task("theirs", owner="speech")).encode()

    answer = as_("alice").post("/v1/tasks", content=lines(), headers={"Content-Type": "application/x-ndjson"})
    assert answer.status_code == 200
    results = [json.loads(line) for line in answer.text.splitlines()]
    assert results.pop()["done"] == 1002
    assert [result["index"] for result in results] == list(range(1002))
    assert results[501]["outcome"] == "invalid"
    assert results[1001]["outcome"] == "denied"
    assert sum(result["outcome"] == "created" for result in results) == 1000
    assert len(client.tasks(owner="vision")) == 1000


def test_blank_lines_cost_nothing(as_: As) -> None:
    """Between tasks, any number of them."""
    body = b"\n \n\r\n" * 200_000 + json.dumps(task("a")).encode() + b"\n" * 500_000
    answer = as_("alice").post("/v1/tasks", content=body, headers={"Content-Type": "application/x-ndjson"})
    results = [json.loads(line) for line in answer.text.splitlines()]
    assert [results[0]["outcome"], results[1]["done"]] == ["created", 1]


def test_a_task_of_others_does_not_exist(as_: As, client: Client) -> None:
    """To who may not read it: the answer is that for a task that is not there, but for its name."""
    client.submit(task("hers"))
    bob, alice = as_("bob"), as_("alice")
    revision = {"min_revision": client.get("hers").create_revision, "wait": 5}
    for path in ("", "/explain"):
        assert alice.get(f"/v1/tasks/hers{path}", params=revision).status_code == 200
        hidden, absent = bob.get(f"/v1/tasks/hers{path}"), bob.get(f"/v1/tasks/none{path}")
        assert hidden.status_code == absent.status_code == 404
        assert hidden.text.replace("hers", "none") == absent.text
    for act in ("cancel", "retry", "hold", "release"):
        hidden = bob.post(f"/v1/tasks/hers/{act}", json={})
        absent = bob.post(f"/v1/tasks/none/{act}", json={})
        assert hidden.status_code == absent.status_code == 404
        assert hidden.text.replace("hers", "none") == absent.text


def test_who_reads_may_not_change(as_: As, client: Client) -> None:
    """403 with the verb; the owner's own caller may, and is recorded."""
    client.submit(task("a"))
    denied = as_("watcher").post("/v1/tasks/a/cancel", json={"reason": "no"})
    assert (denied.status_code, denied.json()["verb"]) == (403, "cancel-own")
    done = as_("alice").post("/v1/tasks/a/cancel", json={"reason": "wrong data"})
    assert (done.status_code, done.json()["outcome"]) == (200, "requested")
    assert client.get("a").requests == ("cancel",)


def test_the_environment_is_shown_to_who_may_submit_it(as_: As, client: Client) -> None:
    """Masked for all others."""
    client.submit(task("a", env={"KEY": "secret"}))
    revision = {"min_revision": client.get("a").create_revision, "wait": 5}
    assert as_("alice").get("/v1/tasks/a", params=revision).json()["spec"]["env"] == {"KEY": "secret"}
    shown = as_("watcher").get("/v1/tasks/a", params=revision)
    assert shown.json()["spec"]["env"] == {"KEY": "***"}
    assert "secret" not in shown.text


def test_a_broken_policy_leaves_the_old_one_in_force(as_: As, served: Served) -> None:
    """A new one counts from the next request on."""
    alice = as_("alice")
    served.policy.write_text("[[rules]]\nwho = ['alice']\nverbs = ['fly']")
    assert alice.post("/v1/tasks", json=task("a")).status_code == 201
    served.policy.write_text("[[rules]]\nwho = ['bob']\nverbs = ['admin']")
    assert alice.post("/v1/tasks", json=task("a")).status_code == 403
    assert as_("bob").post("/v1/tasks", json=task("a")).status_code == 200


def test_a_head_that_is_too_large_is_refused_however_it_arrives(as_: As) -> None:
    """At once, so that nothing is incomplete, it would pass what bounds a head that has yet to arrive."""
    http = as_("alice")
    assert http.get("/v1/whoami", headers={"X-A": "a" * 15_000}).status_code == 200
    for size in (17_000, 70_000):
        answer = http.get("/v1/whoami", headers={"X-A": "a" * size})
        assert answer.status_code in (400, 431)
        assert http.get("/v1/whoami").status_code == 200


def test_a_gateway_that_stops_sends_readers_elsewhere(as_: As, served: Served) -> None:
    """It hears of nothing any more: whoever waits for what it has written is not told to wait longer."""
    http = as_("alice")
    served.gateway._api.feed.close()
    stopping = http.get("/v1/tasks/a", params={"min_revision": 2**40, "wait": 5})
    assert (stopping.status_code, stopping.headers["Retry-After"]) == (503, "1")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("DELETE", "/v1/tasks", {"GET", "HEAD", "POST"}),
        ("PATCH", "/v1/schedules/s", {"GET", "HEAD", "PUT", "DELETE"}),
        ("PUT", "/session", {"GET", "HEAD", "POST", "DELETE"}),
        ("PUT", "/v1/tasks/a/cancel", {"POST"}),
        ("POST", "/livez", {"GET", "HEAD"}),
    ],
)
def test_a_method_that_there_is_not_is_told_which_there_are(
    method: str, path: str, allowed: set[str], as_: As
) -> None:
    refused = as_("alice").request(method, path)
    assert refused.status_code == 405
    assert {*refused.headers["Allow"].split(", ")} == allowed
    assert refused.headers["Allow"] in refused.json()["detail"]
