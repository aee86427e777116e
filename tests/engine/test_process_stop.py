"""Stopping: politely, then for certain, and said to be over only when all of it is."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from controller.core.model.task import AttemptId, Phase
from controller.engine.process.engine import ProcessEngine
from tests.engine.process_cases import (
    is_running,
    launch,
    observation,
    record_of,
    running_pids,
    wait_for,
    wait_stopped,
)


def start_ready(engine: ProcessEngine, script: str) -> AttemptId:
    given = launch("sh", "-c", script)
    engine.start(given)
    wait_for(lambda: b"ready" in b"".join(engine.logs(given.attempt, follow=False)), "the script to be ready")
    return given.attempt


@pytest.mark.parametrize(
    "child",
    [
        "sh -c \"trap '' TERM; sleep 1000\" &",
        "setsid sh -c \"trap '' TERM; sleep 1000\" &",
        "setsid env -i setsid sh -c \"trap '' TERM; sleep 1000 & sleep 1000\" &",
    ],
    ids=["same group", "own session", "own session, no environment, a child of its own"],
)
def test_nothing_escapes_a_living_supervisor(engine: ProcessEngine, tmp_path: Path, child: str) -> None:
    """Descendants that ignore SIGTERM are killed after the grace, wherever they went; the end comes after
    theirs.
    """
    marker = tmp_path / "pid"
    attempt = start_ready(
        engine, f"trap '' TERM; {child} echo $! > {marker}; echo ready; while :; do sleep 1000; done"
    )
    wait_for(lambda: marker.read_text().strip(), "the child's number")
    supervisor = int(record_of(tmp_path, attempt)["supervisor"])
    engine.stop(attempt, grace_seconds=0.2)
    seen = wait_stopped(engine, attempt)
    assert (seen.reason, seen.signal) == ("Stopped", signal.SIGKILL)
    assert not is_running(int(marker.read_text()))
    assert running_pids(tmp_path) == []
    wait_for(lambda: not is_running(supervisor), "the supervisor to end")


def test_what_the_command_left_running_ends_with_it(engine: ProcessEngine, tmp_path: Path) -> None:
    """As in a container, the end of the first process is the end of the attempt; its exit code is the
    attempt's.
    """
    given = launch("sh", "-c", "sleep 1000 & setsid sleep 1000 & exit 0")
    engine.start(given)
    assert wait_stopped(engine, given.attempt).phase is Phase.SUCCEEDED
    assert running_pids(tmp_path) == []


def test_a_clean_exit_after_a_stop_counts_as_stopped(engine: ProcessEngine) -> None:
    attempt = start_ready(engine, "trap 'exit 0' TERM; echo ready; while :; do sleep 0.01; done")
    engine.stop(attempt, grace_seconds=30.0)
    seen = wait_stopped(engine, attempt)
    assert (seen.phase, seen.reason, seen.exit_code, seen.signal) == (Phase.FAILED, "Stopped", 0, None)


def test_after_a_stop_the_rest_of_the_group_may_use_the_grace(engine: ProcessEngine, tmp_path: Path) -> None:
    """A shell dies of the first SIGTERM; its child still has time to put things in order."""
    worker = (
        f"trap 'sleep 0.2; echo tidy > {tmp_path}/tidied; exit' TERM; echo ready; while :; do sleep 0.01;"
        " done"
    )
    attempt = start_ready(engine, f'sh -c "{worker}" & wait')
    engine.stop(attempt, grace_seconds=30.0)
    wait_stopped(engine, attempt)
    assert (tmp_path / "tidied").read_text() == "tidy\n"


def test_a_second_stop_can_shorten_the_grace(engine: ProcessEngine) -> None:
    attempt = start_ready(engine, "trap '' TERM; echo ready; while :; do sleep 1000; done")
    engine.stop(attempt, grace_seconds=1000.0)
    engine.stop(attempt, grace_seconds=0.0)
    assert wait_stopped(engine, attempt).signal == signal.SIGKILL


def test_a_stop_outlives_the_replica_that_asked_for_it(replica: Callable[[], ProcessEngine]) -> None:
    first, second = replica(), replica()
    attempt = start_ready(first, "trap '' TERM; echo ready; while :; do sleep 1000; done")
    first.stop(attempt, grace_seconds=0.3)
    first.close()
    assert wait_stopped(second, attempt).signal == signal.SIGKILL


def test_a_supervisor_told_to_end_interrupts_its_attempt(engine: ProcessEngine, tmp_path: Path) -> None:
    """As when the machine shuts down: disrupted, so that the attempt does not count against the task."""
    given = launch("sleep", "1000")
    engine.start(given)
    os.kill(int(record_of(tmp_path, given.attempt)["supervisor"]), signal.SIGTERM)
    seen = wait_stopped(engine, given.attempt)
    assert (seen.phase, seen.reason, seen.disrupted, seen.signal) == (
        Phase.FAILED,
        "Interrupted",
        True,
        signal.SIGTERM,
    )


def test_interrupt_all_ends_everything_and_says_what_it_could_not(
    engine: ProcessEngine, tmp_path: Path
) -> None:
    attempts = [
        start_ready(engine, f"{trap} echo ready; while :; do sleep 1000; done")
        for trap in ("", "trap '' TERM;", "")
    ]
    assert engine.interrupt_all(0.2) == []
    for attempt in attempts:
        seen = observation(engine, attempt)
        assert seen is not None
        assert (seen.reason, seen.disrupted, seen.stopped) == ("Interrupted", True, True)
    assert running_pids(tmp_path) == []
    assert engine.interrupt_all(0.2) == []


def test_a_death_by_any_signal_is_told(engine: ProcessEngine, tmp_path: Path) -> None:
    """Real-time signals, too, which have numbers and no names."""
    for number in (signal.SIGSEGV, signal.SIGRTMIN + 1):
        given = launch("sh", "-c", f"kill -{int(number)} $$")
        engine.start(given)
        seen = wait_stopped(engine, given.attempt)
        assert (seen.phase, seen.reason, seen.signal, seen.exit_code) == (
            Phase.FAILED,
            "Error",
            number,
            128 + number,
        )
