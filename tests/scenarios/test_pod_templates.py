"""Tasks whose pods have more than their own container: what is held, by which pool, and whose end is the
task's.
"""

from __future__ import annotations

from typing import Any

import pytest

from controller.core.model.lifecycle import State
from controller.core.model.requests import RequestKind
from controller.core.model.task import Observation, Phase
from controller.core.planning.events import StartRefused
from controller.core.planning.plan import Effect, Start
from controller.core.promise.invariants import check_model
from controller.views.explain import explain
from tests.support.bench import Stage, StagedReplica, observation, starts, stops


def beside(cpu: str) -> dict[str, Any]:
    """A pod template with a sidecar that asks for so much."""
    return {"spec": {"containers": [{"name": "side", "image": "x", "resources": {"requests": {"cpu": cpu}}}]}}


def holds_of(effects: list[Effect]) -> list[dict[str, str]]:
    """What the attempts that are started hold, as the engine is told."""
    return [
        effect.launch.hold.format()
        for effect in effects
        if isinstance(effect, Start) and effect.launch.hold is not None
    ]


# -- what is held
# ------------------------------------------------------------------------------------------------------


def test_the_ledger_has_what_the_whole_pod_asks_for(stage: Stage) -> None:
    """Found C6: 3200m ran in a pool of 2."""
    for n in range(3):
        stage.submit(f"job{n}", pod_template=beside("1"))
    leader = stage.leader()
    effects = leader.run()
    assert starts(effects) == ["job0-1", "job1-1"]
    assert holds_of(effects) == [{"cpu": "2"}] * 2
    assert stage.held() == {"cpu": "4"}
    assert "it asks for cpu 2 (0 free) of pool default" in explain(stage.model(), "job2", stage.clock.now())
    leader.acknowledge(effects)
    leader.see(observation(("job0", 1), Phase.SUCCEEDED))
    assert starts(leader.run()) == ["job2-1"]
    assert stage.held() == {"cpu": "4"}
    stage.check()


def test_the_pools_template_is_held_by_each_of_its_tasks(stage: Stage) -> None:
    stage.pool(engine_options={"pod_template": beside("500m")})
    stage.submit("job")
    leader = stage.leader()
    leader.acknowledge(leader.run())
    assert stage.held() == {"cpu": "1500m"}
    stage.check()
    leader.see(observation(("job", 1), Phase.SUCCEEDED))
    leader.run()
    assert stage.held() == {}


def test_what_can_never_run_with_its_sidecars_is_refused(stage: Stage) -> None:
    stage.submit("job", pod_template=beside("4"))
    stage.leader().run()
    status = stage.status("job")
    assert status is not None
    assert (status.state, status.reason) == (State.FAILED, "Unsatisfiable")
    assert "asks for 5 (including its pod template), but pool 'default' has 4 in all" in status.message


@pytest.mark.parametrize("seen_first", ["task", "pool"])
def test_a_pool_that_changes_while_tasks_wait(stage: Stage, seen_first: str) -> None:
    """They are admitted by what the pool's template is then, in whichever order the model hears of both."""
    if seen_first == "pool":
        leader = stage.leader()
        stage.submit("job")
    else:
        stage.pool(paused=True)
        stage.submit("job")
        leader = stage.leader()
        assert leader.run() == []
    stage.pool(engine_options={"pod_template": beside("2")})
    leader.sync()
    assert holds_of(leader.run()) == [{"cpu": "3"}]
    assert stage.held() == {"cpu": "3"}
    stage.check()


def test_a_pool_that_changes_between_plan_and_commit(stage: Stage) -> None:
    """The admission compares the pool that it was computed with: the transaction is refused, and planned
    anew.
    """
    stage.submit("job")
    leader = stage.leader()
    stage.pool(engine_options={"pod_template": beside("2")})  # the leader has not heard of it
    assert holds_of(leader.run()) == [{"cpu": "3"}]
    assert stage.held() == {"cpu": "3"}
    stage.check()


def test_a_hold_stays_what_it_was_when_the_pool_changes(stage: Stage) -> None:
    """And no audit calls it wrong; once its own pool stands, it judges the hold by it."""
    stage.pool(engine_options={"pod_template": beside("1")})
    stage.submit("job")
    leader = stage.leader()
    leader.acknowledge(leader.run())
    for options in ({}, {"pod_template": beside("3")}):
        stage.pool(engine_options=options)
        leader.sync()
        leader.run()
        assert stage.held() == {"cpu": "2"}
        assert check_model(stage.model()) == []
    leader.see(observation(("job", 1), Phase.SUCCEEDED))
    leader.run()
    assert stage.held() == {}
    stage.check()


def test_a_start_that_the_hold_does_not_cover_any_more_is_admitted_anew(stage: Stage) -> None:
    """A leader died before it had created the pod, and the pool has changed since: the engine refuses, and
    nothing is counted.
    """
    stage.submit("job")
    stage.leader().run()
    stage.pool(engine_options={"pod_template": beside("1")})
    stage.elect()
    leader = stage.leader()
    effects = leader.run()
    assert holds_of(effects) == [{"cpu": "1"}]
    (start,) = effects
    assert isinstance(start, Start)
    leader.reconciler.handle(
        StartRefused(stage.epoch, start, "InvalidPool", "the template has changed", transient=True)
    )
    leader.run()
    stage.clock.move(60)
    leader.sync()
    assert holds_of(leader.run()) == [{"cpu": "2"}]
    status = stage.status("job")
    assert status is not None
    assert (status.attempt, status.failures, status.start_failures) == (2, 0, 0)
    stage.check()


# -- the main container
# ------------------------------------------------------------------------------------------------


def main_ended(task: str, exit_code: int, **fields: Any) -> Observation:
    """Its main container has ended, and others run on."""
    reason = "Completed" if exit_code == 0 else "Error"
    return observation(
        (task, 1),
        Phase.RUNNING,
        main_ended=True,
        **{"exit_code": exit_code, "reason": reason, "uid": "u", **fields},
    )


def started(stage: Stage, **fields: Any) -> StagedReplica:
    """A leader whose task is running."""
    stage.submit("job", **fields)
    leader = stage.leader()
    leader.acknowledge(leader.run())
    leader.see(observation(("job", 1), Phase.RUNNING, uid="u"))
    leader.run()
    return leader


@pytest.mark.parametrize(("exit_code", "state"), [(0, State.SUCCEEDED), (3, State.FAILED)])
def test_the_main_containers_end_stops_the_rest_and_is_the_result(
    stage: Stage, exit_code: int, state: State
) -> None:
    """The hold stays until the stop of all is proven; how the others ended does not matter."""
    leader = started(stage)
    leader.see(main_ended("job", exit_code))
    effects = leader.run()
    assert stops(effects) == ["job-1"]
    assert stage.state("job") == State.RUNNING
    assert stage.held() == {"cpu": "1"}
    assert "its main container has ended" in explain(stage.model(), "job", stage.clock.now())
    leader.acknowledge(effects)
    leader.see(
        observation(("job", 1), Phase.FAILED, uid="u", disrupted=True, reason="Stopped", exit_code=137)
    )
    leader.run()
    status = stage.status("job")
    assert status is not None
    assert (status.state, status.exit_code, stage.held()) == (state, exit_code, {})
    assert status.reason == ("Completed" if exit_code == 0 else "Error")
    stage.check()


def test_it_is_stopped_when_its_end_is_seen_after_a_terminal_phase_without_proof(stage: Stage) -> None:
    """Its node was given up, and is back: the others would run for ever, were that taken for an older
    view.
    """
    leader = started(stage)
    leader.see(observation(("job", 1), Phase.FAILED, uid="u", stopped=False, reason="NodeLost"))
    leader.run()
    stage.clock.move(60)
    leader.list_engine(main_ended("job", 2))
    assert stops(leader.run()) == ["job-1"]
    leader.see(observation(("job", 1), Phase.FAILED, uid="u"))
    leader.run()
    assert (stage.state("job"), stage.held()) == (State.FAILED, {})
    stage.check()


def test_it_is_stopped_even_if_it_was_never_seen_running(stage: Stage) -> None:
    stage.submit("job")
    leader = stage.leader()
    leader.acknowledge(leader.run())
    leader.see(main_ended("job", 0))
    assert stops(leader.run()) == ["job-1"]
    leader.see(observation(("job", 1), Phase.FAILED, uid="u"))
    leader.run()
    assert stage.state("job") == State.SUCCEEDED


def test_the_end_is_known_to_the_next_leader(stage: Stage) -> None:
    """It was recorded before anything was stopped: even if the pod is gone by then, it is the result."""
    leader = started(stage, retry={"max_attempts": 3})
    leader.see(main_ended("job", 0))
    leader.run()
    stage.elect()
    leader = stage.leader()
    leader.acknowledge(leader.run())  # the rest is stopped first, wherever it may be
    leader.run()
    assert stage.state("job") == State.SUCCEEDED
    assert stage.held() == {}


def test_a_rule_sees_how_the_main_container_ended(stage: Stage) -> None:
    leader = started(
        stage, retry={"max_attempts": 3, "rules": [{"reasons": ["OOMKilled"], "action": "fail"}]}
    )
    leader.see(main_ended("job", 137, reason="OOMKilled"))
    leader.run()
    leader.see(observation(("job", 1), Phase.FAILED, uid="u", reason="Stopped", disrupted=True))
    leader.run()
    status = stage.status("job")
    assert status is not None
    assert (status.state, status.reason, status.exit_code) == (State.FAILED, "OOMKilled", 137)


def test_a_main_container_that_cannot_start_is_a_start_failure(stage: Stage) -> None:
    leader = started(stage, retry={"max_start_failures": 0})
    leader.see(main_ended("job", 128, ran=False, reason="CommandNotFound"))
    leader.run()
    leader.see(observation(("job", 1), Phase.FAILED, uid="u", reason="Stopped", disrupted=True))
    leader.run()
    status = stage.status("job")
    assert status is not None
    assert (status.state, status.reason, status.failures, status.start_failures) == (
        State.FAILED,
        "CommandNotFound",
        0,
        1,
    )


@pytest.mark.parametrize(("exit_code", "state"), [(0, State.SUCCEEDED), (3, State.CANCELLED)])
@pytest.mark.parametrize("recorded", [False, True])
def test_a_cancel_after_the_main_containers_end(
    stage: Stage, exit_code: int, state: State, recorded: bool
) -> None:
    """Succeeded if it had succeeded first; a retry of what has failed is cancelled."""
    leader = started(stage, retry={"max_attempts": 3})
    leader.see(main_ended("job", exit_code))
    if recorded:
        leader.run()
    stage.request("job", RequestKind.CANCEL)
    leader.sync()
    leader.run()
    leader.see(observation(("job", 1), Phase.FAILED, uid="u", reason="Stopped", disrupted=True))
    leader.run()
    assert stage.state("job") == state
    stage.check()


def test_what_was_cancelled_first_stays_cancelled(stage: Stage) -> None:
    """The main container ends by the stop, and its exit code is no success."""
    leader = started(stage)
    stage.request("job", RequestKind.CANCEL)
    leader.sync()
    leader.acknowledge(leader.run())
    leader.see(main_ended("job", 0))
    leader.run()
    leader.see(observation(("job", 1), Phase.FAILED, uid="u", reason="Stopped", disrupted=True))
    leader.run()
    assert stage.state("job") == State.CANCELLED


def test_a_node_that_is_lost_meanwhile_is_shown_and_the_result_stays(stage: Stage) -> None:
    leader = started(stage)
    leader.see(main_ended("job", 0))
    leader.acknowledge(leader.run())
    stage.clock.move(600)
    leader.see(observation(("job", 1), Phase.UNKNOWN, uid="u", reason="NodeLost"))
    leader.run()
    status = stage.status("job")
    assert status is not None
    assert status.lost_since is not None
    assert stage.held() == {"cpu": "1"}
    stage.request("job", RequestKind.CONFIRM_STOPPED)
    leader.sync()
    leader.run()
    assert stage.state("job") == State.SUCCEEDED
    stage.check()
