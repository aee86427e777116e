"""An attempt that is lost meanwhile ends with the words of its stop, and as one that has begun."""

from __future__ import annotations

from typing import Any

import pytest

from controller.core.model.codec import decode_history
from controller.core.model.requests import RequestKind
from controller.core.model.task import Observation, Phase, Status, StopReason
from tests.support.bench import Stage, StagedReplica, observation, starts, stops

BROKEN = {"main_ended": True, "exit_code": 137, "reason": "OOMKilled", "uid": "u"}
RULES = {"max_attempts": 5, "rules": [{"action": "fail", "reasons": ["OOMKilled"]}]}


def seen(phase: Phase, **fields: Any) -> Observation:
    return observation(("job", 1), phase, **{"uid": "u", **fields})


def stopping(stage: Stage, why: str) -> StagedReplica:
    """A leader that stops the attempt, for longer than its grace."""
    stage.submit("job", retry=RULES, grace_seconds=1, on_lost={"replace_after": "1h"})
    leader = stage.leader()
    leader.run_to("job", Phase.RUNNING)
    if why == StopReason.MAIN_ENDED:
        leader.see(seen(Phase.RUNNING, **BROKEN))
    else:
        stage.request("job", RequestKind.CANCEL, reason="wrong input")
        leader.sync()
    leader.acknowledge(leader.run())
    stage.clock.move(70)
    return leader


@pytest.mark.parametrize("why", [StopReason.MAIN_ENDED, StopReason.CANCEL])
@pytest.mark.parametrize("course", ["not lost", "overdue", "its node", "found again"])
def test_it_ends_as_if_it_had_not_been_lost(stage: Stage, why: str, course: str) -> None:
    leader = stopping(stage, why)
    ends = BROKEN if why == StopReason.MAIN_ENDED else {}
    if course in ("overdue", "found again"):
        leader.list_engine(seen(Phase.RUNNING, **ends))
        leader.run()
    elif course == "its node":
        leader.list_engine(seen(Phase.UNKNOWN, reason="NodeLost", message="node n does not answer"))
        leader.run()
    lost = stage.status("job")
    assert (lost.lost_since is not None) == (course != "not lost")
    if course == "found again":
        stage.elect()
        leader = stage.leader(seen(Phase.RUNNING, **ends))
        leader.run()
        assert stage.status("job").lost_since is None
    leader.see(seen(Phase.FAILED, reason="Stopped", disrupted=True))
    assert not starts(leader.run())
    assert _words(stage.status("job")) == (
        ("Failed", "OOMKilled", "its main container ended with exit code 137; retry.rules[0] says fail", 1)
        if why == StopReason.MAIN_ENDED
        else ("Cancelled", "Cancelled", "cancelled by user: wrong input", 0)
    )
    stage.check()


def test_the_loss_itself_is_in_its_history(stage: Stage) -> None:
    leader = stopping(stage, StopReason.CANCEL)
    leader.list_engine(seen(Phase.UNKNOWN, reason="NodeLost", message="node n does not answer"))
    leader.run()
    status = stage.status("job")
    assert (status.reason, status.message) == ("cancel", "cancelled by user: wrong input")
    assert decode_history(status)[-1].reason == "NodeLost"


@pytest.mark.parametrize("first", [True, False])
def test_a_word_on_a_lost_attempt_counts_for_none_that_is_found_in_the_same_pass(
    stage: Stage, first: bool
) -> None:
    """Else its hold ends, and the next attempt begins, beside one that the engine has just shown alive."""
    stage.submit("job", retry={"max_attempts": 3, "backoff_seconds": 0})
    leader = stage.leader()
    leader.run_to("job", Phase.RUNNING)
    leader.see(seen(Phase.UNKNOWN, reason="NodeLost"))
    leader.run()
    assert stage.status("job").lost_since is not None
    leader.see(seen(Phase.RUNNING))
    if first:
        leader.run()
    stage.request("job", RequestKind.CONFIRM_STOPPED, by="op")
    leader.sync()
    assert not starts(leader.run())
    status = stage.status("job")
    assert (status.state, status.lost_since, status.attempt) == ("Running", None, 1)
    assert decode_history(status)[-1].message == "confirm-stopped: the engine reports its attempt as Running"
    stage.check()


def test_what_was_seen_running_has_begun_though_it_is_lost_in_the_same_pass(stage: Stage) -> None:
    """No start deadline stops it then: it was running within it."""
    stage.submit("job", deadlines={"start_seconds": 5}, retry={"max_attempts": 1})
    leader = stage.leader()
    leader.run_to("job", Phase.PENDING)
    leader.see(seen(Phase.RUNNING, started_at=stage.clock.now()))
    leader.see(seen(Phase.UNKNOWN, reason="NodeLost"))
    leader.run()
    status = stage.status("job")
    assert (status.state, status.reason) == ("Running", "NodeLost")
    assert status.lost_since is not None
    began = status.started_at
    stage.clock.move(6)
    assert not stops(leader.run())
    leader.see(seen(Phase.FAILED, reason="Error", exit_code=3))
    leader.run()
    assert _words(stage.status("job"))[:2] == ("Failed", "Error")
    assert stage.status("job").started_at == began
    stage.check()


def _words(status: Status) -> tuple[str, str, str, int]:
    return status.state, status.reason, status.message, status.failures
