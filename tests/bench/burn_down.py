"""B2: no-op tasks from Created to Succeeded, through real replica processes and a real etcd.

The floor under it is measured in turns with it, so that both meet the same disk. What comes out above its own
floor was measured on a machine that changed meanwhile, and is not held against the aim.
"""

from __future__ import annotations

from tests.bench.floor import Recording, own_transactions, replay
from tests.bench.measure import Aim, Figure
from tests.bench.sizes import Sizes
from tests.bench.stage import burn, cluster

TASKS_A_SECOND, OF_THE_FLOOR, OF_ONE_REPLICA = 4500.0, 0.65, 0.75
BELIEVABLE = 1.1
UNSTEADY = "above its own floor, which cannot be: the machine changed meanwhile; measure on a quiet one"


def burn_down(sizes: Sizes) -> list[Figure]:
    """From the moment the pool is resumed until the last of N tasks has succeeded; null engine."""
    recording = own_transactions(sizes).recording
    alone = _figures(sizes, 1, recording, None)
    return alone + _figures(sizes, 3, recording, alone[0].median)


def _figures(sizes: Sizes, replicas: int, recording: Recording, alone: float | None) -> list[Figure]:
    """`alone`: what one replica reaches; beside it, its followers share its two cores."""
    with cluster(replicas=replicas) as running:
        burn(running, max(10, sizes.burned // 10), "warm")  # the first one pays for all that is done once
        floors, runs = [], []
        for number in range(sizes.repeat):
            floors.append(recording.writes / replay(recording))
            runs.append(burn(running, sizes.burned, f"burn{number}"))
    of = "one replica" if replicas == 1 else f"{replicas} replicas"
    details = {
        "writes": [run.writes for run in runs],
        "revisions": [run.revisions for run in runs],
        "floors": floors,
    }
    tasks = [sizes.burned / run.seconds for run in runs]
    cores = [run.cpu_seconds / run.seconds for run in runs]
    what = f"burn-down of {sizes.burned:,} tasks, {of}"
    rate = Aim("median", least=TASKS_A_SECOND) if alone is None else Aim("ratio", least=OF_ONE_REPLICA)
    return [
        Figure(
            "B2",
            what,
            "tasks/s",
            tasks,
            baseline=alone,
            against="one replica",
            aims=(rate,),
            details=details,
        ),
        _against_floor(of, [run.writes / run.seconds for run in runs], floors, judged=replicas == 1),
        Figure("B2", f"cpu of the leader meanwhile ({of})", "cores", cores),
    ]


def _against_floor(of: str, keys: list[float], floors: list[float], *, judged: bool) -> Figure:
    base = Figure("B1", "", "", floors).median
    believable = Figure("B2", "", "", keys).median <= BELIEVABLE * base
    aims = (Aim("ratio", least=OF_THE_FLOOR),) if judged and believable else ()
    note = "" if believable else UNSTEADY
    what = f"the same, in keys written ({of})"
    return Figure(
        "B2", what, "keys/s", keys, baseline=base, against="B1 floor, in turns", aims=aims, note=note
    )
