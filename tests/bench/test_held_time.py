"""What became of a pool's capacity: each unit of each second is told once."""

from __future__ import annotations

import pytest

from controller.core.model.task import AttemptId, Phase
from controller.core.planning.plan import Start
from tests.bench.held_time import PARTS, HeldTime
from tests.support.bench import Stage, StagedReplica, observation


def _settle(leader: StagedReplica) -> None:
    leader.sync()
    while effects := leader.run():
        leader.acknowledge(effects)
        for effect in effects:
            if isinstance(effect, Start):
                started = leader.stage.clock.now()
                leader.see(observation(effect.attempt, Phase.RUNNING, started_at=started))


def test_each_second_of_each_unit_is_told_once() -> None:
    stage = Stage()
    preemption = {"by_priority": True, "min_run": 0}
    stage.pool(capacity={"cpu": 4}, sharing={"owners": {}}, preemption=preemption)
    leader = stage.leader()
    stage.submit("low", resources={"cpu": 3})
    _settle(leader)
    stage.clock.move(2)
    stage.submit("high", resources={"cpu": 4}, priority=1)
    _settle(leader)
    stage.clock.move(1)
    leader.see(observation(AttemptId("low", 1), Phase.FAILED, reason="Stopped"))
    _settle(leader)
    for task_id, number in (("high", 1), ("low", 2)):
        stage.clock.move(5)
        leader.see(observation(AttemptId(task_id, number), Phase.SUCCEEDED))
        _settle(leader)
    held = HeldTime(stage.keys, "cpu", {"default": 4})
    watch = stage.store.watch(stage.keys.prefix, after=1)
    while (batch := watch.poll()) is not None:  # type: ignore[attr-defined]
        held.take(batch.events)
    assert held.totals() == pytest.approx(
        dict.fromkeys(PARTS, 0.0)
        | {
            "useful": 4 * 5 + 3 * 5,
            "redone": 3 * 2,
            "stopping": 3 * 1,
            "claimed": 1,
            "unasked": 1 * 2 + 1 * 5,
        }
    )
    assert held.preempted == 1
