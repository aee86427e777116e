# ruff: noqa: B023  # each function is called in the turn of the loop that makes it
"""Arrays and their members, by etcd and by a gateway: the same results, and the same errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from controller.client import Client
from controller.core.model.blocks import WAITS, Fate, MemberOutcome
from controller.core.model.lifecycle import State
from tests.client.conftest import PutRaw, PutStatus
from tests.client.conftest import client as client
from tests.client.conftest import put_raw as put_raw
from tests.client.conftest import put_status as put_status
from tests.client.test_parents import remove
from tests.conformance.test_client import Ways
from tests.conformance.test_client import ways as ways
from tests.gateway.conftest import _features as _features
from tests.gateway.conftest import served as served
from tests.support.array_records import begin_array, put_block, submit_array


@pytest.fixture
def array(ways: Ways, put_raw: PutRaw, put_status: PutStatus) -> str:
    """An array in which each kind of member is."""
    submit_array(ways.direct, "render", 2000, labels={"a": "b"})
    revision = begin_array(ways.direct, put_raw, put_status, "render")
    ways.gateway._http._written = revision  # what others wrote, it has to wait for
    return "render"


def test_a_member_has_a_name_in_each_phase(ways: Ways, array: str) -> None:
    for index in (0, 1, 2, 3, 4, 1999, 2000):
        ways.both(lambda client: client.get(f"{array}-i{index}"))
    assert ways.direct.get(f"{array}-i1").state is State.FAILED
    assert ways.direct.get(f"{array}-i4").state is State.CREATED
    beyond = ways.both(lambda client: client.get(f"{array}-i2000"))
    assert "no task" in beyond
    assert "render has 2,000 members, 0 to 1999: it has no 2000" in beyond
    view = ways.both(lambda client: client.get(array))
    assert (view.state, view.progress.running, view.progress.first_failed) == (State.RUNNING, 1, (1,))
    assert [each.id for each in ways.both(lambda client: client.tasks())] == [array]
    assert ways.both(lambda client: [each.id for each in client.tasks(state="running")]) == [array]


def test_members(ways: Ways, array: str) -> None:
    found = ways.both(lambda client: list(client.members(array)))
    assert [each.index for each in found] == list(range(2000))
    assert [each.state for each in found[:5]] == ["Succeeded", "Failed", "Cancelled", "Running", "Waiting"]
    selections: list[dict[str, str]] = [
        {"state": "failed,cancelled"},
        {"state": "holding"},
        {"members": "2-4,1999"},
        {"members": "2-4,1999", "state": "waiting"},
        {"state": "no"},
        {"members": "x"},
        {"members": "4-2"},
    ]
    for asked in selections:
        ways.both(lambda client: list(client.members(array, **asked)))
    page = ways.both(lambda client: client.members.page(array, offset=1, limit=2, state="finished"))
    assert ([each.index for each in page.items], page.next_offset) == ([1, 2], None)
    pages: list[dict[str, int]] = [{"offset": -1}, {"limit": 0}, {"limit": 1001}]
    for wrong in pages:
        assert "expected " in ways.both(
            lambda client: client.members.page(
                array, offset=wrong.get("offset", 0), limit=wrong.get("limit", 1)
            )
        )
    assert "no task" in ways.both(lambda client: list(client.members("nobody")))
    assert "is no array" in ways.both(lambda client: list(client.members(f"{array}-i0")))


def test_requests_on_members(ways: Ways, put_raw: PutRaw, put_status: PutStatus) -> None:
    names = ("one-a", "two-a")
    for name in names:
        submit_array(ways.direct, name)
        ways.gateway._http._written = begin_array(ways.direct, put_raw, put_status, name)

    def told(what: Callable[[Client, str], Any]) -> Any:
        return ways.alike(what, *names)

    assert told(lambda client, name: client.cancel(name, members="0-2")).outcome == "already finished"
    assert told(lambda client, name: client.cancel(f"{name}-i0")).outcome == "already finished"
    assert "it has no 9-10" in told(lambda client, name: client.cancel(name, members="9-10"))
    assert "not a range" in told(lambda client, name: client.cancel(name, members="a"))
    assert "no member" in told(lambda client, name: client.retry(name, members="0,3-5"))
    assert "no member" in told(lambda client, name: client.retry(name, members="2", only_failed=True))
    assert "whole array" in told(lambda client, name: client.hold(f"{name}-i7"))
    assert told(lambda client, name: client.retry(f"{name}-i2")).outcome == "requested"
    assert told(lambda client, name: client.retry(f"{name}-i2")).outcome == "already requested"
    assert told(lambda client, name: client.cancel(name, members="7-9, 3")).outcome == "requested"
    assert told(lambda client, name: client.cancel(name, members="3,7-9")).outcome == "already requested"
    for name in names:
        model = ways.direct._reading.tasks(name)
        members = {kind: request.members for kind, (request, _) in model.tasks[name].requests.items()}
        assert members == {"retry": "2", "cancel": "3,7-9"}


def test_requests_on_members_of_what_is_no_array(ways: Ways) -> None:
    ways.direct.submit_many([{"id": name, "command": ["true"]} for name in ("one-p", "two-p")])
    asked: list[Callable[[Client, str], Any]] = [
        lambda client, name: client.cancel(name, members="1"),
        lambda client, name: client.retry(name, only_failed=True),
    ]
    for what in asked:
        assert "is no array" in ways.alike(what, "one-p", "two-p")


def test_wait(ways: Ways, array: str, put_raw: PutRaw, put_status: PutStatus) -> None:
    assert ways.both(lambda client: client.wait([f"{array}-i0"], timeout_seconds=20))
    ended = [f"{array}-i{index}" for index in range(3)]
    assert len(ways.both(lambda client: client.wait(ended, timeout_seconds=20))) == 3
    assert "no task" in ways.both(lambda client: client.wait([f"{array}-i2000"], timeout_seconds=20))
    assert f"{array}-i5" in ways.both(lambda client: client.wait([f"{array}-i5"], timeout_seconds=0.2))
    revision = put_block(ways.direct, put_raw, array)
    ways.gateway._http._written = revision
    ways.gateway._http._written = put_status(array, State.SUCCEEDED, attempt=0)
    assert ways.both(lambda client: client.wait([array], timeout_seconds=20))[array].finished


def test_what_a_member_waits_for(ways: Ways, array: str, put_raw: PutRaw) -> None:
    ways.direct.features.enable("dependencies")
    same = {"task": array, "index": "same"}
    ways.direct.submit(
        {"id": "film", "command": ["true"], "array": {"size": 2000}, "after": [same]},
    )
    for index, verdict in ((0, "met"), (1, "unmet"), (3, "unfinished"), (1999, "unfinished")):
        view = ways.both(lambda client: client.get(f"film-i{index}"))
        assert [(each.task, each.verdict) for each in view.after] == [(f"{array}-i{index}", verdict)]
    found = ways.both(lambda client: client.neighbours("film-i3"))
    assert (found.id, found.member, len(found.nodes)) == ("film", "film-i3", 2)
    assert ways.both(lambda client: client.neighbours(f"{array}-i3")).id == array
    for verb in ("get", "cancel", "explain", "neighbours"):
        told = ways.both(lambda client: getattr(client, verb)("film-i2000"))
        assert "film has 2,000 members, 0 to 1999: it has no 2000" in told


def test_a_member_whose_name_is_taken(ways: Ways, put_raw: PutRaw) -> None:
    ways.direct.submit({"id": "col-i1", "command": ["true"]})
    submit_array(ways.direct, "col", 3)
    taken = Fate(MemberOutcome.FAILED, reason="NameTaken")
    ways.gateway._http._written = put_block(ways.direct, put_raw, "col", WAITS, taken)
    told = ways.both(lambda client: client.explain("col-i1"))
    assert told.startswith("col-i1 is next in pool default")
    assert told.endswith(
        "; member 1 of col never ran, since another task has its name: rename or remove that one, and run"
        " `tally retry 'col[1]'`."
    )
    assert "never ran" not in ways.both(lambda client: client.explain("col-i0"))


def test_a_retry_downstream_is_one_of_whole_tasks(ways: Ways, array: str) -> None:
    told = ways.both(lambda client: client.downstream.retry(f"{array}-i1"))
    assert "name render, of which render-i1 is a member" in told
    assert not ways.direct._reading.tasks(array).tasks[array].requests


def test_a_watch_of_a_member_tells_of_it(ways: Ways, array: str, put_status: PutStatus) -> None:
    """No list has members, so a watch of one is no part of a watch of all."""
    member = f"{array}-i5"
    for way, state in ((ways.direct, State.RUNNING), (ways.gateway, State.SUCCEEDED)):
        steps = way.watch_tasks(task_id=member)
        assert [view.id for view in next(steps)] == [member]
        put_status(member, state, array=array, index=5, uid=str(type(way)))
        assert [(view.id, view.state) for view in next(steps)] == [(member, state)]
        steps.close()


@pytest.mark.parametrize("kind", ["a task", "an array", "a member"])
def test_a_watch_of_one_tells_that_it_is_gone(ways: Ways, kind: str, put_status: PutStatus) -> None:
    """With a whole look that has none; and so of one that never was."""
    for way, name in ((ways.direct, "one"), (ways.gateway, "other")):
        if kind == "a task":
            way.submit({"id": name, "command": ["true"]})
            put_status(name, State.SUCCEEDED)
        else:
            submit_array(way, name, 8)
        watched = f"{name}-i5" if kind == "a member" else name
        steps = way.watch_tasks(task_id=watched)
        assert [view.id for view in next(steps)] == [watched]
        remove(ways.direct, name)
        look = next(steps)
        assert (look, look.is_whole) == ([], True)
        steps.close()
        never = next(way.watch_tasks(task_id="never-was"))
        assert (never, never.is_whole) == ([], True)


def test_a_watch_of_an_array_tells_of_its_members(ways: Ways, array: str, put_status: PutStatus) -> None:
    """One step for each change of a member, by which `tally get task 'NAME[0-9]' -w` lists them again."""
    for way in (ways.direct, ways.gateway):
        steps = way.watch_tasks(task_id=array)
        assert [view.id for view in next(steps)] == [array]
        put_status(f"{array}-i7", State.RUNNING, array=array, index=7, uid=str(type(way)))
        assert [view.id for view in next(steps)] == [array]
        steps.close()
