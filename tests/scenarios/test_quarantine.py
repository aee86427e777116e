"""An error of Tally's own on one task: that task is set aside, shown and left alone, and all others go on
(fault 47).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from controller.core.model.lifecycle import State
from controller.core.model.requests import RequestKind
from controller.core.model.task import AttemptId, Observation, Phase
from controller.core.planning.events import Observed
from controller.core.promise.invariants import check_layout
from controller.store.base import RequestTooLarge, Transaction
from controller.views.explain import explain
from tests.support.bench import Stage, StagedReplica, observation, starts


class Poison:
    """Raises whenever the task is looked at."""

    def __init__(self, task_id: str = "poison") -> None:
        self.task_id = task_id
        self.seen = 0

    def __call__(self, task_id: str) -> None:
        if task_id == self.task_id:
            self.seen += 1
            raise KeyError(f"no row for {task_id}")


def leader_of(stage: Stage, looks_at: Callable[[str], None] | None = None) -> StagedReplica:
    leader = stage.replica()
    if looks_at is not None:
        leader.planner._looks_at = looks_at
    leader.list_engine()
    return leader


def test_one_task_is_set_aside_and_the_others_run(stage: Stage) -> None:
    """Its key says why; explain, the audit and the next leader know it, and that leader does not fall over
    it again.
    """
    for task_id in ("a", "poison", "z"):
        stage.submit(task_id)
    poison = Poison()
    leader = leader_of(stage, poison)
    assert starts(leader.run()) == ["a-1", "z-1"]
    assert poison.seen == 1
    model = stage.model()
    assert model.tasks["poison"].frozen == {"quarantined"}
    assert "quarantined after an error in Tally itself (admission: KeyError: " in explain(
        model, "poison", stage.clock.now()
    )
    (finding,) = check_layout(model)
    assert finding.subject == "key/quarantined/poison"
    stage.check()
    stage.elect()
    successor = leader_of(stage, again := Poison())
    stage.submit("more")
    successor.sync()
    assert starts(successor.run())[-1] == "more-1"
    assert again.seen == 0
    assert stage.state("poison") == State.CREATED


def test_an_error_in_admission_leaves_the_queue_to_the_others(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The head of the queue cannot be admitted for an error: it has left it."""
    stage.submit("head", priority=5)
    stage.submit("next")
    leader = leader_of(stage)
    real = leader.planner._driver.start

    def start(attempt: AttemptId, *args: Any, **options: Any) -> object:
        if attempt.task_id == "head":
            raise RecursionError("maximum recursion depth exceeded")
        return real(attempt, *args, **options)

    monkeypatch.setattr(leader.planner._driver, "start", start)
    assert starts(leader.run()) == ["next-1"]
    assert stage.model().tasks["head"].frozen == {"quarantined"}
    stage.check()


@pytest.mark.parametrize("kind", [RequestKind.CANCEL, RequestKind.RETRY])
def test_who_asks_for_anything_has_it_looked_at_again(stage: Stage, kind: RequestKind) -> None:
    """The record goes once it does not hold any more; and comes again if the error does."""
    stage.submit("poison")
    leader = leader_of(stage, Poison())
    leader.run()
    assert stage.model().asides
    stage.request("poison", kind)
    leader.sync()
    leader.run()
    assert stage.model().tasks["poison"].frozen == {"quarantined"}, "it raised again"
    leader.planner._looks_at = lambda _: None
    stage.submit("poison", priority=1)  # changed by hand
    leader.sync()
    leader.run()
    assert not stage.model().asides
    assert not stage.model().tasks["poison"].requests
    stage.check()


def test_an_operator_has_it_looked_at_again(stage: Stage) -> None:
    """By the deletion of its record."""
    stage.submit("poison")
    leader = leader_of(stage, Poison())
    leader.run()
    leader.planner._looks_at = lambda _: None
    stage.delete(stage.keys.quarantined("poison"))
    leader.sync()
    assert starts(leader.run()) == ["poison-1"]


def test_what_is_set_aside_keeps_its_hold(stage: Stage) -> None:
    """Nothing is concluded of an attempt that nobody looks at: I1 holds, and nothing else is admitted in
    its place.
    """
    stage.submit("poison", resources={"cpu": 4})
    leader = leader_of(stage)
    leader.acknowledge(leader.run())
    leader.planner._looks_at = Poison()
    leader.see(observation(("poison", 1), Phase.RUNNING))
    stage.submit("other")
    leader.sync()
    leader.see(observation(("poison", 1), Phase.SUCCEEDED))
    assert starts(leader.run()) == []
    assert stage.held() == {"cpu": "4"}
    stage.check()
    leader.planner._looks_at = lambda _: None
    stage.delete(stage.keys.quarantined("poison"))
    leader.sync()
    assert starts(leader.run()) == ["other-1"]
    assert stage.state("poison") == State.SUCCEEDED


def test_an_observation_that_raises_costs_its_own_task_alone(stage: Stage) -> None:
    """Whatever it is made of."""
    stage.submit("poison")
    stage.submit("other")
    leader = leader_of(stage)
    leader.acknowledge(leader.run())
    made_of: dict[str, Any] = {"phase": "Odd", "uid": 5}
    odd = Observation(attempt=AttemptId("poison", 1), **made_of)
    leader.reconciler.handle(Observed(leader.leadership.epoch, odd))
    leader.see(observation(("other", 1), Phase.SUCCEEDED))
    leader.run()
    assert stage.state("other") == State.SUCCEEDED
    assert stage.model().tasks["poison"].frozen == {"quarantined"}


def test_a_task_that_etcd_refuses_as_too_large_ends_no_term(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its transaction cannot be split: it is set aside."""
    stage.submit("poison")
    stage.submit("other")
    leader = leader_of(stage)
    real = stage.store.commit

    def commit(transaction: Transaction, **options: Any) -> object:
        if any(write.key == stage.keys.state("poison") for write in transaction.writes):
            raise RequestTooLarge("too large")
        return real(transaction, **options)

    monkeypatch.setattr(stage.store, "commit", commit)
    assert starts(leader.run()) == ["other-1"]
    assert stage.model().tasks["poison"].frozen == {"quarantined"}


def test_limits_that_were_learned_hold_for_the_term(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A refusal tells of etcd's limits: all further plans keep to them; the next leader learns them anew."""
    refused: list[int] = []
    real = stage.store.commit

    def commit(transaction: Transaction, **options: Any) -> object:
        if transaction.operations() > 40:
            refused.append(transaction.operations())
            raise RequestTooLarge("too large")
        return real(transaction, **options)

    monkeypatch.setattr(stage.store, "commit", commit)
    stage.pool(capacity={"cpu": 1000})
    for n in range(120):
        stage.submit(f"job{n:03}")
    leader = leader_of(stage)
    assert len(starts(leader.run())) == 120
    learned = len(refused)
    assert 0 < learned <= 3
    for n in range(120, 240):
        stage.submit(f"job{n:03}")
    leader.sync()
    assert len(starts(leader.run())) == 120
    assert len(refused) == learned
    stage.check()


@pytest.mark.parametrize("another_leads", [False, True])
def test_who_ends_a_term_is_set_aside_by_its_leader_alone(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, another_leads: bool
) -> None:
    """The plan in hand tells which task it was, if it changes one task, and no other replica leads. After a
    commit, none is in hand.
    """
    for task_id in ("a", "poison"):
        stage.submit(task_id)
    careless, leader = leader_of(stage), leader_of(stage)
    leader.planner.take_care()
    real, error = stage.store.commit, ArithmeticError("of Tally itself")

    def commit(transaction: Transaction, **options: Any) -> object:
        if any(write.key == stage.keys.state("poison") for write in transaction.writes):
            raise error
        return real(transaction, **options)

    monkeypatch.setattr(stage.store, "commit", commit)
    with pytest.raises(ArithmeticError):
        careless.run()
    assert careless.reconciler.blame(error) == ""
    assert leader.reconciler.step()
    assert stage.state("a") == State.PENDING
    assert leader.reconciler.blame(error) == ""
    with pytest.raises(ArithmeticError):
        leader.run()
    if another_leads:
        stage.elect()
    assert leader.reconciler.blame(error) == "poison"
    assert stage.model().tasks["poison"].frozen == (set() if another_leads else {"quarantined"})
    assert not stage.model().tasks["a"].frozen


def test_what_a_lost_term_had_set_aside_and_not_stored_is_looked_at_again(stage: Stage) -> None:
    """A follower shows what stands in etcd: the next leader has to judge the task itself."""
    stage.submit("bad")
    leader = stage.leader()
    leader.sync()
    leader.planner.set_aside("bad", "planning", ValueError("boom"), stage.clock.now())
    assert leader.model.tasks["bad"].frozen
    leader.model.forget_unstored()
    assert not leader.model.tasks["bad"].frozen
    assert not leader.model.quarantine
    assert leader.model.counts == stage.model().counts
    assert starts(leader.run()) == ["bad-1"]


def test_what_is_stored_as_set_aside_outlives_the_term(stage: Stage) -> None:
    stage.submit("bad")
    leader = stage.leader()
    leader.sync()
    leader.planner.set_aside("bad", "planning", ValueError("boom"), stage.clock.now())
    leader.run()
    leader.model.forget_unstored()
    assert leader.model.tasks["bad"].frozen
    assert stage.model().tasks["bad"].frozen


def test_a_cancel_of_an_array_is_not_done_before_it_is_stored_who_is_set_aside(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The leader that consumed it first could end before it had stored that, and the cancel would be lost."""
    stage.submit("a", array={"size": 2})
    leader = leader_of(stage)
    leader.acknowledge(leader.run())
    leader.see(observation(("a-i0", 1), Phase.SUCCEEDED))
    leader.run()
    leader.planner._looks_at = Poison("a-i1")
    stage.request("a", RequestKind.CANCEL)
    leader.sync()
    written: list[str] = []
    real = stage.store.commit

    def commit(transaction: Transaction, **options: Any) -> object:
        written.extend(write.key.removeprefix(stage.keys.prefix) for write in transaction.writes)
        return real(transaction, **options)

    monkeypatch.setattr(stage.store, "commit", commit)
    leader.run()
    assert written == ["quarantined/a-i1", "states/a", "requests/a/cancel"]
