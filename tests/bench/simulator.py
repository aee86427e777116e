"""B12: how fast the simulator goes, which bounds how many faults a night can try."""

from __future__ import annotations

import time

from tests.bench.measure import MEMORY, Figure
from tests.bench.sizes import Sizes
from tests.simulation.simulation import Scenario, Simulation


def simulator(sizes: Sizes) -> list[Figure]:
    """Steps a second of whole simulated clusters, the judging of each step included."""
    rates = []
    for seed in range(sizes.seeds):
        began = time.monotonic()
        result = Simulation(Scenario(seed=seed)).run()
        rates.append(result.steps / (time.monotonic() - began))
    return [
        Figure("B12", "simulation, three replicas, faults as the seed draws them", "steps/s", rates, MEMORY)
    ]
