"""Whatever the Docker daemon answers, or does not: an error of the engine's own, and one bad container
hides no other (44, 46).
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.clock import SystemClock
from controller.core.model.task import AttemptId, Phase
from controller.engine.base import EngineError, EngineUnavailable
from controller.engine.docker import daemon as docker_daemon
from controller.engine.docker.container import LABEL_ATTEMPT, LABEL_CLUSTER, LABEL_TASK
from controller.engine.docker.engine import DockerEngine
from tests.engine.process_cases import launch
from tests.engine.test_kubernetes_bulkheads import anything, few
from tests.support.answering import Server

INFO = {"ID": "daemon", "Name": "machine", "ApiVersion": "1.41", "MinAPIVersion": "1.12"}


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


@pytest.fixture
def engine(server: Server) -> Iterator[DockerEngine]:
    made = DockerEngine(server.url.replace("http", "tcp"), "test", SystemClock())
    yield made
    made.close()


def labels(name: str) -> dict[str, str]:
    return {LABEL_CLUSTER: "test", LABEL_TASK: name, LABEL_ATTEMPT: "1"}


def container(name: str, **changed: Any) -> dict[str, Any]:
    """What an inspection of a running container says."""
    state = {"Running": True, "StartedAt": "2026-01-01T00:00:00Z"}
    config = {"Hostname": f"{name}-1", "Labels": labels(name)}
    return {"Id": name, "Created": "2026-01-01T00:00:00Z", "State": state, "Config": config} | changed


def daemon(bad: dict[str, Any]) -> Callable[[str], tuple[int, bytes]]:
    """A daemon with two good containers and a bad one."""
    known = {"good": container("good"), "bad": bad, "other": container("other")}
    listed = [{"Id": name, "State": "running", "Labels": labels(name)} for name in known]

    def answer(path: str) -> tuple[int, bytes]:
        name = path.rpartition("/containers/")[2].partition("/")[0]
        document: Any = listed if "/containers/json" in path else known.get(name, INFO)
        return 200, json.dumps(document).encode()

    return answer


@few
@given(state=anything, created=anything)
def test_one_bad_container_does_not_hide_the_others(
    server: Server, engine: DockerEngine, state: Any, created: Any
) -> None:
    server.answer = daemon(container("bad", State=state, Created=created))
    seen = {str(each.attempt): each for each in engine.attempts()}
    assert [seen["good-1"].phase, seen["other-1"].phase] == [Phase.RUNNING, Phase.RUNNING]
    assert not seen["bad-1"].stopped
    assert (seen["bad-1"].phase, seen["bad-1"].reason) == (Phase.UNKNOWN, "Unreadable")


@few
@given(
    code=st.sampled_from([200, 201, 204, 304, 400, 404, 409, 500]),
    body=st.binary(max_size=40)
    | anything.map(lambda value: json.dumps(value).encode())
    | st.just(b"[" * 100_000),
)
def test_any_answer_to_any_call_is_one_of_the_engines_own_errors(
    server: Server, engine: DockerEngine, code: int, body: bytes
) -> None:
    server.answer = lambda path: (
        (200, json.dumps(INFO).encode()) if path.endswith(("/version", "/info")) else (code, body)
    )
    attempt = AttemptId("job", 1)
    calls: list[Callable[[], object]] = [
        engine.attempts,
        lambda: engine.start(launch("true", image="x:1")),
        lambda: engine.stop(attempt, grace_seconds=1),
        lambda: engine.forget(attempt),
        lambda: list(engine.logs(attempt, follow=False)),
    ]
    for call in calls:
        try:
            call()
        except EngineError:
            continue


@few
@given(body=st.binary(max_size=40) | anything.map(lambda value: json.dumps(value).encode()))
def test_a_daemon_that_says_anything_of_itself_is_an_outage(server: Server, body: bytes) -> None:
    server.answer = lambda _: (200, body)
    engine = DockerEngine(server.url.replace("http", "tcp"), "test", SystemClock())
    with pytest.raises(EngineUnavailable):
        engine.attempts()
    engine.close()


def test_a_socket_that_takes_the_connection_and_never_answers_is_an_outage(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(docker_daemon, "REQUEST_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        engine = DockerEngine(f"tcp://127.0.0.1:{listener.getsockname()[1]}", "test", SystemClock())
        began = time.monotonic()
        with pytest.raises(EngineUnavailable, match="does not answer"):
            engine.attempts()
        assert time.monotonic() - began < 5
        engine.close()
