"""What readers are told of arrays whose members each wait for one of another array (`index: same`)."""

from __future__ import annotations

import pytest

from controller.core.model.blocks import Block
from controller.core.model.op import Op
from controller.core.model.requests import RequestKind
from controller.core.model.task import Phase
from controller.core.promise.invariants import check_model
from controller.gateway.veil import veiled
from controller.views.dependencies import ParentVerdict, neighbours, parents_of
from controller.views.explain import explain
from tests.scenarios.test_arrays import end, step
from tests.support.bench import Stage, StagedReplica


@pytest.fixture
def stage() -> Stage:
    """An empty cluster with one pool of 4 cpus, an array, and one that follows it."""
    stage = Stage()
    stage.pool()
    stage.submit("a", array={"size": 3})
    stage.submit("b", array={"size": 3}, after=[{"task": "a", "index": "same"}])
    return stage


def why(stage: Stage, name: str = "b") -> str:
    return explain(stage.model(), name, stage.clock.now())


def verdict(stage: Stage) -> ParentVerdict:
    (parent,) = parents_of(stage.model(), "b")
    assert parent.wish == "succeeded (same index)"
    return parent.verdict


def test_none_may_begin(stage: Stage, leader: StagedReplica) -> None:
    assert verdict(stage) is ParentVerdict.UNFINISHED
    assert why(stage) == (
        "b: 0 of 3 members have ended, 0 are under way and 3 wait; member 0, the next one, waits for members"
        " of a (Running) to end, each for that of its own index."
    )
    assert why(stage, "b-i1").startswith(
        "b-i1, member 1 of b, has not begun: it waits for member 1 of a (Running) to end. b: 0 of 3"
    )


def test_some_have_begun(stage: Stage, leader: StagedReplica) -> None:
    end(leader, "a-i1-1")
    assert verdict(stage) is ParentVerdict.PARTLY
    assert "member 0, the next one, waits for member 0 of a (Running) to end." in why(stage)


def test_one_will_never_run(stage: Stage, leader: StagedReplica) -> None:
    end(leader, "a-i1-1", phase=Phase.FAILED)
    assert "it waits for a to end, of which member 1 has ended otherwise than wanted" in why(stage, "b-i1")
    hidden = veiled(why(stage, "b-i0"), lambda name: name != "a", lambda _: True)
    assert "it waits for member 0 of a (of another owner) to end" in hidden
    end(leader, "a-i0-1", "a-i2-1")
    assert verdict(stage) is ParentVerdict.PARTLY
    told = why(stage, "b-i1")
    assert "never ran: it was to run after the success of member 1 of a, which is Failed" in told
    end(leader, "b-i0-1", "b-i2-1")
    assert why(stage, "b-i1").endswith(
        "; `tally retry --downstream a` runs what did not succeed of a again, and then it."
    )
    assert (
        "`tally retry --downstream a` runs what did not succeed of a again, and then it, before that"
        in why(stage)
    )
    found = neighbours(stage.model(), "b")
    assert found is not None
    assert [edge.wish for edge in found.edges] == ["succeeded (same index)"]


def test_an_array_of_another_size_is_no_such_array(stage: Stage, leader: StagedReplica) -> None:
    stage.submit("c", array={"size": 4}, after=[{"task": "a", "index": "same"}])
    assert "its members wait for those of a: there is no such array of 4 members" in why(stage, "c")
    (parent,) = parents_of(stage.model(), "c")
    assert parent.verdict is ParentVerdict.UNKNOWN


def test_the_audit_tells_of_a_member_that_began_too_early(stage: Stage, leader: StagedReplica) -> None:
    end(leader, "a-i1-1")
    assert not [each for each in check_model(stage.model()) if each.invariant == "I13"]
    stage.put(f"{stage.keys.prefix}arrays/a/0", Block("s/a", ()).encode(Op("x")))
    found = [each for each in check_model(stage.model()) if each.invariant == "I13"]
    assert [(each.subject, each.what) for each in found] == [
        ("task/b-i1", "began before member 1 of a had succeeded")
    ]


def test_the_audit_knows_that_an_array_had_ended_before_it_was_retried() -> None:
    stage = Stage()
    stage.pool(paused=True)
    stage.submit("a", array={"size": 2})
    stage.submit("b", array={"size": 2}, after=[{"task": "a", "when": "finished", "index": "same"}])
    leader = stage.leader()
    stage.request("a", RequestKind.CANCEL)
    stage.pool(capacity={"cpu": 2})
    assert step(leader) == ["b-i0-1", "b-i1-1"]
    stage.clock.move(1)
    stage.request("a", RequestKind.RETRY)
    step(leader)
    assert stage.state("a") == "WaitingRetry"
    assert not [each for each in check_model(stage.model()) if each.invariant == "I13"]


def test_members_that_are_not_needed_say_why() -> None:
    stage = Stage()
    stage.pool()
    stage.submit("a", array={"size": 2})
    stage.submit("b", array={"size": 2}, after=[{"task": "a", "when": "failed", "index": "same"}])
    leader = stage.leader()
    step(leader)
    end(leader, "a-i0-1", "a-i1-1")
    assert (stage.state("b"), stage.status("b").reason) == ("Cancelled", "Skipped")
    told = why(stage, "b-i1")
    assert "never ran: it was to run only after the failure of member 1 of a, which is Succeeded" in told
    assert told.endswith("; it is not needed.")
    (parent,) = parents_of(stage.model(), "b")
    assert parent.verdict is ParentVerdict.UNMET


def test_the_first_that_failed_is_named_however_far_up(stage: Stage, leader: StagedReplica) -> None:
    stage.submit("c", array={"size": 3}, after=[{"task": "b", "index": "same"}])
    end(leader, "a-i0-1", "a-i1-1", "a-i2-1", phase=Phase.FAILED)
    assert (stage.state("b"), stage.state("c")) == ("Failed", "Failed")
    assert "`tally retry --downstream a` runs what did not succeed of a again" in why(stage, "c")
    assert "`tally retry --downstream a` runs what did not succeed of a again" in why(stage, "c-i2")


def test_what_keeps_an_array_is_told(stage: Stage, leader: StagedReplica) -> None:
    end(leader, "a-i0-1", "a-i1-1", "a-i2-1")
    assert "it will be removed in 1d, or later, since 1 task (b) waits for it" in why(stage, "a")


def test_an_array_that_was_deleted_by_hand(stage: Stage, leader: StagedReplica) -> None:
    end(leader, "a-i0-1")
    stage.delete(stage.keys.task("a"))
    step(leader)
    end(leader, "b-i0-1")
    assert stage.state("b") == "Failed"
    assert why(stage).endswith("; submit it under another name, after tasks that exist.")
    assert "ended as Failed, and never ran" in why(stage, "b-i1")
