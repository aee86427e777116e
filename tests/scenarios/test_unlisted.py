"""What a full list lacks is not taken for stopped: the engine is asked for it, and what it cannot prove
stays held (fault 41).
"""

from __future__ import annotations

import pytest

from controller.core.model.requests import RequestKind
from controller.core.model.task import AttemptId, Observation, Phase
from controller.core.planning.decide import LOST_AFTER_STOP_SECONDS
from controller.core.planning.events import EffectFailed, Found, StartRefused
from controller.core.planning.intake import PROVE_AGAIN_SECONDS
from controller.core.planning.plan import Effect, Prove
from controller.engine.base import gone
from controller.views.explain import explain
from tests.support.bench import Stage, StagedReplica, observation, starts, stops


@pytest.fixture
def stage() -> Stage:
    """One pool of 4 cpus, and one task with a second attempt."""
    stage = Stage()
    stage.pool()
    stage.submit("job", retry={"max_attempts": 2, "backoff_seconds": 0}, grace_seconds=10)
    return stage


def proofs(effects: list[Effect]) -> list[tuple[str, str]]:
    return [(str(effect.attempt), effect.uid) for effect in effects if isinstance(effect, Prove)]


def unknown(attempt: AttemptId, uid: str) -> Observation:
    return observation(
        attempt, Phase.UNKNOWN, uid=uid, reason="SupervisorLost", message="its processes still run"
    )


def run(stage: Stage) -> StagedReplica:
    """A leader with the task's first attempt running; the engine proves nothing by itself."""
    leader = stage.replica()
    leader.list_engine()
    leader.acknowledge(leader.run())
    leader.see(observation(("job", 1), Phase.RUNNING, uid="u"))
    leader.run()
    leader.finds = lambda attempt, uid: None
    stage.clock.move(1.0)
    return leader


def test_what_a_list_lacks_is_held_until_its_end_is_proven(stage: Stage) -> None:
    """Lost, not gone: its folder may have been removed while it runs.

    Asked for again and again; the proof ends the hold.
    """
    leader = run(stage)
    leader.finds = unknown
    leader.list_engine()
    effects = leader.run()
    assert proofs(effects) == [("job-1", "u")]
    status = stage.status("job")
    assert status is not None
    assert (status.state, status.reason, status.lost_since) == (
        "Running",
        "SupervisorLost",
        stage.clock.now(),
    )
    assert stage.held() == {"cpu": "1"}
    assert leader.run() == []
    stage.clock.move(PROVE_AGAIN_SECONDS)
    assert proofs(leader.run()) == [("job-1", "u")]
    leader.finds = gone
    stage.clock.move(PROVE_AGAIN_SECONDS)
    assert starts(leader.run()) == ["job-2"]
    stage.check()


def test_an_engine_that_does_not_answer_proves_nothing(stage: Stage) -> None:
    leader = run(stage)
    leader.list_engine()
    (effect,) = leader.run()
    leader.reconciler.handle(EffectFailed(leader.leadership.epoch, effect, "no answer", 1.0))
    assert leader.run() == []
    assert stage.state("job") == "Running"
    stage.clock.move(1.0)
    assert proofs(leader.run()) == [("job-1", "u")]


def test_an_attempt_that_is_there_after_all_goes_on(stage: Stage) -> None:
    """Asked for by its name, it is there: its label was removed, or the list was of a moment before."""
    leader = run(stage)
    leader.finds = lambda attempt, uid: observation(attempt, Phase.RUNNING, uid=uid)
    leader.list_engine()
    leader.run()
    status = stage.status("job")
    assert status is not None
    assert (status.state, status.lost_since) == ("Running", None)


def test_an_answer_that_the_watch_overtook_is_asked_for_again(stage: Stage) -> None:
    """It was seen after it had been asked for: made anew under its name, perhaps."""
    leader = run(stage)
    leader.list_engine()
    (effect,) = leader.run()
    stage.clock.move(1.0)
    leader.see(observation(("job", 1), Phase.RUNNING, uid="u", node="n"))
    leader.reconciler.handle(Found(leader.leadership.epoch, effect, gone(effect.attempt, "u")))
    assert proofs(leader.run()) == [("job-1", "u")]
    assert stage.state("job") == "Running"


def test_a_start_that_was_lost_is_repeated_and_not_asked_for(stage: Stage) -> None:
    """Nobody has seen the attempt: it may never have been created, and must be startable."""
    leader = stage.replica()
    leader.list_engine()
    assert starts(leader.run()) == ["job-1"]
    stage.elect()
    successor = stage.replica()
    successor.finds = lambda attempt, uid: None
    successor.list_engine()
    effects = successor.run()
    assert (starts(effects), proofs(effects)) == (["job-1"], [])


def test_what_is_not_listed_can_be_cancelled(stage: Stage) -> None:
    """The stop is sent first, with the uid that was seen; then its end is asked for."""
    leader = run(stage)
    leader.finds = unknown
    leader.list_engine()
    leader.run()
    stage.request("job", RequestKind.CANCEL)
    leader.sync()
    stage.clock.move(PROVE_AGAIN_SECONDS)
    effects = leader.run()
    assert stops(effects) == ["job-1"]
    # the cancel's words hide nothing
    assert "its processes still run" in explain(leader.model, "job", stage.clock.now())
    leader.acknowledge(effects)
    leader.finds = gone
    leader.run()
    assert stage.state("job") == "Cancelled"


def test_an_orphan_that_is_not_listed_keeps_the_next_attempt_back(stage: Stage) -> None:
    """Invariant I4 does not rest on a list either: its end is proven first."""
    leader = stage.replica()
    leader.list_engine(observation(("job", 1), Phase.RUNNING, uid="u"))
    leader.finds = unknown
    effects = leader.run()
    assert (starts(effects), stops(effects)) == ([], ["job-1"])
    leader.acknowledge(effects)
    stage.clock.move(1.0)
    leader.list_engine()
    assert proofs(leader.run()) == [("job-1", "u")]
    leader.finds = gone
    stage.clock.move(PROVE_AGAIN_SECONDS)
    assert starts(leader.run()) == ["job-2"]


def test_what_runs_on_long_after_its_stop_is_lost_and_can_be_confirmed(stage: Stage) -> None:
    """However often the stop is sent again: its supervisor hangs, for example, and the engine goes on
    showing it as running.
    """
    leader = run(stage)
    running = observation(("job", 1), Phase.RUNNING, uid="u")
    stage.request("job", RequestKind.CANCEL)
    leader.sync()
    until = stage.clock.now() + 10 + LOST_AFTER_STOP_SECONDS
    while stage.clock.now() < until:
        leader.acknowledge(leader.run())
        status = stage.status("job")
        assert status is not None
        assert status.lost_since is None
        stage.clock.move(5.0)
        leader.list_engine(running)
    stage.clock.move(40.0)  # by when the stop is sent again
    leader.list_engine(running)
    leader.acknowledge(leader.run())
    status = stage.status("job")
    assert status is not None
    assert status.lost_since is not None
    assert stage.held() == {"cpu": "1"}
    stage.request("job", RequestKind.CONFIRM_STOPPED)
    leader.sync()
    leader.run()
    assert stage.state("job") == "Cancelled"


@pytest.mark.parametrize("reason", ["ArgumentsTooLong", "NotExecutable", "NoCommand", "InvalidName"])
def test_what_the_same_spec_will_meet_again_is_not_retried(stage: Stage, reason: str) -> None:
    leader = stage.replica()
    leader.list_engine()
    (begin,) = leader.run()
    leader.reconciler.handle(StartRefused(leader.leadership.epoch, begin, reason, "never", False))
    leader.run()
    status = stage.status("job")
    assert status is not None
    assert (status.state, status.reason, status.failures) == ("Failed", reason, 0)
