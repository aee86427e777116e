"""What an engine keeps until an end is committed, what it creates before letting it loose, and what a list
proves.
"""

from __future__ import annotations

import pytest

from controller.core.model.requests import RequestKind
from controller.core.model.task import Phase
from controller.core.planning.events import EffectFailed, StartRefused
from controller.core.planning.plan import Effect, Prove, Settle, Start
from tests.support.bench import Stage, StagedReplica, observation, starts, stops


@pytest.fixture
def stage() -> Stage:
    """One pool of 4 cpus, and one task."""
    stage = Stage()
    stage.pool()
    stage.submit("job")
    return stage


def settled(effects: list[Effect]) -> list[str]:
    return [str(effect.attempt) for effect in effects if isinstance(effect, Settle)]


def run(stage: Stage) -> StagedReplica:
    """A leader with the task's attempt running."""
    leader = stage.leader()
    leader.acknowledge(leader.run())
    leader.see(observation(("job", 1), Phase.RUNNING, uid="u"))
    leader.run()
    return leader


def test_what_proves_an_end_is_let_go_only_after_its_commit(stage: Stage) -> None:
    """Once, and after the hold has ended in the store."""
    leader = run(stage)
    leader.see(observation(("job", 1), Phase.FAILED, awaits_commit=True))
    while not settled(leader.effects):
        leader.reconciler.step()
    assert stage.held() == {}
    assert settled(leader.run()) == []


def test_the_next_leader_settles_what_the_last_one_left(stage: Stage) -> None:
    """It died between the commit and the effect; a failed effect is repeated by the next list."""
    leader = run(stage)
    seen = observation(("job", 1), Phase.FAILED, awaits_commit=True)
    leader.see(seen)
    leader.reconciler.step()
    assert stage.state("job") == "Failed"
    stage.elect()
    for _ in range(2):
        successor = stage.leader(seen)
        assert settled(successor.run()) == ["job-1"]


def test_a_created_attempt_that_was_not_let_loose_is_started_again(stage: Stage) -> None:
    """The last leader created it behind a gate, and died; the next one opens it, once."""
    first = stage.leader()
    (begin,) = first.run()
    assert isinstance(begin, Start)
    assert not begin.launch.repeated
    stage.elect()
    gated = observation(("job", 1), Phase.PENDING, awaits_start=True)
    second = stage.leader(gated)
    (again,) = second.run()
    assert isinstance(again, Start)
    assert again.launch.repeated
    second.acknowledge([again])
    second.see(gated)  # an old event
    assert starts(second.run()) == []


def test_what_a_late_start_made_in_place_of_a_released_one_is_not_released(stage: Stage) -> None:
    """What this leader has released was removed by hand, and then an earlier leader's creation arrived. The
    engine is asked about the first; until its end is proven, no second one may run.
    """
    leader = stage.leader()
    (begin,) = leader.run()
    leader.acknowledge([begin])
    leader.see(observation(("job", 1), Phase.PENDING, uid="first"))
    leader.run()
    stage.clock.move(1.0)
    late = observation(("job", 1), Phase.PENDING, awaits_start=True, uid="late")
    leader.list_engine(late)
    (asked,) = leader.run()
    assert isinstance(asked, Prove)
    leader.see(observation(("job", 1), Phase.FAILED, stopped=True, reason="Deleted", uid="first"))
    leader.run()
    assert stage.state("job") == "Failed"
    stage.clock.move(1.0)
    leader.list_engine(late)
    assert stops(leader.run()) == ["job-1"]


def test_a_gated_attempt_of_a_cancelled_task_is_stopped(stage: Stage) -> None:
    stage.leader().run()
    stage.request("job", RequestKind.CANCEL)
    stage.elect()
    effects = stage.leader(observation(("job", 1), Phase.PENDING, awaits_start=True, uid="u")).run()
    assert (starts(effects), stops(effects)) == ([], ["job-1"])


def test_an_attempt_seen_after_a_list_began_is_not_gone(stage: Stage) -> None:
    """A late creation landed while the take-over's list was read, and the watch was faster: it runs, its
    hold stays.
    """
    stage.leader().run()
    stage.elect()
    leader = stage.replica()
    began = stage.clock.now()
    stage.clock.move(0.5)
    leader.see(observation(("job", 1), Phase.RUNNING, uid="u"))
    leader.list_engine(began=began)
    leader.run()
    assert stage.state("job") == "Running"
    stage.clock.move(1.0)
    leader.list_engine()
    leader.run()
    assert stage.state("job") == "Failed"


def test_what_the_watch_shows_before_the_first_list_is_acted_upon_after_it(stage: Stage) -> None:
    """A cancel that the last leader left is carried out, though the list then brings no news of the
    attempt.
    """
    run(stage)
    stage.request("job", RequestKind.CANCEL)
    stage.elect()
    leader = stage.replica()
    running = observation(("job", 1), Phase.RUNNING, uid="u")
    leader.see(running)
    assert stops(leader.run()) == []
    leader.list_engine(running)
    assert stops(leader.run()) == ["job-1"]


def test_a_transient_refusal_uses_up_nothing(stage: Stage) -> None:
    """A quota, for example: retried after the back-off, in the engine's words, however often."""
    leader = stage.leader()
    for _ in range(20):
        (begin,) = leader.run()
        leader.reconciler.handle(
            StartRefused(leader.leadership.epoch, begin, "QuotaExceeded", "exceeded quota", True)
        )
        leader.run()
        status = stage.status("job")
        assert status is not None
        assert (status.state, status.reason, status.message) == (
            "WaitingRetry",
            "QuotaExceeded",
            "exceeded quota",
        )
        assert stage.held() == {}
        stage.clock.move(1000.0)
    assert (status.failures, status.start_failures) == (0, 0)


def test_a_start_whose_answer_was_lost_is_repeated_as_such(stage: Stage) -> None:
    leader = stage.leader()
    (begin,) = leader.run()
    leader.reconciler.handle(EffectFailed(leader.leadership.epoch, begin, "no answer", 1.0))
    stage.clock.move(2.0)
    (again,) = leader.run()
    assert isinstance(again, Start)
    assert again.launch.repeated


def test_why_an_attempt_waits_is_noted_once_for_each_reason(stage: Stage) -> None:
    """The words may change with every look; the reason comes and goes."""
    leader = stage.leader()
    leader.acknowledge(leader.run())
    for reason, words in (
        ("Unschedulable", "0/1 nodes"),
        ("Unschedulable", "0/2 nodes"),
        ("", ""),
        ("ErrImagePull", "no such image"),
        ("ErrImagePull", "again"),
    ):
        leader.see(observation(("job", 1), Phase.PENDING, waiting=reason, waiting_message=words))
        leader.run()
    status = stage.status("job")
    assert status is not None
    assert (status.reason, status.message, status.steps) == ("ErrImagePull", "no such image", 4)
