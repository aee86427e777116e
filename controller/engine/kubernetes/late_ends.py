"""Pods whose object says, or is gone and says no more, that they have ended, before their kubelet is done.

An end counts when nothing of it can still run:
- The API server makes a deletion final when a kubelet confirms it. One before 1.22 confirms it at once for a
  starting pod, and goes on to create the container. That runs for its whole grace, and no status tells of it:
  seen on 1.20.2, for nearly each such pod. Mended by https://github.com/kubernetes/kubernetes/pull/102344.
  A kubelet may be three versions older than a server.
- A forced deletion is final at once, as is that of a namespace in 1.20. Our finalizer keeps the object, and a
  kubelet that lives ends what runs, and reports that within seconds.
- An object that is gone though our finalizer was on it was deleted by nobody: Kubernetes' own etcd was
  restored from a backup, or lost keys. Kubelets end such pods when they hear of it, with their grace.

So such an end counts once the time has passed that a living kubelet needs, from when it was first seen here.
After that the word of who forced it counts, and an absence: a node that is gone reports nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import NamedTuple

from controller import bulkhead
from controller.clock import Clock
from controller.engine.base import EngineUnavailable
from controller.engine.kubernetes.pod import Meta, Pod

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

    def awaits(self, pod: Pod, *, removed: bool) -> bool:
        """Whether a kubelet may still run the pod, which is being deleted, or whose object was removed."""
        uid = pod.metadata.uid
        with self._lock:
            known = self._seen.get(uid)
            if known is not None and (all_ended(pod) or pod.is_terminal):
                del self._seen[uid]  # its kubelet has spoken
                self._told.discard(uid)
                return False
        if known is None:
            seconds = self._seconds(pod, removed)
            if not seconds:
                return False
            known = _Unconfirmed(pod, self._clock.boottime() + seconds)
            with self._lock:
                known = self._seen.setdefault(uid, known)
        return self._clock.boottime() < known.due

    def awaits_absent(self, name: str, uid: str, grace_seconds: float) -> bool:
        """The same of a pod that is not there, and that was: only its name, uid and grace are known."""
        with self._lock:
            due = self._clock.boottime() + self._confirm_seconds + grace_seconds
            absent = Pod(metadata=Meta(name=name, uid=uid))
            known = self._seen.setdefault(uid, _Unconfirmed(absent, due))
        return self._clock.boottime() < known.due

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
                except Exception as error:  # noqa: BLE001  # counted; confined to this pod
                    bulkhead.caught("late-ends", error, pod=each.pod.metadata.name)
                self._told.add(each.pod.metadata.uid)

    def _seconds(self, pod: Pod, removed: bool) -> float:
        """How long its kubelet may need from now on; 0 if it is done, or nobody waits for it."""
        has_vanished = removed and not pod.is_final and pod.has_finalizer
        if (
            not (pod.is_final or has_vanished)
            or pod.is_terminal
            or pod.is_tombstone
            or not pod.spec.node_name
        ):
            return 0.0
        if all_ended(pod) or pod.has_lost_node:
            return 0.0
        grace = pod.spec.termination_grace_period_seconds
        with_grace = self._confirm_seconds + (_DEFAULT_GRACE_SECONDS if grace is None else grace)
        if has_vanished:
            return with_grace
        if any(each.state.running for each in pod.statuses()):
            return self._confirm_seconds
        try:
            return 0.0 if self._server_minor() >= FIRST_MINOR_THAT_WAITS else with_grace
        except EngineUnavailable:
            return with_grace  # it may be an old one


def all_ended(pod: Pod) -> bool:
    """Whether each container of the pod is reported to have ended."""
    ended = {each.name for each in pod.status.container_statuses or () if each.state.terminated is not None}
    return ended >= {each.name for each in pod.spec.containers or ()} and not any(
        each.state.running for each in pod.statuses()
    )
