"""Pods whose object says, or is gone and says no more, that they have ended, before their kubelet is done.

An end counts when nothing of it can still run:
- The API server makes a deletion final when a kubelet confirms it. One before 1.22 confirms it at once for a
  starting pod, and goes on to create the container. That runs for its whole grace, and no status tells of it:
  seen on 1.20.2, for nearly each such pod. Mended by https://github.com/kubernetes/kubernetes/pull/102344.
  A kubelet may be three versions older than a server.
- A forced deletion is final at once, as is that of a namespace in 1.20. Our finalizer keeps the object, and a
  kubelet that lives ends what runs, and reports that: within seconds, unless it is ending the pod already. It
  goes on to give that the grace that it began with. If no status tells of a container, one may run all the
  same: a kubelet creates it before it reports it. A final deletion is taken for a forced one unless one with
  a grace was seen before it. A kubelet from 1.27 on reports a terminal phase before it confirms a deletion
  (https://github.com/kubernetes/kubernetes/pull/115331), so where all do, one without is a forced one.
- An object that is gone and was not deleted: Kubernetes' own etcd was restored from a backup, or lost keys.
  Kubelets end such pods when they hear of it, with their grace.

So such an end counts once the time has passed that a living kubelet needs, from when it was first seen here.
After that the word of who forced it counts, and an absence: a node that is gone reports nothing.

- A pod that its kubelet ends of its own accord (`DeadlineExceeded`, `Evicted`) has a terminal phase, so it is
  final as soon as anybody deletes it. A kubelet before 1.22 then invents the ends of its init containers
  (`ContainerStatusUnknown`, without a time), also of one that runs. Nothing tells when that ends: it is no
  end at all, until the object is gone. Seen on 1.20.2.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import NamedTuple

from controller import bulkhead
from controller.clock import Clock
from controller.engine.base import EngineUnavailable
from controller.engine.kubernetes.pod import Meta, Pod
from controller.engine.kubernetes.pod_observation import deletion_requested_at

CONFIRM_SECONDS = 30.0  # for a kubelet to begin, to kill, and to report, besides the grace
FIRST_MINOR_THAT_WAITS = 25  # of a server none of whose kubelets is older than 1.22
FIRST_MINOR_WITH_PHASES = 30  # of one none of whose kubelets is older than 1.27
FIRST_MINOR_THAT_MOVES = 33  # of one that dates a deletion anew as it becomes final
_DEFAULT_GRACE_SECONDS = 30  # of Kubernetes
_KEPT_SECONDS = 3600.0
_POLL_SECONDS = 1.0


class _Unconfirmed(NamedTuple):
    pod: Pod
    due: float  # boottime


class _Asked(NamedTuple):
    """Deletions of a pod that were not forced."""

    grace: float  # the longest
    seen_at: float  # boottime, of the last
    at: float  # seconds since the epoch, of the first
    interrupts: bool  # its main container ran after that


class LateEnds:
    """See the module's docstring. Safe to use from several threads."""

    def __init__(self, clock: Clock, server_minor: Callable[[], int], confirm_seconds: float) -> None:
        self._clock = clock
        self._server_minor = server_minor
        self._confirm_seconds = confirm_seconds
        self._seen: dict[str, _Unconfirmed] = {}  # by uid
        self._asked: dict[str, _Asked] = {}  # by uid
        self._told: set[str] = set()  # uids of those whose time has passed
        self._lock = threading.Lock()

    def awaits(self, pod: Pod, *, removed: bool) -> bool:
        """Whether a kubelet may still run the pod, which is being deleted, or whose object was removed."""
        uid, given = pod.metadata.uid, pod.metadata.deletion_grace_period_seconds or 0
        if (removed or pod.is_final) and self._is_invented(pod):
            return True
        with self._lock:
            if given > 0:
                self._asked[uid] = self._note(pod, given, self._asked.get(uid))
            known = self._seen.get(uid)
            if known is not None and (all_ended(pod) or pod.is_terminal):
                self._drop(uid)  # its kubelet has spoken
                if removed:
                    self._asked.pop(uid, None)
                return False
        if known is None:
            seconds = self._seconds(pod, removed)
            if not seconds:
                if removed:
                    self._asked.pop(uid, None)
                return False
            known = _Unconfirmed(pod, self._clock.boottime() + seconds)
            with self._lock:
                known = self._seen.setdefault(uid, known)
        return self._clock.boottime() < known.due

    def requested_at(self, pod: Pod) -> float | None:
        """When its deletion was requested; None if it was not. What ended before that has ended by itself.

        It is too early rather than too late: what was interrupted is never taken for done.
        """
        with self._lock:
            asked = self._asked.get(pod.metadata.uid)
        if asked is not None:
            return 0.0 if asked.interrupts else asked.at
        at = deletion_requested_at(pod)
        if at is None or not pod.is_final or self._is_version(lambda minor: minor < FIRST_MINOR_THAT_MOVES):
            return at
        return at - _grace_of(pod) - self._confirm_seconds

    def _note(self, pod: Pod, given: float, before: _Asked | None) -> _Asked:
        at = deletion_requested_at(pod) or 0.0
        interrupts = pod.main is not None and pod.main.state.running is not None
        if before is not None:
            given, at = max(given, before.grace), min(at, before.at)
            interrupts = interrupts or before.interrupts
        return _Asked(given, self._clock.boottime(), at, interrupts)

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
                    self._drop(uid)
                for uid, asked in list(self._asked.items()):
                    if asked.seen_at + asked.grace + _KEPT_SECONDS < now:
                        del self._asked[uid]
            for each in due:
                try:
                    look(each.pod)
                except EngineUnavailable:
                    continue  # again in the next round
                except Exception as error:  # noqa: BLE001  # counted; confined to this pod
                    bulkhead.caught("late-ends", error, pod=each.pod.metadata.name)
                self._told.add(each.pod.metadata.uid)

    def _drop(self, uid: str) -> None:
        del self._seen[uid]
        self._told.discard(uid)

    def _seconds(self, pod: Pod, removed: bool) -> float:
        """How long its kubelet may need from now on; 0 if it is done, or nobody waits for it."""
        has_vanished = removed and not pod.is_final
        if not (pod.is_final or has_vanished) or pod.is_tombstone or not pod.spec.node_name:
            return 0.0
        if pod.is_terminal or all_ended(pod) or pod.has_lost_node:
            return 0.0
        asked = self._asked.get(pod.metadata.uid)
        grace = max(_grace_of(pod), asked.grace) if asked is not None else _grace_of(pod)
        is_early = has_vanished or asked is None or any(each.state.running for each in pod.statuses())
        is_told = self._is_version(lambda minor: FIRST_MINOR_THAT_WAITS <= minor < FIRST_MINOR_WITH_PHASES)
        return 0.0 if is_told and not is_early else self._confirm_seconds + grace

    def _is_invented(self, pod: Pod) -> bool:
        """Whether a kubelet was ending this pod, whose deletion is final, and tells of no end that it saw."""
        # without a reason, the phase is what it makes of containers that it has ended
        if not (pod.is_terminal and pod.status.reason) or pod.is_tombstone or not pod.spec.node_name:
            return False
        ends = [each.state.terminated for each in pod.statuses() if each.state.terminated is not None]
        is_new = self._is_version(lambda minor: minor >= FIRST_MINOR_THAT_WAITS)
        return not all(end.is_known for end in ends) and not is_new

    def _is_version(self, holds: Callable[[int], bool]) -> bool:
        """Whether the server's minor version is known, and this holds for it."""
        try:
            return holds(self._server_minor())
        except EngineUnavailable:
            return False


def _grace_of(pod: Pod) -> float:
    grace = pod.spec.termination_grace_period_seconds
    return _DEFAULT_GRACE_SECONDS if grace is None else grace


def all_ended(pod: Pod) -> bool:
    """Whether each container of the pod is reported to have ended, by whoever saw it."""
    ended = {
        each.name
        for each in pod.status.container_statuses or ()
        if each.state.terminated is not None and each.state.terminated.is_known
    }
    return ended >= {each.name for each in pod.spec.containers or ()} and not any(
        each.state.running for each in pod.statuses()
    )
