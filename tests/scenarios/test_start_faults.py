"""What keeps an attempt from running: how it is tried again, what its task says meanwhile, and when it has
failed to start.
"""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from controller.core.model import codec
from controller.core.model.lifecycle import State
from controller.core.model.requests import RequestKind
from controller.core.model.task import Phase, Status
from controller.core.planning.events import EffectFailed, EngineSilent
from controller.core.planning.plan import Start
from controller.views.explain import explain
from tests.support.bench import Stage, StagedReplica, observation, starts, stops

WEBHOOK = "Kubernetes answers 500 InternalError: failed calling webhook: request {} timed out"


def staged(**spec: Any) -> tuple[Stage, StagedReplica]:
    """A leader with one task, whose first attempt is admitted and is to be started."""
    stage = Stage()
    stage.pool()
    stage.submit("job", **spec)
    leader = stage.replica()
    leader.list_engine()
    return stage, leader


def status_of(stage: Stage) -> Status:
    status = stage.status("job")
    assert status is not None
    return status


def fail(
    leader: StagedReplica, effects: list[Any], words: str, retry_after: float = 1.0, **more: Any
) -> None:
    """The engine does not answer the start."""
    (start,) = [effect for effect in effects if isinstance(effect, Start)]
    leader.reconciler.handle(EffectFailed(leader.leadership.epoch, start, words, retry_after, **more))


def tries(stage: Stage, leader: StagedReplica, seconds: int, words: str = WEBHOOK, **more: Any) -> list[int]:
    """At which seconds a start was tried that fails each time."""
    tried = []
    for second in range(seconds):
        effects = leader.run()
        if starts(effects):
            tried.append(second)
            fail(leader, effects, words.format(second), **more)
        stage.clock.move(1)
    return tried


def test_the_pause_between_starts_that_fail_grows_and_the_words_stand_on_the_task_once() -> None:
    """The hold stays, since nobody knows whether anything was created."""
    stage, leader = staged()
    tried = tries(stage, leader, 300)
    assert tried[:6] == [0, 1, 3, 7, 15, 31]
    assert all(after - before == 60 for before, after in itertools.pairwise(tried[7:]))
    status = status_of(stage)
    assert (status.state, status.reason, status.steps) == (State.PENDING, "StartDelayed", 2)
    assert status.message == WEBHOOK.format(1)
    assert stage.held() == {"cpu": "1"}
    sentence = explain(stage.model(), "job", stage.clock.now())
    assert "could not be started yet: Kubernetes answers 500" in sentence
    assert "has not been seen running" not in sentence


def test_other_words_are_told_and_a_success_ends_them() -> None:
    stage, leader = staged()
    tries(stage, leader, 4)
    tries(stage, leader, 8, "pod job-1 cannot be updated: 403 cannot patch")
    assert status_of(stage).message.startswith("pod job-1 cannot be updated: 403")
    stage.clock.move(60)
    leader.acknowledge(leader.run())
    leader.see(observation(("job", 1), Phase.PENDING, uid="u"))
    leader.run()
    assert (status_of(stage).reason, status_of(stage).message) == ("", "")


def test_one_failure_costs_no_commit() -> None:
    stage, leader = staged()
    fail(leader, leader.run(), "no answer")
    leader.run()
    assert status_of(stage).steps == 1


def test_what_takes_its_time_is_asked_for_again_at_the_same_pace() -> None:
    """An image that is being pulled, say."""
    stage, leader = staged()
    assert tries(stage, leader, 10, "image x is being pulled", is_delay=True) == list(range(10))


def test_starts_do_not_wait_out_their_pause_once_the_engine_is_back() -> None:
    stage, leader = staged()
    tries(stage, leader, 40)
    leader.reconciler.handle(EngineSilent(leader.leadership.epoch, "no answer"))
    assert not starts(leader.run())
    leader.list_engine()
    assert starts(leader.run()) == ["job-1"]


@pytest.mark.parametrize("by", ["user", "StopDelayed"])
def test_a_cancel_does_not_wait_out_the_pause_of_a_start_and_says_why_it_takes_long(by: str) -> None:
    """Its stop is tried at once, and then as slowly as a start; the words stand in the history, once."""
    stage, leader = staged()
    tries(stage, leader, 40)
    stage.request("job", RequestKind.CANCEL, by=by)
    leader.sync()
    stopped = []
    for second in range(20):
        effects = leader.run()
        if stops(effects):
            stopped.append(second)
            (stop,) = effects
            leader.reconciler.handle(EffectFailed(leader.leadership.epoch, stop, "403: cannot delete", 1.0))
        stage.clock.move(1)
    assert stopped == [0, 1, 3, 7, 15]
    status = status_of(stage)
    assert status.reason == "cancel"
    assert [step.reason for step in codec.decode_history(status)].count("StopDelayed") == 1
    assert b"403: cannot delete" in bytes(status.history[-1])


# -- a reason to wait does not outlive the wait
# ------------------------------------------------------------------------


def test_what_runs_does_not_show_why_it_waited() -> None:
    stage, leader = staged()
    leader.acknowledge(leader.run())
    leader.see(observation(("job", 1), Phase.PENDING, waiting="Unschedulable", waiting_message="0/1 nodes"))
    leader.run()
    assert status_of(stage).reason == "Unschedulable"
    leader.see(observation(("job", 1), Phase.RUNNING, uid="u"))
    leader.run()
    status = status_of(stage)
    assert (status.state, status.reason, status.message) == (State.RUNNING, "", "")
    assert "Unschedulable" not in explain(stage.model(), "job", stage.clock.now())


def test_what_is_scheduled_at_last_does_not_show_that_it_was_not() -> None:
    stage, leader = staged()
    leader.acknowledge(leader.run())
    for waiting in ("Unschedulable", ""):
        leader.see(observation(("job", 1), Phase.PENDING, waiting=waiting))
        leader.run()
    assert (status_of(stage).state, status_of(stage).reason) == (State.PENDING, "")


def test_what_was_found_again_does_not_say_so_for_ever() -> None:
    """That it was lost and found stands in its history."""
    stage, leader = staged()
    leader.acknowledge(leader.run())
    for phase in (Phase.RUNNING, Phase.UNKNOWN, Phase.RUNNING):
        leader.see(
            observation(("job", 1), phase, uid="u", reason="NodeLost" if phase is Phase.UNKNOWN else "")
        )
        leader.run()
    status = status_of(stage)
    assert (status.state, status.lost_since, status.reason, status.message) == (State.RUNNING, None, "", "")
    assert b"Found" in bytes(status.history[-1])


def test_a_cancel_is_still_told_when_the_attempt_runs_meanwhile() -> None:
    stage, leader = staged()
    leader.acknowledge(leader.run())
    stage.request("job", RequestKind.CANCEL)
    leader.sync()
    leader.run()
    leader.see(observation(("job", 1), Phase.RUNNING, uid="u"))
    leader.run()
    assert (status_of(stage).state, status_of(stage).reason) == (State.RUNNING, "cancel")


# -- what counts as a failure to start
# ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reason", "words", "grace"),
    [
        ("InvalidImageName", "couldn't parse image reference", 0),
        ("ErrImageNeverPull", "Container image is not present with pull policy of Never", 60),
        ("CreateContainerConfigError", "secret not found", 60),
        ("ErrImagePull", "no such host", 60),
    ],
)
def test_what_cannot_start_is_stopped_after_its_grace_and_counts_as_a_failure_to_start(
    reason: str, words: str, grace: int
) -> None:
    """The hold stays until the stop is proven; the kubelet's words are the failure's."""
    stage, leader = staged(retry={"max_start_failures": 0, "max_attempts": 3})
    leader.acknowledge(leader.run())
    leader.see(observation(("job", 1), Phase.PENDING, uid="u", waiting=reason, waiting_message=words))
    leader.run()
    if grace:
        stage.clock.move(grace - 1)
        assert not stops(leader.run())
        stage.clock.move(1.5)
    effects = leader.run()
    assert stops(effects or leader.effects) == ["job-1"]
    assert f"cannot start ({reason}: {words})" in explain(stage.model(), "job", stage.clock.now())
    assert stage.held() == {"cpu": "1"}
    leader.see(observation(("job", 1), Phase.FAILED, uid="u", reason="Stopped", disrupted=True))
    leader.run()
    status = status_of(stage)
    assert (status.state, status.reason, status.start_failures, status.failures) == (
        State.FAILED,
        reason,
        1,
        0,
    )
    assert words in status.message
    assert stage.held() == {}


def test_what_heals_within_its_grace_runs_on() -> None:
    stage, leader = staged()
    leader.acknowledge(leader.run())
    leader.see(
        observation(
            ("job", 1), Phase.PENDING, uid="u", waiting="ErrImagePull", waiting_message="registry is down"
        )
    )
    leader.run()
    stage.clock.move(59)
    leader.see(observation(("job", 1), Phase.RUNNING, uid="u"))
    leader.run()
    stage.clock.move(600)
    assert not stops(leader.run())
    assert status_of(stage).state is State.RUNNING


def test_what_waits_for_a_node_may_wait() -> None:
    """Unless its user gave it a start deadline."""
    stage, leader = staged()
    leader.acknowledge(leader.run())
    leader.see(
        observation(("job", 1), Phase.PENDING, uid="u", waiting="Unschedulable", waiting_message="0/1 nodes")
    )
    leader.run()
    stage.clock.move(36000)
    assert not stops(leader.run())
