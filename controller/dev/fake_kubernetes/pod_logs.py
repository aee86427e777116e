"""What a pod's containers have printed so far, as their script says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from controller.dev.fake_kubernetes import apierrors
from controller.dev.fake_kubernetes.agenda import TimedCalls
from controller.dev.fake_kubernetes.apierrors import Document
from controller.dev.fake_kubernetes.pod_run import PodRun
from controller.dev.fake_kubernetes.storage import Storage


class PodLogs:
    """Reads the runs of the kubelets."""

    def __init__(self, storage: Storage, runs: Mapping[str, PodRun], agenda: TimedCalls) -> None:
        self._storage = storage
        self._runs = runs
        self._agenda = agenda
        self.closed = False

    def check(self, pod: Document, container: str) -> None:
        """Raises ApiError 400 when there is no such container, or it has not started.

        Needs the storage's lock.
        """
        name = pod["metadata"]["name"]
        names = [each["name"] for each in pod["spec"]["containers"]]
        if container and container not in names:
            raise apierrors.bad_request(f"container {container} is not valid for pod {name}")
        if not container and len(names) > 1:
            why = f"a container name must be specified for pod {name}, choose one of: [{' '.join(names)}]"
            raise apierrors.bad_request(why)
        run = self._runs.get(pod["metadata"]["uid"])
        if run is None or run.execution is None:
            why = run.why_waiting[0] if run is not None else "ContainerCreating"
            state = (
                "trying and failing to pull image"
                if why in {"ErrImagePull", "ImagePullBackOff"}
                else f"waiting to start: {why}"
            )
            raise apierrors.bad_request(f'container "{container or names[0]}" in pod "{name}" is {state}')

    def lines(self, uid: str, tail: int | None = None) -> list[bytes]:
        """The lines printed so far. Needs the storage's lock."""
        printed, _, _ = self._printed(uid)
        return printed if tail is None else printed[len(printed) - min(tail, len(printed)) :]

    def follow(self, uid: str, tail: int | None) -> Iterator[bytes]:
        """Lines as they are printed, until the containers have ended."""
        with self._storage.changed:
            sent = len(self.lines(uid)) - len(self.lines(uid, tail))
        while True:
            with self._storage.changed:
                printed, ended, due = self._printed(uid)
                if len(printed) == sent and not ended and not self.closed:
                    self._storage.changed.wait(due)
                    printed, ended, due = self._printed(uid)
                closed = self.closed
            if len(printed) > sent:
                yield b"".join(printed[sent:])
                sent = len(printed)
            if ended or closed:
                return

    def _printed(self, uid: str) -> tuple[list[bytes], bool, float | None]:
        """The lines so far, whether they are all, and in how many seconds the next one is due (None: not
        known).
        """
        run = self._runs.get(uid)
        if run is None or run.execution is None:
            return [], True, None
        now, scale, started = self._agenda.clock.boottime(), self._agenda.scale, run.execution.started
        until = now if run.execution.ended is None else run.execution.ended
        due = [started + at * scale for at, _ in run.script.output]
        printed = [
            line.encode() + b"\n" for at, (_, line) in zip(due, run.script.output, strict=True) if at <= until
        ]
        later = [at - now for at in due if at > until]
        return printed, run.execution.ended is not None, max(0.001, min(later)) if later else 0.2
