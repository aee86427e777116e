"""B22: B2 with pods: no-op tasks from Created to their ends, by a replica with the Kubernetes engine.

The fake cluster is a process of its own, over real HTTP, and the replica's calls are not limited. CPU is the
replica's alone, for all that is done until a pod's task has ended: planning, commits, the pod's creation, its
events, and the removal of its finalizer. The pod is deleted an hour later: that is measured as in B11, and
added. How many pods a second some cores take follows from it, and is no measurement: the replica's Python
uses one core, and the API server and etcd need the others.
"""

from __future__ import annotations

from contextlib import closing

from tests.bench.measure import Aim, Figure
from tests.bench.pods import engine_on, lived, serving
from tests.bench.sizes import Sizes
from tests.bench.stage import burn, cluster, disk, specs

CPU_MS = 2.0
UNLIMITED = "100000"  # calls a second


def pods_burned(sizes: Sizes) -> list[Figure]:
    """A burn-down with the Kubernetes engine on a fake cluster, over HTTP."""
    with disk() as folder, serving(folder), closing(engine_on(folder)) as engine:
        deleted = 1000 * lived(engine, sizes.pods)[1].cpu / sizes.pods
    with (
        disk() as folder,
        serving(folder),
        cluster(
            engine="kubernetes",
            TALLY_KUBECONFIG=str(folder / "kubeconfig"),
            TALLY_KUBE_QPS=UNLIMITED,
            TALLY_KUBE_BURST=UNLIMITED,
        ) as running,
    ):
        counts = [max(10, sizes.pods // 10), *[sizes.pods] * sizes.repeat]
        runs = [
            burn(running, count, f"burn{number}", tasks=_tasks(count, f"burn{number}"))
            for number, count in enumerate(counts)
        ][1:]  # the first one pays for all that is done once
    ended = [1000 * run.cpu_seconds / sizes.pods for run in runs]
    whole = [each + deleted for each in ended]
    what = f"cpu of the replica for a pod, burn-down of {sizes.pods:,} tasks"
    aims = (Aim("median", most=CPU_MS),)
    rates = [sizes.pods / run.seconds for run in runs]
    return [
        Figure("B22", f"{what}: until its task has ended", "ms", ended),
        Figure("B22", "the same, and its deletion an hour later", "ms", whole, aims=aims),
        Figure("B22", "ends, as reached beside this server", "pods/s", rates),
        Figure(
            "B22",
            "whole lives for each core, by extrapolation",
            "pods/s",
            [1000 / each for each in whole],
        ),
    ]


def _tasks(count: int, name: str) -> list[dict[str, object]]:
    return specs(count, name, image="busybox:1", resources={"cpu": "10m"})
