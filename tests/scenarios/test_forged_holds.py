"""Holds and ledgers written by hand: no task is admitted into room that other tasks hold (I1, I2)."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from controller.core.model import codec
from controller.core.model.lifecycle import HOLDING
from controller.core.model.op import Op
from controller.core.model.resources import ZERO, Vector
from controller.core.model.task import Phase
from controller.core.promise.invariants import check_ledgers
from controller.views.explain import explain
from tests.support.bench import Stage, observation, starts, stops
from tests.support.examples import examples

AMOUNTS = st.integers(0, 5)


def forge(stage: Stage, task_id: str, state: str, cpus: int) -> None:
    """A status that no leader wrote."""
    value = {"version": 1, "state": state, "attempt": 1, "pool": "default", "hold": {"cpu": str(cpus)}}
    stage.put(stage.keys.state(task_id), codec.encode(value))


def forge_ledger(stage: Stage, cpus: int) -> None:
    """A ledger that no leader wrote; it may say less than nothing, as one did that lost updates."""
    stage.put(stage.keys.ledger("default"), codec.encode_ledger(Vector({"cpu": 1000 * cpus}), Op("hand"), {}))


def holds(stage: Stage) -> Vector:
    """What the tasks in the store hold, in sum."""
    total = ZERO
    for task in stage.model().tasks.values():
        if task.status is not None and task.state in HOLDING:
            total += task.status.hold
    return total


def test_a_hold_that_nobody_took_gives_no_room_when_it_is_released(stage: Stage) -> None:
    """A status without a spec comes to an end, and the hold that it claims is given back: the ledger is then
    below the holds. Admission goes by the holds, and explain says why a task waits.
    """
    leader = stage.leader()
    forge(stage, "ghost", "Running", 3)
    leader.sync()
    assert stops(leader.run()) == ["ghost-1"]
    leader.see(observation(("ghost", 1), Phase.FAILED, ran=False))
    leader.run()
    assert "ghost" not in stage.model().tasks
    assert stage.held() == {"cpu": "-3"}
    for n in range(8):
        stage.submit(f"job{n}")
    leader.sync()
    assert len(starts(leader.run())) == 4
    (finding,) = check_ledgers(stage.model(), stage.model().tasks.values())
    assert (finding.invariant, finding.subject) == ("I1", "pool/default")
    told = explain(stage.model(), "job7", stage.clock.now())
    assert "cpu 1 (0 free)" in told
    assert "its ledger says that cpu 1 is held, but they hold cpu 4: run `tally audit`" in told


def test_a_hold_that_is_not_in_the_ledger_counts(stage: Stage) -> None:
    """As long as it is there; the room that its end leaves is used at once."""
    leader = stage.leader()
    forge(stage, "ghost", "Running", 3)
    stage.submit("ghost", resources={"cpu": 3})
    for n in range(4):
        stage.submit(f"job{n}")
    leader.sync()
    leader.see(observation(("ghost", 1), Phase.RUNNING))
    assert starts(leader.run()) == ["job0-1"]
    stage.delete(stage.keys.state("ghost"))
    stage.delete(stage.keys.task("ghost"))
    leader.sync()
    assert starts(leader.run()) == ["job1-1", "job2-1", "job3-1"]


@settings(max_examples=examples(200))
@given(
    ledger=st.none() | st.integers(-9, 9),
    forged=st.lists(st.tuples(st.sampled_from(["Pending", "Running"]), AMOUNTS, st.booleans()), max_size=3),
    asked=st.lists(st.integers(1, 4), max_size=5),
    ends=st.integers(0, 5),
)
def test_admissions_never_take_what_is_held(
    ledger: int | None, forged: list[tuple[str, int, bool]], asked: list[int], ends: int
) -> None:
    """Whatever ledger and statuses are written by hand, before and while tasks are admitted and end."""
    stage = Stage()
    stage.pool()
    leader = stage.leader()
    for n, cpus in enumerate(asked):
        stage.submit(f"job{n}", resources={"cpu": cpus})
    leader.sync()
    leader.acknowledge(leader.run())
    if ledger is not None:
        forge_ledger(stage, ledger)
    for n, (state, cpus, submitted) in enumerate(forged):
        if submitted:
            stage.submit(f"ghost{n}", resources={"cpu": max(1, cpus)})
        forge(stage, f"ghost{n}", state, cpus)
    leader.sync()
    for n in range(ends):
        effects = leader.run()
        leader.acknowledge(effects)
        if any(attempt.startswith("job") for attempt in starts(effects)):
            assert not holds(stage).exceeding(Vector({"cpu": 4000}))
        leader.see(observation((f"job{n}", 1), Phase.SUCCEEDED))
