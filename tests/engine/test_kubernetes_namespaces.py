"""Several namespaces: a name is taken in all of them, or the attempt may still start in one."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from controller.core.model.task import Launch, Phase
from controller.dev.fake_kubernetes import FakeCluster
from controller.engine.base import EngineUnavailable
from controller.engine.kubernetes.engine import KubernetesEngine
from tests.engine.kubernetes_cases import Engines, launch, running
from tests.engine.process_cases import observation, wait_for
from tests.engine.test_kubernetes_faults import again, late_creation

BOTH = ("default", "blue")


@pytest.fixture
def cluster(fake_cluster: FakeCluster) -> FakeCluster:
    fake_cluster.state.add_namespace("blue")
    return fake_cluster


def in_blue(given: Launch) -> Launch:
    pool = replace(given.pool, engine_options={**given.pool.engine_options, "namespace": "blue"})
    return replace(given, pool=pool)


def names(cluster: FakeCluster, attempt: object) -> list[str]:
    found = [pod["metadata"] for pod in cluster.state.pods()]
    return sorted(each["namespace"] for each in found if each["name"] == str(attempt))


def test_a_name_that_is_taken_in_one_namespace_tells_nothing(cluster: FakeCluster, engines: Engines) -> None:
    """The stop is refused in the second one, in which a creation is under way: nothing has ended."""
    stale, leader = engines(cluster, namespaces=BOTH), engines(cluster, namespaces=BOTH)
    given = in_blue(running())
    with late_creation(cluster, stale, given) as late:
        cluster.state.set_quota("blue", {"pods": "0"})
        with pytest.raises(EngineUnavailable, match="its name could not be taken"):
            leader.stop(given.attempt, grace_seconds=1.0)
        assert names(cluster, given.attempt) == ["default"]
        assert leader.attempts() == []
        assert leader.find(given.attempt).gone
        cluster.state.set_quota("blue", None)
    assert late.result().phase is not Phase.FAILED
    stopped = leader.stop(given.attempt, grace_seconds=1.0)
    assert stopped is not None
    assert stopped.reason != "NeverStarted"
    wait_for(lambda: (seen := observation(leader, given.attempt)) and seen.stopped, "its end")


def test_a_name_that_is_taken_in_all_is_the_end(cluster: FakeCluster, engines: Engines) -> None:
    """Also when the first try took only one. The late creation finds its name taken; all are forgotten."""
    stale, leader = engines(cluster, namespaces=BOTH), engines(cluster, namespaces=BOTH)
    given = in_blue(running())
    with late_creation(cluster, stale, given) as late:
        cluster.state.set_quota("blue", {"pods": "0"})
        with pytest.raises(EngineUnavailable):
            leader.stop(given.attempt, grace_seconds=1.0)
        cluster.state.set_quota("blue", None)
        stopped = leader.stop(given.attempt, grace_seconds=1.0)
        assert stopped is not None
        assert (stopped.stopped, stopped.reason) == (True, "NeverStarted")
        assert [each.reason for each in leader.attempts()] == ["NeverStarted"]
    assert late.result().reason == "NeverStarted"
    assert cluster.state.executions == []
    leader.forget(given.attempt)
    assert cluster.state.pods() == []


def test_a_pool_that_moved_to_another_namespace_starts_nothing_twice(
    cluster: FakeCluster, engines: Engines
) -> None:
    """The outcome of the first start is unknown: its name is taken where it may land."""
    stale, leader = engines(cluster, namespaces=BOTH), engines(cluster, namespaces=BOTH)
    given = running()
    with late_creation(cluster, stale, given) as late:
        moved = again(in_blue(given))
        seen = leader.start(moved)
        assert seen.phase is not Phase.FAILED
    assert late.result().uid == seen.uid
    wait_for(lambda: cluster.state.executions, "its container")
    assert [each.namespace for each in cluster.state.executions] == ["blue"]
    assert cluster.state.overlaps() == []
    assert [each.uid for each in leader.attempts()] == [seen.uid]


def test_the_pod_of_a_uid_is_found_beside_another_of_its_name(cluster: FakeCluster, engines: Engines) -> None:
    """Both could only be made by hand: each can be stopped by its uid."""
    one, other = (engines(cluster, namespaces=(each,)) for each in BOTH)
    both = engines(cluster, namespaces=BOTH)
    first = running()
    uids = [one.start(first).uid, other.start(in_blue(first)).uid]
    wait_for(lambda: len(cluster.state.executions) == 2, "both containers")
    for uid in uids:
        assert both.find(first.attempt, uid=uid).uid == uid
        stopped = both.stop(first.attempt, grace_seconds=1.0, uid=uid)
        assert stopped is not None
    wait_for(lambda: all(each.ended is not None for each in cluster.state.executions), "both ends")


def test_a_namespace_that_is_gone_needs_no_tombstone(cluster: FakeCluster, engines: Engines) -> None:
    """Nothing can be created in it; in one that is only being terminated, something may."""
    engine: KubernetesEngine = engines(cluster, namespaces=BOTH)
    cluster.state.add_namespace("blue", terminating=True)
    given = launch("true")
    with pytest.raises(EngineUnavailable, match="being terminated"):
        engine.stop(given.attempt, grace_seconds=1.0)
    cluster.state.remove_namespace("blue")
    stopped = engine.stop(given.attempt, grace_seconds=1.0)
    assert stopped is not None
    assert stopped.stopped
    assert [each.reason for each in engine.attempts()] == ["NeverStarted"]
