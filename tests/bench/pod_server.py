"""`python -m tests.bench.pod_server KUBECONFIG SCALE`: a fake cluster in a process of its own, that writes
pods when told.

Says "ready" once it serves. "events PODS EVENTS" on standard input: the pods bench-0 … get so many writes
each, turn by turn, made inside the server, so that only the watch goes over HTTP; says "written" then. Ends
with its standard input.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from controller.dev.fake_kubernetes import ClusterOptions, FakeCluster
from controller.engine.kubernetes.pod import LABEL_ATTEMPT, LABEL_CLUSTER, LABEL_TASK
from tests.support.kubernetes_recordings import load

HISTORY = 500_000


def main(kubeconfig: str, scale: str) -> None:
    """See the module's docstring."""
    with FakeCluster(
        ClusterOptions(scale=float(scale), history_limit=HISTORY, node=False)
    ).start() as cluster:
        cluster.state.add_node("node1", cpu="100000", memory="100Ti", pods=1_000_000)
        cluster.kubeconfig(Path(kubeconfig))
        print("ready", flush=True)
        for line in sys.stdin:
            _, pods, events = line.split()
            write_events(cluster, int(pods), int(events))
            print("written", flush=True)


def write_events(cluster: FakeCluster, pods: int, events: int) -> None:
    """The life that a real cluster recorded of one pod, told of many, event by event."""
    life = [event["object"] for event in load("succeeded").events if event["type"] != "BOOKMARK"]
    for turn in range(events):
        for number in range(pods):
            with cluster.state.storage.lock:
                cluster.state.storage.pods.put(recorded(life[min(turn, len(life) - 1)], number))


def recorded(pod: dict[str, Any], number: int) -> dict[str, Any]:
    """The recorded pod under another attempt's name; nothing else of it is changed."""
    labels = {LABEL_CLUSTER: "bench", LABEL_TASK: f"bench-{number}", LABEL_ATTEMPT: "1"}
    named = {"namespace": "default", "name": f"bench-{number}-1", "uid": f"uid-{number}", "labels": labels}
    return {**pod, "metadata": {**pod["metadata"], **named}}


if __name__ == "__main__":
    main(*sys.argv[1:])
