"""The differences between server versions, as far as clients that watch pods can see them."""

from __future__ import annotations

import re
from typing import NamedTuple


class ServerVersion(NamedTuple):
    """A version such as v1.20.2. Sources: Kubernetes' change logs, and the recordings of v1.20.2."""

    text: str
    minor: int

    @property
    def has_scheduling_gates(self) -> bool:
        """spec.schedulingGates exists (on by default since 1.27); an older server drops the field."""
        return self.minor >= 27

    @property
    def reports_after_stop(self) -> bool:
        """The terminal phase comes after the containers have stopped, from 1.22 on (deleted pods: 1.27)."""
        return self.minor >= 27

    @property
    def has_disruption_target(self) -> bool:
        """Evicted and preempted pods carry the condition DisruptionTarget (since 1.26)."""
        return self.minor >= 26

    @property
    def has_containerd(self) -> bool:
        """The runtime is containerd. Before 1.24, Docker was usual; it names some reasons differently."""
        return self.minor >= 24

    @property
    def deletions_move_back(self) -> bool:
        """A deletion that becomes final is dated when it was requested; from 1.33 on, never in the past."""
        return self.minor < 33

    def document(self) -> dict[str, str]:
        """The answer of /version."""
        return {
            "major": "1",
            "minor": str(self.minor),
            "gitVersion": self.text,
            "gitCommit": "0" * 40,
            "gitTreeState": "clean",
            "buildDate": "1970-01-01T00:00:00Z",
            "goVersion": "go1.24",
            "compiler": "gc",
            "platform": "linux/amd64",
        }


def parse_version(text: str) -> ServerVersion:
    """Raises ValueError when `text` is not of the form v1.MINOR[.PATCH]."""
    match = re.fullmatch(r"v1\.(\d+)(\.\S+)?", text)
    if match is None:
        raise ValueError(f"server version {text!r}: expected v1.MINOR.PATCH, for example v1.33.1")
    return ServerVersion(text, int(match[1]))
