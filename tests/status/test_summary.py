"""The summary: what it counts, and each trouble that it names."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from controller.core import codec
from controller.core.lifecycle import State
from controller.core.resources import Vector
from controller.core.view import Check
from controller.status.diagnosis import BEHIND_SECONDS, STUCK_SECONDS, TAKE_OVER_SECONDS
from tests.status.model_view import ModelView, status_value

CPU = Vector({"cpu": 1000})


def ledger(view: ModelView, pool: str, **held: int) -> None:
    view.write(("ledgers", (pool,), codec.encode_ledger(Vector(held), "x", {})))


def register(view: ModelView, name: str, **fields: Any) -> None:
    record = {"id": name, "version": "1", "applied_revision": view.world.revision, "behind_seconds": 0.2, "phase": "following"}
    view.write(("replicas", (name,), json.dumps(record | fields).encode()))


def healthy(view: ModelView) -> None:
    """Three replicas, of which one leads, a pool, a running and a waiting task that does not fit yet."""
    view.define_pool("default", cpu=1000)
    view.write(("leader", (), b'{"id":"replica-b","since":900,"status_url":"http://b:1"}'))
    for name in ("replica-a", "replica-c"):
        register(view, name)
    register(view, "replica-b", phase="leading", engine_answers=True)
    view.submit("runs", resources=CPU)
    view.write(("states", ("runs",), running()))
    ledger(view, "default", cpu=1000)
    view.submit("waits", resources=CPU)


def running(**fields: Any) -> bytes:
    return status_value(State.RUNNING, **{"hold": CPU} | fields)


def summary(http: httpx.Client) -> dict[str, Any]:
    found: dict[str, Any] = http.get("/v1/summary").json()
    return found


def codes(http: httpx.Client) -> dict[str, str]:
    return {notice["code"]: notice["severity"] for notice in summary(http)["notices"]}


def test_it_counts_what_there_is(http: httpx.Client, view: ModelView) -> None:
    healthy(view)
    register(view, "replica-c", applied_revision=view.world.revision - 4)
    found = summary(http)
    assert (found["verdict"], found["notices"], found["total"]) == ("ok", [], 2)
    assert {state: number for state, number in found["tasks"].items() if number} == {"Created": 1, "Running": 1}
    assert found["leader"] == {"replica": "replica-b", "status_url": "http://b:1", "since": 900.0, "term": 2, "epoch": 3}
    assert [(r["id"], r["leads"], r["lag_revisions"]) for r in found["replicas"]] == [
        ("replica-a", False, 0), ("replica-b", True, 0), ("replica-c", False, 4),
    ]  # fmt: skip
    (pool,) = found["pools"]
    assert (pool["name"], pool["waiting"], pool["tasks"]) == ("default", 1, {"Created": 1, "Running": 1})
    (cpu,) = pool["resources"]
    assert cpu == {"name": "cpu", "capacity": "1", "held": "1", "free": "0", "capacity_amount": 1000, "held_amount": 1000}
    assert found["audit"] is None
    http.get("/v1/audit")
    assert summary(http)["audit"]["verdict"] == "ok"


def break_store(view: ModelView) -> None:
    view.checks = (Check("model", True, ""), Check("store", False, "refused"))


def lose_leader(view: ModelView) -> None:
    view.leader = ""


def silence_engine(view: ModelView) -> None:
    register(view, "replica-b", phase="leading", engine_answers=False)


def never_hear_of_engine(view: ModelView) -> None:
    register(view, "replica-b", phase="taking-over", engine_answers=False)
    view.time = 900 + TAKE_OVER_SECONDS + 1


def lose_attempt(view: ModelView) -> None:
    view.write(("states", ("runs",), running(lost_since=950.0)))


def drift(view: ModelView) -> None:
    ledger(view, "default", cpu=1500)


def damage(view: ModelView) -> None:
    view.write(("states", ("runs",), b"garbage"))


def shrink(view: ModelView) -> None:
    view.define_pool("default", cpu=500)


def outgrow(view: ModelView) -> None:
    view.define_pool("small", cpu=100)
    view.submit("huge", pool="small", resources=CPU)


def undefine(view: ModelView) -> None:
    view.submit("lost", pool="nowhere")


def fall_behind(view: ModelView) -> None:
    register(view, "replica-c", behind_seconds=BEHIND_SECONDS + 1)


def mix(view: ModelView) -> None:
    register(view, "replica-c", version="2")


def leave_alone(view: ModelView) -> None:
    for name in ("replica-a", "replica-c"):
        view.write(("replicas", (name,), None))


def hang(view: ModelView) -> None:
    view.checks = (Check("control-loop", False, "last turn 60 s ago"),)


@pytest.mark.parametrize(
    ("trouble", "expected"),
    [
        (break_store, {"store-unreachable": "critical"}), (lose_leader, {"no-leader": "critical"}),
        (silence_engine, {"engine-silent": "critical"}), (never_hear_of_engine, {"engine-silent": "critical"}),
        (lose_attempt, {"attempts-lost": "warning"}), (drift, {"ledger-drift": "critical", "overcommitted": "info"}),
        (damage, {"quarantined": "warning"}), (shrink, {"overcommitted": "info"}), (outgrow, {"never-fits": "warning"}),
        (undefine, {"undefined-pool": "warning"}), (fall_behind, {"replica-behind": "warning"}), (mix, {"mixed-versions": "info"}),
        (leave_alone, {"single-replica": "info"}), (hang, {"loop-stuck": "critical"}),
    ],
)  # fmt: skip
def test_each_trouble_is_named_with_what_to_do(http: httpx.Client, view: ModelView, trouble: Any, expected: dict[str, str]) -> None:
    healthy(view)
    assert codes(http) == {}
    trouble(view)
    found = summary(http)
    assert codes(http) == expected
    severities = set(expected.values())
    assert found["verdict"] == ("critical" if "critical" in severities else "warning" if "warning" in severities else "ok")
    assert all(notice["title"] and notice["detail"] for notice in found["notices"])
    assert all(notice["action"] for notice in found["notices"] if notice["severity"] != "info")


def test_a_new_leader_is_given_time_to_hear_of_its_engine(http: httpx.Client, view: ModelView) -> None:
    healthy(view)
    register(view, "replica-b", phase="taking-over", engine_answers=False)
    view.time = 900 + TAKE_OVER_SECONDS - 1
    assert codes(http) == {}


def test_a_queue_is_stuck_when_the_same_task_stays_next(http: httpx.Client, view: ModelView) -> None:
    """A task that fits and has its turn is admitted within milliseconds; one that has just become the next is no trouble."""
    healthy(view)
    view.define_pool("default", cpu=2000)
    assert codes(http) == {}
    view.time += STUCK_SECONDS + 1
    assert codes(http) == {"queue-stuck": "critical"}
    assert "tally explain waits" in summary(http)["notices"][0]["action"]
    view.submit("urgent", resources=CPU, priority=9)
    assert codes(http) == {}


def test_a_paused_pool_is_not_stuck(http: httpx.Client, view: ModelView) -> None:
    healthy(view)
    view.write(("pools", ("default",), b'{"name":"default","capacity":{"cpu":"2"},"paused":true}'))
    codes(http)
    view.time += STUCK_SECONDS + 1
    assert codes(http) == {"paused": "info"}


def test_an_audit_that_finds_something_stands_on_top(http: httpx.Client, view: ModelView) -> None:
    healthy(view)
    finding = {"invariant": "I4", "severity": "wrong"}
    view.report = {"verdict": "wrong", "findings": [finding, {**finding, "severity": "notice"}], "at": 999.0, "revision": 5}
    http.get("/v1/audit")
    assert codes(http) == {"audit-findings": "critical"}
    assert summary(http)["audit"] == {"at": 999.0, "revision": 5, "verdict": "wrong", "wrong": 1, "notices": 1}


def test_registrations_that_say_nonsense_do_no_harm(http: httpx.Client, view: ModelView) -> None:
    healthy(view)
    nonsense = b'{"id":7,"version":[],"applied_revision":"x","behind_seconds":{},"engine_answers":3,"started_at":null}'
    view.write(("replicas", ("replica-c",), nonsense), ("replicas", ("junk",), b"\xff"), ("leader", (), b'{"since":"x"}'))
    found = summary(http)
    assert [replica["id"] for replica in found["replicas"]] == ["junk", "replica-a", "replica-b", "replica-c"]
    assert found["leader"]["since"] is None
