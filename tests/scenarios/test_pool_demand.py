"""A pool's demand: what waits and would be admitted at once, if the capacity had no bounds."""

from __future__ import annotations

import random
from typing import Any

import pytest

from controller.core.model import pool_demand as pool_demands
from controller.core.model.lifecycle import State
from controller.core.model.places import Place
from controller.core.model.pool_demand import pool_demand
from controller.core.model.queue import Queue
from controller.core.model.resources import Vector
from controller.core.model.task import Phase
from controller.views.pools import pool_facts
from tests.support.bench import Stage, observation


def demand(stage: Stage, pool: str = "default") -> dict[str, str]:
    """By a model that is loaded, and so as any reader sees it."""
    model = stage.model()
    model.advance(stage.clock.now())
    assert pool_facts(model, pool).demand == pool_demand(model, pool)
    return pool_demand(model, pool).format()


def test_all_that_waits_counts_however_little_the_pool_has(stage: Stage) -> None:
    stage.pool(capacity={"cpu": 1, "memory": "1Gi"})
    stage.submit("a")
    stage.leader().run()
    for name in ("b", "c"):
        stage.submit(name, resources={"cpu": "500m", "memory": "64Mi"})
    assert demand(stage) == {"cpu": "1", "memory": "128Mi"}


def test_what_nobody_could_admit_does_not_count(stage: Stage) -> None:
    """On hold, behind others, in back-off, of a pool that is paused or not there."""
    stage.pool()
    stage.submit("first", resources={"cpu": 4})
    stage.submit("held")
    stage.submit("child", after=["first"])
    stage.submit("elsewhere", pool="none")
    stage.submit("retried", retry={"max_attempts": 2, "backoff_seconds": 100}, priority=5)
    leader = stage.leader()
    stage.change("held", on_hold=True)
    leader.sync()
    leader.acknowledge(leader.run())
    leader.see(observation(("retried", 1), Phase.FAILED, exit_code=1))
    leader.run()
    assert stage.state("retried") == State.WAITING_RETRY
    stage.submit("waits", resources={"cpu": 3})
    assert demand(stage) == {"cpu": "3"}  # `waits`: by now, `first` holds all there is
    stage.clock.move(200)
    assert demand(stage) == {"cpu": "4"}
    stage.pool(paused=True)
    assert demand(stage) == {}
    assert demand(stage, "none") == {}


@pytest.mark.parametrize(
    ("array", "cpu"),
    [
        ({"size": 1_000_000}, "1000000"),
        ({"size": 1_000_000, "max_running": 20}, "20"),
        ({"size": 30, "gang": True}, "30"),
        (
            {
                "roles": [{"name": "a", "size": 2, "resources": {"cpu": 3}}, {"name": "b", "size": 1}],
                "gang": True,
            },
            "7",
        ),
    ],
)
def test_members_count_as_many_as_may_begin_and_gangs_whole(
    stage: Stage, array: dict[str, Any], cpu: str
) -> None:
    stage.pool(capacity={"cpu": 100})
    stage.submit("x", array=array)
    assert demand(stage) == {"cpu": cpu}


def test_members_that_run_have_taken_their_room(stage: Stage) -> None:
    stage.pool(capacity={"cpu": 2})
    stage.submit("x", array={"size": 10, "max_running": 5})
    leader = stage.leader()
    leader.acknowledge(leader.run())
    assert demand(stage) == {"cpu": "3"}


@pytest.mark.parametrize(
    ("policy", "cpu"),
    [
        ({}, "16"),
        ({"limit": {"cpu": 100}}, "16"),
        ({"limit": {"cpu": 9}}, "9"),  # 4 + 4 + 1: the third of 4 is above it, and the rest goes on
        ({"limit": {"cpu": 3}}, "3"),
        ({"limit": {"cpu": 0}}, None),
        ({"limit": {"memory": "1Gi"}}, "16"),
        ({"max_running": 2}, "8"),
        ({"max_running": 0}, None),
    ],
)
def test_what_is_beyond_its_owner_s_limits_does_not_count(
    stage: Stage, policy: dict[str, Any], cpu: str | None
) -> None:
    """Greedy, in the order of the queue. Another owner's tasks are not concerned."""
    stage.pool(sharing={"owners": {"vision": policy}})
    for number in range(3):
        stage.submit(f"big-{number}", owner="vision", resources={"cpu": 4})
    for number in range(4):
        stage.submit(f"small-{number}", owner="vision", resources={"cpu": 1})
    assert demand(stage) == ({"cpu": cpu} if cpu else {})
    stage.submit("other", owner="audio", resources={"cpu": 2})
    assert demand(stage) == {"cpu": str(int(cpu or 0) + 2)}


def test_limits_count_what_is_held_and_members_one_by_one(stage: Stage) -> None:
    stage.pool(capacity={"cpu": 2}, sharing={"owners": {"vision": {"limit": {"cpu": 7}}}})
    stage.submit("x", owner="vision", array={"size": 1000})
    leader = stage.leader()
    leader.acknowledge(leader.run())
    stage.submit("y", owner="vision", priority=3, resources={"cpu": 2})
    assert demand(stage) == {"cpu": "5"}  # 2 are held; `y`, and 3 members


def test_sums_of_a_queue_that_was_changed_are_those_of_its_tasks() -> None:
    chance = random.Random(5)
    queue, waiting = Queue(), dict[str, tuple[Vector, str, bool]]()
    for _ in range(3000):
        name = f"t{chance.randrange(60)}"
        if chance.random() < 0.4:
            queue.discard(name)
            waiting.pop(name, None)
            continue
        request = Vector({"cpu": chance.randrange(3), "memory": chance.randrange(5)})
        owner, repeats = chance.choice(["", "a", "b"]), chance.random() < 0.2
        queue.add(Place(-chance.randrange(3), chance.randrange(100), 0.0, name, repeats), request, owner)
        waiting[name] = request, owner, repeats
        asked = queue.asked
        assert {*asked.owners()} == {of for _, of, _ in waiting.values()}
        for owner in asked.owners():
            single = [each for each, of, is_array in waiting.values() if of == owner and not is_array]
            amounts, tasks = asked.sum_of(owner)
            assert (Vector(amounts), tasks) == (sum(single, Vector()), len(single))
            arrays = {each for each, (_, of, is_array) in waiting.items() if of == owner and is_array}
            assert {*asked.arrays_of(owner)} == arrays


def test_a_demand_is_told_in_proportion_where_it_would_take_too_long(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of an owner that wants more than its limits allow, and asks for something else each time."""
    stage.pool(sharing={"owners": {"vision": {"limit": {"cpu": 40}}}})
    for number in range(30):
        amounts = {"cpu": 1 + number % 3, "memory": f"{1 + number % 3}Gi"}
        stage.submit(f"t{number:02}", owner="vision", resources=amounts)
    exact = demand(stage)
    assert exact == {"cpu": "40", "memory": "40Gi"}
    monkeypatch.setattr(pool_demands, "MOST_RUNS", 6)
    assert demand(stage) == {"cpu": "40", "memory": "40Gi"}
    monkeypatch.setattr(pool_demands, "MOST_RUNS", 0)
    assert demand(stage) == {"cpu": "40", "memory": "40Gi"}
