"""An array each of whose members waits for the member of its own index of another array (`index: same`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from controller.core.model import codec
from controller.core.model.blocks import Block, Fate, MemberOutcome
from controller.core.model.op import Op
from controller.core.model.requests import RequestKind
from controller.core.model.task import Phase
from controller.core.model.validation import parse_spec
from controller.core.planning.plan import Plan
from controller.core.promise.invariants import check_model
from controller.errors import InvalidField
from tests.scenarios.test_array_audit import write_block
from tests.scenarios.test_arrays import end, outcomes, records, step
from tests.support.bench import Stage, StagedReplica, observation


@pytest.fixture
def leader(stage: Stage) -> StagedReplica:
    return stage.leader()


def capacity(stage: Stage, cpu: str) -> None:
    """The pool has so many cpus from now on."""
    stage.pool(capacity={"cpu": cpu})


def pair(stage: Stage, size: int = 3, when: str = "succeeded", **more: Any) -> None:
    """Array `b` follows array `a`, member by member."""
    stage.submit("a", array={"size": size})
    stage.submit("b", array={"size": size}, after=[{"task": "a", "when": when, "index": "same"}], **more)


def plan_until(leader: StagedReplica, is_it: Callable[[Plan], bool]) -> Plan:
    """The first such plan, which is not committed; those before it are."""
    for _ in range(20):
        plan = leader.planner.plan(leader.stage.clock.now())
        if is_it(plan):
            return plan
        leader.commit(plan)
    raise AssertionError("there is no such plan")


def failed(stage: Stage, index: int, name: str = "b") -> tuple[str, str]:
    """How the member has ended, as its block says, and the reason."""
    array = stage.model().arrays.of(name)
    assert array is not None
    fate = array.fate(index)
    return fate.outcome.value, fate.reason


def test_a_member_begins_when_that_of_its_index_has_succeeded(stage: Stage, leader: StagedReplica) -> None:
    pair(stage)
    assert step(leader) == ["a-i0-1", "a-i1-1", "a-i2-1"]
    assert end(leader, "a-i1-1") == ["b-i1-1"]
    assert end(leader, "a-i0-1") == ["b-i0-1"]
    assert end(leader, "b-i1-1", "b-i0-1") == []
    assert end(leader, "a-i2-1") == ["b-i2-1"]
    assert stage.state("a") == "Succeeded"
    end(leader, "b-i2-1")
    assert stage.state("b") == "Succeeded"
    assert stage.held() == {}


def test_a_member_ends_unrun_once_the_whole_other_array_has_ended(
    stage: Stage, leader: StagedReplica
) -> None:
    pair(stage)
    step(leader)
    assert end(leader, "a-i1-1", phase=Phase.FAILED) == []
    assert outcomes(stage, "b") == {}
    assert end(leader, "a-i0-1", "a-i2-1") == ["b-i0-1", "b-i2-1"]
    assert failed(stage, 1) == ("failed", "DependencyFailed")
    end(leader, "b-i0-1", "b-i2-1")
    assert stage.state("b") == "Failed"
    assert outcomes(stage, "b") == {"succeeded": 2, "failed": 1}


def test_a_retry_in_time_saves_the_member(stage: Stage, leader: StagedReplica) -> None:
    pair(stage)
    step(leader)
    end(leader, "a-i1-1", phase=Phase.FAILED)
    stage.request("a", RequestKind.RETRY)
    assert step(leader) == ["a-i1-2"]
    assert end(leader, "a-i1-2") == ["b-i1-1"]


@pytest.mark.parametrize("when", ["failed", "finished"])
def test_what_waits_for_a_failure_waits_while_it_is_about_to_be_retried(
    stage: Stage, leader: StagedReplica, when: str
) -> None:
    pair(stage, when=when)
    capacity(stage, "3")
    step(leader)
    end(leader, "a-i0-1", "a-i2-1", phase=Phase.SUCCEEDED if when == "failed" else Phase.FAILED)
    capacity(stage, "0")
    assert end(leader, "a-i1-1", phase=Phase.FAILED) == []
    assert stage.state("a") == "Failed"
    stage.request("a", RequestKind.RETRY)
    leader.sync()
    capacity(stage, "3")
    assert all(not name.startswith("b-i1") for name in step(leader))


def test_members_that_are_not_needed_are_cancelled(stage: Stage, leader: StagedReplica) -> None:
    pair(stage, when="failed")
    step(leader)
    assert end(leader, "a-i0-1", phase=Phase.FAILED) == ["b-i0-1"]
    assert end(leader, "a-i1-1", "a-i2-1") == []
    assert outcomes(stage, "b") == {"cancelled": 2}
    assert failed(stage, 2) == ("cancelled", "Skipped")
    end(leader, "b-i0-1")
    assert (stage.state("b"), stage.status("b").reason) == ("Cancelled", "Skipped")


@pytest.mark.parametrize("when", ["succeeded", "finished"])
def test_an_array_that_ends_before_it_has_begun(stage: Stage, leader: StagedReplica, when: str) -> None:
    pair(stage, when=when)
    stage.pool(paused=True)
    assert step(leader) == []
    stage.request("a", RequestKind.CANCEL)
    stage.pool()
    started = step(leader)
    if when == "finished":
        assert started == ["b-i0-1", "b-i1-1", "b-i2-1"]
    else:
        assert (stage.state("b"), stage.status("b").reason) == ("Failed", "DependencyFailed")
        assert records(stage, "arrays") == []


def test_part_of_the_other_array_is_cancelled_before_it_begins(stage: Stage, leader: StagedReplica) -> None:
    capacity(stage, "1")
    pair(stage)
    step(leader)
    stage.request("a", RequestKind.CANCEL, members="1-2")
    step(leader)
    assert end(leader, "a-i0-1") == ["b-i0-1"]
    assert stage.state("a") == "Cancelled"
    assert outcomes(stage, "b") == {"failed": 2}
    end(leader, "b-i0-1")
    assert stage.state("b") == "Failed"


def test_a_member_that_is_cancelled_before_it_begins_is_retried(stage: Stage, leader: StagedReplica) -> None:
    """Nothing is left then of its end, on which the beginning of another one rests."""

    def early() -> list[str]:
        return [each.subject for each in check_model(stage.model()) if each.invariant == "I13"]

    pair(stage, when="finished")
    stage.request("a", RequestKind.CANCEL, members="0")
    capacity(stage, "3")
    assert step(leader) == ["a-i1-1", "a-i2-1", "b-i0-1"]
    told = stage.value(f"{stage.keys.prefix}arrays/a/0")
    write_block(stage, name="a")
    assert early() == ["task/b-i0"], "another hand removed its end, and nobody had it retried"
    stage.put(f"{stage.keys.prefix}arrays/a/0", told)
    stage.clock.move(1)
    stage.request("a", RequestKind.RETRY, members="0")
    step(leader)
    assert "a-i0" not in stage.model().tasks
    assert early() == []


@pytest.mark.parametrize("of", [None, {"size": 4}, {"size": 3, "gang": True}])
def test_it_waits_for_no_array_of_another_size(
    stage: Stage, leader: StagedReplica, of: dict[str, Any] | None
) -> None:
    stage.submit("a", **({"array": of} if of else {}))
    stage.submit("b", array={"size": 3}, after=[{"task": "a", "index": "same"}])
    step(leader)
    assert (stage.state("b"), stage.status("b").reason) == ("Failed", "DependencyUnknown")
    assert "those of a: there is no such array of 3 members" in stage.status("b").message


def test_two_arrays_are_followed_and_a_plain_task_first(stage: Stage, leader: StagedReplica) -> None:
    capacity(stage, "20")
    stage.submit("t")
    for name in ("a", "c"):
        stage.submit(name, array={"size": 3})
    after = [{"task": "a", "index": "same"}, {"task": "c", "index": "same", "when": "failed"}, {"task": "t"}]
    stage.submit("b", array={"size": 3}, after=after)
    step(leader)
    end(leader, "a-i0-1", "a-i1-1", "a-i2-1")
    end(leader, "c-i0-1")
    assert end(leader, "c-i1-1", phase=Phase.FAILED) == []
    assert end(leader, "t-1") == ["b-i1-1"]
    assert end(leader, "c-i2-1", phase=Phase.FAILED) == ["b-i2-1"]
    assert outcomes(stage, "b") == {"cancelled": 1}
    end(leader, "b-i1-1", "b-i2-1")
    assert stage.state("b") == "Cancelled"


def test_the_other_array_is_kept_until_all_members_have_ended(stage: Stage, leader: StagedReplica) -> None:
    capacity(stage, "2")
    stage.submit("a", array={"size": 3}, retention_seconds=0)
    stage.submit("b", array={"size": 3}, after=[{"task": "a", "index": "same"}], retention_seconds=1000)
    step(leader)
    end(leader, "a-i0-1", "a-i1-1")
    end(leader, "a-i2-1")
    assert stage.state("a") == "Succeeded"
    stage.clock.move(100)
    step(leader)
    assert stage.state("a") == "Succeeded"
    while any(name.startswith("b-") for name in records(stage, "states")):
        end(leader, *(f"{name}-1" for name in records(stage, "states") if name.startswith("b-")))
    assert stage.state("b") == "Succeeded"
    step(leader)
    assert "a" not in records(stage, "tasks")


def test_members_that_ended_unrun_run_after_a_retry_of_both(stage: Stage, leader: StagedReplica) -> None:
    pair(stage)
    step(leader)
    end(leader, "a-i0-1", "a-i1-1", "a-i2-1", phase=Phase.FAILED)
    assert (stage.state("a"), stage.state("b")) == ("Failed", "Failed")
    stage.request("a", RequestKind.RETRY)
    stage.request("b", RequestKind.RETRY)
    assert step(leader) == ["a-i0-2", "a-i1-2", "a-i2-2"]
    assert end(leader, "a-i2-2") == ["b-i2-1"]
    assert end(leader, "a-i0-2", "a-i1-2", phase=Phase.FAILED) == []
    assert outcomes(stage, "b") == {"failed": 2}


def test_a_retry_of_what_follows_alone_ends_again(stage: Stage, leader: StagedReplica) -> None:
    pair(stage)
    step(leader)
    end(leader, "a-i0-1", "a-i1-1", "a-i2-1", phase=Phase.FAILED)
    stage.request("b", RequestKind.RETRY)
    assert step(leader) == []
    assert (stage.state("b"), outcomes(stage, "b")) == ("Failed", {"failed": 3})


def test_a_block_that_cannot_be_read_keeps_its_members_back(stage: Stage, leader: StagedReplica) -> None:
    pair(stage)
    step(leader)
    key = f"{stage.keys.prefix}arrays/a/0"
    end(leader, "a-i0-1", phase=Phase.FAILED)
    block = stage.value(key)
    stage.put(key, b"rubbish")
    assert end(leader, "a-i1-1", "a-i2-1") == []
    assert outcomes(stage, "b") == {}
    stage.put(key, block)
    assert step(leader) == ["b-i1-1", "b-i2-1"]
    assert failed(stage, 0) == ("failed", "DependencyFailed")


def test_a_spec_that_cannot_be_read_is_not_taken_for_absent(stage: Stage, leader: StagedReplica) -> None:
    pair(stage)
    step(leader)
    end(leader, "a-i0-1")
    spec = stage.value(stage.keys.task("a"))
    stage.put(stage.keys.task("a"), b"rubbish")
    after = stage.leader(*(observation((name, 1), Phase.RUNNING) for name in ("a-i1", "a-i2", "b-i0")))
    step(after)
    assert outcomes(stage, "b") == {}
    stage.put(stage.keys.task("a"), spec)
    assert end(after, "a-i2-1") == ["b-i2-1"]


def test_a_beginning_rests_on_the_block_that_tells_of_the_other_member(
    stage: Stage, leader: StagedReplica
) -> None:
    pair(stage)
    step(leader)
    leader.see(observation(("a-i0", 1), Phase.SUCCEEDED, exit_code=0))
    plan = plan_until(leader, lambda plan: [each.task_id for each in plan.changes][:1] == ["b-i0"])
    assert ("arrays", ("a", "0"), leader.model.mod_of("arrays", ("a", "0"))) in plan.compared
    key = f"{stage.keys.prefix}arrays/a/0"
    stage.put(key, Block("", ()).encode(Op("x")))
    with pytest.raises(AssertionError):
        leader.commit(plan)


def test_that_members_never_run_rests_on_the_end_of_the_other_array(
    stage: Stage, leader: StagedReplica
) -> None:
    pair(stage)
    step(leader)
    leader.see(*(observation((f"a-i{index}", 1), Phase.FAILED, exit_code=1) for index in range(3)))
    plan = plan_until(leader, lambda plan: [each.names for each in plan.records] == [("b", "0")])
    compared = {(kind, *names): mod for kind, names, mod in plan.compared}
    assert compared.keys() == {("states", "a"), ("arrays", "a", "0")}
    assert all(compared.values())


def test_a_new_leader_goes_on(stage: Stage, leader: StagedReplica) -> None:
    pair(stage)
    step(leader)
    end(leader, "a-i1-1")
    stage.elect()
    after = stage.leader(*(observation((name, 1), Phase.RUNNING) for name in ("a-i0", "a-i2", "b-i1")))
    assert end(after, "b-i1-1") == []
    assert end(after, "a-i0-1") == ["b-i0-1"]


@pytest.mark.parametrize(
    ("fields", "field", "words"),
    [
        ({}, "after[0].index", "is no array"),
        ({"array": {"size": 3, "gang": True}}, "after[0].index", "a gang begins whole"),
        ({"array": {"size": 3}, "deadlines": {"queue": 5}}, "after[0].index", "deadlines.queue"),
    ],
)
def test_what_cannot_follow_is_refused(fields: dict[str, Any], field: str, words: str) -> None:
    with pytest.raises(InvalidField) as error:
        parse_spec({"id": "b", "command": ["true"], "after": [{"task": "a", "index": "same"}], **fields})
    assert error.value.field == field
    assert words in str(error.value)


def test_an_array_without_such_dependencies_is_stored_as_before() -> None:
    spec = parse_spec({"id": "b", "command": ["true"], "array": {"size": 2}, "after": ["a"]})
    assert b"index" not in codec.encode_spec(spec, 0.0, Op("o"))
    assert Block("", ()).mask(lambda fate: fate == Fate(MemberOutcome.WAITING), 3) == 0b111


def test_it_is_refused_when_all_that_it_waits_for_have_ended(stage: Stage, leader: StagedReplica) -> None:
    """Until then a user may retry the task that failed, although some members might have begun already."""
    stage.submit("t")
    stage.submit("a", array={"size": 3})
    stage.submit("b", array={"size": 3}, after=["t", {"task": "a", "index": "same"}])
    step(leader)
    assert end(leader, "t-1", phase=Phase.FAILED) == []
    assert end(leader, "a-i1-1") == []
    assert stage.state("b") == "Created"
    end(leader, "a-i0-1", "a-i2-1")
    assert (stage.state("b"), stage.status("b").reason) == ("Failed", "DependencyFailed")
