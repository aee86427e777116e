"""What a proxy, and not the Docker daemon, answers is no word on what there is; odd answers of the daemon."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from controller.clock import SystemClock
from controller.core.model.task import AttemptId, Observation
from controller.engine.base import AttemptDelayed, AttemptRefused, EngineUnavailable
from controller.engine.docker.engine import DockerEngine
from tests.engine.process_cases import launch
from tests.engine.test_docker_bulkheads import INFO, container
from tests.support.answering import Server
from tests.support.waiting import wait_until

Told = tuple[int, bytes | list[bytes]]
Answer = Callable[[str], Told | None]
GOOD = AttemptId("good", 1)
PAGE = b'{"message":"page not found"}'


@pytest.fixture
def behind() -> Iterator[Callable[[Answer], DockerEngine]]:
    """Makes an engine whose daemon answers so; None: as a daemon that has nothing."""
    opened: list[DockerEngine | Server] = []

    def make(answer: Answer) -> DockerEngine:
        def whole(path: str) -> Told:
            if (found := answer(path)) is not None:
                return found
            if "/version" in path or "/info" in path:
                return 200, json.dumps(INFO).encode()
            return 404, b'{"message":"No such container: x"}'

        daemon = Server()
        daemon.answer = whole
        engine = DockerEngine(daemon.url.replace("http", "tcp"), "test", SystemClock())
        opened.extend((engine, daemon))
        return engine

    yield make
    for each in opened:
        each.close()


@pytest.mark.parametrize("status", [400, 403, 404, 409, 413])
@pytest.mark.parametrize("body", [b"<html>no such page</html>", b"{}", b"[]", PAGE])
def test_nothing_is_concluded_from_a_proxys_refusal(
    behind: Callable[[Answer], DockerEngine], status: int, body: bytes
) -> None:
    """No attempt is gone, none is refused for good, and no kill is dropped."""
    engine = behind(lambda path: (status, body) if "/containers/" in path else None)
    calls: list[Callable[[], Any]] = [
        lambda: engine.find(GOOD, uid="good"),
        lambda: engine.stop(GOOD, grace_seconds=0),
        lambda: engine.forget(GOOD, uid="good"),
    ]
    if body != PAGE or status == 404:
        calls.append(lambda: engine._daemon.signal("good", "SIGKILL"))
    if not body.startswith(b'{"m') or status == 404:
        calls.append(lambda: engine.start(launch("true", image="busybox")))
    for call in calls:
        with pytest.raises(EngineUnavailable):
            call()


@pytest.mark.parametrize(
    "words", ["No such container: good", 'no container with name "good" found: no such container']
)
def test_what_the_daemon_says_is_gone_is(behind: Callable[[Answer], DockerEngine], words: str) -> None:
    """In the words of the daemon, and of those that are like it."""
    gone = 404, json.dumps({"message": words}).encode()
    engine = behind(lambda path: gone if "/containers/" in path else None)
    assert engine._containers.inspect("good") is None
    engine._daemon.signal("good", "SIGKILL")


@pytest.mark.parametrize(
    "actor", [{"Actor": {"ID": "good"}}, {"id": "good"}, {"id": "good", "Actor": {"ID": "good"}}]
)
def test_an_event_names_its_container_as_the_api_does(
    behind: Callable[[Answer], DockerEngine], actor: dict[str, Any]
) -> None:
    """`id` is gone since API 1.52; an event without either is of nothing that is ours."""
    events = [{"Type": "container", "Action": "die", **each, "timeNano": 1} for each in ({}, actor)]
    stream = [json.dumps(event).encode() + b"\n" for event in events]

    def answer(path: str) -> Told | None:
        if "/events" in path:
            return 200, stream
        if "containers/json" in path:
            return 200, b"[]"
        return (200, json.dumps(container("good")).encode()) if "good/json" in path else None

    seen: list[Observation] = []
    with pytest.raises(EngineUnavailable):  # the stream has ended
        behind(answer).watch(seen.append, threading.Event())
    assert [each.attempt for each in seen] == [GOOD]


def test_a_pull_that_breaks_off_is_told_and_begun_again(behind: Callable[[Answer], DockerEngine]) -> None:
    pulls: list[str] = []

    def answer(path: str) -> Told | None:
        if "/images/create" in path:
            pulls.append(path)
            return 200, [b'{"status":"Pulling"}\r\n{"status":"Downl']
        return (404, b'{"message":"No such image: busybox:latest"}') if "/containers/create" in path else None

    engine = behind(answer)
    for number in range(2):
        with pytest.raises(AttemptDelayed):
            engine.start(launch("true", image="busybox"))
        wait_until(lambda: not engine._pulls._pulls, "the end of the pull")
        with pytest.raises(AttemptRefused, match="cannot be pulled"):
            engine.start(launch("true", image="busybox"))
        assert len(pulls) == number + 1


def test_an_image_that_cannot_be_read_keeps_no_stop_back(behind: Callable[[Answer], DockerEngine]) -> None:
    """It gets SIGTERM, and its kill is planned."""
    asked: list[str] = []

    def answer(path: str) -> Told | None:
        asked.append(path)
        if "/images/" in path:
            return 200, b'{"Id":"sha","Config":null}'
        if "/containers/create" in path:
            return 201, b'{"Id":"mark"}'
        return (200, json.dumps(container("good", Image="sha")).encode()) if "good" in path else None

    engine = behind(answer)
    engine.stop(GOOD, grace_seconds=60)
    assert any("/kill?signal=SIGTERM" in path for path in asked)
    assert engine._kills._due
