"""What a failed run looks like to whoever has to mend it: the smallest scenario that still fails, its
trace, its tasks.
"""

from __future__ import annotations

from dataclasses import replace

from tests.simulation.simulation import FEATURES, Scenario, Simulation

LINES = 60


def failure(scenario: Scenario) -> Exception | None:
    """What breaks in a scenario, None when nothing does."""
    try:
        Simulation(scenario).run()
    except Exception as error:  # noqa: BLE001  # whatever it is, it is the finding
        return error
    return None


def smaller(scenario: Scenario, error: Exception) -> Scenario:
    """The same scenario with fewer faults, tasks, replicas and steps, as long as it breaks the same
    invariant.

    Each reduction changes what the generator is asked, and so the whole run: what is kept is a smaller run
    that fails too, not a part of the first one.
    """
    if scenario.faults is None:
        scenario = replace(scenario, faults=frozenset(Simulation(scenario).faults.names))
    reduced = True
    while reduced:
        reduced = False
        for candidate in _reductions(scenario):
            found = failure(candidate)
            if found is not None and _kind(found) == _kind(error):
                scenario, reduced = candidate, True
                break
    return scenario


def explain(scenario: Scenario) -> str:
    """How to run it again, what happened last, and the history of each task that is involved."""
    assert scenario.faults is not None
    simulation = Simulation(scenario, trace=True)
    try:
        simulation.run()
        return f"{scenario} does not fail: the run is not deterministic"
    except Exception as error:  # noqa: BLE001  # the finding
        found = error
    trace = simulation.scheduler.trace or []
    tasks = list(getattr(found, "tasks", ()))[:3]
    about = [
        line for line in trace[:-LINES] if any(f"{task}-" in line or f"/{task}" in line for task in tasks)
    ]
    command = ""
    for word, is_on in (("WITH", True), ("WITHOUT", False)):
        forced = ",".join(name for name in FEATURES if getattr(scenario, name) is is_on)
        command += f"{word}={forced} " if forced else ""
    command += (
        f"SEED={scenario.seed} STEPS={scenario.steps} REPLICAS={scenario.replicas} TASKS={scenario.tasks} "
        f"FAULTS={','.join(sorted(scenario.faults))} DENSITY={scenario.density:g} make simulate"
    )
    parts = [
        f"{type(found).__name__}: {found}",
        f"again: {command}",
        "",
        *about[-LINES:],
        "…",
        *trace[-LINES:],
    ]
    for task in tasks:
        parts += ["", *simulation.oracle.history(task)]
    return "\n".join(parts)


def _kind(error: Exception) -> str:
    return str(getattr(error, "invariant", type(error).__name__))


def _reductions(scenario: Scenario) -> list[Scenario]:
    """Smaller ones, the boldest first."""
    assert scenario.faults is not None
    names = sorted(scenario.faults)
    half = len(names) // 2
    found = [replace(scenario, faults=frozenset(part)) for part in (names[:half], names[half:]) if half]
    found += [replace(scenario, faults=scenario.faults - {name}) for name in names]
    for field, least in (("tasks", 1), ("steps", 200), ("replicas", 1)):
        value = getattr(scenario, field)
        found += [
            replace(scenario, **{field: smaller_value})
            for smaller_value in (value // 2, value * 3 // 4)
            if least <= smaller_value < value
        ]
    return found
