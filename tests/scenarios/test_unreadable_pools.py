"""A pool whose definition cannot be read, such as that of a newer release: what it holds is given back, no
term ends, and nothing is started that nobody knows how to start.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from controller.core.model import codec
from controller.core.model.model import Model
from controller.core.model.task import Phase
from controller.core.planning.accounts import Accounts
from controller.core.planning.events import EffectFailed
from controller.core.planning.plan import Start
from controller.store.records import changes_of
from controller.views.explain import explain
from tests.support.bench import Stage, StagedReplica, observation, starts

SHARING = {"owners": {"vision": {"weight": 2}}}
Fields = dict[str, Any]


def newer(stage: Stage, name: str = "default") -> bytes:
    """Write the pool as a newer release might. Returns its former value."""
    before = stage.value(stage.keys.pool(name))
    stage.put(stage.keys.pool(name), codec.encode({**codec.decode_mapping(before), "policy": "newer"}))
    return before


def begun(stage: Stage, *names: str, **fields: Any) -> StagedReplica:
    """A leader of which these tasks were started."""
    for name in names:
        stage.submit(name, **fields)
    leader = stage.leader()
    leader.acknowledge(leader.run())
    return leader


def warm(stage: Stage) -> Model:
    """The model of a replica that has read all there is now."""
    model, found = Model(), stage.store.load(stage.keys.prefix, deadline=1e12)
    model.load(changes_of(stage.keys, found.items), found.revision)
    return model


@pytest.mark.parametrize("fields", [{}, {"sharing": SHARING}], ids=["plain", "shared"])
def test_what_ends_meanwhile_gives_back_what_it_held(fields: Fields) -> None:
    """And the pool is what it was once it can be read."""
    stage = Stage()
    stage.pool(**fields)
    leader = begun(stage, "a", "b", owner="vision")
    before = newer(stage)
    leader.sync()
    leader.see(*(observation((name, 1), Phase.SUCCEEDED) for name in "ab"))
    leader.run()
    assert ({stage.state(name) for name in "ab"}, stage.held()) == ({"Succeeded"}, {})
    assert "unnoticed" not in repr(leader.model.asides)
    stage.put(stage.keys.pool("default"), before)
    leader.sync()
    stage.submit("c", owner="vision")
    leader.sync()
    assert starts(leader.run()) == ["c-1"]
    stage.check()


@pytest.mark.parametrize("is_damaged", [False, True])
def test_no_term_ends_whoever_leads(is_damaged: bool) -> None:
    """Replicas that had read the former value, and such that had not, in turns."""
    stage = Stage()
    stage.pool(sharing=SHARING)
    leader = begun(stage, "a", "b", owner="vision")
    models = [warm(stage) for _ in range(3)]
    newer(stage)
    if is_damaged:
        stage.submit("z", pool="other")
        stage.put(stage.keys.state("z"), b"{")
        share = stage.keys.of("shares", ("default", "vision"))
        stage.put(share, stage.value(share))
    leader.sync()
    leader.run()
    listed = [observation(("a", 1), Phase.SUCCEEDED), observation(("b", 1), Phase.RUNNING)]
    stage.elect()
    stage.leader(*listed).run()
    for model in models:
        stage.elect()
        replica = stage.replica(model)
        replica.list_engine(*listed)
        replica.run()
    assert stage.state("a") == "Succeeded"


def test_a_pool_whose_sums_raise_an_error_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it is: the accounts of others are closed, and the term goes on."""
    stage = Stage()
    for name in ("bad", "good"):
        stage.pool(name, sharing=SHARING)
    close = Accounts._close

    def broken(self: Accounts, pool: str, *given: Any) -> Any:
        if pool == "bad":
            raise ZeroDivisionError("a bug")
        return close(self, pool, *given)

    monkeypatch.setattr(Accounts, "_close", broken)
    stage.submit("a", pool="good", owner="vision")
    leader = stage.leader()
    assert starts(leader.run()) == ["a-1"]
    leader.acknowledge([])
    stage.clock.move(3 * 86_400)
    leader.run()
    today = int(stage.clock.now()) // 86_400
    assert {name: leader.model.ledger(name).account.day == today for name in ("bad", "good")} == {
        "bad": False,
        "good": True,
    }


def test_a_task_that_is_set_aside_is_tried_again_when_its_pool_changes() -> None:
    """Also by the next leader, which finds it set aside."""
    stage = Stage()
    stage.pool()
    leader = begun(stage, "a")
    leader.planner.set_aside("a", "planning", KeyError("default"), stage.clock.now())
    leader.see(observation(("a", 1), Phase.SUCCEEDED))
    leader.run()
    stage.elect()
    following = stage.leader(observation(("a", 1), Phase.SUCCEEDED))
    following.run()
    assert (stage.state("a"), [*following.model.asides]) == ("Pending", ["a"])
    stage.pool(backfill_seconds=5)
    following.sync()
    following.run()
    assert (stage.state("a"), stage.held(), following.model.asides) == ("Succeeded", {}, {})


def deleted(stage: Stage) -> None:
    stage.delete(stage.keys.pool("default"))


@pytest.mark.parametrize("how", [newer, deleted], ids=["unreadable", "deleted"])
def test_an_attempt_is_not_started_without_its_pool(how: Callable[[Stage], object]) -> None:
    """Nobody knows in which namespace, and as what: it waits, and says so."""
    stage = Stage()
    stage.pool(engine_options={"namespace": "gpu-team"})
    stage.submit("a")
    leader = stage.leader()
    [start] = leader.run()
    before = stage.value(stage.keys.pool("default"))
    leader.reconciler.handle(EffectFailed(leader.leadership.epoch, start, "connection reset", 1.0))
    how(stage)
    leader.sync()
    stage.clock.move(5)
    assert leader.run() == []
    stage.elect()
    following = stage.leader()
    assert following.run() == []
    told = explain(following.model, "a", stage.clock.now())
    assert "if it has not been started yet, it is not: pool default " in told
    stage.put(stage.keys.pool("default"), before)
    following.sync()
    [again] = following.run()
    assert isinstance(again, Start)
    assert again.launch.pool.engine_options == {"namespace": "gpu-team"}
    stage.check()


def test_an_end_that_nobody_is_told_of_is_counted() -> None:
    """Who is to be told stands in the pool. What ends afterwards is told."""
    stage = Stage()
    stage.pool(notify=[{"url": "https://x.example/h", "on": ["succeeded"]}])
    stage.turn_on_all()
    leader = begun(stage, "a", "b")
    before = newer(stage)
    leader.sync()
    leader.see(observation(("a", 1), Phase.SUCCEEDED))
    plan = leader.planner.plan(stage.clock.now())
    assert plan is not None
    assert plan.unnoticed == 1
    leader.commit(plan)
    stage.put(stage.keys.pool("default"), before)
    leader.sync()
    leader.see(observation(("b", 1), Phase.SUCCEEDED))
    leader.run()
    assert [task for task, _ in stage.model().notices] == ["b"]
