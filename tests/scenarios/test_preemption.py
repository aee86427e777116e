"""Attempts are stopped for other tasks: those that need be, with proof, and nothing else."""

from __future__ import annotations

import random
from typing import Any

import pytest

from controller.core.model.requests import RequestKind
from controller.core.model.task import AttemptId, Phase
from controller.core.planning.decide import LOST_AFTER_STOP_SECONDS
from controller.core.planning.victims import Candidates
from tests.support.bench import Stage, StagedReplica, observation, starts, stops


class Pool:
    """A shared pool of 8 cpus with its leader, and an engine that does as it is told."""

    def __init__(self, sharing: dict[str, Any], capacity: int = 8, **preemption: Any) -> None:
        self.stage = Stage()
        self.sharing, self.capacity = sharing, capacity
        self.define(**preemption)
        self.leader: StagedReplica = self.stage.leader()
        self.ended: set[str] = set()
        self.stopped: list[str] = []

    def define(self, **preemption: Any) -> None:
        preemption = {"min_run": 0, **preemption}
        fields: dict[str, Any] = {"sharing": self.sharing, "preemption": preemption}
        self.stage.pool(capacity={"cpu": self.capacity}, **fields)

    def submit(self, owner: str, count: int, name: str = "", **fields: Any) -> list[str]:
        names = [f"{name or owner}{n}" for n in range(count)]
        for each in names:
            self.stage.submit(each, owner=owner, **fields)
        self.leader.sync()
        return names

    def go(self) -> tuple[list[str], list[str]]:
        """What is started and stopped now. What is started runs at once; a stop takes until `end`."""
        started, stopped = [], []
        while effects := self.leader.run():
            self.leader.acknowledge(effects)
            started += starts(effects)
            stopped += stops(effects)
            self.leader.see(*(observation(AttemptId.parse(n), Phase.RUNNING) for n in starts(effects)))
        self.stage.check()
        return started, stopped

    def end(self, names: list[str], phase: Phase = Phase.FAILED) -> None:
        """The stop of these attempts is proven."""
        self.leader.see(*(observation(AttemptId.parse(name), phase, reason="Killed") for name in names))

    def running(self, owner: str) -> int:
        return self.stage.model().share("default", owner).running

    def claims(self) -> list[str]:
        return sorted(self.stage.model().claims.get("default", {}))


GUARANTEES = {"owners": {"a": {"guarantee": {"cpu": 4}}, "b": {}}}


def test_a_claim_does_not_end_in_the_plan_that_makes_it() -> None:
    """A plan that was begun ahead stops an attempt for a task; before it is finished, another one ends.

    The plan would stop the first one for a claim that is in no revision.
    """
    pool = Pool(GUARANTEES, reclaim=True)
    pool.submit("b", 8)
    pool.go()
    planner, now = pool.leader.planner, pool.stage.clock.now()
    pool.stage.request("b0", RequestKind.RETRY)
    pool.leader.sync()
    first = planner.plan(now)
    assert [change.task_id for change in first.changes] == ["b0"]
    pool.submit("a", 1)
    planner.plan_ahead(first, now)
    pool.leader.commit(first)
    pool.leader.see(observation(("b2", 1), Phase.SUCCEEDED))
    pool.submit("b", 1, "later")  # the pool is looked at again
    second = planner.plan(now)
    stopped = {change.task_id for change in second.changes if change.status and change.status.stopping}
    assert (len(stopped), [claim.task_id for claim in second.claims]) == (1, ["a0"])
    pool.leader.commit(second)
    assert pool.go()[0] == ["a0-1"]
    assert pool.claims() == []


def test_an_owner_gets_its_guarantee_back_and_no_more() -> None:
    pool = Pool(GUARANTEES, reclaim=True)
    pool.submit("b", 8)
    pool.go()
    pool.submit("a", 6)
    started, stopped = pool.go()
    assert (started, len(stopped)) == ([], 4)
    assert pool.claims() == ["a0", "a1", "a2", "a3"]
    assert pool.running("b") == 8, "held until the proof"
    pool.end(stopped)
    assert pool.go() == (["a0-1", "a1-1", "a2-1", "a3-1"], [])
    assert (pool.running("a"), pool.running("b"), pool.claims()) == (4, 4, [])
    assert pool.go() == ([], [])


def test_a_preempted_task_uses_up_no_attempt_and_keeps_its_place() -> None:
    pool = Pool(GUARANTEES, reclaim=True)
    pool.submit("b", 8, retry={"max_attempts": 1})
    pool.go()
    late = pool.submit("b", 1, name="late")
    pool.submit("a", 1)
    _, (victim,) = pool.go()
    task = AttemptId.parse(victim).task_id
    pool.end([victim])
    pool.go()
    status = pool.stage.status(task)
    assert (status.state, status.reason, status.failures, status.uncounted) == (
        "WaitingRetry",
        "Preempted",
        0,
        0,
    )
    assert "a0" in status.message
    pool.end(["b1-1"], Phase.SUCCEEDED)
    started, _ = pool.go()
    assert started == [f"{task}-2"], f"before {late}"


def test_several_preemptions_take_one_grace() -> None:
    """All that is needed is asked to stop in the first pass, for whatever number of tasks."""
    pool = Pool({"owners": {"a": {"guarantee": {"cpu": 100}}}}, capacity=200, reclaim=True, per_minute=1000)
    pool.submit("b", 200)
    pool.go()
    pool.submit("a", 100)
    _, stopped = pool.go()
    assert len(stopped) == 100
    pool.end(stopped)
    started, _ = pool.go()
    assert len(started) == 100


def test_what_is_coming_free_is_not_taken_from_others() -> None:
    pool = Pool(GUARANTEES, reclaim=True)
    pool.submit("b", 8)
    pool.go()
    pool.stage.request("b7", RequestKind.CANCEL)
    pool.leader.sync()
    _, cancelled = pool.go()
    assert cancelled == ["b7-1"]
    pool.submit("a", 1)
    assert pool.go() == ([], [])
    pool.end(cancelled)
    assert pool.go() == (["a0-1"], [])


def test_what_is_coming_free_is_counted_for_whose_turn_is_first() -> None:
    """Even if nothing can be stopped for that one: the next does not count on it."""
    pool = Pool({"owners": {"x": {"weight": 100}}}, by_priority=True)
    pool.submit("a", 2, name="low")
    pool.submit("b", 6)
    pool.go()
    pool.stage.request("b5", RequestKind.CANCEL)
    pool.leader.sync()
    pool.go()
    pool.submit("x", 1)
    pool.submit("a", 1, name="high", priority=1)
    _, stopped = pool.go()
    assert [name[:3] for name in stopped] == ["low"]


def test_however_many_cannot_be_served_the_next_one_is() -> None:
    pool = Pool({"owners": {}}, capacity=301, by_priority=True)
    for n in range(300):
        pool.submit(f"o{n}", 2, name=f"o{n}-")
    pool.submit("z", 1, name="low")
    pool.go()
    pool.submit("z", 1, name="high", priority=1)
    assert pool.go() == ([], ["low0-1"])


def test_the_smallest_sufficient_set_is_stopped() -> None:
    """The youngest go first; those that turn out not to be needed are spared."""
    pool = Pool({"owners": {"a": {"guarantee": {"cpu": 4}}}}, reclaim=True)
    pool.submit("b", 1, name="large", resources={"cpu": 4})
    pool.go()
    pool.stage.clock.move(1)
    pool.submit("b", 4, name="small")
    pool.go()
    pool.submit("a", 1, resources={"cpu": 4})
    _, stopped = pool.go()
    assert sorted(stopped) == ["small0-1", "small1-1", "small2-1", "small3-1"]


def test_an_owner_gets_its_guarantee_though_its_own_lower_ones_fill_some_of_it() -> None:
    """Neither right is enough alone: both together are, and no more is stopped than need be."""
    pool = Pool(GUARANTEES, reclaim=True, by_priority=True)
    pool.submit("a", 2, name="low")
    pool.submit("b", 6)
    pool.go()
    pool.submit("a", 1, name="high", priority=1, resources={"cpu": 4})
    _, stopped = pool.go()
    assert sorted(name[0] for name in stopped) == ["b", "b", "l", "l"]
    assert "by priority" in pool.stage.status("low0").message
    pool.submit("b", 1, name="late")
    others = [name for name in stopped if name.startswith("b")]
    pool.end(others)
    assert pool.go() == ([], []), "kept for the claim"
    pool.end([name for name in stopped if name not in others])
    assert pool.go() == (["high0-1"], [])
    assert (pool.running("a"), pool.running("b"), pool.claims()) == (1, 4, [])
    assert pool.go() == ([], [])


def test_both_rights_take_no_more_than_the_guarantee() -> None:
    pool = Pool(GUARANTEES, reclaim=True, by_priority=True)
    pool.submit("a", 1, name="same", priority=1)
    pool.submit("a", 1, name="low")
    pool.submit("b", 6)
    pool.go()
    pool.submit("a", 1, name="high", priority=1, resources={"cpu": 4})
    assert pool.go() == ([], []), "with the one of its own priority, it would be above"
    pool.end(["same0-1"], Phase.SUCCEEDED)
    assert len(pool.go()[1]) == 3


def test_across_owners_a_priority_takes_from_its_own_owner_what_is_guaranteed_to_it() -> None:
    pool = Pool({"priority": "across-owners", "owners": {"a": {"guarantee": {"cpu": 8}}}}, by_priority=True)
    pool.submit("a", 8, name="low")
    pool.go()
    pool.submit("a", 1, name="high", priority=1)
    _, stopped = pool.go()
    assert len(stopped) == 1


def test_one_task_takes_of_each_owner_no_more_than_it_has_above_its_guarantee() -> None:
    """Though all attempts of that owner are younger than those of the other."""
    owners = {"a": {"guarantee": {"cpu": 2}}, "b": {"guarantee": {"cpu": 3}}}
    pool = Pool({"owners": owners}, reclaim=True)
    pool.submit("c", 4)
    pool.go()
    pool.stage.clock.move(1)
    pool.submit("b", 4)
    pool.go()
    pool.submit("a", 1, resources={"cpu": 2})
    _, stopped = pool.go()
    assert sorted(name[0] for name in stopped) == ["b", "c"]


def test_nothing_is_stopped_that_would_not_be_enough() -> None:
    pool = Pool({"owners": {"a": {"guarantee": {"cpu": 8}}, "c": {"guarantee": {"cpu": 0}}}}, reclaim=True)
    pool.submit("a", 4)
    pool.submit("b", 4)
    pool.go()
    pool.submit("a", 1, name="large", resources={"cpu": 8})
    assert pool.go() == ([], [])
    assert pool.claims() == []


def test_a_higher_priority_takes_from_a_lower_one_of_its_owner() -> None:
    pool = Pool({"owners": {}}, by_priority=True)
    pool.submit("a", 4, name="low", priority=1)
    pool.submit("b", 4)
    pool.go()
    pool.submit("a", 2, name="high", priority=2)
    pool.submit("a", 1, name="same", priority=1)
    _, stopped = pool.go()
    assert len(stopped) == 2
    assert all(name.startswith("low") for name in stopped)
    pool.end(stopped)
    assert pool.go() == (["high0-1", "high1-1"], [])
    assert pool.go() == ([], [])


def test_a_priority_across_owners_never_takes_what_is_guaranteed() -> None:
    pool = Pool({"priority": "across-owners", "owners": {"b": {"guarantee": {"cpu": 4}}}}, by_priority=True)
    pool.submit("b", 6)
    pool.submit("c", 2)
    pool.go()
    pool.submit("a", 8, priority=5)
    _, stopped = pool.go()
    assert len(stopped) == 4
    assert sum(name.startswith("b") for name in stopped) == 2
    pool.end(stopped)
    pool.go()
    assert (pool.running("a"), pool.running("b"), pool.running("c")) == (4, 4, 0)
    assert pool.go() == ([], [])


@pytest.mark.parametrize("priority", ["within-owner", "across-owners"])
def test_reclaim_and_priority_come_to_rest(priority: str) -> None:
    """What a guarantee takes back is not taken again by a priority, for ever."""
    owners = {"a": {"guarantee": {"cpu": 4}}, "b": {"guarantee": {"cpu": 4}}}
    pool = Pool({"priority": priority, "owners": owners}, reclaim=True, by_priority=True)
    pool.submit("a", 8, priority=9)
    pool.go()
    pool.submit("b", 8, priority=0)
    preempted = 0
    for _ in range(20):
        started, stopped = pool.go()
        preempted += len(stopped)
        pool.end(stopped)
        if not started and not stopped:
            break
        pool.stage.clock.move(1)
    else:
        raise AssertionError("it does not come to rest")
    assert (pool.running("a"), pool.running("b"), preempted) == (4, 4, 4)


def test_an_attempt_that_is_young_is_spared_until_it_is_old_enough() -> None:
    pool = Pool(GUARANTEES, reclaim=True, min_run="5m")
    pool.submit("b", 8)
    pool.go()
    pool.submit("a", 1)
    assert pool.go() == ([], [])
    assert pool.leader.planner.next_wake() == pool.stage.clock.now() + 300
    pool.stage.clock.move(300)
    _, stopped = pool.go()
    assert len(stopped) == 1


def test_the_budget_of_a_minute_holds_across_a_take_over() -> None:
    pool = Pool(GUARANTEES, reclaim=True, per_minute=3)
    pool.submit("b", 8)
    pool.go()
    pool.submit("a", 4)
    pool.stage.clock.move(60 - pool.stage.clock.now() % 60)
    _, stopped = pool.go()
    assert len(stopped) == 3
    pool.stage.elect()
    pool.leader = pool.stage.leader(*(observation((f"b{n}", 1), Phase.RUNNING) for n in range(8)))
    _, again = pool.go()
    assert sorted(again) == sorted(stopped), "the same are told again, and no other"
    pool.stage.clock.move(60)
    _, later = pool.go()
    assert len(set(later) - set(stopped)) == 1


def test_a_victim_that_succeeds_meanwhile_has_succeeded() -> None:
    pool = Pool(GUARANTEES, reclaim=True)
    pool.submit("b", 8)
    pool.go()
    pool.submit("a", 1)
    _, (victim,) = pool.go()
    pool.end([victim], Phase.SUCCEEDED)
    assert pool.go() == (["a0-1"], [])
    assert pool.stage.state(AttemptId.parse(victim).task_id) == "Succeeded"


def test_a_cancel_overrides_a_preemption() -> None:
    pool = Pool(GUARANTEES, reclaim=True)
    pool.submit("b", 8)
    pool.go()
    pool.submit("a", 1)
    _, (victim,) = pool.go()
    task = AttemptId.parse(victim).task_id
    pool.stage.request(task, RequestKind.CANCEL)
    pool.leader.sync()
    pool.go()
    pool.end([victim])
    pool.go()
    assert pool.stage.state(task) == "Cancelled"


def test_a_claim_ends_with_the_wish() -> None:
    """The task is cancelled: what was stopped for it runs again."""
    pool = Pool(GUARANTEES, reclaim=True)
    pool.submit("b", 8)
    pool.go()
    pool.submit("a", 1)
    _, (victim,) = pool.go()
    pool.stage.request("a0", RequestKind.CANCEL)
    pool.leader.sync()
    pool.go()
    assert pool.claims() == []
    pool.end([victim])
    started, _ = pool.go()
    assert started == [f"{AttemptId.parse(victim).task_id}-2"]


def test_a_claim_of_a_task_that_is_set_aside_ends_after_its_reason_is_stored() -> None:
    """Whoever reads the records, or leads next, never sees a claim end for no reason."""
    pool = Pool(GUARANTEES, reclaim=True)
    pool.submit("b", 8)
    pool.go()
    pool.submit("a", 1)
    pool.go()
    assert pool.claims() == ["a0"]
    planner, now = pool.leader.planner, pool.stage.clock.now()

    def fall_over(task_id: str) -> None:
        if task_id == "a0":
            raise KeyError(task_id)

    planner._looks_at = fall_over
    pool.stage.request("a0", RequestKind.RETRY)
    pool.leader.see(observation(("b7", 1), Phase.SUCCEEDED))
    pool.leader.sync()
    written = []
    while plan := planner.plan(now):
        written += [change.task_id for change in plan.changes if change.task_id == "b7"]
        written += [record.kind for record in plan.records] + ["claim" for _ in plan.claims]
        pool.leader.commit(plan)
    assert written == ["b7", "quarantined", "claim"]
    assert pool.claims() == []


def test_what_a_task_that_is_set_aside_has_reserved_is_given_to_others_once_that_is_stored() -> None:
    """Until then its claim holds, to whoever reads the records, or leads next."""
    pool = Pool(GUARANTEES, reclaim=True)
    pool.submit("b", 8)
    pool.go()
    pool.submit("a", 1)
    _, (victim,) = pool.go()
    planner, now = pool.leader.planner, pool.stage.clock.now()
    pool.end([victim])
    pool.leader.commit(planner.plan(now))  # it has ended, and its place is free

    def fall_over(task_id: str) -> None:
        if task_id == "a0":
            raise KeyError(task_id)

    planner._looks_at = fall_over
    pool.stage.request("a0", RequestKind.RETRY)
    pool.leader.sync()
    written = []
    while plan := planner.plan(now):
        written.append([change.task_id for change in plan.changes] or [each.kind for each in plan.records])
        pool.leader.commit(plan)
    again = AttemptId.parse(victim).task_id
    assert written == [["quarantined"], [again]]
    assert pool.claims() == []


def test_what_comes_free_is_kept_for_the_claim() -> None:
    """A task that comes later, of another owner, does not take it, however small it is."""
    pool = Pool({"owners": {"a": {"guarantee": {"cpu": 4}}, "c": {"weight": 100}}}, reclaim=True)
    pool.submit("b", 8)
    pool.go()
    pool.submit("a", 1, resources={"cpu": 4})
    _, stopped = pool.go()
    assert len(stopped) == 4
    pool.submit("c", 2)
    for name in stopped[:3]:
        pool.end([name])
        assert pool.go() == ([], [])
    pool.end(stopped[3:])
    assert pool.go() == (["a0-1"], [])


def test_a_victim_that_is_lost_reserves_nothing() -> None:
    """Its stop cannot be proven: after its grace, another is stopped in its place."""
    pool = Pool(GUARANTEES, reclaim=True)
    pool.submit("b", 8, grace_seconds=10)
    pool.go()
    pool.submit("a", 1)
    _, (victim,) = pool.go()
    pool.stage.clock.move(10 + LOST_AFTER_STOP_SECONDS)
    pool.leader.see(observation(AttemptId.parse(victim), Phase.UNKNOWN))
    _, stopped = pool.go()
    others = set(stopped) - {victim}
    assert len(others) == 1
    pool.end(list(others))
    assert pool.go()[0] == ["a0-1"]
    assert pool.running("b") == 7, "the lost one is still held"


def test_a_claim_that_cannot_be_read_reserves_nothing() -> None:
    pool = Pool(GUARANTEES, reclaim=True)
    pool.submit("b", 8)
    pool.go()
    pool.stage.put(pool.stage.keys.claim("default", "a0"), b"rubbish")
    pool.submit("a", 1)
    assert ("claims", ("default", "a0")) in pool.leader.model.quarantine


def test_without_a_policy_nothing_is_stopped() -> None:
    pool = Pool(GUARANTEES)
    pool.submit("b", 8)
    pool.go()
    pool.submit("a", 4)
    assert pool.go() == ([], [])


def test_claims_end_with_the_policy() -> None:
    pool = Pool(GUARANTEES, reclaim=True)
    pool.submit("b", 8)
    pool.go()
    pool.submit("a", 1)
    pool.go()
    assert pool.claims() == ["a0"]
    pool.stage.pool(capacity={"cpu": 8}, sharing=GUARANTEES)
    pool.leader.sync()
    pool.go()
    assert pool.claims() == []


def test_a_plan_that_is_refused_leaves_no_claim_behind() -> None:
    """A claim and the marks of its victims are one transaction: both, or none."""
    pool = Pool(GUARANTEES, reclaim=True)
    pool.submit("b", 8)
    pool.go()
    pool.submit("a", 1)
    pool.stage.request("b7", RequestKind.CANCEL)  # the leader's model does not show it yet
    pool.go()
    marked = [n for n in range(8) if pool.stage.status(f"b{n}").stopping]
    assert len(marked) == 1
    assert (pool.claims() == ["a0"]) is (pool.stage.status(f"b{marked[0]}").stopping == "preempted")


@pytest.mark.parametrize("policy", ["strict", "backfill"])
def test_a_task_above_its_owner_s_limit_lends_its_priority_to_no_other(policy: str) -> None:
    """It is passed over, and the owner's next task has its own turn: else its hold, taken for a higher
    priority of another owner, would come back to it, for ever.
    """
    pool = Pool(
        {"priority": "across-owners", "owners": {"a": {"limit": {"cpu": 3}}}}, capacity=4, by_priority=True
    )
    pool.stage.pool(
        capacity={"cpu": 4},
        policy=policy,
        sharing=pool.sharing,
        preemption={"by_priority": True, "min_run": 0},
    )
    pool.submit("a", 2, name="e", priority=9, resources={"cpu": 2})
    pool.go()
    pool.submit("b", 1, name="b", priority=5)
    pool.submit("a", 1, name="a", priority=0)
    pool.go()
    pool.submit("b", 1, name="c", priority=5)
    for _ in range(5):
        _, stopped = pool.go()
        pool.end(stopped)
    assert pool.go() == ([], [])
    assert (pool.running("a"), pool.running("b")) == ((1, 2))
    assert pool.stage.state("a0") in ("WaitingRetry", "Created")


@pytest.mark.parametrize("half_life", ["0s", "30s"])
def test_what_is_reclaimed_goes_to_whom_it_is_reclaimed_for(half_life: str) -> None:
    """Two owners are guaranteed different resources. What one holds of the other's is reclaimed, and its turn
    would come first, since it is within its own guarantee, and weighs more. It does not get back what was
    taken from it, or it would be stopped again, for ever.
    """
    pool = Pool({"owners": {}})
    owners = {"a": {"guarantee": {"cpu": 2}}, "b": {"weight": 100, "guarantee": {"memory": "1Gi"}}}
    pool.sharing = {"owners": owners, "half_life": half_life}
    pool.stage.pool(
        capacity={"cpu": 2, "memory": "8Gi"},
        sharing=pool.sharing,
        preemption={"reclaim": True, "min_run": 0},
    )
    asked: dict[str, Any] = {"resources": {"cpu": 1, "memory": "10Mi"}}
    pool.submit("a", 1, "first", **asked)
    [victim] = pool.submit("b", 1, **asked)
    pool.go()
    [waiting] = pool.submit("a", 1, "second", **asked)
    assert pool.go() == ([], [f"{victim}-1"])
    assert pool.claims() == [waiting]
    pool.end([f"{victim}-1"])
    assert pool.go() == ([f"{waiting}-1"], [])
    assert (pool.running("a"), pool.running("b"), pool.claims()) == (2, 0, [])
    pool.end([f"{waiting}-1"], Phase.SUCCEEDED)
    assert pool.go() == ([f"{victim}-2"], [])


def test_an_array_gets_a_guarantee_back_one_member_after_the_other() -> None:
    """A claim names the array, and ends as its next member begins."""
    pool = Pool(GUARANTEES, reclaim=True)
    pool.submit("b", 8)
    pool.go()
    pool.stage.submit("a", owner="a", array={"size": 6})
    pool.leader.sync()
    begun = []
    for member in range(4):
        started, stopped = pool.go()
        begun += started
        assert (len(stopped), pool.claims()) == (1, ["a"])
        pool.end(stopped)
        assert pool.running("a") == member
    begun += pool.go()[0]
    assert begun == ["a-i0-1", "a-i1-1", "a-i2-1", "a-i3-1"]
    assert (pool.running("a"), pool.running("b"), pool.claims()) == (4, 4, [])
    assert pool.go() == ([], [])


@pytest.mark.parametrize("seed", range(60))
def test_what_is_remembered_of_a_search_changes_nothing(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same attempts are stopped for the same tasks as if each owner looked through all of them anew."""

    def claims() -> dict[str, object]:
        draw, stage = random.Random(seed), Stage()
        owners = [f"o{number}" for number in range(12)]
        guarantees = {
            owner: {"guarantee": {"cpu": draw.randrange(6), "gpu": draw.randrange(3)}} for owner in owners
        }
        across = {"priority": "across-owners"} if draw.random() < 0.7 else {}
        stage.pool(
            capacity={"cpu": 24, "gpu": 6},
            sharing={"owners": guarantees, **across},
            preemption={"reclaim": draw.random() < 0.7, "by_priority": draw.random() < 0.8, "min_run": 0},
        )
        for number in range(30):
            asked = {"cpu": draw.randrange(1, 4)}
            if draw.random() < 0.4:
                asked["gpu"] = draw.randrange(1, 3)
            owner, priority = draw.choice(owners[:4]), draw.randrange(-2, 1)
            stage.submit(f"low-{number}", owner=owner, resources=asked, priority=priority)
        leader = stage.leader()
        leader.acknowledge(leader.run())
        for number in range(30):
            asked = {name: draw.randrange(1, 5) for name in draw.sample(["cpu", "gpu"], draw.randrange(1, 3))}
            owner, priority = draw.choice(owners), draw.randrange(-1, 4)
            stage.submit(f"high-{number}", owner=owner, resources=asked, priority=priority)
        leader.sync()
        leader.run()
        stage.check()
        return {str(name): claim.victims for name, claim in stage.model().claims.get("default", {}).items()}

    found = claims()
    monkeypatch.setattr(Candidates, "has_failed", lambda *_: False)
    monkeypatch.setattr(Candidates, "that_help", lambda self, _: self.victims)
    assert claims() == found
