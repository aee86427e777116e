"""The kubelets of all nodes: accept pods, run their scripts, stop their containers, report what is true.

Truth (`PodRun`) and report are separate: a kubelet whose node is lost keeps what it knows, and reports it
when it is back. Each start and end of containers is recorded in `executions`, which no API call can change.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from controller.dev.fake_kubernetes import pod_status
from controller.dev.fake_kubernetes.agenda import Step, TimedCalls
from controller.dev.fake_kubernetes.apierrors import Document
from controller.dev.fake_kubernetes.cluster_events import EventRecorder
from controller.dev.fake_kubernetes.nodes import Nodes
from controller.dev.fake_kubernetes.pod_registry import TERMINAL, DeleteOptions, PodRegistry
from controller.dev.fake_kubernetes.pod_run import Execution, PodRun
from controller.dev.fake_kubernetes.script import Script
from controller.dev.fake_kubernetes.storage import ObjectChange, Stored
from controller.dev.fake_kubernetes.timestamps import timestamp
from controller.dev.fake_kubernetes.version import ServerVersion

MINIMUM_GRACE_SECONDS = 2  # every kubelet gives a container at least this
DEADLINE = ("DeadlineExceeded", "Pod was active on the node longer than the specified deadline")
EVICTED = ("Evicted", "The node was low on resource: memory. ")


@dataclass(frozen=True, slots=True)
class KubeletTimings:
    """Seconds of the cluster, as measured in the recordings where they show it."""

    schedule: float = 0.005
    accept: float = 0.015
    create: float = 0.4
    report: float = 0.02
    image_backoff: float = 10.0
    removal: float = 0.3
    """From the containers' end to the removal of a deleted pod."""
    legacy_stop_report: float = 8.0
    """v1.20: from the containers' end of a deleted pod to its last status."""
    legacy_removal: float = 20.0
    """v1.20: from that status to the removal."""
    node_monitor: float = 40.0


class Kubelets:
    """Is notified of every change of a pod; works from the agenda. Calls need the storage's lock."""

    def __init__(
        self,
        registry: PodRegistry,
        nodes: Nodes,
        agenda: TimedCalls,
        recorder: EventRecorder,
        *,
        version: ServerVersion,
        timings: KubeletTimings,
        script_of: Callable[[Document], Script],
    ) -> None:
        self._registry = registry
        self._nodes = nodes
        self._agenda = agenda
        self._clock = agenda.clock
        self._recorder = recorder
        self._version = version
        self._timings = timings
        self._script_of = script_of
        self.runs: dict[str, PodRun] = {}
        self.executions: list[Execution] = []

    def observe(self, change: ObjectChange) -> None:
        """Take note of a pod's change."""
        pod = change.after.document
        uid = pod["metadata"]["uid"]
        run = self.runs.get(uid)
        if run is None:
            if change.type != "DELETED" and pod["spec"].get("nodeName"):
                run = self.runs[uid] = PodRun.of(change.after, self._script_of(pod), self._version)
                self._soon(run, self._timings.accept, self._accept)
        elif change.type == "DELETED" and run.state == "ended":
            del self.runs[uid]
        elif change.type == "DELETED":
            grace = pod["spec"]["terminationGracePeriodSeconds"]
            self._soon(run, self._timings.report, partial(self._stop, grace=grace))
        elif pod["metadata"].get("deletionGracePeriodSeconds") != _grace(change.before):
            grace = pod["metadata"]["deletionGracePeriodSeconds"]
            # else it is removed now, and the kubelet sees only that
            if grace or pod["metadata"].get("finalizers"):
                self._soon(run, self._timings.report, partial(self._stop, grace=grace))
        elif pod["spec"].get("activeDeadlineSeconds") != _deadline(change.before):
            self._soon(run, self._timings.report, self._check_deadline)

    def lose_containers(self, node: str) -> None:
        """Shut down the machine: everything on it ends, unseen."""
        for run in self.runs.values():
            if run.node == node and run.state == "running":
                run.lost = True
                self._end(run, 137, "ContainerStatusUnknown")

    def evict(self, run: PodRun) -> None:
        """Stop this pod, since the node is short of memory."""
        if run.state != "ended" and run.verdict is None:
            names = " ".join(each["name"] for each in run.pod["spec"]["containers"])
            self._fail(
                run,
                (
                    EVICTED[0],
                    f"{EVICTED[1]}Container {names} was using 1Gi, which exceeds its request of 0. ",
                ),
            )

    def _accept(self, run: PodRun) -> None:
        run.accepted_at, run.accepted_boottime = self._clock.now(), self._clock.boottime()
        if run.state == "ended" or self._registry.find(run.key, run.uid) is None:
            return
        self._report(run)
        self._check_deadline(run)
        self._soon(run, self._timings.create, self._create)

    def _create(self, run: PodRun) -> None:
        if run.state == "ended" or run.stopping or run.verdict:
            return
        start, image = run.script.start, run.pod["spec"]["containers"][0]["image"]
        if start == "runs":
            self._start(run)
        elif start == "not-found":
            command = (run.pod["spec"]["containers"][0].get("command") or ["?"])[0]
            run.start(self._clock.now(), self._clock.boottime())
            run.execution = None  # the runtime refused: nothing ran
            self._end(run, *pod_status.command_not_found(command, self._version))
        elif start == "image-error":
            self._pull(run, image)
        elif start == "image-never":
            self._wait(
                run,
                "ErrImageNeverPull",
                f'Container image "{image}" is not present with pull policy of Never',
            )
        elif start == "config-error":
            self._wait(run, "CreateContainerConfigError", 'configmap "missing" not found')

    def _start(self, run: PodRun) -> None:
        script = run.script
        self.executions.append(run.start(self._clock.now(), self._clock.boottime()))
        self._recorder.record(
            run.pod, "Started", f"Started container {run.pod['spec']['containers'][0]['name']}"
        )
        self._soon(run, self._timings.report, self._report)
        if script.run_seconds is not None:
            code, reason = (
                (137, "OOMKilled")
                if script.oom
                else (script.exit_code, "Error" if script.exit_code else "Completed")
            )
            end = self._end_first if script.others_stay else self._end
            self._agenda.after(script.run_seconds, partial(end, run, code, reason))
        if script.evict_after is not None:
            self._soon(run, script.evict_after, self.evict)
        if script.vanish_after is not None:
            self._agenda.after(script.vanish_after, partial(self._vanish, run))

    def _pull(self, run: PodRun, image: str) -> None:
        message = f'rpc error: code = NotFound desc = failed to pull and unpack image "{image}": not found'
        self._wait(run, "ErrImagePull", message)
        self._recorder.record(run.pod, "Failed", f'Failed to pull image "{image}": {message}', warning=True)
        back_off = partial(self._wait, reason="ImagePullBackOff", message=f'Back-off pulling image "{image}"')
        self._soon(run, self._timings.image_backoff, back_off)

    def _wait(self, run: PodRun, reason: str, message: str) -> None:
        if run.state != "ended":
            run.state, run.why_waiting = "waiting", (reason, message)
            self._report(run)

    def _stop(self, run: PodRun, grace: float) -> None:
        """TERM now, KILL after the grace; a shorter grace may follow."""
        if run.state == "ended":
            self._after_end(run)
            return
        if run.execution is None:
            run.lost = self._version.reports_after_stop  # there was no container whose end could be seen
            self._end(run, 137, "ContainerStatusUnknown")
            return
        if not run.stopping:
            run.stopping = True
            self._recorder.record(
                run.pod, "Killing", f"Stopping container {run.pod['spec']['containers'][0]['name']}"
            )
            if run.script.on_term is not None:
                code = run.script.on_term
                end = partial(self._end, exit_code=code, reason="Error" if code else "Completed")
                self._soon(run, run.script.term_seconds, end)
        grace = max(grace, MINIMUM_GRACE_SECONDS)
        self._soon(run, grace, partial(self._end, exit_code=137, reason="Error"))

    def _end(self, run: PodRun, exit_code: int, reason: str, message: str = "") -> None:
        if run.state == "ended":
            return
        run.end(self._clock.now(), self._clock.boottime(), exit_code, reason, message)
        self._soon(run, self._timings.report, self._after_end)

    def _end_first(self, run: PodRun, exit_code: int, reason: str) -> None:
        if run.state != "ended":
            run.first_end = (self._clock.now(), exit_code, reason)
            self._soon(run, self._timings.report, self._report)

    def _after_end(self, run: PodRun) -> None:
        pod = self._registry.find(run.key, run.uid)
        if pod is None:
            self.runs.pop(run.uid, None)
            return
        deleted = "deletionTimestamp" in pod.document["metadata"]
        removal = self._timings.removal
        if not deleted or self._version.reports_after_stop:
            self._report(run)
        elif run.execution is not None:  # an old kubelet says nothing about containers that never were
            self._soon(run, self._timings.legacy_stop_report, self._report)
            removal = self._timings.legacy_stop_report + self._timings.legacy_removal
        if deleted:
            self._soon(run, removal, self._remove)

    def _remove(self, run: PodRun) -> None:
        if self._registry.find(run.key, run.uid) is not None:
            self._registry.delete(run.key, DeleteOptions(grace_seconds=0, uid=run.uid))

    def _vanish(self, run: PodRun) -> None:
        if self._registry.find(run.key, run.uid) is not None:
            self._registry.vanish(run.key)

    def _check_deadline(self, run: PodRun) -> None:
        pod = self._registry.find(run.key, run.uid)
        deadline = pod.document["spec"].get("activeDeadlineSeconds") if pod else None
        if deadline is None or run.accepted_at is None or run.state == "ended" or run.verdict or run.stopping:
            return
        due = run.accepted_boottime + deadline * self._agenda.scale
        if self._clock.boottime() >= due:
            self._fail(run, DEADLINE)
        else:
            self._soon(run, (due - self._clock.boottime()) / self._agenda.scale, self._check_deadline)

    def _fail(self, run: PodRun, verdict: tuple[str, str]) -> None:
        """Fail the pod. An old kubelet reports that before it stops the containers, a new one afterwards."""
        run.verdict = verdict
        pod = self._registry.find(run.key, run.uid)
        if pod is not None and verdict[0] == "Evicted" and self._version.has_disruption_target:
            at, message = timestamp(self._clock.now()), verdict[1]
            target = pod_status.condition("DisruptionTarget", True, at, "TerminationByKubelet", message)
            pod = self._registry.set_status(pod, pod_status.with_condition(pod.copy()["status"], target))
        if not self._version.reports_after_stop:
            self._report(run)
            run.sealed = True
        grace = run.pod["spec"]["terminationGracePeriodSeconds"]
        self._stop(run, 0 if verdict[0] == "Evicted" else grace)

    def _report(self, run: PodRun) -> None:
        pod = self._registry.find(run.key, run.uid)
        if pod is None or run.sealed:
            return
        deleting = "deletionTimestamp" in pod.document["metadata"]
        if pod.document["status"]["phase"] in TERMINAL:  # which no kubelet takes back
            return
        self._registry.set_status(pod, run.status(pod.copy()["status"], self._clock.now(), deleting=deleting))

    def report_node(self, node: str) -> None:
        """Report the state of all its pods, when the kubelet is back."""
        for run in list(self.runs.values()):
            if run.node == node and run.accepted_at is not None:
                self._report(run)

    def _soon(self, run: PodRun, seconds: float, step: Callable[[PodRun], None]) -> None:
        """Let the run's kubelet do it in `seconds`, or later when it cannot be reached by then."""
        node = self._nodes.by_name.get(run.node)
        if node is None:
            return
        act: Step = partial(step, run)
        self._agenda.after(seconds, lambda: node.when_connected(act))


def _grace(stored: Stored | None) -> object:
    return stored.document["metadata"].get("deletionGracePeriodSeconds") if stored else None


def _deadline(stored: Stored | None) -> object:
    return stored.document["spec"].get("activeDeadlineSeconds") if stored else None
