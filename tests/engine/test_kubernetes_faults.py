"""Faults 26 to 30 met by the Kubernetes engine: injected into a fake API server; `executions` is what
really ran.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from controller.core.model.installation import Installation
from controller.core.model.task import Launch, Observation, Phase
from controller.dev.fake_kubernetes import FakeCluster
from controller.dev.fake_kubernetes.version import parse_version
from controller.election.term import LeadershipLost
from controller.engine.base import AttemptRefused, EngineUnavailable
from controller.engine.kubernetes.engine import KubernetesEngine
from controller.engine.kubernetes.pod import (
    FINALIZER,
    GATE,
    INSTALLATION,
    LABEL_ATTEMPT,
    LABEL_CLUSTER,
    LABEL_TASK,
    Pod,
)
from tests.engine.kubernetes_cases import Engines, launch, running, scripted, watching
from tests.engine.process_cases import observation, wait_for, wait_stopped
from tests.support.fake_cluster import RawApi, core_api, task_pod

IMPATIENT = 0.3  # seconds that a client waits for an answer that is held back
GATED = {"scheduling_gates": True}


@pytest.fixture
def engine(fake_cluster: FakeCluster, engines: Engines) -> KubernetesEngine:
    return engines(fake_cluster)


def again(given: Launch) -> Launch:
    """The same launch by whoever does not know what became of the first."""
    return replace(given, repeated=True)


def start(engine: KubernetesEngine, given: Launch) -> Observation:
    """Started, and seen running."""
    engine.start(given)
    return wait_for(
        lambda: next(
            (s for s in engine.attempts() if s.attempt == given.attempt and s.phase is Phase.RUNNING), None
        ),
        "it to run",
    )


@contextmanager
def late_creation(
    cluster: FakeCluster, engine: KubernetesEngine, given: Launch
) -> Iterator[Future[Observation]]:
    """The creation is under way during the block, and takes effect after it; the future is done when this
    returns.
    """
    held = cluster.state.faults.hold("create", times=1)
    with ThreadPoolExecutor(1, thread_name_prefix="stale-leader") as pool:
        late = pool.submit(engine.start, given)
        try:
            assert held.wait_held()
            yield late
        finally:
            held.release()


# -- 26: the API server does not answer
# --------------------------------------------------------------------------------


def test_26_nothing_is_concluded_from_silence(fake_cluster: FakeCluster, engine: KubernetesEngine) -> None:
    """No call invents a state; afterwards the attempt is found as it was."""
    given = running()
    before = start(engine, given)
    fault = fake_cluster.state.faults.drop_requests()
    for call in (
        lambda: engine.start(given),
        lambda: engine.stop(given.attempt, grace_seconds=1.0),
        lambda: engine.forget(given.attempt),
        lambda: engine.settle(given.attempt),
        engine.attempts,
    ):
        with pytest.raises(EngineUnavailable):
            call()
    fake_cluster.state.faults.remove(fault)
    assert observation(engine, given.attempt) == before
    assert engine.faults["connection"] >= 5


def test_26_a_slow_server_is_given_up_in_time(fake_cluster: FakeCluster, engines: Engines) -> None:
    impatient = engines(fake_cluster, timeout=IMPATIENT)
    fake_cluster.state.faults.hold("*")
    with pytest.raises(EngineUnavailable, match="does not answer"):
        impatient.start(running())
    assert impatient.faults["timeout"] == 1


@pytest.mark.parametrize(
    ("status", "retry_after", "told"), [(429, 7, 7.0), (503, 3, 3.0), (500, None, 1.0), (401, None, 5.0)]
)
def test_31_a_server_in_trouble_says_when_to_come_again(
    fake_cluster: FakeCluster,
    engine: KubernetesEngine,
    status: int,
    retry_after: int | None,
    told: float,
) -> None:
    fake_cluster.state.faults.fail(status, "create", retry_after=retry_after)
    with pytest.raises(EngineUnavailable) as refused:
        engine.start(running())
    assert refused.value.retry_after == told
    assert engine.faults[str(status)] == 1
    assert fake_cluster.state.faults.struck["status create"] == 1, (
        "a creation is not repeated by the transport"
    )


# -- 27: created, and the answer lost
# ----------------------------------------------------------------------------------


def test_27_a_creation_whose_answer_was_lost_is_adopted(
    fake_cluster: FakeCluster, engine: KubernetesEngine
) -> None:
    given = running()
    fake_cluster.state.faults.drop_answers("create", times=1)
    with pytest.raises(EngineUnavailable):
        engine.start(given)
    pod = fake_cluster.state.pod(str(given.attempt))
    assert pod is not None
    assert engine.start(again(given)).uid == pod["metadata"]["uid"]
    assert len(fake_cluster.state.pods()) == 1


def test_27_a_refusal_after_a_lost_answer_is_no_proof(
    fake_cluster: FakeCluster, engine: KubernetesEngine
) -> None:
    """The pod that was created fills the quota that then refuses the second creation: it runs, and is
    adopted.
    """
    given = running()
    fake_cluster.state.faults.drop_answers("create", times=1)
    with pytest.raises(EngineUnavailable):
        engine.start(given)
    fake_cluster.state.set_quota("default", {"pods": "1"})
    assert not engine.start(again(given)).stopped
    with pytest.raises(AttemptRefused, match="exceeded quota"):
        engine.start(running())


def test_27_a_refusal_while_the_first_creation_is_on_its_way(
    fake_cluster: FakeCluster, engines: Engines
) -> None:
    """Only with its name taken is it certain that nothing was started; while that is refused too, nothing
    is concluded.
    """
    first, second, given = engines(fake_cluster), engines(fake_cluster), running()
    with late_creation(fake_cluster, first, given) as late:
        webhook = fake_cluster.state.add_webhook("no pods today")
        with pytest.raises(EngineUnavailable, match="its name could not be taken"):
            second.start(again(given))
        fake_cluster.state.admission.webhooks.remove(webhook)
        fake_cluster.state.add_webhook(
            "no tasks today", denies=lambda pod: "tally.dev/tombstone" not in pod["metadata"]["labels"]
        )
        with pytest.raises(AttemptRefused, match="no tasks today"):
            second.start(again(given))
        fake_cluster.state.admission.webhooks.clear()
    assert late.result().reason == "NeverStarted"
    assert fake_cluster.state.executions == []


# -- 28: the creation lands late
# ---------------------------------------------------------------------------------------


def test_28_a_creation_after_a_cancel_finds_its_name_taken(
    fake_cluster: FakeCluster, engines: Engines
) -> None:
    """The stop found no pod, and left a tombstone."""
    stale, leader, given = engines(fake_cluster), engines(fake_cluster), running()
    with late_creation(fake_cluster, stale, given) as late:
        stopped = leader.stop(given.attempt, grace_seconds=1.0)
    assert stopped is not None
    assert (stopped.phase, stopped.reason, stopped.ran) == (Phase.FAILED, "NeverStarted", False)
    assert late.result() == stopped
    assert observation(leader, given.attempt) == stopped
    assert fake_cluster.state.executions == []


def test_28_a_creation_after_its_task_was_removed_is_an_orphan(
    fake_cluster: FakeCluster, engines: Engines
) -> None:
    """The tombstone is forgotten with its task; what lands then is listed, and can be stopped and
    forgotten.
    """
    stale, leader, given = engines(fake_cluster), engines(fake_cluster), running()
    with late_creation(fake_cluster, stale, given) as late:
        leader.stop(given.attempt, grace_seconds=1.0)
        leader.forget(given.attempt)
    orphan = observation(leader, given.attempt)
    assert orphan is not None
    assert orphan.uid == late.result().uid
    leader.stop(given.attempt, grace_seconds=1.0, uid=orphan.uid)
    wait_stopped(leader, given.attempt)
    leader.forget(given.attempt)
    assert fake_cluster.state.pods() == []


def test_28_with_the_gate_a_late_creation_never_runs(fake_cluster: FakeCluster, engines: Engines) -> None:
    """The stale leader's creation lands when no tombstone is left; the gate stays shut, since it leads no
    more.
    """
    engine, given = engines(fake_cluster), scripted(GATED, run_seconds=0.0)

    def lost() -> None:
        raise LeadershipLost("the lease could not be renewed in time")

    with pytest.raises(LeadershipLost):
        engine.start(given, lost)
    seen = observation(engine, given.attempt)
    assert seen is not None
    assert (seen.phase, seen.awaits_start) == (Phase.PENDING, True)
    stopped = engine.stop(given.attempt, grace_seconds=1.0, uid=seen.uid)
    assert stopped is not None
    assert (stopped.stopped, stopped.ran) == (True, False)
    engine.settle(given.attempt)
    other = scripted(run_seconds=0.0)
    engine.start(other)
    wait_stopped(engine, other.attempt)
    assert [run.task for run in fake_cluster.state.executions] == [other.attempt.task_id]


def test_28_the_next_leader_opens_the_gate(fake_cluster: FakeCluster, engines: Engines) -> None:
    """A pod that its leader created and left gated runs once it is started again, and only once."""
    engine, given = engines(fake_cluster), scripted(GATED, run_seconds=0.0)
    fake_cluster.state.faults.drop_requests("patch", times=1)
    confirmed: list[bool] = []
    with pytest.raises(EngineUnavailable):
        engine.start(given, lambda: confirmed.append(True))
    assert engine.start(again(given), lambda: confirmed.append(True)).awaits_start is False
    assert wait_stopped(engine, given.attempt).phase is Phase.SUCCEEDED
    assert (len(fake_cluster.state.executions), confirmed) == (1, [True, True])


def test_gates_are_refused_where_the_server_has_none(
    fake_clusters: Callable[..., FakeCluster], engines: Engines
) -> None:
    """v1.20 drops the field, and the pod would run at once."""
    cluster = fake_clusters(version="v1.20.2")
    with pytest.raises(AttemptRefused, match=r"needs Kubernetes 1\.27, this is 1\.20"):
        engines(cluster).start(scripted(GATED))
    assert cluster.state.pods() == []


def test_gates_are_used_once_the_server_was_upgraded(
    fake_clusters: Callable[..., FakeCluster], engines: Engines
) -> None:
    """The replica runs on meanwhile: what it was told of the version before is not kept."""
    cluster = fake_clusters(version="v1.20.2")
    engine, given, confirmed = engines(cluster), scripted(GATED, run_seconds=0.0), list[bool]()
    with pytest.raises(AttemptRefused):
        engine.start(given)
    newer = parse_version("v1.33.1")
    cluster.state.version = cluster.state._registry._version = newer
    engine.start(given, lambda: confirmed.append(True))
    assert confirmed == [True]


def test_a_pod_that_replaced_the_one_that_was_read_is_not_deleted_in_its_place(
    fake_cluster: FakeCluster, engine: KubernetesEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look at a pod and its deletion, somebody removes it, and another one takes its name."""
    given = running()
    uid = start(engine, given).uid
    api, real = core_api(fake_cluster, tmp_path), engine._pods.find

    def find_and_replace(*args: Any) -> Pod | None:
        monkeypatch.undo()
        found = real(*args)
        engine.release_finalizers()
        api.delete_namespaced_pod(str(given.attempt), "default", grace_period_seconds=0)
        assert start(engine, given).uid != uid
        return found

    monkeypatch.setattr(engine._pods, "find", find_and_replace)
    assert engine.stop(given.attempt, grace_seconds=1.0, uid=uid) is None
    (pod,) = fake_cluster.state.pods()
    assert "deletionTimestamp" not in pod["metadata"]


def test_a_patch_removes_what_was_read_and_not_what_stands_there_by_now(
    fake_cluster: FakeCluster, engine: KubernetesEngine
) -> None:
    """A controller puts its own finalizer before ours, after ours was looked at."""
    given = running()
    start(engine, given)
    seen = engine._pods.known(given.attempt)
    first = {"op": "add", "path": "/metadata/finalizers/0", "value": "example.com/theirs"}
    assert RawApi(fake_cluster).patch(str(given.attempt), [first], "json-patch").status_code == 200
    engine._pods.drop_finalizer(seen)
    (pod,) = fake_cluster.state.pods()
    assert pod["metadata"]["finalizers"] == ["example.com/theirs"]


def test_a_pod_that_replaced_the_one_that_was_read_is_not_let_loose_in_its_place(
    fake_cluster: FakeCluster, engine: KubernetesEngine, tmp_path: Path
) -> None:
    """The second one waits behind its own gate: whoever created it has to be confirmed in office first."""
    given = scripted(GATED)

    def lost() -> None:
        raise LeadershipLost("the lease could not be renewed in time")

    def create() -> Pod:
        with pytest.raises(LeadershipLost):
            engine.start(given, lost)
        return engine._pods.known(given.attempt)

    first = create()
    engine.release_finalizers()
    core_api(fake_cluster, tmp_path).delete_namespaced_pod(
        str(given.attempt), "default", grace_period_seconds=0
    )
    second = create()
    assert second.metadata.uid != first.metadata.uid
    with pytest.raises(EngineUnavailable, match="was gone before its scheduling gate was removed"):
        engine._pods.open_gate(first)
    engine._pods.drop_finalizer(first)
    (pod,) = fake_cluster.state.pods()
    assert [gate["name"] for gate in pod["spec"]["schedulingGates"]] == [GATE]
    assert pod["metadata"]["finalizers"] == [FINALIZER]


# -- 29: not ours
# ------------------------------------------------------------------------------------------------------


def test_29_a_foreign_pod_of_our_name_is_never_touched(
    fake_cluster: FakeCluster, engine: KubernetesEngine, tmp_path: Path
) -> None:
    given = running()
    core_api(fake_cluster, tmp_path).create_namespaced_pod(
        "default", task_pod(str(given.attempt), "sleep", "inf")
    )
    wait_for(lambda: fake_cluster.state.executions, "the foreign pod to run")
    with pytest.raises(AttemptRefused, match="left alone") as refused:
        engine.start(given)
    assert refused.value.reason == "NameTaken"
    stopped = engine.stop(given.attempt, grace_seconds=1.0)
    assert stopped is not None
    assert (stopped.stopped, stopped.ran, stopped.reason) == (True, False, "NameTaken")
    engine.settle(given.attempt)
    for uid in ("", "its own, that is gone"):
        engine.forget(given.attempt, uid=uid)
    pod = fake_cluster.state.pod(str(given.attempt))
    assert pod is not None
    assert "deletionTimestamp" not in pod["metadata"]
    assert engine.attempts() == []


# -- 30: deleted, evicted, preempted, lost
# -----------------------------------------------------------------------------


def test_30_a_pod_deleted_by_hand_is_kept_until_its_end_is_committed(
    fake_cluster: FakeCluster,
    engine: KubernetesEngine,
    tmp_path: Path,
) -> None:
    """The hold lasts until the container has stopped; then `settle` lets the object go, and before that it
    does nothing.
    """
    given = running()
    start(engine, given)
    engine.settle(given.attempt)
    assert fake_cluster.state.pods()[0]["metadata"]["finalizers"] == [FINALIZER]
    core_api(fake_cluster, tmp_path).delete_namespaced_pod(
        str(given.attempt), "default", grace_period_seconds=30
    )
    seen = wait_stopped(engine, given.attempt)
    assert fake_cluster.state.executions[0].ended is not None
    assert (seen.phase, seen.reason, seen.disrupted, seen.awaits_commit) == (
        Phase.FAILED,
        "Stopped",
        True,
        True,
    )
    engine.settle(given.attempt)
    engine.settle(given.attempt)
    wait_for(lambda: not fake_cluster.state.pods(), "the object to go")


@pytest.mark.parametrize(
    "labels",
    [
        {LABEL_CLUSTER: None},
        {LABEL_TASK: "other"},
        {LABEL_CLUSTER: None, LABEL_TASK: None, LABEL_ATTEMPT: None},
    ],
)
def test_30_a_pod_whose_labels_were_changed_by_hand_has_not_ended(
    fake_cluster: FakeCluster, engine: KubernetesEngine, tmp_path: Path, labels: dict[str, str | None]
) -> None:
    """A watch by label tells of it as if it were deleted.

    It runs on: it is listed, found by its name, and stopped as any other.
    """
    given = running()
    uid = start(engine, given).uid
    wait_for(lambda: fake_cluster.state.executions, "the container")
    with watching(engine) as reported:
        wait_for(lambda: reported, "the watch")
        core_api(fake_cluster, tmp_path).patch_namespaced_pod(
            str(given.attempt), "default", {"metadata": {"labels": labels}}
        )
        last = launch("true")
        engine.start(last)
        wait_for(lambda: any(seen.attempt == last.attempt for seen in reported), "what happened later")
        assert not [
            seen for seen in reported if seen.attempt == given.attempt and (seen.stopped or seen.gone)
        ]
    assert [(seen.uid, seen.stopped) for seen in engine.attempts() if seen.attempt == given.attempt] == [
        (uid, False)
    ]
    assert engine.start(again(given)).uid == uid
    engine.stop(given.attempt, grace_seconds=1, uid=uid)
    assert wait_stopped(engine, given.attempt).ran
    assert fake_cluster.state.executions[0].ended is not None


def test_30_a_pod_that_names_another_cluster_now_is_left_to_it(
    fake_cluster: FakeCluster, engine: KubernetesEngine, tmp_path: Path
) -> None:
    """Whoever writes another cluster's name on it has given it away."""
    given = running()
    start(engine, given)
    core_api(fake_cluster, tmp_path).patch_namespaced_pod(
        str(given.attempt), "default", {"metadata": {"labels": {LABEL_CLUSTER: "other"}}}
    )
    assert engine.attempts() == []
    engine.stop(given.attempt, grace_seconds=1)
    assert "deletionTimestamp" not in fake_cluster.state.pods()[0]["metadata"]


@pytest.mark.parametrize("name", ["labels", "annotations"])
def test_30_a_pod_that_was_marked_as_anothers_does_not_keep_its_namespace(
    fake_cluster: FakeCluster, engine: KubernetesEngine, tmp_path: Path, name: str
) -> None:
    """Our finalizer goes once its end is committed, or all are released, whatever the pod's marks say now."""
    ours = Installation(id="a" * 32)
    engine.bind(ours)
    core = core_api(fake_cluster, tmp_path)
    changed = {"labels": {LABEL_CLUSTER: "other"}, "annotations": {INSTALLATION: "theirs"}}[name]
    settled, released = (replace(running(), installation=ours.id) for _ in range(2))
    uid = start(engine, settled).uid
    start(engine, released)
    for each in (settled, released):
        core.patch_namespaced_pod(str(each.attempt), "default", {"metadata": {name: changed}})
    assert {seen.attempt for seen in engine.attempts()} == {settled.attempt, released.attempt}
    core.delete_namespaced_pod(str(settled.attempt), "default", grace_period_seconds=1)
    wait_for(lambda: engine.find(settled.attempt, uid=uid).awaits_commit, "its end")
    engine.settle(settled.attempt, uid=uid)
    wait_for(lambda: len(fake_cluster.state.pods()) == 1, "its removal")
    assert engine.release_finalizers() == 1
    assert not fake_cluster.state.pods()[0]["metadata"].get("finalizers")


@pytest.mark.parametrize("version", ["v1.20.2", "v1.33.1"])
@pytest.mark.parametrize("act", ["evict", "preempt"])
def test_30_what_the_platform_ends(
    fake_clusters: Callable[..., FakeCluster],
    engines: Engines,
    version: str,
    act: str,
) -> None:
    """Disrupted, and stopped only where that is proven: v1.20 says Evicted before it kills, and nothing
    after.
    """
    cluster = fake_clusters(version=version)
    engine, given = engines(cluster), running()
    start(engine, given)
    getattr(cluster.state, act)(str(given.attempt))
    if (version, act) == ("v1.20.2", "evict"):
        seen = wait_for(
            lambda: next((s for s in engine.attempts() if s.phase is Phase.FAILED), None), "the eviction"
        )
        assert (seen.stopped, seen.reason) == (False, "Evicted")
    else:
        seen = wait_stopped(engine, given.attempt)
        assert cluster.state.executions[0].ended is not None
    assert seen.disrupted


def test_30_a_node_lost_and_back(fake_cluster: FakeCluster, engine: KubernetesEngine) -> None:
    """Unknown while the node is silent, also when it is stopped meanwhile; the proof comes with the node."""
    given = running()
    start(engine, given)
    fake_cluster.state.lose_node()
    wait_for(lambda: all(seen.phase is Phase.UNKNOWN for seen in engine.attempts()), "the node to be missed")
    stopped = engine.stop(given.attempt, grace_seconds=1.0)
    assert stopped is not None
    assert (stopped.phase, stopped.stopped) == (Phase.UNKNOWN, False)
    assert fake_cluster.state.executions[0].ended is None
    fake_cluster.state.restore_node()
    assert wait_stopped(engine, given.attempt).reason == "Stopped"
    assert fake_cluster.state.executions[0].ended is not None


def test_30_a_node_lost_for_ever(fake_cluster: FakeCluster, engine: KubernetesEngine, tmp_path: Path) -> None:
    """Nothing proves a stop until an operator vouches for it, by a forced deletion here; the finalizer
    shows it to the leader.
    """
    given = running()
    given = replace(given, spec=replace(given.spec, grace_seconds=1.0))
    start(engine, given)
    fake_cluster.state.lose_node()
    engine.stop(given.attempt, grace_seconds=1.0)
    wait_for(lambda: all(seen.phase is Phase.UNKNOWN for seen in engine.attempts()), "the node to be missed")
    core_api(fake_cluster, tmp_path).delete_namespaced_pod(
        str(given.attempt), "default", grace_period_seconds=0
    )
    seen = wait_stopped(engine, given.attempt)
    assert (seen.reason, seen.awaits_commit) == ("Stopped", True)


def test_30_a_pod_that_vanishes_is_not_listed_any_more(
    fake_cluster: FakeCluster, engine: KubernetesEngine
) -> None:
    """Somebody took its finalizers away; a full list is how the leader learns of it."""
    given = running()
    start(engine, given)
    fake_cluster.state.vanish(str(given.attempt))
    assert engine.attempts() == []


def test_a_phase_that_proves_nothing_is_not_deleted(
    fake_clusters: Callable[..., FakeCluster], engines: Engines
) -> None:
    """v1.20 over its deadline: the API server would remove the pod at once, and with it what is known.

    `forget` does.
    """
    cluster = fake_clusters(version="v1.20.2")
    engine = engines(cluster)
    given = scripted(run_seconds=None, pod={"activeDeadlineSeconds": 60})
    start(engine, given)
    seen = wait_for(
        lambda: next((s for s in engine.attempts() if s.phase is Phase.FAILED), None), "its deadline"
    )
    assert (seen.stopped, seen.reason) == (False, "DeadlineExceeded")
    assert engine.stop(given.attempt, grace_seconds=1.0, uid=seen.uid) == seen
    assert "deletionTimestamp" not in cluster.state.pods()[0]["metadata"]
    engine.forget(given.attempt)
    assert cluster.state.pods() == []


def test_a_takeover_adopts_all_and_creates_nothing(fake_cluster: FakeCluster, engines: Engines) -> None:
    """Replicas share no memory: 200 pods of a dead leader are found by list, with their uids, and started
    no second time.
    """
    first = engines(fake_cluster)
    launches = [running() for _ in range(200)]
    uids = {str(given.attempt): first.start(given).uid for given in launches}
    first.close()
    second = engines(fake_cluster)
    assert {str(seen.attempt): seen.uid for seen in second.attempts()} == uids
    assert {str(given.attempt): second.start(again(given)).uid for given in launches[:20]} == {
        str(given.attempt): uids[str(given.attempt)] for given in launches[:20]
    }
    assert len(fake_cluster.state.pods()) == 200


def test_finalizers_can_be_released(
    fake_cluster: FakeCluster, engine: KubernetesEngine, engines: Engines
) -> None:
    """For uninstalling: all of this cluster's, and nobody else's."""
    other = engines(fake_cluster, name="other")
    ended, mine, theirs = launch("true"), running(), running()
    engine.start(ended)
    engine.start(mine)
    other.start(replace(theirs, cluster="other"))
    wait_stopped(engine, ended.attempt)
    assert engine.release_finalizers() == 2
    assert engine.release_finalizers() == 0
    assert {
        pod["metadata"]["name"]: bool(pod["metadata"].get("finalizers")) for pod in fake_cluster.state.pods()
    } == {
        str(ended.attempt): False,
        str(mine.attempt): False,
        str(theirs.attempt): True,
    }
