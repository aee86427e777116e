"""Moments between two events at which a hold, a task or an attempt could get lost; docstrings say what
must be true.
"""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from controller.core.model import codec
from controller.core.model.lifecycle import State
from controller.core.model.op import Op
from controller.core.model.requests import RepairRequest, Wanted
from controller.core.model.resources import Vector
from controller.core.model.task import Phase
from controller.core.planning.events import EffectFailed, Listed, Observed
from controller.core.planning.plan import Forget
from controller.store.base import Committed, OutcomeUnknown
from tests.support.bench import Stage, observation, starts, stops


def test_a_spec_that_names_another_pool_by_now_moves_no_hold(stage: Stage) -> None:
    """The hold of a retry is taken from the pool in whose queue it waited, and given back to that one."""
    stage.pool("other")
    policy = {"max_attempts": 2, "backoff_seconds": 1}
    stage.submit("job", retry=policy)
    leader = stage.leader()
    leader.run_to("job", Phase.FAILED)
    stage.submit("job", retry=policy, pool="other")  # put again by hand, around the client
    stage.clock.move(5)
    leader.run_to("job", Phase.RUNNING, attempt=2)
    assert (stage.held(), stage.held("other")) == ({"cpu": "1"}, {})
    stage.check()
    leader.see(observation(("job", 2), Phase.SUCCEEDED))
    leader.run()
    assert (stage.held(), stage.held("other")) == ({}, {})
    stage.check()


@pytest.mark.parametrize("first_damaged", [False, True])
def test_the_attempt_of_a_status_that_was_deleted_is_an_orphan_at_once(
    stage: Stage, first_damaged: bool
) -> None:
    """It holds nothing any more, so it is stopped; the task starts anew only after its end (I4, I5)."""
    stage.submit("job")
    leader = stage.leader()
    leader.run_to("job", Phase.RUNNING)
    if first_damaged:
        stage.put(stage.keys.state("job"), b"{")
        leader.sync()
        leader.see(observation(("job", 1), Phase.RUNNING, node="n1"))
        assert leader.run() == [], "while its status cannot be read, nothing is done to it"
    stage.delete(stage.keys.state("job"))
    leader.sync()
    effects = leader.run()
    assert stops(effects) == ["job-1"]
    leader.acknowledge(effects)
    leader.see(observation(("job", 1), Phase.FAILED))
    assert starts(leader.run()) == ["job-2"]


def test_an_orphans_end_that_is_seen_before_its_stop_is_answered_counts(stage: Stage) -> None:
    """The next attempt starts without waiting for another list of the engine."""
    stage.submit("job")
    leader = stage.leader()
    leader.run_to("job", Phase.RUNNING)
    stage.delete(stage.keys.state("job"))
    leader.sync()
    effects = leader.run()
    leader.see(observation(("job", 1), Phase.FAILED))
    assert starts(leader.run()) == []
    leader.acknowledge(effects)
    assert starts(leader.run()) == ["job-2"]


def test_a_list_that_began_before_an_orphan_was_seen_does_not_prove_it_gone(stage: Stage) -> None:
    """A stale leader's creation lands after the list was taken: the next attempt waits for its end (I4)."""
    stage.submit("job", retry={"max_attempts": 2, "backoff_seconds": 5})
    leader = stage.leader()
    leader.sync()
    leader.acknowledge(leader.run())
    stage.clock.move(1)
    leader.list_engine()  # removed from outside
    leader.run()
    assert stage.state("job") == State.WAITING_RETRY
    began = stage.clock.now()
    stage.clock.move(1)
    leader.see(observation(("job", 1), Phase.RUNNING))
    effects = leader.run()
    assert stops(effects) == ["job-1"]
    leader.acknowledge(effects)
    leader.list_engine(began=began)
    stage.clock.move(10)
    assert starts(leader.run()) == []
    leader.list_engine()
    assert starts(leader.run()) == ["job-2"]


def test_a_head_that_is_refused_lets_the_next_ones_in(stage: Stage) -> None:
    """Those behind it are admitted in the moment in which its queue deadline passes, not at the next list
    of the engine.
    """
    stage.submit("first", resources={"cpu": 3})
    leader = stage.leader()
    leader.run_to("first", Phase.RUNNING)
    stage.submit("large", resources={"cpu": 4}, deadlines={"queue": 10})
    stage.submit("small")
    leader.sync()
    assert starts(leader.run()) == []
    stage.clock.move(11)
    assert starts(leader.run()) == ["small-1"]


@pytest.mark.parametrize("set_back_seconds", [0, 10])
@pytest.mark.parametrize("timer", ["retention", "queue"])
def test_a_timer_that_rang_in_vain_is_heard_by_the_replicas_next_term(
    stage: Stage, timer: str, set_back_seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It rang, and the store did not answer: the same replica, elected again, does what is due, by
    whatever its clock says then.
    """
    leader = stage.leader()
    stage.submit("done", retention_seconds=10)
    leader.run_to("done", Phase.SUCCEEDED)
    stage.submit("large", resources={"cpu": 4})
    leader.run_to("large", Phase.RUNNING)
    if timer == "queue":
        stage.submit("waiting", deadlines={"queue": 5})
        leader.sync()
        leader.run()

    def unanswered(*_: object, **__: object) -> Committed:
        raise OutcomeUnknown("no answer until the deadline")

    stage.clock.move(11)
    with monkeypatch.context() as silence:
        silence.setattr(stage.store, "commit", unanswered)
        with pytest.raises(OutcomeUnknown):
            leader.run()
    stage.clock.move(-set_back_seconds)
    again = stage.replica(leader.model)
    again.list_engine(observation(("large", 1), Phase.RUNNING))
    again.run()
    assert ("done" in stage.model().tasks) is (set_back_seconds > 0)
    stage.clock.move(set_back_seconds)
    again.run()
    assert "done" not in stage.model().tasks
    if timer == "queue":
        assert stage.state("waiting") == State.FAILED


def test_an_orphan_whose_stop_failed_once_is_forgotten_like_others(stage: Stage) -> None:
    """What is left of an attempt without a task goes an hour after its end, whatever its effects met
    before.
    """
    leader = stage.leader()
    leader.see(observation(("gone", 1), Phase.RUNNING))
    [stop] = leader.run()
    leader.reconciler.handle(EffectFailed(leader.leadership.epoch, stop, "no answer", 1.0))
    stage.clock.move(2)
    effects = leader.run()
    assert stops(effects) == ["gone-1"]
    leader.acknowledge(effects)
    leader.see(observation(("gone", 1), Phase.FAILED))
    leader.run()
    stage.clock.move(3601)
    assert [type(effect) for effect in leader.run()] == [Forget]


@pytest.mark.parametrize("state", ["Pending", "Running"])
def test_an_attempt_of_another_number_is_not_started_beside_the_one_that_runs(
    stage: Stage, state: str
) -> None:
    """Whoever raised the number in the status: the one that runs is stopped first, and its end is awaited."""
    stage.submit("job")
    leader = stage.leader()
    leader.run_to("job", Phase.RUNNING)
    forged = replace(stage.status("job"), state=State(state), attempt=2)
    stage.put(stage.keys.state("job"), codec.encode_status(forged, {}))
    leader.sync()
    effects = leader.run()
    leader.acknowledge(effects)
    assert (starts(effects), stops(effects)) == ([], ["job-1"])
    leader.see(observation(("job", 1), Phase.FAILED))
    assert starts(leader.run()) == ["job-2"]


def test_what_the_engine_said_to_an_earlier_term_concludes_nothing(stage: Stage) -> None:
    """A list and a proof that were asked for in that term arrive in the next one: both are of the past."""
    stage.submit("job")
    old = stage.leader()
    old.run_to("job", Phase.RUNNING)
    stage.elect()
    leader = stage.replica()
    leader.list_engine(observation(("job", 1), Phase.RUNNING))
    leader.run()
    stage.clock.move(1)
    ended = observation(("job", 1), Phase.FAILED)
    for late in (Observed(old.leadership.epoch, ended), Listed(old.leadership.epoch, [], stage.clock.now())):
        leader.reconciler.handle(late)
    assert leader.run() == []
    assert (stage.state("job"), stage.held()) == (State.RUNNING, {"cpu": "1"})
    stage.check()


def test_a_repair_waits_for_a_list_that_began_after_it_was_asked_for(stage: Stage) -> None:
    """A list that was under way then may lack what runs without a hold: its room would be called free."""
    stage.put(stage.keys.ledger("default"), codec.encode_ledger(Vector({"cpu": 3000}), Op("by hand"), {}))
    leader = stage.leader()
    began = stage.clock.now()
    stage.clock.move(1)
    request = RepairRequest(findings=(Wanted(invariant="I1", subject="pool/default"),))
    stage.put(stage.keys.repair("r"), codec.encode(request))
    leader.sync()
    leader.run()
    leader.list_engine(began=began)
    leader.run()
    assert stage.held() == {"cpu": "3"}
    leader.list_engine()
    leader.run()
    assert stage.held() == {}
