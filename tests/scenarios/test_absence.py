"""What a transaction relies on *not* being there is compared as well: what appears between plan and commit is
not lost (fault 45).

A staged replica hears of nothing until it is told to, so that what a user writes here is on its way while it
plans.
"""

from __future__ import annotations

import json

import pytest

from controller.core.model.lifecycle import State
from controller.core.model.requests import RequestKind
from controller.core.model.task import Phase
from controller.core.promise.invariants import check_layout
from controller.election.term import LeadershipLost
from tests.support.bench import Stage, starts, stops


def stored(stage: Stage, key: str) -> bool:
    return stage.store.get(key, deadline=stage.clock.boottime() + 5)[0] is not None


@pytest.mark.parametrize("kind", list(RequestKind))
def test_a_removal_waits_for_whoever_asks_meanwhile(stage: Stage, kind: RequestKind) -> None:
    """A retry is carried out; what cannot take effect is recorded as such, and the removal follows (I8)."""
    stage.submit("job", retention_seconds=10)
    leader = stage.leader()
    leader.run_to("job", Phase.FAILED)
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
    leader = stage.leader()
    leader.run_to("job", Phase.FAILED)
    stage.put(stage.keys.request("job", "retry"), b"{")
    leader.sync()
    stage.clock.move(11)
    leader.run()
    assert not stored(stage, stage.keys.state("job"))
    assert [finding.subject for finding in check_layout(stage.model())] == ["key/requests/job/retry"]


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
    assert bool(stage.model().mod_of("states", ("job",))) is put_again
    assert not stored(stage, stage.keys.request("job", "cancel"))


@pytest.mark.parametrize("kind", ["states/job", "ledgers/default"])
def test_what_somebody_wrote_meanwhile_is_not_overwritten(stage: Stage, kind: str) -> None:
    """A first status, and a pool's first ledger, compare that there is none."""
    stage.submit("job")
    leader = stage.leader()
    stage.put(stage.keys.prefix + kind, b"{")
    assert starts(leader.run()) == []
    item, _ = stage.store.get(stage.keys.prefix + kind, deadline=stage.clock.boottime() + 5)
    assert item is not None
    assert item.value == b"{"


def test_a_running_task_is_not_stopped_for_a_spec_that_is_back(stage: Stage) -> None:
    """Deleted and put again by hand: what was decided without a spec compares that there is none."""
    stage.submit("job")
    leader = stage.leader()
    leader.run_to("job", Phase.RUNNING)
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
    leader = stage.leader()
    leader.run_to("job", Phase.FAILED)
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
    leader = stage.leader()
    stage.pool(capacity={"cpu": 8})
    assert starts(leader.run()) == ["job-1"]


def test_a_retry_that_is_ignored_for_want_of_a_spec_is_not_when_the_spec_is_back(stage: Stage) -> None:
    """It takes effect."""
    stage.submit("job", retention_seconds=10)
    leader = stage.leader()
    leader.run_to("job", Phase.FAILED)
    stage.request("job", RequestKind.RETRY)
    stage.delete(stage.keys.task("job"))
    leader.sync()
    stage.submit("job", retention_seconds=10)
    assert starts(leader.run()) == ["job-2"]


def test_an_abandoned_ledger_is_not_deleted_once_its_pool_is_back(stage: Stage) -> None:
    """A repair compares that there is no such pool."""
    stage.submit("job")
    leader = stage.leader()
    leader.run_to("job", Phase.SUCCEEDED)
    stage.delete(stage.keys.pool("default"))
    mod = stage.model().ledger("default").mod
    wanted = {"invariant": "layout", "subject": "key/ledgers/default", "mod": mod}
    stage.put(stage.keys.repair("r"), json.dumps({"findings": [wanted]}).encode())
    leader.sync()
    stage.pool()
    leader.run()
    assert stored(stage, stage.keys.ledger("default"))
    assert not stored(stage, stage.keys.repair("r"))


def identified(stage: Stage) -> dict[str, bytes]:
    """Who the installation is, and its engine: put there by an election, of which a newer version has told
    more.
    """
    values = {
        stage.keys.installation: (
            b'{"id":"abc","created_at":5.0,"adopts_unmarked":true,"newer":[1],"op":"e1"}'
        ),
        stage.keys.engine: (
            b'{"engine":{"name":"null","id":"e"},"installation":"abc","recorded_by":"r1","op":"e1"}'
        ),
    }
    for key, value in values.items():
        stage.put(key, value)
    return values


def without_op(value: bytes) -> dict[str, object]:
    return {name: field for name, field in json.loads(value).items() if name != "op"}


def test_a_leader_puts_back_who_it_is_and_leaves_what_was_put_there_meanwhile(stage: Stage) -> None:
    """It was deleted by hand, in its term. What another has written since is not overwritten."""
    values = identified(stage)
    leader = stage.leader()
    for key in values:
        stage.delete(key)
    leader.sync()
    other = b'{"id":"def","op":"by-hand"}'
    stage.put(stage.keys.installation, other)
    leader.run()
    engine, _ = stage.store.get(stage.keys.engine, deadline=stage.clock.boottime() + 5)
    installation, _ = stage.store.get(stage.keys.installation, deadline=stage.clock.boottime() + 5)
    assert engine is not None
    assert without_op(engine.value) == without_op(values[stage.keys.engine])
    assert installation is not None
    assert installation.value == other


def test_only_the_leader_of_now_puts_back_who_it_is(stage: Stage) -> None:
    """The successor's election has written its own by then, or it does so itself."""
    values = identified(stage)
    leader = stage.leader()
    stage.elect()
    for key in values:
        stage.delete(key)
    successor = stage.replica(leader.model)
    with pytest.raises(LeadershipLost):
        leader.run()
    assert not any(stored(stage, key) for key in values)
    successor.run()
    back, _ = stage.store.get(stage.keys.installation, deadline=stage.clock.boottime() + 5)
    assert back is not None
    assert without_op(back.value) == without_op(values[stage.keys.installation])
