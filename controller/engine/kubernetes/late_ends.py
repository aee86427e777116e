"""Deletions that are final before the kubelet is done with the pod's containers.

The API server makes a deletion final when a kubelet confirms it, and at once when it is forced, or when 1.20
deletes a namespace. Our finalizer keeps the object, and an end counts when nothing of it can still run:
- A kubelet before 1.22 confirms it at once for a starting pod, and goes on to create the container. That runs
  for its whole grace, and no status tells of it: seen on 1.20.2, for nearly each such pod. Mended by
  https://github.com/kubernetes/kubernetes/pull/102344. A kubelet may be three versions older than a server.
- After a forced deletion, a kubelet that lives ends what runs, and reports that within seconds.

So such an end counts once the time has passed that a living kubelet needs, from when it was first seen here.
After that the word of who forced it counts, as before: a node that is gone reports nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import NamedTuple

from controller.clock import Clock
from controller.engine.base import EngineUnavailable
from controller.engine.kubernetes.pod import Pod

CONFIRM_SECONDS = 30.0  # for a kubelet to begin, to kill, and to report, besides the grace
FIRST_MINOR_THAT_WAITS = 25  # of a server none of whose kubelets is older than 1.22
_DEFAULT_GRACE_SECONDS = 30  # of Kubernetes
_KEPT_SECONDS = 3600.0
_POLL_SECONDS = 1.0


class _Unconfirmed(NamedTuple):
    pod: Pod
    due: float  # boottime


class LateEnds:
    """See the module's docstring. Safe to use from several threads."""

    def __init__(self, clock: Clock, server_minor: Callable[[], int], confirm_seconds: float) -> None:
        self._clock = clock
        self._server_minor = server_minor
        self._confirm_seconds = confirm_seconds
        self._seen: dict[str, _Unconfirmed] = {}  # by uid
        self._told: set[str] = set()  # uids of those whose time has passed
        self._lock = threading.Lock()

    def awaits(self, pod: Pod) -> bool:
        """Whether the pod's deletion is final, and its kubelet may still have a container of it run."""
        is_final = pod.is_deleting and pod.metadata.deletion_grace_period_seconds == 0
        if not is_final or pod.is_terminal or pod.is_tombstone or not pod.spec.node_name:
            return False
        condition = pod.condition("DisruptionTarget")
        if condition is not None and condition.reason == "DeletionByPodGC":
            return False  # its node's object was removed
        with self._lock:
            known = self._seen.get(pod.metadata.uid)
        if known is None:
            seconds = self._seconds(pod)
            if not seconds:
                return False
            known = _Unconfirmed(pod, self._clock.boottime() + seconds)
            with self._lock:
                self._seen.setdefault(pod.metadata.uid, known)
        return not all_ended(pod) and self._clock.boottime() < known.due

    def run(self, look: Callable[[Pod], None], stop: threading.Event) -> None:
        """Call `look` with each such pod once its time has passed, until `stop` is set."""
        while not stop.wait(_POLL_SECONDS):
            now = self._clock.boottime()
            with self._lock:
                due = [each for uid, each in self._seen.items() if each.due <= now and uid not in self._told]
                old = [uid for uid, each in self._seen.items() if each.due + _KEPT_SECONDS < now]
                for uid in old:
                    del self._seen[uid]
                    self._told.discard(uid)
            for each in due:
                try:
                    look(each.pod)
                except EngineUnavailable:
                    continue  # again in the next round
                self._told.add(each.pod.metadata.uid)

    def _seconds(self, pod: Pod) -> float:
        """How long its kubelet may need from now on; 0 if all is reported."""
        if all_ended(pod):
            return 0.0
        if any(each.state.running for each in pod.statuses()):
            return self._confirm_seconds
        try:
            if self._server_minor() >= FIRST_MINOR_THAT_WAITS:
                return 0.0
        except EngineUnavailable:
            pass  # it may be an old one
        grace = pod.spec.termination_grace_period_seconds
        return self._confirm_seconds + (grace if grace is not None else _DEFAULT_GRACE_SECONDS)


def all_ended(pod: Pod) -> bool:
    """Whether each container of the pod is reported to have ended."""
    ended = {each.name for each in pod.status.container_statuses or () if each.state.terminated is not None}
    return ended >= {each.name for each in pod.spec.containers or ()} and not any(
        each.state.running for each in pod.statuses()
    )
