# ruff: noqa: B023  # each function is called in the turn of the loop that makes it
"""Gangs and their members, by etcd and by a gateway: the same results, and the same errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from controller.client import Client
from controller.core.model.lifecycle import State
from tests.client.conftest import PutStatus
from tests.client.conftest import client as client
from tests.client.conftest import put_raw as put_raw
from tests.client.conftest import put_status as put_status
from tests.conformance.test_client import Ways
from tests.conformance.test_client import ways as ways
from tests.gateway.conftest import _features as _features
from tests.gateway.conftest import served as served
from tests.support.gang_records import begin_gang, submit_gang

WHOLE = "which runs and ends whole: ask for all of it, as NAME"


@pytest.fixture
def gang(ways: Ways, put_status: PutStatus) -> str:
    """A gang whose launcher runs."""
    submit_gang(ways.direct, "train")
    ways.gateway._http._written = begin_gang(put_status, "train")  # what others wrote, it has to wait for
    return "train"


def test_it_and_its_members(ways: Ways, gang: str) -> None:
    view = ways.both(lambda client: client.get(gang))
    assert (view.state, view.progress.running, view.progress.size) == (State.PENDING, 1, 4)
    for index in range(5):
        ways.both(lambda client: client.get(f"{gang}-i{index}"))
    assert [each.id for each in ways.both(lambda client: client.tasks())] == [gang]
    found = ways.both(lambda client: list(client.members(gang)))
    assert [(each.role, each.state) for each in found] == [
        ("launcher", "Running"),
        ("worker", "Pending"),
        ("worker", "Waiting"),
        ("worker", "Waiting"),
    ]
    assert [each.index for each in ways.both(lambda client: list(client.members(gang, state="running")))] == [
        0
    ]
    page = ways.both(lambda client: client.members.page(gang, offset=1, limit=2))
    assert ([each.role for each in page.items], page.next_offset) == (["worker", "worker"], 3)


def test_explain(ways: Ways, gang: str) -> None:
    """But for the time that has passed between both calls."""
    for each in (ways.direct, ways.gateway):
        told = "1 of 4 members (1 launcher, 3 worker) runs, 1 has begun and does not run yet (train-i1)"
        assert told in each.explain(gang)
        assert "; it is member 0 of the gang train (launcher), which is" in each.explain(f"{gang}-i0")


def test_a_part_of_it_is_refused_at_once(ways: Ways, put_status: PutStatus) -> None:
    names = ("one-g", "two-g")
    for name in names:
        submit_gang(ways.direct, name)
        ways.gateway._http._written = begin_gang(put_status, name)

    def told(what: Callable[[Client, str], Any]) -> str:
        answer = ways.alike(what, *names)
        assert isinstance(answer, str)
        return answer.replace(names[0], "NAME")

    part = f"NAME[3] is part of a gang, {WHOLE}"
    member = f"NAME-i3 is a member of the gang NAME, {WHOLE}"
    assert told(lambda client, name: client.cancel(name, members="3")) == part
    assert told(lambda client, name: client.retry(name, members="3")) == part
    assert told(lambda client, name: client.retry(name, only_failed=True)) == f"NAME is a gang, {WHOLE}"
    assert told(lambda client, name: client.cancel(f"{name}-i3")) == member
    assert told(lambda client, name: client.retry(f"{name}-i3")) == member
    assert told(lambda client, name: client.retry(f"{name}-i0")) == member.replace("i3", "i0")
    assert "only the whole array" in told(lambda client, name: client.hold(f"{name}-i0"))
    assert "only a task that waits" in told(lambda client, name: client.hold(name))
    assert "confirm the stop of a member" in told(lambda client, name: client.confirm_stopped(name))
    assert "NAME is Pending: only a Failed or Cancelled" in told(lambda client, name: client.retry(name))
    for name in names:
        assert not ways.direct._reading.tasks(name).tasks[name].requests


def test_all_of_it_is_asked_for(ways: Ways, put_status: PutStatus) -> None:
    names = ("one-g", "two-g")
    for name in names:
        submit_gang(ways.direct, name)
        ways.gateway._http._written = begin_gang(put_status, name)

    def told(what: Callable[[Client, str], Any]) -> str:
        return str(ways.alike(what, *names).outcome)

    assert told(lambda client, name: client.cancel(name)) == "requested"
    assert told(lambda client, name: client.cancel(name)) == "already requested"
    for name in names:
        ways.gateway._http._written = put_status(name, State.FAILED)
    for name in names:
        model = ways.direct._reading.tasks(name)
        assert list(model.tasks[name].requests) == ["cancel"]


def test_a_lost_member_is_confirmed_by_its_name(ways: Ways, put_status: PutStatus) -> None:
    names = ("one-g", "two-g")
    for name in names:
        submit_gang(ways.direct, name)
        begin_gang(put_status, name)
        ways.gateway._http._written = put_status(
            f"{name}-i0", State.RUNNING, array=name, index=0, of_gang=True, lost_since=5.0
        )
    assert (
        ways.alike(lambda client, name: client.confirm_stopped(f"{name}-i0"), *names).outcome == "requested"
    )
