"""The simulator's bounded part: seeds that keep the promise, each fault alone, exact replays, and
Hypothesis for shrinking.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, Phase, given, settings

import controller
from tests.simulation import concurrency
from tests.simulation.faults import FAULTS
from tests.simulation.mutants import MUTANTS, applied, hunt
from tests.simulation.mutants_base import Mutant
from tests.simulation.report import explain, failure, smaller
from tests.simulation.simulation import Result, Scenario, Simulation
from tests.support.examples import examples

BLOCKS, SEEDS_IN_BLOCK = 3, 4


def check(scenario: Scenario) -> Result:
    """Run it; a failure shows the smallest run that fails in the same way."""
    try:
        return Simulation(scenario).run()
    except Exception as error:  # noqa: BLE001  # whatever it is, it is the finding
        pytest.fail(f"{scenario}: {error}\n{explain(smaller(scenario, error))}")


@pytest.mark.parametrize("block", range(BLOCKS))
def test_seeds_keep_the_promise(block: int) -> None:
    """I1 to I8 hold after each step, and when the faults stop everything finishes.

    `make test` runs the first seeds of each block. More seeds: `make simulate`, `make nightly`.
    """
    for seed in range(block * SEEDS_IN_BLOCK, block * SEEDS_IN_BLOCK + examples(SEEDS_IN_BLOCK)):
        check(Scenario(seed))


def test_logs_are_kept() -> None:
    """Many tasks ask for it; the oracle judges each write, and that a log goes with its task."""
    simulation = Simulation(Scenario(1))
    simulation.run()
    assert simulation.oracle.logs_kept > 0


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_strikes_and_is_survived(fault: str) -> None:
    """Alone, so that no fault hides behind another; and none is in the list that never happens.

    It strikes more often than usual: at its usual pace, only one such run in six had it at all.
    """
    scenarios = (Scenario(seed, steps=1200, faults=frozenset({fault}), density=4) for seed in range(15))
    assert any(check(scenario).faults.get(fault, 0) for scenario in scenarios)


@settings(
    max_examples=10,
    deadline=None,
    phases=(Phase.generate, Phase.shrink),
    suppress_health_check=[HealthCheck.too_slow],
)
@given(
    scenario=st.builds(
        Scenario,
        seed=st.integers(0, 2**32),
        steps=st.integers(500, 4000),
        replicas=st.integers(1, 5),
        tasks=st.integers(1, 60),
        faults=st.frozensets(st.sampled_from(list(FAULTS))),
    )
)
def test_any_scenario_keeps_the_promise(scenario: Scenario) -> None:
    """Hypothesis chooses the faults and the sizes, and shrinks what fails."""
    Simulation(scenario).run()


def test_a_seed_replays_exactly() -> None:
    """Twice here, and once in a process whose hashes of texts differ: the same run, to the last event."""
    scenario = Scenario(seed=11, steps=3000)
    here = {Simulation(scenario).run().digest for _ in range(2)}
    code = (
        "from tests.simulation.simulation import *; print(Simulation(Scenario(seed=11,"
        " steps=3000)).run().digest)"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "12345"}
    folder = Path(__file__).parents[2]
    elsewhere = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=folder, capture_output=True, text=True, check=True
    )
    assert here == {int(elsewhere.stdout)}


def test_a_failure_is_shown_whole_and_small() -> None:
    """The seed and how to run it again, the last events of a smaller run, and its task's history; the same
    each time.
    """
    faults = frozenset({"crash", "removed-by-hand"})
    scenario = Scenario(seed=4, steps=2000, tasks=20, faults=faults, arrays=False)
    with applied(next(mutant for mutant in MUTANTS if mutant.name == "a release is forgotten")):
        error = failure(scenario)
        assert error is not None
        small = smaller(scenario, error)
        shown = explain(small)
        assert explain(small) == shown
    assert (small.steps, small.tasks) < (scenario.steps, scenario.tasks)
    first, again, *_ = shown.splitlines()
    assert first.startswith("Violation: I1: ")
    sizes = f"STEPS={small.steps} REPLICAS={small.replicas} TASKS={small.tasks}"
    told = f"FAULTS={','.join(sorted(small.faults or ()))} DENSITY=1"
    assert again == f"again: WITHOUT=arrays SEED=4 {sizes} {told} make simulate"
    assert re.search(r"^ +\d+\.\d+ etcd commit ", shown, re.MULTILINE), "the trace"
    history = r"^t\d+(-i\d+)?: \w+\n.*Created --admitted--> Pending"
    assert re.search(history, shown, re.MULTILINE), "a task's history"
    assert re.search(r"^  truth: t\d+(-i\d+)?-1 uid-\d+ ", shown, re.MULTILINE), "what became of it in truth"


def test_no_thread_escapes() -> None:
    """What starts threads or waits in a replica does so on the scheduler."""
    folder = Path(controller.__file__).parent
    # failpoints stop a real process, and are never armed here; a standby belongs to who is no replica
    runtime = [path for path in folder.glob("runtime/*.py") if path.stem not in ("failpoints", "standby")]
    sources = [*runtime, *folder.glob("election/*.py"), folder / "store" / "mirror.py"]
    waiting = {
        path.stem
        for path in sources
        if "\nimport threading" in path.read_text() or "\nimport queue" in path.read_text()
    }
    simulated = {
        module.__name__.rpartition(".")[2] for module in (*concurrency.THREADED, *concurrency.QUEUED)
    }
    assert waiting == simulated
    assert not [path.name for path in sources if "\nimport time\n" in path.read_text()], (
        "time goes through the clock"
    )
    assert [path.stem for path in sources if "\nimport socket\n" in path.read_text()] == ["sentinel"]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name.replace(" ", "-"))
def test_mutants_fit_the_code(mutant: Mutant) -> None:
    """Each seeded bug still has the text that it changes."""
    with applied(mutant):
        pass


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name.replace(" ", "-"))
def test_each_mutant_is_found(mutant: Mutant) -> None:
    """A judge that never objects proves nothing; nor does one that objects to what does no harm.

    The table: `make mutants`.
    """
    found = hunt(mutant)
    assert bool(found.seeds) != bool(mutant.harmless), found.finding or f"survived {mutant.seeds} seeds"
