"""What a proxy, and not the API server, answers is no word on what there is, or what is allowed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from controller.clock import SystemClock
from controller.core.model.task import AttemptId
from controller.engine.base import EngineUnavailable
from controller.engine.kubernetes.api import ClusterAccess
from controller.engine.kubernetes.engine import KubernetesEngine, KubernetesOptions
from tests.engine.kubernetes_cases import running
from tests.support.answering import Server

Answer = Callable[[str], tuple[int, bytes]]
# as Teleport's proxy answers for a cluster whose agent is away
NO_CLUSTER = (
    b'{"kind":"Status","reason":"NotFound","message":"kubernetes cluster \\"c\\" not found","code":404}'
)
LIST = b'{"kind":"PodList","metadata":{"resourceVersion":"5"},"items":[]}'
KUBECONFIG = """
apiVersion: v1
kind: Config
current-context: proxy
contexts: [{name: proxy, context: {cluster: proxy, user: proxy, namespace: default}}]
clusters: [{name: proxy, cluster: {server: "%s"}}]
users: [{name: proxy, user: {token: t}}]
"""


@pytest.fixture
def behind(tmp_path: Path) -> Iterator[Callable[[Answer], KubernetesEngine]]:
    """Makes an engine whose server is such a proxy."""
    opened: list[KubernetesEngine | Server] = []

    def make(answer: Answer) -> KubernetesEngine:
        proxy = Server()
        proxy.answer = answer
        kubeconfig = tmp_path / "kubeconfig"
        kubeconfig.write_text(KUBECONFIG % proxy.url)
        options = KubernetesOptions(access=ClusterAccess(kubeconfig=kubeconfig), confirm_seconds=0.1)
        engine = KubernetesEngine("c", SystemClock(), options)
        opened.extend((engine, proxy))
        return engine

    yield make
    for each in opened:
        each.close()


@pytest.mark.parametrize("status", [400, 403, 404, 407, 409, 410, 413, 422])
@pytest.mark.parametrize("body", [b"default backend", b"{}", b'{"kind":"Error"}', b"[]"])
def test_nothing_is_concluded_from_a_proxys_refusal(
    behind: Callable[[Answer], KubernetesEngine], status: int, body: bytes
) -> None:
    check_nothing_concluded(behind(lambda _: (status, body)))


def test_nothing_is_absent_that_is_not_named(behind: Callable[[Answer], KubernetesEngine]) -> None:
    check_nothing_concluded(behind(lambda _: (404, NO_CLUSTER)))


def check_nothing_concluded(engine: KubernetesEngine) -> None:
    """No attempt has stopped, none is refused for good, and no other cluster is there."""
    attempt = AttemptId("t", 1)
    calls: list[Callable[[], object]] = [
        lambda: engine.find(attempt),
        lambda: engine.find(attempt, uid="u"),
        lambda: engine.start(running()),
        lambda: engine.stop(attempt, grace_seconds=1.0),
        engine.attempts,
        engine.identity,
    ]
    for call in (*calls, *calls):
        with pytest.raises(EngineUnavailable):
            call()
    time.sleep(0.2)  # longer than an absence is awaited here
    with pytest.raises(EngineUnavailable):
        engine.find(attempt, uid="u")


BOOKMARK = b'{"type":"BOOKMARK","object":{"kind":"Pod","metadata":{"resourceVersion":"5"}}}\n'


@pytest.mark.parametrize("told", [b"", BOOKMARK], ids=["nothing", "a bookmark"])
def test_a_watch_that_ends_at_once_is_begun_again_ever_more_slowly(
    behind: Callable[[Answer], KubernetesEngine], told: bytes
) -> None:
    """A proxy that does not stream would else use up the requests a second that starts and stops need."""
    asked = list[str]()

    def answer(path: str) -> tuple[int, bytes]:
        asked.append(path)
        return 200, told if "watch=true" in path else LIST

    engine = behind(answer)
    stop = threading.Event()
    thread = threading.Thread(target=engine.watch, args=(lambda _: None, stop))
    thread.start()
    time.sleep(2.0)  # nothing tells that there are no more
    stop.set()
    thread.join()
    assert 2 <= len([path for path in asked if "watch=true" in path]) <= 8


def test_a_list_that_does_not_end_is_given_up(behind: Callable[[Answer], KubernetesEngine]) -> None:
    """Each page tells of the same next one."""
    page = LIST.replace(b'"resourceVersion":"5"', b'"resourceVersion":"5","continue":"more"')
    engine = behind(lambda _: (200, page))
    with pytest.raises(EngineUnavailable, match="does not end"):
        engine.attempts()


def test_a_pod_that_is_gone_at_once_is_deleted(behind: Callable[[Answer], KubernetesEngine]) -> None:
    """The server answers with a Status in its place."""
    engine = behind(lambda _: (200, b'{"kind":"Status","metadata":{},"status":"Success"}'))
    assert engine._pods.delete("default", AttemptId("t", 1), "u", 0) is None
