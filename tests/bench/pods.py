"""Pod events: 5,000 pods with 10 events each, as a real cluster recorded them, decoded and judged.

Tally reads the few fields that it uses and makes an observation of them; the official client decodes each event into its
models (what its `watch.Watch` does), which says nothing yet of what became of the attempt. The same bytes, in one run.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable

from kubernetes import client
from kubernetes.watch import Watch

from controller.engine.pod import LABEL_ATTEMPT, LABEL_CLUSTER, LABEL_TASK, decode_event, decode_pod
from controller.engine.pod_observation import observe
from tests.bench.measure import Figure
from tests.support.kubernetes_recordings import load

PODS, EVENTS = 5_000, 10
CLIENT_EVENTS = 2_000  # of the same events: all of them would take the client minutes


def pod_events(repeat: int) -> list[Figure]:
    """CPU for each event and events a second, ours against the client's."""
    lines = _lines()
    theirs = [_microseconds(_with_client, lines[:CLIENT_EVENTS]) for _ in range(repeat)]
    ours = [_microseconds(_with_tally, lines) for _ in range(repeat)]
    what, on = f"{PODS:,} pods × {EVENTS} events", "recorded pods, one thread"
    baseline = Figure(f"{what}: the client's models", on, "µs of CPU an event", theirs)
    rate = Figure(f"{what}: the client's models", on, "events/s", [1e6 / each for each in theirs])
    return [
        baseline,
        Figure(f"{what}: Tally", on, "µs of CPU an event", ours, baseline.median),
        rate,
        Figure(f"{what}: Tally", on, "events/s", [1e6 / each for each in ours], rate.median),
    ]


def _lines() -> list[bytes]:
    """The recorded life of one pod, told of many, event by event."""
    life = [event for event in load("succeeded").events if event["type"] != "BOOKMARK"]
    lines = []
    for turn in range(EVENTS):
        pod = life[min(turn, len(life) - 1)]["object"]
        for number in range(PODS):
            labels = {LABEL_CLUSTER: "bench", LABEL_TASK: f"bench-{number}", LABEL_ATTEMPT: "1"}
            pod["metadata"] |= {"name": f"bench-{number}-1", "uid": f"uid-{number}", "labels": labels}
            lines.append(json.dumps({"type": "MODIFIED" if turn else "ADDED", "object": pod}).encode())
    return lines


def _with_tally(line: bytes) -> None:
    observe(decode_pod(decode_event(line).object))


_watch, _api = Watch(), client.ApiClient()
_watch._api_client = _api  # what stream() sets before it decodes


def _with_client(line: bytes) -> None:
    _watch.unmarshal_event(line.decode(), "V1Pod")


def _microseconds(read: Callable[[bytes], None], lines: list[bytes]) -> float:
    began = time.thread_time()
    for line in lines:
        read(line)
    return 1e6 * (time.thread_time() - began) / len(lines)
