"""What the audit says of gangs whose records another hand has written (I16, I1), and what the leader does.

Members that are stopped prove their end. A ledger that says more than is held stays so until an operator has
it corrected, as with any task (`tally audit --repair`).
"""

from __future__ import annotations

import pytest

from controller.core.model import codec
from controller.core.model.gangs import Reserved
from controller.core.model.requests import RequestKind
from controller.core.model.resources import Vector
from controller.core.model.task import Phase
from controller.core.promise.invariants import check_model
from tests.scenarios.test_array_audit import write_status
from tests.scenarios.test_arrays import end, records, step
from tests.scenarios.test_gangs import admit, runs
from tests.support.bench import Stage, StagedReplica, observation, stops

ATTEMPTS = ("g-i0-1", "g-i1-1", "g-i2-1")


@pytest.fixture
def leader(stage: Stage) -> StagedReplica:
    """One that has admitted a gang of three, of which no member has begun."""
    leader = stage.leader()
    stage.submit("g", array={"gang": True, "size": 3})
    admit(leader)
    return leader


def found(stage: Stage, invariant: str = "I16") -> list[str]:
    return [
        f"{each.subject} {each.what}" for each in check_model(stage.model()) if each.invariant == invariant
    ]


def act(leader: StagedReplica, *attempts: str) -> None:
    """These attempts fail, and the leader acts, whatever the audit says."""
    for name in attempts:
        task_id, _, number = name.rpartition("-")
        leader.see(observation((task_id, int(number)), Phase.FAILED, exit_code=1))
    for _ in range(3):
        leader.sync()
        leader.acknowledge(leader.run())


def stop_all(stage: Stage, leader: StagedReplica) -> None:
    """The leader looks, and what runs is stopped and ends."""
    for _ in range(4):
        step(leader)
        running = [
            f"{task_id}-{task.attempt}"
            for task_id, task in stage.model().holding.items()
            if task.status is not None and not task.status.reserved
        ]
        if not running:
            break
        end(leader, *running, phase=Phase.FAILED)
    step(leader)


def test_nothing_is_told_of_the_life_of_a_gang(stage: Stage, leader: StagedReplica) -> None:
    assert found(stage) == []
    step(leader)
    assert found(stage) == []
    runs(leader, *ATTEMPTS)
    end(leader, "g-i1-1", phase=Phase.FAILED)
    assert found(stage) == []
    end(leader, "g-i0-1", "g-i2-1", phase=Phase.FAILED)
    assert (stage.state("g"), stage.held(), [*check_model(stage.model())]) == ("Failed", {}, [])


def test_a_members_status_is_deleted(stage: Stage, leader: StagedReplica) -> None:
    """What it held stays in the ledger (I1) until the leader has put that right; the gang is stopped."""
    step(leader)
    runs(leader, *ATTEMPTS)
    stage.delete(stage.keys.state("g-i1"))
    assert found(stage) == ["task/g holds for 0 members that have not begun, but there are 1 of them"]
    assert found(stage, "I1")
    act(leader)
    assert (stage.status("g").stopping, stage.state("g")) == ("torn", "Running")
    assert [stage.status(f"g-i{index}").stopping for index in (0, 2)] == ["cancel", "cancel"]
    act(leader, *ATTEMPTS)
    assert stage.state("g") == "Failed"
    assert found(stage) == []
    assert found(stage, "I1") == [
        "pool/default cpu: the ledger says 1 is held, but the Pending and Running tasks hold 0"
    ]


def test_a_members_status_is_of_another_attempt(stage: Stage, leader: StagedReplica) -> None:
    step(leader)
    write_status(stage, "g-i1", attempt=5)
    assert found(stage) == ["task/g-i1 is under way in round 5, but its gang is in 1"]
    leader.sync()
    leader.acknowledge(leader.run())
    assert stage.status("g-i1").stopping == "cancel"


def test_the_hold_of_the_gang_is_changed(stage: Stage, leader: StagedReplica) -> None:
    write_status(stage, "g", hold=Vector({"cpu": 1000}))
    assert found(stage) == ["task/g holds cpu 1, but cpu 3 is reserved for its members that have not begun"]
    assert found(stage, "I1")
    act(leader)
    assert (stage.state("g"), stage.status("g").hold.format()) == ("Failed", {})
    assert records(stage, "states") == ["g"]
    assert found(stage) == []


def test_what_is_reserved_is_changed(stage: Stage, leader: StagedReplica) -> None:
    status = stage.status("g")
    write_status(stage, "g", reserved=(Reserved(2, status.reserved[0].hold),))
    assert found(stage) == [
        "task/g holds cpu 3, but cpu 2 is reserved for its members that have not begun",
        "task/g holds for 2 members that have not begun, but there are 3 of them",
    ]
    step(leader)
    assert stage.state("g") == "Failed"
    assert found(stage) == []


def test_the_gangs_status_is_deleted(stage: Stage, leader: StagedReplica) -> None:
    """Its members are stopped; it begins anew once they have ended, with an attempt that was never used."""
    step(leader)
    runs(leader, *ATTEMPTS)
    stage.delete(stage.keys.state("g"))
    leader.sync()
    effects = leader.run()
    assert sorted(stops(effects)) == list(ATTEMPTS)
    leader.acknowledge(effects)
    stage.request("g", RequestKind.CANCEL)
    act(leader)
    assert stage.state("g") == "Created"  # it is cancelled when they have ended
    assert stage.held() == {"cpu": "3"}
    act(leader, *ATTEMPTS)
    assert (stage.state("g"), stage.held()) == ("Cancelled", {})
    stage.request("g", RequestKind.RETRY)
    act(leader)
    assert stage.status("g").attempt == 2
    assert stage.held() == {"cpu": "3"}
    stage.check()


def test_the_spec_is_overwritten_with_other_roles(stage: Stage, leader: StagedReplica) -> None:
    step(leader)
    runs(leader, *ATTEMPTS)
    spec = stage.value(stage.keys.task("g"))
    stage.put(stage.keys.task("g"), spec.replace(b'"size":3', b'"size":5'))
    leader.sync()
    leader.acknowledge(leader.run())
    assert stage.status("g").stopping == "torn"
    end(leader, *ATTEMPTS, phase=Phase.FAILED)
    stop_all(stage, leader)
    assert stage.state("g") == "Failed"


def test_the_spec_is_overwritten_with_that_of_a_task(stage: Stage, leader: StagedReplica) -> None:
    step(leader)
    spec = stage.value(stage.keys.task("g"))
    stage.put(stage.keys.task("g"), spec.replace(b'"array":{"size":3,"gang":true}', b'"priority":1'))
    assert b"array" not in stage.value(stage.keys.task("g"))
    leader.sync()
    leader.acknowledge(leader.run())
    end(leader, *ATTEMPTS, phase=Phase.FAILED)
    stop_all(stage, leader)
    assert stage.held() in ({}, {"cpu": "1"})


def test_the_spec_is_deleted(stage: Stage, leader: StagedReplica) -> None:
    step(leader)
    runs(leader, *ATTEMPTS)
    stage.delete(stage.keys.task("g"))
    leader.sync()
    leader.acknowledge(leader.run())
    assert stage.status("g").stopping == "spec-deleted"
    end(leader, *ATTEMPTS, phase=Phase.FAILED)
    stop_all(stage, leader)
    assert stage.held() == {}


def test_a_status_that_cannot_be_read_keeps_all_that_runs(stage: Stage, leader: StagedReplica) -> None:
    step(leader)
    runs(leader, *ATTEMPTS)
    value = stage.value(stage.keys.state("g-i1"))
    stage.put(stage.keys.state("g-i1"), b"?")
    step(leader)
    assert stage.state("g") == "Running"
    stage.put(stage.keys.state("g-i1"), value)
    end(leader, *ATTEMPTS)
    assert (stage.state("g"), stage.held()) == ("Succeeded", {})


@pytest.mark.parametrize("kind", [RequestKind.CANCEL, RequestKind.RETRY])
def test_raw_requests_on_a_part_change_nothing(
    stage: Stage, leader: StagedReplica, kind: RequestKind
) -> None:
    step(leader)
    stage.request("g", kind, members="1")
    step(leader)
    stage.request("g-i1", kind)
    step(leader)
    assert records(stage, "requests") == []
    assert [stage.status(f"g-i{index}").stopping for index in range(3)] == ["", "", ""]
    assert "ask for all of it" in _last(stage, "g")


def _last(stage: Stage, name: str) -> str:
    return codec.decode_history(stage.status(name))[-1].message
