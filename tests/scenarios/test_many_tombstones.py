"""What a leader keeps of attempts that have ended, and what one pass of it looks at: bounded, however many
the engine keeps for the hour in which a late start must find their names taken.
"""

from __future__ import annotations

import math

import pytest

from controller.core.model.task import AttemptId, Observation, Phase
from controller.core.planning.events import EngineSilent, Started
from controller.core.planning.plan import Effect, Forget, Start
from controller.core.promise.attempts import Attempts
from tests.support.bench import Stage, StagedReplica, observation, starts

AT_ONCE = 10
MANY = 95


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    """An empty cluster with one pool, whose leaders take in ten attempts of a list at once."""
    monkeypatch.setattr("controller.core.planning.intake.LISTED_AT_ONCE", AT_ONCE)
    stage = Stage()
    stage.pool()
    return stage


def ended(name: str, number: int, at: float) -> Observation:
    return observation((name, number), Phase.SUCCEEDED, uid="u", finished_at=at)


def tombstones(stage: Stage, age: float = 0.0) -> list[Observation]:
    return [ended(f"old-i{index}", 3, stage.clock.now() - age) for index in range(MANY)]


def forgotten(effects: list[Effect]) -> list[str]:
    return [str(effect.attempt) for effect in effects if isinstance(effect, Forget)]


def passes(leader: StagedReplica) -> int:
    """Plans until the list is taken in; how many passes that took."""
    count = 0
    while leader.planner.intake.is_listing:
        assert leader.planner.next_wake() == 0.0, "the loop must not wait meanwhile"
        leader.reconciler.step()
        count += 1
    return count


def test_a_pass_takes_in_a_part_of_a_list_and_admits_nothing_before_its_end(stage: Stage) -> None:
    """Else a long list would keep the loop from its lease."""
    stage.submit("new")
    leader = stage.replica()
    leader.list_engine(*tombstones(stage))
    assert starts(leader.effects) == []
    assert not leader.planner.intake.engine_listed
    assert passes(leader) == math.ceil(MANY / AT_ONCE) - 1
    assert starts(leader.run() or leader.effects) == ["new-1"]


def test_nothing_is_kept_of_a_tombstone_but_its_number(stage: Stage) -> None:
    """No record of an attempt, and no timer of an hour: neither from the list, nor from the watch."""
    leader = stage.replica()
    leader.see(*tombstones(stage))
    for _ in range(2):
        leader.list_engine(*tombstones(stage))
        passes(leader)
    assert leader.run() == []
    assert leader.planner.intake.observations() == []
    assert leader.planner.next_wake() is None
    stage.submit("old-i7")
    leader.sync()
    assert starts(leader.run()) == ["old-i7-4"], "its name is still taken"


def test_a_member_that_has_ended_leaves_nothing(stage: Stage) -> None:
    """Also if its end is observed again, or its start is answered, once it is folded."""
    stage.submit("a", array={"size": 4})
    leader = stage.leader()
    leader.sync()
    begun = [effect for effect in leader.run() if isinstance(effect, Start)]
    leader.acknowledge(begun)
    ends = [ended(f"a-i{index}", 1, stage.clock.now()) for index in range(4)]
    leader.see(*ends)
    leader.run()
    leader.see(*ends)
    for effect, seen in zip(begun, ends, strict=True):
        leader.reconciler.handle(Started(leader.leadership.epoch, effect, seen))
    leader.run()
    assert stage.state("a") == "Succeeded"
    assert leader.planner.intake.observations() == []
    leader.list_engine(*ends)
    assert leader.run() == []


@pytest.mark.parametrize("is_proven", [True, False])
def test_only_what_is_proven_to_have_stopped_is_forgotten_by_its_uid(stage: Stage, is_proven: bool) -> None:
    """An engine need not look at it. What was given up may run to this day, and is looked at."""
    stage.submit("job", retention_seconds=7200, on_lost={"replace_after": "1m"})
    leader = stage.leader()
    leader.run_to("job", Phase.PENDING)
    leader.see(observation(("job", 1), Phase.RUNNING, uid="u"))
    leader.run()
    leader.see(observation(("job", 1), Phase.SUCCEEDED if is_proven else Phase.UNKNOWN, uid="u"))
    leader.run()
    stage.clock.move(61)
    leader.run()
    status = stage.status("job")
    assert (status.state, status.uid) == ("Succeeded" if is_proven else "Failed", "u")
    stage.clock.move(7201)
    found = [effect for effect in leader.run() if isinstance(effect, Forget)]
    assert found == [Forget(AttemptId("job", 1), "u" if is_proven else "")]


def test_tombstones_are_forgotten_by_the_first_list_after_their_hour(stage: Stage) -> None:
    """Each is asked for once; those whose task is there again by then stay."""
    leader = stage.replica()
    old = tombstones(stage, age=3600)
    leader.list_engine(*old, ended("young", 1, stage.clock.now() - 3599))
    stage.submit("old-i3")
    leader.sync()
    passes(leader)
    leader.run()
    found = forgotten(leader.effects)
    assert {effect.uid for effect in leader.effects if isinstance(effect, Forget)} == {"u"}
    assert sorted(found) == sorted(str(seen.attempt) for seen in old if seen.attempt.task_id != "old-i3")
    stage.clock.move(1)
    stage.submit("young")
    leader.sync()
    leader.list_engine(ended("young", 1, stage.clock.now() - 3600))
    effects = leader.run()
    assert forgotten(effects) == []
    assert starts(effects) == ["young-2"]


def test_a_list_that_is_given_up_forgets_no_name(stage: Stage) -> None:
    """The engine falls silent while its list is taken in. Its next list tells what is left."""
    leader = stage.replica()
    leader.list_engine(*tombstones(stage))
    passes(leader)
    leader.list_engine(*tombstones(stage)[:50])
    leader.reconciler.handle(EngineSilent(leader.leadership.epoch, "no answer"))
    assert not leader.planner.intake.is_listing
    stage.submit("old-i90")
    leader.sync()
    assert starts(leader.run()) == [], "nothing is admitted while it is silent"
    leader.list_engine(*tombstones(stage)[80:])
    passes(leader)
    leader.run()
    assert starts(leader.effects) == ["old-i90-4"]


def test_of_the_lists_that_come_meanwhile_the_newest_is_taken_in(stage: Stage) -> None:
    """So they do not pile up; what it lacks is free again."""
    leader = stage.replica()
    leader.list_engine(*tombstones(stage))
    leader.list_engine(*tombstones(stage))
    leader.list_engine(ended("last", 1, stage.clock.now()))
    assert passes(leader) == math.ceil(MANY / AT_ONCE)
    stage.submit("old-i7")
    leader.sync()
    assert starts(leader.run()) == ["old-i7-1"]


def test_a_name_that_is_met_again_while_a_list_is_taken_in_stays_taken() -> None:
    """Also if the attempt is forgotten before the end of the list: the engine may still have the name."""
    attempts, known = Attempts(), AttemptId("t", 3)
    attempts.ensure(known)
    attempts.begin_list()
    attempts.ensure(known)
    attempts.drop(known)
    attempts.end_list()
    assert attempts.highest("t") == 3
