"""How long a task has waited: queue deadlines, back-offs and the patience with those that pass it, by the
leader's clock.
"""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from controller.core.model import codec
from controller.core.model.lifecycle import State
from controller.core.model.op import Op
from controller.core.model.requests import RequestKind
from controller.core.model.task import Phase
from controller.core.model.validation import parse_spec
from controller.views.explain import explain
from tests.support.bench import Stage, StagedReplica, observation, starts

HOUR = 3600.0


@pytest.fixture
def stage() -> Stage:
    """A pool of 4 cpus and 4 GPUs, where smaller tasks may pass for a minute."""
    stage = Stage()
    stage.pool(capacity={"cpu": 4, "gpu": 4}, policy="backfill", backfill_seconds=60)
    return stage


def leader_of(stage: Stage, follower: StagedReplica | None = None) -> StagedReplica:
    """A leader that has listed an empty engine; one that has followed brings its model along."""
    leader = stage.replica(follower.model if follower else None)
    leader.list_engine()
    leader.run()
    return leader


def submit_by_a_wrong_clock(stage: Stage, task_id: str, off: float, **fields: object) -> None:
    """A submission by a machine whose clock is ahead by `off` seconds (behind, if negative)."""
    spec = parse_spec({"id": task_id, "command": ["true"], "resources": {"cpu": 1}, **fields})
    stage.put(stage.keys.task(task_id), codec.encode_spec(spec, stage.clock.now() + off, Op(f"s/{task_id}")))


def pass_time(stage: Stage, replicas: Iterable[StagedReplica], seconds: float) -> None:
    """Time passes, and everybody takes its turn."""
    stage.clock.move(seconds)
    for replica in replicas:
        replica.sync()
        replica.run()


@pytest.mark.parametrize("off", [-2 * HOUR, 0.0, 2 * HOUR, -1e6])
def test_a_queue_deadline_is_counted_from_the_leader_s_first_sight(stage: Stage, off: float) -> None:
    """Neither at once when the submitter's clock is slow, nor two hours late when it is fast."""
    leader = leader_of(stage)
    submit_by_a_wrong_clock(stage, "big", off, resources={"cpu": 4})
    pass_time(stage, [leader], 0)
    submit_by_a_wrong_clock(stage, "job", off, deadlines={"queue": "1h"})
    pass_time(stage, [leader], 0)
    assert stage.state("job") == State.CREATED
    pass_time(stage, [leader], HOUR - 1)
    assert stage.state("job") == State.CREATED
    pass_time(stage, [leader], 2)
    status = stage.status("job")
    assert status is not None
    assert (status.state, status.reason, status.attempt) == (State.FAILED, "QueueDeadlineExceeded", 0)


@pytest.mark.parametrize("off", [-2 * HOUR, 2 * HOUR])
@pytest.mark.parametrize("warm", [True, False])
def test_take_overs_lengthen_it_by_the_rest_of_one_term_at_most(stage: Stage, off: float, warm: bool) -> None:
    """A follower saw the submission as it came; a replica that comes later counts from the first term that
    had it for certain.
    """
    stage.put(stage.keys.term(1), codec.encode({"epoch": 1, "from": stage.clock.now()}))
    stage.submit("big", resources={"cpu": 4})
    first = leader_of(stage)
    submit_by_a_wrong_clock(stage, "job", off, deadlines={"queue": "1h"})
    pass_time(stage, [first], 0)
    follower = stage.replica()
    follower.model.sight(stage.clock.now())
    for epoch in (2, 3):  # half past, and an hour past the submission, less ten seconds
        stage.clock.move(HOUR / 2 - 5)
        stage.elect()
        stage.put(stage.keys.term(epoch), codec.encode({"epoch": epoch, "from": stage.clock.now()}))
    leader = leader_of(stage, follower if warm else None)
    assert stage.state("job") == State.CREATED, "never earlier than an hour after its submission"
    pass_time(stage, [leader], 9 if warm else HOUR / 2 - 1)
    assert stage.state("job") == State.CREATED
    pass_time(stage, [leader], 10)
    assert stage.state("job") == State.FAILED


def test_a_task_that_was_removed_and_submitted_again_is_seen_anew(stage: Stage) -> None:
    """The wait of its predecessor of the same name is not its own."""
    stage.submit("big", resources={"cpu": 4})
    leader = leader_of(stage)
    stage.submit("job", deadlines={"queue": "1h"})
    pass_time(stage, [leader], HOUR - 1)
    stage.delete(stage.keys.task("job"))
    stage.submit("job", deadlines={"queue": "1h"})
    pass_time(stage, [leader], 10)
    assert stage.state("job") == State.CREATED


def test_a_head_that_lacks_gpus_leaves_idle_cpus_to_others(stage: Stage) -> None:
    """And they leave it what it asks for: it starts in the pass in which the GPUs are there."""
    stage.submit("holder", resources={"cpu": 1, "gpu": 1})
    leader = leader_of(stage)
    leader.acknowledge(leader.effects)
    stage.submit("head", resources={"cpu": 1, "gpu": 4})
    pass_time(stage, [leader], 0)
    pass_time(stage, [leader], 61)
    stage.submit("no-gpu", resources={"cpu": 2})
    stage.submit("one-gpu", resources={"cpu": 1, "gpu": 1})
    stage.submit("last-cpu", resources={"cpu": 1})
    leader.sync()
    assert starts(leader.run()) == ["no-gpu-1"]
    assert "asks for cpu 1 (0 beside them), gpu 1 (0 beside them)" in explain(
        leader.model, "one-gpu", stage.clock.now()
    )
    assert "asks for cpu 1 (0 beside them)" in explain(leader.model, "last-cpu", stage.clock.now())
    leader.see(observation(("holder", 1), Phase.SUCCEEDED))
    assert starts(leader.run())[0] == "head-1"
    stage.check()


def test_a_retried_head_is_passed_for_as_long_as_explain_says(stage: Stage) -> None:
    """The planner and `explain` count from the same moment: the end of its back-off, not its submission an
    hour ago.
    """
    stage.submit("head", resources={"cpu": 4}, retry={"max_attempts": 2, "backoff_seconds": 0})
    leader = leader_of(stage)
    leader.acknowledge(leader.effects)
    leader.see(observation(("head", 1), Phase.RUNNING))
    pass_time(stage, [leader], HOUR)
    stage.submit("urgent", priority=1)
    leader.sync()
    leader.see(observation(("head", 1), Phase.FAILED))
    leader.acknowledge(leader.run())
    stage.clock.move(30)
    stage.submit("small")
    leader.sync()
    assert "head" in explain(leader.model, "small", stage.clock.now())
    assert "smaller ones may pass it for another" in explain(leader.model, "small", stage.clock.now())
    assert starts(leader.run()) == ["small-1"]
    stage.clock.move(31)
    stage.submit("late")
    leader.sync()
    assert "the resources that it needs are reserved" in explain(leader.model, "late", stage.clock.now())
    assert starts(leader.run()) == []


def test_a_request_to_retry_begins_the_back_off_anew(stage: Stage) -> None:
    """The policy's counts begin anew with a user's request, and so does the wait after the next failure."""
    stage.submit("job", retry={"max_attempts": 1, "backoff_seconds": 2})
    leader = leader_of(stage)
    for attempt in range(1, 8):
        leader.acknowledge(leader.effects[-1:])
        leader.see(observation(("job", attempt), Phase.FAILED))
        leader.run()
        stage.request("job", RequestKind.RETRY)
        pass_time(stage, [leader], 1)
    leader.acknowledge(leader.effects[-1:])
    leader.see(observation(("job", 8), Phase.FAILED, disrupted=True, reason="Interrupted"))
    leader.run()
    status = stage.status("job")
    assert status is not None
    assert status.retry_at is not None
    assert status.retry_at - stage.clock.now() < 2.3
