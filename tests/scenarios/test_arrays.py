"""An array: its members begin, end and are folded, and what users ask of them."""

from __future__ import annotations

from collections import Counter

import pytest

from controller.core.model import blocks, codec
from controller.core.model.arrays import MemberName
from controller.core.model.blocks import LENGTH, Fate, MemberOutcome
from controller.core.model.op import Op
from controller.core.model.requests import RequestKind
from controller.core.model.task import Phase
from controller.core.model.validation import parse_spec
from controller.core.planning.plan import Start
from tests.support.bench import Stage, StagedReplica, observation, starts, stops


def step(leader: StagedReplica) -> list[str]:
    """What is started now; what is stopped is stopped."""
    leader.sync()
    started = starts(effects := leader.run())
    leader.acknowledge(effects)
    leader.stage.check()
    return started


def end(leader: StagedReplica, *attempts: str, phase: Phase = Phase.SUCCEEDED) -> list[str]:
    """These attempts end; returns what is started then."""
    code = 0 if phase is Phase.SUCCEEDED else 1
    for name in attempts:
        task_id, _, number = name.rpartition("-")
        leader.see(observation((task_id, int(number)), phase, exit_code=code))
    return step(leader)


def outcomes(stage: Stage, name: str = "a") -> dict[str, int]:
    """How many members have ended, by outcome."""
    array = stage.model().arrays.of(name)
    assert array is not None
    return {outcome.value: count for outcome, count in array.counts.items() if count}


def records(stage: Stage, kind: str) -> list[str]:
    """The keys of this kind."""
    prefix = f"{stage.keys.prefix}{kind}/"
    return [item.key.removeprefix(prefix) for item in stage.store.load(prefix, deadline=float("inf")).items]


@pytest.fixture
def leader(stage: Stage) -> StagedReplica:
    return stage.leader()


def test_members_begin_as_the_pool_has_room_end_and_are_folded(stage: Stage, leader: StagedReplica) -> None:
    stage.submit("a", array={"size": 6})
    assert step(leader) == ["a-i0-1", "a-i1-1", "a-i2-1", "a-i3-1"]
    assert stage.held() == {"cpu": "4"}
    assert end(leader, "a-i1-1", "a-i3-1") == ["a-i4-1", "a-i5-1"]
    assert records(stage, "states") == ["a-i0", "a-i2", "a-i4", "a-i5"]
    assert outcomes(stage) == {"succeeded": 2}
    assert end(leader, "a-i0-1", "a-i2-1", "a-i4-1", "a-i5-1") == []
    assert stage.state("a") == "Succeeded"
    assert records(stage, "states") == ["a"]
    assert records(stage, "arrays") == ["a/0"]
    assert stage.held() == {}


def test_a_member_knows_itself(stage: Stage, leader: StagedReplica) -> None:
    stage.submit("a", array={"size": 3}, env={"MINE": "$(TALLY_ARRAY_INDEX)"})
    leader.sync()
    started = [effect for effect in leader.run() if isinstance(effect, Start)]
    known = [effect.launch.environment for effect in started]
    assert [env["TALLY_ARRAY_INDEX"] for env in known] == ["0", "1", "2"]
    assert {env["TALLY_ARRAY_SIZE"] for env in known} == {"3"}
    assert [env["JOB_COMPLETION_INDEX"] for env in known] == ["0", "1", "2"]
    assert [env["TALLY_TASK_ID"] for env in known] == ["a-i0", "a-i1", "a-i2"]
    assert list(known[0]).index("MINE") > list(known[0]).index("TALLY_ARRAY_INDEX")


def test_as_many_run_as_may(stage: Stage, leader: StagedReplica) -> None:
    stage.pool(capacity={"cpu": 100})
    stage.submit("a", array={"size": 5, "max_running": 2}, resources={})
    stage.submit("b")
    assert step(leader) == ["a-i0-1", "a-i1-1", "b-1"]
    assert end(leader, "a-i1-1") == ["a-i2-1"]
    assert end(leader, "a-i0-1", "a-i2-1") == ["a-i3-1", "a-i4-1"]


def test_a_member_that_is_retried_keeps_its_room(stage: Stage, leader: StagedReplica) -> None:
    stage.pool(capacity={"cpu": 100})
    retry = {"max_attempts": 2, "backoff_seconds": 10}
    stage.submit("a", array={"size": 3, "max_running": 2}, resources={}, retry=retry)
    assert step(leader) == ["a-i0-1", "a-i1-1"]
    assert end(leader, "a-i0-1", phase=Phase.FAILED) == []
    stage.clock.move(15)
    assert step(leader) == ["a-i0-2"]
    assert end(leader, "a-i0-2", phase=Phase.FAILED) == ["a-i2-1"]


def test_a_member_is_retried_as_the_policy_says(stage: Stage, leader: StagedReplica) -> None:
    stage.submit("a", array={"size": 2}, retry={"max_attempts": 2, "backoff_seconds": 10})
    assert step(leader) == ["a-i0-1", "a-i1-1"]
    assert end(leader, "a-i0-1", phase=Phase.FAILED) == []
    stage.clock.move(15)
    assert step(leader) == ["a-i0-2"]
    assert end(leader, "a-i0-2", "a-i1-1", phase=Phase.FAILED) == []
    stage.clock.move(15)
    assert step(leader) == ["a-i1-2"]
    assert end(leader, "a-i1-2") == []
    assert stage.state("a") == "Failed"
    status = stage.status("a")
    assert (status.reason, status.message) == ("MembersFailed", "1 of 2 members failed: 0")


def test_failed_members_are_retried_and_their_attempts_counted_on(
    stage: Stage, leader: StagedReplica
) -> None:
    stage.submit("a", array={"size": 4})
    step(leader)
    end(leader, "a-i0-1", "a-i2-1")
    end(leader, "a-i1-1", "a-i3-1", phase=Phase.FAILED)
    assert stage.state("a") == "Failed"
    stage.request("a", RequestKind.RETRY)
    assert step(leader) == ["a-i1-2", "a-i3-2"]
    assert stage.state("a") == "WaitingRetry"
    end(leader, "a-i1-2")
    end(leader, "a-i3-2", phase=Phase.FAILED)
    stage.request("a", RequestKind.RETRY, members="3", only_failed=True)
    assert step(leader) == ["a-i3-3"]
    end(leader, "a-i3-3")
    assert stage.state("a") == "Succeeded"


@pytest.mark.parametrize("fail_fast", [False, True])
@pytest.mark.parametrize("members", ["7", "0"])
def test_a_retry_that_is_half_carried_out_is_replaced_by_one_that_would_be_refused(
    stage: Stage, leader: StagedReplica, members: str, fail_fast: bool
) -> None:
    """By hand, since the client waits. No member is left to wait for ever in an array that has ended."""
    stage.submit("a", array={"size": 2, "fail_fast": fail_fast})
    step(leader)
    end(leader, "a-i0-1", "a-i1-1", phase=Phase.FAILED)
    assert stage.state("a") == "Failed"
    stage.request("a", RequestKind.RETRY, members="" if fail_fast else "1")
    leader.sync()
    leader.reconciler.step()
    assert (stage.state("a"), outcomes(stage).get("failed", 0)) == ("Failed", 0 if fail_fast else 1)
    stage.request("a", RequestKind.RETRY, members=members)
    began = step(leader)
    assert began == (["a-i0-2", "a-i1-2"] if fail_fast or members == "0" else ["a-i1-2"])
    end(leader, *began)
    assert stage.state("a") == ("Succeeded" if len(began) == 2 else "Failed")
    stage.check()


def test_a_part_is_cancelled_and_the_rest_goes_on(stage: Stage, leader: StagedReplica) -> None:
    stage.submit("a", array={"size": 9})
    step(leader)
    stage.request("a", RequestKind.CANCEL, members="2-6")
    leader.sync()
    effects = leader.run()
    assert stops(effects) == ["a-i2-1", "a-i3-1"]
    assert records(stage, "requests") == []
    leader.acknowledge(effects)
    assert end(leader, "a-i2-1", "a-i3-1", phase=Phase.FAILED) == ["a-i7-1", "a-i8-1"]
    assert outcomes(stage) == {"cancelled": 5}
    end(leader, "a-i0-1", "a-i1-1", "a-i7-1", "a-i8-1")
    assert stage.state("a") == "Cancelled"
    stage.request("a", RequestKind.RETRY, members="4")
    assert step(leader) == ["a-i4-1"]
    end(leader, "a-i4-1")
    assert outcomes(stage) == {"cancelled": 4, "succeeded": 5}


def test_the_whole_is_cancelled(stage: Stage, leader: StagedReplica) -> None:
    stage.submit("a", array={"size": 3 * LENGTH})
    step(leader)
    stage.request("a", RequestKind.CANCEL)
    leader.sync()
    effects = leader.run()
    assert len(stops(effects)) == 4
    leader.acknowledge(effects)
    assert end(leader, *(f"a-i{n}-1" for n in range(4)), phase=Phase.FAILED) == []
    assert stage.state("a") == "Cancelled"
    assert outcomes(stage) == {"cancelled": 3 * LENGTH}


def test_an_array_that_has_not_begun_is_cancelled_at_once(stage: Stage, leader: StagedReplica) -> None:
    stage.submit("a", array={"size": 10}, resources={"cpu": 4})
    stage.submit("b", array={"size": 10})
    step(leader)
    stage.request("b", RequestKind.CANCEL)
    step(leader)
    assert stage.state("b") == "Cancelled"
    assert records(stage, "arrays") == []
    stage.request("b", RequestKind.RETRY, members="3")
    step(leader)
    assert stage.state("b") == "Cancelled"
    assert b"retry the whole" in bytes(stage.status("b").history[-1])


def test_fail_fast(stage: Stage, leader: StagedReplica) -> None:
    stage.submit("a", array={"size": 1000, "fail_fast": True})
    step(leader)
    end(leader, "a-i0-1")
    leader.see(observation(("a-i1", 1), Phase.FAILED, exit_code=3))
    leader.sync()
    effects = leader.run()
    assert sorted(stops(effects)) == ["a-i2-1", "a-i3-1", "a-i4-1"]
    leader.acknowledge(effects)
    end(leader, "a-i2-1", "a-i3-1", "a-i4-1", phase=Phase.FAILED)
    assert stage.state("a") == "Failed"
    assert outcomes(stage) == {"succeeded": 1, "failed": 1, "cancelled": 998}
    stage.request("a", RequestKind.RETRY, members="5")
    step(leader)
    assert stage.state("a") == "Failed"
    stage.request("a", RequestKind.RETRY)
    assert step(leader) == ["a-i1-2", "a-i2-2", "a-i3-2", "a-i4-2"]


def test_each_taken_name_is_skipped_and_told(stage: Stage, leader: StagedReplica) -> None:
    stage.submit("a-i1", resources={"cpu": 4})
    assert step(leader) == ["a-i1-1"]
    stage.submit("a", array={"size": 3})
    step(leader)
    assert end(leader, "a-i1-1") == ["a-i0-1", "a-i2-1"]
    end(leader, "a-i0-1", "a-i2-1")
    assert stage.state("a") == "Failed"
    array = stage.model().arrays.of("a")
    assert array is not None
    assert array.fate(1) == Fate(MemberOutcome.FAILED, 0, None, "NameTaken")


def test_a_task_of_a_members_name_waits_until_the_member_has_ended(
    stage: Stage, leader: StagedReplica
) -> None:
    stage.submit("a", array={"size": 1})
    assert step(leader) == ["a-i0-1"]
    stage.submit("a-i0", command=["other"])
    assert step(leader) == []
    assert end(leader, "a-i0-1") == ["a-i0-2"]
    assert stage.state("a") == "Succeeded"
    end(leader, "a-i0-2")
    assert stage.state("a-i0") == "Succeeded"


def test_a_deleted_spec_stops_the_members(stage: Stage, leader: StagedReplica) -> None:
    stage.submit("a", array={"size": 9})
    step(leader)
    end(leader, "a-i0-1", "a-i1-1")
    stage.delete(stage.keys.task("a"))
    leader.sync()
    effects = leader.run()
    assert len(stops(effects)) == 4
    leader.acknowledge(effects)
    end(leader, *(f"a-i{n}-1" for n in range(2, 6)), phase=Phase.FAILED)
    assert [records(stage, kind) for kind in ("states", "arrays", "tasks")] == [[], [], []]


def test_it_is_removed_with_its_blocks(stage: Stage, leader: StagedReplica) -> None:
    stage.submit("a", array={"size": 4}, retention_seconds=60)
    step(leader)
    end(leader, *(f"a-i{n}-1" for n in range(4)))
    stage.clock.move(60)
    step(leader)
    assert [records(stage, kind) for kind in ("states", "arrays", "tasks")] == [[], [], []]


def test_a_later_array_of_the_name_begins_anew(stage: Stage, leader: StagedReplica) -> None:
    stage.submit("a", array={"size": 2})
    step(leader)
    end(leader, "a-i0-1", "a-i1-1")
    stage.delete(stage.keys.task("a"))
    stage.delete(stage.keys.state("a"))
    block = blocks.decode_block(stage.value(f"{stage.keys.prefix}arrays/a/0"))
    assert block.counts == Counter({MemberOutcome.SUCCEEDED: 2})
    stage.put(stage.keys.task("a"), stage_spec(stage, "a", 2))
    assert step(leader) == ["a-i0-2", "a-i1-2"]


def stage_spec(stage: Stage, name: str, size: int) -> bytes:
    """A spec of an array, as another client would write it."""
    spec = parse_spec({"id": name, "command": ["true"], "resources": {"cpu": 1}, "array": {"size": size}})
    return codec.encode_spec(spec, stage.clock.now(), Op("another"))


def test_a_new_leader_goes_on_after_each_step(stage: Stage) -> None:
    """A leader is replaced after each of its commits: each member begins once, and ends once."""
    stage.submit("a", array={"size": 12})
    begun = Counter[str]()
    seen = dict[str, Phase]()  # what the engine has of it
    for _ in range(100):
        leader = stage.leader(*(observation(_attempt(name), phase) for name, phase in seen.items()))
        leader.reconciler.step()
        leader.reconciler.step()
        stage.check()
        for name in starts(leader.effects):
            begun[name] += name not in seen
            seen.setdefault(name, Phase.RUNNING)
        running = [name for name, phase in seen.items() if phase is Phase.RUNNING]
        if running:
            seen[running[0]] = Phase.SUCCEEDED
        stage.elect()
        if stage.state("a") == "Succeeded":
            break
    assert stage.state("a") == "Succeeded"
    assert begun == Counter(f"a-i{n}-1" for n in range(12))


def _attempt(name: str) -> tuple[str, int]:
    task_id, _, number = name.rpartition("-")
    return task_id, int(number)


def test_priorities_and_holds(stage: Stage, leader: StagedReplica) -> None:
    stage.submit("z", resources={"cpu": 4})
    step(leader)
    stage.submit("a", array={"size": 2})
    stage.submit("b", resources={"cpu": 4})
    stage.change("a", on_hold=True)
    step(leader)
    assert end(leader, "z-1") == ["b-1"]
    stage.change("a", on_hold=False, priority=5)
    step(leader)
    assert end(leader, "b-1") == ["a-i0-1", "a-i1-1"]
    assert stage.status("a-i0").priority == 5


def test_members_are_named_by_their_arrays() -> None:
    assert str(MemberName("a", 7)) == "a-i7"
    assert MemberName.parse("a-i7") == MemberName("a", 7)
    assert MemberName.parse("a-i07") is None
    assert MemberName.parse("a-i7-i8") == MemberName("a-i7", 8)
    assert MemberName.parse("a") is None


def test_members_draw_on_the_pool_in_which_their_array_waits(stage: Stage, leader: StagedReplica) -> None:
    """Somebody puts another spec in its place, which names another pool: that one may have no room."""
    stage.pool("other", capacity={"cpu": 1})
    stage.submit("z", resources={"cpu": 4})
    step(leader)
    stage.submit("a", array={"size": 3})
    stage.change("a", priority=1)
    step(leader)
    stage.submit("a", array={"size": 3}, pool="other")
    assert end(leader, "z-1") == ["a-i0-1", "a-i1-1", "a-i2-1"]
    assert stage.held() == {"cpu": "3"}
    assert stage.held("other") == {}


def test_nothing_is_said_of_a_member_whose_status_cannot_be_read(stage: Stage) -> None:
    leader = stage.leader()
    stage.submit("a", array={"size": 3})
    step(leader)
    status = stage.value(stage.keys.state("a-i1"))
    stage.put(stage.keys.state("a-i1"), b"{")
    stage.elect()
    running = [observation((f"a-i{n}", 1), Phase.RUNNING) for n in range(3)]
    leader = stage.leader(*running)
    stage.request("a", RequestKind.CANCEL)
    leader.sync()
    effects = leader.run()
    assert stops(effects) == ["a-i0-1", "a-i2-1"]
    leader.acknowledge(effects)
    leader.see(*(observation((f"a-i{n}", 1), Phase.FAILED) for n in (0, 2)))
    leader.run()
    assert stage.state("a") == "Created", "a member may be under way"
    assert outcomes(stage) == {"cancelled": 2}
    stage.put(stage.keys.state("a-i1"), status)
    leader.sync()
    leader.see(observation(("a-i1", 1), Phase.SUCCEEDED))
    leader.run()
    assert stage.state("a") == "Cancelled"
    assert outcomes(stage) == {"cancelled": 2, "succeeded": 1}


def test_a_refused_array_fails_and_a_retry_is_refused_anew(stage: Stage, leader: StagedReplica) -> None:
    """The retry and the refusal do not undo each other, for ever."""
    stage.submit("a", array={"size": 6})
    step(leader)
    stage.pool(require_attested=True)
    end(leader, *(f"a-i{n}-1" for n in range(4)))
    assert stage.state("a") == "Failed"
    assert outcomes(stage) == {"succeeded": 4, "failed": 2}
    stage.request("a", RequestKind.RETRY)
    step(leader)
    assert stage.state("a") == "Failed"
    assert records(stage, "requests") == []


def test_a_hidden_member_has_begun(stage: Stage) -> None:
    """Its status cannot be read: the array does not count as one that has never begun."""
    leader = stage.leader()
    stage.submit("a", array={"size": 1})
    step(leader)
    stage.put(stage.keys.state("a-i0"), b"{")
    stage.elect()
    leader = stage.leader(observation(("a-i0", 1), Phase.RUNNING))
    stage.request("a", RequestKind.CANCEL)
    leader.sync()
    leader.run()
    assert stage.state("a") == "Created"


def test_a_request_on_members_of_a_plain_task_is_ignored_alone(stage: Stage, leader: StagedReplica) -> None:
    stage.submit("z", resources={"cpu": 4})
    stage.submit("a")
    step(leader)
    stage.request("a", RequestKind.CANCEL, members="3")
    stage.change("a", on_hold=True)
    step(leader)
    assert records(stage, "requests") == []
    assert stage.status("a").on_hold


def test_a_taken_name_of_a_member_that_was_cancelled_is_not_told(stage: Stage, leader: StagedReplica) -> None:
    """The leader notes that the name is taken, and before it writes that down, the cancel is carried out."""
    stage.submit("a-i0")
    stage.submit("a", array={"size": 2})
    leader.sync()
    leader.planner.plan(stage.clock.now())
    assert leader.planner.mending.folding._taken == {"a": {0: None}}
    stage.request("a", RequestKind.CANCEL, members="0")
    step(leader)
    array = stage.model().arrays.of("a")
    assert array is not None
    assert array.fate(0).outcome is MemberOutcome.CANCELLED


def test_a_beginning_rests_on_the_spec_of_the_array(stage: Stage, leader: StagedReplica) -> None:
    """A member has no spec of its own: none begins once that of its array has changed or is gone."""
    stage.submit("a", array={"size": 2})
    leader.sync()
    plan = leader.planner.plan(stage.clock.now())
    assert [change.task_id for change in plan.changes] == ["a-i0", "a-i1"]
    assert ("tasks", ("a",), leader.model.tasks["a"].spec_mod) in plan.compared
    stage.delete(stage.keys.task("a"))
    with pytest.raises(AssertionError):
        leader.commit(plan)


@pytest.mark.parametrize("how", ["spec", "block", "newer block", "aside"])
def test_an_array_that_cannot_be_folded_delays_no_other(how: str) -> None:
    """Its ended members keep no others from being folded; they are, once it can be read."""
    stage = Stage()
    stage.pool(capacity={"cpu": 2000})
    stage.turn_on_all()
    stage.submit("big", array={"size": 400})
    stage.submit("small", array={"size": 3})
    stage.submit("after", after=["small"])
    leader = stage.leader()
    leader.acknowledge(leader.run())
    key = stage.keys.task("big") if how == "spec" else f"{stage.keys.prefix}arrays/big/0"
    before = stage.value(key) if how == "spec" else None
    if how == "aside":
        leader.planner.set_aside("big", "folding", ValueError("a bug"), stage.clock.now())
    else:
        stage.put(key, b'{"members": [], "version": 2}' if how == "newer block" else b"{")
    leader.sync()
    leader.see(*(observation((f"big-i{index}", 1), Phase.SUCCEEDED) for index in range(400)))
    leader.run()
    leader.see(*(observation((f"small-i{index}", 1), Phase.SUCCEEDED) for index in range(3)))
    leader.run()
    assert (stage.state("small"), stage.state("after"), stage.state("big")) == (
        "Succeeded",
        "Pending",
        "Created",
    )
    assert not leader.planner.mending.is_due(stage.clock.now()) or how == "aside"
    stage.elect()
    following = stage.leader()
    following.run()
    if how == "aside":
        stage.delete(stage.keys.quarantined("big"))
    elif before is None:
        stage.delete(key)
    else:
        stage.put(key, before)
    following.sync()
    following.run()
    assert stage.state("big") == "Succeeded"
