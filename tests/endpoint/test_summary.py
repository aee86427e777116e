"""The summary: what it counts, and each trouble that it names."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from controller.core.model import codec
from controller.core.model.arrays import ArraySpec
from controller.core.model.lifecycle import State
from controller.core.model.op import NO_OP, Op
from controller.core.model.resources import Vector
from controller.core.model.schedules import encode_schedule, parse_schedule
from controller.core.model.task import Pool, Spec
from controller.endpoint.diagnosis import STUCK_SECONDS, TAKE_OVER_SECONDS
from controller.endpoint.notice_words import Severity
from controller.endpoint.summary import MAX_NOTICES, Summary, Waits, summarize
from controller.errors import TallyError
from controller.views.freshness import RULE
from controller.views.replica import Check
from tests.endpoint.model_view import ModelView, status_value

CPU = Vector({"cpu": 1000})


def ledger(view: ModelView, pool: str, **held: int) -> None:
    view.write(("ledgers", (pool,), codec.encode_ledger(Vector(held), Op("x"), {})))


def register(view: ModelView, name: str, **fields: Any) -> None:
    record = {
        "id": name,
        "version": "1",
        "applied_revision": view.model.revision,
        "behind_seconds": 0.2,
        "phase": "following",
    }
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
    register(view, "replica-c", applied_revision=view.model.revision - 4)
    found = summary(http)
    assert (found["verdict"], found["notices"], found["total"]) == ("ok", [], 2)
    assert {state: number for state, number in found["tasks"].items() if number} == {
        "Created": 1,
        "Running": 1,
    }
    assert found["leader"] == {
        "replica": "replica-b",
        "status_url": "http://b:1",
        "since": 900.0,
        "term": 2,
        "epoch": 3,
    }
    assert [(r["id"], r["leads"], r["lag_revisions"]) for r in found["replicas"]] == [
        ("replica-a", False, 0),
        ("replica-b", True, 0),
        ("replica-c", False, 4),
    ]
    (pool,) = found["pools"]
    assert (pool["name"], pool["waiting"], pool["tasks"]) == ("default", 1, {"Created": 1, "Running": 1})
    (cpu,) = pool["resources"]
    assert cpu == {
        "name": "cpu",
        "capacity": "1",
        "held": "1",
        "free": "0",
        "capacity_amount": 1000,
        "held_amount": 1000,
    }
    assert found["audit"] is None
    http.get("/v1/audit")
    assert summary(http)["audit"]["verdict"] == "ok"


def break_store(view: ModelView) -> None:
    view.checks = (Check("model", True, ""), Check("store", False, "refused"))


def lose_leader(view: ModelView) -> None:
    view.leader = ""
    view.write(("leader", (), None))


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


def silence_replica(view: ModelView) -> None:
    view.ages = {"replica-c": view.staleness + RULE.replica.stale_seconds}


def age_engine(view: ModelView) -> None:
    register(
        view,
        "replica-b",
        phase="leading",
        engine_answers=True,
        engine_age_seconds=RULE.engine.dead_seconds - 1,
    )
    view.ages = {"replica-b": 1.0}


def age_model(view: ModelView) -> None:
    view.staleness = RULE.store.stale_seconds


def lose_store(view: ModelView) -> None:
    """With it go the words of all others: one notice, and not one for each."""
    view.staleness = RULE.store.dead_seconds
    view.ages = dict.fromkeys(("replica-a", "replica-b", "replica-c"), RULE.store.dead_seconds)


def stop_leader(view: ModelView) -> None:
    """Its process stands still, or is gone: with it goes what it says of the engine."""
    register(
        view, "replica-b", phase="leading", engine_answers=True, engine_age_seconds=RULE.engine.dead_seconds
    )
    view.ages = {"replica-b": view.staleness + RULE.replica.dead_seconds}


def stick(view: ModelView) -> None:
    """What waits would fit, and is not admitted."""
    view.define_pool("default", cpu=2000)


def fall_behind(view: ModelView) -> None:
    register(view, "replica-c", behind_seconds=RULE.store.dead_seconds + 1)


def mix(view: ModelView) -> None:
    register(view, "replica-c", version="2")


def leave_alone(view: ModelView) -> None:
    for name in ("replica-a", "replica-c"):
        view.write(("replicas", (name,), None))


def hang(view: ModelView) -> None:
    view.checks = (Check("control-loop", False, "last turn 60 s ago"),)


TROUBLES = (
    break_store,
    lose_leader,
    silence_engine,
    never_hear_of_engine,
    lose_attempt,
    drift,
    damage,
    shrink,
    outgrow,
    undefine,
    fall_behind,
    mix,
    silence_replica,
    age_engine,
    age_model,
    lose_store,
    leave_alone,
    hang,
    stop_leader,
    stick,
)


def lose_gateway_policy(view: ModelView) -> None:
    view.write(("gateways", ("g1",), b'{"url":"http://g1","ready":true,"problems":["gateway_policy_file"]}'))


def lose_gateway(view: ModelView) -> None:
    view.write(("gateways", ("g1",), b'{"url":"http://g1","ready":false,"problems":["store"]}'))


def lose_secrets(view: ModelView) -> None:
    view.write(("notifier", (), b'{"id":"n1","problem":"secrets.toml is not TOML"}'))


def owe_notice(view: ModelView) -> None:
    notice = {"task": "a", "owner": "o", "pool": "p", "urls": ["https://u"], "at": 1.0, "ending": "failed"}
    view.write(("outbox", ("a", "1".zfill(20)), json.dumps(notice).encode()))


def fail_receiver(view: ModelView) -> None:
    view.write(("notifier", (), b'{"id":"n1","failing":{"u":"503"}}'))


def bury_notice(view: ModelView) -> None:
    view.write(("notifier", (), b'{"id":"n1"}'))
    notice = {"task": "a", "owner": "o", "pool": "p", "urls": ["https://u"], "at": 1.0, "ending": "failed"}
    dead = {"dead": {"why": {"https://u": "410"}, "at": 2.0}}
    view.write(("outbox", ("a", "1".zfill(20)), json.dumps(notice | dead).encode()))


@pytest.mark.parametrize(
    ("trouble", "expected"),
    [
        (lose_gateway_policy, {"gateway-problem": "warning"}),
        (lose_gateway, {"gateway-not-ready": "warning"}),
        (lose_secrets, {"notifier-problem": "warning"}),
        (owe_notice, {"no-notifier": "warning"}),
        (fail_receiver, {"receiver-failing": "warning"}),
        (bury_notice, {"notices-dead": "warning"}),
        (break_store, {"store-unreachable": "critical"}),
        (lose_leader, {"no-leader": "critical"}),
        (silence_engine, {"engine-silent": "critical"}),
        (never_hear_of_engine, {"engine-silent": "critical"}),
        (lose_attempt, {"attempts-lost": "warning"}),
        (drift, {"ledger-drift": "critical", "overcommitted": "info"}),
        (damage, {"quarantined": "warning"}),
        (shrink, {"overcommitted": "info"}),
        (outgrow, {"never-fits": "warning"}),
        (undefine, {"undefined-pool": "warning"}),
        (fall_behind, {"replica-behind": "warning"}),
        (mix, {"mixed-versions": "info"}),
        (silence_replica, {"replica-silent": "warning"}),
        (age_engine, {"engine-silent": "critical"}),
        (age_model, {"store-unreachable": "warning"}),
        (lose_store, {"store-unreachable": "critical"}),
        (leave_alone, {"single-replica": "info"}),
        (hang, {"loop-stuck": "critical"}),
        (stop_leader, {"leader-silent": "critical"}),
    ],
)
def test_each_trouble_is_named_with_what_to_do(
    http: httpx.Client, view: ModelView, trouble: Any, expected: dict[str, str]
) -> None:
    healthy(view)
    assert codes(http) == {}
    trouble(view)
    found = summary(http)
    assert codes(http) == expected
    severities = set(expected.values())
    assert found["verdict"] == (
        "critical" if "critical" in severities else "warning" if "warning" in severities else "ok"
    )
    assert all(notice["title"] and notice["detail"] for notice in found["notices"])
    assert all(notice["action"] for notice in found["notices"] if notice["severity"] != "info")


@pytest.mark.parametrize(("error", "told"), [("a: b", " The error is: a: b."), ("", "")])
def test_what_the_store_answers_is_told(http: httpx.Client, view: ModelView, error: str, told: str) -> None:
    """Its own words, and not what else the check saw."""
    view.checks = (Check("store", False, f"2: heard of 47 s ago: {error}", error),)
    (notice,) = (found for found in summary(http)["notices"] if found["code"] == "store-unreachable")
    _, says, words = notice["detail"].partition(" The error is: ")
    assert says + words == told


@pytest.mark.parametrize("one", TROUBLES)
def test_a_cause_hides_what_it_explains(one: Any) -> None:
    """Any two troubles at once: nothing is said of now that is not known, and nobody is blamed for
    another's silence.
    """
    for other in TROUBLES:
        view, waits = ModelView(), Waits()
        healthy(view)
        one(view)
        other(view)
        look(view, waits)
        view.time += STUCK_SECONDS + 1
        check_notices(look(view, waits))


def test_a_pool_that_is_made_again_begins_anew() -> None:
    waits = Waits()
    assert waits.note("a", "t", 100.0) == 0.0
    waits.keep({"a"})
    assert waits.note("a", "t", 3100.0) == 3000.0
    waits.keep({"b"})
    assert waits.note("a", "t", 3101.0) == 0.0


def test_it_is_of_bounded_size() -> None:
    """Whatever there is, the worst is told first, and the rest is counted."""
    view = ModelView()
    healthy(view)
    for number in range(2 * MAX_NOTICES):
        pool = Pool(name=f"p{number}", capacity=Vector({"cpu": 1}), paused=True)
        view.write(("pools", (pool.name,), codec.encode_pool(pool, NO_OP)))
        spec = Spec(id=f"t{number}", command=("true",), pool=pool.name)
        view.write(("tasks", (spec.id,), codec.encode_spec(spec, 1.0, NO_OP)))
    failing = {f"host-{number}": None if number % 2 else 1000 * "x" for number in range(3000)}
    record = {"id": "n", "problem": None, "failing": failing}
    view.write(("notifier", (), json.dumps(record).encode()))
    found = look(view, Waits())
    assert len(found.notices) == MAX_NOTICES
    assert found.notices_total >= 2 * MAX_NOTICES
    assert len(found.notifier.failing) == 50
    assert not any("None" in each.detail for each in found.notices)


def look(view: ModelView, waits: Waits) -> Summary:
    return summarize(view.model, view.facts(), "", waits, view.now(), view.wall())


def check_notices(found: Summary) -> None:
    shown = [notice.code for notice in found.notices]
    office = {"no-leader", "leader-silent", "engine-silent"}
    of_others = {"replica-silent", "replica-behind", "other-engine", "single-replica", "mixed-versions"}
    blind = [code for code in shown if code in ("store-unreachable", "loop-stuck")]
    if blind:
        assert shown[: len(blind)] == blind
        assert not set(shown) & {*office, *of_others, "queue-stuck"}
    ages = {
        notice.age_seconds for notice in found.notices if notice.code not in (*blind, *office, *of_others)
    }
    assert ages <= ({found.staleness_seconds} if blind else {None}), (
        "what is told of the past carries its age"
    )
    assert len(set(shown) & office) <= 1
    assert not ("queue-stuck" in shown and set(shown) & office), "nothing can be admitted"
    ranks = [list(Severity).index(notice.severity) for notice in found.notices]
    assert ranks[len(blind) :] == sorted(ranks[len(blind) :])
    worst = list(Severity)[min(ranks, default=-1)]
    assert found.verdict == (Severity.OK if worst is Severity.INFO else worst)


def test_no_replica_is_blamed_while_etcd_falls_silent(http: httpx.Client, view: ModelView) -> None:
    """Whoever wrote first before that is the first that seems silent, before etcd itself does."""
    healthy(view)
    view.staleness = RULE.store.stale_seconds - 0.1
    view.ages = dict.fromkeys(("replica-a", "replica-b", "replica-c"), RULE.store.stale_seconds + 1)
    assert codes(http) == {}
    view.staleness += 0.1
    assert codes(http) == {"store-unreachable": "warning"}


def test_a_new_leader_is_given_time_to_hear_of_its_engine(http: httpx.Client, view: ModelView) -> None:
    healthy(view)
    register(view, "replica-b", phase="taking-over", engine_answers=False)
    view.time = 900 + TAKE_OVER_SECONDS - 1
    assert codes(http) == {}


def test_a_queue_is_stuck_when_the_same_task_stays_next(http: httpx.Client, view: ModelView) -> None:
    """A task that fits and has its turn is admitted within milliseconds; one that has just become the next
    is no trouble.
    """
    healthy(view)
    view.define_pool("default", cpu=2000)
    assert codes(http) == {}
    view.time += STUCK_SECONDS + 1
    assert codes(http) == {"queue-stuck": "critical"}
    assert "tally explain waits" in summary(http)["notices"][0]["action"]
    view.submit("urgent", resources=CPU, priority=9)
    assert codes(http) == {}


def test_a_queue_moves_while_members_of_an_array_begin(http: httpx.Client, view: ModelView) -> None:
    """Each admission of a member is progress, although its array stays at the head for hours."""
    healthy(view)
    view.define_pool("default", cpu=2000)
    view.submit("array", array=ArraySpec(size=9), resources=CPU, priority=9)
    assert codes(http) == {}
    view.time += STUCK_SECONDS + 1
    assert codes(http) == {"queue-stuck": "critical"}
    assert "tally explain array-i0" in summary(http)["notices"][0]["action"]
    view.write(("states", ("array-i0",), status_value(State.PENDING, array="array")))
    assert codes(http) == {}
    view.time += STUCK_SECONDS + 1
    assert codes(http) == {"queue-stuck": "critical"}


def test_a_paused_pool_is_not_stuck(http: httpx.Client, view: ModelView) -> None:
    healthy(view)
    view.write(("pools", ("default",), b'{"name":"default","capacity":{"cpu":"2"},"paused":true}'))
    codes(http)
    view.time += STUCK_SECONDS + 1
    assert codes(http) == {"paused": "info"}


def test_what_a_maintenance_window_keeps_back_is_not_stuck(http: httpx.Client, view: ModelView) -> None:
    """Nor too large for the pool: it waits for the end of the window, which is shown."""
    healthy(view)
    window = {"starts_at": view.time + 10, "ends_at": view.time + 2 * STUCK_SECONDS, "reason": "new nodes"}
    pool = {"name": "default", "capacity": {"cpu": "2"}, "maintenance": [window]}
    view.write(("pools", ("default",), json.dumps(pool).encode()))
    codes(http)
    view.time += STUCK_SECONDS + 1
    assert codes(http) == {"maintenance": "info"}
    [notice] = summary(http)["notices"]
    assert notice["detail"].startswith("It is 1970-01-01T")
    assert "(new nodes). 1 waiting task could run into it" in notice["detail"]
    [shown] = summary(http)["pools"]
    assert shown["maintenance"] == [{**window, "by": ""}]
    [listed] = http.get("/v1/pools").json()["items"]
    assert (
        listed["maintenance"] == http.get("/v1/pools/default").json()["maintenance"] == [{**window, "by": ""}]
    )


def test_an_audit_that_finds_something_stands_on_top(http: httpx.Client, view: ModelView) -> None:
    healthy(view)
    finding = {"invariant": "I4", "severity": "wrong"}
    view.report = {
        "verdict": "wrong",
        "findings": [finding, {**finding, "severity": "notice"}],
        "at": 999.0,
        "revision": 5,
    }
    http.get("/v1/audit")
    assert codes(http) == {"audit-findings": "critical"}
    found = {
        "at": 999.0,
        "revision": 5,
        "verdict": "wrong",
        "wrong": 1,
        "notices": 1,
        "age_seconds": 0.0,
        "freshness": "fresh",
    }
    found["replica"] = "replica-a"
    assert summary(http)["audit"] == found


def test_whatever_is_shown_carries_its_age(http: httpx.Client, view: ModelView) -> None:
    """B6: the model, the replicas, the engine and the audit, each judged by the one rule."""
    healthy(view)
    register(view, "replica-b", phase="leading", engine_answers=True, engine_age_seconds=3.0)
    http.get("/v1/audit")
    found = summary(http)
    assert (found["freshness"], found["audit"]["freshness"]) == ("fresh", "fresh")
    assert found["page_limits"] == list(RULE.page)

    view.time += RULE.audit.stale_seconds
    view.staleness = RULE.store.stale_seconds
    view.ages = {"replica-a": 0.4, "replica-b": 7.0, "replica-c": RULE.replica.dead_seconds}
    found = summary(http)
    assert (found["freshness"], found["audit"]["freshness"]) == ("stale", "stale")
    assert [(r["age_seconds"], r["freshness"]) for r in found["replicas"]] == [
        (0.4, "fresh"),
        (7.0, "stale"),
        (10.0, "dead"),
    ]
    assert [(r["engine_age_seconds"], r["engine_freshness"]) for r in found["replicas"]] == [
        (None, None),
        (10.0, "fresh"),
        (None, None),
    ]
    listed = http.get("/v1/replicas").json()["items"]
    assert [(r["age_seconds"], r["freshness"]) for r in listed] == [
        (0.4, "fresh"),
        (7.0, "stale"),
        (10.0, "dead"),
    ]

    view.time += RULE.audit.dead_seconds
    view.staleness = RULE.store.dead_seconds
    found = summary(http)
    assert (found["freshness"], found["audit"]["freshness"]) == ("dead", "dead")


def test_an_audit_that_fails_does_not_hide_the_one_before(http: httpx.Client, view: ModelView) -> None:
    healthy(view)
    http.get("/v1/audit")
    view.time += 60
    view.report = TallyError("etcd does not answer")
    assert http.get("/v1/audit").status_code == 503
    found = summary(http)
    assert (found["audit"]["age_seconds"], found["audit_problem"]) == (60.0, "etcd does not answer")


def test_the_newest_audit_of_all_is_shown(http: httpx.Client, view: ModelView) -> None:
    """A follower's own may be old; the leader registers what it found of itself, and how long ago."""
    healthy(view)
    http.get("/v1/audit")
    view.time += RULE.audit.stale_seconds
    audit = {"at": 5.0, "age_seconds": 30.0, "revision": 7, "wrong": 2, "notices": 1}
    register(view, "replica-b", phase="leading", engine_answers=True, audit=audit)
    view.ages = {"replica-b": 2.0}
    expected = {"replica": "replica-b", "age_seconds": 32.0, "freshness": "fresh", "verdict": "wrong"}
    assert summary(http)["audit"] == audit | expected
    assert codes(http) == {"audit-findings": "critical"}
    assert "replica-b audited 32s ago" in summary(http)["notices"][0]["detail"]
    http.get("/v1/audit")
    assert (summary(http)["audit"]["replica"], codes(http)) == ("replica-a", {})


def test_a_killed_leader_is_not_shown_as_a_follower(http: httpx.Client, view: ModelView) -> None:
    """It wrote that it leads, another has the key by now, and its registration has yet to expire."""
    healthy(view)
    register(view, "replica-a", phase="leading", engine_answers=True, engine_age_seconds=1.0)
    view.ages = {"replica-a": RULE.replica.stale_seconds + 1}
    killed, leader, follower = summary(http)["replicas"]
    assert [(r["leads"], r["led"]) for r in (killed, leader, follower)] == [
        (False, True),
        (True, False),
        (False, False),
    ]
    assert (killed["age_seconds"], killed["freshness"]) == (7.0, "stale")


def test_of_two_replicas_of_one_name_the_one_that_leads_is_marked(
    http: httpx.Client, view: ModelView
) -> None:
    """D11: the second registers under another name, and it is the process that tells who leads, not the
    name.
    """
    view.leader = "replica-a"
    view.write(("leader", (), b'{"id":"replica-a","instance":"22222222"}'))
    register(view, "replica-a", instance="11111111")
    register(view, "replica-a-22222222", instance="22222222", phase="leading")
    expected = [("replica-a", False), ("replica-a-22222222", True)]
    assert [(r["id"], r["leads"]) for r in http.get("/v1/replicas").json()["items"]] == expected
    assert [(r["id"], r["leads"]) for r in summary(http)["replicas"]] == expected


def test_registrations_that_say_nonsense_do_no_harm(http: httpx.Client, view: ModelView) -> None:
    healthy(view)
    nonsense = (
        b'{"id":7,"version":[],"applied_revision":"x","behind_seconds":{},'
        b'"engine_answers":3,"started_at":null,"audit":{"at":0}}'
    )
    view.write(
        ("replicas", ("replica-c",), nonsense),
        ("replicas", ("junk",), b"\xff"),
        ("leader", (), b'{"since":"x"}'),
    )
    found = summary(http)
    assert [replica["id"] for replica in found["replicas"]] == ["junk", "replica-a", "replica-b", "replica-c"]
    assert found["leader"]["since"] is None


def test_the_next_ticks_are_those_after_the_time_of_the_calendar(view: ModelView, http: httpx.Client) -> None:
    """All else is by the clock of the term, which does not see that the wall clock was set."""
    schedule = parse_schedule({"name": "s", "cron": "* * * * *", "task": {"command": ["true"]}})
    view.write(("schedules", ("s",), encode_schedule(schedule, Op("x"))))
    view.ahead = 2400.0
    told = summary(http)
    assert (told["now"], told["schedules"][0]["next"]) == (1000.0, 3420)
    assert http.get("/v1/schedules/s").json()["upcoming"][0] == 3420
    assert http.get("/v1/schedules").json()["items"][0]["upcoming"][0] == 3420
