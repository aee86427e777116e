"""What is evidence of a stop and what is not, beyond the recordings: newer servers, evictions, nodes,
other containers.
"""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from controller.core.model.task import Observation, Phase, RetryPolicy, Status
from controller.core.planning.retry import judge
from controller.engine.kubernetes.pod import decode_pod
from controller.engine.kubernetes.pod_observation import observe

T0, T5, T9 = "2026-01-01T00:00:00Z", "2026-01-01T00:00:05Z", "2026-01-01T00:00:09Z"
RUNNING = {"running": {"startedAt": T0}}
WAITING = {"waiting": {"reason": "ContainerCreating"}}
LOST_SIGHT = {
    "terminated": {"exitCode": 137, "reason": "ContainerStatusUnknown", "startedAt": None, "finishedAt": None}
}


def ended(code: int, *, at: str = T5, reason: str = "", message: str = "") -> dict[str, Any]:
    reason = reason or ("Completed" if code == 0 else "Error")
    return {
        "terminated": {
            "exitCode": code,
            "reason": reason,
            "message": message,
            "startedAt": T0,
            "finishedAt": at,
        }
    }


def deleted(grace: int, *, at: str = T9) -> dict[str, Any]:
    """Metadata: requested `grace` seconds before `at`."""
    return {"deletionTimestamp": at, "deletionGracePeriodSeconds": grace}


def seen(
    phase: str,
    state: dict[str, Any] | None = None,
    *,
    metadata: dict[str, Any] | None = None,
    node: str = "n1",
    others: dict[str, dict[str, Any]] | None = None,
    init: dict[str, dict[str, Any]] | None = None,
    removed: bool = False,
    requested: float | None = None,
    spec: dict[str, Any] | None = None,
    **status: Any,
) -> Observation:
    """The observation of a pod with these container states."""
    states = {**({"task": state} if state else {}), **(others or {})}
    names = ["task", *(others or {})]
    if states:
        status["containerStatuses"] = [
            {"name": name, "state": each, "containerID": "" if each is WAITING else "c"}
            for name, each in states.items()
        ]
    if init:
        status["initContainerStatuses"] = [{"name": name, "state": each} for name, each in init.items()]
    pod = {
        "metadata": {"name": "job-1", "uid": "u", **(metadata or {})},
        "spec": {"nodeName": node, "containers": [{"name": name} for name in names], **(spec or {})},
        "status": {"phase": phase, **status},
    }
    return observe(decode_pod(msgspec.json.encode(pod)), removed=removed, requested=requested)


def brief(observation: Observation) -> tuple[str, bool, str]:
    return observation.phase.value, observation.stopped, observation.reason


DISRUPTION = {"type": "DisruptionTarget", "status": "True"}


@pytest.mark.parametrize(
    "unproven",
    [
        seen("Failed", RUNNING, reason="DeadlineExceeded"),
        # final at once, without the kubelet
        seen("Failed", RUNNING, reason="DeadlineExceeded", metadata=deleted(0)),
        seen("Failed", RUNNING, removed=True),
        seen("Failed", None, reason="Evicted"),  # v1.20 evicts so, before it kills
        seen("Failed", None, reason="Evicted", metadata=deleted(0)),
        seen("Failed", None),
        seen("Succeeded", None),
        seen("Failed", WAITING, metadata=deleted(5)),
        seen("Failed", LOST_SIGHT, metadata=deleted(5)),
        seen("Failed", ended(1), others={"side": RUNNING}),
        seen("Failed", ended(1), init={"sidecar": RUNNING}),
        seen("Running", RUNNING, metadata=deleted(30)),
        seen("Running", ended(0), others={"side": RUNNING}),
        seen("Pending", WAITING, metadata=deleted(30)),
        seen("Unknown", RUNNING),
        seen("Unknown", RUNNING, metadata=deleted(30), reason="NodeLost"),
        seen("Failed", RUNNING, reason="NodeLost"),
        seen("Failed", RUNNING, conditions=[{**DISRUPTION, "reason": "DeletionByPodGC"}]),
    ],
    ids=str,
)
def test_what_proves_no_stop(unproven: Observation) -> None:
    assert not unproven.stopped


@pytest.mark.parametrize(
    "proven",
    [
        seen("Failed", ended(1)),
        seen("Failed", LOST_SIGHT),  # its kubelet says so of a pod that it has finished with
        seen("Failed", WAITING, reason="DeadlineExceeded"),  # its image was still being pulled
        seen("Failed", None, reason="OutOfcpu"),
        seen("Failed", None, reason="NodeShutdown", message="Pod was rejected as the node is shutting down."),
        seen("Running", RUNNING, metadata=deleted(0)),  # by force, or by a kubelet that is done
        seen("Unknown", RUNNING, metadata=deleted(0)),
        seen("Running", RUNNING, removed=True),
        seen("Failed", LOST_SIGHT, metadata=deleted(0)),
        seen(
            "Failed", RUNNING, metadata=deleted(0), conditions=[{**DISRUPTION, "reason": "DeletionByPodGC"}]
        ),
        seen("Pending", None, node="", metadata=deleted(0)),
        seen("Pending", None, node="", removed=True),
    ],
    ids=str,
)
def test_what_proves_a_stop(proven: Observation) -> None:
    assert proven.stopped
    assert proven.phase is Phase.FAILED


@pytest.mark.parametrize(
    ("at", "phase"),
    [("2026-01-01T00:00:03Z", Phase.SUCCEEDED), ("2026-01-01T00:00:04Z", Phase.FAILED), (T5, Phase.FAILED)],
)
def test_a_success_counts_if_it_came_before_the_stop(at: str, phase: Phase) -> None:
    """The deletion was requested at second 4.

    In the same second nobody can tell: what runs twice loses less than what is lost.
    """
    observation = seen("Succeeded", ended(0, at=at), metadata=deleted(5))
    assert (observation.phase, observation.stopped, observation.exit_code) == (phase, True, 0)


def test_a_deleted_pod_says_so() -> None:
    observation = seen(
        "Failed", ended(137, at=T9), metadata={**deleted(0), "finalizers": ["tally.dev/attempt"]}
    )
    assert (*brief(observation), observation.signal, observation.disrupted) == (
        "Failed",
        True,
        "Stopped",
        9,
        True,
    )
    assert observation.awaits_commit
    assert not seen("Failed", ended(1), metadata={"finalizers": ["tally.dev/attempt"]}).awaits_commit


@pytest.mark.parametrize(
    ("observation", "reason"),
    [
        (seen("Failed", ended(137), reason="Evicted", message="low on memory"), "Evicted"),
        (
            seen(
                "Failed",
                ended(137),
                reason="Evicted",
                message="The node was low on resource: ephemeral-storage. "
                "Container task was using 2Gi, which exceeds its request of 0. ",
            ),
            "Evicted",
        ),
        (seen("Failed", ended(143), reason="Terminated", message="node shutdown"), "Terminated"),
        (
            seen("Failed", ended(143), conditions=[{**DISRUPTION, "reason": "TerminationByKubelet"}]),
            "TerminationByKubelet",
        ),
        (
            seen(
                "Failed",
                ended(143, at=T9),
                metadata=deleted(0),
                conditions=[{**DISRUPTION, "reason": "PreemptionByScheduler"}],
            ),
            "PreemptionByScheduler",
        ),
    ],
)
def test_what_the_platform_ended_is_no_failure_of_the_task(observation: Observation, reason: str) -> None:
    assert brief(observation) == ("Failed", True, reason)
    assert observation.disrupted


@pytest.mark.parametrize(
    "message",
    [
        "Pod ephemeral local storage usage exceeds the total limit of containers 1Gi. ",
        'Container task exceeded its local ephemeral storage limit "100Mi". ',
        'Usage of EmptyDir volume "scratch" exceeds the limit "1Gi". ',
    ],
)
@pytest.mark.parametrize("state", [ended(137), None])
def test_an_eviction_for_its_own_limit_is_a_failure_of_the_task(
    message: str, state: dict[str, Any] | None
) -> None:
    """Counted as OOMKilled is: without that it would be tried for ever. Also once its pod was removed."""
    removed: dict[str, Any] = {"conditions": [{**DISRUPTION, "reason": "DeletionByPodGC"}], "removed": True}
    finished: tuple[dict[str, Any], ...] = (
        ({}, {"metadata": deleted(0, at="2026-01-01T01:00:00Z")}) if state else ()
    )
    for more in (*finished, removed):
        observation = seen("Failed", state, reason="Evicted", message=message, **more)
        assert brief(observation) == ("Failed", True, "Evicted")
        assert (observation.message, observation.ran, observation.disrupted) == (message, True, False)
        verdict = judge(RetryPolicy(max_attempts=1), Status(), observation, 0.0)
        assert (verdict.retry, verdict.failures) == (False, 1)
    # while there is no proof yet
    assert not seen("Failed", None, reason="Evicted", message=message).disrupted


@pytest.mark.parametrize(
    ("end", "reason", "ran", "signal"),
    [
        (ended(1), "Error", True, None),
        (ended(255), "Error", True, None),
        (ended(127), "Error", True, None),  # the shell ran
        (ended(143), "Error", True, 15),
        (ended(137, reason="OOMKilled"), "OOMKilled", True, 9),
        (
            ended(128, reason="StartError", message='exec: "x": executable file not found in $PATH'),
            "CommandNotFound",
            False,
            None,
        ),
        (
            ended(126, reason="ContainerCannotRun", message="permission denied: unknown"),
            "PermissionDenied",
            False,
            None,
        ),
    ],
)
def test_how_a_container_failed(end: dict[str, Any], reason: str, ran: bool, signal: int | None) -> None:
    observation = seen("Failed", end)
    assert (*brief(observation), observation.ran, observation.signal) == ("Failed", True, reason, ran, signal)
    assert observation.exit_code == end["terminated"]["exitCode"]


def test_another_container_failed() -> None:
    """The pod's phase is the truth; the message names the container."""
    observation = seen("Failed", ended(0), others={"side": ended(3)})
    assert (*brief(observation), observation.exit_code) == ("Failed", True, "ContainerFailed", 3)
    assert "container side" in observation.message
    first = seen("Failed", WAITING, init={"fetch": ended(4)})
    assert (*brief(first), first.exit_code) == ("Failed", True, "ContainerFailed", 4)


@pytest.mark.parametrize(
    ("ready", "containers", "reason", "phase"),
    [
        ("False", "True", None, Phase.UNKNOWN),
        ("False", "False", "ContainersNotReady", Phase.RUNNING),
        ("True", "True", None, Phase.RUNNING),
    ],
)
def test_a_lost_node_is_told_from_a_failing_probe(
    ready: str, containers: str, reason: str | None, phase: Phase
) -> None:
    conditions = [
        {"type": "Ready", "status": ready, "reason": reason},
        {"type": "ContainersReady", "status": containers},
    ]
    assert seen("Running", RUNNING, conditions=conditions).phase is phase


@pytest.mark.parametrize("reason", ["ErrImagePull", "ImagePullBackOff"])
def test_alternating_words_are_one_reason(reason: str) -> None:
    """Else each turn would be written down."""
    waits = seen("Pending", {"waiting": {"reason": reason, "message": "no such image"}})
    assert (waits.waiting, waits.waiting_message) == ("ErrImagePull", "no such image")


def test_a_gated_pod_awaits_its_start() -> None:
    gated = {"schedulingGates": [{"name": "tally.dev/leadership"}]}
    assert seen("Pending", None, node="", spec=gated).awaits_start
    assert not seen("Pending", None, node="", spec=gated, metadata=deleted(0)).awaits_start


def unscheduled(reason: str, message: str) -> list[dict[str, Any]]:
    return [{"type": "PodScheduled", "status": "False", "reason": reason, "message": message}]


def test_gates_of_ours_are_no_reason_to_wait_and_those_of_others_are() -> None:
    """The condition stays for a moment after the gate was opened, and a bound pod waits for no scheduler."""
    ours, theirs = {"name": "tally.dev/leadership"}, {"name": "kueue.x-k8s.io/admission"}
    blocked = unscheduled("SchedulingGated", "Scheduling is blocked due to non-empty scheduling gates")
    for gates in ([ours], []):
        assert not seen("Pending", None, node="", spec={"schedulingGates": gates}, conditions=blocked).waiting
    waits = seen("Pending", None, node="", spec={"schedulingGates": [theirs]}, conditions=blocked)
    assert waits.waiting == "SchedulingGated"
    assert waits.waiting_message.startswith("Scheduling is blocked")
    assert not seen("Pending", WAITING, conditions=unscheduled("Unschedulable", "0/1 nodes")).waiting
    waits = seen("Pending", None, node="", conditions=unscheduled("Unschedulable", "0/1 nodes"))
    assert (waits.waiting, waits.waiting_message) == ("Unschedulable", "0/1 nodes")


# -- the container that ends the attempt
# -------------------------------------------------------------------------------


def with_main(name: str = "task", **metadata: Any) -> dict[str, Any]:
    return {"labels": {"tally.dev/main-container": name}, **metadata}


@pytest.mark.parametrize(
    ("code", "reason", "ran"),
    [(0, "Completed", True), (7, "Error", True), (137, "OOMKilled", True), (128, "StartError", False)],
)
def test_the_main_containers_end_is_told_while_others_run(code: int, reason: str, ran: bool) -> None:
    """And it is no proof of a stop."""
    found = seen("Running", ended(code, reason=reason), others={"side": RUNNING}, metadata=with_main())
    assert (found.phase, found.stopped, found.main_ended) == (Phase.RUNNING, False, True)
    assert (found.exit_code, found.reason, found.ran) == (code, reason, ran)


def test_without_a_main_container_all_must_end() -> None:
    assert not seen("Running", ended(0), others={"side": RUNNING}).main_ended
    assert not seen("Running", RUNNING, others={"side": ended(0)}, metadata=with_main()).main_ended


def test_another_container_may_be_the_main_one() -> None:
    found = seen("Running", RUNNING, others={"side": ended(3)}, metadata=with_main("side"))
    assert (found.main_ended, found.exit_code) == (True, 3)


@pytest.mark.parametrize("main", ["", "task"])
def test_no_label_tells_the_main_container_of_a_pod_that_has_the_variable(main: str) -> None:
    """Anybody who may label a pod could end its task otherwise; without it, a pod is an older release's."""
    told = {"name": "task", "env": [{"name": "A"}, {"name": "TALLY_MAIN_CONTAINER", "value": main}]}
    spec = {"containers": [told, {"name": "side"}]}
    found = seen("Running", RUNNING, others={"side": ended(0)}, metadata=with_main("side"), spec=spec)
    assert not found.main_ended
    found = seen("Running", ended(0), others={"side": RUNNING}, spec=spec)
    assert found.main_ended == bool(main)


def test_an_end_by_deletion_is_none_of_its_own() -> None:
    """A cancel stops the main container too: what it exits with then is no result."""
    late, early = ended(0, at=T9), ended(0, at=T0)
    deleting = with_main(**deleted(4))  # asked for at T5
    assert not seen("Running", late, others={"side": RUNNING}, metadata=deleting).main_ended
    assert seen("Running", early, others={"side": RUNNING}, metadata=deleting).main_ended


@pytest.mark.parametrize(("code", "phase"), [(0, Phase.SUCCEEDED), (7, Phase.FAILED)])
def test_the_end_of_all_is_judged_by_the_main_container(code: int, phase: Phase) -> None:
    """The pod is Failed if any container failed."""
    found = seen("Failed", ended(code), others={"side": ended(1)}, metadata=with_main())
    assert (found.phase, found.stopped, found.exit_code) == (phase, True, code)
    assert seen("Failed", ended(0), others={"side": ended(1)}).phase is Phase.FAILED


def test_an_evicted_pod_has_not_succeeded() -> None:
    """Its main container may exit with 0 when it is told to stop."""
    found = seen("Failed", ended(0), others={"side": ended(137)}, metadata=with_main(), reason="Evicted")
    assert (found.phase, found.disrupted) == (Phase.FAILED, True)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"others": {"helper": ended(7)}}, "ContainerFailed"),
        (
            {"others": {"helper": ended(137)}, "reason": "DeadlineExceeded", "message": "too long"},
            "DeadlineExceeded",
        ),
        (
            {
                "others": {"helper": ended(137)},
                "reason": "Evicted",
                "message": "Pod ephemeral local storage usage exceeds the total limit of containers 1Gi. ",
            },
            "Evicted",
        ),
    ],
)
def test_a_failure_stays_one_when_somebody_deletes_its_pod(fields: dict[str, Any], reason: str) -> None:
    before, after = (seen("Failed", ended(0), metadata=meta, **fields) for meta in ({}, deleted(0)))
    assert (before.phase, before.reason) == (after.phase, after.reason) == (Phase.FAILED, reason)


def test_helpers_that_a_deletion_ended_do_not_undo_a_success() -> None:
    """Its main container had ended before."""
    helper = {"helper": ended(143, at=T9)}
    assert seen("Failed", ended(0, at=T0), metadata=deleted(4), others=helper).phase is Phase.SUCCEEDED


def test_what_is_known_of_a_request_counts_more_than_the_pods_own_date() -> None:
    """A server from 1.33 on dates a deletion anew when it becomes final."""
    end = seen("Succeeded", ended(0), metadata=deleted(0), requested=0.0)
    assert (end.phase, end.reason, end.disrupted) == (Phase.FAILED, "Stopped", True)


def test_a_sidecar_fails_no_pod() -> None:
    """It is ended after the others, by a signal; the first failure of another container is told."""
    spec = {"initContainers": [{"name": "proxy", "restartPolicy": "Always"}, {"name": "migrate"}]}
    init = {"proxy": ended(143, at=T9), "migrate": ended(3)}
    failed = seen("Failed", WAITING, init=init, spec=spec)
    assert (failed.reason, failed.exit_code, failed.signal) == ("ContainerFailed", 3, None)


def test_the_first_of_several_failures_is_told() -> None:
    others = {"one": ended(5, at=T9), "other": ended(6, at=T5)}
    assert seen("Failed", ended(0, at=T0), others=others).exit_code == 6


@pytest.mark.parametrize(
    ("reason", "message"),
    [
        ("Evicted", "Pod The node had condition: [DiskPressure]. "),
        ("Evicted", "Pod was rejected: The node had condition: [DiskPressure]. "),
        ("NodeShutdown", "Pod Pod was rejected as the node is shutting down."),
        ("TaintToleration", "Pod Predicate TaintToleration failed"),
        ("SomethingNew", "Pod Predicate SomethingNew failed"),
    ],
)
def test_what_a_kubelet_has_refused_never_ran(reason: str, message: str) -> None:
    """Kubelets up to 1.25 at least put "Pod " before their words."""
    refused = seen("Failed", reason=reason, message=message)
    assert (refused.stopped, refused.ran) == (True, False)


def test_an_eviction_of_1_20_is_no_refusal() -> None:
    assert not seen("Failed", reason="Evicted", message="The node was low on resource: memory. ").stopped


def test_a_tombstone_has_ended_also_where_a_webhook_names_a_scheduler() -> None:
    """It selects a node that there is not. A release of before named only a scheduler that there is not."""
    labels = {"labels": {"tally.dev/tombstone": "true"}}
    for spec in ({"nodeSelector": {"tally.dev/none": "true"}}, {"schedulerName": "tally.dev/none"}):
        assert brief(seen("Pending", metadata=labels, spec=spec)) == ("Failed", True, "NeverStarted")


@pytest.mark.parametrize("label", ["true", "part", ""])
def test_a_label_makes_no_tombstone_of_a_pod_that_runs(label: str) -> None:
    """Anybody may put it there: that the pod has ended would be taken for proven, and the next one start."""
    metadata = {"labels": {"tally.dev/tombstone": label}}
    spec = {"schedulerName": "default-scheduler"}
    told = seen("Running", {"running": {}}, metadata=metadata, spec=spec)
    assert (told.phase, told.stopped) == (Phase.RUNNING, False)
