"""Schedules both ways to Tally: the same results and the same errors, and what a gateway's callers may do."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import pytest

from controller.client import Client, NotFound
from controller.client.gateway_calls import GatewayCalls
from controller.client.gateway_client import GatewayClient
from controller.clock import SystemClock
from controller.core.model import attested, codec
from controller.core.model.lifecycle import State
from controller.core.model.op import Op
from controller.core.model.schedules import ATTESTED, KIND, STATES, ScheduleState, encode_state
from controller.views.schedules import explain_schedule
from tests.client.conftest import PutRaw, PutStatus
from tests.client.conftest import put_status as put_status
from tests.client.test_features import release
from tests.conformance.test_client import Ways, outcome
from tests.conformance.test_client import client as client
from tests.conformance.test_client import put_raw as put_raw
from tests.conformance.test_client import served as served
from tests.conformance.test_client import ways as ways
from tests.gateway.conftest import As, Served
from tests.gateway.conftest import _features as _features
from tests.gateway.conftest import as_ as as_

KNOWS = ["attested", "changes", "owners", "schedules"]


def nightly(name: str = "nightly", **more: Any) -> dict[str, Any]:
    task = {"command": ["true"], "env": {"KEY": "secret"}, **more.pop("task", {})}
    return {"kind": "Schedule", "name": name, "cron": "30 2 * * *", "task": task, **more}


@pytest.fixture(autouse=True)
def _on(client: Client, put_raw: PutRaw, _features: None) -> None:
    """The features are on."""
    for name in ("schedules", "attested"):
        put_raw("leader", release("r1", knows=KNOWS))
        client.features.enable(name)
    put_raw("leader", release("r1", knows=KNOWS))


def _get(name: str, client: Client) -> object:
    return client.schedules.get(name)


def test_a_schedule_is_applied_shown_and_deleted(ways: Ways) -> None:
    """Created, unchanged, configured; and the same words of what is wrong."""
    dry = ways.alike(lambda c, name: c.schedules.apply(nightly(name), dry_run=True), "one-x", "two-x")
    assert dry.outcome == "created"
    assert ways.both(lambda c: c.schedules.all()) == []
    applied = ways.alike(lambda c, name: c.schedules.apply(nightly(name)), "one-x", "two-x")
    assert applied.outcome == "created"
    again = ways.alike(lambda c, name: c.schedules.apply(nightly(name)), "one-x", "two-x")
    assert again.outcome == "unchanged"
    changed = ways.alike(lambda c, name: c.schedules.apply(nightly(name, cron="0 3 * * *")), "one-x", "two-x")
    assert changed.outcome == "configured"
    for _ in range(2):
        ways.alike(lambda c, name: c.schedules.suspend(name), "one-x", "two-x")
    for _ in range(2):
        ways.alike(lambda c, name: c.schedules.resume(name), "one-x", "two-x")
    ways.gateway._http._written = ways.direct.store.get("x", deadline=float("inf"))[1]
    views = ways.both(lambda c: c.schedules.all())
    assert [(view.name, view.attested_by) for view in views] == [("one-x", ""), ("two-x", "ops")]
    assert views[0].definition["task"]["env"] == {"KEY": "secret"}
    assert len(views[0].upcoming) == 5
    for name in ("one-x", "nope", "A b"):
        ways.both(partial(_get, name))
    ways.alike(lambda c, name: c.schedules.delete(name), "one-x", "two-x")
    ways.both(lambda c: c.schedules.delete("nope"))
    ways.both(lambda c: c.schedules.suspend("nope"))


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"cron": "61 * * * *"}, "cron"),
        ({"cron": "0 0 30 2 *"}, "cron"),
        ({"timezone": "Mars/Base"}, "timezone"),
        ({"concurrency": "maybe"}, "concurrency"),
        ({"task": {"id": "x"}}, "task.id"),
        ({"task": {"pool": "nope"}}, "task.pool"),
        ({"task": {"resources": {"cpu": 99}}}, "task.resources.cpu"),
        ({"name": "n" * 40}, "name"),
        ({"colour": 1}, "colour"),
    ],
)
def test_what_is_wrong_names_its_field(ways: Ways, wrong: dict[str, Any], field: str) -> None:
    """And nothing is stored."""
    said = ways.both(lambda c: c.schedules.apply(nightly(**wrong)))
    assert said.startswith(f"{field}: ")
    assert ways.both(lambda c: c.schedules.apply(nightly(**wrong), dry_run=True)) == said
    assert ways.both(lambda c: c.schedules.all()) == []


def test_what_a_schedule_prints_can_be_applied(ways: Ways) -> None:
    """It is unchanged."""
    ways.direct.schedules.apply(nightly(concurrency="forbid", timezone="Europe/Berlin"))
    definition = ways.direct.schedules.get("nightly").definition
    assert definition is not None
    assert ways.direct.schedules.apply(definition).outcome == "unchanged"


def test_a_state_that_cannot_be_read_is_shown(ways: Ways, put_raw: PutRaw) -> None:
    """So is a schedule."""
    ways.direct.schedules.apply(nightly("one"))
    ways.direct.schedules.apply(nightly("two"))
    put_raw(f"{KIND}/one", b"{")
    last = put_raw(f"{STATES}/two", b"{")
    ways.gateway._http._written = last
    one, two = ways.both(lambda c: c.schedules.all())
    assert one.problem.startswith("schedules: not a JSON object")
    assert two.problem.startswith("schedule-states: ")
    assert two.upcoming == ()
    assert ways.direct.schedules.apply(nightly("one")).outcome == "configured"


def test_what_a_newer_release_has_stored_stays(ways: Ways, put_raw: PutRaw) -> None:
    """With its version, by which the fields are its own; at ours they are a mistake, which apply mends."""
    ways.direct.schedules.apply(nightly())
    key = ways.direct.keys.of(KIND, ("nightly",))

    def stored() -> dict[str, Any]:
        item = ways.direct.store.get(key, deadline=float("inf"))[0]
        assert item is not None
        return codec.decode_mapping(item.value)

    put_raw(f"{KIND}/nightly", codec.encode({**stored(), "version": 2, "jitter": 9}))
    assert ways.direct.schedules.suspend("nightly")
    assert (stored()["version"], stored()["jitter"], stored()["suspended"]) == (2, 9, True)
    put_raw(f"{KIND}/nightly", codec.encode({**stored(), "version": 1}))
    assert "jitter: is not a field" in ways.direct.schedules.get("nightly").problem
    ways.direct.schedules.apply(nightly())
    assert "jitter" not in stored()
    assert ways.direct.schedules.get("nightly").problem == ""


def test_the_state_is_shown(ways: Ways, put_raw: PutRaw, put_status: PutStatus) -> None:
    """With what became of its last ticks."""
    ways.direct.schedules.apply(nightly())
    names = tuple(f"nightly-19700101000{n}" for n in range(4))
    value = encode_state(ScheduleState(cursor=60, create=1, live=names), Op("x"))
    for name in names[:3]:
        put_raw(f"tasks/{name}", b'{"command":["x"],"pool":"default","resources":{"cpu":"1"}}')
    put_status(names[0], State.SUCCEEDED)
    put_status(names[1], State.RUNNING)
    ways.gateway._http._written = put_raw(f"{STATES}/nightly", value)
    for suspended in (False, True):
        view = ways.both(lambda c: c.schedules.get("nightly"))
        assert view.live == names[1:3], "without what has ended, and what was removed"
        (listed,) = ways.both(lambda c: c.schedules.all())
        assert (listed.live, listed.suspended) == (names[1:3], suspended)
        ways.direct.schedules.suspend("nightly")
        ways.gateway._http._written = ways.direct.store.get("x", deadline=float("inf"))[1]


def test_the_next_ticks_are_those_after_the_time_of_the_calendar(
    ways: Ways, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gateway runs for months, and its wall clock may have been set since it began."""
    ways.gateway.schedules.apply(nightly(cron="* * * * *"))
    ahead = time.time() + 2400
    monkeypatch.setattr(SystemClock, "wall", lambda _: ahead)
    minute = int(ahead // 60 + 1) * 60
    assert ways.both(lambda c: c.schedules.get("nightly")).upcoming[0] == minute
    assert ways.both(lambda c: c.schedules.all())[0].upcoming[0] == minute


def test_what_keeps_the_next_tick_is_foreseen(ways: Ways, put_raw: PutRaw, put_status: PutStatus) -> None:
    """A pool that is gone, and tasks that have not ended, as `concurrency` says."""
    old = "nightly-197001010001"

    def told(concurrency: str, *live: str) -> Any:
        ways.direct.schedules.apply(nightly(concurrency=concurrency))
        state = ScheduleState(cursor=60, create=1, live=live)
        ways.gateway._http._written = put_raw(f"{STATES}/nightly", encode_state(state, Op("x")))
        return ways.both(lambda c: c.schedules.get("nightly")).outlook

    assert told("forbid", old) == "", "it was removed, so it has ended"
    put_raw(f"tasks/{old}", b'{"command":["x"],"pool":"default","resources":{"cpu":"1"}}')
    assert told("allow", old) == ""
    skipped = f"it is skipped unless {old} (Created) has ended by then: see `tally explain {old}`"
    assert told("forbid", old) == skipped
    put_status(old, State.RUNNING)
    assert told("replace", old) == f"it waits until {old} (Running) has stopped, which it replaces"
    many = tuple(f"nightly-{197001010001 + n}" for n in range(100))
    for name in many:
        put_raw(f"tasks/{name}", b'{"command":["x"],"pool":"default","resources":{"cpu":"1"}}')
    assert told("allow", *many) == "it is skipped while 100 of its tasks have not ended"
    put_status(old, State.SUCCEEDED)
    assert told("forbid", old) == ""
    ways.direct.delete_pool("default")
    ways.gateway._http._written = ways.direct.store.get("x", deadline=float("inf"))[1]
    view = ways.both(lambda c: c.schedules.get("nightly"))
    assert view.outlook == "its pool 'default' is not defined"
    assert "in 9 s, and as things stand: its pool 'default'" in explain_schedule(view, view.upcoming[0] - 9)


@pytest.fixture
def callers(served: Served) -> dict[str, GatewayClient]:
    return {
        name: GatewayClient(GatewayCalls(served.gateway.url, partial(str, token)))
        for name, token in served.tokens.items()
    }


def test_a_schedule_is_governed_as_a_submission(
    client: Client, callers: dict[str, GatewayClient], as_: As
) -> None:
    """Who may submit for an owner may have it done at times; others do not know of it."""
    alice, bob, watcher = callers["alice"], callers["bob"], callers["watcher"]
    mine = nightly(task={"owner": "vision"})
    assert alice.schedules.apply(mine).outcome == "created"
    item = client.store.get(client.keys.of(ATTESTED, ("nightly",)), deadline=float("inf"))[0]
    stored = client.store.get(client.keys.of(KIND, ("nightly",)), deadline=float("inf"))[0]
    assert item is not None
    assert stored is not None
    assert (attested.decode(item.value).by, item.mod) == ("alice", stored.mod)
    assert "you lack the verb submit" in outcome(bob, lambda c: c.schedules.apply(mine))
    theirs = nightly(task={"owner": "speech"})
    assert "exists already, and is another one" in outcome(bob, lambda c: c.schedules.apply(theirs))
    for verb in ("get", "delete", "suspend", "resume"):
        with pytest.raises(NotFound, match="there is no schedule 'nightly'"):
            getattr(bob.schedules, verb)("nightly")
    assert bob.schedules.all() == []
    watcher._http._written = alice._http._written
    seen = watcher.schedules.get("nightly").definition
    assert seen is not None
    assert seen["task"]["env"] != {"KEY": "secret"}
    assert "you lack the verb submit" in outcome(watcher, lambda c: c.schedules.suspend("nightly"))
    assert alice.schedules.suspend("nightly")
    assert alice.schedules.get("nightly").attested_by == "alice"
    alice.schedules.delete("nightly")


def test_a_schedule_that_a_user_of_etcd_writes_is_attested_no_more(
    client: Client, callers: dict[str, GatewayClient]
) -> None:
    """He is told so."""
    callers["alice"].schedules.apply(nightly(task={"owner": "vision"}))
    result = client.schedules.apply(nightly(task={"owner": "vision"}, cron="0 0 * * *"))
    assert result.message == "a gateway had attested it, and nobody attests what is written without one"
    assert client.schedules.get("nightly").attested_by == ""


def test_without_the_feature_nothing_is_stored(ways: Ways, put_raw: PutRaw) -> None:
    """An admin's command turns it on; by a gateway, somebody has to do it before."""
    assert ways.direct.features.drop("schedules")
    said = outcome(ways.gateway, lambda c: c.schedules.apply(nightly()))
    assert said.startswith("needs the feature schedules, which is off")
    assert ways.direct.schedules.apply(nightly()).turned_on == ("schedules",)
    put_raw("leader", release("r1", knows=KNOWS))
    assert "schedule/nightly" in outcome(ways.direct, lambda c: c.features.drop("schedules"))
