"""`make simulate`: run seeds, stop at the first that breaks the promise, and show how.

    python -m tests.simulation                        1,000 seeds
    SEED=7 python -m tests.simulation                 one seed, whole
    SEED=7 FAULTS=crash,pause REPLICAS=5 STEPS=20000 python -m tests.simulation

`WITH=arrays,sharing` forces features on that a seed would draw by itself, and `WITHOUT=nodes` off. `MIX=1`
tosses a coin for each feature, so that all are met together, as the seeds' own draws seldom do. `TRACE=1`
writes every line of what happened; without it a failure shows the last ones, and those about its tasks.
"""

from __future__ import annotations

import os
import random
import sys
import time
from dataclasses import replace
from typing import Any

from tests.simulation.report import explain, smaller
from tests.simulation.simulation import FEATURES, Scenario, Simulation

SEEDS = 1000


def main() -> int:
    """Returns the exit code: 1 when a seed failed."""
    settings = os.environ
    names = settings.get("FAULTS")
    forced = {**_features(settings.get("WITH"), True), **_features(settings.get("WITHOUT"), False)}
    scenario = Scenario(
        seed=0,
        steps=int(settings.get("STEPS") or Scenario.steps),
        replicas=int(settings.get("REPLICAS") or Scenario.replicas),
        tasks=int(settings.get("TASKS") or Scenario.tasks),
        faults=frozenset(name for name in names.split(",") if name) if names is not None else None,
        density=float(settings.get("DENSITY") or Scenario.density),
        **forced,
    )
    first = settings.get("SEED")
    seeds = (
        [int(first)]
        if first
        else range(
            int(settings.get("FIRST") or 0),
            int(settings.get("FIRST") or 0) + int(settings.get("SEEDS") or SEEDS),
        )
    )
    began, steps, seconds = time.monotonic(), 0, 0.0
    for seed in seeds:
        coin = random.Random(seed)
        mixed: dict[str, Any] = dict.fromkeys(FEATURES)
        if settings.get("MIX"):
            mixed = {name: coin.random() < 0.5 for name in FEATURES}
        of_seed = replace(scenario, seed=seed, **{**mixed, **forced})
        simulation = Simulation(of_seed, trace=bool(settings.get("TRACE")))
        try:
            result = simulation.run()
        except Exception as error:  # noqa: BLE001  # whatever it is, the seed shows it again
            print(f"seed {seed}: {error}\nlooking for a smaller run that fails in the same way …", flush=True)
            print(explain(smaller(of_seed, error)))
            return 1
        steps += result.steps
        seconds += result.seconds
        if first:
            print("\n".join(simulation.scheduler.trace or []))
            print(result)
        elif (seed + 1) % 50 == 0:
            print(f"{seed + 1} seeds, {steps / (time.monotonic() - began):,.0f} steps/s", flush=True)
    took = time.monotonic() - began
    print(
        f"{len(seeds)} seeds kept the promise: {steps:,} steps, {seconds / 3600:.1f} simulated hours, "
        f"{took:.0f} s, {steps / took:,.0f} steps/s"
    )
    return 0


def _features(names: str | None, is_on: bool) -> dict[str, bool]:
    found = dict.fromkeys([name for name in (names or "").split(",") if name], is_on)
    if unknown := set(found) - set(FEATURES):
        sys.exit(f"{', '.join(sorted(unknown))}: no feature of a scenario, which are {', '.join(FEATURES)}")
    return found


if __name__ == "__main__":
    sys.exit(main())
