"""Retrying a task with what waits for it: who is asked for, and in which order."""

from __future__ import annotations

import random

import pytest

from controller.client import Client, NotFound, downstream
from controller.client.downstream import Downstream
from controller.client.views import TaskView
from controller.core.model.after import Dependency
from controller.core.model.lifecycle import State
from controller.core.model.task import Spec
from controller.errors import UserError
from tests.client.conftest import PutStatus


def view(name: str, state: State, *after: str, reason: str = "") -> TaskView:
    spec = Spec(id=name, command=("true",), after=tuple(Dependency(task=each) for each in after))
    return TaskView(id=name, pool="default", state=state, reason=reason, spec=spec)


def groups(root: str, *views: TaskView, also: tuple[str, ...] = ()) -> list[list[str]]:
    known = {each.id: each for each in views}
    several = Downstream(lambda: list(views), known.__getitem__, None)  # type: ignore[arg-type]
    found = several.retryable(root, *also)
    return [[each.id for each in group] for group in found]


F, S, C, P = State.FAILED, State.SUCCEEDED, State.CANCELLED, State.PENDING


def test_each_is_behind_all_that_it_waits_for() -> None:
    """Not only behind the one by which it was found."""
    found = groups(
        "a",
        view("c", F, "a", "d"),
        view("a", F),
        view("b", F, "a"),
        view("d", C, "b", reason="Skipped"),
        view("e", F, "other"),
    )
    assert found == [["a"], ["b"], ["d"], ["c"]]


def test_who_is_asked_for() -> None:
    """What did not come to its end, also behind what has; not what waits for a task that a user cancelled."""
    views = (
        view("b", S, "a"),
        view("behind-b", F, "b"),
        view("c", C, "a", reason="Cancelled"),
        view("behind-c", F, "c"),
        view("d", P, "a"),
        view("behind-d", F, "d"),
        view("both", F, "c", "d"),
    )
    assert groups("a", view("a", F), *views) == [["a"], ["behind-b", "behind-d", "both"]]
    for state in (S, P, State.RUNNING):
        assert groups("a", view("a", state), *views) == [["behind-b", "behind-d", "both"]]
    assert groups("a", view("a", C, reason="Cancelled"), view("b", S, "a")) == [["a"]]


def test_several_tasks_come_before_what_waits_for_each() -> None:
    """Also where one of them is behind another one, whatever the order in which they are named."""
    views = (view("a", F), view("b", F), view("both", F, "a", "b"), view("last", F, "both"))
    assert groups("a", *views, also=("b",)) == [["a", "b"], ["both"], ["last"]]
    assert groups("last", *views, also=("a", "b")) == [["a", "b"], ["both"], ["last"]]


def test_a_view_that_was_just_read_is_not_read_again() -> None:
    a, b = view("a", F), view("b", F, "a")

    def read(name: str) -> TaskView:
        raise AssertionError(f"{name} was read again")

    found = Downstream(lambda: [a, b], read, None).retryable(a)  # type: ignore[arg-type]
    assert [[each.id for each in group] for group in found] == [["a"], ["b"]]


def test_a_circle_that_was_written_by_hand_ends() -> None:
    found = groups("a", view("a", F, "c"), view("b", F, "a", "c"), view("c", F, "b"), view("d", F, "a"))
    assert [sorted(group) for group in found] == [["a"], ["d"], ["b", "c"]]


def test_any_graph() -> None:
    for seed in range(50):
        rng = random.Random(seed)
        names = [f"t{n:02}" for n in range(30)]
        views = [view(n, F, *rng.sample(names[:i], min(i, rng.randrange(4)))) for i, n in enumerate(names)]
        rng.shuffle(views)
        place = {name: i for i, group in enumerate(groups("t00", *views)) for name in group}
        for each in views:
            assert each.spec is not None
            parents = [dependency.task for dependency in each.spec.after]
            assert each.id == "t00" or (each.id in place) == any(name in place for name in parents)
            assert all(place[name] < place[each.id] for name in parents if name in place and each.id in place)


def test_there_is_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downstream, "MOST_DOWNSTREAM", 3)
    views = [view("a", F), *(view(f"b{n}", F, "a") for n in range(4))]
    with pytest.raises(UserError, match="4 tasks that wait for a would be retried, but at most 3 can be"):
        groups("a", *views)
    assert len(groups("a", *views[:-1])[1]) == 3


def test_nothing_else_is_asked_for_if_the_task_itself_cannot_be_retried(
    client: Client, put_status: PutStatus
) -> None:
    """What waits for it would end as before."""
    client.submit_many([{"id": name, "command": ["x"]} for name in ("a", "b")])
    put_status("a", State.FAILED)
    put_status("b", State.FAILED)
    failed = [[client.get("a")], [client.get("b")]]
    put_status("a", State.SUCCEEDED)
    asked = client.downstream.retry("a", groups=failed)
    assert [each.task.id for each in asked] == ["a"]
    assert isinstance(asked[0].result, UserError)
    assert client.get("b").requests == ()
    with pytest.raises(NotFound):
        client.downstream.retry("none")
