"""Maintenance windows: what would reach into one is not admitted before it, and blocks nobody."""

from __future__ import annotations

from typing import Any

import pytest

from controller.core.model.lifecycle import State
from controller.core.model.requests import RequestKind
from controller.core.model.task import AttemptId, Observation, Phase
from controller.core.promise.invariants import check_model
from tests.support.bench import Stage, StagedReplica, observation, starts, stops

HOUR = 3600.0
RUN = {"grace_seconds": 0}


def window(stage: Stage, after: float, hours: float = 2.0) -> dict[str, Any]:
    """A window that begins so many seconds from now."""
    start = stage.clock.now() + after
    return {"starts_at": start, "ends_at": start + hours * HOUR}


def run(seconds: float, **fields: Any) -> dict[str, Any]:
    """Fields of a task that runs so long at most, and stops at once."""
    deadlines = {"run_seconds": seconds, **fields.pop("deadlines", {})}
    return {"deadlines": deadlines, "grace_seconds": 0, **fields}


def ended(task_id: str, attempt: int = 1, code: int = 0) -> Observation:
    return observation((task_id, attempt), Phase.FAILED if code else Phase.SUCCEEDED, exit_code=code)


def go(leader: StagedReplica) -> tuple[list[str], list[str]]:
    """The attempts that the leader starts and stops now. What is started runs at once."""
    leader.sync()
    started, stopped = list[str](), list[str]()
    while effects := leader.run():
        leader.acknowledge(effects)
        started += starts(effects)
        stopped += stops(effects)
        leader.see(*(observation(AttemptId.parse(name), Phase.RUNNING) for name in starts(effects)))
    return started, stopped


def started(leader: StagedReplica) -> list[str]:
    """As `go`; nothing is stopped."""
    begun, stopped = go(leader)
    assert stopped == []
    return begun


def test_only_what_ends_before_the_window_is_admitted(stage: Stage) -> None:
    """The deadlines to start and to run, and the grace, together; without a run deadline, never before."""
    stage.pool(maintenance=[window(stage, 1000)])
    stage.submit("fits", **run(1000))
    stage.submit("too-long", **run(1001))
    stage.submit("starts-late", **run(900, deadlines={"start_seconds": 101}))
    stage.submit("stops-late", **(run(999) | {"grace_seconds": 2}))
    stage.submit("for-ever", **RUN)
    leader = stage.leader()
    assert started(leader) == ["fits-1"]
    stage.check()
    assert stage.status("fits").windows_of == stage.model().pools["default"].mod
    leader.see(ended("fits"))
    stage.clock.move(1000 + 2 * HOUR - 0.01)
    assert started(leader) == [], "the window has not ended"
    assert leader.planner.next_wake() == pytest.approx(stage.clock.now() + 0.01)
    stage.clock.move(0.01)
    begun = started(leader)
    assert begun == ["too-long-1", "starts-late-1", "stops-late-1", "for-ever-1"]
    stage.check()


@pytest.mark.parametrize("policy", ["strict", "backfill"])
@pytest.mark.parametrize("sharing", [None, {}])
def test_who_is_kept_back_blocks_nobody(policy: str, sharing: dict[str, Any] | None) -> None:
    """Not even as a head that has waited for long, and reserves: under no policy."""
    stage, shared = Stage(), dict[str, Any]({"sharing": sharing} if sharing is not None else {})
    stage.pool(
        policy=policy,
        backfill_seconds=0,
        maintenance=[window(stage, 100)],
        **shared,
    )
    stage.submit("large", resources={"cpu": 4}, priority=9, owner="vision", **run(200))
    stage.submit("small", owner="speech", **run(50))
    stage.submit("another", owner="vision", **run(50))
    leader = stage.leader()
    assert sorted(started(leader)) == ["another-1", "small-1"]
    stage.check()


def test_a_head_that_comes_to_reach_into_the_window_lets_others_pass(stage: Stage) -> None:
    """Its time comes while nothing else happens: the planner wakes for it."""
    stage.pool(maintenance=[window(stage, 100)])
    stage.submit("runs", resources={"cpu": 3}, **run(90))
    leader = stage.leader()
    assert started(leader) == ["runs-1"]
    stage.submit("head", resources={"cpu": 2}, **run(60))
    stage.submit("behind", **run(50))
    assert started(leader) == [], "the head blocks"
    begun: list[str] = []
    while not begun:
        wake = leader.planner.next_wake()
        assert wake is not None
        stage.clock.move(wake - stage.clock.now())
        begun = started(leader)
    assert begun == ["behind-1"]
    assert 1_000_040 <= stage.clock.now() < 1_000_040.01
    assert stage.state("head") == State.CREATED


def test_each_attempt_is_judged_anew(stage: Stage) -> None:
    stage.pool(maintenance=[window(stage, 100)])
    stage.submit("a", retry={"max_attempts": 2, "backoff_seconds": 10}, **run(60))
    leader = stage.leader()
    assert started(leader) == ["a-1"]
    stage.clock.move(50)
    leader.see(ended("a", code=1))
    leader.run()
    stage.clock.move(10)
    assert started(leader) == []
    assert stage.state("a") == State.WAITING_RETRY
    stage.clock.move(40 + 2 * HOUR)
    assert started(leader) == ["a-2"]


def test_members_of_an_array_are_kept_back_and_no_attempt_is_stopped(stage: Stage) -> None:
    stage.pool()
    stage.submit("render", array={"size": 6}, **run(500))
    leader = stage.leader()
    assert len(started(leader)) == 4
    stage.pool(maintenance=[window(stage, 100)])
    assert go(leader) == ([], []), "what runs goes on"
    leader.see(ended("render-i0"))
    assert started(leader) == []
    stage.clock.move(100 + 2 * HOUR)
    assert go(leader)[0] == ["render-i4-1"]
    stage.check()


def test_a_gang_is_kept_back_as_a_whole(stage: Stage) -> None:
    """Its start deadline counts, and it has one, whatever its spec says."""
    stage.pool(maintenance=[window(stage, 1000)])
    stage.submit("late", array={"size": 2, "gang": True}, **run(500))
    stage.submit("early", array={"size": 2, "gang": True}, **run(400))
    leader = stage.leader()
    assert started(leader) == ["early-i0-1", "early-i1-1"]
    stage.clock.move(1000 + 2 * HOUR)
    assert go(leader)[0] == ["late-i0-1", "late-i1-1"]
    stage.check()


def test_nobody_is_preempted_for_a_task_that_is_kept_back(stage: Stage) -> None:
    rules: dict[str, Any] = {"sharing": {}, "preemption": {"by_priority": True, "min_run_seconds": 0}}
    stage.pool(maintenance=[window(stage, 100)], **rules)
    stage.submit("low", resources={"cpu": 4}, **run(90))
    leader = stage.leader()
    assert started(leader) == ["low-1"]
    stage.submit("high", resources={"cpu": 4}, priority=5, **run(101))
    assert go(leader) == ([], [])
    stage.submit("higher", resources={"cpu": 4}, priority=6, **run(99))
    assert go(leader) == ([], ["low-1"])


def test_a_claim_ends_with_the_window_that_keeps_its_task_back(stage: Stage) -> None:
    """Nothing stays reserved for it."""
    rules: dict[str, Any] = {"sharing": {}, "preemption": {"by_priority": True, "min_run_seconds": 0}}
    stage.pool(**rules)
    stage.submit("low", resources={"cpu": 4}, **run(90))
    leader = stage.leader()
    go(leader)
    stage.submit("high", resources={"cpu": 4}, priority=5, **run(500))
    go(leader)
    assert stage.model().claims["default"].keys() == {"high"}
    stage.pool(maintenance=[window(stage, 100)], **rules)
    stage.submit("short", **run(50))
    go(leader)
    assert not stage.model().claims.get("default")
    leader.see(ended("low"))
    assert started(leader)[:1] == ["short-1"]


def test_the_turn_of_an_owner_is_that_of_its_first_task_that_may_run(stage: Stage) -> None:
    """Its first one, which is kept back, would be beyond its guarantee; and the turn comes back to it."""
    owners: dict[str, Any] = {"vision": {"guarantee": {"cpu": 1}}, "speech": {}}
    shared: dict[str, Any] = {"sharing": {"owners": owners, "half_life_seconds": 0}, "capacity": {"cpu": 2}}
    stage.pool(**shared)
    stage.submit("holds", owner="vision-2", resources={"cpu": 1}, **run(50))
    stage.submit("first", owner="vision", resources={"cpu": 2}, priority=1, **run(110))
    leader = stage.leader()
    stage.pool(maintenance=[window(stage, 100)], **shared)
    stage.submit("another", owner="speech", **run(60))
    stage.submit("second", owner="vision", **run(50))
    assert started(leader)[:1] == ["second-1"]


def test_the_window_is_kept_by_the_next_leader(stage: Stage) -> None:
    stage.pool(maintenance=[window(stage, 100)])
    stage.submit("a", **run(200))
    assert started(stage.leader()) == []
    stage.elect()
    leader = stage.leader()
    assert started(leader) == []
    stage.clock.move(100 + 2 * HOUR)
    assert started(leader) == ["a-1"]


@pytest.mark.parametrize("half_life", [0, 3600])
def test_owners_are_served_again_once_a_window_has_ended(stage: Stage, half_life: float) -> None:
    """Nothing has been written meanwhile, so nothing but time puts them into their order again."""
    sharing = {"half_life_seconds": half_life}
    stage.pool(maintenance=[window(stage, 0), window(stage, 3 * HOUR)], sharing=sharing)
    stage.submit("short", owner="vision", **run(60))
    stage.submit("long", owner="vision", **run(2 * HOUR))
    stage.submit("another", owner="speech", **RUN)
    leader = stage.leader()
    assert started(leader) == []
    stage.clock.move(2 * HOUR)
    assert started(leader) == ["short-1"]
    stage.clock.move(3 * HOUR)
    assert sorted(go(leader)[0]) == ["another-1", "long-1"]
    stage.check()


def test_a_window_that_is_removed_keeps_nobody_back(stage: Stage) -> None:
    stage.pool(maintenance=[window(stage, 100)])
    stage.submit("a", **RUN)
    leader = stage.leader()
    assert started(leader) == []
    stage.pool()
    assert started(leader) == ["a-1"]
    assert stage.status("a").windows_of == 0


def test_windows_that_overlap_or_follow_each_other(stage: Stage) -> None:
    stage.pool(maintenance=[window(stage, 0), window(stage, HOUR), window(stage, 4 * HOUR)])
    stage.submit("short", **run(HOUR))
    stage.submit("for-ever", **RUN)
    leader = stage.leader()
    assert started(leader) == []
    stage.clock.move(2 * HOUR)
    assert started(leader) == [], "the second has not ended"
    stage.clock.move(HOUR)
    assert started(leader) == ["short-1"]
    stage.clock.move(3 * HOUR)
    assert go(leader)[0] == ["for-ever-1"]


def test_a_queue_deadline_goes_on(stage: Stage) -> None:
    """Who is kept back waits, and may have said for how long."""
    stage.pool(maintenance=[window(stage, 0)])
    stage.submit("a", **run(60, deadlines={"queue_seconds": 600}))
    leader = stage.leader()
    assert started(leader) == []
    stage.clock.move(600)
    leader.run()
    assert stage.status("a").reason == "QueueDeadlineExceeded"


def test_a_request_is_carried_out_within_a_window(stage: Stage) -> None:
    stage.pool(maintenance=[window(stage, 0)])
    stage.submit("a", **RUN)
    leader = stage.leader()
    stage.request("a", RequestKind.CANCEL)
    leader.sync()
    leader.run()
    assert stage.state("a") == State.CANCELLED


def test_the_planner_is_never_busy(stage: Stage) -> None:
    """Between two times that matter it has nothing to do, and the next one is always later."""
    stage.pool(maintenance=[window(stage, 1000)])
    for seconds in (100, 200, 300):
        stage.submit(f"run-{seconds}", resources={"cpu": 4}, **run(seconds))
    leader = stage.leader()
    leader.run()
    times = list[float]()
    while (wake := leader.planner.next_wake()) is not None and len(times) < 50:
        assert wake > stage.clock.now()
        stage.clock.move(wake - stage.clock.now())
        times.append(stage.clock.now())
        leader.run()
    assert len(times) <= 6, times


def admitted_too_late(stage: Stage, **fields: Any) -> list[str]:
    """What the audit finds of a task that was admitted in a pool, which is then as told."""
    return [finding.invariant for finding in check_model(stage.model()) if finding.invariant == "I17"]


def test_the_audit_finds_an_admission_that_reaches_into_a_window(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And none that a window met later, nor one under a window that has been changed since."""
    stage.submit("before", **run(500))
    stage.leader().run()
    stage.pool(maintenance=[window(stage, 100)])
    assert admitted_too_late(stage) == []
    monkeypatch.setattr("controller.core.model.model.room", lambda windows, now: float("inf"))
    stage.submit("wrong", **run(500))
    stage.elect()
    stage.leader().run()
    assert admitted_too_late(stage) == ["I17"]
    stage.pool(maintenance=[window(stage, 100), window(stage, 9 * HOUR)])
    assert admitted_too_late(stage) == []
