"""A final deletion is no proof while a kubelet may still run what the pod has."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from msgspec.structs import replace

from controller.core.model.task import Launch, Observation, Phase
from controller.dev.fake_kubernetes import ClusterOptions, FakeCluster
from controller.engine.kubernetes.engine import KubernetesEngine
from tests.engine.kubernetes_cases import engine_on, running, scripted
from tests.engine.process_cases import observation, wait_for
from tests.support.fake_cluster import core_api

OLD, NEW = "v1.20.2", "v1.33.1"


@contextmanager
def watched(
    version: str, folder: Path, confirm_seconds: float
) -> Iterator[tuple[FakeCluster, KubernetesEngine, list[Observation]]]:
    """A cluster of this version, an engine, and what its watch reports."""
    cluster = FakeCluster(ClusterOptions(version=version, scale=0.02)).start()
    engine = engine_on(cluster, folder, confirm_seconds=confirm_seconds)
    seen, stop = list[Observation](), threading.Event()
    thread = threading.Thread(target=engine.watch, args=(seen.append, stop), daemon=True)
    thread.start()
    try:
        yield cluster, engine, seen
    finally:
        stop.set()
        thread.join(30)
        engine.close()
        cluster.stop()


def stopped_while_it_starts(engine: KubernetesEngine, grace: float) -> Launch:
    given = scripted(start="stuck")
    given = replace(given, spec=replace(given.spec, grace_seconds=grace))
    engine.start(given)
    wait_for(lambda: (seen := observation(engine, given.attempt)) and seen.node, "a node")
    engine.stop(given.attempt, grace_seconds=grace)
    wait_for(
        lambda: engine._pods.known(given.attempt).metadata.deletion_grace_period_seconds == 0,
        "the word of its kubelet",
    )
    return given


def test_an_old_kubelet_may_start_what_it_has_confirmed_to_be_gone(tmp_path: Path) -> None:
    """The watch reports the end once its time has passed: nothing has to be listed."""
    with watched(OLD, tmp_path, confirm_seconds=1.0) as (_, engine, seen):
        given = stopped_while_it_starts(engine, 1.0)
        assert not engine.find(given.attempt).stopped
        assert [each for each in engine.attempts() if each.stopped] == []
        wait_for(lambda: any(each.stopped for each in seen), "the end")
        assert seen[-1].awaits_commit
        engine.settle(given.attempt)
        wait_for(lambda: engine.find(given.attempt).gone, "its removal")


def test_a_newer_kubelet_confirms_what_is_so(tmp_path: Path) -> None:
    with watched(NEW, tmp_path, confirm_seconds=1000.0) as (_, engine, seen):
        given = stopped_while_it_starts(engine, 1.0)
        assert engine.find(given.attempt).stopped
        wait_for(lambda: any(each.stopped for each in seen), "the end")


@pytest.mark.parametrize("version", [OLD, NEW])
def test_a_forced_deletion_waits_for_a_kubelet_that_lives(tmp_path: Path, version: str) -> None:
    """It reports the end of the container; only one that does not is not waited for any longer."""
    with watched(version, tmp_path, confirm_seconds=1000.0) as (cluster, engine, seen):
        given = running()
        engine.start(given)
        wait_for(lambda: cluster.state.executions, "its container")
        core_api(cluster, tmp_path).delete_namespaced_pod(
            str(given.attempt), "default", grace_period_seconds=0
        )
        wait_for(lambda: any(each.stopped for each in seen) or cluster.state.executions[0].ended, "its end")
        assert cluster.state.executions[0].ended is not None
        wait_for(lambda: any(each.stopped for each in seen), "the word of its kubelet")


def test_the_word_of_who_forced_it_counts_where_no_kubelet_speaks(tmp_path: Path) -> None:
    with watched(NEW, tmp_path, confirm_seconds=1.0) as (cluster, engine, seen):
        given = running()
        engine.start(given)
        wait_for(lambda: cluster.state.executions, "its container")
        cluster.state.lose_node()
        core_api(cluster, tmp_path).delete_namespaced_pod(
            str(given.attempt), "default", grace_period_seconds=0
        )
        wait_for(lambda: engine._pods.known(given.attempt).is_deleting, "its deletion")
        assert not engine.find(given.attempt).stopped
        wait_for(lambda: any(each.stopped for each in seen), "the end of the wait")


def test_a_pod_that_nobody_deleted_has_not_ended_because_it_is_gone(tmp_path: Path) -> None:
    """As after a restore of Kubernetes' own etcd: its kubelet ends it later, with its grace."""
    with watched(NEW, tmp_path, confirm_seconds=1.0) as (cluster, engine, seen):
        given = running()
        given = replace(given, spec=replace(given.spec, grace_seconds=1.0))
        uid = engine.start(given).uid
        wait_for(lambda: cluster.state.executions, "its container")
        wait_for(lambda: any(each.phase is Phase.RUNNING for each in seen), "its being watched")
        cluster.state.vanish(str(given.attempt))
        wait_for(lambda: seen[-1].reason == "Vanished", "its being missed")
        found = engine.find(given.attempt, uid=uid)
        assert (found.phase, found.stopped) == (Phase.UNKNOWN, False)
        wait_for(lambda: seen[-1].stopped, "the end of the wait")
        assert engine.find(given.attempt, uid=uid).stopped


def test_who_did_not_see_it_vanish_waits_as_well(tmp_path: Path) -> None:
    """Another leader, which knows the uid from the task's status."""
    with watched(NEW, tmp_path, confirm_seconds=1.0) as (_, engine, seen):
        attempt = running().attempt
        assert not engine.find(attempt, uid="long-gone").stopped
        wait_for(
            lambda: any(each.attempt == attempt and each.stopped for each in seen), "the end of the wait"
        )
        assert engine.find(attempt, uid="long-gone").stopped
        assert engine.find(attempt).stopped, "one that was never seen was never there"
