"""What an effect asks before it takes effect."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from controller.client import Client
from controller.core.model.installation import EngineIdentity, Installation
from controller.core.model.op import Op
from controller.core.model.task import AttemptId, Launch, Observation, Pool, Spec
from controller.core.planning.events import EffectFailed, Started
from controller.core.planning.plan import Forget, Prove, Start
from controller.election.term import Leadership
from controller.engine.null import NullEngine
from controller.runtime.actuator import Actuator
from controller.runtime.inbox import Inbox
from controller.runtime.standing import Standing
from controller.store.base import Committed, Delete, Put, Transaction
from tests.runtime.conftest import CLOCK
from tests.support.waiting import wait_until


class Gated(NullEngine):
    """Creates an attempt, and lets it loose once that was confirmed."""

    def start(self, launch: Launch, confirm: Callable[[], None] | None = None) -> Observation:
        assert confirm is not None
        confirm()
        return super().start(launch)


@pytest.mark.parametrize("successor", [True, False])
def test_nothing_is_let_loose_by_whom_another_replica_has_deposed(client: Client, successor: bool) -> None:
    """While it was stopped, for example: by its own clock its term goes on."""
    store, key = client.store, client.keys.leader

    def write(*writes: Put | Delete, op: str) -> int:
        result = store.commit(Transaction((), writes, Op(op)), deadline=CLOCK.boottime() + 5)
        assert isinstance(result, Committed)
        return result.revision

    leadership = Leadership(write(Put(key, b"{}"), op="first"), 1, 0, CLOCK.boottime() + 30, CLOCK)
    engine, inbox = Gated(CLOCK, run_seconds=60), Inbox()
    standing = Standing(Installation(id="a"), engine.identity())
    actuator = Actuator(engine, leadership, standing, store, client.keys, inbox, CLOCK, 1)

    def start(number: int) -> None:
        attempt = AttemptId("job", number)
        launch = Launch(
            attempt=attempt, cluster="c", term=1, spec=Spec(id="job"), pool=Pool(name="p"), environment={}
        )
        actuator.perform(Start(attempt, launch))

    start(1)
    (message,) = inbox.take(20)
    assert isinstance(message, Started)
    write(Delete(key), op="deposed")
    if successor:
        write(Put(key, b"{}"), op="second")
    start(2)
    wait_until(leadership.why_ended, "the term to end")
    assert actuator.close(20)
    assert [seen.attempt.number for seen in engine.attempts()] == [1]


class Exchanged(NullEngine):
    """Is another engine after so many questions of who it is."""

    def __init__(self, after: int) -> None:
        super().__init__(CLOCK)
        self.left = after

    def identity(self) -> EngineIdentity:
        self.left -= 1
        return EngineIdentity(name=self.name, id=self.name if self.left >= 0 else "another")


@pytest.mark.parametrize("after", [0, 1], ids=["before it was asked", "while it was asked"])
def test_what_another_engine_says_of_an_attempt_is_not_believed(client: Client, after: int) -> None:
    """It has never heard of the attempt, which the recorded one may be running."""
    leadership = Leadership(1, 1, 0, CLOCK.boottime() + 30, CLOCK)
    inbox, standing = Inbox(), Standing(Installation(id="a"), NullEngine(CLOCK).identity())
    actuator = Actuator(Exchanged(after), leadership, standing, client.store, client.keys, inbox, CLOCK, 1)
    actuator.perform(Prove(AttemptId("job", 1), ""))
    (message,) = inbox.take(20)
    assert isinstance(message, EffectFailed)
    assert leadership.why_ended()
    assert actuator.close(20)


class Slow(NullEngine):
    """Begins one start, and ends it when it is told to."""

    def __init__(self) -> None:
        super().__init__(CLOCK, run_seconds=60)
        self.begun, self.go_on = threading.Event(), threading.Event()

    def start(self, launch: Launch, confirm: Callable[[], None] | None = None) -> Observation:
        self.begun.set()
        assert self.go_on.wait(20)
        return super().start(launch, confirm)


def test_what_waits_when_the_term_ends_never_begins(client: Client) -> None:
    """The effects that wait are a copy of what that term has decided."""
    leadership = Leadership(1, 1, 0, CLOCK.boottime() + 30, CLOCK)
    engine, inbox = Slow(), Inbox()
    standing = Standing(Installation(id="a"), engine.identity())
    actuator = Actuator(engine, leadership, standing, client.store, client.keys, inbox, CLOCK, 1)
    for number in (1, 2):
        attempt = AttemptId("job", number)
        launch = Launch(
            attempt=attempt, cluster="c", term=1, spec=Spec(id="job"), pool=Pool(name="p"), environment={}
        )
        actuator.perform(Start(attempt, launch))
    assert engine.begun.wait(20)
    leadership.end("deposed")
    engine.go_on.set()
    assert actuator.close(20)
    assert [seen.attempt.number for seen in engine.attempts()] == [1]


class Told(Slow):
    """Notes in which order it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    def start(self, launch: Launch, confirm: Callable[[], None] | None = None) -> Observation:
        self.asked.append(f"start {launch.attempt}")
        return super().start(launch, confirm)

    def forget(self, attempt: AttemptId, *, uid: str = "") -> None:
        self.asked.append(f"forget {attempt}")
        super().forget(attempt, uid=uid)


def test_what_is_forgotten_delays_nothing_else_and_does_not_pile_up(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An hour after many attempts have ended, all of them are to be forgotten."""
    monkeypatch.setattr("controller.runtime.actuator.MOST_FORGETS", 2)
    leadership = Leadership(1, 1, 0, CLOCK.boottime() + 30, CLOCK)
    engine, inbox = Told(), Inbox()
    standing = Standing(Installation(id="a"), engine.identity())
    actuator = Actuator(engine, leadership, standing, client.store, client.keys, inbox, CLOCK, 1)

    def start(number: int) -> None:
        attempt = AttemptId("job", number)
        launch = Launch(
            attempt=attempt, cluster="c", term=1, spec=Spec(id="job"), pool=Pool(name="p"), environment={}
        )
        actuator.perform(Start(attempt, launch))

    start(1)
    assert engine.begun.wait(20)
    for number in range(3):
        actuator.perform(Forget(AttemptId("old", number + 1)))
    start(2)
    engine.go_on.set()
    wait_until(lambda: len(engine.asked) == 4, "all that was not dropped")
    assert engine.asked == ["start job-1", "start job-2", "forget old-1", "forget old-2"]
    leadership.end("the test is over")
    assert actuator.close(20)
