"""`explain` says what a task waits for, what becomes of it, and why a task is kept for others."""

from __future__ import annotations

from typing import Any

from controller.core.model.lifecycle import State
from controller.core.model.requests import RequestKind
from controller.views.explain import explain
from tests.views.test_explain import NOW, Scene


def _ended(scene: Scene, name: str, state: State, **fields: Any) -> Scene:
    return scene.task(name).status(name, state, attempt=1, finished_at=NOW - 10, **fields)


def test_it_waits_for_some_of_its_parents() -> None:
    """How many of how many, each with its state; the first are named, and the others counted."""
    scene = _ended(Scene(), "a", State.SUCCEEDED).task("b").status("b", State.RUNNING, attempt=1).task("c")
    scene.task("next", after=["a", "b", "c"])
    assert scene("next") == "next waits for 2 of 3 tasks to end: b (Running), c (Created)."
    names = [f"p{n}" for n in range(5)]
    for name in names:
        scene.task(name)
    scene.task("many", after=names)
    assert (
        scene("many") == "many waits for 5 tasks to end: p0 (Created), p1 (Created), p2 (Created) and 2 more."
    )


def test_the_last_end_opens_the_gate() -> None:
    """Then it is in the queue like any other, and nothing is said of its parents."""
    scene = Scene().task("a").task("next", after=["a"])
    assert "waits for 1 task to end: a (Created)" in scene("next")
    scene.status("a", State.SUCCEEDED, attempt=1, finished_at=NOW)
    assert "next is next in pool p and fits" in scene("next")


def test_one_has_failed_and_another_has_not_ended() -> None:
    """What it will be is told, and what changes that."""
    scene = _ended(Scene(), "a", State.FAILED).task("b").task("next", after=["a", "b"])
    assert (
        scene("next")
        == "next waits for 1 of 2 tasks to end: b (Created); but a is Failed, so it will be Failed"
        " (DependencyFailed) once all have ended, unless a is retried: `tally retry a`."
    )
    scene.request("a", RequestKind.RETRY)
    assert scene("next") == "next waits for 2 tasks to end: b (Created), a (Failed)."


def test_one_that_was_to_run_after_a_failure() -> None:
    """A success cannot be retried, so no command is told."""
    scene = _ended(Scene(), "a", State.SUCCEEDED).task("b")
    scene.task("alarm", after=[{"task": "a", "when": "failed"}, {"task": "b", "when": "finished"}])
    assert (
        scene("alarm")
        == "alarm waits for 1 of 2 tasks to end: b (Created); but a is Succeeded, so it will be Cancelled"
        " (Skipped) once all have ended."
    )


def test_it_never_runs() -> None:
    """Of a gate that is decided: why, and what the leader makes of it."""
    scene = _ended(Scene(), "a", State.FAILED).task("next", after=["a"]).task("lone", after=["nobody"])
    assert (
        scene("next") == "next never runs, since it was to run after the success of a, which is Failed:"
        " the leader is about to mark it Failed."
    )
    assert (
        scene("lone")
        == "lone never runs, since it waits for nobody: there is no such task that is older than"
        " this one: the leader is about to mark it Failed."
    )


def test_on_hold_and_paused_besides() -> None:
    """All that keeps it is told."""
    scene = Scene(paused=True).task("a").task("next", after=["a"])
    assert (
        scene("next")
        == "next waits for 1 task to end: a (Created); besides, its pool p is paused: to resume it,"
        " run `tally resume p`."
    )
    scene.status("next", State.WAITING_RETRY, on_hold=True, gated=True)
    assert "; besides, it waits for 1 task to end: a (Created); besides, its pool" in scene("next")


def test_a_task_is_kept_for_others() -> None:
    """Before its retention has passed, and after."""
    scene = _ended(Scene(), "a", State.SUCCEEDED).task("b")
    scene.task("x", after=["a", "b"]).task("y", after=["a", "b"])
    assert "it will be removed in 23h59m, or later, since 2 tasks (x, y) wait for it" in scene("a")
    late = scene("a", NOW + 90_000)
    assert "its retention has passed, and it is kept, since 2 tasks (x, y) wait for it." in late
    scene.status("x", State.RUNNING, attempt=1).status("y", State.RUNNING, attempt=1)
    assert "its retention has passed, and it is about to be removed" in scene("a", NOW + 90_000)
    scene.put("awaits", ("a", "z"), b"{}")
    told = scene("a", NOW + 90_000)
    assert "it is kept, since a task that waits for it is being submitted, or was refused" in told


def test_a_failed_dependency_is_retried_from_where_it_failed() -> None:
    """To retry the task alone would not help: its parent is still Failed."""
    scene = _ended(Scene(), "a", State.FAILED).task("next", after=["a"])
    scene.status("next", State.FAILED, finished_at=NOW, reason="DependencyFailed", message="it was to run")
    assert scene("next").endswith("and `tally retry --downstream a` runs a again, and then it, before that.")
    alone = _ended(Scene(), "solo", State.FAILED)("solo")
    assert alone.endswith("and `tally retry solo` runs it again before that.")


def _refused(scene: Scene, name: str, *after: Any, reason: str = "DependencyFailed") -> Scene:
    state = State.CANCELLED if reason == "Skipped" else State.FAILED
    return scene.task(name, after=list(after)).status(name, state, finished_at=NOW, reason=reason)


def test_the_causes_are_named_and_not_the_nearest() -> None:
    """Those that failed by themselves, over any number of steps; five by name, and the others counted."""
    scene = _ended(_ended(Scene(), "x", State.FAILED), "y", State.CANCELLED)
    _refused(_refused(_refused(scene, "b", "x"), "c", "b", "y"), "d", "c", "b")
    assert scene("d").endswith(
        "and `tally retry --downstream y x` runs them again, and then it, before that."
    )
    scene.task("slow").task("waits", after=["slow", "b"])
    assert scene("waits").endswith("once all have ended, unless x is retried: `tally retry --downstream x`.")
    names = [f"r{n}" for n in range(7)]
    for name in names:
        _ended(scene, name, State.FAILED)
    _refused(_refused(scene, "many", *names), "after-many", "many")
    assert "`tally retry --downstream r0 r1 r2 r3 r4` (and 2 more) runs them again" in scene("after-many")


def test_the_look_for_causes_has_a_limit() -> None:
    """Beyond it, the task where it ended is named."""
    scene = _ended(Scene(), "t0", State.FAILED)
    for n in range(1, 1002):
        _refused(scene, f"t{n}", f"t{n - 1}")
    assert "`tally retry --downstream t0` runs t0 again" in scene("t1000")
    assert "; `tally explain t1` tells what failed first." in scene("t1001")


def test_no_retry_is_advised_that_cannot_help() -> None:
    """Of a task that was skipped, of one whose parent does not exist, and of those behind them."""
    scene = _ended(Scene(), "ok", State.SUCCEEDED)
    _refused(scene, "alarm", {"task": "ok", "when": "failed"}, reason="Skipped")
    _refused(scene, "lone", "nobody", reason="DependencyUnknown")
    _refused(_refused(scene, "page", "alarm"), "more", "page")
    _refused(scene, "on-lone", "lone")
    told = {name: scene(name) for name in ("alarm", "lone", "page", "more", "on-lone")}
    assert told["alarm"].endswith("; it is not needed unless ok fails.")
    assert told["lone"].endswith("; submit it under another name, after tasks that exist.")
    assert told["page"].endswith("; a retry would not help, since alarm is Cancelled (Skipped).")
    assert told["more"].endswith("; a retry would not help, since alarm is Cancelled (Skipped).")
    assert told["on-lone"].endswith("; a retry would not help, since lone is Failed (DependencyUnknown).")
    assert not any("tally retry" in words for words in told.values())
    _ended(scene, "ok", State.FAILED)
    assert "`tally retry alarm` runs it again" in scene("alarm")


def test_nothing_is_told_of_a_hidden_parent() -> None:
    """Neither its state nor a command for it, whether the task has ended or waits; nor of one further up."""
    scene = _ended(Scene(), "theirs", State.FAILED)
    scene.task("slow").task("waits", after=["theirs", "slow"])
    _refused(_refused(scene, "mine", "theirs"), "behind", "mine")

    def told(name: str) -> str:
        return explain(scene.model, name, NOW, lambda task: task.id != "theirs")

    assert told("mine").endswith("; a retry would not help before theirs has ended as it wants.")
    assert told("behind").endswith(
        "; a retry would not help before a task of another owner has ended as it wants."
    )
    assert "theirs is not as it wants (theirs is of another owner), so it will be Failed" in told("waits")
    assert not any("tally retry" in told(name) for name in ("mine", "behind", "waits"))
