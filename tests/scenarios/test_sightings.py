"""An attempt that was seen, and whose object is gone when another leads: it is not started a second time."""

from __future__ import annotations

import pytest

from controller.core.model import codec
from controller.core.model.requests import RequestKind
from controller.core.model.task import AttemptId, Phase
from controller.core.planning.plan import Effect, Prove
from controller.core.planning.sightings import SECONDS
from tests.support.bench import Stage, StagedReplica, observation, starts


@pytest.fixture
def stage() -> Stage:
    """One pool of 4 cpus, and one task."""
    stage = Stage()
    stage.pool()
    stage.submit("job", grace_seconds=60)
    return stage


def uid_of(stage: Stage) -> str:
    """What the status has."""
    return codec.decode_status(stage.value(stage.keys.state("job")))[0].uid


def begun(stage: Stage) -> StagedReplica:
    """A leader that has started the attempt, and has seen its object, which does not run yet."""
    leader = stage.leader()
    leader.acknowledge(leader.run())
    leader.see(observation(("job", 1), Phase.PENDING, uid="first"))
    leader.run()
    return leader


def next_effects(stage: Stage) -> list[Effect]:
    """What the next leader does, whose engine lists nothing."""
    return stage.leader().run()


def test_an_attempt_that_runs_soon_costs_no_commit_of_its_own(stage: Stage) -> None:
    leader = begun(stage)
    assert uid_of(stage) == ""
    stage.clock.move(SECONDS / 2)
    leader.see(observation(("job", 1), Phase.RUNNING, uid="first"))
    leader.run()
    assert (stage.state("job"), uid_of(stage)) == ("Running", "first")


def test_an_attempt_that_is_slow_to_start_is_written_down(stage: Stage) -> None:
    """Once, and by time alone. Who leads next asks for its end, with its grace."""
    leader = begun(stage)
    stage.clock.move(SECONDS)
    leader.run()
    assert (stage.state("job"), uid_of(stage)) == ("Pending", "first")
    revision = stage.store.get("", deadline=1e9)[1]
    stage.clock.move(100 * SECONDS)
    leader.run()
    assert stage.store.get("", deadline=1e9)[1] == revision
    assert next_effects(stage) == [Prove(AttemptId("job", 1), "first", 60.0)]


def test_who_cancels_it_writes_it_down(stage: Stage) -> None:
    """Else the next leader would take its name, and think that it was never created."""
    leader = begun(stage)
    stage.request("job", RequestKind.CANCEL)
    leader.sync()
    leader.run()
    assert uid_of(stage) == "first"
    assert next_effects(stage) == [Prove(AttemptId("job", 1), "first", 60.0)]


def test_who_misses_it_writes_it_down(stage: Stage) -> None:
    leader = begun(stage)
    leader.see(observation(("job", 1), Phase.UNKNOWN, uid="first", reason="Vanished"))
    leader.run()
    assert uid_of(stage) == "first"
    assert starts(next_effects(stage)) == []
