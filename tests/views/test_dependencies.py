"""What a task waits for, and its neighbourhood, as all readers show them."""

from __future__ import annotations

from itertools import count
from typing import Any

import pytest

from controller.client.views import task_view
from controller.core.model.lifecycle import State
from controller.core.model.records import Task
from controller.core.model.requests import ON_HOLD
from controller.views.dependencies import (
    Direction,
    NeighboursView,
    ParentVerdict,
    neighbours,
    parents_of,
)
from controller.views.tasks import WAITS_FOR_TASKS, find_task
from tests.views.test_explain import NOW, Scene


def _end(scene: Scene, name: str, state: State) -> Scene:
    return scene.status(name, state, attempt=1, finished_at=NOW)


def _diamond() -> Scene:
    """D after b and c, which are after a; and e after d."""
    scene = Scene().task("a").task("b", after=["a"]).task("c", after=["a"])
    return scene.task("d", after=["b", {"task": "c", "when": "finished"}]).task("e", after=["d"])


def _look(scene: Scene, name: str, **wanted: Any) -> NeighboursView:
    found = neighbours(scene.model, name, **wanted)
    assert found is not None
    return found


def _names(found: NeighboursView) -> list[str]:
    return [node.id for node in found.nodes]


def _verdicts(scene: Scene, name: str) -> dict[str, ParentVerdict]:
    return {each.task: each.verdict for each in parents_of(scene.model, name)}


def test_each_verdict() -> None:
    """Met, unfinished, unmet and unknown; with the states as they are shown elsewhere."""
    scene = Scene()
    for name, state in (("good", State.SUCCEEDED), ("bad", State.FAILED), ("gone", State.CANCELLED)):
        _end(scene.task(name), name, state)
    scene.task("runs").status("runs", State.RUNNING, attempt=1)
    after = [
        "good",
        "bad",
        {"task": "gone", "when": "finished"},
        "runs",
        "nobody",
    ]
    scene.task("next", after=after)
    view = task_view(scene.model, "next")
    assert view is not None
    assert [(each.task, each.state, each.verdict) for each in view.after] == [
        ("good", State.SUCCEEDED, ParentVerdict.MET),
        ("bad", State.FAILED, ParentVerdict.UNMET),
        ("gone", State.CANCELLED, ParentVerdict.MET),
        ("runs", State.RUNNING, ParentVerdict.UNFINISHED),
        ("nobody", None, ParentVerdict.UNKNOWN),
    ]
    assert (view.waits_for, view.reason) == (1, WAITS_FOR_TASKS)


def test_a_younger_task_is_not_the_parent() -> None:
    """A task of the name that was submitted later is another one."""
    scene = Scene().task("next", after=["late"]).task("late")
    assert _verdicts(scene, "next") == {"late": ParentVerdict.UNKNOWN}


def test_a_task_that_has_begun_had_all_it_wanted() -> None:
    """Whatever has become of its parents since; a retry of a user asks for them again."""
    scene = _end(Scene().task("a").task("next", after=["a"]), "a", State.FAILED)
    scene.status("next", State.RUNNING, attempt=1)
    assert _verdicts(scene, "next") == {"a": ParentVerdict.PAST}
    scene.status("next", State.WAITING_RETRY, attempt=1, gated=True, reason="RetryRequested")
    assert _verdicts(scene, "next") == {"a": ParentVerdict.UNMET}
    facts = find_task(scene.model, "next")
    assert facts is not None
    assert (facts.reason, facts.waits_for) == ("RetryRequested", 0), "it is about to be refused"


def test_a_failure_that_was_mended_since_is_not_called_met() -> None:
    """The child that ran after the failure has an empty verdict; one whose parent is as it was has `met`."""
    when = [{"task": "a", "when": "failed"}, "b"]
    scene = _end(Scene().task("a").task("b").task("alarm", after=when), "a", State.FAILED)
    _end(_end(scene, "b", State.SUCCEEDED), "alarm", State.SUCCEEDED)
    assert _verdicts(scene, "alarm") == {"a": ParentVerdict.MET, "b": ParentVerdict.MET}
    _end(scene, "a", State.SUCCEEDED)
    assert _verdicts(scene, "alarm") == {"a": ParentVerdict.PAST, "b": ParentVerdict.MET}
    scene.status("alarm", State.FAILED, attempt=1, finished_at=NOW, reason="Skipped")
    assert _verdicts(scene, "alarm")["a"] is ParentVerdict.UNMET, "it was asked for again, and refused"


def test_a_task_that_never_ran_says_why() -> None:
    """It has ended, and has no gate: its parents are judged as they are now."""
    scene = _end(Scene().task("a").task("b").task("next", after=["a", "b", "x"]), "a", State.FAILED)
    _end(scene, "b", State.SUCCEEDED)
    scene.status("next", State.FAILED, finished_at=NOW, reason="DependencyFailed")
    assert _verdicts(scene, "next") == {
        "a": ParentVerdict.UNMET,
        "b": ParentVerdict.MET,
        "x": ParentVerdict.UNKNOWN,
    }
    view = task_view(scene.model, "next")
    assert view is not None
    assert (view.waits_for, view.reason) == (0, "DependencyFailed")


def test_a_view_of_the_task_alone_says_nothing_of_others() -> None:
    """A model that has no other tasks would call them all unknown."""
    view = task_view(Scene().task("next", after=["a"]).model, "next", alone=True)
    assert view is not None
    assert (view.after, view.waits_for, view.reason) == ((), 0, "")


def test_a_hold_comes_first() -> None:
    """A task that is on hold and waits for others: what a user must do comes first."""
    scene = Scene().task("a").task("next", after=["a"])
    scene.status("next", State.WAITING_RETRY, attempt=1, gated=True, on_hold=True)
    facts = find_task(scene.model, "next")
    assert facts is not None
    assert (facts.reason, facts.waits_for) == (ON_HOLD, 1)


def test_a_task_whose_status_cannot_be_read_waits_for_nothing() -> None:
    """Nothing is known of where it is."""
    scene = Scene().task("a").task("next", after=["a"]).put("states", ("next",), b"{")
    view = task_view(scene.model, "next")
    assert view is not None
    assert (view.state, view.waits_for, view.reason) == (None, 0, "")


def test_the_neighbourhood_of_a_task() -> None:
    """What it waits for and what waits for it, the nearest first; never what only shares a parent."""
    scene = _end(_diamond(), "a", State.SUCCEEDED)
    found = _look(scene, "d", depth=3)
    assert _names(found) == ["d", "b", "e", "c", "a"]
    edges = {(edge.from_, edge.to): edge.verdict for edge in found.edges}
    unfinished = ParentVerdict.UNFINISHED
    assert edges == {
        ("a", "b"): ParentVerdict.MET,
        ("a", "c"): ParentVerdict.MET,
        ("b", "d"): unfinished,
        ("c", "d"): unfinished,
        ("d", "e"): unfinished,
    }
    assert (found.truncated, found.deeper, found.hidden) == (False, False, 0)
    assert _names(_look(scene, "b", depth=9)) == ["b", "a", "d", "e"]
    assert found.nodes[-1].state is State.SUCCEEDED


@pytest.mark.parametrize(
    ("direction", "depth", "names", "deeper"),
    [
        (Direction.UP, 1, ["d", "b", "c"], True),
        (Direction.UP, 2, ["d", "b", "c", "a"], False),
        (Direction.DOWN, 1, ["d", "e"], False),
        (Direction.BOTH, 1, ["d", "b", "e", "c"], True),
    ],
)
def test_directions_and_depths(direction: Direction, depth: int, names: list[str], *, deeper: bool) -> None:
    found = _look(_diamond(), "d", direction=direction, depth=depth)
    assert (_names(found), found.deeper, found.truncated) == (names, deeper, False)


def test_the_nearest_are_kept_and_neither_side_takes_all() -> None:
    """Of many parents and many children, some of each."""
    parents = [f"p{n}" for n in range(50)]
    scene = Scene()
    for name in parents:
        scene.task(name)
    scene.task("hub", after=parents)
    for n in range(50):
        scene.task(f"c{n}", after=["hub"])
    found = _look(scene, "hub", limit=9)
    assert sorted(_names(found)) == ["c0", "c1", "c2", "c3", "hub", "p0", "p1", "p2", "p3"]
    assert found.truncated
    assert not _look(scene, "hub", limit=101).truncated


def test_edges_have_a_limit_too() -> None:
    """A thousand tasks that all wait for the same thousand are a million edges."""
    parents = [f"p{n}" for n in range(40)]
    scene = Scene()
    for name in parents:
        scene.task(name)
    for n in range(40):
        scene.task(f"c{n}", after=parents)
    found = _look(scene, "c0", limit=41)
    assert len(found.edges) == 40
    for n in range(40):
        scene.task(f"d{n}", after=["p0", *(f"c{m}" for m in range(40))])
    found = _look(scene, "d0", depth=3, limit=81)
    assert (len(found.nodes), len(found.edges), found.truncated) == (81, 810, True)


def test_tasks_that_may_not_be_seen_are_counted_alone() -> None:
    """Neither they nor what is behind them; their names only in the spec that names them."""
    scene = Scene().task("far").task("theirs", owner="nlp", after=["far"]).task("mine", after=["theirs"])
    scene.task("below", after=["mine"], owner="nlp").task("under", after=["below"])

    def sees(task: Task) -> bool:
        return task.owner != "nlp"

    found = _look(scene, "mine", depth=9, sees=sees)
    assert (_names(found), found.edges, found.hidden, found.truncated) == (["mine"], [], 2, False)
    assert neighbours(scene.model, "theirs", sees=sees) is None
    [parent] = parents_of(scene.model, "mine", sees)
    assert (parent.task, parent.state, parent.verdict) == ("theirs", None, ParentVerdict.UNFINISHED)


def test_one_that_is_only_named() -> None:
    """It is a node of which nothing is known."""
    scene = Scene().task("next", after=["nobody"])
    found = _look(scene, "next")
    assert [(node.id, node.exists) for node in found.nodes] == [("next", True), ("nobody", False)]
    assert [(edge.from_, edge.verdict) for edge in found.edges] == [("nobody", ParentVerdict.UNKNOWN)]
    assert neighbours(scene.model, "nobody") is None


def test_a_look_costs_what_it_returns() -> None:
    """However many children a task has: no more of them are looked at than are returned."""
    scene = Scene().task("hub")
    for n in range(2000):
        scene.task(f"c{n}", after=["hub"])
    looked = count()
    found = _look(scene, "hub", limit=10, sees=lambda _: next(looked) >= 0)
    assert (len(found.nodes), found.truncated) == (10, True)
    assert next(looked) <= 11
