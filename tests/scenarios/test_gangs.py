"""A gang: all of its members are admitted in one commit, run at once, and end together."""

from __future__ import annotations

from typing import Any

import pytest

from controller.core.model.gangs import total
from controller.core.model.requests import RequestKind
from controller.core.model.task import Phase
from controller.core.planning.plan import Start
from tests.scenarios.test_arrays import end, outcomes, records, step
from tests.support.bench import Stage, StagedReplica, observation, stops

ROLES = [
    {"name": "launcher", "size": 1, "resources": {"cpu": "1"}},
    {"name": "worker", "size": 2, "resources": {"cpu": "500m"}, "command": ["work"]},
]


@pytest.fixture
def leader(stage: Stage) -> StagedReplica:
    return stage.leader()


def admit(leader: StagedReplica) -> None:
    """One commit: the gang is admitted, and none of its members has begun."""
    leader.sync()
    leader.commit(leader.planner.plan(leader.stage.clock.now()))
    leader.stage.check()


def runs(leader: StagedReplica, *attempts: str) -> list[str]:
    """These attempts run; returns what is started then."""
    for name in attempts:
        task_id, _, number = name.rpartition("-")
        leader.see(observation((task_id, int(number)), Phase.RUNNING))
    return step(leader)


def test_it_is_admitted_whole_runs_and_succeeds(stage: Stage, leader: StagedReplica) -> None:
    stage.submit("g", array={"gang": True, "size": 3})
    assert step(leader) == ["g-i0-1", "g-i1-1", "g-i2-1"]
    assert stage.held() == {"cpu": "3"}
    assert stage.state("g") == "Pending"
    assert runs(leader, "g-i0-1", "g-i1-1") == []
    assert stage.state("g") == "Pending"
    runs(leader, "g-i2-1")
    assert stage.state("g") == "Running"
    end(leader, "g-i1-1")
    assert (stage.state("g"), stage.held()) == ("Running", {"cpu": "2"})
    end(leader, "g-i0-1", "g-i2-1")
    assert (stage.state("g"), stage.held()) == ("Succeeded", {})
    assert outcomes(stage, "g") == {"succeeded": 3}
    assert records(stage, "states") == ["g"]


def test_one_commit_holds_for_all_and_the_ledger_stays(stage: Stage, leader: StagedReplica) -> None:
    stage.submit("g", array={"gang": True, "roles": ROLES})
    admit(leader)
    status = stage.status("g")
    assert (status.state, status.hold.format()) == ("Pending", {"cpu": "2"})
    assert [one.left for one in status.reserved] == [1, 2]
    assert total(status.reserved) == status.hold
    assert stage.held() == {"cpu": "2"}
    assert records(stage, "states") == ["g"]
    step(leader)
    assert stage.held() == {"cpu": "2"}
    assert stage.status("g").hold.format() == {}
    stage.check()


def test_roles_differ_and_know_themselves(stage: Stage, leader: StagedReplica) -> None:
    stage.submit("g", array={"gang": True, "roles": ROLES}, command=["launch"])
    leader.sync()
    started = [effect.launch for effect in leader.run() if isinstance(effect, Start)]
    assert [launch.spec.command for launch in started] == [("launch",), ("work",), ("work",)]
    assert [launch.spec.resources.format() for launch in started] == [
        {"cpu": "1"},
        {"cpu": "500m"},
        {"cpu": "500m"},
    ]
    known = [
        (env["TALLY_ROLE"], env["TALLY_ROLE_INDEX"], env["TALLY_ROLE_SIZE"]) for env in map(_env, started)
    ]
    assert known == [("launcher", "0", "1"), ("worker", "0", "2"), ("worker", "1", "2")]
    assert [env["TALLY_ARRAY_INDEX"] for env in map(_env, started)] == ["0", "1", "2"]


def _env(launch: Any) -> dict[str, str]:
    return dict(launch.environment)


def test_two_that_fit_alone_never_block_each_other(stage: Stage, leader: StagedReplica) -> None:
    stage.submit("g", array={"gang": True, "size": 3})
    stage.submit("h", array={"gang": True, "size": 3})
    assert step(leader) == ["g-i0-1", "g-i1-1", "g-i2-1"]
    assert stage.state("h") == "Created"
    assert stage.held() == {"cpu": "3"}
    end(leader, "g-i0-1")
    assert stage.state("h") == "Created"
    assert end(leader, "g-i1-1") == ["h-i0-1", "h-i1-1", "h-i2-1"]


def test_a_member_that_fails_ends_all_and_what_was_held_is_given_back(
    stage: Stage, leader: StagedReplica
) -> None:
    stage.submit("g", array={"gang": True, "size": 3})
    step(leader)
    runs(leader, "g-i0-1", "g-i1-1", "g-i2-1")
    leader.see(observation(("g-i1", 1), Phase.FAILED, exit_code=7))
    leader.sync()
    effects = leader.run()
    assert sorted(stops(effects)) == ["g-i0-1", "g-i2-1"]
    assert stage.held() == {"cpu": "2"}
    leader.acknowledge(effects)
    end(leader, "g-i0-1", "g-i2-1", phase=Phase.FAILED)
    status = stage.status("g")
    assert (status.state, status.exit_code, stage.held()) == ("Failed", 7, {})
    assert "g-i1 failed" in status.message


def test_its_retry_policy_starts_all_of_it_again(stage: Stage, leader: StagedReplica) -> None:
    stage.submit("g", array={"gang": True, "size": 2}, retry={"max_attempts": 2, "backoff_seconds": 5})
    step(leader)
    leader.see(observation(("g-i1", 1), Phase.FAILED, exit_code=7))
    leader.sync()
    leader.acknowledge(leader.run())
    end(leader, "g-i0-1", phase=Phase.FAILED)
    assert (stage.state("g"), stage.held()) == ("WaitingRetry", {})
    stage.clock.move(10)
    assert step(leader) == ["g-i0-2", "g-i1-2"]
    end(leader, "g-i0-2", "g-i1-2")
    assert stage.state("g") == "Succeeded"


def test_a_member_that_does_not_start_in_time_gives_all_back_with_proof(
    stage: Stage, leader: StagedReplica
) -> None:
    stage.submit("g", array={"gang": True, "size": 3})
    step(leader)
    runs(leader, "g-i0-1", "g-i1-1")
    stage.clock.move(601)
    leader.sync()
    effects = leader.run()
    assert sorted(stops(effects)) == ["g-i0-1", "g-i1-1", "g-i2-1"]
    assert stage.held() == {"cpu": "3"}
    leader.acknowledge(effects)
    end(leader, "g-i0-1", "g-i1-1", phase=Phase.FAILED)
    assert (stage.state("g"), stage.held()) == ("Pending", {"cpu": "1"})
    end(leader, "g-i2-1", phase=Phase.FAILED)
    assert (stage.state("g"), stage.held()) != ("Pending", {})
    assert stage.status("g").reason == "StartDeadlineExceeded"


def test_a_cancel_before_its_members_begin_releases_at_once(stage: Stage, leader: StagedReplica) -> None:
    stage.submit("g", array={"gang": True, "size": 3})
    admit(leader)
    assert stage.held() == {"cpu": "3"}
    stage.request("g", RequestKind.CANCEL)
    assert step(leader) == []
    assert (stage.state("g"), stage.held()) == ("Cancelled", {})


def test_a_new_leader_completes_what_the_last_one_began(stage: Stage, leader: StagedReplica) -> None:
    stage.submit("g", array={"gang": True, "size": 3})
    admit(leader)
    other = stage.leader()
    assert step(other) == ["g-i0-1", "g-i1-1", "g-i2-1"]
    stage.check()


def test_a_name_that_another_task_has_ends_it(stage: Stage, leader: StagedReplica) -> None:
    stage.submit("g-i1", resources={"cpu": 1})
    step(leader)
    stage.submit("g", array={"gang": True, "size": 2}, retry={"max_start_failures": 0})
    assert step(leader) == ["g-i0-2"]  # the engine has an attempt 1 of the other task
    end(leader, "g-i0-2", phase=Phase.FAILED)
    status = stage.status("g")
    assert (status.state, status.reason, stage.held()) == ("Failed", "NameTaken", {"cpu": "1"})


def test_more_than_one_transaction_holds_begin_one_after_the_other(stage: Stage) -> None:
    stage.pool(capacity={"cpu": 200})
    leader = stage.leader()
    stage.submit("g", array={"gang": True, "size": 200})
    admit(leader)
    assert stage.held() == {"cpu": "200"}
    now, left = stage.clock.now(), 200
    while left:
        leader.commit(leader.planner.plan(now))
        stage.check()
        assert stage.held() == {"cpu": "200"}
        (reserved,) = stage.status("g").reserved
        assert reserved.left < left
        left = reserved.left
    assert len(records(stage, "states")) == 201


def test_every_interrupted_opening_is_completed_by_the_next_leader(stage: Stage) -> None:
    stage.pool(capacity={"cpu": 200})
    leader = stage.leader()
    stage.submit("g", array={"gang": True, "size": 200})
    admit(leader)
    begun = 0
    while begun < 200:  # each leader makes one step, and dies
        leader = stage.leader()
        leader.commit(leader.planner.plan(stage.clock.now()))
        stage.check()
        before, begun = begun, 200 - stage.status("g").reserved[0].left
        assert begun > before


def test_a_request_on_a_part_or_a_member_is_ignored_with_a_reason(
    stage: Stage, leader: StagedReplica
) -> None:
    stage.submit("g", array={"gang": True, "size": 3})
    step(leader)
    stage.request("g", RequestKind.CANCEL, members="1")
    stage.request("g-i2", RequestKind.CANCEL)
    assert step(leader) == []
    assert stage.state("g") == "Pending"
    for name in ("g", "g-i2"):
        assert b"runs and ends whole" in bytes(stage.status(name).history[-1])


def test_a_member_deleted_by_hand_stops_all_and_gives_all_back(stage: Stage, leader: StagedReplica) -> None:
    stage.submit("g", array={"gang": True, "size": 3}, retry={"max_attempts": 1})
    step(leader)
    stage.delete(stage.keys.state("g-i1"))
    stage.put(stage.keys.ledger("default"), stage.value(stage.keys.ledger("default")).replace(b'"3"', b'"2"'))
    leader.sync()
    leader.acknowledge(leader.run())
    end(leader, "g-i0-1", "g-i2-1", phase=Phase.FAILED)
    end(leader, "g-i1-1", phase=Phase.FAILED)
    assert (stage.state("g"), stage.held()) == ("Failed", {})


def test_a_member_that_ends_while_the_status_of_its_gang_cannot_be_read_is_folded_later(
    stage: Stage, leader: StagedReplica
) -> None:
    stage.submit("g", array={"gang": True, "size": 2})
    step(leader)
    value = stage.value(stage.keys.state("g"))
    stage.put(stage.keys.state("g"), b"{")
    leader.sync()
    leader.see(observation(("g-i0", 1), Phase.SUCCEEDED, exit_code=0))
    leader.run()
    assert "g-i0" in records(stage, "states")
    stage.put(stage.keys.state("g"), value)
    end(leader, "g-i1-1")
    assert stage.state("g") == "Succeeded"


def test_an_attempt_with_the_name_of_a_gang_is_an_orphan(stage: Stage, leader: StagedReplica) -> None:
    stage.submit("g", array={"gang": True, "size": 2})
    step(leader)
    leader.see(observation(("g", 1), Phase.RUNNING))
    leader.sync()
    assert stops(leader.run()) == ["g-1"]


@pytest.mark.parametrize("state", ["Created", "WaitingRetry"])
def test_a_request_on_a_part_of_a_gang_that_waits_changes_no_member(
    stage: Stage, leader: StagedReplica, state: str
) -> None:
    stage.submit("full", resources={"cpu": 4})
    step(leader)
    stage.submit("g", array={"gang": True, "size": 2})
    if state == "WaitingRetry":
        stage.request("g", RequestKind.CANCEL)
        step(leader)
        stage.request("g", RequestKind.RETRY)
        step(leader)
    assert stage.state("g") == state
    stage.request("g", RequestKind.CANCEL, members="0-1")
    stage.request("g-i1", RequestKind.CANCEL)
    assert step(leader) == []
    assert records(stage, "arrays") == []
    end(leader, "full-1")
    end(leader, "g-i0-1", "g-i1-1")
    assert stage.state("g") == "Succeeded"


def test_a_gang_whose_spec_was_replaced_by_a_task_is_stopped_and_that_one_runs(
    stage: Stage, leader: StagedReplica
) -> None:
    stage.submit("g", array={"gang": True, "size": 2})
    admit(leader)
    stage.submit("g", retry={"max_attempts": 2, "backoff_seconds": 5})
    assert step(leader) == []
    assert (stage.state("g"), stage.held()) == ("WaitingRetry", {})
    stage.clock.move(10)
    assert step(leader) == ["g-2"]
    assert stage.held() == {"cpu": "1"}


def test_a_cautious_leader_begins_a_member_with_each_plan(stage: Stage) -> None:
    stage.submit("g", array={"gang": True, "size": 2})
    stage.submit("a")
    leader = stage.leader()
    leader.planner.take_care()
    leader.sync()
    changed = []
    for _ in range(6):
        plan = leader.planner.plan(stage.clock.now())
        changed.append(([change.task_id for change in plan.changes], plan.subject))
        leader.commit(plan)
    assert (["g-i0", "g"], "g") in changed
    assert all(subject for names, subject in changed if names)


def test_what_is_asked_of_all_of_it_holds_beside_what_is_asked_of_a_part(
    stage: Stage, leader: StagedReplica
) -> None:
    stage.submit("full", resources={"cpu": 4})
    step(leader)
    stage.submit("g", array={"gang": True, "size": 2})
    stage.request("g", RequestKind.RETRY, members="1")
    stage.change("g", on_hold=True)
    step(leader)
    assert stage.status("g").on_hold
    stage.change("g", on_hold=False)
    end(leader, "full-1")
    assert stage.state("g") == "Pending"
    stage.request("g", RequestKind.CONFIRM_STOPPED)
    stage.request("g", RequestKind.CANCEL)
    step(leader)
    assert stage.status("g").stopping == "cancel"


def test_a_confirmed_stop_of_a_member_carries_no_cancel_of_it(stage: Stage, leader: StagedReplica) -> None:
    stage.submit("g", array={"gang": True, "size": 2})
    step(leader)
    stage.request("g-i1", RequestKind.CONFIRM_STOPPED)
    stage.request("g-i1", RequestKind.CANCEL)
    step(leader)
    assert stage.status("g-i1").stopping == ""


@pytest.mark.parametrize("exit_code", [143, 0])
def test_a_gang_is_cancelled_also_while_a_member_has_ended_with_0(exit_code: int) -> None:
    """On SIGTERM, as its node was drained: that is no success of the gang."""
    stage = Stage()
    stage.turn_on_all()
    stage.pool()
    stage.submit("g", array={"gang": True, "size": 2}, retry={"max_attempts": 3, "backoff_seconds": 1})
    leader = stage.leader()
    leader.acknowledge(leader.run())
    leader.see(*(observation((f"g-i{n}", 1), Phase.RUNNING, uid=f"u{n}") for n in range(2)))
    leader.run()
    drained = {"reason": "EvictionByEvictionAPI", "disrupted": True, "exit_code": exit_code}
    leader.see(observation(("g-i0", 1), Phase.FAILED, uid="u0", **drained))
    leader.acknowledge(leader.run())
    stage.request("g", RequestKind.CANCEL)
    leader.sync()
    leader.run()
    leader.see(observation(("g-i1", 1), Phase.FAILED, uid="u1", reason="Stopped", exit_code=143))
    leader.run()
    assert stage.state("g") == "Cancelled"
