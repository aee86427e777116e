"""What keeps an attempt from running at all: which reasons to wait count as a failure to start, and how long
they may heal.

The words are Kubernetes's, as a kubelet reports them of a container that waits; other engines refuse the
start with the same. Source: pkg/kubelet/images/types.go, pkg/kubelet/kuberuntime/kuberuntime_container.go
"""

from __future__ import annotations

from controller.core.model.task import Phase
from controller.core.promise.attempts import Attempt, waiting_reason

HEALING_SECONDS = 60.0
"""For what may mend itself: a registry that is down, a secret that is created a moment later.

A kubelet tries three times.
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
"""Seconds that an attempt may wait for such a reason before it is stopped, and has failed to start."""

START_DELAYED = "StartDelayed"
"""The reason of a task whose start the engine keeps failing, with the engine's words."""

FAILURES_TOLD = 2  # the first may be a moment's, and each word costs a commit
LONGEST_PAUSE_SECONDS = 60.0  # between two tries of an effect that keeps failing


def start_fault_due(attempt: Attempt) -> float | None:
    """When the attempt has waited too long for a reason that counts as a failure to start; None when it
    does not so wait.
    """
    seen = attempt.observation
    if seen is None or seen.phase is not Phase.PENDING or seen.stopped:
        return None
    grace = GRACE_SECONDS.get(waiting_reason(seen))
    return attempt.waits_since + grace if grace is not None else None
