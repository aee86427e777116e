"""Views travel: what a gateway sends of a view is the same view for who receives it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from controller.client.replica_views import replica_views
from controller.client.views import OwnerView, PoolView, TaskView, owner_view, pool_views, task_view
from controller.client.wire import pool_document, pool_of, task_document, task_of, view_of
from controller.core.model import codec
from controller.core.model.model import Model
from controller.views.pools import all_owners
from tests.simulation.simulation import Scenario, Simulation


def through(document: Any) -> Any:
    """What the other side reads: JSON, as every client has it."""
    return json.loads(json.dumps(document))


@pytest.fixture(scope="module", params=range(20, 32))
def model(request: pytest.FixtureRequest) -> Model:
    """What a simulated installation has come to: tasks in all states, with their histories."""
    simulation = Simulation(Scenario(request.param, sharing=True, steps=800))
    simulation.run()
    return simulation.oracle.model()


def test_each_view_comes_back_as_it_was(model: Model) -> None:
    """Tasks with spec, status and history; pools with their definitions; owners; replicas."""
    tasks = [view for task_id in model.tasks if (view := task_view(model, task_id)) is not None]
    assert tasks
    for task in tasks:
        again = task_of(through(task_document(task)))
        assert again == task
        assert again.history() == task.history()
    pools = pool_views(model, 0.0)
    assert [pool_of(through(pool_document(pool))) for pool in pools] == pools
    for owner in map(owner_view, all_owners(model, 1e9)):
        assert view_of(OwnerView, through(codec.to_builtins(owner))) == owner
    for replica in replica_views(model):
        assert view_of(type(replica), through(codec.to_builtins(replica))) == replica


def test_a_newer_gateway_may_say_more() -> None:
    """Fields that are not known are left out."""
    task = TaskView(id="a", pool="p", state=None)
    assert task_of({**through(task_document(task)), "colour": "red"}) == task
    pool = PoolView(name="p")
    assert pool_of({**through(pool_document(pool)), "colour": "red"}) == pool
