"""How far an array has come, its members, and what lists show of them, in all three phases of a member."""

from __future__ import annotations

from typing import Any

import pytest

from controller.client.views import task_view
from controller.core.model.arrays import Ranges
from controller.core.model.lifecycle import State
from controller.core.model.requests import RequestKind
from controller.core.model.task import Phase
from controller.views.arrays import (
    FIRST_FAILED,
    ArrayProgress,
    MemberPage,
    MemberView,
    members_of,
    parse_member_states,
    progress_of,
)
from controller.views.overview import next_admission
from controller.views.pools import pool_facts
from controller.views.tasks import find_task, matching, tasks_by_state
from tests.support.bench import Stage, StagedReplica, observation


def step(leader: StagedReplica) -> None:
    leader.sync()
    leader.acknowledge(leader.run())


def end(leader: StagedReplica, *members: int, failed: bool = False, attempt: int = 1) -> None:
    for index in members:
        phase = Phase.FAILED if failed else Phase.SUCCEEDED
        leader.see(observation((f"a-i{index}", attempt), phase, exit_code=3 if failed else 0))
    step(leader)


def progress(stage: Stage, name: str = "a") -> ArrayProgress:
    found = progress_of(stage.model().tasks[name])
    assert found is not None
    assert sum(found.by_state().values()) + found.unreadable == found.size
    return found


def page(stage: Stage, **wanted: Any) -> MemberPage:
    found = members_of(stage.model(), "a", **wanted)
    assert found is not None
    return found


def indexes(stage: Stage, **wanted: Any) -> list[int]:
    return [member.index for member in page(stage, **wanted).items]


def listed(stage: Stage, **wanted: Any) -> list[str]:
    given = {"ids": None, "pool": None, "states": None, "terms": ()} | wanted
    return [task.id for task in matching(stage.model(), **given)]


def test_progress_counts_each_member_once(stage: Stage, leader: StagedReplica) -> None:
    stage.submit("a", array={"size": 3000})
    assert progress(stage) == ArrayProgress(size=3000, waiting=3000)
    step(leader)
    assert progress(stage) == ArrayProgress(size=3000, waiting=2996, pending=4)
    leader.run_to("a-i2", Phase.RUNNING)
    end(leader, 0)
    end(leader, 1, failed=True)
    stage.request("a", RequestKind.CANCEL, members="2000-2009")
    step(leader)
    assert progress(stage) == ArrayProgress(
        size=3000,
        waiting=2984,
        pending=3,
        running=1,
        succeeded=1,
        failed=1,
        cancelled=10,
        first_failed=(1,),
    )


def test_members_in_back_off_and_the_first_failed(stage: Stage, leader: StagedReplica) -> None:
    stage.pool(capacity={"cpu": 8})
    stage.submit("a", array={"size": 9}, retry={"max_attempts": 2})
    step(leader)
    end(leader, *range(8), failed=True)
    assert progress(stage) == ArrayProgress(size=9, pending=1, retrying=8)
    assert find_task(stage.model(), "a").state is State.RUNNING  # type: ignore[union-attr]
    stage.clock.move(60)
    step(leader)
    end(leader, 0, 2, 3, 4, 5, 6, failed=True, attempt=2)
    found = progress(stage)
    assert (found.failed, found.first_failed) == (6, (0, 2, 3, 4, 5))
    assert len(found.first_failed) == FIRST_FAILED


def test_an_array_is_shown_running_while_a_member_is_under_way(stage: Stage, leader: StagedReplica) -> None:
    stage.submit("a", array={"size": 5})
    stage.submit("b", resources={"cpu": 4})
    assert stage.state("a") == "Created"
    assert tasks_by_state(stage.model())[State.CREATED] == 2
    step(leader)
    assert stage.state("a") == "Created"
    assert listed(stage, states={State.RUNNING}) == ["a"]
    assert listed(stage) == ["a", "b"]
    counts = tasks_by_state(stage.model())
    assert {state: count for state, count in counts.items() if count} == {State.CREATED: 1, State.RUNNING: 1}
    assert pool_facts(stage.model(), "default").tasks == {State.CREATED: 1, State.RUNNING: 1}
    end(leader, 0, 1, 2, 3)
    end(leader, 4)
    assert listed(stage, states={State.SUCCEEDED}) == ["a"]


def test_a_page_of_members(stage: Stage, leader: StagedReplica) -> None:
    stage.submit("a", array={"size": 2500})
    step(leader)
    end(leader, 0)
    end(leader, 1, failed=True)
    stage.request("a", RequestKind.CANCEL, members="1020-1030,2499")
    step(leader)
    assert page(stage, limit=3) == (
        [
            MemberView(index=0, name="a-i0", state="Succeeded", attempts=1, exit_code=0),
            MemberView(index=1, name="a-i1", state="Failed", attempts=1, exit_code=3, reason="Failed"),
            MemberView(index=2, name="a-i2", state="Pending", attempts=1),
        ],
        3,
    )
    assert page(stage, offset=1031, limit=1) == (
        [MemberView(index=1031, name="a-i1031", state="Waiting")],
        1032,
    )
    cancelled = page(stage, states={"Cancelled"}, limit=10)
    assert [each.index for each in cancelled.items] == list(range(1020, 1030))
    assert cancelled.next_offset == 1030
    assert indexes(stage, states={"Cancelled"}, offset=1030) == [1030, 2499]
    assert indexes(stage, states={"Pending", "Failed", "Succeeded"}) == [0, 1, 2, 3, 4, 5]
    assert indexes(stage, states={"Waiting"}, ranges=Ranges.parse("0-8,1029-1032,2498-9999")) == [
        6, 7, 8, 1031, 1032, 2498,
    ]  # fmt: skip
    assert indexes(stage, offset=2500) == []
    assert members_of(stage.model(), "nobody") is None


def test_a_member_is_found_by_its_name_in_each_phase(stage: Stage, leader: StagedReplica) -> None:
    stage.submit("a", array={"size": 9}, labels={"x": "y"}, owner="me", env={"A": "b"})
    view = task_view(stage.model(), "a-i0")
    assert view is not None
    assert (view.state, view.status, view.owner, view.member_of) == (State.CREATED, None, "me", "a")
    assert view.spec is not None
    assert view.spec.env["TALLY_ARRAY_INDEX"] == "0"
    assert view.create_revision > 0
    step(leader)
    view = task_view(stage.model(), "a-i0")
    assert view is not None
    assert (view.state, view.attempt, view.member_of) == (State.PENDING, 1, "a")
    end(leader, 0, failed=True)
    assert "a-i0" not in stage.model().tasks
    view = task_view(stage.model(), "a-i0")
    assert view is not None
    assert (view.state, view.attempt, view.finished, view.reason) == (State.FAILED, 1, True, "Failed")
    assert view.status is not None
    assert view.status.exit_code == 3
    assert task_view(stage.model(), "a-i9") is None
    assert task_view(stage.model(), "a-i09") is None


def test_a_member_that_is_to_run_again_has_its_attempts(stage: Stage, leader: StagedReplica) -> None:
    stage.submit("a", array={"size": 2})
    step(leader)
    end(leader, 0, 1, failed=True)
    stage.pool(paused=True, capacity={"cpu": 4})
    stage.request("a", RequestKind.RETRY)
    step(leader)
    view = task_view(stage.model(), "a-i0")
    assert view is not None
    assert (view.state, view.attempt) == (State.WAITING_RETRY, 1)
    assert page(stage).items[0] == MemberView(index=0, name="a-i0", state="Waiting", attempts=1)


def test_what_never_began_is_cancelled_with_its_array(stage: Stage, leader: StagedReplica) -> None:
    stage.submit("a", array={"size": 10}, resources={"cpu": 9})
    stage.request("a", RequestKind.CANCEL)
    step(leader)
    assert stage.state("a") == "Cancelled"
    assert progress(stage) == ArrayProgress(size=10, cancelled=10)
    assert {each.state for each in page(stage).items} == {"Cancelled"}
    assert indexes(stage, states={"Waiting"}) == []
    assert indexes(stage, states={"Cancelled"}, limit=2) == [0, 1]
    view = task_view(stage.model(), "a-i3")
    assert view is not None
    assert (view.state, view.finished) == (State.CANCELLED, True)


def test_members_that_cannot_be_read_are_told(stage: Stage, leader: StagedReplica) -> None:
    stage.submit("a", array={"size": 2000})
    step(leader)
    stage.put(f"{stage.keys.prefix}arrays/a/1", b"garbage")
    assert progress(stage) == ArrayProgress(size=2000, waiting=1020, pending=4, unreadable=976)
    assert page(stage, offset=1023, limit=2).items[1].state == "Unreadable"
    assert indexes(stage, states={"Waiting"}, offset=1023) == [1023]
    assert indexes(stage, states={"Unreadable"}, limit=1) == [1024]
    assert find_task(stage.model(), "a-i1024").state is None  # type: ignore[union-attr]


def test_what_is_left_of_an_array_that_is_gone_is_listed(stage: Stage, leader: StagedReplica) -> None:
    stage.submit("a", array={"size": 2})
    step(leader)
    assert listed(stage) == ["a"]
    stage.delete(stage.keys.task("a"))
    assert listed(stage) == ["a-i0", "a-i1"]


def test_states_of_members() -> None:
    assert parse_member_states("failed, waiting-retry") == {"Failed", "WaitingRetry"}
    assert parse_member_states("holding") == {"Pending", "Running"}
    with pytest.raises(ValueError, match="is not a state of a member: use one or more of Waiting, Pending"):
        parse_member_states("created")


def next_of(stage: Stage) -> str:
    return next_admission(stage.model(), "default", stage.clock.now())


def test_the_next_admission_is_that_of_a_member(stage: Stage, leader: StagedReplica) -> None:
    """As long as one may begin. What is behind an array of which none may is next itself."""
    stage.submit("a-i0")
    stage.submit("a", array={"size": 9, "max_running": 2}, resources={}, priority=1)
    assert next_of(stage) == "a-i1", "the name of member 0 is taken"
    step(leader)
    assert next_of(stage) == ""
    stage.submit("b", resources={})
    assert next_of(stage) == "b"
    leader.see(observation(("a-i1", 1), Phase.SUCCEEDED))
    leader.commit(leader.planner.plan(stage.clock.now()))
    assert next_of(stage) == "a-i3"


@pytest.mark.parametrize("kind", [RequestKind.CANCEL, RequestKind.RETRY])
def test_no_member_is_next_while_a_request_is_under_way(stage: Stage, kind: RequestKind) -> None:
    stage.submit("a", array={"size": 9})
    assert next_of(stage) == "a-i0"
    stage.request("a", kind)
    assert next_of(stage) == ""


def test_no_member_is_next_once_one_has_failed(stage: Stage, leader: StagedReplica) -> None:
    stage.submit("a", array={"size": 9, "max_running": 2, "fail_fast": True}, resources={})
    step(leader)
    leader.see(observation(("a-i0", 1), Phase.FAILED))
    leader.commit(leader.planner.plan(stage.clock.now()))
    assert next_of(stage) == ""
