"""An attempt that was given up may go on for days; what comes after it does not wait for its end."""

from __future__ import annotations

import pytest

from controller.client import Client
from controller.core.model.lifecycle import State
from controller.core.model.requests import RequestKind
from controller.core.model.task import Observation, Phase
from controller.core.promise.engine_invariants import check_engine
from controller.core.promise.finding import FindingSeverity
from controller.views.explain import explain
from tests.support.bench import Stage, StagedReplica, observation, starts


@pytest.fixture
def stage(stage: Stage) -> Stage:
    stage.turn_on_all()
    return stage


def running(stage: Stage, name: str, size: int, lost: int) -> tuple[StagedReplica, Observation]:
    """All members run, and nobody knows of this one any more."""
    leader = stage.leader()
    leader.acknowledge(leader.run())
    leader.see(*(observation((f"{name}-i{i}", 1), Phase.RUNNING, uid="u") for i in range(size)))
    leader.run()
    unknown = observation((f"{name}-i{lost}", 1), Phase.UNKNOWN, uid="u")
    leader.see(unknown)
    leader.run()
    return leader, unknown


@pytest.mark.parametrize("how", ["operator", "on_lost"])
def test_a_member_runs_again_though_its_last_attempt_was_given_up(stage: Stage, how: str) -> None:
    """It was folded meanwhile; and whoever leads next knows it, too."""
    on_lost = {"on_lost": {"replace_after_seconds": 600}} if how == "on_lost" else {}
    stage.submit("a", array={"size": 3}, **on_lost)
    leader, unknown = running(stage, "a", 3, 1)
    for index in (0, 2):
        leader.see(observation((f"a-i{index}", 1), Phase.SUCCEEDED, uid="u", exit_code=0))
    leader.run()
    if how == "operator":
        stage.request("a-i1", RequestKind.CONFIRM_STOPPED, attempt=1)
    stage.clock.move(601)
    leader.sync()
    leader.acknowledge(leader.run())
    assert stage.state("a") == State.FAILED
    (finding,) = check_engine(stage.model(), [unknown], stage.clock.now())
    assert (finding.invariant, finding.severity) == ("I5", FindingSeverity.NOTICE)
    stage.elect()
    after = stage.replica()
    after.list_engine(unknown)
    after.run()
    Client.of_store(stage.store, cluster="stage").retry("a")
    after.sync()
    assert starts(after.run()) == ["a-i1-2"]
    assert stage.status("a-i1").abandoned == 1


def test_a_gang_runs_again_though_a_member_of_its_last_round_was_given_up(stage: Stage) -> None:
    retry = {"max_attempts": 3, "backoff_seconds": 0}
    stage.submit("g", array={"size": 3, "gang": True}, retry=retry)
    leader, unknown = running(stage, "g", 3, 1)
    stage.request("g-i1", RequestKind.CONFIRM_STOPPED, attempt=1)
    leader.sync()
    leader.acknowledge(leader.run())
    ended = (observation((f"g-i{i}", 1), Phase.FAILED, uid="u", exit_code=143) for i in (0, 2))
    leader.list_engine(unknown, *ended)
    begun = starts(leader.run())
    for _ in range(5):
        stage.clock.move(30)
        begun += starts(leader.run())
    assert sorted(begun) == ["g-i0-2", "g-i1-2", "g-i2-2"]


def test_what_has_ended_and_is_there_again_is_waited_for(stage: Stage) -> None:
    """It was not given up: a late start made it again, and two would run at once."""
    stage.submit("a", array={"size": 2})
    leader, _ = running(stage, "a", 2, 1)
    for index in (0, 1):
        leader.see(observation((f"a-i{index}", 1), Phase.FAILED, uid="u", exit_code=1, stopped=True))
    leader.acknowledge(leader.run())
    assert stage.state("a") == State.FAILED
    stage.elect()
    after = stage.replica()
    after.list_engine(observation(("a-i1", 1), Phase.RUNNING, uid="another"))
    after.run()
    Client.of_store(stage.store, cluster="stage").retry("a")
    after.sync()
    assert starts(after.run()) == ["a-i0-2"]


def test_its_name_waits_for_its_end_and_whoever_asks_is_told_so(stage: Stage) -> None:
    """Nothing but the leader's memory knows of it, once its task is gone."""
    stage.submit("job", on_lost={"replace_after_seconds": 60}, retry={"max_attempts": 1}, retention_seconds=5)
    leader = stage.leader()
    leader.run_to("job", Phase.RUNNING)
    unknown = observation(("job", 1), Phase.UNKNOWN, uid="u")
    for seconds in (0, 61, 6):
        stage.clock.move(seconds)
        leader.list_engine(unknown)
        leader.acknowledge(leader.run())
    assert "job" not in stage.model().tasks
    stage.submit("job")
    leader.sync()
    leader.acknowledge(leader.run())
    assert stage.state("job") == State.CREATED
    says = "it is admitted in the leader's next pass"
    assert f"{says}." in explain(stage.model(), "job", stage.clock.now())
    stage.clock.move(61)
    leader.list_engine(unknown)
    leader.acknowledge(leader.run())
    assert stage.state("job") == State.CREATED
    told = (
        f"{says}, unless an attempt of an earlier task of its name may still run, which `tally audit` names."
    )
    assert told in explain(stage.model(), "job", stage.clock.now())
    (finding,) = check_engine(stage.model(), [unknown], stage.clock.now())
    assert finding.subject == "attempt/job-1"
    leader.see(observation(("job", 1), Phase.FAILED, uid="u"))
    assert starts(leader.run()) == ["job-2"]
    stage.check()
