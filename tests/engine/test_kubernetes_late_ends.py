"""A final deletion is no proof while a kubelet may still run what the pod has."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec.structs import replace

from controller.core.model.task import Launch, Observation, Phase
from controller.dev.fake_kubernetes import ClusterOptions, FakeCluster
from controller.engine.kubernetes.engine import KubernetesEngine
from controller.engine.kubernetes.late_ends import LateEnds
from controller.engine.kubernetes.pod import Pod, read_pod
from controller.engine.kubernetes.pod_observation import observe
from tests.engine.kubernetes_cases import engine_on, running, scripted
from tests.engine.process_cases import observation, wait_for
from tests.support.bench import HandClock
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
        began = time.monotonic()
        given = stopped_while_it_starts(engine, 1.0)
        wait_for(lambda: any(each.stopped for each in seen), "the end")
        assert time.monotonic() - began >= 2.0
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
        given = replace(given, spec=replace(given.spec, grace_seconds=1.0))
        engine.start(given)
        wait_for(lambda: any(each.phase is Phase.RUNNING for each in seen), "the word of its kubelet")
        cluster.state.lose_node()
        began = time.monotonic()
        core_api(cluster, tmp_path).delete_namespaced_pod(
            str(given.attempt), "default", grace_period_seconds=0
        )
        wait_for(lambda: any(each.stopped for each in seen), "the end of the wait")
        assert time.monotonic() - began >= 2.0


def test_a_pod_that_nobody_deleted_has_not_ended_because_it_is_gone(tmp_path: Path) -> None:
    """As after a restore of Kubernetes' own etcd: its kubelet ends it later, with its grace."""
    with watched(NEW, tmp_path, confirm_seconds=1.0) as (cluster, engine, seen):
        given = running()
        given = replace(given, spec=replace(given.spec, grace_seconds=1.0))
        uid = engine.start(given).uid
        wait_for(lambda: cluster.state.executions, "its container")
        wait_for(lambda: any(each.phase is Phase.RUNNING for each in seen), "its being watched")
        began = time.monotonic()
        cluster.state.vanish(str(given.attempt))
        wait_for(lambda: seen[-1].stopped, "the end of the wait")
        assert time.monotonic() - began >= 2.0
        assert any((each.phase, each.reason) == (Phase.UNKNOWN, "Vanished") for each in seen)
        assert engine.find(given.attempt, uid=uid).stopped


def test_who_did_not_see_it_vanish_waits_as_well(tmp_path: Path) -> None:
    """Another leader, which knows the uid from the task's status."""
    with watched(NEW, tmp_path, confirm_seconds=1.0) as (_, engine, seen):
        attempt, began = running().attempt, time.monotonic()
        engine.find(attempt, uid="long-gone")
        wait_for(
            lambda: any(each.attempt == attempt and each.stopped for each in seen), "the end of the wait"
        )
        assert time.monotonic() - began >= 1.0
        assert engine.find(attempt, uid="long-gone").stopped
        assert engine.find(attempt).stopped, "one that was never seen was never there"


def test_an_absence_counts_after_the_grace_that_its_end_has(tmp_path: Path) -> None:
    """Whoever looks for it knows that from the task."""
    with watched(NEW, tmp_path, confirm_seconds=0.1) as (_, engine, _):
        attempt = running().attempt
        assert not engine.find(attempt, uid="a", grace_seconds=1000.0).stopped
        wait_for(lambda: engine.find(attempt, uid="b", grace_seconds=0.1).stopped, "the end of its wait")
        assert not engine.find(attempt, uid="a", grace_seconds=1000.0).stopped


def deleted_pod(grace: int, at: str, state: dict[str, object], phase: str = "Running") -> Pod:
    """Its deletion has this grace left, and this date; its container has this state."""
    metadata: dict[str, object] = {"name": "t-1", "uid": "u", "finalizers": ["tally.dev/attempt"]}
    metadata |= {"deletionTimestamp": at, "deletionGracePeriodSeconds": grace}
    raw = {
        "metadata": metadata,
        "spec": {"nodeName": "n", "terminationGracePeriodSeconds": 5, "containers": [{"name": "task"}]},
        "status": {"phase": phase, "containerStatuses": [{"name": "task", "state": state}]},
    }
    return read_pod(msgspec.json.encode(raw))


WAITING: dict[str, object] = {"waiting": {"reason": "PodInitializing"}}
RUNS: dict[str, object] = {"running": {"startedAt": "2026-11-30T18:59:00Z"}}


def exited(at: str) -> dict[str, object]:
    return {"terminated": {"exitCode": 0, "reason": "Completed", "finishedAt": at}}


@pytest.mark.parametrize("minor", [20, 32, 33])
@pytest.mark.parametrize(
    ("finished", "phase"),
    [
        ("2026-11-30T19:00:03Z", Phase.FAILED),  # after the request
        ("2026-11-30T18:00:00Z", Phase.SUCCEEDED),
    ],
)
def test_what_a_deletion_interrupted_is_no_success_for_who_sees_only_its_end(
    minor: int, finished: str, phase: Phase
) -> None:
    """A server before 1.33 leaves the date of the request; a later one has that of its kubelet's word."""
    dated = "2026-11-30T19:00:00Z" if minor < 33 else "2026-11-30T19:00:04Z"
    late = LateEnds(HandClock(), lambda: minor, 30.0)
    pod = deleted_pod(0, dated, exited(finished), "Succeeded")
    assert observe(pod, requested=late.requested_at(pod)).phase is phase


@pytest.mark.parametrize("minor", [20, 33])
@pytest.mark.parametrize("dated", ["2026-11-30T19:00:00Z", "2026-11-30T19:00:04Z"])
def test_what_ran_when_its_deletion_was_asked_for_was_interrupted_whatever_its_nodes_clock_says(
    minor: int, dated: str
) -> None:
    late = LateEnds(HandClock(), lambda: minor, 30.0)
    late.awaits(deleted_pod(5, "2026-11-30T19:00:05Z", RUNS), removed=False)
    pod = deleted_pod(0, dated, exited("2026-11-30T18:59:58Z"), "Succeeded")
    for _ in range(2):  # also when it is seen again
        requested = late.requested_at(pod)
        assert not late.awaits(pod, removed=False)
        assert observe(pod, requested=requested).reason == "Stopped"


def test_what_had_ended_when_its_deletion_was_asked_for_has_ended_by_itself() -> None:
    late = LateEnds(HandClock(), lambda: 33, 30.0)
    ended = exited("2026-11-30T18:59:58Z")
    late.awaits(deleted_pod(5, "2026-11-30T19:00:05Z", ended), removed=False)
    pod = deleted_pod(0, "2026-11-30T19:00:04Z", ended, "Succeeded")
    assert observe(pod, requested=late.requested_at(pod)).phase is Phase.SUCCEEDED


def test_a_forced_deletion_after_a_graceful_one_waits_for_a_kubelet_that_has_not_spoken() -> None:
    """Where each kubelet tells of a terminal phase before it confirms a deletion, this one has not."""
    late = LateEnds(HandClock(), lambda: 33, 30.0)
    late.awaits(deleted_pod(5, "2026-11-30T19:00:05Z", WAITING, "Pending"), removed=False)
    assert late.awaits(deleted_pod(0, "2026-11-30T19:00:04Z", WAITING, "Pending"), removed=False)


KNOWN = {"exitCode": 137, "reason": "Error", "finishedAt": "2026-11-30T19:00:00Z"}
UNKNOWN = {"exitCode": 137, "reason": "ContainerStatusUnknown", "message": "could not be located"}
STATES = st.sampled_from(
    [
        WAITING,
        {"running": {"startedAt": "2026-11-30T18:59:00Z"}},
        {"terminated": KNOWN},
        {"terminated": UNKNOWN},
    ]
)


@given(
    states=st.tuples(STATES, STATES),
    phase=st.sampled_from(["Pending", "Running", "Failed", "Succeeded"]),
    reason=st.sampled_from(["", "DeadlineExceeded", "Evicted"]),
    first=st.none() | st.integers(1, 300),
    grace=st.integers(0, 100),
    removed=st.booleans(),
    elapsed=st.floats(0, 500),
    minor=st.sampled_from([20, 21, 24, 25, 29, 30, 33]),
)
@example(
    states=(WAITING, WAITING),
    phase="Pending",
    reason="",
    first=None,
    grace=9,
    removed=False,
    elapsed=0,
    minor=33,
)
def test_a_final_deletion_proves_nothing_before_a_kubelet_must_be_done_unless_each_end_was_seen(
    states: tuple[dict[str, object], dict[str, object]],
    phase: str,
    reason: str,
    first: int | None,
    grace: int,
    removed: bool,
    elapsed: float,
    minor: int,
) -> None:
    """Whatever the statuses say, and whichever grace an earlier deletion had. A newer kubelet is taken
    at its word: at a terminal phase; before 1.27 also if it was asked to end what no status says to run.
    """
    init, main = states

    def pod(seconds: int) -> Pod:
        deleted = {"deletionTimestamp": "2026-11-30T19:00:00Z", "deletionGracePeriodSeconds": seconds}
        raw = {
            "metadata": {"name": "t-1", "uid": "u", "finalizers": ["tally.dev/attempt"], **deleted},
            "spec": {
                "nodeName": "n",
                "terminationGracePeriodSeconds": grace,
                "initContainers": [{"name": "init"}],
                "containers": [{"name": "task"}],
            },
            "status": {
                "phase": phase,
                "reason": reason,
                "initContainerStatuses": [{"name": "init", "state": init}],
                "containerStatuses": [{"name": "task", "state": main}],
            },
        }
        return read_pod(msgspec.json.encode(raw))

    clock = HandClock()
    late = LateEnds(clock, lambda: minor, 30.0)
    if first is not None:
        late.awaits(pod(first), removed=False)
    late.awaits(pod(0), removed=removed)
    clock.move(elapsed)
    awaits = late.awaits(pod(0), removed=removed)
    stopped = not awaits and observe(pod(0), removed=removed).stopped
    is_over = all(state.get("terminated") == KNOWN for state in states)
    is_main_over = main == {"terminated": KNOWN} and "running" not in init
    is_terminal = phase in ("Failed", "Succeeded")
    runs, waits = any("running" in state for state in states), minor >= 25
    knows = waits or (not runs and ({"terminated": UNKNOWN} not in states or not reason))
    is_word = 25 <= minor < 30 and first is not None and not runs
    if stopped and elapsed < 30 + max(grace, first or 0) and not is_word:
        assert is_over or is_main_over or (is_terminal and knows)
    if stopped and is_terminal:
        assert knows
