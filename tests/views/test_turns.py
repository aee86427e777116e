"""Whose turn it is, as readers tell it, and as the leader's planner finds it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.core.model.lifecycle import WAITING
from controller.views.explain import explain
from controller.views.overview import next_admission
from controller.views.pools import owner_facts
from tests.forecast.test_ahead import Reality
from tests.support.bench import Stage
from tests.support.examples import examples

OWNERS = st.sampled_from(["a", "b", "c"])
POLICIES = st.fixed_dictionaries(
    {},
    optional={
        "guarantee": st.integers(1, 3).map(lambda cpu: {"cpu": cpu}),
        "limit": st.integers(3, 6).map(lambda cpu: {"cpu": cpu}),
        "max_running": st.integers(0, 2),
        "weight": st.sampled_from([0.5, 2, 3]),
    },
)
POOLS = st.fixed_dictionaries(
    {
        "capacity": st.integers(2, 8).map(lambda cpu: {"cpu": cpu}),
        "sharing": st.fixed_dictionaries(
            {"owners": st.dictionaries(OWNERS, POLICIES.filter(bool))},
            optional={"priority": st.sampled_from(["within-owner", "across-owners"])},
        ),
    },
    optional={
        "policy": st.sampled_from(["strict", "backfill"]),
        "preemption": st.sampled_from([{}, {"reclaim": True}]),
    },
).map(lambda pool: pool | ({"backfill_seconds": 30} if pool.get("policy") == "backfill" else {}))
TASKS = st.lists(
    st.fixed_dictionaries(
        {
            "owner": OWNERS,
            "priority": st.integers(0, 2),
            "resources": st.integers(1, 4).map(lambda cpu: {"cpu": cpu}),
        },
        optional={
            "array": st.sampled_from(
                [{"size": 3}, {"size": 5, "max_running": 1}, {"size": 4, "max_running": 2}]
            )
        },
    ),
    min_size=3,
    max_size=14,
)


@settings(max_examples=examples(90))
@given(
    pool=POOLS,
    tasks=TASKS,
    seconds=st.lists(st.integers(5, 100), min_size=14, max_size=14),
    later=st.integers(0, 120),
)
def test_nothing_is_told_to_be_next_once_the_leader_has_nothing_left_to_do(
    pool: dict[str, Any], tasks: list[dict[str, Any]], seconds: list[int], later: int
) -> None:
    """Else a pool that is as it should be would be told to be stuck."""
    stage = Stage()
    stage.turn_on_all()
    stage.pool(**pool)
    for number, task in enumerate(tasks):
        stage.submit(f"t{number}", **task)
    reality = Reality(stage, {f"t{number}": float(each) for number, each in enumerate(seconds)})
    reality.go_on(later)
    model, now = stage.model(), stage.clock.now()
    model.advance(now)
    assert next_admission(model, "default", now) == ""
    for name, known in model.tasks.items():
        if known.state in WAITING and not known.member_of:
            assert "next pass" not in explain(model, name, now)


@pytest.mark.parametrize("kind", ["limit", "array"])
def test_a_task_behind_one_that_is_passed_over_reserves(kind: str) -> None:
    """Its owner's limit, or its own `max_running`, keeps the first of c back; the next of c does not fit."""
    stage = Stage()
    stage.turn_on_all()
    policy = {"limit": {"cpu": 3}} if kind == "limit" else {}
    capacity, size = ({"cpu": 8}, 4) if kind == "limit" else ({"cpu": 9}, 1)
    stage.pool(
        capacity=capacity,
        policy="backfill",
        backfill_seconds=60,
        sharing={"owners": {"c": policy} if policy else {}},
    )
    stage.submit("run-b", owner="b", resources={"cpu": 4})
    stage.submit("run-a", owner="a", resources={"cpu": 3})
    first = {"array": {"size": 5, "max_running": 1}} if kind == "array" else {}
    stage.submit("first-c", owner="c", resources={"cpu": size}, priority=5, **first)
    reality = Reality(stage, dict.fromkeys(("run-b", "run-a", "first-c", "next-c", "small-b"), 10_000.0))
    stage.submit("next-c", owner="c", resources={"cpu": 2})
    reality.settle()
    reality.go_on(61)
    stage.submit("small-b", owner="b", resources={"cpu": 1})
    reality.settle()
    model, now = stage.model(), stage.clock.now()
    model.advance(now)
    assert next_admission(model, "default", now) == ""
    told = explain(model, "small-b", now)
    assert "what is free is set aside for 1 task (next-c) first" in told
    assert "next pass" not in told


def test_an_array_that_runs_as_many_as_it_may_is_not_below_its_guarantee() -> None:
    stage = Stage()
    stage.turn_on_all()
    stage.pool(capacity={"cpu": 8}, sharing={"owners": {"c": {"guarantee": {"cpu": 4}}}})
    reality = Reality(stage, {"arr": 10_000.0})
    stage.submit("arr", owner="c", resources={"cpu": 1}, array={"size": 5, "max_running": 1})
    model, now = stage.model(), stage.clock.now()
    assert owner_facts(model, model.pools["default"].pool, "c", now).is_below_guarantee
    assert next_admission(model, "default", now) == "arr-i0"
    reality.settle()
    model, now = stage.model(), stage.clock.now()
    assert not owner_facts(model, model.pools["default"].pool, "c", now).is_below_guarantee
    stage.submit("other", owner="c", resources={"cpu": 1})
    model = stage.model()
    assert owner_facts(model, model.pools["default"].pool, "c", now).is_below_guarantee
    paused = msgspec.structs.replace(model.pools["default"].pool, paused=True)
    assert not owner_facts(model, paused, "c", now).is_below_guarantee, "nobody gets anything of it"
