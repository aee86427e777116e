"""A user puts a waiting task on hold, releases it, or gives it another priority."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from controller.core.model.codec import decode_history
from controller.core.model.requests import RequestKind
from controller.core.model.task import Phase
from controller.core.promise.invariants import check_task
from controller.core.promise.replay import replay
from controller.views.explain import explain
from tests.scenarios.test_preemption import GUARANTEES, Pool
from tests.support.bench import Stage, StagedReplica, observation, starts, stops


@pytest.fixture
def stage() -> Stage:
    """A pool of 4 cpus that is paused: what is submitted waits."""
    stage = Stage()
    stage.pool(paused=True)
    return stage


def now(leader: StagedReplica) -> list[str]:
    """What is started now."""
    leader.sync()
    started = starts(effects := leader.run())
    leader.acknowledge(effects)
    leader.stage.check()
    return started


def last_step(stage: Stage, task_id: str) -> tuple[str, str, str, str]:
    status = stage.status(task_id)
    assert replay(status) == []
    told = decode_history(status)[-1]
    return told.event, told.reason, told.request, told.outcome


@pytest.mark.parametrize("was", ["Created", "WaitingRetry"])
def test_a_task_on_hold_is_not_admitted_until_it_is_released(stage: Stage, was: str) -> None:
    leader = stage.leader()
    stage.submit("job", retry={"max_attempts": 2, "backoff_seconds": 0})
    attempt = 1
    if was == "WaitingRetry":
        stage.pool()
        leader.run_to("job", Phase.RUNNING)
        stage.pool(paused=True)
        assert now(leader) == []
        leader.see(observation(("job", 1), Phase.FAILED))
        attempt = 2
        assert now(leader) == []
    assert stage.state("job") == was
    stage.change("job", on_hold=True)
    assert now(leader) == []
    assert stage.state("job") == was
    assert last_step(stage, "job") == ("noted", "OnHold", "change", "done")
    stage.pool()
    stage.clock.move(3600)
    assert now(leader) == []
    assert "job is on hold since" in explain(leader.model, "job", stage.clock.now())
    stage.submit("other")
    assert now(leader) == ["other-1"], "it blocks nobody"
    stage.change("job", on_hold=False)
    assert now(leader) == [f"job-{attempt}"]


def test_a_task_on_hold_is_not_refused_for_an_earlier_spec(stage: Stage) -> None:
    """It is in no queue: what it asked for there is what the spec of that time asks for."""
    stage.pool(paused=True)
    stage.submit("job", resources={"cpu": 3})
    leader = stage.leader()
    assert now(leader) == []
    stage.change("job", on_hold=True)
    assert now(leader) == []
    stage.pool(capacity={"cpu": 1})
    stage.delete(stage.keys.task("job"))
    stage.submit("job")
    assert now(leader) == []
    assert stage.state("job") == "Created"
    stage.change("job", on_hold=False)
    assert now(leader) == ["job-1"]


def test_the_place_in_the_queue_is_kept(stage: Stage) -> None:
    stage.pool(capacity={"cpu": 1}, paused=True)
    leader = stage.leader()
    stage.submit("first")
    stage.submit("second")
    stage.change("first", on_hold=True)
    assert now(leader) == []
    stage.change("first", on_hold=False)
    assert now(leader) == []
    stage.pool(capacity={"cpu": 1})
    assert now(leader) == ["first-1"]


def test_a_hold_outlives_its_leader_and_so_does_a_priority(stage: Stage) -> None:
    stage.submit("held")
    stage.submit("low")
    stage.submit("high")
    stage.change("held", on_hold=True)
    stage.change("high", priority=7)
    assert now(stage.leader()) == []
    stage.elect()
    stage.pool(capacity={"cpu": 1})
    leader = stage.leader()
    assert now(leader) == ["high-1"]
    leader.see(observation(("high", 1), Phase.SUCCEEDED))
    assert now(leader) == ["low-1"]
    leader.see(observation(("low", 1), Phase.SUCCEEDED))
    assert now(leader) == []


def test_a_priority_lasts_for_all_attempts(stage: Stage) -> None:
    leader = stage.leader()
    stage.submit("job", priority=1, retry={"max_attempts": 2, "backoff_seconds": 0})
    stage.change("job", priority=-3)
    assert now(leader) == []
    stage.submit("other")
    stage.pool(capacity={"cpu": 1})
    assert now(leader) == ["other-1"]
    leader.see(observation(("other", 1), Phase.SUCCEEDED))
    assert now(leader) == ["job-1"]
    assert stage.status("job").priority == -3
    told = [step for step in decode_history(stage.status("job")) if step.reason == "PriorityChanged"]
    assert [step.message for step in told] == ["priority -3 (was 1), requested by user"]
    leader.see(observation(("job", 1), Phase.FAILED))
    assert now(leader) == ["job-2"]
    assert stage.model().tasks["job"].priority == -3


def test_the_time_on_hold_is_no_time_in_the_queue(stage: Stage) -> None:
    """A queue deadline, and the patience with those that pass it, count from the release."""
    leader = stage.leader()
    stage.submit("job", deadlines={"queue": "60s"})
    now(leader)
    stage.clock.move(59)
    stage.change("job", on_hold=True)
    now(leader)
    stage.clock.move(3600)
    assert now(leader) == []
    assert stage.state("job") == "Created"
    stage.change("job", on_hold=False)
    now(leader)
    stage.clock.move(59)
    now(leader)
    assert stage.state("job") == "Created"
    stage.clock.move(2)
    now(leader)
    assert (stage.state("job"), stage.status("job").reason) == ("Failed", "QueueDeadlineExceeded")


def test_a_priority_does_not_begin_the_wait_anew(stage: Stage) -> None:
    leader = stage.leader()
    stage.submit("job", deadlines={"queue": "60s"})
    now(leader)
    stage.clock.move(59)
    stage.change("job", priority=1)
    now(leader)
    stage.clock.move(2)
    now(leader)
    assert stage.status("job").reason == "QueueDeadlineExceeded"


def test_a_release_does_not_cut_a_back_off_short(stage: Stage) -> None:
    stage.pool()
    stage.submit("job", retry={"max_attempts": 2, "backoff_seconds": 100})
    leader = stage.leader()
    leader.run_to("job", Phase.FAILED)
    stage.change("job", on_hold=True)
    assert now(leader) == []
    due = stage.status("job").retry_at
    assert due is not None
    stage.clock.move(30)
    stage.change("job", on_hold=False)
    assert now(leader) == []
    assert stage.status("job").retry_at == due
    stage.clock.move(due - stage.clock.now() - 1)
    assert now(leader) == []
    stage.clock.move(2)
    assert now(leader) == ["job-2"]


@pytest.mark.parametrize("end", ["cancel", "deleted"])
def test_a_task_on_hold_can_be_ended(stage: Stage, end: str) -> None:
    leader = stage.leader()
    stage.submit("job")
    stage.change("job", on_hold=True)
    now(leader)
    if end == "cancel":
        stage.request("job", RequestKind.CANCEL)
    else:
        stage.delete(stage.keys.task("job"))
    assert now(leader) == []
    if end == "deleted":
        assert "job" not in stage.model().tasks
        return
    assert (stage.state("job"), stage.status("job").on_hold) == ("Cancelled", False)
    stage.pool()
    stage.request("job", RequestKind.RETRY)
    assert now(leader) == ["job-1"], "who wants it to run again does not want it on hold"


def test_a_cancel_after_a_retry_has_the_last_word(stage: Stage) -> None:
    leader = stage.leader()
    stage.submit("job")
    stage.request("job", RequestKind.CANCEL)
    now(leader)
    stage.pool()
    stage.request("job", RequestKind.RETRY)
    stage.request("job", RequestKind.CANCEL)
    assert now(leader) == []
    assert stage.state("job") == "Cancelled"


def test_what_has_ended_is_not_on_hold_whatever_its_status_says(stage: Stage) -> None:
    stage.pool()
    stage.submit("job")
    stage.put(
        stage.keys.state("job"),
        b'{"state":"Cancelled","pool":"default","attempt":1,"finished_at":1,"on_hold":true,"steps":1}',
    )
    leader = stage.leader()
    stage.request("job", RequestKind.RETRY)
    assert now(leader) == ["job-2"]


@pytest.mark.parametrize("fields", [{"on_hold": True}, {"on_hold": False}, {"priority": 9}])
def test_what_does_not_wait_is_not_changed(stage: Stage, fields: dict[str, Any]) -> None:
    stage.pool()
    stage.submit("job")
    leader = stage.leader()
    leader.run_to("job", Phase.RUNNING)
    for state, phase in (("Running", Phase.SUCCEEDED), ("Succeeded", None)):
        assert stage.state("job") == state
        stage.change("job", **fields)
        now(leader)
        assert last_step(stage, "job")[1:] == ("RequestIgnored", "change", "ignored")
        assert (stage.status("job").on_hold, stage.status("job").priority) == (False, None)
        if phase:
            leader.see(observation(("job", 1), phase))
            leader.run()
    assert stage.model().tasks["job"].requests == {}


def test_what_is_so_already_changes_nothing(stage: Stage) -> None:
    leader = stage.leader()
    stage.submit("job", priority=4)
    stage.change("job", priority=4, on_hold=False)
    now(leader)
    assert stage.model().tasks["job"].status is None
    assert stage.model().tasks["job"].requests == {}
    stage.change("job", on_hold=True, priority=5)
    now(leader)
    steps = stage.status("job").steps
    stage.change("job", on_hold=True)
    now(leader)
    assert last_step(stage, "job")[1:] == ("RequestIgnored", "change", "ignored")
    assert stage.status("job").steps == steps + 1


def test_a_request_and_a_spec_that_changes_meanwhile(stage: Stage) -> None:
    """Created is stored only for the spec that it was made for."""
    leader = stage.leader()
    stage.submit("job")
    stage.change("job", on_hold=True)
    leader.sync()
    stage.delete(stage.keys.task("job"))
    leader.run()
    assert "job" not in stage.model().tasks


def test_a_task_that_is_held_reserves_nothing_and_a_claim_ends() -> None:
    """I11: what was freed for it goes to the next."""
    pool = Pool(GUARANTEES, reclaim=True)
    pool.submit("b", 8)
    pool.go()
    pool.submit("a", 1)
    _, stopped = pool.go()
    assert pool.claims() == ["a0"]
    pool.stage.change("a0", on_hold=True)
    pool.leader.sync()
    assert pool.go() == ([], [])
    assert pool.claims() == []
    pool.end(stopped)
    started, more = pool.go()
    assert ([each.rpartition("-")[0] for each in started], more) == ([stopped[0].rpartition("-")[0]], [])
    pool.stage.change("a0", on_hold=False)
    pool.leader.sync()
    _, stopped = pool.go()
    assert len(stopped) == 1
    pool.end(stopped)
    assert pool.go()[0] == ["a0-1"]


def test_a_raised_priority_preempts_and_a_lowered_one_can_be_preempted() -> None:
    pool = Pool({"owners": {"a": {}}}, capacity=2, by_priority=True)
    pool.submit("a", 2, priority=5)
    pool.go()
    pool.submit("a", 1, name="late", priority=0)
    assert pool.go() == ([], [])
    pool.stage.change("late0", priority=6)
    pool.leader.sync()
    _, stopped = pool.go()
    assert len(stopped) == 1
    pool.end(stopped)
    assert pool.go()[0] == ["late0-1"]
    pool.stage.change(victim := stopped[0].rpartition("-")[0], priority=7)
    pool.leader.sync()
    _, stopped = pool.go()
    assert len(stopped) == 1, "the same right for the victim"
    pool.end(stopped)
    assert pool.go()[0] == [f"{victim}-2"]


def test_a_victim_is_changed_when_it_waits_again() -> None:
    """It is about to wait: the request takes effect then."""
    pool = Pool(GUARANTEES, reclaim=True)
    pool.submit("b", 8)
    pool.go()
    pool.submit("a", 1)
    _, (victim,) = pool.go()
    task = victim.rpartition("-")[0]
    pool.stage.change(task, on_hold=True)
    pool.leader.sync()
    assert pool.go() == ([], [])
    assert not pool.stage.status(task).on_hold
    pool.end([victim])
    assert pool.go() == (["a0-1"], [])
    assert pool.stage.status(task).on_hold
    pool.end(["b0-1" if task != "b0" else "b1-1"], Phase.SUCCEEDED)
    assert pool.go() == ([], [])
    pool.stage.change(task, on_hold=False)
    pool.leader.sync()
    assert pool.go() == ([f"{task}-2"], [])


def untold(stage: Stage, **forged: Any) -> list[str]:
    """What an audit finds of the task, with these fields of its status written by hand."""
    task = stage.model().tasks["job"]
    assert task.status is not None
    task.status = msgspec.structs.replace(task.status, **forged)
    return [finding.what for finding in check_task(task, None)]


def test_what_was_written_by_hand_is_told_from_what_was_asked_for(stage: Stage) -> None:
    """I3: the history says what users have set, and until when it counted."""
    held, released = "is on hold, but its history says otherwise", "is not on hold, but its history says"
    leader = stage.leader()
    stage.submit("job", priority=3)
    stage.change("job", priority=7)
    now(leader)
    assert untold(stage) == []
    assert untold(stage, on_hold=True) == [held]
    assert untold(stage, priority=8) == ["has the priority 8, but its history says that it was set to 7"]
    assert untold(stage, priority=None, on_hold=True)[0].startswith(f"{held}, and has the priority None")
    stage.change("job", on_hold=True, priority=-5)
    now(leader)
    assert untold(stage) == []
    assert untold(stage, on_hold=False)[0].startswith(released)
    assert untold(stage, priority=7) == ["has the priority 7, but its history says that it was set to -5"]
    stage.request("job", RequestKind.CANCEL)
    now(leader)
    assert untold(stage, on_hold=True) == [], "what has ended is not on hold, whatever its status says"
    stage.request("job", RequestKind.RETRY)
    now(leader)
    assert untold(stage) == []
    assert untold(stage, on_hold=True) == [held]


def test_a_history_that_no_longer_says_proves_nothing(stage: Stage) -> None:
    """Each part of it is judged by the steps that are kept."""
    leader = stage.leader()
    stage.submit("job")
    for fields in ({"on_hold": True}, {"priority": 9}, {"priority": 9}):  # the last one is ignored
        stage.change("job", **fields)
        now(leader)
    steps = stage.status("job").history
    assert len(steps) == 3
    for kept in (1, 2, 3):
        assert untold(stage, history=steps[-kept:]) == []
    forged: dict[str, Any] = {"on_hold": False, "priority": 4}
    priority = "has the priority 4, but its history says that it was set to 9"
    assert untold(stage, history=steps[-1:], **forged) == []
    assert untold(stage, history=steps[-2:], **forged) == [priority]
    assert untold(stage, **forged) == [f"is not on hold, but its history says otherwise, and {priority}"]


def test_a_pending_change_is_decided_before_an_admission(stage: Stage) -> None:
    """Whoever asks before the task is admitted is heard."""
    stage.pool()
    leader = stage.leader()
    stage.submit("job")
    stage.change("job", on_hold=True)
    assert now(leader) == []
    assert stops(leader.effects) == []
    assert stage.status("job").on_hold
