"""Tasks that wait for others, by a gateway: only for those that the caller may read."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from controller.client import Client
from controller.core.model.lifecycle import State
from controller.store.base import Put, Transaction, new_op
from tests.client.conftest import PutRaw, PutStatus
from tests.client.conftest import put_status as put_status
from tests.gateway.conftest import As
from tests.gateway.test_gateway import task
from tests.support.etcd import in_seconds

NDJSON = {"Content-Type": "application/x-ndjson"}


def upload(caller: httpx.Client, *tasks: dict[str, Any], **parameters: str) -> list[tuple[str, str]]:
    body = b"\n".join(json.dumps(each).encode() for each in tasks)
    answer = caller.post("/v1/tasks", content=body, headers=NDJSON, params=parameters)
    *results, done = [json.loads(line) for line in answer.text.splitlines()]
    assert done["done"] == len(tasks)
    return [(result["outcome"], result["message"]) for result in results]


@pytest.mark.parametrize("spec_is_readable", [True, False])
def test_a_parent_of_others_does_not_exist(
    as_: As, client: Client, put_raw: PutRaw, spec_is_readable: bool
) -> None:
    """The answer is that for a task that is not there, but for its name, however it is asked."""
    bob, alice = as_("bob"), as_("alice")
    client.submit(task("hers"))
    if not spec_is_readable:
        put_raw("tasks/hers", b'{"command":5,"owner":"vision"}')
    for dry_run in ("true", "false"):
        for more in ((), ("own",), ("gone",)):
            hidden, absent = (
                bob.post(
                    "/v1/tasks",
                    json=task("child", owner="speech", after=[name, *more]),
                    params={"dry_run": dry_run},
                )
                for name in ("hers", "none")
            )
            assert hidden.status_code == absent.status_code == 400
            assert hidden.json()["field"] == "after[0].task"
            assert hidden.text.replace("hers", "none") == absent.text
        [hers, gone] = (
            upload(bob, task("child", owner="speech", after=[name]), dry_run=dry_run)
            for name in ("hers", "none")
        )
        assert [(outcome, message.replace("hers", "none")) for outcome, message in hers] == gone
    assert client.store.load(client.keys.awaits, deadline=in_seconds()).items == ()
    if spec_is_readable:
        assert alice.post("/v1/tasks", json=task("child", after=["hers"])).status_code == 201


def test_a_parent_of_others_is_not_there_by_the_owner_in_its_status(
    as_: As, client: Client, put_status: PutStatus
) -> None:
    """Which counts, since a spec can say what it likes."""
    client.submit(task("said", owner="speech"))
    put_status("said", State.WAITING_RETRY, owner="vision")
    bob, alice = as_("bob"), as_("alice")
    assert bob.post("/v1/tasks", json=task("a", owner="speech", after=["said"])).status_code == 400
    assert alice.post("/v1/tasks", json=task("a", after=["said"])).status_code == 201


def test_an_upload_is_taken_in_order(as_: As, client: Client) -> None:
    """Over as many parts as it is read in; a dry run knows those before, too."""
    names = [f"t{n:04}" for n in range(700)]
    tasks = [task(name, after=names[max(0, n - 2) : n]) for n, name in enumerate(names)]
    alice = as_("alice")
    for dry_run, outcome in (("true", "created"), ("false", "created"), ("false", "unchanged")):
        assert {each for each, _ in upload(alice, *tasks, dry_run=dry_run)} == {outcome}
    results = upload(alice, task("early", after=["late"]), task("late"))
    assert [outcome for outcome, _ in results] == ["invalid", "created"]
    assert "there is no task late: submit what it waits for first" in results[0][1]


def test_what_waits_for_a_refused_task_is_refused(as_: As, client: Client) -> None:
    """Also where another one has its name, and in another part of the upload."""
    put = Put(client.keys.task("theirs"), b'{"command":["x"],"owner":"speech"}')
    client.store.commit(Transaction((), (put,), new_op()), deadline=in_seconds())
    others = [task(f"t{n:03}") for n in range(300)]
    results = upload(as_("ops"), task("theirs"), *others, task("on-theirs", after=["theirs"]))
    assert results[0][0] == "conflict"
    assert results[-1][0] == "invalid"
    assert "theirs was refused" in results[-1][1]
