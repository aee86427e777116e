"""What is advised after the end of an array helps, and each reader names the same state of it."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest

from controller.client.views import task_view
from controller.core.model.lifecycle import State
from controller.core.model.requests import RequestKind
from controller.core.model.task import Phase
from controller.core.planning.arrays import refusal
from controller.views.dependencies import neighbours
from controller.views.explain import explain
from controller.views.schedules import live_tasks
from controller.views.tasks import find_task, tasks_by_state
from tests.scenarios.test_arrays import end, step
from tests.support.bench import Stage, StagedReplica, observation


@pytest.fixture
def stage() -> Stage:
    stage = Stage()
    stage.pool(capacity={"cpu": 20})
    return stage


def why(stage: Stage, name: str) -> str:
    return explain(stage.model(), name, stage.clock.now())


@pytest.mark.parametrize("failed", [1, 2])
def test_who_was_skipped_in_part_is_not_retried_in_vain(
    stage: Stage, leader: StagedReplica, failed: int
) -> None:
    """A retry skips again those that were not needed: what is advised runs at least one member."""
    stage.submit("a", array={"size": 4})
    stage.submit("b", array={"size": 4}, after=[{"task": "a", "when": "failed", "index": "same"}])
    step(leader)
    end(leader, *(f"a-i{index}-1" for index in range(failed)), phase=Phase.FAILED)
    end(leader, *(f"a-i{index}-1" for index in range(failed, 4)))
    end(leader, "b-i0-1")
    if failed == 1:
        assert stage.state("b") == "Cancelled"
        assert why(stage, "b").endswith("; 3 members were not needed, and a retry would skip them again.")
        return
    end(leader, "b-i1-1", phase=Phase.FAILED)
    assert "`tally retry b` runs the failed members again, and skips again the 2 that were not needed" in why(
        stage, "b"
    )
    stage.request("b", RequestKind.RETRY)
    assert step(leader) == ["b-i1-2"]


def test_what_failed_after_it_is_run_with_downstream(stage: Stage, leader: StagedReplica) -> None:
    stage.submit("cut", array={"size": 3})
    stage.submit("render", array={"size": 3}, after=[{"task": "cut", "index": "same"}])
    stage.submit("film", after=["cut"])
    step(leader)
    end(leader, "cut-i0-1", "cut-i2-1")
    end(leader, "render-i0-1", "render-i2-1")
    end(leader, "cut-i1-1", phase=Phase.FAILED)
    advice = "`tally retry --downstream cut` also runs what never ran because of it: 2 tasks (film, render)"
    assert why(stage, "cut").endswith(
        f"`tally retry cut` runs the failed members again before that; {advice}."
    )
    assert why(stage, "cut-i1").endswith(f"`tally retry 'cut[1]'` runs it again; {advice}.")
    for name in ("render", "render-i1", "film"):
        told = why(stage, name)
        assert "`tally retry --downstream cut` runs what did not succeed of cut again, and then it" in told
        assert "also runs" not in told
    hidden = explain(stage.model(), "cut", stage.clock.now(), lambda task: task.id == "cut")
    assert "downstream" not in hidden


@pytest.mark.parametrize("failed", [(4,), (4, 6)])
def test_under_fail_fast_a_retry_of_one_is_advised_where_it_helps(
    stage: Stage, leader: StagedReplica, failed: tuple[int, ...]
) -> None:
    stage.pool(capacity={"cpu": 7})
    stage.submit("ff", array={"size": 8, "fail_fast": True})
    step(leader)
    for index in range(7):
        phase, code = (Phase.FAILED, 1) if index in failed else (Phase.SUCCEEDED, 0)
        leader.see(observation((f"ff-i{index}", 1), phase, exit_code=code))
    step(leader)
    assert stage.state("ff") == "Failed"
    advised = "`tally retry 'ff[4]'` runs it again" in why(stage, "ff-i4")
    assert advised == (len(failed) == 1)
    assert advised != ("nothing of it runs while another one has failed (fail_fast)" in why(stage, "ff-i4"))
    stage.request("ff", RequestKind.RETRY, members="4")
    task = stage.model().tasks["ff"]
    assert task.array is not None
    assert advised == (not refusal(task, task.array, task.requests[RequestKind.RETRY][0]))
    assert "(fail_fast): `tally retry ff`" in why(stage, "ff-i7")


def test_an_array_is_running_from_its_first_attempt_to_its_end(stage: Stage, leader: StagedReplica) -> None:
    """In each list, and in what is told of it elsewhere; also while none of its members is under way."""
    stage.submit("a", array={"size": 4, "max_running": 1}, labels={"tally.dev/schedule": "s"})
    stage.submit("b", array={"size": 4}, after=[{"task": "a", "index": "same"}])
    seen = []

    def note() -> None:
        model = stage.model()
        facts, view, around = find_task(model, "a"), task_view(model, "a"), neighbours(model, "a")
        assert facts is not None
        assert view is not None
        assert around is not None
        [node] = [node for node in around.nodes if node.id == "a"]
        assert facts.state == view.state == node.state
        counts = Counter(found.state for name in "ab" if (found := find_task(model, name)) is not None)
        assert +Counter(tasks_by_state(model)) == counts
        if facts.state not in (State.SUCCEEDED, State.FAILED):
            assert live_tasks(model, "s", ["a"]) == ("a",)
            assert f"of a ({facts.state})" in explain(model, "b-i3", stage.clock.now())
        seen.append(facts.state)

    note()
    step(leader)
    for index in range(4):
        note()
        stage.pool(capacity={"cpu": 20}, paused=True)
        end(leader, f"a-i{index}-1")
        note()
        stage.pool(capacity={"cpu": 20})
        step(leader)
    note()
    assert [after for before, after in pairwise(seen) if before is not after] == ["Running", "Succeeded"]


def test_a_failed_array_tells_the_reasons(stage: Stage, leader: StagedReplica) -> None:
    stage.submit("a", array={"size": 9})
    stage.submit("b", array={"size": 9}, after=[{"task": "a", "index": "same"}])
    step(leader)
    for index, reason in ((1, "CommandNotFound"), (2, "CommandNotFound"), (4, "OutOfMemory"), (5, "")):
        leader.see(observation((f"a-i{index}", 1), Phase.FAILED, exit_code=1, reason=reason))
    end(leader, *(f"a-i{index}-1" for index in (0, 3, 6, 7, 8)))
    told = "4 of 9 members failed: 2 CommandNotFound: 1, 2; 1 OutOfMemory: 4; 1 Failed: 5"
    assert told in why(stage, "a")
    assert stage.status("a").message == told
