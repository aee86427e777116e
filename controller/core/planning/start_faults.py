"""What keeps an attempt from running at all: which reasons to wait are failures to start, and after how long.

The words are those of Kubernetes, as a kubelet reports them of a waiting container. Other engines refuse the
start with the same words. Source: pkg/kubelet/images/types.go,
pkg/kubelet/kuberuntime/kuberuntime_container.go
"""

from __future__ import annotations

from controller.core.model.task import Phase
from controller.core.promise.attempts import Attempt

HEALING_SECONDS = 60.0
"""For a fault that may go away: a registry that is down, a secret that is created a moment later.

A kubelet tries three times in that time.
"""

GRACE_SECONDS = {
    "InvalidImageName": 0.0,
    "ErrImagePull": HEALING_SECONDS,
    "ImagePullBackOff": HEALING_SECONDS,
    "ErrImageNeverPull": HEALING_SECONDS,
    "ImageInspectError": HEALING_SECONDS,
    "RegistryUnavailable": HEALING_SECONDS,
    "SignatureValidationFailed": HEALING_SECONDS,
    "CreateContainerConfigError": HEALING_SECONDS,
    "CreateContainerError": HEALING_SECONDS,
    "PreCreateHookError": HEALING_SECONDS,
    "PreStartHookError": HEALING_SECONDS,
    "RunContainerError": HEALING_SECONDS,
}
"""Seconds for which an attempt may wait for such a reason. Then it is stopped, as a failure to start."""

START_DELAYED = "StartDelayed"
"""The reason of a task whose start keeps failing in the engine; the message is the engine's."""

FAILURES_TOLD = 2  # the first may be momentary, and each note costs a commit
LONGEST_PAUSE_SECONDS = 60.0  # between two tries of an effect that keeps failing


def start_fault_due(attempt: Attempt) -> float | None:
    """When the attempt has waited too long for a start fault; None if it does not wait for one."""
    seen = attempt.observation
    if seen is None or seen.phase is not Phase.PENDING or seen.stopped:
        return None
    grace = GRACE_SECONDS.get(seen.waiting)
    return attempt.waits_since + grace if grace is not None else None
