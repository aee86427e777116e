"""Nobody's work keeps the control loop, or all others, waiting: what there may be thousands of gives way."""

from __future__ import annotations

import pytest

from controller.core.model.notices import (
    Dead,
    Delivery,
    EndNotice,
    encode_delivery,
    encode_notice,
    sequence_text,
)
from controller.core.model.notify_rules import Ending
from controller.core.model.op import Op
from controller.core.model.requests import RequestKind
from controller.core.model.schedules import encode_schedule, parse_schedule
from controller.core.model.task import Phase
from controller.core.planning import planner
from tests.support.bench import Stage, StagedReplica, observation

URL = "https://x.example/"
SOON = 6  # steps


def steps_until(leader: StagedReplica, state: str, task: str = "v") -> int:
    """How many plans are committed before the task is in this state, or is being stopped."""
    for number in range(1, 3000):
        leader.reconciler.step()
        found = leader.model.tasks[task]
        if found.state.value == state or (found.status is not None and found.status.stopping):
            return number
    raise AssertionError(f"{task} has not become {state}")


def test_missed_ticks_delay_no_end() -> None:
    """Schedules that were not looked at for two hours, each with a task for each minute."""
    stage = Stage()
    stage.turn_on_all()
    stage.pool(capacity={"cpu": 1})
    for number in range(40):
        fields = {"name": f"s{number}", "cron": "* * * * *", "catch_up": "all", "task": {"command": ["true"]}}
        stage.put(f"{stage.keys.schedules}s{number}", encode_schedule(parse_schedule(fields), Op("x")))
    stage.submit("v")
    leader = stage.leader()
    leader.acknowledge(leader.run())
    stage.clock.move(7200)
    stage.elect()
    leader = stage.leader(observation(("v", 1), Phase.RUNNING))
    leader.see(observation(("v", 1), Phase.SUCCEEDED))
    assert steps_until(leader, "Succeeded") <= SOON
    while leader.reconciler.step():
        pass
    assert len(leader.model.tasks) > 40 * 100, "and all ticks are made"


def test_notices_that_are_given_up_delay_no_cancel() -> None:
    """One after the other takes the place of the oldest, while as many are kept as may be."""
    stage = Stage()
    stage.turn_on_all()
    stage.pool()

    def notice(number: int, *, is_dead: bool) -> bytes:
        told = EndNotice(
            task=f"t{number}",
            urls=(URL,),
            ending=Ending("failed"),
            at=1000.0,
            pool="default",
            owner="default",
            dead=Dead(why={URL: "no"}, at=1000.0 + number) if is_dead else None,
        )
        return encode_notice(told, Op("x"))

    def key(kind: str, number: int) -> str:
        return f"{stage.keys.prefix}{kind}/t{number}/{sequence_text(number + 1)}"

    for number in range(1100):
        stage.put(key("outbox", number), notice(number, is_dead=number < 1000))
    stage.submit("v")
    leader = stage.leader()
    leader.acknowledge(leader.run())
    for number in range(1000, 1100):
        given_up = Delivery(at=2000.0 + number, by="n", dead={URL: "no"})
        stage.put(key("delivered", number), encode_delivery(given_up, Op("x")))
    stage.request("v", RequestKind.CANCEL)
    leader.sync()
    assert steps_until(leader, "Cancelled") <= SOON
    while leader.reconciler.step():
        pass
    assert (len(leader.model.dead), leader.model.deliveries) == (1000, {})


def test_children_of_many_parents_are_looked_at_a_few_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """And not once for each parent that ends: the loop would not turn before its lease is over."""
    stage, parents, children = Stage(), 40, 80
    stage.turn_on_all()
    stage.pool(paused=True)
    names = [f"p{number}" for number in range(parents)]
    for name in names:
        stage.submit(name)
    for number in range(children):
        stage.submit(f"c{number}", after=names)
    leader = stage.leader()
    leader.run()
    for name in names:
        stage.request(name, RequestKind.CANCEL)
    leader.sync()
    looks: list[str] = []
    plan_task = planner.Planner._plan_task

    def counting(self: planner.Planner, task_id: str, *rest: object) -> bool:
        looks.append(task_id)
        return plan_task(self, task_id, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(planner.Planner, "_plan_task", counting)
    leader.run()
    assert {stage.state(f"c{number}") for number in range(children)} == {"Failed"}
    assert len(looks) < 10 * (parents + children)
    stage.check()
