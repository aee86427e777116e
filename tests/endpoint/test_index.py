"""The order and completeness of what pages are made of, whatever happens to the model in between."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from controller.core.model import codec
from controller.core.model.after import Dependency
from controller.core.model.arrays import ArraySpec
from controller.core.model.lifecycle import State
from controller.core.model.model import Model
from controller.core.model.op import Op
from controller.core.model.records import Task, is_listed
from controller.core.model.task import Spec
from controller.endpoint import index
from controller.endpoint.index import TaskIndex
from controller.endpoint.order import SORTS, By, Sort, SortKey
from controller.views.tasks import pool_of, task_facts
from tests.endpoint.model_view import ModelView, status_value

KEYS: dict[By, Callable[[Model, Task], float | str]] = {
    By.SUBMITTED: lambda model, task: task_facts(model, task).submitted_at,
    By.OWNER: lambda model, task: task_facts(model, task).owner,
    By.ATTEMPT: lambda model, task: task_facts(model, task).attempt,
    By.REASON: lambda model, task: task_facts(model, task).reason,
}
"""What is shown of a task in that column."""


def expected(
    view: ModelView,
    sort: Sort,
    after: SortKey | None,
    pool: str | None,
    states: frozenset[State] | None,
    search: str,
    limit: int,
) -> list[SortKey]:
    """By looking at every task, and sorting all that are found."""
    found = [
        SortKey(sort.section(pool_of(task), None if "states" in task.frozen else task.state), entry)
        for task in view.model.tasks.values()
        for entry in [(KEYS[sort.by](view.model, task) if sort.by in KEYS else 0.0, task.id)]
        if search in task.id
        and is_listed(task)
        and (pool is None or pool_of(task) == pool)
        and (states is None or ("states" not in task.frozen and task.state in states))
    ]
    turned = sort.descending and sort.by not in (By.POOL, By.STATE)
    found.sort(key=lambda position: position.entry, reverse=turned)
    found.sort(key=lambda position: position.section, reverse=sort.descending)
    if after is None:
        return found[:limit]
    all_places = [*found, after] if after not in found else found
    all_places.sort(key=lambda position: position.entry, reverse=turned)
    all_places.sort(key=lambda position: position.section, reverse=sort.descending)
    return all_places[all_places.index(after) + 1 :][:limit]


def change(view: ModelView, drawn: random.Random) -> None:
    """One revision: a task appears, moves, is damaged, is asked something, or goes."""
    name = f"{drawn.choice('abc')}{drawn.randrange(30):02}"
    pool, kind = drawn.choice(["default", "other"]), drawn.randrange(7)
    if kind == 0:
        view.write(("tasks", (name,), None), ("states", (name,), None))
    elif kind == 1:
        view.write((drawn.choice(["tasks", "states"]), (name,), b"garbage"))
    elif kind == 2:
        view.write(("requests", (name, "cancel"), drawn.choice([b'{"kind":"cancel"}', None])))
    elif kind == 3:
        parents = [f"{drawn.choice('abc')}{drawn.randrange(30):02}"] if drawn.random() < 0.3 else []
        after = tuple(Dependency(task=parent) for parent in parents if parent != name)
        owner = drawn.choice(["default", "film", "vision"])
        view.submit(name, pool=pool, at=float(drawn.randrange(900, 920)), owner=owner, after=after)
    else:
        state, reason = drawn.choice(list(State)), drawn.choice(["", "Error", "Completed"])
        fields = {"owner": drawn.choice(["default", "vision"]), "attempt": drawn.randrange(1, 4)}
        fields["on_hold"] = drawn.random() < 0.2
        view.write(("states", (name,), status_value(state, pool=pool, reason=reason, **fields)))


@pytest.mark.parametrize("forgotten", [3, 10_000])
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("sort", SORTS.values(), ids=str)
def test_what_is_found_is_what_looking_at_every_task_finds(
    sort: Sort, seed: int, forgotten: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when so much has changed that all is looked at anew, when the model was loaded again, and piece
    by piece.
    """
    monkeypatch.setattr(index, "FORGOTTEN", forgotten)
    monkeypatch.setattr(index, "SCAN", 7)
    drawn, view = random.Random(seed), ModelView()
    tasks = TaskIndex(view.reading, sort.by)
    view.subscribe(tasks)
    after: SortKey | None = None
    for _ in range(60):
        for _ in range(drawn.randrange(60 if drawn.random() < 0.1 else 6)):
            change(view, drawn)
        if drawn.random() < 0.05:  # a load brings what no change had told
            told, view.listeners = view.listeners, []
            change(view, drawn)
            view.listeners = told
            tasks.reloaded(view.model.revision)
        wanted = (
            sort,
            after if drawn.random() < 0.7 else None,
            drawn.choice([None, "default", "other", "none"]),
            drawn.choice([None, frozenset([State.RUNNING]), frozenset([State.CREATED, State.SUCCEEDED])]),
            drawn.choice(["", "", "1", "nothing"]),
            drawn.choice([1, 5, 1000]),
        )
        found = tasks.find(*wanted)
        assert found == expected(view, *wanted), f"seed {seed}: {wanted}"
        # which may be gone, or stand elsewhere, when it is asked for
        after = drawn.choice(found) if found else None


def test_nothing_is_noted_while_nobody_asks() -> None:
    """A replica whose pages nobody reads pays nothing for them, before the first one and after the last."""
    view = ModelView()
    tasks = TaskIndex(view.reading)
    view.subscribe(tasks)
    view.submit("a")
    assert tasks._changed is None
    assert names(tasks, 10) == ["a"]
    view.submit("b")
    assert list(tasks._changed or ()) == ["b"]
    for n in range(index.FORGOTTEN):
        view.submit(f"t{n}")
    assert tasks._changed is None
    assert names(tasks, 2) == ["a", "b"]


def names(tasks: TaskIndex, limit: int) -> list[str]:
    return [position.task_id for position in tasks.find(Sort(), None, None, None, "", limit)]


def test_an_array_stands_for_its_members() -> None:
    """It is Running while one is under way; what is left of it without its spec is listed by itself."""
    view = ModelView()
    tasks = TaskIndex(view.reading)
    view.subscribe(tasks)

    def listed(*states: State) -> list[str]:
        found = tasks.find(Sort(), None, None, frozenset(states) or None, "", 10)
        return [place.task_id for place in found]

    spec = Spec(id="a", command=("true",), array=ArraySpec(size=9))
    view.write(("tasks", ("a",), codec.encode_spec(spec, 1.0, Op("op"))))
    assert listed(State.CREATED) == ["a"]
    member = status_value(State.RUNNING, array="a", index=3)
    view.write(("states", ("a-i3",), member))
    assert (listed(), listed(State.RUNNING), listed(State.CREATED)) == (["a"], ["a"], [])
    view.write(("tasks", ("a",), None))
    assert listed() == ["a-i3"]
    view.write(("tasks", ("a",), codec.encode_spec(spec, 1.0, Op("op"))))
    assert listed() == ["a"]
    view.write(("states", ("a-i3",), None))
    assert listed(State.CREATED) == ["a"]
