"""A pool whose capacity follows nodes: what is recorded, with which cause, and what is admitted."""

from __future__ import annotations

from typing import Any

import pytest

from controller.core.model import capacities
from controller.core.model.capacities import CHANGES_KEPT, ObservedCapacity
from controller.core.model.nodes import NodeRoom, Taint
from controller.core.model.op import Op
from controller.core.model.resources import Vector
from controller.core.model.task import Phase
from controller.core.planning.capacities import PAUSE_SECONDS, UNSEEN_SECONDS
from controller.core.planning.events import NodesSeen, NodesUnseen
from controller.core.promise.invariants import check_model
from controller.store.base import Refused
from controller.store.records import to_transaction
from controller.views.explain import explain
from controller.views.pools import pool_facts
from tests.support.bench import Stage, StagedReplica, observation, starts

LABELS = {"pool": "batch"}


def node(name: str, cpu: int, others: int = 0, **fields: Any) -> NodeRoom:
    amounts = {"labels": LABELS, "allocatable": Vector({"cpu": cpu}), "others": Vector({"cpu": others})}
    return NodeRoom(name, **{**amounts, **fields})


@pytest.fixture
def leader(stage: Stage) -> StagedReplica:
    """One that has listed its engine, and has a pool whose capacity follows nodes."""
    stage.pool(capacity={"from": "nodes", "selector": "pool=batch"})
    return stage.leader()


def see(leader: StagedReplica, *nodes: NodeRoom, after: float = PAUSE_SECONDS) -> None:
    """The engine shows these nodes, and the leader acts."""
    leader.stage.clock.move(after)
    leader.reconciler.handle(NodesSeen(leader.leadership.epoch, nodes))
    leader.run()


def lose_sight(leader: StagedReplica, why: str = "connection refused") -> None:
    leader.reconciler.handle(NodesUnseen(leader.leadership.epoch, why))
    leader.run()


def recorded(stage: Stage) -> ObservedCapacity:
    return stage.model().capacities["default"]


def last_change(stage: Stage) -> str:
    change = recorded(stage).last
    assert change is not None
    return f"{change.why}: {change.before} → {change.after}"


def test_there_is_nothing_until_nodes_were_seen(stage: Stage, leader: StagedReplica) -> None:
    stage.submit("a")
    leader.sync()
    assert not starts(leader.run())
    assert not stage.model().capacities
    see(leader, node("n1", 4000))
    assert stage.state("a") == "Pending"
    assert last_change(stage) == "the first count: 1 of 1 node can be used: nothing → cpu 4"
    stage.check()


def test_a_node_that_becomes_ready_is_told_and_used(stage: Stage, leader: StagedReplica) -> None:
    see(leader, node("n1", 1000), node("n2", 2000, is_ready=False), node("other", 9000, labels={}))
    for name in ("a", "b", "c"):
        stage.submit(name)
    leader.sync()
    assert starts(leader.run()) == ["a-1"]
    see(leader, node("n1", 1000), node("n2", 2000))
    assert [stage.state(name) for name in ("b", "c")] == ["Pending", "Pending"]
    assert last_change(stage) == "node n2 became ready: cpu 1 → cpu 3"
    assert (recorded(stage).usable, recorded(stage).nodes) == (2, 2)


@pytest.mark.parametrize(
    ("after", "why"),
    [
        ([], "node n1 is gone"),
        ([node("n1", 4000, is_ready=False)], "node n1 is not ready"),
        ([node("n1", 4000, is_cordoned=True)], "node n1 is cordoned"),
        ([node("n1", 4000, others=1000)], "pods of others request more of node n1"),
        ([node("n1", 3000)], "node n1 has other resources"),
        ([node("n1", 4000, labels={"pool": "web"})], "node n1 is gone"),
        (
            [node("n1", 4000, taints=(Taint("gpu", "yes", "NoSchedule"),))],
            "node n1 has the taint gpu=yes:NoSchedule, which the pool's pod template does not tolerate",
        ),
    ],
)
def test_each_change_has_its_cause(
    stage: Stage, leader: StagedReplica, after: list[NodeRoom], why: str
) -> None:
    see(leader, node("n1", 4000), node("n2", 500))
    see(leader, *after, node("n2", 500))
    change = recorded(stage).last
    assert change is not None
    assert change.why == why
    assert change.before == Vector({"cpu": 4500})
    assert change.epoch == leader.leadership.epoch


def test_others_take_of_no_node_more_than_it_has(stage: Stage, leader: StagedReplica) -> None:
    see(leader, node("n1", 1000, others=5000), node("n2", 2000))
    assert recorded(stage).amounts == Vector({"cpu": 2000})


def test_what_is_held_stays_the_capacity_until_it_ends(stage: Stage, leader: StagedReplica) -> None:
    see(leader, node("n1", 3000))
    for name in ("a", "b", "c"):
        stage.submit(name)
    leader.sync()
    leader.acknowledge(leader.run())
    stage.submit("d")
    leader.sync()
    see(leader, node("n1", 1000))
    facts = pool_facts(stage.model(), "default")
    assert (facts.capacity, facts.free, facts.overcommitted) == (Vector({"cpu": 3000}), Vector(), [])
    leader.see(observation(("a", 1), Phase.SUCCEEDED))
    leader.run()
    assert pool_facts(stage.model(), "default").capacity == Vector({"cpu": 2000})
    leader.see(observation(("b", 1), Phase.SUCCEEDED))
    leader.run()
    assert stage.state("d") == "Created"
    leader.see(observation(("c", 1), Phase.SUCCEEDED))
    assert starts(leader.run()) == ["d-1"]
    stage.check()


def test_it_is_not_written_more_often_than_the_pause(stage: Stage, leader: StagedReplica) -> None:
    see(leader, node("n1", 1000))
    written = stage.model().mod_of(capacities.KIND, ("default",))
    for cpu in (2000, 1000, 3000):
        see(leader, node("n1", cpu), after=PAUSE_SECONDS / 10)
    assert stage.model().mod_of(capacities.KIND, ("default",)) == written
    wake = leader.planner.next_wake()
    assert wake is not None
    stage.clock.move(wake - stage.clock.now())
    leader.run()
    assert recorded(stage).amounts == Vector({"cpu": 3000})
    assert len(recorded(stage).changes) == 2
    assert leader.planner.next_wake() is None


def test_a_removal_that_is_refused_forgets_no_pause(stage: Stage, leader: StagedReplica) -> None:
    """The pool follows its nodes again, before the removal of its record was committed."""
    see(leader, node("n1", 1000))
    written = stage.model().mod_of(capacities.KIND, ("default",))
    stage.pool()
    leader.sync()
    stage.pool(capacity={"from": "nodes", "selector": "pool=batch"})
    assert leader.reconciler.step(), "the removal, which is refused"
    leader.sync()
    see(leader, node("n1", 2000), after=PAUSE_SECONDS / 10)
    assert stage.model().mod_of(capacities.KIND, ("default",)) == written
    see(leader, node("n1", 2000))
    assert recorded(stage).amounts == Vector({"cpu": 2000})


@pytest.mark.parametrize("then", ["gone", "amounts"])
def test_no_pause_keeps_the_record_of_a_pool_that_follows_nodes_no_more(
    stage: Stage, leader: StagedReplica, then: str
) -> None:
    """Nothing is wrong for anybody who audits a moment later."""
    see(leader, node("n1", 1000))
    see(leader, node("n1", 2000), after=PAUSE_SECONDS / 10)
    assert leader.planner.next_wake() is not None, "the change is written after the pause"
    if then == "gone":
        stage.delete(stage.keys.pool("default"))
    else:
        stage.pool()
    leader.sync()
    leader.run()
    assert stage.model().capacities == {}
    assert [each.what for each in check_model(stage.model()) if each.invariant == "I18"] == []


def test_the_last_changes_are_kept(stage: Stage, leader: StagedReplica) -> None:
    for cpu in range(1, CHANGES_KEPT + 5):
        see(leader, node("n1", 1000 * cpu))
    changes = recorded(stage).changes
    assert len(changes) == CHANGES_KEPT
    assert changes[-1].after == Vector({"cpu": 1000 * (CHANGES_KEPT + 4)})


def test_nodes_that_cannot_be_seen_stay_what_they_were(stage: Stage, leader: StagedReplica) -> None:
    see(leader, node("n1", 2000))
    lose_sight(leader)
    assert recorded(stage).unseen_since is None
    lost_at = stage.clock.now()
    stage.clock.move(UNSEEN_SECONDS)
    leader.run()
    assert (recorded(stage).unseen_since, recorded(stage).unseen_why) == (lost_at, "connection refused")
    stage.submit("a")
    leader.sync()
    assert starts(leader.run()) == ["a-1"]
    see(leader, node("n1", 2000))
    assert recorded(stage).unseen_since is None
    assert len(recorded(stage).changes) == 1


def test_news_waits_for_no_watch_that_has_broken(stage: Stage, leader: StagedReplica) -> None:
    """The watch broke for a second; what it tells then, and what the pool wants then, counts at once."""
    see(leader, node("a", 1000), node("b", 3000))
    leader.run()
    stage.clock.move(PAUSE_SECONDS)
    lose_sight(leader)
    see(leader, node("a", 1000, labels={**LABELS, "zone": "x"}), after=1)
    assert recorded(stage).amounts == Vector({"cpu": 1000})
    lose_sight(leader)
    see(leader, node("a", 2000), after=1)
    assert recorded(stage).amounts == Vector({"cpu": 1000}), "within the pause"
    stage.clock.move(PAUSE_SECONDS)
    assert (leader.planner.mending.capacities.next_due() or 0.0) <= stage.clock.now()
    leader.run()
    assert recorded(stage).amounts == Vector({"cpu": 2000})


TOLERATIONS = [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}]


@pytest.mark.parametrize(
    "options", [{"tolerations": TOLERATIONS}, {"pod_template": {"spec": {"tolerations": TOLERATIONS}}}]
)
def test_a_tainted_node_counts_if_the_pools_pods_tolerate_it(
    stage: Stage, leader: StagedReplica, options: dict[str, Any]
) -> None:
    stage.pool(capacity={"from": "nodes", "selector": "pool=batch"}, engine_options=options)
    leader.sync()
    see(leader, node("n", 8000, taints=(Taint("gpu", "", "NoSchedule"),)))
    assert recorded(stage).amounts == Vector({"cpu": 8000})


def test_nodes_that_were_never_seen_give_nothing_and_that_is_told(
    stage: Stage, leader: StagedReplica
) -> None:
    stage.submit("a")
    leader.sync()
    lose_sight(leader, "nodes is forbidden")
    assert not recorded(stage).amounts
    assert recorded(stage).unseen_why == "nodes is forbidden"
    assert "nodes is forbidden" in explain(stage.model(), "a", stage.clock.now())
    assert leader.planner.next_wake() is None


def test_the_next_leader_goes_on_from_what_is_recorded(stage: Stage, leader: StagedReplica) -> None:
    see(leader, node("n1", 2000))
    stage.elect()
    after = stage.leader()
    see(after, node("n1", 2000))
    assert len(recorded(stage).changes) == 1
    see(after, node("n1", 2000), node("n2", 1000))
    assert last_change(stage) == "node n2 was added: cpu 2 → cpu 3"
    stage.elect()
    third = stage.leader()
    see(third, node("n1", 2000))
    why = f"the first count of the leader of epoch {third.leadership.epoch}: 1 of 1 node can be used"
    assert last_change(stage) == f"{why}: cpu 3 → cpu 2"


def test_the_record_goes_with_the_wish(stage: Stage, leader: StagedReplica) -> None:
    see(leader, node("n1", 2000))
    stage.pool(capacity={"cpu": 1})
    leader.sync()
    leader.run()
    assert not stage.model().capacities
    assert leader.planner.next_wake() is None
    stage.check()


def test_a_task_that_is_larger_than_all_nodes_waits_for_more_of_them(
    stage: Stage, leader: StagedReplica
) -> None:
    see(leader, node("n1", 1000))
    stage.submit("big", resources={"cpu": 8})
    leader.sync()
    leader.run()
    assert stage.state("big") == "Created"
    assert pool_facts(stage.model(), "default").demand == Vector({"cpu": 8000})
    see(leader, node("n1", 1000), node("n2", 8000))
    assert stage.state("big") == "Pending"


def test_an_admission_compares_what_was_recorded(stage: Stage, leader: StagedReplica) -> None:
    """Invariant I2: what another hand has written meanwhile is seen first."""
    see(leader, node("n1", 1000))
    stage.submit("a")
    leader.sync()
    nothing = capacities.encode_capacity(ObservedCapacity(), "op")  # type: ignore[arg-type]  # any text
    stage.put(stage.keys.of(capacities.KIND, ("default",)), nothing)
    leader.reconciler.step()
    assert stage.state("a") == "Created"


def test_a_plan_made_ahead_compares_what_it_has_counted(stage: Stage, leader: StagedReplica) -> None:
    """The record has changed by hand since; nothing is admitted to what is not there any more."""
    see(leader, node("n1", 4000))
    stage.submit("a")
    leader.sync()
    first = leader.planner.plan(stage.clock.now())
    for name in "bcd":
        stage.submit(name)
    leader.sync()
    leader.planner.plan_ahead(first, stage.clock.now())
    assert leader.planner.is_ahead
    leader.commit(first)
    fewer = ObservedCapacity(amounts=Vector({"cpu": 1000}), nodes=1, usable=1)
    stage.put(stage.keys.of(capacities.KIND, ("default",)), capacities.encode_capacity(fewer, Op("x")))
    leader.sync()
    second = leader.planner.plan(stage.clock.now())
    assert [change.task_id for change in second.changes] == ["b", "c", "d"]
    transaction = to_transaction(second, stage.keys, leader.leadership.revision)
    assert isinstance(stage.store.commit(transaction, deadline=float("inf")), Refused)
    leader.planner.refused(second)
    leader.run()
    assert [stage.state(name) for name in "abcd"] == ["Pending", "Created", "Created", "Created"]


@pytest.mark.parametrize("value", [b"", b"[]", b"{", b'{"amounts":{"cpu":"x"}}', b'{"changes":3}', b"\xff"])
def test_a_record_that_cannot_be_read_stops_nobody(stage: Stage, leader: StagedReplica, value: bytes) -> None:
    """The leader that has read it before uses that; one that has not gives nothing. Nobody writes over it."""
    see(leader, node("n1", 2000))
    key = stage.keys.of(capacities.KIND, ("default",))
    stage.put(key, value)
    stage.pool("fixed")
    for name, pool in (("a", "default"), ("b", "fixed")):
        stage.submit(name, pool=pool)
    leader.sync()
    assert sorted(starts(leader.run())) == ["a-1", "b-1"]
    see(leader, node("n1", 9000))
    assert stage.value(key) == value
    assert any(each.subject == "key/capacities/default" for each in check_model(stage.model()))
    stage.submit("c")
    stage.elect()
    fresh = stage.leader()
    fresh.run()
    assert stage.state("c") == "Created"
    assert "cannot be read" in explain(stage.model(), "c", stage.clock.now())
    stage.delete(key)
    fresh.sync()
    see(fresh, node("n1", 2000))
    assert recorded(stage).amounts == Vector({"cpu": 2000})


def test_the_audit_tells_of_records_that_nobody_wants_or_has(stage: Stage, leader: StagedReplica) -> None:
    def found() -> list[str]:
        return [
            f"{each.subject} {each.what}" for each in check_model(stage.model()) if each.invariant == "I18"
        ]

    assert found() == [
        "pool/default its capacity follows nodes, but there is no record of what they give: it has nothing"
    ]
    see(leader, node("n1", 2000))
    assert found() == []
    record = recorded(stage)
    stage.put(stage.keys.of(capacities.KIND, ("gone",)), capacities.encode_capacity(record, record.op))
    assert [each.partition(" ")[0] for each in found()] == ["pool/gone"]
    leader.sync()
    leader.run()
    assert found() == []
    wrong = ObservedCapacity(amounts=Vector({"cpu": 7000}), changes=record.changes)
    stage.put(stage.keys.of(capacities.KIND, ("default",)), capacities.encode_capacity(wrong, record.op))
    assert "its last change led to cpu 2" in found()[0]


def test_more_than_the_nodes_give_is_a_notice(stage: Stage, leader: StagedReplica) -> None:
    see(leader, node("n1", 2000))
    stage.submit("a", resources={"cpu": 2})
    leader.sync()
    leader.acknowledge(leader.run())
    see(leader, node("n1", 1000))
    told = [each.what for each in check_model(stage.model()) if each.invariant == "I2"]
    assert told == ["cpu: 2 is held, but 1 node that can be used give 1 now"]
    stage.check()
