"""B2: no-op tasks from Created to Succeeded, through real replica processes and a real etcd."""

from __future__ import annotations

from tests.bench.floor import own_transactions
from tests.bench.measure import Aim, Figure
from tests.bench.sizes import Sizes
from tests.bench.stage import burn, cluster

TASKS_A_SECOND = 1500.0


def burn_down(sizes: Sizes) -> list[Figure]:
    """From the moment the pool is resumed until the last of N tasks has succeeded; null engine."""
    floor = Figure("B1", "", "", own_transactions(sizes).writes).median
    return [figure for replicas in (1, 3) for figure in _figures(sizes, replicas, floor)]


def _figures(sizes: Sizes, replicas: int, floor: float) -> list[Figure]:
    """The aims are those of a leader that has the machine to itself; its followers would share its two cores."""
    with cluster(replicas=replicas) as running:
        burn(running, max(10, sizes.burned // 10), "warm")  # the first one pays for all that is done once
        runs = [burn(running, sizes.burned, f"burn{number}") for number in range(sizes.repeat)]
    of = "one replica" if replicas == 1 else f"{replicas} replicas"
    rate, ratio = ((Aim("median", least=TASKS_A_SECOND),), (Aim("ratio", least=0.7),)) if replicas == 1 else ((), ())
    details = {"writes": [run.writes for run in runs], "revisions": [run.revisions for run in runs]}
    keys = [run.writes / run.seconds for run in runs]
    tasks = [sizes.burned / run.seconds for run in runs]
    cores = [run.cpu_seconds / run.seconds for run in runs]
    return [
        Figure("B2", f"burn-down of {sizes.burned:,} tasks, {of}", "tasks/s", tasks, aims=rate, details=details),
        Figure("B2", f"the same, in keys written ({of})", "keys/s", keys, baseline=floor, against="B1 floor", aims=ratio),
        Figure("B2", f"cpu of the leader meanwhile ({of})", "cores", cores),
    ]
