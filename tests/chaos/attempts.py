"""The tasks that users submit, and who knows what ran of them: the tasks themselves, or the kubelets of
the fake cluster.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, Protocol

from controller.core.model.lifecycle import State
from controller.dev.fake_kubernetes import FakeCluster, Script
from tests.support.local import Journal, Ran

SCALE = 0.1
"""Real seconds for each second of the fake cluster."""

ENDS = {
    "quick": {State.SUCCEEDED},
    "slow": {State.SUCCEEDED},
    "flaky": {State.SUCCEEDED},
    "failing": {State.FAILED},
    "endless": {State.SUCCEEDED},  # once its ten minutes are over, in a long run
}
"""How a task of each kind may end; that it was cancelled, or its attempt destroyed, comes on top."""


class Attempts(Ran, Protocol):
    """What tasks are made of."""

    def body(self, kind: str) -> dict[str, Any]:
        """The part of the spec that says what a task of this kind does."""
        ...


class Processes(Journal):
    """Tasks of the process engine, which write down their starts and ends themselves."""

    _BODIES: Mapping[str, str] = {
        "quick": "true",
        "slow": "sleep 0.4",
        "flaky": '[ "$TALLY_ATTEMPT" != 1 ]',
        "failing": "exit 7",
        "endless": "sleep 600",
    }

    def body(self, kind: str) -> dict[str, Any]:
        """See Attempts."""
        return {"command": self.command(self._BODIES[kind])}


class Pods:
    """Pods of the fake cluster, which do as their task's kind says; what ran, the kubelets know."""

    def __init__(self, cluster: FakeCluster) -> None:
        self._cluster = cluster
        cluster.state.default_script = self._script

    def body(self, kind: str) -> dict[str, Any]:
        """See Attempts."""
        return {"image": "busybox:1", "command": [kind]}

    def starts(self) -> Mapping[tuple[str, int], int]:
        """See Ran."""
        return Counter((run.task, int(run.attempt)) for run in self._cluster.state.executions)

    def overlaps(self) -> list[str]:
        """See Ran."""
        return [
            f"{later.pod} began before {earlier.pod} ended"
            for earlier, later in self._cluster.state.overlaps()
        ]

    @staticmethod
    def _script(pod: dict[str, Any]) -> Script:
        labels = pod["metadata"]["labels"]
        kind = labels["tally.dev/task"].split("-")[0]
        seconds = {"slow": 0.4 / SCALE, "endless": None}.get(kind, 0.1)
        code = {"failing": 7, "flaky": int(labels["tally.dev/attempt"] == "1")}.get(kind, 0)
        return Script(run_seconds=seconds, exit_code=code, on_term=143)
