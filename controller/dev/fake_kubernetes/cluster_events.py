"""The `v1/Event` objects that `kubectl describe` shows."""

from __future__ import annotations

import itertools
from collections import deque

from controller.clock import Clock
from controller.dev.fake_kubernetes.apierrors import Document
from controller.dev.fake_kubernetes.storage import Key, Storage
from controller.dev.fake_kubernetes.timestamps import timestamp

LIMIT = 5_000


class EventRecorder:
    """Writes events about pods; the oldest go above LIMIT (a real server keeps them for an hour)."""

    def __init__(self, storage: Storage, clock: Clock) -> None:
        self._storage = storage
        self._clock = clock
        self._numbers = itertools.count(1)
        self._keys: deque[Key] = deque()

    def record(
        self, pod: Document, reason: str, message: str, *, component: str = "kubelet", warning: bool = False
    ) -> None:
        """One event, in the pod's namespace; needs the storage's lock."""
        metadata = pod["metadata"]
        now = timestamp(self._clock.now())
        events = self._storage.events
        name = f"{metadata['name']}.{next(self._numbers):016x}"
        involved = {
            "kind": "Pod",
            "apiVersion": "v1",
            "namespace": metadata["namespace"],
            "name": metadata["name"],
        }
        event: Document = {
            "kind": "Event",
            "apiVersion": "v1",
            "involvedObject": involved | {"uid": metadata["uid"]},
        }
        event |= {"metadata": {"name": name, "namespace": metadata["namespace"], "creationTimestamp": now}}
        event |= {
            "reason": reason,
            "message": message,
            "type": "Warning" if warning else "Normal",
            "count": 1,
        }
        stored = events.put(
            event | {"source": {"component": component}, "firstTimestamp": now, "lastTimestamp": now}
        )
        self._keys.append(stored.key)
        if len(self._keys) > LIMIT:
            events.remove(self._keys.popleft())
