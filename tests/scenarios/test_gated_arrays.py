"""An array that waits for other tasks: each of its members begins with them ended as wanted, whatever befell
the others before.
"""

from __future__ import annotations

from typing import Any

import pytest

from controller.core.model import codec
from controller.core.model.requests import RequestKind
from controller.core.model.task import Phase
from controller.core.promise.invariants import check_model
from tests.scenarios.test_arrays import end, outcomes, step
from tests.scenarios.test_paired import failed
from tests.support.bench import Stage, StagedReplica, observation


@pytest.fixture
def leader(stage: Stage) -> StagedReplica:
    return stage.leader()


def gated(stage: Stage, leader: StagedReplica, when: str = "succeeded", **more: Any) -> None:
    """Array `b` of three waits for the task `load`, which runs."""
    stage.submit("load")
    stage.submit("b", **{"array": {"size": 3}, "after": [{"task": "load", "when": when}], **more})
    assert "load-1" in step(leader)


def test_a_cancel_of_one_member_opens_no_gate(stage: Stage, leader: StagedReplica) -> None:
    gated(stage, leader)
    stage.request("b", RequestKind.CANCEL, members="0")
    assert step(leader) == []
    assert end(leader, "load-1", phase=Phase.RUNNING) == []
    assert outcomes(stage, "b") == {"cancelled": 1}
    assert end(leader, "load-1") == ["b-i1-1", "b-i2-1"]


def test_nor_does_it_with_members_that_wait_for_those_of_another_array(
    stage: Stage, leader: StagedReplica
) -> None:
    stage.submit("a", array={"size": 3})
    gated(stage, leader, after=[{"task": "a", "index": "same"}, {"task": "load"}])
    stage.request("b", RequestKind.CANCEL, members="0")
    assert end(leader, "a-i0-1", "a-i1-1") == []
    assert end(leader, "load-1") == ["b-i1-1"]
    assert end(leader, "a-i2-1") == ["b-i2-1"]


@pytest.mark.parametrize(
    ("when", "phase", "fate", "state"),
    [
        ("succeeded", Phase.FAILED, ("failed", "DependencyFailed"), "Failed"),
        ("failed", Phase.SUCCEEDED, ("cancelled", "Skipped"), "Cancelled"),
    ],
)
def test_members_that_are_left_never_run_if_the_gate_never_opens(
    stage: Stage, leader: StagedReplica, when: str, phase: Phase, fate: tuple[str, str], state: str
) -> None:
    """Part of the array was cancelled before: the others end as the whole would have."""
    gated(stage, leader, when)
    stage.request("b", RequestKind.CANCEL, members="0")
    assert step(leader) == []
    assert end(leader, "load-1", phase=phase) == []
    assert [failed(stage, index) for index in range(3)] == [("cancelled", ""), fate, fate]
    assert stage.state("b") == state


@pytest.mark.parametrize("take_over", [False, True])
def test_a_retry_of_members_that_were_all_cancelled_waits(
    stage: Stage, leader: StagedReplica, take_over: bool
) -> None:
    gated(stage, leader)
    stage.request("b", RequestKind.CANCEL, members="0-2")
    assert step(leader) == []
    assert stage.state("b") == "Cancelled"
    stage.request("b", RequestKind.RETRY)
    assert step(leader) == []
    if take_over:
        stage.elect()
        leader = stage.leader()
        assert step(leader) == ["load-1"]
    assert end(leader, "load-1") == ["b-i0-1", "b-i1-1", "b-i2-1"]


def test_a_retry_waits_for_its_parents_again(stage: Stage, leader: StagedReplica) -> None:
    """With the parent, which succeeds this time: who was to run after its failure is not needed."""
    gated(stage, leader, "failed")
    assert end(leader, "load-1", phase=Phase.FAILED) == ["b-i0-1", "b-i1-1", "b-i2-1"]
    end(leader, *(f"b-i{index}-1" for index in range(3)), phase=Phase.FAILED)
    assert stage.state("b") == "Failed"
    stage.request("load", RequestKind.RETRY)
    stage.request("b", RequestKind.RETRY)
    assert step(leader) == ["load-2"]
    assert end(leader, "load-2") == []
    assert [failed(stage, index) for index in range(3)] == [("cancelled", "Skipped")] * 3
    assert (stage.state("b"), stage.status("b").reason) == ("Cancelled", "Skipped")


def test_members_that_have_not_begun_wait_while_a_parent_runs_again(
    stage: Stage, leader: StagedReplica
) -> None:
    """Those under way go on."""
    gated(stage, leader, "finished", array={"size": 3, "max_running": 1})
    assert end(leader, "load-1", phase=Phase.FAILED) == ["b-i0-1"]
    stage.request("load", RequestKind.RETRY)
    assert step(leader) == ["load-2"]
    assert end(leader, "b-i0-1") == []
    assert end(leader, "load-2") == ["b-i1-1"]
    assert end(leader, "b-i1-1") == ["b-i2-1"]


def test_an_array_that_has_run_needs_no_parent_that_is_gone(stage: Stage, leader: StagedReplica) -> None:
    """Somebody has deleted it by hand."""
    gated(stage, leader, array={"size": 3, "max_running": 1})
    assert end(leader, "load-1") == ["b-i0-1"]
    for key in (stage.keys.task("load"), stage.keys.state("load")):
        stage.delete(key)
    assert step(leader) == []
    assert end(leader, "b-i0-1") == ["b-i1-1"]


def test_an_array_of_which_no_member_has_run_needs_its_parent(stage: Stage, leader: StagedReplica) -> None:
    """Though some were cancelled."""
    stage.pool(paused=True)
    stage.submit("load")
    stage.submit("b", array={"size": 3}, after=[{"task": "load"}])
    stage.request("b", RequestKind.CANCEL, members="0")
    step(leader)
    stage.delete(stage.keys.task("load"))
    assert step(leader) == []
    assert [failed(stage, index)[1] for index in range(3)] == ["", "DependencyUnknown", "DependencyUnknown"]
    assert stage.state("b") == "Failed"


def test_a_block_that_cannot_be_read_is_not_written_over(stage: Stage, leader: StagedReplica) -> None:
    gated(stage, leader)
    stage.request("b", RequestKind.CANCEL, members="0")
    step(leader)
    key = stage.keys.of("arrays", ("b", "0"))
    before = stage.value(key)
    stage.put(key, b"{")
    leader.sync()
    leader.see(observation(("load", 1), Phase.FAILED, exit_code=1))
    leader.run()
    assert stage.value(key) == b"{"
    stage.put(key, before)
    assert step(leader) == []
    assert stage.state("b") == "Failed"


def test_a_parent_is_kept_until_the_array_has_ended(stage: Stage, leader: StagedReplica) -> None:
    gated(stage, leader, array={"size": 3, "max_running": 1})
    stage.put(stage.keys.of("awaits", ("load", "b")), b"{}")
    step(leader)
    assert end(leader, "load-1") == ["b-i0-1"]
    stage.clock.move(2 * 86400)
    assert step(leader) == []
    assert "load" in stage.model().tasks
    for index in range(3):
        end(leader, f"b-i{index}-1")
    assert stage.state("b") == "Succeeded"
    step(leader)
    assert "load" not in stage.model().tasks


def test_the_audit_sees_a_member_that_began_too_early(stage: Stage, leader: StagedReplica) -> None:
    gated(stage, leader)
    status = stage.status("load")
    assert end(leader, "load-1")[0] == "b-i0-1"
    assert not [each for each in check_model(stage.model()) if each.invariant == "I13"]
    stage.put(stage.keys.state("load"), codec.encode_status(status, codec.NO_EXTRAS))
    early = [each for each in check_model(stage.model()) if each.invariant == "I13"]
    assert {each.subject for each in early} == {f"task/b-i{index}" for index in range(3)}
    assert early[0].what == "began before load had succeeded"
