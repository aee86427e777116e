"""The order and completeness of what pages are made of, whatever happens to the model in between."""

from __future__ import annotations

import random

import pytest

from controller.core.lifecycle import State
from controller.status import index
from controller.status.index import TaskIndex, is_listed
from tests.status.model_view import ModelView, status_value


def expected(view: ModelView, after: str, pool: str | None, states: frozenset[State] | None, search: str, limit: int) -> list[str]:
    """By looking at every task."""
    found = [
        task.id
        for task in view.world.tasks.values()
        if task.id > after
        and search in task.id
        and is_listed(task)
        and (pool is None or task.pool == pool)
        and (states is None or ("states" not in task.frozen and task.state in states))
    ]
    return sorted(found)[:limit]


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
        view.submit(name, pool=pool)
    else:
        view.write(("states", (name,), status_value(drawn.choice(list(State)), pool=pool)))


@pytest.mark.parametrize("forgotten", [3, 10_000])
@pytest.mark.parametrize("seed", range(5))
def test_what_is_found_is_what_looking_at_every_task_finds(seed: int, forgotten: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when so much has changed that all is looked at anew, when the model was loaded again, and piece by piece."""
    monkeypatch.setattr(index, "FORGOTTEN", forgotten)
    monkeypatch.setattr(index, "SCAN", 7)
    drawn, view = random.Random(seed), ModelView()
    tasks = TaskIndex(view.reading)
    view.subscribe(tasks)
    for _ in range(150):
        for _ in range(drawn.randrange(60 if drawn.random() < 0.1 else 6)):
            change(view, drawn)
        if drawn.random() < 0.05:
            tasks.reloaded(view.world.revision)
        wanted = (
            drawn.choice(["", "a15", "b", "zz"]),
            drawn.choice([None, "default", "other", "none"]),
            drawn.choice([None, frozenset([State.RUNNING]), frozenset([State.CREATED, State.SUCCEEDED])]),
            drawn.choice(["", "", "1", "nothing"]),
            drawn.choice([1, 5, 1000]),
        )
        assert tasks.ids(*wanted) == expected(view, *wanted), f"seed {seed}: {wanted}"


def test_nothing_is_noted_while_nobody_asks() -> None:
    """A replica whose pages nobody reads pays nothing for them, before the first one and after the last."""
    view = ModelView()
    tasks = TaskIndex(view.reading)
    view.subscribe(tasks)
    view.submit("a")
    assert tasks._changed is None
    assert tasks.ids("", None, None, "", 10) == ["a"]
    view.submit("b")
    assert list(tasks._changed or ()) == ["b"]
    for n in range(index.FORGOTTEN):
        view.submit(f"t{n}")
    assert tasks._changed is None
    assert tasks.ids("", None, None, "", 2) == ["a", "b"]
