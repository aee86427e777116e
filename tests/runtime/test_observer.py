"""What a leader asks of a long list of the engine."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from controller.client import Client
from controller.core.model.installation import Installation
from controller.core.model.task import AttemptId, Observation, Phase
from controller.core.planning.events import Listed
from controller.election.term import Leadership
from controller.engine import base
from controller.engine.null import NullEngine
from controller.runtime.inbox import Inbox
from controller.runtime.observer import Observer
from controller.runtime.standing import Standing
from tests.runtime.conftest import CLOCK


class Listing(NullEngine):
    """Has these attempts, and tells of none by its watch."""

    def __init__(self, *seen: Observation) -> None:
        super().__init__(CLOCK)
        self.seen = list(seen)

    def attempts(self) -> list[Observation]:
        return list(self.seen)

    def watch(self, sink: Callable[[Observation], None], stop: threading.Event) -> None:
        stop.wait()


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The attempts whose observations were checked, in order."""
    asked: list[str] = []
    check = base.checked

    def counted(seen: Observation, attempt: AttemptId) -> Observation:
        asked.append(str(attempt))
        return check(seen, attempt)

    monkeypatch.setattr(base, "checked", counted)
    return asked


def test_what_has_ended_is_checked_once_and_what_is_invalid_each_time(
    client: Client, asked: list[str]
) -> None:
    """An engine keeps ended attempts for an hour, and checking half a million takes seconds of each list."""
    ended = Observation(attempt=AttemptId("ended", 1), phase=Phase.SUCCEEDED, stopped=True)
    runs = Observation(attempt=AttemptId("runs", 1), phase=Phase.RUNNING)
    odd = Observation(attempt=AttemptId("odd", 1), phase=Phase.FAILED, stopped=True, exit_code="?")  # type: ignore[arg-type]
    engine, inbox = Listing(ended, runs, odd), Inbox()
    leadership = Leadership(1, 1, 0, CLOCK.boottime() + 60, CLOCK)
    standing = Standing(Installation(id="a"), engine.identity())
    observer = Observer(engine, leadership, standing, inbox, CLOCK, 600)

    def listed() -> dict[str, Phase]:
        (message,) = inbox.take(20)
        assert isinstance(message, Listed)
        return {str(seen.attempt): seen.phase for seen in message.observations}

    shown = {"ended-1": Phase.SUCCEEDED, "runs-1": Phase.RUNNING, "odd-1": Phase.UNKNOWN}
    assert listed() == shown
    assert asked == ["ended-1", "runs-1", "odd-1"]
    observer.relist()
    assert listed() == shown
    assert asked[3:] == ["runs-1", "odd-1"]
    engine.seen = [Observation(attempt=ended.attempt, phase=Phase.FAILED, stopped=True)]
    observer.relist()
    assert listed() == {"ended-1": Phase.FAILED}
    assert asked[5:] == ["ended-1"]
    observer.end()
