# ruff: noqa: B023  # each function is called in the turn of the loop that makes it
"""Both ways to Tally, by etcd and by a gateway: each verb has the same results and the same errors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import msgspec
import pytest

from controller.client import Client
from controller.client.gateway_calls import GatewayCalls
from controller.client.gateway_client import GatewayClient
from controller.client.views import TaskView
from controller.core.model.lifecycle import State
from controller.errors import TallyError
from tests.client.conftest import PutStatus
from tests.client.conftest import client as client
from tests.client.conftest import put_raw as put_raw
from tests.client.conftest import put_status as put_status
from tests.gateway.conftest import Served
from tests.gateway.conftest import _features as _features
from tests.gateway.conftest import served as served


class Ways:
    """The client of etcd, and that of a gateway whose caller may do everything."""

    def __init__(self, direct: Client, gateway: GatewayClient) -> None:
        self.direct = direct
        self.gateway = gateway

    def both(self, what: Callable[[Client], Any]) -> Any:
        """The result of a verb that changes nothing, which is that of both ways."""
        one, other = outcome(self.direct, what), outcome(self.gateway, what)
        assert one == other
        return one

    def alike(self, what: Callable[[Client, str], Any], *names: str) -> Any:
        """The results of a verb that changes something, for a task of each way, but for its name."""
        one, other = (
            outcome(client, lambda client: what(client, name))
            for client, name in zip((self.direct, self.gateway), names, strict=True)
        )
        assert repr(one).replace(names[0], "NAME") == repr(other).replace(names[1], "NAME")
        return one


def outcome(client: Client, what: Callable[[Client], Any]) -> Any:
    """The result, or the text of the error."""
    try:
        return what(client)
    except TallyError as error:
        return f"{error}"


@pytest.fixture
def ways(client: Client, served: Served) -> Iterator[Ways]:
    with ExitStack() as stack:
        calls = GatewayCalls(served.gateway.url, lambda: served.tokens["ops"])
        gateway = stack.enter_context(GatewayClient(calls))
        yield Ways(client, gateway)


def task(name: str, **more: Any) -> dict[str, Any]:
    return {"id": name, "command": ["true"], **more}


def test_submit(ways: Ways) -> None:
    """Created, unchanged, refused: the same results, and the same words of what is wrong."""
    ways.alike(lambda client, name: client.submit(task(name, owner="vision")), "one-x", "two-x")
    ways.alike(lambda client, name: client.submit(task(name, owner="vision")), "one-x", "two-x")
    for wrong in (
        {"retry": {"max_attempts": -1}},
        {"pool": "nope"},
        {"colour": 1},
        {"resources": {"cpu": "99"}},
    ):
        ways.both(lambda client: client.submit({**task("c"), **wrong}))
    ways.both(lambda client: client.submit(task("A")))
    results = ways.alike(
        lambda client, name: sorted(
            client.submit_many([task(f"{name}-{n}", priority=n) for n in range(3)] + [{"id": 1}]),
            key=lambda result: result.index,
        ),
        "one-m",
        "two-m",
    )
    assert [result.outcome for result in results] == ["created"] * 3 + ["invalid"]
    ways.both(lambda client: client.submit_many([task("one-x", owner="vision"), task("dry")], dry_run=True))
    assert "no task 'dry'" in ways.both(lambda client: client.get("dry"))


def test_reading(ways: Ways, put_status: PutStatus) -> None:
    """Tasks, selections, explanations, pools, owners, usage, replicas and features."""
    ways.gateway.submit_many(
        [task(f"t{n}", labels={"n": str(n % 2)}, env={"KEY": "secret"}, priority=n) for n in range(6)]
    )
    put_status("t0", State.SUCCEEDED)
    last = put_status("t1", State.FAILED)
    # what the gateway's client has written is there; what others wrote, it has to wait for
    ways.gateway._http._written = last
    for name in ("t0", "t1", "t5", "nope", "A b"):
        ways.both(lambda client: client.get(name))
        ways.both(lambda client: client.explain(name))
    for selection in (
        {},
        {"state": "waiting"},
        {"state": "failed,finished"},
        {"selector": "n=1"},
        {"labels": {"n": "0"}},
        {"pool": "nope"},
        {"owner": "default"},
        {"state": "flying"},
        {"selector": "=="},
    ):
        ways.both(lambda client: client.tasks(**selection))
    assert ways.both(lambda client: client.pools())
    assert ways.both(lambda client: client.pools(counts=True))
    ways.both(lambda client: client.owners.all())
    ways.both(lambda client: client.owners.sharing("default"))
    ways.both(lambda client: client.usage(pool="nope"))
    ways.both(lambda client: client.usage(by="colour"))
    ways.both(lambda client: client.replicas.all())
    assert ways.both(lambda client: client.replicas.leader())
    assert ways.both(lambda client: client.features.all())
    assert ways.both(lambda client: client.outputs.kept_log("t1")) is None


def test_requests(ways: Ways, put_status: PutStatus) -> None:
    """What can be asked for, what cannot, and why."""
    for name in ("one-x", "two-x", "one-run", "two-run", "one-end", "two-end"):
        ways.direct.submit(task(name))
    for name in ("one-run", "two-run"):
        put_status(name, State.RUNNING)
    for name in ("one-end", "two-end"):
        last = put_status(name, State.FAILED)
    ways.gateway._http._written = last
    for verb in ("cancel", "retry", "hold", "release", "confirm_stopped"):
        for names in (
            ("one-x", "two-x"),
            ("one-run", "two-run"),
            ("one-end", "two-end"),
            ("one-no", "two-no"),
        ):
            ways.alike(lambda client, name: getattr(client, verb)(name, reason="why"), *names)
    ways.alike(lambda client, name: client.set_priority(name, 7), "one-x", "two-x")
    ways.alike(lambda client, name: client.set_priority(name, 10**9), "one-x", "two-x")
    shown = {"one-x": ways.direct.get("one-x"), "two-x": ways.gateway.get("two-x")}
    ways.alike(lambda client, name: client.cancel(name, of=shown[name]), "one-x", "two-x")
    ways.alike(lambda client, name: client.cancel(name, of=another(shown[name])), "one-x", "two-x")


def another(view: TaskView) -> TaskView:
    """The view of an earlier task of that name."""
    return msgspec.structs.replace(view, create_revision=view.create_revision - 1)


def test_pools(ways: Ways) -> None:
    """Applied, unchanged, refused, paused, resumed, deleted."""

    def pool(name: str, **more: Any) -> dict[str, Any]:
        return {"name": name, "capacity": {"cpu": "2"}, **more}

    for more in ({}, {}, {"capacity": {"cpu": "3"}}, {"capacity": 7}, {"colour": 1}):
        ways.alike(lambda client, name: client.apply_pool(pool(name, **more)), "one-p", "two-p")
    for verb in ("pause", "pause", "resume", "resume"):
        ways.alike(lambda client, name: getattr(client.admission, verb)(name), "one-p", "two-p")
    ways.alike(lambda client, name: client.delete_pool(name), "one-p", "two-p")
    ways.alike(lambda client, name: client.delete_pool(name), "one-p", "two-p")
    ways.alike(lambda client, name: client.admission.pause(name), "one-p", "two-p")


def test_waiting(ways: Ways, put_status: PutStatus) -> None:
    """Until all have finished; for a state; until the time is over; for one that does not exist."""
    for name in ("a", "b"):
        ways.direct.submit(task(name))
    ways.gateway._http._written = put_status("a", State.SUCCEEDED)
    ways.both(lambda client: client.wait(["a"]))
    ways.both(lambda client: client.wait(["a", "b"], timeout_seconds=0.3))
    ways.both(lambda client: client.wait(["b"], for_="created", timeout_seconds=0.3))
    assert "no task 'nope'" in ways.both(lambda client: client.wait(["nope"]))
    seen: list[str] = []

    def note(view: TaskView) -> None:
        seen.append(str(view.state))
        if view.state is State.CREATED:
            put_status("b", State.RUNNING)
        elif view.state is State.RUNNING:
            put_status("b", State.SUCCEEDED)

    ways.gateway.wait(["b"], timeout_seconds=30, on_change=note)
    assert seen == ["Created", "Running", "Succeeded"]


def test_watching(ways: Ways, put_status: PutStatus) -> None:
    """First all, then what changes."""
    ways.gateway.submit_many([task("a"), task("b")])
    watch = ways.gateway.watch_tasks()
    assert [view.id for view in next(watch)] == ["a", "b"]
    put_status("b", State.RUNNING)
    [changed] = next(watch)
    assert (changed.id, changed.state) == ("b", State.RUNNING)
    watch.close()
