"""What the audit says of arrays (I15), and what it does not say while they live as they should."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from controller.core.model import codec
from controller.core.model.blocks import LENGTH, Block, Fate, MemberOutcome
from controller.core.model.op import Op
from controller.core.model.requests import RequestKind
from controller.core.model.resources import Vector
from controller.core.model.task import Phase, Status
from controller.core.promise.finding import FindingSeverity, Mender
from controller.core.promise.invariants import check_model
from tests.scenarios.test_arrays import end, records, step
from tests.support.bench import Stage, StagedReplica, observation


@pytest.fixture
def leader(stage: Stage) -> StagedReplica:
    return stage.leader()


def i15(stage: Stage) -> list[str]:
    """What is found of arrays."""
    return [f"{each.subject} {each.what}" for each in check_model(stage.model()) if each.invariant == "I15"]


def write_block(stage: Stage, *fates: Fate, name: str = "a") -> None:
    """A block of the array as it is, by another hand."""
    array = stage.model().arrays.of(name)
    assert array is not None
    block = Block.of_fates(array.of, fates)
    stage.put(f"{stage.keys.prefix}arrays/{name}/0", block.encode(Op("another")))


def write_status(stage: Stage, name: str, of: str = "", **fields: Any) -> None:
    """The status of a task, as it is but for these fields, by another hand. `of`: as that of another task."""
    status: Status = msgspec.structs.replace(stage.status(of or name), **fields)
    stage.put(stage.keys.state(name), codec.encode_status(status, codec.NO_EXTRAS))


SUCCEEDED, FAILED = Fate(MemberOutcome.SUCCEEDED, 1, 0), Fate(MemberOutcome.FAILED, 1, 1, "Failed")


def test_the_audit_finds_nothing_in_the_life_of_an_array(stage: Stage, leader: StagedReplica) -> None:
    """Each step checks that nothing is wrong; here nothing is told at all."""
    stage.submit("a", array={"size": 6, "max_running": 3}, retry={"max_attempts": 2, "backoff_seconds": 10})
    assert i15(stage) == []
    step(leader)
    end(leader, "a-i0-1", "a-i1-1", phase=Phase.FAILED)
    assert i15(stage) == []
    stage.clock.move(15)
    step(leader)
    stage.request("a", RequestKind.CANCEL, members="5")
    step(leader)
    running = list(stage.model().holding)
    while running:
        for name in running:
            end(leader, f"{name}-{stage.status(name).attempt}", phase=Phase.FAILED)
        stage.clock.move(15)
        step(leader)
        assert i15(stage) == []
        running = list(stage.model().holding)
    assert stage.state("a") == "Failed"
    stage.request("a", RequestKind.RETRY)
    step(leader)
    assert i15(stage) == []


def test_a_member_that_had_ended_is_under_way(stage: Stage, leader: StagedReplica) -> None:
    stage.submit("a", array={"size": 3})
    step(leader)
    write_block(stage, Fate(MemberOutcome.WAITING), SUCCEEDED)
    assert i15(stage) == [
        "task/a-i1 is Pending at attempt 1, but its block says that it has succeeded after 1 attempt"
    ]


def test_a_members_attempts_begin_anew(stage: Stage, leader: StagedReplica) -> None:
    stage.submit("a", array={"size": 3})
    step(leader)
    write_block(stage, Fate(MemberOutcome.WAITING, 3))
    assert i15(stage) == ["task/a-i0 is at attempt 1, but its block says that it has had 3"]


@pytest.mark.parametrize(
    ("fates", "what"),
    [
        (7 * [SUCCEEDED], "tells of 7 members, and the array has 6 there"),
        ([Fate(MemberOutcome.SUCCEEDED)], "says that members have succeeded without an attempt"),
    ],
)
def test_a_block_says_what_cannot_be(
    stage: Stage, leader: StagedReplica, fates: list[Fate], what: str
) -> None:
    stage.submit("a", array={"size": 6})
    write_block(stage, *fates)
    assert f"task/a has a block arrays/a/0 that {what}" in i15(stage)
    write_block(stage, *5 * [SUCCEEDED], FAILED)
    assert not any("block" in each for each in i15(stage))


def test_a_member_that_the_array_does_not_have(stage: Stage, leader: StagedReplica) -> None:
    stage.submit("a", array={"size": 1})
    step(leader)
    write_status(stage, "a-i7", of="a-i0", index=7)
    assert i15(stage) == ["task/a-i7 is a member that a does not have: its size is 1"]
    (finding,) = [each for each in check_model(stage.model()) if each.invariant == "I15"]
    assert finding.transient
    assert finding.mender is Mender.LEADER


def test_a_finished_array_has_members_under_way(stage: Stage, leader: StagedReplica) -> None:
    stage.submit("a", array={"size": 2})
    step(leader)
    running = stage.status("a-i1")
    end(leader, "a-i0-1", "a-i1-1")
    stage.put(stage.keys.state("a-i1"), codec.encode_status(running, codec.NO_EXTRAS))
    assert "task/a is Succeeded, but member 1 is under way" in i15(stage)


def test_a_finished_array_has_members_that_wait(stage: Stage, leader: StagedReplica) -> None:
    stage.submit("a", array={"size": 3})
    step(leader)
    end(leader, "a-i0-1", "a-i1-1", "a-i2-1", phase=Phase.FAILED)
    write_block(stage, FAILED, Fate(MemberOutcome.WAITING, 1), FAILED)
    found = "task/a is Failed, but 1 of its 3 members wait, the first of them 1: they never begin"
    assert i15(stage) == [found]
    leader.sync()
    leader.run()
    assert i15(stage) == [found]
    stage.request("a", RequestKind.RETRY)
    assert i15(stage) == []
    assert step(leader) == ["a-i0-2", "a-i1-2", "a-i2-2"]  # the repair that the finding names


def test_the_state_does_not_follow_from_the_members(stage: Stage, leader: StagedReplica) -> None:
    stage.submit("a", array={"size": 2})
    step(leader)
    end(leader, "a-i0-1", "a-i1-1")
    assert stage.state("a") == "Succeeded"
    write_block(stage, SUCCEEDED, FAILED)
    assert i15(stage) == ["task/a is Succeeded, but by its members it is Failed (1 succeeded, 1 failed)"]
    write_block(stage, SUCCEEDED, Fate(MemberOutcome.CANCELLED))
    assert i15(stage) == [
        "task/a is Succeeded, but by its members it is Cancelled (1 succeeded, 1 cancelled)"
    ]
    stage.delete(f"{stage.keys.prefix}arrays/a/0")
    assert i15(stage) == ["task/a is Succeeded, but by its members it is Created (none has begun)"]


def test_an_array_that_runs_itself(stage: Stage, leader: StagedReplica) -> None:
    stage.submit("a", array={"size": 2})
    stage.submit("b")
    step(leader)
    created_at = stage.model().tasks["a"].submitted_at
    write_status(stage, "a", of="b", created_at=created_at)
    assert i15(stage) == ["task/a is an array, and is Pending itself: its members run, and it does not"]


def test_a_task_that_is_no_array_has_ended_as_one(stage: Stage, leader: StagedReplica) -> None:
    stage.submit("a", array={"size": 1})
    step(leader)
    end(leader, "a-i0-1")
    stage.submit("b")
    write_status(stage, "b", of="a", created_at=stage.model().tasks["b"].submitted_at)
    assert i15(stage) == ["task/b is no array, but its history says that its members have ended"]


def test_all_members_have_ended_and_nobody_leads(stage: Stage, leader: StagedReplica) -> None:
    stage.submit("a", array={"size": 2})
    step(leader)
    end(leader, "a-i0-1")
    stage.delete(stage.keys.state("a-i1"))
    write_block(stage, SUCCEEDED, SUCCEEDED)
    found = [each for each in check_model(stage.model()) if each.invariant == "I15"]
    assert [each.what for each in found] == ["is Created, but all of its 2 members have ended"]
    assert found[0].severity is FindingSeverity.NOTICE
    leader.sync()
    leader.run()
    assert stage.state("a") == "Succeeded"
    assert i15(stage) == []


def test_a_block_that_cannot_be_read_is_named_and_deleted_on_request(
    stage: Stage, leader: StagedReplica
) -> None:
    stage.submit("a", array={"size": LENGTH + 1}, resources={"cpu": 4})
    stage.put(f"{stage.keys.prefix}arrays/a/0", b'{"members": 7}')
    assert step(leader) == []
    found = {each.subject: each for each in check_model(stage.model())}
    assert "1 block cannot be read: arrays/a/0" in found["task/a"].what
    assert "tally audit --repair --delete arrays/a/0" in found["task/a"].repair
    assert "run again" in found["key/arrays/a/0"].repair
    assert all(each.severity is FindingSeverity.NOTICE for each in found.values())
    stage.delete(f"{stage.keys.prefix}arrays/a/0")
    assert step(leader) == ["a-i0-1"]
    assert i15(stage) == []


def test_blocks_of_no_array_are_told_until_the_leader_has_deleted_them(
    stage: Stage, leader: StagedReplica
) -> None:
    stage.put(f"{stage.keys.prefix}arrays/gone/3", Block.of_fates("x", [SUCCEEDED]).encode(Op("another")))
    assert i15(stage) == ["key/arrays/gone/3 tells of members of an array gone that is gone"]
    step(leader)
    assert records(stage, "arrays") == []


def test_blocks_of_an_array_whose_spec_cannot_be_read_stay(stage: Stage, leader: StagedReplica) -> None:
    """To a leader that has never read it, the array is not gone, or its members would run again."""
    stage.submit("a", array={"size": 5})
    step(leader)
    end(leader, "a-i0-1")
    spec = stage.value(stage.keys.task("a"))
    stage.put(stage.keys.task("a"), b"rubbish")
    under_way = [observation((f"a-i{index}", 1), Phase.RUNNING) for index in (1, 2, 3, 4)]
    stage.elect()
    after = stage.leader(*under_way)
    step(after)
    assert records(stage, "arrays") == ["a/0"]
    assert i15(stage) == []
    stage.put(stage.keys.task("a"), spec)
    assert step(after) == []
    assert end(after, *(f"a-i{index}-1" for index in (1, 2, 3, 4))) == []
    assert stage.state("a") == "Succeeded"


def test_a_hold_of_a_member_is_that_of_its_arrays_spec(stage: Stage, leader: StagedReplica) -> None:
    stage.submit("a", array={"size": 1})
    step(leader)
    write_status(stage, "a-i0", hold=Vector({"cpu": 3000}))
    (found,) = [each for each in check_model(stage.model()) if each.subject == "task/a-i0"]
    assert found.invariant == "I1"
    assert found.what.endswith("it should hold cpu 1")


def test_an_overwritten_spec_proves_nothing(stage: Stage, leader: StagedReplica) -> None:
    stage.submit("a", array={"size": 2})
    step(leader)
    end(leader, "a-i0-1", "a-i1-1")
    spec = stage.value(stage.keys.task("a"))
    stage.put(stage.keys.task("a"), spec.replace(b'"size":2', b'"size":3'))
    assert i15(stage) == []


@pytest.mark.parametrize("array", [None, {"size": 1}, {"gang": True, "size": 2}])
def test_a_spec_that_is_replaced_while_a_member_begins(
    stage: Stage, leader: StagedReplica, array: dict[str, object] | None
) -> None:
    """A reload brings both at once, the member first."""
    stage.submit("a", array={"size": 2})
    follower = stage.replica()
    follower.sync()
    step(leader)
    stage.submit("a", **({"array": array} if array else {}))
    follower.sync()
    assert (follower.model.tasks["a-i1"].spec is None) == (array != {"gang": True, "size": 2})
