"""Gangs in a pool that is shared: what they count for, what they are owed, and how they give way."""

from __future__ import annotations

from controller.core.model.task import Phase
from tests.scenarios.test_preemption import GUARANTEES, Pool


def gang(pool: Pool, owner: str, size: int, name: str = "g", **fields: object) -> None:
    pool.stage.submit(name, owner=owner, array={"gang": True, "size": size}, **fields)
    pool.leader.sync()


def held(pool: Pool, owner: str) -> dict[str, str]:
    return pool.stage.model().share("default", owner).held.format()


def test_it_counts_as_one_running_task_from_its_admission_to_its_end() -> None:
    pool = Pool(GUARANTEES)
    gang(pool, "b", 3)
    while pool.stage.state("g") == "Created":
        pool.leader.commit(pool.leader.planner.plan(pool.stage.clock.now()))
    assert (pool.running("b"), held(pool, "b")) == (1, {"cpu": "3"})
    started, _ = pool.go()
    assert started == ["g-i0-1", "g-i1-1", "g-i2-1"]
    assert (pool.running("b"), held(pool, "b")) == (1, {"cpu": "3"})
    pool.end(["g-i0-1"], Phase.SUCCEEDED)
    pool.go()
    assert (pool.running("b"), held(pool, "b")) == (1, {"cpu": "2"})
    pool.end(["g-i1-1", "g-i2-1"], Phase.SUCCEEDED)
    pool.go()
    assert (pool.running("b"), held(pool, "b")) == (0, {})


def test_a_limit_on_running_tasks_takes_it_for_one() -> None:
    pool = Pool({"owners": {"b": {"max_running": 1}}})
    gang(pool, "b", 3)
    gang(pool, "b", 3, name="h")
    started, _ = pool.go()
    assert started == ["g-i0-1", "g-i1-1", "g-i2-1"]
    pool.end(started, Phase.SUCCEEDED)
    assert pool.go()[0] == ["h-i0-1", "h-i1-1", "h-i2-1"]


def test_a_guarantee_is_given_back_to_all_of_it_at_once() -> None:
    pool = Pool(GUARANTEES, reclaim=True)
    names = pool.submit("b", 8)
    pool.go()
    gang(pool, "a", 4)
    started, stopped = pool.go()
    assert (started, len(stopped)) == ([], 4)
    pool.end(stopped[:3])
    assert pool.go()[0] == []
    assert pool.stage.state("g") == "Created"
    pool.end(stopped[3:])
    assert pool.go()[0] == [f"g-i{index}-1" for index in range(4)]
    assert pool.claims() == []
    assert len(names) == 8


def test_it_gives_way_as_one_with_proof_and_runs_again() -> None:
    pool = Pool(GUARANTEES, reclaim=True)
    gang(pool, "b", 6)
    pool.go()
    pool.submit("a", 4)
    started, stopped = pool.go()
    assert started == ["a0-1", "a1-1"]  # what was free
    assert sorted(stopped) == [f"g-i{index}-1" for index in range(6)]
    assert pool.stage.status("g").stopping == "preempted"
    pool.end(stopped[:5])
    started, _ = pool.go()  # what is proven to be free
    assert sorted(started) == ["a2-1", "a3-1"]
    assert (pool.stage.state("g"), held(pool, "b")) == ("Running", {"cpu": "1"})
    pool.end(stopped[5:])
    pool.go()
    status = pool.stage.status("g")
    assert (status.state, status.reason, status.failures) == ("WaitingRetry", "Preempted", 0)
    pool.end(["a0-1", "a1-1"], Phase.SUCCEEDED)
    assert sorted(pool.go()[0]) == [f"g-i{index}-2" for index in range(6)]


def test_a_gang_that_is_too_small_to_help_is_left_alone() -> None:
    pool = Pool({"owners": {"a": {"guarantee": {"cpu": 6}}, "b": {}}}, reclaim=True)
    gang(pool, "b", 2)
    gang(pool, "b", 5, name="h")
    pool.go()
    pool.submit("a", 1, resources={"cpu": 6})
    _, stopped = pool.go()
    assert sorted(stopped) == [f"h-i{index}-1" for index in range(5)]


def test_what_its_members_release_in_the_same_plan_is_not_counted_on_again() -> None:
    """They end as another owner asks for its guarantee: to stop their gang would free nothing."""
    pool = Pool(GUARANTEES, reclaim=True)
    pool.submit("b", 6)
    pool.go()
    pool.stage.clock.move(5)  # the youngest give way first
    gang(pool, "b", 2)
    pool.go()
    pool.capacity = 6
    pool.define(reclaim=True)
    pool.submit("a", 2)
    pool.end(["g-i0-1", "g-i1-1"], Phase.SUCCEEDED)
    plan = pool.leader.planner.plan(pool.stage.clock.now())
    assert sorted(change.claim.victims for change in plan.claims if change.claim) == [("b0-1",), ("b1-1",)]
    pool.leader.commit(plan)
    assert pool.go()[0] == []
    assert pool.stage.state("g") == "Succeeded"
    pool.end(["b0-1", "b1-1"])
    assert pool.go()[0] == ["a0-1", "a1-1"]


def test_a_gang_of_which_a_member_ends_in_the_same_plan_frees_the_rest() -> None:
    pool = Pool(GUARANTEES, reclaim=True)
    pool.submit("b", 4)
    pool.go()
    pool.stage.clock.move(5)
    gang(pool, "b", 4)
    pool.go()
    pool.capacity = 7
    pool.define(reclaim=True)
    pool.submit("a", 1, resources={"cpu": 4})
    pool.end(["g-i0-1"], Phase.SUCCEEDED)
    planner, now = pool.leader.planner, pool.stage.clock.now()
    (claim,) = planner.plan(now).claims
    assert claim.claim is not None
    assert len(claim.claim.victims) == 2, "of four that it needs, its gang has three"
