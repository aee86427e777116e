"""What a real Kubernetes (v1.20.2) said: the files of `kubernetes-recordings/`, read; see the README
there.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

Document = dict[str, Any]

FOLDER = Path(__file__).parent / "kubernetes-recordings"
NAMES = sorted(path.stem for path in FOLDER.glob("*.jsonl"))


class Recording(NamedTuple):
    """One file: requests with their answers, and the watch's events, both in order."""

    name: str
    requests: list[Document]
    events: list[Document]

    def answers(self, method: str) -> list[Document]:
        """The requests of one method."""
        return [request for request in self.requests if request["method"] == method]

    def pod_events(self, pod: str) -> list[Document]:
        """The events of one pod, without bookmarks."""
        return [event for event in self.events if event["object"]["metadata"].get("name") == pod]


def load(name: str) -> Recording:
    """The recording of that name."""
    requests, events = [], []
    for line in (FOLDER / f"{name}.jsonl").read_text().splitlines():
        entry = json.loads(line)
        if "request" in entry:
            requests.append(entry["request"])
        else:
            events.append(entry)
    return Recording(name, requests, events)
