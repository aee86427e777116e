"""`keep_logs`: when the end of an attempt's output is read and written, and when it goes."""

from __future__ import annotations

from typing import Any

import pytest

from controller.core.model import kept_log
from controller.core.model.kept_log import KeptLog
from controller.core.model.op import Op
from controller.core.model.requests import RequestKind
from controller.core.model.task import Phase
from controller.core.model.validation import parse_pool, parse_spec
from controller.core.planning.events import LogKept
from controller.core.planning.plan import Effect, KeepLog, Settle
from controller.errors import InvalidField
from tests.support.bench import Stage, StagedReplica, observation, starts

VALUE = kept_log.encode(KeptLog(attempt=1, text="x"), Op("op"))


def running(stage: Stage, pool: dict[str, Any], spec: dict[str, Any]) -> StagedReplica:
    """A leader of which the first attempt of `job` runs."""
    stage.pool(**pool)
    stage.submit("job", **spec)
    leader = stage.replica()
    leader.list_engine()
    leader.acknowledge(leader.run())
    leader.see(observation(("job", 1), Phase.RUNNING, uid="u"))
    leader.run()
    return leader


def ended(stage: Stage, pool: dict[str, Any], spec: dict[str, Any], **seen: Any) -> StagedReplica:
    """A leader that has committed the end of the first attempt of `job`, and done nothing after it."""
    leader = running(stage, pool, spec)
    leader.see(observation(("job", 1), Phase.FAILED, uid="u", awaits_commit=True, **seen))
    leader.run()
    return leader


def kept(effects: list[Effect]) -> list[str]:
    return [str(effect.attempt) for effect in effects if isinstance(effect, KeepLog)]


def settled(effects: list[Effect]) -> list[str]:
    return [str(effect.attempt) for effect in effects if isinstance(effect, Settle)]


def done(leader: StagedReplica, revision: int = 0) -> list[Effect]:
    """The log of the last KeepLog is written, or given up."""
    (effect,) = [effect for effect in leader.effects if isinstance(effect, KeepLog)][-1:]
    leader.reconciler.handle(LogKept(leader.leadership.epoch, effect, revision))
    return leader.run()


ON: dict[str, Any] = {"keep_logs": True}
OFF: dict[str, Any] = {"keep_logs": False}


@pytest.mark.parametrize(
    ("pool", "spec", "is_kept"),
    [({}, {}, False), (ON, {}, True), (ON, OFF, False), (OFF, ON, True), ({}, ON, True)],
)
def test_the_task_decides_and_else_its_pool(
    pool: dict[str, Any], spec: dict[str, Any], is_kept: bool
) -> None:
    """Off, nothing is done that would not be done without the option."""
    leader = ended(Stage(), pool, spec)
    assert kept(leader.effects) == (["job-1"] if is_kept else [])
    assert settled(leader.effects) == ([] if is_kept else ["job-1"])


@pytest.mark.parametrize("seen", [{"gone": True}, {"ran": False}])
def test_what_has_no_output_is_not_read(seen: dict[str, Any]) -> None:
    leader = ended(Stage(), ON, {}, **seen)
    assert (kept(leader.effects), settled(leader.effects)) == ([], ["job-1"])


def test_the_engine_may_let_go_only_when_the_log_was_read() -> None:
    """The end is committed first, then the log is kept, then the engine may let go of the attempt; each
    once.
    """
    stage = Stage()
    leader = ended(stage, ON, {})
    assert (stage.state("job"), stage.held()) == ("Failed", {})
    leader.see(observation(("job", 1), Phase.FAILED, uid="u", awaits_commit=True))
    leader.list_engine(observation(("job", 1), Phase.FAILED, uid="u", awaits_commit=True))
    assert settled(leader.run()) == []
    assert settled(done(leader)) == ["job-1"]
    assert kept(leader.effects) == ["job-1"]


def test_a_log_that_is_not_read_yet_holds_up_nothing() -> None:
    """The hold has ended, and the next attempt starts."""
    stage = Stage()
    leader = ended(stage, ON, {"retry": {"max_attempts": 2, "backoff_seconds": 1}})
    assert stage.held() == {}
    stage.clock.move(2)
    assert starts(leader.run()) == ["job-2"]
    assert settled(done(leader)) == ["job-1"]


def test_a_refused_end_keeps_no_log_until_it_is_committed() -> None:
    stage = Stage()
    leader = running(stage, ON, {})
    status, _ = stage.store.get(stage.keys.state("job"), deadline=stage.clock.boottime() + 5)
    assert status is not None
    stage.put(stage.keys.state("job"), status.value)  # by hand: the leader has not seen it yet
    leader.see(observation(("job", 1), Phase.FAILED, uid="u"))
    leader.reconciler.step()
    assert kept(leader.effects) == []
    assert kept(leader.run()) == ["job-1"]


def test_a_log_is_under_way_although_the_answer_to_the_end_was_lost() -> None:
    """The store has shown that the end was committed. The engine may let go once the log was read."""
    stage = Stage()
    leader = running(stage, ON, {})
    leader.see(observation(("job", 1), Phase.FAILED, uid="u", awaits_commit=True))
    plan = leader.planner.plan(stage.clock.now())
    assert kept(plan.effects) == ["job-1"]
    leader.commit(plan, answered=False)
    leader.sync()
    assert (stage.state("job"), settled(leader.run())) == ("Failed", [])


@pytest.mark.parametrize("is_known", ["watched", "written", "under way"])
def test_the_log_goes_with_its_task(is_known: str) -> None:
    """Whether the watch has brought it, or only the answer to the write, or not even that."""
    stage = Stage()
    leader = ended(stage, ON, {"retention_seconds": 60})
    if is_known == "under way":
        stage.put(stage.keys.log("job"), VALUE)
    else:
        done(leader, stage.put(stage.keys.log("job"), VALUE))
    if is_known == "watched":
        leader.sync()
    assert stage.model().mod_of("logs", ("job",))
    stage.clock.move(61)
    leader.run()
    assert stage.store.load(stage.keys.prefix + "logs/", deadline=stage.clock.boottime() + 5).items == ()
    assert "job" not in stage.model().tasks
    assert leader.model.mod_of("logs", ("job",)) == 0


def test_the_next_leader_removes_the_log_of_the_last_one() -> None:
    stage = Stage()
    leader = ended(stage, ON, {"retention_seconds": 60})
    done(leader, stage.put(stage.keys.log("job"), VALUE))
    stage.pool(**OFF)
    stage.elect()
    successor = stage.replica()
    successor.list_engine()
    stage.clock.move(61)
    successor.run()
    assert stage.model().mod_of("logs", ("job",)) == 0
    stage.check()


def test_a_log_is_no_task_and_no_damage() -> None:
    """Whatever its value: nothing is decided by it, and the model does not keep it."""
    stage = Stage()
    stage.put(stage.keys.log("job"), b"\xff" * 1000)
    model = stage.model()
    assert (model.tasks, model.quarantine) == ({}, {})


def test_a_cancelled_attempt_keeps_its_log() -> None:
    stage = Stage()
    leader = running(stage, ON, {})
    stage.request("job", RequestKind.CANCEL)
    leader.sync()
    leader.run()  # its Stop is under way
    leader.see(observation(("job", 1), Phase.FAILED, uid="u", awaits_commit=True))
    assert kept(leader.run()) == ["job-1"]
    assert stage.state("job") == "Cancelled"


def test_anything_but_true_and_false_is_refused() -> None:
    for parse, fields in (
        (parse_spec, {"id": "a", "command": ["x"]}),
        (parse_pool, {"name": "p", "capacity": {"cpu": 1}}),
    ):
        with pytest.raises(InvalidField, match="keep_logs: is 'yes', expected true or false"):
            parse({**fields, "keep_logs": "yes"})
