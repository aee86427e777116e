"""Time alone is no evidence: what an attempt did while its engine was not heard is told by the next list."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from controller.core.model.lifecycle import State
from controller.core.model.task import Phase
from controller.core.planning.events import EngineSilent
from tests.support.bench import Stage, StagedReplica, observation, starts, stops

Unheard = Callable[[Stage, StagedReplica, float], StagedReplica]


def silent(stage: Stage, leader: StagedReplica, seconds: float) -> StagedReplica:
    """The engine does not answer for so long."""
    leader.reconciler.handle(EngineSilent(leader.leadership.epoch, "connection refused"))
    stage.clock.move(seconds)
    assert leader.run() == []
    return leader


def leaderless(stage: Stage, leader: StagedReplica, seconds: float) -> StagedReplica:  # as `silent`
    """Nobody leads for so long; the next leader has not listed the engine yet."""
    stage.clock.move(seconds)
    stage.elect()
    after = stage.replica()
    assert stops(after.run()) == []
    return after


HOW = pytest.mark.parametrize("unheard", [silent, leaderless])


@HOW
def test_an_attempt_that_began_in_time_is_not_late(stage: Stage, unheard: Unheard) -> None:
    stage.submit("t", deadlines={"start_seconds": 60})
    leader = stage.leader()
    leader.acknowledge(leader.run())
    began = stage.clock.now() + 1
    leader = unheard(stage, leader, 120)
    assert stage.status("t").stopping == ""
    leader.list_engine(observation(("t", 1), Phase.RUNNING, uid="u", started_at=began))
    assert stops(leader.run()) == []
    assert (stage.state("t"), stage.status("t").stopping) == (State.RUNNING, "")


@HOW
def test_one_that_has_not_begun_is(stage: Stage, unheard: Unheard) -> None:
    """It is stopped as soon as the engine says so: no timer is left to tell it."""
    stage.submit("t", deadlines={"start_seconds": 60})
    leader = stage.leader()
    leader.acknowledge(leader.run())
    leader = unheard(stage, leader, 120)
    leader.list_engine(observation(("t", 1), Phase.PENDING, uid="u"))
    assert stops(leader.run()) == ["t-1"]
    assert stage.status("t").stopping == "deadline-start"


@HOW
def test_what_ended_before_its_run_deadline_did_not_pass_it(stage: Stage, unheard: Unheard) -> None:
    """An eviction is retried, and is no failure."""
    stage.submit("t", deadlines={"run_seconds": 60})
    leader = stage.leader()
    leader.run_to("t", Phase.RUNNING)
    at = stage.clock.now()
    leader = unheard(stage, leader, 120)
    assert stage.status("t").stopping == ""
    evicted = {"reason": "Evicted", "disrupted": True, "exit_code": 137, "finished_at": at + 5}
    leader.list_engine(observation(("t", 1), Phase.FAILED, uid="u", **evicted))
    leader.run()
    status = stage.status("t")
    assert (status.state, status.reason, status.failures) == (State.WAITING_RETRY, "Evicted", 0)


@HOW
def test_what_runs_on_beyond_it_is_stopped(stage: Stage, unheard: Unheard) -> None:
    stage.submit("t", deadlines={"run_seconds": 60})
    leader = stage.leader()
    leader.run_to("t", Phase.RUNNING)
    leader = unheard(stage, leader, 120)
    leader.list_engine(observation(("t", 1), Phase.RUNNING, uid="u"))
    assert stops(leader.run()) == ["t-1"]


@HOW
@pytest.mark.parametrize("phase", [Phase.RUNNING, Phase.UNKNOWN])
def test_what_was_lost_is_replaced_only_if_it_still_is(stage: Stage, unheard: Unheard, phase: Phase) -> None:
    """Else two would run at once, and it is known."""
    stage.submit("t", on_lost={"replace_after_seconds": 600}, retry={"max_attempts": 3, "backoff_seconds": 0})
    leader = stage.leader()
    leader.run_to("t", Phase.RUNNING)
    leader.see(observation(("t", 1), Phase.UNKNOWN, uid="u"))
    leader.run()
    leader = unheard(stage, leader, 700)
    assert stage.status("t").abandoned == 0
    leader.list_engine(observation(("t", 1), phase, uid="u"))
    assert starts(leader.run()) == ([] if phase is Phase.RUNNING else ["t-2"])
    assert stage.status("t").abandoned == (0 if phase is Phase.RUNNING else 1)


@HOW
@pytest.mark.parametrize("late", [False, True])
def test_a_gang_waits_for_what_is_heard_of_all_its_members(
    stage: Stage, unheard: Unheard, *, late: bool
) -> None:
    """Its start deadline is ten minutes by default; each member's end of waiting is recorded first."""
    stage.turn_on_all()
    stage.submit("g", array={"size": 3, "gang": True})
    leader = stage.leader()
    leader.acknowledge(leader.run())
    leader = unheard(stage, leader, 601)
    assert stage.status("g").stopping == ""
    phases = (Phase.RUNNING, Phase.RUNNING, Phase.PENDING if late else Phase.RUNNING)
    leader.list_engine(*(observation((f"g-i{i}", 1), phase, uid="u") for i, phase in enumerate(phases)))
    assert sorted(stops(leader.run())) == (["g-i0-1", "g-i1-1", "g-i2-1"] if late else [])
    assert stage.state("g") == (State.PENDING if late else State.RUNNING)
