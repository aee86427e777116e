"""B2: no-op tasks from Created to Succeeded, through real replica processes and a real etcd."""

from __future__ import annotations

from tests.bench.floor import own_transactions
from tests.bench.measure import Aim, Figure
from tests.bench.sizes import Sizes
from tests.bench.stage import Burned, burn, cluster, cpu_seconds

TASKS_A_SECOND = 1500.0


def burn_down(sizes: Sizes) -> list[Figure]:
    """From the moment the pool is resumed until the last of N tasks has succeeded; null engine."""
    floor = Figure("B1", "", "", own_transactions(sizes).writes).median
    figures = []
    for replicas, of in ((1, "one replica"), (3, "three replicas")):
        runs, cpu = _burns(sizes, replicas)
        what = f"burn-down of {sizes.burned:,} tasks, {of}"
        details = {"writes": [run.writes for run in runs], "revisions": [run.revisions for run in runs], "leader_cpu_seconds": cpu}
        aims = (Aim("median", least=TASKS_A_SECOND),) if replicas == 1 else ()
        figures.append(Figure("B2", what, "tasks/s", [sizes.burned / run.seconds for run in runs], aims=aims, details=details))
        rates = [run.writes / run.seconds for run in runs]
        ratio = (Aim("ratio", least=0.7),) if replicas == 1 else ()
        figures.append(
            Figure("B2", f"the same, in keys written ({of})", "keys/s", rates, baseline=floor, against="B1 floor", aims=ratio)
        )
        share = [each / run.seconds for each, run in zip(cpu, runs, strict=True)]
        figures.append(Figure("B2", f"cpu of the leader meanwhile ({of})", "cores", share))
    return figures


def _burns(sizes: Sizes, replicas: int) -> tuple[list[Burned], list[float]]:
    """The runs, and the CPU seconds of the leader in each; the first burn-down warms up and is not counted."""
    runs, cpu = [], []
    with cluster(replicas=replicas) as running:
        burn(running, max(10, sizes.burned // 10), "warm")
        for number in range(sizes.repeat):
            before = cpu_seconds(running.replicas[0])
            runs.append(burn(running, sizes.burned, f"burn{number}"))
            cpu.append(cpu_seconds(running.replicas[0]) - before)
    return runs, cpu
