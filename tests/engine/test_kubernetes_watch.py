"""Fault 31: what a cluster does to lists and watches.

After each, an attempt that starts and ends is reported all the same.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial

import pytest

from controller.core.model.task import AttemptId, Observation, Phase
from controller.dev.fake_kubernetes import FakeCluster
from controller.engine.base import EngineUnavailable
from controller.engine.kubernetes import api as kubernetes_api
from controller.engine.kubernetes import watch as kubernetes_watch
from controller.engine.kubernetes.api import ApiRefused, RateLimit
from controller.engine.kubernetes.pod import read_pod
from tests.engine.kubernetes_cases import Engines, launch, running, watching
from tests.engine.process_cases import wait_for, wait_stopped
from tests.support.bench import HandClock


def is_reported(reported: list[Observation], attempt: AttemptId) -> bool:
    return any(seen.attempt == attempt and seen.stopped for seen in list(reported))


def open_watches(cluster: FakeCluster) -> int:
    with cluster.state.storage.lock:
        return len(cluster.state.watches)


def cut(cluster: FakeCluster) -> None:
    cluster.state.watches.cut()


def expire(cluster: FakeCluster) -> None:
    """410 in the stream."""
    cluster.state.watches.expire()


def compact_and_cut(cluster: FakeCluster) -> None:
    """410 to the new watch: what happened since it was last told anything is forgotten."""
    cluster.state.watches.freeze()
    cluster.state.add_namespace("other")
    cluster.state.storage.compact()
    cluster.state.watches.cut()


def restart(cluster: FakeCluster) -> None:
    cluster.restart()


def throttle(cluster: FakeCluster) -> None:
    cluster.state.faults.fail(429, "watch", times=1, retry_after=1)
    cluster.state.watches.cut()


def fail(cluster: FakeCluster) -> None:
    cluster.state.faults.fail(500, "watch", times=2)
    cluster.state.watches.cut()


def forbid(cluster: FakeCluster) -> None:
    """A right taken away for a moment."""
    cluster.state.faults.fail(403, "watch", times=2)
    cluster.state.watches.cut()


def lists_fail(cluster: FakeCluster) -> None:
    cluster.state.faults.fail(503, "list", times=1)
    cluster.state.watches.expire()


def reset(cluster: FakeCluster) -> None:
    cluster.state.faults.drop_requests("watch", times=2)
    cluster.state.watches.cut()


def freeze(cluster: FakeCluster) -> None:
    """Silence on an open connection."""
    cluster.state.watches.freeze()


@pytest.mark.parametrize(
    ("fault", "counted"),
    [
        (cut, "stream"),
        (expire, "410"),
        (compact_and_cut, "410"),
        (restart, "stream"),
        (throttle, "429"),
        (fail, "500"),
        (forbid, "403"),
        (lists_fail, "503"),
        (reset, "connection"),
        (freeze, "stream"),
    ],
)
def test_31_a_watch_survives(
    fake_clusters: Callable[..., FakeCluster],
    engines: Engines,
    fault: Callable[[FakeCluster], None],
    counted: str,
) -> None:
    """And the fault is counted by its kind."""
    cluster = fake_clusters(bookmark_seconds=0.2)
    engine = engines(cluster, silence_seconds=1.0)
    with watching(engine) as reported:
        wait_for(lambda: open_watches(cluster), "the watch")
        fault(cluster)
        given = launch("true")
        engine.start(given)
        wait_for(lambda: is_reported(reported, given.attempt), "the end")
        wait_for(lambda: engine.faults[counted], f"the fault to be counted as {counted}")


def test_31_a_watch_that_the_server_ends_goes_on_without_a_list(
    fake_cluster: FakeCluster, engines: Engines
) -> None:
    """As it does every few minutes."""
    engine = engines(fake_cluster, watch_seconds=1.0)
    with watching(engine) as reported:
        wait_for(lambda: open_watches(fake_cluster), "the watch")
        fake_cluster.state.faults.fail(500, "list")
        wait_for(lambda: not open_watches(fake_cluster), "its end")
        wait_for(lambda: open_watches(fake_cluster), "the next one")
        given = launch("true")
        engine.start(given)
        wait_for(lambda: is_reported(reported, given.attempt), "the end")
    assert not engine.faults


def test_31_bookmarks_keep_a_quiet_watch_young(
    fake_clusters: Callable[..., FakeCluster], engines: Engines
) -> None:
    """Others' changes move the version on, without events for us: after a cut and a compaction nothing has
    to be listed.
    """
    cluster = fake_clusters(bookmark_seconds=0.1)
    ours, theirs = engines(cluster), engines(cluster, name="other")
    with watching(ours):
        wait_for(lambda: open_watches(cluster), "the watch")
        given = launch("true", cluster="other")
        theirs.start(given)
        wait_stopped(theirs, given.attempt)
        cluster.state.storage.compact()
        threading.Event().wait(0.5)  # some bookmarks
        cluster.state.watches.cut()
        wait_for(lambda: ours.faults["stream"], "the cut")
        wait_for(lambda: open_watches(cluster), "the watch again")
    assert not ours.faults["410"]


def test_31_old_events_again_are_passed_on(fake_cluster: FakeCluster, engines: Engines) -> None:
    """The planner, not the watch, knows what is old: see `Attempts.observe`."""
    engine = engines(fake_cluster)
    with watching(engine) as reported:
        given = running()
        engine.start(given)
        wait_for(lambda: any(seen.phase is Phase.RUNNING for seen in list(reported)), "it to run")
        old = fake_cluster.state.pod(str(given.attempt))
        assert old is not None
        engine.stop(given.attempt, grace_seconds=1.0)
        wait_for(lambda: is_reported(reported, given.attempt), "the end")
        fake_cluster.state.watches.replay("MODIFIED", old)

        def is_older_after_newer() -> bool:
            phases = [seen.phase for seen in list(reported)]
            return Phase.RUNNING in phases[phases.index(Phase.FAILED) :]

        wait_for(is_older_after_newer, "the old event")


def test_31_a_list_in_pages(
    fake_cluster: FakeCluster, engines: Engines, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them once; a list that outlives its version says that it is to be asked again."""
    engine = engines(fake_cluster)
    monkeypatch.setattr(kubernetes_watch, "PAGE", 3)
    attempts = [engine.start(running()).attempt for _ in range(10)]
    assert sorted(seen.attempt for seen in engine.attempts()) == sorted(attempts)
    pages = kubernetes_watch.list_objects(engine._api, "/api/v1/namespaces/default/pods", {}, 5.0, read_pod)
    next(pages)
    engine.start(running())
    fake_cluster.state.storage.compact()
    with pytest.raises(ApiRefused, match="too old") as expired:
        list(pages)
    assert expired.value.code == 410


def test_31_a_list_never_shows_the_past(fake_cluster: FakeCluster, engines: Engines) -> None:
    """A cache of the server may lag; a take-over must know what runs now."""
    engine = engines(fake_cluster)
    fake_cluster.state.api.lag()
    given = running()
    engine.start(given)
    assert [seen.attempt for seen in engine.attempts()] == [given.attempt]


def test_31_a_list_that_is_forbidden_names_the_server_s_words(
    fake_cluster: FakeCluster, engines: Engines
) -> None:
    fake_cluster.state.access.deny("list", "pods")
    with pytest.raises(EngineUnavailable, match='cannot list resource "pods"'):
        engines(fake_cluster).attempts()


def test_each_namespace_is_watched_and_listed(fake_cluster: FakeCluster, engines: Engines) -> None:
    """Whatever pools name now: what runs in any of them is seen, started, stopped and forgotten there."""
    fake_cluster.state.add_namespace("blue")
    engine = engines(fake_cluster, namespaces=("default", "blue"))
    with watching(engine) as reported:
        here, there = launch("true"), launch("true", engine_options={"namespace": "blue"})
        for given in (here, there):
            engine.start(given)
            wait_for(partial(is_reported, reported, given.attempt), "the end")
    assert {pod["metadata"]["namespace"] for pod in fake_cluster.state.pods()} == {"default", "blue"}
    assert {seen.attempt for seen in engine.attempts()} == {here.attempt, there.attempt}
    engine.forget(there.attempt)
    assert [seen.attempt for seen in engine.attempts()] == [here.attempt]


def test_large_pods_are_listed_in_smaller_pages(
    fake_cluster: FakeCluster, engines: Engines, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One page of all would exceed what is read of an answer."""
    engine = engines(fake_cluster)
    given = [launch("true", env={"DATA": "x" * 20_000}) for _ in range(7)]
    for each in given:
        engine.start(each)
    monkeypatch.setattr(kubernetes_api, "MAX_ANSWER_BYTES", 60_000)
    assert {seen.attempt for seen in engine.attempts()} == {each.attempt for each in given}
    monkeypatch.setattr(kubernetes_api, "MAX_ANSWER_BYTES", 10_000)
    with pytest.raises(EngineUnavailable, match="an answer of more than 10000 bytes"):
        engine.attempts()


def test_a_tombstone_stands_in_every_namespace(fake_cluster: FakeCluster, engines: Engines) -> None:
    """A stop does not know where the late creation will land."""
    fake_cluster.state.add_namespace("blue")
    engine = engines(fake_cluster, namespaces=("default", "blue"))
    given = launch("true", engine_options={"namespace": "blue"})
    stopped = engine.stop(given.attempt, grace_seconds=1.0)
    assert stopped is not None
    assert stopped.stopped
    assert engine.start(given).reason == "NeverStarted"
    assert [seen.attempt for seen in engine.attempts()] == [given.attempt]
    engine.forget(given.attempt)
    assert fake_cluster.state.pods() == []


def test_the_rate_limit_spreads_what_exceeds_the_burst() -> None:
    clock = HandClock()
    limit = RateLimit(qps=10.0, burst=3, clock=clock)
    assert [limit.take() for _ in range(5)] == pytest.approx([0.0, 0.0, 0.0, 0.1, 0.2])
    clock.move(0.5)
    assert [limit.take() for _ in range(4)] == pytest.approx([0.0, 0.0, 0.0, 0.1])
    clock.move(1000.0)
    assert [limit.take() for _ in range(4)] == pytest.approx([0.0, 0.0, 0.0, 0.1])
