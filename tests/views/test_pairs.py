"""A member of an array is told what it waits for, and what is around it, in every phase."""

from __future__ import annotations

import pytest

from controller.client.views import task_view
from controller.core.model.task import Phase
from controller.views.dependencies import neighbours, parents_of
from controller.views.tasks import find_task
from tests.scenarios.test_arrays import end, step
from tests.support.bench import Stage, StagedReplica


@pytest.fixture
def stage() -> Stage:
    """An array that waits for a task, and in pairs for another array; a task and an array wait for it."""
    stage = Stage()
    stage.pool()
    stage.submit("load")
    stage.submit("a", array={"size": 3})
    stage.submit("b", array={"size": 3}, after=[{"task": "a", "index": "same"}, "load"])
    stage.submit("c", array={"size": 3}, after=[{"task": "b", "index": "same", "when": "finished"}])
    stage.submit("last", after=["b"])
    return stage


def waits(stage: Stage, name: str) -> list[tuple[str, str, str | None]]:
    return [(each.task, each.verdict, each.state) for each in parents_of(stage.model(), name)]


def number(stage: Stage, name: str) -> int:
    """For how many it waits, as all views tell."""
    facts, view = find_task(stage.model(), name), task_view(stage.model(), name)
    assert facts is not None
    assert view is not None
    assert facts.waits_for == view.waits_for
    return facts.waits_for


def test_a_member_waits_for_that_of_its_index(stage: Stage, leader: StagedReplica) -> None:
    assert waits(stage, "b-i1") == [("a-i1", "unfinished", "Pending"), ("load", "unfinished", "Pending")]
    assert number(stage, "b-i1") == 2
    end(leader, "a-i1-1", "load-1")
    assert waits(stage, "b-i0") == [("a-i0", "unfinished", "Pending"), ("load", "met", "Succeeded")]
    assert number(stage, "b-i0") == 1
    assert waits(stage, "b-i1") == [("a-i1", "met", "Succeeded"), ("load", "met", "Succeeded")]
    assert number(stage, "b-i1") == 0
    end(leader, "a-i2-1", phase=Phase.FAILED)
    assert waits(stage, "b-i2")[0] == ("a-i2", "unmet", "Failed")
    assert waits(stage, "c-i2") == [("b-i2", "unfinished", "Created")]
    end(leader, "a-i0-1", "b-i1-1")
    assert waits(stage, "b-i1")[0] == ("a-i1", "met", "Succeeded")
    assert waits(stage, "b-i2")[0] == ("a-i2", "unmet", "Failed")
    stage.delete(stage.keys.task("a"))
    step(leader)
    assert waits(stage, "b-i0")[0] == ("a-i0", "", None)
    assert waits(stage, "b-i2")[0] == ("a-i2", "unknown", None)


def test_around_a_member_is_what_is_around_its_array(stage: Stage, leader: StagedReplica) -> None:
    end(leader, "a-i1-1", "load-1")
    whole = neighbours(stage.model(), "b")
    assert whole is not None
    assert {node.id for node in whole.nodes} == {"b", "a", "load", "c", "last"}
    for name in ("b-i0", "b-i1"):
        found = neighbours(stage.model(), name)
        assert found is not None
        assert (found.id, found.member) == ("b", name)
        assert (found.nodes, found.edges) == (whole.nodes, whole.edges)
    assert neighbours(stage.model(), "b-i3") is None
    assert neighbours(stage.model(), "b-i0", sees=lambda task: task.id != "b") is None


def test_states_of_others_are_not_told(stage: Stage, leader: StagedReplica) -> None:
    (parent, _) = parents_of(stage.model(), "b-i1", lambda task: task.id != "a")
    assert (parent.task, parent.state) == ("a-i1", None)


def test_a_task_that_has_the_name_of_a_member_is_itself(stage: Stage) -> None:
    stage.submit("b-i1", after=["load"])
    assert waits(stage, "b-i1") == [("load", "unfinished", "Created")]
    found = neighbours(stage.model(), "b-i1")
    assert found is not None
    assert (found.id, found.member) == ("b-i1", "")
