"""What a task waits for, over real HTTP: the graph, verdicts, and questions that are refused."""

from __future__ import annotations

import httpx
import pytest

from controller.core.model.after import Dependency
from controller.core.model.lifecycle import State
from tests.endpoint.model_view import ModelView
from tests.endpoint.test_answers import assert_problem


def _chain(view: ModelView) -> None:
    view.submit("a")
    view.submit("b", after=(Dependency(task="a"),))
    view.submit("c", after=(Dependency(task="b"),))


def test_the_graph_around_a_task(http: httpx.Client, view: ModelView) -> None:
    """All fields of nodes and edges; direction, depth and limit."""
    _chain(view)
    view.set_state("a", State.SUCCEEDED, reason="Completed", finished_at=950.0)
    told = http.get("/v1/tasks/b/neighbours").json()
    assert told == {
        "id": "b",
        "nodes": [
            {
                "id": "b",
                "exists": True,
                "state": "Created",
                "pool": "default",
                "owner": "default",
                "reason": "",
                "waits_for": 0,
            },
            {
                "id": "a",
                "exists": True,
                "state": "Succeeded",
                "pool": "default",
                "owner": "default",
                "reason": "Completed",
                "waits_for": 0,
            },
            {
                "id": "c",
                "exists": True,
                "state": "Created",
                "pool": "default",
                "owner": "default",
                "reason": "WaitsForTasks",
                "waits_for": 1,
            },
        ],
        "edges": [
            {"from": "a", "to": "b", "when": "succeeded", "verdict": "met", "index": "all"},
            {"from": "b", "to": "c", "when": "succeeded", "verdict": "unfinished", "index": "all"},
        ],
        "truncated": False,
        "deeper": False,
        "hidden": 0,
        "member": "",
    }
    up = http.get("/v1/tasks/c/neighbours?direction=up&depth=1").json()
    assert ([node["id"] for node in up["nodes"]], up["deeper"]) == (["c", "b"], True)
    assert http.get("/v1/tasks/b/neighbours?limit=2").json()["truncated"]


def test_a_task_tells_for_how_many_it_waits(http: httpx.Client, view: ModelView) -> None:
    """In a list the number; of one task also each parent."""
    _chain(view)
    listed = {task["id"]: task for task in http.get("/v1/tasks").json()["items"]}
    assert [listed[name]["waits_for"] for name in "abc"] == [0, 1, 1]
    told = http.get("/v1/tasks/c").json()
    assert told["after"] == [
        {"task": "b", "when": "succeeded", "verdict": "unfinished", "state": "Created", "index": "all"}
    ]
    assert (told["waits_for"], told["reason"]) == (1, "WaitsForTasks")


@pytest.mark.parametrize("query", ["direction=left", "depth=0", "depth=11", "limit=0", "limit=2001"])
def test_a_wrong_question_is_named(http: httpx.Client, view: ModelView, query: str) -> None:
    view.submit("a")
    assert_problem(http.get(f"/v1/tasks/a/neighbours?{query}"), 400, query.partition("=")[0])


def test_no_such_task(http: httpx.Client) -> None:
    assert "no task 'nobody'" in str(assert_problem(http.get("/v1/tasks/nobody/neighbours"), 404)["detail"])
