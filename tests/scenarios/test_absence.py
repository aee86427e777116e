"""What a transaction relies on *not* being there is compared as well: what appears between plan and commit is not lost (fault 45).

A staged replica hears of nothing until it is told to, so that what a user writes here is on its way while it plans.
"""

from __future__ import annotations

import json

import pytest

from controller.core.invariants import check_layout
from controller.core.lifecycle import State
from controller.core.task import Phase, RequestKind
from tests.support.bench import Stage, StagedReplica, observation, starts, stops


@pytest.fixture
def stage() -> Stage:
    """An empty cluster with one pool of 4 cpus."""
    stage = Stage()
    stage.pool()
    return stage


def leader_of(stage: Stage) -> StagedReplica:
    leader = stage.replica()
    leader.list_engine()
    return leader


def run_to(leader: StagedReplica, task_id: str, phase: Phase) -> None:
    leader.sync()
    leader.acknowledge(leader.run())
    leader.see(observation((task_id, 1), phase))
    leader.run()


def stored(stage: Stage, key: str) -> bool:
    return stage.store.get(key, deadline=stage.clock.boottime() + 5)[0] is not None


@pytest.mark.parametrize("kind", list(RequestKind))
def test_a_removal_waits_for_whoever_asks_meanwhile(stage: Stage, kind: RequestKind) -> None:
    """A retry is carried out; what cannot take effect is recorded as such, and the removal follows (I8)."""
    stage.submit("job", retention_seconds=10)
    leader = leader_of(stage)
    run_to(leader, "job", Phase.FAILED)
    stage.clock.move(11)
    stage.request("job", kind)
    effects = leader.run()
    if kind is RequestKind.RETRY:
        assert starts(effects) == ["job-2"]
        assert stage.state("job") == State.PENDING
    else:
        assert not stored(stage, stage.keys.state("job"))
    assert not stored(stage, stage.keys.request("job", kind))
    stage.check()


def test_a_request_that_cannot_be_read_keeps_no_task_from_its_removal(stage: Stage) -> None:
    """It is compared as it is, and left alone."""
    stage.submit("job", retention_seconds=10)
    leader = leader_of(stage)
    run_to(leader, "job", Phase.FAILED)
    stage.put(stage.keys.request("job", "retry"), b"{")
    leader.sync()
    stage.clock.move(11)
    leader.run()
    assert not stored(stage, stage.keys.state("job"))
    assert [finding.subject for finding in check_layout(stage.world())] == ["key/requests/job/retry"]


@pytest.mark.parametrize("put_again", [False, True])
def test_a_first_status_compares_the_spec(stage: Stage, put_again: bool) -> None:
    """A cancel of what waits is not recorded on a spec that was deleted meanwhile."""
    stage.submit("job")
    leader = stage.replica()
    stage.request("job", RequestKind.CANCEL)
    leader.sync()
    stage.delete(stage.keys.task("job"))
    if put_again:
        stage.submit("job", priority=1)
    leader.run()
    status = stage.status("job")
    assert (status is not None) is put_again
    assert not stored(stage, stage.keys.request("job", "cancel"))


@pytest.mark.parametrize("kind", ["states/job", "ledgers/default"])
def test_what_somebody_wrote_meanwhile_is_not_overwritten(stage: Stage, kind: str) -> None:
    """A first status, and a pool's first ledger, compare that there is none."""
    stage.submit("job")
    leader = leader_of(stage)
    stage.put(stage.keys.prefix + kind, b"{")
    assert starts(leader.run()) == []
    item, _ = stage.store.get(stage.keys.prefix + kind, deadline=stage.clock.boottime() + 5)
    assert item is not None
    assert item.value == b"{"


def test_a_running_task_is_not_stopped_for_a_spec_that_is_back(stage: Stage) -> None:
    """Deleted and put again by hand: what was decided without a spec compares that there is none."""
    stage.submit("job")
    leader = leader_of(stage)
    run_to(leader, "job", Phase.RUNNING)
    stage.delete(stage.keys.task("job"))
    leader.sync()
    stage.submit("job")
    assert stops(leader.run()) == []
    status = stage.status("job")
    assert status is not None
    assert not status.stopping


def test_a_waiting_task_does_not_fail_for_a_spec_that_is_back(stage: Stage) -> None:
    """The same between two attempts."""
    stage.submit("job", retry={"max_attempts": 2, "backoff_seconds": 5})
    leader = leader_of(stage)
    run_to(leader, "job", Phase.FAILED)
    stage.delete(stage.keys.task("job"))
    leader.sync()
    stage.submit("job", retry={"max_attempts": 2, "backoff_seconds": 5})
    leader.run()
    assert stage.state("job") == State.WAITING_RETRY


def test_a_request_for_nobody_is_not_removed_once_there_is_somebody(stage: Stage) -> None:
    """It is judged by the task that was submitted meanwhile."""
    stage.request("job", RequestKind.CANCEL)
    leader = stage.replica()
    stage.submit("job")
    leader.run()
    assert stage.state("job") == State.CANCELLED


def test_a_pool_that_grows_meanwhile_is_the_one_that_judges(stage: Stage) -> None:
    """What never fitted the pool as it was read is not refused once it fits."""
    stage.submit("job", resources={"cpu": 8})
    leader = leader_of(stage)
    stage.pool(capacity={"cpu": 8})
    assert starts(leader.run()) == ["job-1"]


def test_a_retry_that_is_ignored_for_want_of_a_spec_is_not_when_the_spec_is_back(stage: Stage) -> None:
    """It takes effect."""
    stage.submit("job", retention_seconds=10)
    leader = leader_of(stage)
    run_to(leader, "job", Phase.FAILED)
    stage.request("job", RequestKind.RETRY)
    stage.delete(stage.keys.task("job"))
    leader.sync()
    stage.submit("job", retention_seconds=10)
    assert starts(leader.run()) == ["job-2"]


def test_an_abandoned_ledger_is_not_deleted_once_its_pool_is_back(stage: Stage) -> None:
    """A repair compares that there is no such pool."""
    stage.submit("job")
    leader = leader_of(stage)
    run_to(leader, "job", Phase.SUCCEEDED)
    stage.delete(stage.keys.pool("default"))
    mod = stage.world().ledger("default").mod
    wanted = {"invariant": "layout", "subject": "key/ledgers/default", "mod": mod}
    stage.put(stage.keys.repair("r"), json.dumps({"findings": [wanted]}).encode())
    leader.sync()
    stage.pool()
    leader.run()
    assert stored(stage, stage.keys.ledger("default"))
    assert not stored(stage, stage.keys.repair("r"))
