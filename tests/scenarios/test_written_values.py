"""Whatever a plan writes, the next replica reads: values that grow, and values that somebody has written."""

from __future__ import annotations

import pytest

from controller.core.model import codec
from controller.core.model.claims import MAX_VICTIMS, Claim, ClaimKind, decode_claim, encode_claim
from controller.core.model.op import Op
from controller.core.model.requests import RequestKind
from controller.core.model.resources import Vector
from controller.core.model.task import MAX_ATTEMPT, Phase
from tests.support.bench import Stage, observation, starts


@pytest.mark.parametrize("runs_on", [False, True])
def test_a_pool_may_have_had_many_resources(runs_on: bool) -> None:
    """Its capacity had other names at other times, which its sums have; its ledger, too, of what runs on."""
    stage = Stage()
    stage.pool(sharing={})
    leader = stage.leader()
    for number in range(70):
        name = f"license/tool-{number}"
        stage.pool(capacity={name: 4}, sharing={})
        stage.submit(f"t{number}", resources={name: 1})
        leader.sync()
        leader.acknowledge(leader.run())
        stage.clock.move(10)
        if not runs_on:
            leader.see(observation((f"t{number}", 1), Phase.SUCCEEDED))
            leader.run()
    assert stage.model().quarantine == {}
    stage.elect()
    following = stage.leader(*(observation((f"t{n}", 1), Phase.RUNNING) for n in range(70) if runs_on))
    stage.pool(capacity={"cpu": 4}, sharing={})
    stage.submit("new")
    following.sync()
    assert starts(following.run()) == ["new-1"]
    stage.check()


def test_a_claim_of_the_most_attempts_can_be_read() -> None:
    """With the longest names there are."""
    names = tuple(f"{'x' * 63}-{MAX_ATTEMPT}" for _ in range(MAX_VICTIMS))
    claim = Claim(kind=ClaimKind.PRIORITY, asked=Vector({"cpu": 1}), victims=names)
    assert decode_claim(encode_claim(claim, Op("x" * 100))).victims == names


def test_a_claim_may_stop_many(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """It names the newest."""
    count, name = 400, "x" * 45
    monkeypatch.setattr("controller.core.planning.preemption.MAX_VICTIMS", 50)
    preemption = {"by_priority": True, "min_run": 0, "per_minute": 100_000}
    stage.pool(capacity={"cpu": count}, sharing={}, preemption=preemption)
    for number in range(count):
        stage.submit(f"{name}-{number}", owner="o")
    leader = stage.leader()
    leader.acknowledge(leader.run())
    stage.submit("whale", resources={"cpu": count}, priority=9, owner="o")
    leader.sync()
    leader.run()
    model = stage.model()
    assert model.quarantine == {}
    assert len(model.claims["default"]["whale"].victims) == 50
    assert sum(bool(task.status and task.status.stopping) for task in model.tasks.values()) == count


@pytest.mark.parametrize("letter", ["x", "\U0001f600", '"', "\x01"])
def test_members_may_fail_for_any_reasons(stage: Stage, letter: str) -> None:
    """Each for another, of any letters: the block of them can be read."""
    stage.pool(capacity={"cpu": 2000})
    stage.turn_on_all()
    stage.submit("many", array={"size": 1024}, retry={"max_attempts": 1})
    leader = stage.leader()
    leader.acknowledge(leader.run())
    reasons = (
        f"{number:04}".translate(str.maketrans("0123", "abcd")) + letter * 64 for number in range(1024)
    )
    leader.see(
        *(
            observation((f"many-i{number}", 1), Phase.FAILED, exit_code=2**32 - number, reason=reason)
            for number, reason in enumerate(reasons)
        )
    )
    leader.run()
    assert stage.model().quarantine == {}
    assert stage.state("many") == "Failed"


def test_an_attempt_has_a_number_that_can_be_stored(stage: Stage) -> None:
    """Somebody has written the last one there is: the task is set aside, and says why. Others are served."""
    stage.pool()
    stage.submit("a")
    leader = stage.leader()
    leader.acknowledge(leader.run())
    leader.see(observation(("a", 1), Phase.FAILED, exit_code=1))
    leader.run()
    forged = codec.decode_mapping(stage.value(stage.keys.state("a"))) | {"attempt": MAX_ATTEMPT}
    stage.put(stage.keys.state("a"), codec.encode(forged))
    stage.request("a", RequestKind.RETRY)
    stage.submit("b")
    leader.sync()
    assert starts(leader.run()) == ["b-1"]
    assert stage.held() == {"cpu": "1"}
    [reason] = stage.model().quarantine.values()
    assert f"is above {MAX_ATTEMPT:,}, and cannot be stored" in reason


def test_what_was_used_of_a_pool_that_is_gone_is_removed_in_its_time(stage: Stage) -> None:
    stage.pool(sharing={})
    stage.submit("a", resources={"cpu": 1})
    leader = stage.leader()
    leader.acknowledge(leader.run())
    leader.see(observation(("a", 1), Phase.SUCCEEDED))
    leader.run()
    stage.clock.move(3 * 86_400)
    leader.sync()
    leader.run()
    assert stage.model().known("usage")
    stage.delete(stage.keys.pool("default"))
    leader.sync()
    stage.clock.move(300 * 86_400)
    leader.run()
    assert stage.model().known("usage")
    stage.clock.move(200 * 86_400)
    leader.run()
    assert not [*stage.model().known("usage")]


def test_nothing_is_kept_of_pools_that_never_were(stage: Stage) -> None:
    """Whatever names users give."""
    leader = stage.leader()
    for number in range(50):
        stage.submit(f"t{number}", pool=f"misspelt-{number}", retention_seconds=0)
    leader.sync()
    leader.run()
    for number in range(50):
        stage.request(f"t{number}", RequestKind.CANCEL)
    leader.sync()
    leader.run()
    stage.clock.move(10)
    leader.run()
    assert (leader.model.tasks, leader.model.queues, leader.model.counts) == ({}, {}, {})
